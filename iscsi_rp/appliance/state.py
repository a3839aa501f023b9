"""What an appliance knows about a group beside the blocks: sessions, seals, spans, bookmarks.

All of it is derived from the group's log. A fact enters as a *note*, a record of the log; `GroupState.apply`
is the one place where it takes effect, for a note just appended as for one read again after a crash. Each
segment of the log begins with a snapshot of the state, so that recovery reads the last segment only.
docs/appliance.md lists the notes.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any, Final

from iscsi_rp.replication.regions import KEY_SHIFT, RegionTrail, coarse_runs

MAX_BOOKMARKS: Final = 10_000
MAX_SPANS: Final = 10_000
MAX_RUNS: Final = 50_000
"Of a volume's regions in a snapshot; with more, what lies between close ones counts as not stored, too."


class Note(IntEnum):
    """Kinds of records that are the appliance's own."""

    SESSION = 64
    """A session started: processor, session, first sequence, boot id, and whether it took over the
    since-stored set."""
    STORED = 65
    "A processor's store is durable up to a sequence."
    SEAL = 66
    "Images up to a position are offered."
    SPAN = 67
    "A span without images ended here; payload: where it began."
    BOOKMARK = 68
    UNBOOKMARK = 69
    RESTORE = 70
    "Production began to be restored to an image."
    RESTORED = 71
    LOST = 72
    "A flush of the log failed: as good as a power loss."


@dataclass(slots=True)
class Bookmark:
    """A named image."""

    name: str
    position: int
    time_ns: int
    consistency: str = "crash"


@dataclass(slots=True)
class Processor:
    """A storage processor that has had a session, as far as the log remembers it."""

    session: int
    boot_id: str
    "Of the appliance, when the session started."
    lost: bool = False
    "The appliance has lost what was not durable since then."
    since_stored: dict[int, RegionTrail] = field(default_factory=dict)
    "Volume to the regions written since its store was last known to be durable."

    def forget(self) -> None:
        self.since_stored.clear()

    def runs(self) -> list[tuple[int, int, int]]:
        """Runs of the regions since stored: volume, first region, count."""
        return [run for trail in self.since_stored.values() for run in coarse_runs(trail.regions(), MAX_RUNS)]


class GroupState:
    """Facts of one group. Nothing here does I/O; whoever changes it appends the note that says the same."""

    def __init__(self) -> None:
        self.processors: dict[str, Processor] = {}
        self.last_session = 0
        self._names: dict[int, str] = {}
        "Session to processor."
        self.seal = 0
        "Newest position noted as sealed."
        self.spans: list[tuple[int, int]] = []
        "No image strictly between the two positions."
        self.bookmarks: dict[str, Bookmark] = {}
        self.restoring: int | None = None
        self.ever_whole = False
        "At least one span has ended: before that the copy equals the volume at no position."

    # -- the one place where notes take effect

    def apply(self, kind: int, position: int, time_ns: int, body: dict[str, Any]) -> None:
        match kind:
            case Note.SESSION:
                self._session(body["processor"], body["session"], body["boot_id"], body["fresh"])
            case Note.STORED:
                processor = self.processors.get(body["processor"])
                if processor and (trail := processor.since_stored.get(body["volume"])):
                    trail.drop_through(body["sequence"])
            case Note.SEAL:
                self.seal = max(self.seal, body["position"])
            case Note.SPAN:
                self.spans.append((body["from"], position))
                self.ever_whole = True
                if len(self.spans) > MAX_SPANS:
                    (first, _), (_, last) = self.spans[:2]
                    self.spans[:2] = [(first, last)]
            case Note.BOOKMARK:
                self.bookmarks[body["name"]] = Bookmark(body["name"], position, time_ns, body["consistency"])
            case Note.UNBOOKMARK:
                self.bookmarks.pop(body["name"], None)
            case Note.RESTORE:
                self.restoring = body["position"]
            case Note.RESTORED:
                self.restoring = None
            case Note.LOST:
                for each in self.processors.values():
                    each.lost = True

    def _session(self, name: str, session: int, boot_id: str, fresh: bool) -> None:
        processor = self.processors.setdefault(name, Processor(session, boot_id))
        if fresh:
            processor.forget()
        self._names.pop(processor.session, None)
        processor.session, processor.boot_id, processor.lost = session, boot_id, False
        self._names[session] = name
        self.last_session = max(self.last_session, session)

    def received(self, session: int, sequence: int, volume: int, extents: Sequence[tuple[int, int]]) -> None:
        """Writes of a session, the last with `sequence`, are in the log and may not be durable in the
        processor's store. Each is `(offset, length)`.
        """
        name = self._names.get(session)
        if name is not None:
            trails = self.processors[name].since_stored
            if volume not in trails:
                trails[volume] = RegionTrail()
            trails[volume].add_extents(sequence, volume, extents)

    # -- after a crash, and at each new segment

    def rebooted(self, boot_id: str) -> None:
        """The appliance starts; another boot id than at a session's start means that power was lost since."""
        for processor in self.processors.values():
            if processor.boot_id != boot_id:
                processor.lost = True
        for name in [bookmark.name for bookmark in self.bookmarks.values() if bookmark.position > self.seal]:
            del self.bookmarks[name]

    def forget_before(self, position: int) -> None:
        """Images before `position` are gone."""
        self.spans = [span for span in self.spans if span[1] > position]
        self.bookmarks = {name: each for name, each in self.bookmarks.items() if each.position >= position}

    def in_span(self, position: int) -> tuple[int, int] | None:
        """The span that `position` lies inside of."""
        for start, end in reversed(self.spans):
            if start < position < end:
                return start, end
        return None

    def snapshot(self) -> bytes:
        """The state as bytes, for the head of a segment: JSON, compressed by zlib."""
        facts = json.dumps(
            {
                "last_session": self.last_session,
                "seal": self.seal,
                "spans": self.spans,
                "bookmarks": [asdict(each) for each in self.bookmarks.values()],
                "restoring": self.restoring,
                "ever_whole": self.ever_whole,
                "processors": {
                    name: {
                        "session": each.session,
                        "boot_id": each.boot_id,
                        "lost": each.lost,
                        "since_stored": [
                            {
                                "volume": volume,
                                "through": trail.last,
                                "runs": coarse_runs(trail.regions(), MAX_RUNS),
                            }
                            for volume, trail in each.since_stored.items()
                        ],
                    }
                    for name, each in self.processors.items()
                },
            }
        )
        return zlib.compress(facts.encode(), 1)

    def restore(self, snapshot: bytes) -> None:
        """Take a snapshot's facts."""
        body = json.loads(zlib.decompress(snapshot))
        self.last_session = body["last_session"]
        self.seal = body["seal"]
        self.spans = [(start, end) for start, end in body["spans"]]
        self.bookmarks = {each["name"]: Bookmark(**each) for each in body["bookmarks"]}
        self.restoring = body["restoring"]
        self.ever_whole = body["ever_whole"]
        for name, each in body["processors"].items():
            processor = Processor(each["session"], each["boot_id"], each["lost"])
            for stored in each["since_stored"]:
                trail = processor.since_stored[stored["volume"]] = RegionTrail()
                for volume, first, count in stored["runs"]:
                    start = volume << KEY_SHIFT | first
                    trail.add(stored["through"], range(start, start + count))
            self.processors[name] = processor
            self._names[processor.session] = name
