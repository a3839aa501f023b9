"""What a splitter knows about each region of one volume, and the dirty map's bytes on disk
(docs/dirty-map.md).

The map on disk is a header block and blocks of marks, 4 KiB each, every one with its own CRC32C. A block that
does not match is torn or damaged, and the answer to that is a full sweep, never a guess.
"""

import json
import struct
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from crc32c import crc32c

from iscsi_rp.errors import Error
from iscsi_rp.replication.regions import region_count

DIRTY: Final = 1
"Volume and appliance may differ here."
DURABLE: Final = 2
"The dirty map on disk says so, and no clear is queued."
TO_SEND: Final = 4
"The current resynchronisation has to read this region."
SWEEP: Final = 8
"Compare by hash first: it may well be equal."

BLOCK_BYTES: Final = 4096
_HEAD: Final = struct.Struct("<4sIQ")
"Magic, CRC32C of the rest of the block, number of the block."
_MAGIC: Final = b"RPDM"
VERSION: Final = 1
_BITMAP_BYTES: Final = BLOCK_BYTES - _HEAD.size
REGIONS_IN_BLOCK: Final = _BITMAP_BYTES * 8
_SCAN: Final = 1 << 16


class DirtyMapError(Error):
    """The dirty map is damaged."""


class RegionMap:
    """Flags of the regions of one volume, a byte each. Which blocks of the map changed is kept beside
    them.
    """

    def __init__(self, volume_uuid: str, size: int) -> None:
        self.volume_uuid = volume_uuid
        self.size = size
        self.regions = region_count(size)
        self.flags = bytearray(self.regions)
        self.sweep = False
        "A full sweep is due or under way; durable in the header."
        self.dirty = 0
        self.to_send = 0
        self.changed: set[int] = set()
        "Blocks that differ from the disk; -1 is the header."

    # -- marks

    def mark(self, region: int) -> bool:
        """Mark a region; True when the mark has yet to be made durable before a write may go to the store."""
        flags = self.flags[region]
        if not flags & DIRTY:
            self.dirty += 1
            self.changed.add(region // REGIONS_IN_BLOCK)
        if not flags & TO_SEND:
            self.to_send += 1
        self.flags[region] = flags | DIRTY | TO_SEND
        return not flags & DURABLE

    def mark_all(self) -> None:
        """A full sweep is due: compare every region."""
        self.flags[:] = bytes([DIRTY | TO_SEND | SWEEP]) * self.regions
        self.dirty = self.to_send = self.regions
        self.sweep = True
        self.changed.update(range(-1, self.blocks))

    def sent(self, region: int) -> None:
        """The region's content, or the hash of it, is on its way."""
        self.flags[region] &= ~TO_SEND
        self.to_send -= 1

    def send_again(self, region: int) -> None:
        """The hash differed: send the content."""
        if not self.flags[region] & TO_SEND:
            self.to_send += 1
        self.flags[region] = (self.flags[region] | TO_SEND) & ~SWEEP

    def resend_marked(self) -> None:
        """A new resynchronisation has to read everything that is marked."""
        flags = np.frombuffer(self.flags, dtype=np.uint8)
        flags[(flags & DIRTY) != 0] |= TO_SEND
        self.to_send = self.dirty

    def clear(self, region: int) -> None:
        """Volume and appliance are equal here. From now on the region counts as clean for new writes."""
        self.flags[region] = 0
        self.dirty -= 1
        self.changed.add(region // REGIONS_IN_BLOCK)
        if self.sweep and not self.dirty:
            self.sweep = False
            self.changed.add(-1)

    def made_durable(self, regions: Iterable[int]) -> None:
        """The map on disk holds these marks; those cleared in the meantime stay clean."""
        flags = self.flags
        for region in regions:
            if flags[region] & DIRTY:
                flags[region] |= DURABLE

    def next_to_send(self, start: int) -> int:
        """The first region at or after `start` that has to be read, or -1."""
        if not self.to_send:
            return -1
        for at in range(start, self.regions, _SCAN):
            found = np.flatnonzero(
                np.frombuffer(self.flags, np.uint8, min(_SCAN, self.regions - at), at) & TO_SEND
            )
            if len(found):
                return at + int(found[0])
        return -1

    # -- on disk

    @property
    def blocks(self) -> int:
        """Blocks of marks; the header comes before them."""
        return (self.regions + REGIONS_IN_BLOCK - 1) // REGIONS_IN_BLOCK

    def encode(self, block: int) -> tuple[int, bytes]:
        """Offset in the file and bytes of one block (-1: the header)."""
        if block < 0:
            header = {
                "version": VERSION,
                "volume": self.volume_uuid,
                "regions": self.regions,
                "sweep": self.sweep,
            }
            body = json.dumps(header).encode()
        else:
            first = block * REGIONS_IN_BLOCK
            count = min(REGIONS_IN_BLOCK, self.regions - first)
            marks = np.frombuffer(self.flags, np.uint8, count, first) & DIRTY
            body = np.packbits(marks, bitorder="little").tobytes()
        body = body.ljust(_BITMAP_BYTES, b"\0")
        number = (block + 1).to_bytes(8, "little")
        return (block + 1) * BLOCK_BYTES, _HEAD.pack(_MAGIC, crc32c(number + body), block + 1) + body

    def load(self, data: bytes) -> None:
        """Take the marks of a map file. Raises DirtyMapError for one that is torn, damaged or not this
        volume's.
        """
        blocks = list(self._verified(data))
        try:
            header = json.loads(blocks[0].rstrip(b"\0"))
        except (IndexError, ValueError):
            raise DirtyMapError("the dirty map has no header") from None
        if header.get("version") != VERSION:
            raise DirtyMapError(
                f"the dirty map has version {header.get('version')}, this program reads {VERSION}"
            )
        if (header.get("volume"), header.get("regions")) != (self.volume_uuid, self.regions):
            raise DirtyMapError("the dirty map belongs to another volume, or to another size of it")
        if len(blocks) != self.blocks + 1:
            raise DirtyMapError("the dirty map is too short")
        bits = np.frombuffer(b"".join(blocks[1:]), np.uint8)
        marks = np.unpackbits(bits, bitorder="little")[: self.regions]
        self.sweep = bool(header.get("sweep"))
        marked = DIRTY | DURABLE | TO_SEND | (SWEEP if self.sweep else 0)
        self.flags[:] = (marks * marked).astype(np.uint8).tobytes()
        self.dirty = self.to_send = int(marks.sum())

    @staticmethod
    def _verified(data: bytes) -> Iterator[bytes]:
        for at in range(0, len(data), BLOCK_BYTES):
            block = data[at : at + BLOCK_BYTES]
            if len(block) < BLOCK_BYTES:
                raise DirtyMapError("the dirty map is cut off")
            magic, crc, number = _HEAD.unpack_from(block)
            if magic != _MAGIC or number != at // BLOCK_BYTES or crc != crc32c(block[8:]):
                raise DirtyMapError(f"block {at // BLOCK_BYTES} of the dirty map is torn or damaged")
            yield block[_HEAD.size :]
