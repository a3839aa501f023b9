"""A copy of the group's volumes, and every image that the window holds.

*Window*: the log keeps every record behind position W0 (`log.first` - 1). *Copy volume* C: has every
record up to D (`distributed`). *Base* B: a page as it was at W0, for each page of C that may have changed.

The image at T, for W0 <= T: a block is the newest record of it at or before T in the log; else its page in
B, if present; else C. So every image is there at once, and nothing is undone or copied to open one.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from iscsi_rp.errors import ConflictError
from iscsi_rp.journal import distribute, trim
from iscsi_rp.journal.base import Base
from iscsi_rp.journal.errors import DamagedStateError, ImageGoneError, ReplicaBusyError
from iscsi_rp.journal.files import Directory, File
from iscsi_rp.journal.index import PAGE_BYTES, PAGE_SHIFT
from iscsi_rp.journal.log import Log
from iscsi_rp.journal.pages import page_buffer, pages_for, read_pages, union
from iscsi_rp.journal.resolve import Pages, resolve
from iscsi_rp.journal.state import State, StateFile

Step = Callable[[], None]
"A part of a long operation; blocks, and may run on any thread, one after the other."

REGION_SHIFT = 16
"Regions of 64 KiB: the granularity of dirty maps and of `touched_after`."


class Replica:
    """Made by `open`.

    Reading is thread safe and goes on while the log grows, is distributed and is trimmed.
    """

    def __init__(
        self,
        log: Log,
        copies: Mapping[int, File],
        sizes: Mapping[int, int],
        bases: Mapping[int, Base],
        state_file: StateFile,
        state: State,
    ) -> None:
        self.log = log
        self.copies = copies
        self.sizes = sizes
        self.bases = bases
        self.state = state
        "Replaced as a whole, so that a reader sees one that fits together."
        self._state_file = state_file
        self._changes = 0
        self._lock = threading.Lock()
        self._pins: Counter[int] = Counter()
        self._busy: str | None = None

    @classmethod
    def open(
        cls, log: Log, directory: Directory, copies: Mapping[int, File], sizes: Mapping[int, int]
    ) -> "Replica":
        """The copy whose files are in `directory`; a new one where the log still has its first record.
        Blocks.

        `copies` and `sizes` (bytes) are by volume; records of other volumes are passed over. Raises
        `DamagedStateError`, `JournalFormatError`, `JournalError`.
        """
        found = StateFile.load(directory, log.group)
        if found is None:
            if log.first > 1:
                raise DamagedStateError(
                    "The durable state of the copy is missing: the copy needs a full sweep."
                )
            state = State(distributed=0, applying=log.end, first_offered=0)
            found = StateFile.create(directory, log.group, state), state
        state_file, state = found
        if not log.first - 1 <= state.distributed <= state.applying <= log.end:
            raise DamagedStateError(
                f"the copy has records up to {state.distributed}, the log holds {log.first} to {log.end}: "
                "they do not belong together, the copy needs a full sweep"
            )
        state = state._replace(first_offered=max(state.first_offered, log.first - 1))
        bases = {volume: Base.open(directory, log.group, volume, sizes[volume]) for volume in copies}
        return cls(log, dict(copies), dict(sizes), bases, state_file, state)

    @property
    def first_offered(self) -> int:
        """The oldest image that can be read."""
        return self.state.first_offered

    @property
    def distributed(self) -> int:
        """Every record up to here is in the copy volumes, durably."""
        return self.state.distributed

    @property
    def whole(self) -> bool:
        """Whether the copy volumes hold exactly the image at `distributed`:

        no distribution runs or was cut short.
        """
        return self.state.distributed == self.state.applying

    # Images

    def read(self, volume: int, offset: int, length: int, at: int) -> bytes:
        """`length` bytes of the image at position `at`, which may be newer than what is durable. Blocks.

        Raises `ImageGoneError`, `DamagedRecordError`, `JournalIoError`.
        """
        self._check_offered(at)
        first, end = offset >> PAGE_SHIFT, pages_for(offset + length)
        pages = np.arange(first, end)
        while True:
            seen = self._changes
            image = self._image(volume, pages, at)
            if seen == self._changes:
                break
        self._check_offered(at)
        start = offset - first * PAGE_BYTES
        return bytes(image[start : start + length])

    def _image(self, volume: int, pages: Pages, at: int) -> memoryview:
        """Of whole pages. May be wrong if base or copy changed meanwhile."""
        state = self.state
        segments = self.log.segments
        # What C can hold is all in the image: then C is as good as the log up to D, and B is not needed.
        newer_than_copy = at >= state.applying
        versions = resolve(segments, volume, pages, state.distributed if newer_than_copy else 0, at)
        image = page_buffer(len(pages))
        missing = versions.missing
        if len(missing):
            wanted = pages[missing]
            base = self.bases[volume]
            in_base = base.present(wanted) & (not newer_than_copy)
            base.read(wanted[in_base], image, missing[in_base])
            read_pages(self.copies[volume], wanted[~in_base], image, missing[~in_base])
        versions.copy_into(image)
        return image

    def _check_offered(self, at: int) -> None:
        if not self.first_offered <= at <= self.log.end:
            raise ImageGoneError(
                f"There is no image at {at}: the window is {self.first_offered} to {self.log.end}."
            )

    def pin(self, position: int) -> None:
        """Keep the image at `position` until `unpin`; counted. Raises `ImageGoneError`."""
        with self._lock:
            self._check_offered(position)
            self._pins[position] += 1

    def unpin(self, position: int) -> None:
        with self._lock:
            self._pins[position] -= 1
            self._pins += Counter()  # forgets those at zero

    def touched_after(self, at: int, volume: int) -> list[tuple[int, int]]:
        """(offset, length) of whatever any record after `at` touches, in whole regions of 64 KiB, ascending.

        Raises `DamagedRecordError`.
        """
        starts, ends = [], []
        for segment in self.log.segments:
            rows = segment.rows(at, self.log.end)
            table = segment.table[rows.start : rows.stop] if rows else segment.table[:0]
            table = table[(table["volume"] == volume) & (table["length"] > 0)]
            starts.append(table["offset"].astype(np.int64) >> REGION_SHIFT)
            last = (table["offset"] + table["length"] - np.uint64(1)).astype(np.int64)
            ends.append((last >> REGION_SHIFT) + 1)
        first, end = union(np.concatenate(starts), np.concatenate(ends))
        offsets = (first << REGION_SHIFT).tolist()
        limits = np.minimum(end << REGION_SHIFT, self.sizes[volume]).tolist()
        return [(offset, limit - offset) for offset, limit in zip(offsets, limits, strict=True)]

    # The copy volume itself

    def copy_is_current(self, volume: int, offset: int, length: int, at: int) -> bool:
        """Whether the copy volume has this range as the image at `at` has it.

        To be asked again after `read_copy`.
        """
        state = self.state
        if state.distributed != state.applying or state.distributed > at:
            return False
        pages = np.arange(offset >> PAGE_SHIFT, pages_for(offset + length))
        return resolve(self.log.segments, volume, pages, state.distributed, at).untouched

    def read_copy(self, volume: int, offset: int, length: int) -> bytes:
        """From the copy volume, whatever position it is at. Blocks."""
        return self.copies[volume].pread(length, offset)

    # Long operations

    def distribute(self, upto: int, limit_bytes: int) -> Iterator[Step]:
        """Steps that apply the next records to the copy volumes: up to `upto` at most, some `limit_bytes`
        of them.

        Nothing that is not durable in the log is applied. Run each step before the next is asked for; close
        the iterator when a step fails: then, as after a crash, a later distribution does it again. Raises
        `ReplicaBusyError`.
        """
        return self._exclusively(
            "a distribution", distribute.steps(self, min(upto, self.log.durable), limit_bytes)
        )

    def trim(self) -> Iterator[Step]:
        """Steps that give up the oldest segment and the images in it.

        As for `distribute`. Raises `ConflictError`.
        """
        return self._exclusively("a trim", trim.steps(self))

    def _exclusively(self, what: str, steps: Iterator[Step]) -> Iterator[Step]:
        if self._busy is not None:
            raise ReplicaBusyError(f"{self._busy} of this copy is under way.")
        self._busy = what
        try:
            yield from steps
        finally:
            self._busy = None

    def can_trim(self) -> bool:
        """Whether the oldest segment is durable and no pinned image lies in it."""
        oldest = self.log.segments[0]
        pinned = min(self._pins, default=oldest.last)
        return oldest.is_sealed and oldest.last <= self.log.durable and oldest.last <= pinned

    # For the long operations

    def store(self, state: State) -> None:
        """Make `state` durable, then what readers go by."""
        self._state_file.store(state)
        self.state = state

    def changed(self) -> None:
        """Readers on their way look again:

        call it after presence changed, before what depends on it is overwritten.
        """
        self._changes += 1

    def withdraw_oldest(self) -> None:
        """Durably offer no image in the oldest segment any more. Raises `ConflictError`."""
        with self._lock:
            if not self.can_trim():
                raise ConflictError("The oldest segment is still being written, or an image in it is in use.")
            self.state = self.state._replace(first_offered=max(self.first_offered, self.log.segments[0].last))
        self.store(self.state)
