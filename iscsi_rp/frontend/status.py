"""What the front end tells about its sessions."""

from collections.abc import Iterable
from typing import NamedTuple

from iscsi_rp.iscsi import Session
from iscsi_rp.iscsi.latency import Histogram, Latency
from iscsi_rp.iscsi.shared import Shared
from iscsi_rp.scsi import LogicalUnit


class SessionStatus(NamedTuple):
    """A session as `status` shows it. The counters begin with the session."""

    initiator: str
    target: str
    peer: str
    commands: int
    outstanding: int
    bytes_read: int
    bytes_written: int
    id: int
    "TSIH."
    isid: int
    portal: str
    "The address that the initiator came to."
    portal_group: int
    since_ns: int
    "UTC."
    auth: str
    digests: str
    '"header,data", "header", "data" or "none".'
    latency: dict[int, Histogram]
    "By the initiator's LUN, of those that it has used."


def status_of(session: Session, monotonic_ns: int, now_ns: int) -> SessionStatus:
    """The two clocks say the same moment."""
    agreed = session.parameters
    digests = [name for name, on in (("header", agreed.header_digest), ("data", agreed.data_digest)) if on]
    latency = {}
    for lun, unit in session.nexus.luns.items():
        if unit in session.latencies:
            latency[lun] = session.latencies[unit].histogram()
    return SessionStatus(
        session.initiator,
        session.target.name if session.target else "",
        session.peer,
        session.commands,
        session.outstanding,
        session.bytes_read,
        session.bytes_written,
        session.tsih,
        session.isid,
        session.local,
        session.portal_group,
        now_ns - (monotonic_ns - session.since_ns),
        session.auth,
        ",".join(digests) or "none",
        latency,
    )


def latency_of(unit: LogicalUnit, shared: Shared, sessions: Iterable[Session]) -> Histogram:
    """Of all sessions that use the unit, or did."""
    total = Latency()
    if unit in shared.past:
        total.add(shared.past[unit])
    for session in sessions:
        if unit in session.latencies:
            total.add(session.latencies[unit])
    return total.histogram()


def latency_by_initiator(shared: Shared, sessions: Iterable[Session]) -> dict[str, Histogram]:
    """Of all sessions, those that are over included."""
    return shared.by_initiator.histograms(
        (session.nexus.initiator, latency) for session in sessions for latency in session.latencies.values()
    )
