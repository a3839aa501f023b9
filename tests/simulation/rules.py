"""The rules marked ◆ in the design, each as the bug that leaves it out: what to replace in the source of
which function.
"""

from typing import Any, Final, NamedTuple

from iscsi_rp.appliance.receiver import Receiver
from iscsi_rp.appliance.state import GroupState
from iscsi_rp.splitter.core import Core
from iscsi_rp.splitter.region_map import RegionMap
from iscsi_rp.splitter.resync import Resync


class Plant(NamedTuple):
    """`owner.name` with `new` where its source has `old`."""

    owner: Any
    name: str
    old: str
    new: str


REPLICATION: Final[dict[str, tuple[Plant, ...]]] = {
    "seal": (
        Plant(Receiver, "probe", "self._probe += 1", "self.sealed = self.log.end; return"),
    ),
    "fence": (
        Plant(Receiver, "hello", 'self.end(hello.processor, "the processor began a new session")', "pass"),
        Plant(Receiver, "receive", "if not self._is_current(session):", "if False:"),
    ),
    "fence_hello": (
        Plant(Receiver, "hello", 'self.end(hello.processor, "the processor began a new session")', "pass"),
        Plant(
            Receiver,
            "receive",
            "if not self._is_current(session):",
            "if not self._is_current(session) and self.sessions[session.processor].started:",
        ),
    ),
    "attach_durable": (Plant(Receiver, "hello", "self._hellos.append(session)", "self._welcome(session)"),),
    "detect_any": (
        Plant(Receiver, "_welcome", "(session.fresh and processor.lost)", "False"),
    ),
    "two_phase": (
        Plant(Core, "_maybe_start", "or self.marks.durable_generation < self._handshake", ""),
    ),
    "stored_volume": (
        Plant(
            GroupState,
            "apply",
            'if processor and (trail := processor.since_stored.get(body["volume"])):',
            "for trail in processor.since_stored.values() if processor else ():",
        ),
    ),
    "stored_completed": (
        Plant(Core, "_stored_through", "through = self.sequence", "return self.sequence"),
    ),
    "init_counts": (
        Plant(Resync, "clear", "and flushed.get(key >> KEY_SHIFT, 0) > flush", ""),
        Plant(
            Receiver,
            "_append",
            "in entries:",
            "in (entry for entry in entries if entry[0] < 4):",
        ),
    ),
    "clear_durable": (
        Plant(Resync, "clear", "sequence <= durable and", ""),
        Plant(Core, "send_init", "self._not_durable.add(", "(lambda *_: None)("),
    ),
    "clear_flush": (Plant(Resync, "clear", "and flushed.get(key >> KEY_SHIFT, 0) > flush", ""),),
    "clear_race": (Plant(RegionMap, "clear", "self.flags[region] = 0", "self.flags[region] = DURABLE"),),
    "noinflight": (
        Plant(Resync, "step", "busy = self._core.busy()", "busy = set()"),
    ),
    "waitread": (
        Plant(Core, "_must_hold", "if locked and", "if False and"),
    ),
    "hash_latest": (
        Plant(Receiver, "_hashes", "self._images.compare(session, frame, self.log.end,",
              "self._images.compare(session, frame, self.state.seal,"),
    ),
    "mark_inflight": (
        Plant(Resync, "step", "busy = self._core.busy()", "busy = set()"),
        Plant(Resync, "_maybe_end", "or core.unsplit_in_flight()", ""),
    ),
    "hold_marks": (
        Plant(Core, "end_session", "self.marks.waiting += waiting",
              "[self._store_unsplit(volume, io, done) for volume, io, done, _ in waiting]"),
    ),
    "handover": (
        Plant(Receiver, "_welcome", "if session.fresh and processor is not None and not sweep:", "if False:"),
    ),
    "not_durable_marked": (
        Plant(Core, "end_session", "self.marks.mark(self._not_durable.regions())", "pass"),
    ),
    "lost_store_write": (
        Plant(Core, "_store_failed", "self.marks.mark(keys_of(volume, io[1], io[2]))", "pass"),
    ),
}  # fmt: skip
