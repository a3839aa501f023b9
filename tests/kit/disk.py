"""A disk that behaves as badly as disks may, by a seed.

What was written but not synced, a power loss keeps, tears by sectors, or drops, each write for itself;
names likewise. A sync that fails leaves pages that look clean: no later sync writes them, and the cache may
show either content. The process can die before any operation; a write that it dies in may be half done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from random import Random

from iscsi_rp.device import Buffer
from iscsi_rp.journal.errors import JournalFullError, JournalIoError

SECTOR = 512

_Change = tuple[int, bytes] | int
"A write (offset, content), or a new size."


class Died(BaseException):
    """The process is gone. Not an Exception: nothing handles it."""


class _Inode:
    """A file's content: what is cached, what is on the disk, and the changes between them."""

    def __init__(self) -> None:
        self.cache = bytearray()
        self.disk = bytearray()
        self.dirty: list[_Change] = []

    def change(self, change: _Change) -> None:
        self.dirty.append(change)
        self.cache = _changed(self.cache, change)

    def settle(self, keep: Callable[[_Change], list[_Change]]) -> None:
        """`keep` says what of each change reaches the disk; nothing is dirty afterwards."""
        for change in self.dirty:
            for kept in keep(change):
                self.disk = _changed(self.disk, kept)
        self.dirty.clear()

    def show_disk(self) -> None:
        """The clean part of the cache is read again."""
        content = bytearray(self.disk)
        for change in self.dirty:
            content = _changed(content, change)
        if len(content) == len(self.cache):
            self.cache[:] = content  # a map of the file sees it
        else:
            self.cache = content


def _changed(content: bytearray, change: _Change) -> bytearray:
    """In place where the size stays, so that maps stay true."""
    if isinstance(change, int):
        if change == len(content):
            return content
        return content[:change] + bytes(max(0, change - len(content)))
    offset, data = change
    end = offset + len(data)
    if end > len(content):
        content = content + bytes(end - len(content))
    content[offset:end] = data
    return content


class SimDisk:
    """Implements `iscsi_rp.journal.files.Directory`."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.operations = 0
        self.dies_at: int | None = None
        "The operation before which the process dies."
        self.fails_sync: str | None = None
        "The next sync of a file with a name that starts so fails."
        self.fills_up = False
        "The next write finds no space."
        self.before_read: Callable[[str], None] | None = None
        "Called with the file's name; what it does happens while a reader waits."
        self._names: dict[str, _Inode] = {}
        self._disk_names: dict[str, _Inode] = {}
        self._dirty_names: list[tuple[str, _Inode | None]] = []

    # What happens to it

    def power_loss(self) -> None:
        """Everything not synced is at the mercy of the seed."""
        inodes = {id(inode): inode for inode in (*self._names.values(), *self._disk_names.values())}
        for name, inode in self._dirty_names:
            if self.random.random() < 0.5:
                _rename(self._disk_names, name, inode)
        self._dirty_names.clear()
        self._names = dict(self._disk_names)
        for inode in inodes.values():
            inode.settle(self._survivors)
            inode.cache = bytearray(inode.disk)

    def _survivors(self, change: _Change) -> list[_Change]:
        fate = self.random.random()
        if fate < 0.4:
            return [change]
        if fate < 0.7 or isinstance(change, int):
            return []
        offset, data = change
        cuts = [0, *range(SECTOR - offset % SECTOR, len(data), SECTOR), len(data)]
        pieces = pairwise(cuts)
        return [(offset + a, data[a:b]) for a, b in pieces if a < b and self.random.random() < 0.5]

    def operation(self) -> None:
        self.operations += 1
        if self.dies_at is not None and self.operations >= self.dies_at:
            raise Died

    def sync_inode(self, name: str, inode: _Inode) -> None:
        self.operation()
        if self.fails_sync is not None and name.startswith(self.fails_sync):
            self.fails_sync = None
            inode.settle(self._survivors)
            if self.random.random() < 0.5:
                inode.show_disk()
            raise JournalIoError("the sync failed, as planned")
        inode.settle(lambda change: [change])

    # Directory

    def open(self, name: str, *, create: bool = False) -> SimFile:
        self.operation()
        if create:
            if name in self._names:
                raise FileExistsError(name)
            self._names[name] = _Inode()
            self._dirty_names.append((name, self._names[name]))
        elif name not in self._names:
            raise FileNotFoundError(name)
        return SimFile(self, name, self._names[name])

    def names(self) -> list[str]:
        return sorted(self._names)

    def remove(self, name: str) -> None:
        self.operation()
        del self._names[name]
        self._dirty_names.append((name, None))

    def sync(self) -> None:
        self.operation()
        for name, inode in self._dirty_names:
            _rename(self._disk_names, name, inode)
        self._dirty_names.clear()

    def free_bytes(self) -> int:
        return 1 << 40


def _rename(names: dict[str, _Inode], name: str, inode: _Inode | None) -> None:
    if inode is None:
        names.pop(name, None)
    else:
        names[name] = inode


class SimFile:
    """Implements `iscsi_rp.journal.files.File`."""

    def __init__(self, disk: SimDisk, name: str, inode: _Inode) -> None:
        self.name = name
        self._disk = disk
        self._inode = inode

    @property
    def size(self) -> int:
        return len(self._inode.cache)

    def pread(self, length: int, offset: int) -> bytes:
        if self._disk.before_read is not None:
            self._disk.before_read(self.name)
        self._disk.operation()
        return bytes(self._inode.cache[offset : offset + length])

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        data = b"".join(buffers)
        try:
            self._disk.operation()
        except Died:
            self._inode.change((offset, data[: self._disk.random.randrange(len(data) + 1)]))
            raise
        if self._disk.fills_up:
            self._disk.fills_up = False
            self._inode.change((offset, data[: self._disk.random.randrange(len(data) + 1)]))
            raise JournalFullError
        self._inode.change((offset, data))

    def sync(self) -> None:
        self._disk.sync_inode(self.name, self._inode)

    def trust_disk(self) -> None:
        self.sync()
        self._inode.show_disk()

    def forget(self, end: int) -> None:
        """Reads do not tell what is cached."""

    def read_ahead(self, offset: int, length: int) -> None:
        """As for `forget`."""

    def truncate(self, size: int) -> None:
        self._disk.operation()
        self._inode.change(size)

    def allocate(self, size: int) -> None:
        self._disk.operation()
        if size > self.size:
            self._inode.change(size)

    def zero(self, offset: int, length: int) -> None:
        self._disk.operation()
        self._inode.change((offset, bytes(min(length, self.size - offset))))

    def data_extents(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Pages that are not all zeros count as allocated."""
        for start in range(offset, offset + length, 4096):
            if any(self._inode.cache[start : start + 4096]):
                yield start, min(4096, offset + length - start)

    def map(self, offset: int, length: int) -> memoryview:
        return memoryview(self._inode.cache)[offset : offset + length].toreadonly()

    def close(self) -> None:
        pass
