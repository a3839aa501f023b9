"""Opening a log after any stop: which segments count, where the log ends.

Sealed segments are durable, and are sealed in order. So whatever a crash tore stands behind the last sealed
one: walk from there as far as each segment continues the one before, cut behind the last valid record, and
remove the files begun behind that. A segment without a valid trailer *before* a sealed one was sealed once:
there the trailer is damaged, not the end of the log.
"""

import itertools
from collections.abc import Sequence

from iscsi_rp.journal.errors import JournalFormatError, MissingSegmentError
from iscsi_rp.journal.files import Directory
from iscsi_rp.journal.segment import Segment, first_of, load, name_of


def open_segments(directory: Directory, group: bytes, segment_bytes: int) -> list[Segment]:
    """The log's segments, oldest first:

    all sealed but the last, all durable, nothing behind the end. Blocks.
    """
    names = sorted(name for name in directory.names() if first_of(name) is not None)
    loaded = [load(directory, name, group, segment_bytes) for name in names]
    segments = [segment for segment in loaded if segment is not None]
    headless = [name for name, segment in zip(names, loaded, strict=True) if segment is None]
    if not segments:
        raise JournalFormatError("There is no log in this directory.")
    sealed = max((i + 1 for i, segment in enumerate(segments) if segment.is_sealed), default=0)
    for segment in segments[:sealed]:
        if not segment.is_sealed:
            segment.recover()
    _check_no_hole(segments[:sealed], headless)
    kept = segments[: _continued(segments, sealed)]
    whole = {name_of(segment.first) for segment in kept}
    for name in reversed(names):
        if name not in whole:
            directory.remove(name)
    directory.sync()
    for segment in kept[:-1]:
        if not segment.is_sealed:
            segment.seal()
    kept[-1].cut(kept[-1].count)
    return kept


def _check_no_hole(segments: Sequence[Segment], headless: Sequence[str]) -> None:
    """Of segments up to the last sealed one. A file without a header is the one that is missing where there
    is a hole, or before the first; between segments that continue one another it was begun and removed, and
    a power loss has undone the removal.
    """
    if segments and headless and headless[0] < name_of(segments[0].first):
        raise _damaged(headless[0])
    for before, segment in itertools.pairwise(segments):
        if segment.first == before.last + 1:
            continue
        for name in headless:
            if name_of(before.first) < name < name_of(segment.first):
                raise _damaged(name)
        raise MissingSegmentError(
            f"records {before.last + 1} to {segment.first - 1} are missing: "
            f"images up to {before.last} are whole, later ones are not"
        )


def _damaged(name: str) -> JournalFormatError:
    return JournalFormatError(f"the header of {name} is damaged: images before {first_of(name)} are whole")


def _continued(segments: Sequence[Segment], sealed: int) -> int:
    """How many segments count: the sealed ones, and those behind them that continue one another."""
    for number, segment in enumerate(segments[sealed:], sealed):
        before = segments[number - 1] if number else None
        if before is not None and (segment.first != before.last + 1 or segment.header.chain != before.chain):
            return number
        segment.recover()
    return len(segments)
