"""The dirty map's file. It lies in the failure domain of the LUN's store, so that both are there or
neither is.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from iscsi_rp.splitter.region_map import DirtyMapError, RegionMap


class MapFile:
    """An open map file. Its methods block: they run in a thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def load(self, region_map: RegionMap) -> str | None:
        """Open the file and fill `region_map` from it. Returns why a full sweep is due, and None where it is
        not.

        A map that is missing or damaged is begun anew with everything marked; that becomes durable with the
        first sync.
        """
        existed = self.path.exists()
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not existed:
                raise DirtyMapError("there is no dirty map yet")
            region_map.load(self._read_all())
        except DirtyMapError as error:
            region_map.mark_all()
            return error.message
        return None

    def _read_all(self) -> bytes:
        pieces = []
        at = 0
        while piece := os.pread(self._fd, 1 << 20, at):
            pieces.append(piece)
            at += len(piece)
        return b"".join(pieces)

    def write(self, blocks: Sequence[tuple[int, bytes]]) -> None:
        """Write blocks at their offsets and make them durable. Raises OSError."""
        for offset, data in blocks:
            if os.pwrite(self._fd, data, offset) != len(data):
                raise OSError(f"{self.path} took only a part of a block")
        os.fdatasync(self._fd)

    def create_durably(self, region_map: RegionMap) -> None:
        """Write the whole map, and its name in the folder."""
        self.write([region_map.encode(block) for block in range(-1, region_map.blocks)])
        fd = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """The volume is no longer protected."""
        self.close()
        self.path.unlink(missing_ok=True)
