"""What the writer puts into every block: which write it is from, and whether it is whole.

A block is 4 KiB: a header (magic, volume, block number, sequence of the write), a filling that differs from
write to write, and a CRC32C over all of it in the last four bytes. A block of zeros was never written.
"""

import struct
from typing import Final

import numpy as np
import numpy.typing as npt
from crc32c import crc32c

BLOCK: Final = 4096
NEVER: Final = 0
"The sequence of a block that was never written."

Sequences = npt.NDArray[np.uint64]
"The sequence found in each block of a volume."

_MAGIC: Final = b"iscsi-rp"
_HEADER: Final = struct.Struct("<8sHxxIQ")
_CRC: Final = struct.Struct("<I")
_FILLING: Final = BLOCK - _HEADER.size - _CRC.size
_ZEROS: Final = bytes(BLOCK)
_PATTERN: Final = bytes(range(1, 256)) * 18

assert len(_PATTERN) >= _FILLING + 255


def encode(volume: int, first_block: int, blocks: int, sequence: int) -> bytes:
    """The data of one write of `blocks` blocks."""
    filling = _PATTERN[sequence % 255 :][:_FILLING]
    parts: list[bytes] = []
    for block in range(first_block, first_block + blocks):
        body = _HEADER.pack(_MAGIC, volume, block, sequence) + filling
        parts += (body, _CRC.pack(crc32c(body)))
    return b"".join(parts)


def decode(volume: int, data: bytes) -> tuple[Sequences, list[str]]:
    """The sequence in each block of a volume's `data`, and which blocks are damaged or misplaced."""
    found = np.zeros(len(data) // BLOCK, np.uint64)
    wrong = []
    for number in range(len(found)):
        block = data[number * BLOCK : (number + 1) * BLOCK]
        if block == _ZEROS:
            continue
        magic, of_volume, of_block, sequence = _HEADER.unpack_from(block)
        if magic != _MAGIC or crc32c(block[: -_CRC.size]) != _CRC.unpack(block[-_CRC.size :])[0]:
            wrong.append(f"volume {volume} block {number}: damaged")
        elif (of_volume, of_block) != (volume, number):
            wrong.append(f"volume {volume} block {number}: holds block {of_block} of volume {of_volume}")
        else:
            found[number] = sequence
    return found, wrong
