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
    segments = _whole(names, loaded)
    if not segments:
        raise JournalFormatError("There is no log in this directory.")
    sealed = max((i + 1 for i, segment in enumerate(segments) if segment.is_sealed), default=0)
    for segment in segments[:sealed]:
        if not segment.is_sealed:
            segment.recover()
    _check_no_hole(segments[:sealed])
    kept = segments[: _continued(segments, sealed)]
    dropped = [name for name in names if name > name_of(kept[-1].first)]
    for name in reversed(dropped):
        directory.remove(name)
    directory.sync()
    for segment in kept[:-1]:
        if not segment.is_sealed:
            segment.seal()
    kept[-1].cut(kept[-1].count)
    return kept


def _whole(names: Sequence[str], loaded: Sequence[Segment | None]) -> list[Segment]:
    """Segments with a header. One that is last may have been torn while it was made; any other is damaged."""
    segments = [segment for segment in loaded if segment is not None]
    for name, segment in zip(names[:-1], loaded[:-1], strict=True):
        if segment is None and any(later.is_sealed for later in segments if name_of(later.first) > name):
            raise JournalFormatError(
                f"the header of {name} is damaged: images before {first_of(name)} are whole"
            )
    return segments


def _check_no_hole(segments: Sequence[Segment]) -> None:
    for before, segment in itertools.pairwise(segments):
        if segment.first != before.last + 1:
            raise MissingSegmentError(
                f"records {before.last + 1} to {segment.first - 1} are missing: "
                f"images up to {before.last} are whole, later ones are not"
            )


def _continued(segments: Sequence[Segment], sealed: int) -> int:
    """How many segments count: the sealed ones, and those behind them that continue one another."""
    for number, segment in enumerate(segments[sealed:], sealed):
        before = segments[number - 1] if number else None
        if before is not None and (segment.first != before.last + 1 or segment.header.chain != before.chain):
            return number
        segment.recover()
    return len(segments)
