"""The PDU stream of a session: whatever comes is answered by the book or dropped, and harms nobody else.

A and B are logged in to one target with two LUNs; A sends what the fuzzer says, B works. No exception leaves
a `Connection`; what A gets can be cut into PDUs; no command is answered twice, and once devices have answered
none is forgotten; what is held is bounded and given back.
"""

import struct
from collections import Counter
from typing import Final

from iscsi_rp.iscsi import Connection, Node
from iscsi_rp.iscsi.digest import with_digests
from iscsi_rp.iscsi.pdu import HEADER, NO_TAG, Header
from iscsi_rp.iscsi.shared import Shared
from iscsi_rp.iscsi.tasks import HELD_BYTES
from iscsi_rp.scsi import Identity, LogicalUnit
from iscsi_rp.scsi.logical_unit import TRANSFER_BYTES
from tests.fuzz.source import Source
from tests.fuzz.strict_device import StrictDevice, require

IQN: Final = "iqn.2026-01.test:disk"
SIZE_BYTES: Final = 64 << 10
_NAA: Final = "600140500000000000000000000000"
_STEPS: Final = 64
_ROUNDS: Final = 10_000
_ANSWERS: Final = (0x20, 0x21, 0x22, 0x24, 0x25, 0x26, 0x31, 0x32, 0x3F)
_CDBS: Final = (
    bytes(16),
    struct.pack(">BBIxHx6x", 0x28, 0, 1, 8),
    struct.pack(">BBIxHx6x", 0x2A, 0, 1, 8),
    struct.pack(">BBQIxx", 0x88, 0, 2, 60),
    struct.pack(">BBQIxx", 0x8A, 0, 2, 60),
    bytes.fromhex("12000000ff00").ljust(16, b"\0"),
    bytes.fromhex("a00000000000000010000000").ljust(16, b"\0"),
    struct.pack(">BBIxHx6x", 0x41, 0, 0, 16),
)


class Peer:
    """An initiator and its connection. It counts commands and answers by initiator task tag."""

    def __init__(self, node: Node, shared: Shared, name: str, *, digests: str = "None") -> None:
        self.connection = Connection(node, "peer", "127.0.0.1:3260", self._take, shared=shared)
        self.cmd_sn = 1
        self.counting = True
        self.sent: Counter[int] = Counter()
        self.answered: Counter[int] = Counter()
        self.statuses: dict[int, int] = {}
        self.ttt = 0
        self._rest = b""
        self._digest_bytes = 0
        keys = {"InitiatorName": f"iqn.2026-01.test:{name}", "TargetName": IQN, "SessionType": "Normal"}
        keys |= {"InitialR2T": "No", "HeaderDigest": digests, "DataDigest": digests}
        keys |= {"MaxBurstLength": "4096", "FirstBurstLength": "2048", "MaxOutstandingR2T": "4"}
        text = b"".join(f"{key}={value}\0".encode() for key, value in keys.items())
        self._receive(
            pdu(Header(0x43, 0x87, 0, len(text), 0x400001370001 << 16, 1, 0, 1, 0, bytes(16)), text)
        )
        self._digest_bytes = 4 if digests != "None" else 0

    @property
    def over(self) -> bool:
        return self.connection.over

    def send(self, header: Header, data: bytes, additional: bytes = b"") -> None:
        if header.opcode & 0x3F == 0x01:
            self.sent[header.itt] += 1
        stream = pdu(header, data, additional)
        if self._digest_bytes and not additional:
            stream = b"".join(bytes(part) for part in with_digests([stream], header=True, data=True))
        self._receive(stream)

    def raw(self, stream: bytes) -> None:
        # It may hold commands: answers cannot be counted any more.
        self.counting = False
        self._receive(stream)

    def tick(self) -> None:
        if not self.connection.session.tick():  # type: ignore[union-attr]
            self.connection.close()

    def _receive(self, stream: bytes) -> None:
        self._rest += stream
        while not self.over and (taken := self.connection.receive(memoryview(self._rest))):
            self._rest = self._rest[taken:]
        self._take()

    def _take(self) -> None:
        stream = b"".join(bytes(part) for part in self.connection.take_out())
        at = 0
        while at < len(stream):
            require(at + 48 <= len(stream), "half a header is sent")
            fields = HEADER.unpack_from(stream, at)
            length, extra = fields[3] & 0xFFFFFF, self._digest_bytes
            if fields[0] != 0x23:
                self._answer(fields, stream[at + 48 + extra : at + 48 + extra + length])
            at += 48 + extra + (length + 3 & ~3) + (extra if length else 0)
        require(at == len(stream), "half a PDU is sent")

    def _answer(self, fields: tuple[int, ...], data: bytes) -> None:
        opcode, flags, detail, itt = fields[0], fields[1], fields[2], fields[5]
        require(opcode in _ANSWERS, f"an answer of opcode {opcode:02x}h")
        if opcode == 0x31:
            self.ttt = fields[6]
        if opcode == 0x21 or (opcode == 0x25 and flags & 1):
            self.answered[itt] += 1
            self.statuses[itt] = detail & 0xFF
            answered = not self.counting or self.answered[itt] <= self.sent[itt]
            require(answered, "a command is answered twice")


