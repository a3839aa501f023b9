"""A simulated appliance: the real receiver over the real log, on a disk and links that a seed controls."""

from collections.abc import Callable, Sequence
from random import Random

from iscsi_rp.appliance.group import recover
from iscsi_rp.appliance.receiver import Receiver
from iscsi_rp.appliance.session import Session, SyncInFlight
from iscsi_rp.appliance.state import GroupState, Note
from iscsi_rp.journal.errors import JournalError
from iscsi_rp.journal.log import Log
from iscsi_rp.journal.record import Entry
from iscsi_rp.replication import frames as wire
from iscsi_rp.replication.digests import equal_regions
from iscsi_rp.replication.messages import Hello, VolumeInfo, parse
from tests.kit.disk import SimDisk
from tests.simulation.hosts import EMPTY, SIZE, Content, bytes_of, laid_over
from tests.simulation.processor import Connection

GROUP = b"simulated group."
SEGMENT_BYTES = 256 << 10


class Peer:
    """The receiver's end of a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def send(self, data: bytes) -> None:
        if self._connection.open_above and self._connection.open_below:
            self._connection.down.append(data)

    def close(self, reason: str) -> None:
        self._connection.open_above = False


class RecordedLog(Log):
    """The real log; what was appended is remembered beside it, to fold images from."""

    entries: list[Entry]

    def append(self, entries: Sequence[Entry], now_ns: int) -> int:
        last = super().append(entries, now_ns)
        self.entries += [(*entry[:6], bytes(entry[6]), entry[7]) for entry in entries]
        return last


class Appliance:
    """It lives through kills, power losses and flushes that fail."""

    def __init__(self, random: Random, volumes: Sequence[int]) -> None:
        self.random = random
        self.volumes = [VolumeInfo(uuid=f"v{v}", name=f"v{v}", size=SIZE, block_size=512) for v in volumes]
        self.disk = SimDisk(random)
        self.boot = 1
        self.up = True
        self.sync: SyncInFlight | None = None
        self.sync_ran = False
        self.compares: list[tuple[Session, wire.Frame, int, Callable[[bytes], None]]] = []
        self._entries: list[Entry] = []
        self._folds: list[dict[int, Content]] = [dict.fromkeys(volumes, EMPTY)]
        state = GroupState()
        self.log = RecordedLog.create(self.disk, GROUP, state.snapshot, segment_bytes=SEGMENT_BYTES)
        self._opened(state)

    def _opened(self, state: GroupState) -> None:
        assert isinstance(self.log, RecordedLog)
        del self._entries[self.log.end :]
        del self._folds[self.log.end + 1 :]
        self.log.entries = self._entries
        state.rebooted(f"boot {self.boot}")
        self.receiver = Receiver(self.log, state, self.volumes, f"boot {self.boot}", self)
        self.sync = None
        self.compares.clear()

    # -- life

    def kill(self) -> None:
        self.receiver.end_all("killed")
        self.up = False

    def power_loss(self) -> None:
        self.kill()
        self.disk.power_loss()
        self.boot += 1

    def start(self) -> None:
        durable = self.log.durable
        state = GroupState()
        self.log = RecordedLog.open(self.disk, GROUP, state.snapshot, segment_bytes=SEGMENT_BYTES)
        assert self.log.end >= durable, "the log has lost durable records"
        recover(state, self.log)
        self.up = True
        self._opened(state)

    def flush_failed(self) -> None:
        """As `appliance.group` does: throw away what is not durable, open again, note the loss."""
        self.receiver.end_all("the journal could not be flushed")
        self.log.cut_to_durable()
        self.start()
        self.receiver.note(Note.LOST, {}, 1)

    # -- what takes time

    def begin_sync(self) -> None:
        self.sync = self.receiver.begin_sync(self.log.end)
        self.sync_ran = False

    def run_sync(self, fails: bool) -> None:
        assert self.sync is not None
        self.disk.fails_sync = "log-" if fails else None
        try:
            self.sync.ticket.run()
            self.sync_ran = True
        except JournalError:
            self.flush_failed()
        self.disk.fails_sync = None

    def finish_sync(self) -> None:
        assert self.sync is not None
        sync, self.sync = self.sync, None
        self.receiver.finish_sync(sync)

    def answer_compare(self, index: int) -> None:
        session, frame, at, compared = self.compares.pop(index)
        _, _, place, _, offset, length, digests, _ = frame
        content = self.image(at)[session.volumes[place]]
        compared(equal_regions(bytes_of(content, offset, length), digests))

    def receive(self, connection: Connection) -> None:
        data = connection.up.popleft()
        if not connection.open_above:
            return
        buffer = bytearray(data)
        frames, _ = wire.decode(buffer, len(data))
        if connection.session is None:
            hello = parse(Hello, frames[0][6])
            connection.session = self.receiver.hello(Peer(connection), hello, self.log.end)
        else:
            self.receiver.receive(connection.session, frames, self.log.end)
        buffer[:] = bytes(len(data))  # the next data comes there

    def notice(self, connection: Connection) -> None:
        """This end notices that the link is gone."""
        connection.open_above = False
        if connection.session is not None:
            self.receiver.lost(connection.session, "gone")

    # -- Images

    def compare(
        self, session: Session, frame: wire.Frame, at: int, compared: Callable[[bytes], None]
    ) -> None:
        self.compares.append((session, frame, at, compared))

    def send_touched(self, session: Session, position: int) -> None:
        raise AssertionError("nothing is restored here")

    def fetch(self, session: Session, frame: wire.Frame, position: int) -> None:
        raise AssertionError("nothing is restored here")

    def image(self, at: int) -> dict[int, Content]:
        """The content of each volume at a position of the log."""
        while len(self._folds) <= at:
            kind, volume, _, _, offset, length, payload, _ = self._entries[len(self._folds) - 1]
            image = self._folds[-1]
            if kind in wire.KINDS:
                image = {**image, volume: laid_over(image[volume], offset, length, bytes(payload) or None)}
            self._folds.append(image)
        return self._folds[at]

    def offers(self, position: int) -> bool:
        state = self.receiver.state
        return state.ever_whole and 1 <= position <= self.receiver.offered and state.in_span(position) is None
