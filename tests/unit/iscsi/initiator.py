"""PDUs as an initiator makes them, and a connection over memory to send them to."""

import struct
from typing import Any

from iscsi_rp.block import MemoryDevice
from iscsi_rp.device import BlockDevice, Done, Io
from iscsi_rp.iscsi import Connection, Node
from iscsi_rp.iscsi.pdu import HEADER, NO_TAG, Header
from iscsi_rp.scsi import Identity, LogicalUnit

IQN = "iqn.2026-01.test:disk"
NAME = "iqn.2026-01.test:host"
NAA = bytes.fromhex("6001405000000000000000000000001a")
ISID = 0x400001370001
SIZE = 16 << 20
REQUEST_SENSE = bytes((0x03, 0, 0, 0, 18)).ljust(16, b"\0")


class HeldDevice(MemoryDevice):
    """Memory that does nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__(SIZE)
        self.held: list[tuple[list[Io], Done]] = []
        self.holding = True

    def submit(self, batch: Any, done: Done) -> None:
        if not self.holding:
            return super().submit(batch, done)
        copied = [(*io[:3], bytes(io[3]) if io[3] is not None else None, *io[4:]) for io in batch]
        self.held.append((copied, done))
        return None

    def let_go(self) -> None:
        held, self.held = self.held, []
        for batch, done in held:
            super().submit(batch, done)


class Pdu:
    """A PDU from the target."""

    def __init__(self, header: bytes, data: bytes) -> None:
        self.opcode, self.flags, self.head, self.data = header[0] & 0x3F, header[1], header, data

    def word(self, at: int) -> int:
        return int(struct.unpack_from(">I", self.head, at)[0])

    @property
    def itt(self) -> int:
        return self.word(16)

    @property
    def max_cmd_sn(self) -> int:
        return self.word(32)


def split(stream: bytes) -> list[Pdu]:
    pdus, at = [], 0
    while at < len(stream):
        data, length = at + 48, int.from_bytes(stream[at + 5 : at + 8], "big")
        pdus.append(Pdu(stream[at:data], stream[data : data + length]))
        at = data + length + (-length & 3)
    return pdus


def pdu(
    opcode: int,
    flags: int,
    data: bytes = b"",
    *,
    lun: int = 0,
    itt: int = 1,
    word20: int = 0,
    sn: int = 0,
    tail: bytes = b"",
) -> bytes:
    head = HEADER.pack(*Header(opcode, flags, 0, len(data), lun, itt, word20, sn, 0, tail.ljust(16, b"\0")))
    return head + data + bytes(-len(data) & 3)


def login(keys: dict[str, str] | None = None, *, isid: int = ISID, flags: int = 0x87) -> bytes:
    pairs = {"InitiatorName": NAME, "TargetName": IQN, "SessionType": "Normal"} if keys is None else keys
    text = b"".join(f"{key}={value}\0".encode() for key, value in pairs.items())
    return pdu(0x43, flags, text, lun=isid << 16, sn=1)


OPEN = {"InitiatorName": NAME, "TargetName": IQN, "InitialR2T": "No", "MaxBurstLength": "65536"}


def write_10(lba: int, blocks: int) -> bytes:
    return struct.pack(">BBIxHx", 0x2A, 0, lba, blocks)


def read_10(lba: int, blocks: int) -> bytes:
    return struct.pack(">BBIxHx", 0x28, 0, lba, blocks)


def command(cdb: bytes, flags: int, expected: int, data: bytes = b"", *, itt: int, sn: int) -> bytes:
    return pdu(0x01, flags, data, itt=itt, word20=expected, sn=sn, tail=cdb)


def data_out(
    data: bytes, offset: int, *, itt: int, ttt: int = NO_TAG, sn: int = 0, final: bool = True
) -> bytes:
    tail = struct.pack(">III", 0, sn, offset)
    return pdu(0x05, 0x80 if final else 0, data, itt=itt, word20=ttt, tail=tail)


class Link:
    """A connection of a node with one target whose LUN 0 is `device`."""

    def __init__(self, device: BlockDevice | None = None, *, node: Node | None = None) -> None:
        self.device = device or MemoryDevice(SIZE)
        if node is None:
            node = Node()
            node.add_target(IQN, {0: LogicalUnit(self.device, Identity(NAA, "t"))})
        self.node = node
        self.later: list[Pdu] = []
        self.connection = Connection(node, "peer", "127.0.0.1:3260", self._flush)
        self._rest = b""

    def _flush(self) -> None:
        self.later += split(b"".join(self.connection.take_out()))

    def send(self, *pdus: bytes) -> list[Pdu]:
        stream = self._rest + b"".join(pdus)
        while taken := self.connection.receive(memoryview(stream)):
            stream = stream[taken:]
        self._rest = stream
        return split(b"".join(self.connection.take_out()))

    def opened(self, keys: dict[str, str] | None = None, *, isid: int = ISID) -> "Link":
        (answer,) = self.send(login(OPEN if keys is None else keys, isid=isid))
        assert (answer.opcode, answer.head[36]) == (0x23, 0)
        self.clear_attentions()
        return self

    def clear_attentions(self) -> None:
        """Take the POWER ON from each LUN without a PDU, so that tests can count those."""
        for session in self.node.sessions():
            for unit in session.nexus.luns.values():
                unit.submit(session.nexus, [(0, REQUEST_SENSE, None)], lambda _: None)