def pdu(header: Header, data: bytes, additional: bytes = b"") -> bytes:
    lengths = len(additional) // 4 << 24 | len(data)
    return HEADER.pack(*header._replace(lengths=lengths)) + additional + data + bytes(-len(data) & 3)


class World:
    def __init__(self, digests: str) -> None:
        self.devices = [StrictDevice(SIZE_BYTES) for _ in range(2)]
        units = {
            lun: LogicalUnit(device, Identity(bytes.fromhex(f"{_NAA}0{lun}"), f"fuzz-{lun}"))
            for lun, device in enumerate(self.devices)
        }
        self.node = Node()
        self.node.add_target(IQN, units)
        self.shared = Shared()
        self.a = Peer(self.node, self.shared, "a", digests=digests)
        self.b = Peer(self.node, self.shared, "b")

    def settle(self) -> None:
        for device in self.devices:
            device.holding = False
        for _ in range(_ROUNDS):
            if not sum(device.let_go() for device in self.devices):
                return
        raise AssertionError("the devices are never idle")

    def check(self) -> None:
        """Nothing is forgotten, nothing is held, and B can work, anew where A reset the target."""
        self.settle()
        session = self.a.connection.session
        require(session is not None, "the login failed")
        assert session is not None
        require(session.in_device == 0, "commands are never answered")
        if self.a.over:
            require(session.outstanding == 0, "a session that is over keeps commands")
        require(session.held_bytes == 0, "data is held for nothing")
        if self.b.over:
            self.b = Peer(self.node, self.shared, "b")
        for _ in range(32):
            itt = self.b.sent.total() + 1
            self.b.send(Header(0x41, 0x80, 0, 0, 0, itt, 0, 1, 0, bytes(16)), b"")
            self.settle()
            require(self.b.answered[itt] == 1, "another initiator is not answered")
            if self.b.statuses[itt] != 2:
                break
        if self.a.over:
            require(self.shared.budget.held_bytes == 0, "the budget has lost bytes")


def fuzz(data: bytes) -> None:
    source = Source(data)
    world = World("CRC32C" if source.number() & 1 else "None")
    for _ in range(_STEPS):
        if not source.left or world.a.over:
            break
        _step(source, world)
        session = world.a.connection.session
        assert session is not None
        require(session.held_bytes <= HELD_BYTES + TRANSFER_BYTES, "more is held than is allowed")
    world.check()
    world.a.connection.close()
    world.check()


def _step(source: Source, world: World) -> None:
    kind = source.number()
    what, a = kind & 7, world.a
    if what == 0:
        a.raw(source.up_to(source.number()))
    elif what == 1:
        device = world.devices[kind >> 3 & 1]
        device.holding = not device.holding
    elif what == 2:
        for device in world.devices:
            device.let_go()
    elif what == 3 and kind >> 3 & 7 == 7:
        a.tick()
    elif what <= 5:
        _command(source, a, kind >> 3)
    else:
        _any_pdu(source, a, kind >> 3)


def _command(source: Source, a: Peer, choice: int) -> None:
    """A SCSI command that is nearly right."""
    cdb = _CDBS[choice & 7] if not choice & 8 else source.exactly(16)
    flags, itt, expected = source.number(), source.number() & 0x0F, source.number(2)
    size = source.number()
    data = source.up_to(size).ljust(size * 4, b"\0")
    additional = source.exactly(4 * (source.number() & 15)) if choice & 16 else b""
    number = _cmd_sn(a, source.number() if flags & 1 else 0)
    lun = (flags >> 1 & 3) << 48
    a.send(
        Header(0x01 | (flags & 8) << 3, flags & 0xF0, 0, 0, lun, itt, expected, number, 0, cdb),
        data,
        additional,
    )


def _any_pdu(source: Source, a: Peer, choice: int) -> None:
    opcode = source.number() & 0x7F
    flags, itt = source.number(), source.number() & 0x0F
    word20 = (a.ttt, NO_TAG, source.number() & 0x0F, source.number(4))[choice & 3]
    number = _cmd_sn(a, source.number() if choice & 4 else 0, immediate=bool(opcode & 0x40))
    size = source.number()
    data = source.up_to(size).ljust(size * 4, b"\0")
    tail = source.exactly(16) if choice & 8 else struct.pack(">IIII", 0, source.number() & 7, size * 4, 0)
    lun = source.number() << 48 if choice & 16 else 0
    if opcode & 0x3F == 0x05:
        number = 0
    a.send(Header(opcode, flags, flags & 0xFF, 0, lun, itt, word20, number, 0, tail), data)


def _cmd_sn(a: Peer, off: int, *, immediate: bool = False) -> int:
    """The number that is due, or another near to it."""
    session = a.connection.session
    assert session is not None
    due = session.numbers(advance=False).exp_cmd_sn
    return due + (off if off < 128 else off - 256) & 0xFFFF_FFFF if not immediate else due
