"""Text: `key=value` pairs, each ended by a zero byte (RFC 7143 6)."""

import re
from collections.abc import Iterable
from typing import Final

from iscsi_rp.device import Buffer
from iscsi_rp.iscsi.pdu import ProtocolError

TEXT_BYTES: Final = 16 << 10
"The most text of one negotiation, over all its PDUs."
_VALUE_BYTES: Final = 8192
_KEY: Final = re.compile(r"[A-Za-z][A-Za-z0-9.+@_-]{0,62}")

Pairs = list[tuple[str, str]]


def decode_text(data: Buffer) -> Pairs:
    """The pairs in their order. Raises `ProtocolError`: not text, not ended, no key, a key twice, too
    long.
    """
    try:
        *lines, rest = bytes(data).decode("utf-8").split("\0")
    except UnicodeDecodeError:
        raise ProtocolError("The text is not UTF-8.") from None
    if rest:
        raise ProtocolError("The text does not end with a zero byte.")
    pairs: Pairs = []
    for line in lines:
        if not line:
            continue  # Zero bytes beyond the one are padding that was counted.
        key, separator, value = line.partition("=")
        if not separator or not _KEY.fullmatch(key) or len(value.encode()) > _VALUE_BYTES:
            raise ProtocolError("The text has a line that is no key=value.")
        pairs.append((key, value))
    if len({key for key, _ in pairs}) < len(pairs):
        raise ProtocolError("The text has a key twice.")
    return pairs


def encode_text(pairs: Iterable[tuple[str, str]]) -> bytes:
    return b"".join(f"{key}={value}\0".encode() for key, value in pairs)
