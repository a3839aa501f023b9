"""What all connections of one front end share, besides the node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from iscsi_rp.iscsi.budget import Budget
from iscsi_rp.iscsi.latency import ByInitiator, Latency
from iscsi_rp.scsi import LogicalUnit, Nexus

if TYPE_CHECKING:
    from iscsi_rp.iscsi.session import Session


def _no_time() -> int:
    return 0


@dataclass(slots=True, eq=False)
class Shared:
    """See the module's docstring."""

    clock: Callable[[], int] = _no_time
    "Monotonic, in nanoseconds: what latencies are measured with."
    budget: Budget = field(default_factory=Budget)
    by_nexus: dict[Nexus, Session] = field(default_factory=dict)
    past: WeakKeyDictionary[LogicalUnit, Latency] = field(default_factory=WeakKeyDictionary)
    "The latencies of each logical unit, of the sessions that are over."
    by_initiator: ByInitiator = field(default_factory=ByInitiator)
