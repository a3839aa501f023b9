"""A session of a storage processor with a group, and what the receiver needs from around it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from iscsi_rp.journal.log import SyncTicket
from iscsi_rp.replication import frames as wire
from iscsi_rp.replication import messages


class Peer(Protocol):
    """The connection to a splitter."""

    def send(self, data: bytes) -> None: ...

    def close(self, reason: str) -> None:
        """Nothing is sent or delivered afterwards."""
        ...


class Session:
    """One connection of a storage processor, from its hello on."""

    def __init__(
        self, peer: Peer, hello: messages.Hello, volumes: Sequence[int], number: int, now_ns: int
    ) -> None:
        self.peer = peer
        self.processor = hello.processor
        self.fresh = hello.fresh
        self.volumes = volumes
        "The index in the group of each volume of the hello."
        self.sizes = [volume.size for volume in hello.volumes]
        self.number = number
        self.since_ns = now_ns
        self.welcomed = False
        self.started = False
        self.ended = False
        "END was received: everything marked is in the log."
        self.sequence = 0
        self.durable = 0
        self.answered = 0
        "The last probe it answered."
        self.compares = 0
        self.restore_begun = False
        self.restored = False
        self.fetches = 0
        "Under way."
        self.fetched_bytes = 0
        "Of the image that production is being restored to."


@dataclass(frozen=True, slots=True)
class SyncInFlight:
    """A flush of the log under way, and what is true once it has succeeded."""

    ticket: SyncTicket
    seal: int
    restoring: int | None
    welcomes: list[Session]
    received: list[tuple[Session, int]]
    unblocks: list[Session]


class Images(Protocol):
    """What reads images for a session, outside of the event loop, and answers later."""

    def compare(
        self, session: Session, frame: wire.Frame, at: int, compared: Callable[[bytes], None]
    ) -> None:
        """Compare the hashes of a HASHES frame with the image at `at`; `compared` gets a byte a region, 1
        where it is equal.
        """
        ...

    def send_touched(self, session: Session, position: int) -> None:
        """Send which regions were written after `position`: REGIONS frames and TOUCHED."""
        ...

    def fetch(self, session: Session, frame: wire.Frame, position: int) -> None:
        """Answer a FETCH with DATA of the image at `position`."""
        ...
