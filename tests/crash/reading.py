"""Reads whole LUNs and images through the initiator."""

import hashlib
from collections.abc import Sequence
from typing import Final

from iscsi_rp.control.appliance_models import ImageAccess
from tests.crash.blocks import Sequences, decode
from tests.kit.initiator import GOOD, Initiator, InitiatorError

_READ_BYTES: Final = 256 << 10
_DEPTH: Final = 8


def read_luns(portal: str, iqn: str, luns: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
    """All bytes of each LUN, in the order of `luns`. Raises `InitiatorError`."""
    with Initiator(portal, iqn, luns=luns) as initiator:
        return [_read_lun(initiator, lun, size) for lun, size in zip(luns, sizes, strict=True)]


def read_image(access: ImageAccess, volumes: Sequence[str], sizes: Sequence[int]) -> list[bytes]:
    """All bytes of an image, in the order of `volumes`."""
    luns = {lun.volume: lun.lun for lun in access.luns}
    return read_luns(access.portal, access.iqn, [luns[name] for name in volumes], sizes)


def decode_all(contents: Sequence[bytes]) -> tuple[list[Sequences], list[str]]:
    """What `decode` says of each volume."""
    decoded = [decode(number, data) for number, data in enumerate(contents)]
    return [found for found, _ in decoded], [finding for _, wrong in decoded for finding in wrong]


def digest(contents: Sequence[bytes]) -> str:
    hasher = hashlib.blake2b()
    for data in contents:
        hasher.update(data)
    return hasher.hexdigest()


def _read_lun(initiator: Initiator, lun: int, size_bytes: int) -> bytes:
    content = bytearray(size_bytes)
    failed: list[int] = []

    def request(offset: int) -> None:
        def done(data: bytes | None, status: int | None) -> None:
            if status != GOOD or data is None:
                failed.append(offset)
            else:
                content[offset : offset + len(data)] = data

        initiator.submit_read(lun, offset, min(_READ_BYTES, size_bytes - offset), done)

    for offset in range(0, size_bytes, _READ_BYTES):
        request(offset)
        initiator.drain(below=_DEPTH)
    initiator.drain()
    if failed:
        raise InitiatorError(f"LUN {lun}: {len(failed)} reads failed, the first at byte {failed[0]}")
    return bytes(content)
