"""The receiver of a group over a real log, with splitters that a test speaks for."""

from collections.abc import Callable, Sequence
from pathlib import Path

from iscsi_rp.appliance.receiver import Receiver
from iscsi_rp.appliance.session import Session
from iscsi_rp.appliance.state import GroupState
from iscsi_rp.journal.files import OsDirectory
from iscsi_rp.journal.log import Log
from iscsi_rp.replication import frames as wire
from iscsi_rp.replication.frames import Frame
from iscsi_rp.replication.messages import Hello, VolumeInfo

SIZE = 1 << 20
VOLUMES = [
    VolumeInfo(uuid=f"uuid-{index}", name=f"v{index}", size=SIZE, block_size=512) for index in range(2)
]
PAGE = b"p" * 4096


class Splitter:
    """A storage processor's end: what it was sent, and frames with the right sequence."""

    def __init__(self, rig: "Rig", volumes: Sequence[VolumeInfo] = VOLUMES, name: str = "a/sp-a") -> None:
        self.rig = rig
        self.volumes = list(volumes)
        self.name = name
        self.sequence = 0
        self.inbox: list[Frame] = []
        self.closed: str | None = None
        self.session: Session

    def send(self, data: bytes) -> None:
        frames, used = wire.decode(data, len(data))
        assert used == len(data)
        self.inbox += frames

    def close(self, reason: str) -> None:
        self.closed = reason

    def hello(self, *, fresh: bool = True) -> "Splitter":
        self.closed = None
        hello = Hello(array_id="a", processor=self.name, group="g", fresh=fresh, volumes=self.volumes)
        self.session = self.rig.receiver.hello(self, hello, self.rig.now())
        return self

    def tell(self, kind: int, *, volume: int = 0, sequence: int = 0, a: int = 0, flags: int = 0) -> None:
        self.rig.receiver.receive(
            self.session, [(kind, flags, volume, sequence, a, 0, b"", 0)], self.rig.now()
        )

    def write(self, offset: int = 0, *, volume: int = 0, data: bytes = PAGE) -> None:
        self.sequence += 1
        frame = (
            wire.WRITE, wire.KIND_DATA, volume, self.sequence, offset, len(data), data, wire.checksum(data)
        )  # fmt: skip
        self.rig.receiver.receive(self.session, [frame], self.rig.now())

    def start(self) -> "Splitter":
        self.rig.sync()
        self.tell(wire.START, sequence=self.sequence, a=self.session.number)
        return self

    def join(self) -> "Splitter":
        """Until nothing is left to be resynchronised."""
        self.hello().start()
        self.tell(wire.END)
        return self

    def answer_probe(self) -> None:
        probes = [frame[4] for frame in self.inbox if frame[0] == wire.PROBE]
        self.tell(wire.ANSWER, a=probes[-1])

    def taken(self, kind: int) -> list[Frame]:
        """Frames of a type, taken out of the inbox."""
        found = [frame for frame in self.inbox if frame[0] == kind]
        self.inbox = [frame for frame in self.inbox if frame[0] != kind]
        return found


class Rig:
    """Nothing moves by itself; every call takes a second."""

    def __init__(self, path: Path) -> None:
        self.state = GroupState()
        self.log = Log.create(OsDirectory(path), bytes(16), self.state.snapshot, segment_bytes=1 << 16)
        self.receiver = Receiver(self.log, self.state, VOLUMES, "boot", self)
        self.fetched: list[tuple[Frame, int]] = []
        self.compares: list[tuple[Frame, int, Callable[[bytes], None]]] = []
        self.touched: list[int] = []
        self._now_ns = 0

    def now(self) -> int:
        self._now_ns += 10**9
        return self._now_ns

    def sync(self) -> None:
        sync = self.receiver.begin_sync(self.now())
        sync.ticket.run()
        self.receiver.finish_sync(sync)

    def seal(self, *splitters: Splitter) -> int:
        """Everything up to now is offered; the position."""
        position = self.receiver.content_end
        self.receiver.probe()
        for splitter in splitters:
            splitter.answer_probe()
        self.sync()
        assert self.receiver.offered >= position
        return position

    # -- the receiver's `Images`

    def compare(self, session: Session, frame: Frame, at: int, compared: Callable[[bytes], None]) -> None:
        self.compares.append((frame, at, compared))

    def send_touched(self, session: Session, position: int) -> None:
        self.touched.append(position)

    def fetch(self, session: Session, frame: Frame, position: int) -> None:
        self.fetched.append((frame, position))
