"""Login and text negotiation: nobody gets in who must not, and nothing but a refusal comes of nonsense.

The initiator `open` needs no authentication, `chap` must prove a secret, whoever is not listed is refused.
The fuzzer chooses texts, stages and flags; it can also have the answer to the last CHAP challenge computed.
"""

import hashlib
import re
from typing import Final

from iscsi_rp.block import MemoryDevice
from iscsi_rp.iscsi import Connection, Node
from iscsi_rp.iscsi.access import Access, Chap, InitiatorAccess
from iscsi_rp.iscsi.keys import LOGIN_DATA_BYTES
from iscsi_rp.iscsi.pdu import HEADER, Header
from iscsi_rp.scsi import Identity, LogicalUnit
from tests.fuzz.source import Source
from tests.fuzz.stream import IQN, pdu
from tests.fuzz.strict_device import require

_NAA: Final = bytes.fromhex("6001405000000000000000000000001a")
_STEPS: Final = 32
_SECRET: Final = b"the secret of the initiator"
_MUTUAL: Final = b"the secret of the target"
_HASHES: Final = {b"5": "md5", b"6": "sha1", b"7": "sha256", b"8": "sha3_256"}

OPEN: Final = "iqn.2026-01.test:open"
PROVES: Final = "iqn.2026-01.test:chap"
_ACCESS: Final = Access(
    listed_only=True,
    initiators={
        OPEN: InitiatorAccess(),
        PROVES: InitiatorAccess(chap=Chap("user", _SECRET), mutual=Chap("target", _MUTUAL)),
    },
    discovery=InitiatorAccess(chap=Chap("user", _SECRET)),
)
_WORDS: Final[tuple[bytes, ...]] = (
    f"InitiatorName={OPEN}\0TargetName={IQN}\0SessionType=Normal\0".encode(),
    f"InitiatorName={PROVES}\0TargetName={IQN}\0AuthMethod=CHAP\0".encode(),
    f"InitiatorName={PROVES}\0SessionType=Discovery\0AuthMethod=CHAP,None\0".encode(),
    b"AuthMethod=CHAP,None\0",
    b"AuthMethod=None\0",
    b"CHAP_A=7,5\0",
    b"CHAP_A=8,6\0",
    b"CHAP_N=user\0CHAP_R=0x00\0",
    b"CHAP_I=1\0CHAP_C=0x0102030405060708090a0b0c0d0e0f10\0",
    b"HeaderDigest=CRC32C,None\0DataDigest=CRC32C\0",
    b"MaxRecvDataSegmentLength=65536\0MaxBurstLength=262144\0FirstBurstLength=65536\0",
    b"InitialR2T=No\0ImmediateData=Yes\0MaxOutstandingR2T=4\0ErrorRecoveryLevel=2\0",
    b"SendTargets=All\0",
    f"InitiatorName=iqn.2026-01.test:stranger\0TargetName={IQN}\0".encode(),
    b"DefaultTime2Wait=0\0DefaultTime2Retain=20\0MaxConnections=8\0",
    b"X-com.example=1\0TaskReporting=ResponseFence,RFC3720\0iSCSIProtocolLevel=2\0",
)


class Peer:
    def __init__(self) -> None:
        node = Node(random_bytes=lambda size: bytes(range(1, 256))[:size])
        node.add_target(IQN, {0: LogicalUnit(MemoryDevice(1 << 16), Identity(_NAA, "fuzz"))})
        node.set_access(_ACCESS)
        self.connection = Connection(node, "peer", "127.0.0.1:3260", self._take)
        self.proved = False
        "The secret was used."
        self.challenge: tuple[bytes, bytes, bytes] | None = None
        "(algorithm, identifier, challenge) of the target."
        self._rest = b""

    def receive(self, stream: bytes) -> None:
        self._rest += stream
        while not self.connection.over and (taken := self.connection.receive(memoryview(self._rest))):
            self._rest = self._rest[taken:]
        self._take()

    def answer(self) -> bytes:
        """What proves the secret."""
        if self.challenge is None:
            return b""
        algorithm, identifier, challenge = self.challenge
        self.proved = True
        text = bytes((int(identifier) & 0xFF,)) + _SECRET + bytes.fromhex(challenge.decode())
        return b"CHAP_N=user\0CHAP_R=0x" + hashlib.new(_HASHES[algorithm], text).hexdigest().encode() + b"\0"

    def _take(self) -> None:
        stream = b"".join(bytes(part) for part in self.connection.take_out())
        session = self.connection.session
        if session is not None and (session.target is None or session.initiator != OPEN):
            require(self.proved, f"{session.initiator} is in without a proof")
        if session is not None:
            require(session.initiator in (OPEN, PROVES) or session.target is None, "a stranger is in")
        at = 0
        while at < len(stream):
            fields = HEADER.unpack_from(stream, at)
            length = fields[3] & 0xFFFFFF
            require(length <= LOGIN_DATA_BYTES or session is not None, "an answer is too long")
            data = stream[at + 48 : at + 48 + length]
            require(_SECRET not in stream and _MUTUAL not in stream, "a secret is sent")
            found = re.search(rb"CHAP_A=(\d)\0CHAP_I=(\d+)\0CHAP_C=0x([0-9a-fA-F]+)\0", data)
            if found is not None:
                self.challenge = (found[1], found[2], found[3])
            if session is not None and session.parameters.header_digest:
                return
            at += 48 + (length + 3 & ~3)


def fuzz(data: bytes) -> None:
    source, peer = Source(data), Peer()
    for _ in range(_STEPS):
        if not source.left or peer.connection.over:
            break
        _step(source, peer)
    peer.connection.close()


def _step(source: Source, peer: Peer) -> None:
    flags = source.number()
    # Mostly legal stages, so that it gets somewhere.
    kind = source.number()
    text = b""
    for _ in range(kind & 3):
        choice = source.number()
        if choice & 0x80:
            text += source.up_to(choice & 0x7F)
        elif choice & 0x40:
            text += peer.answer()
        else:
            text += _WORDS[choice & 0x0F]
    if kind & 4:
        peer.receive(source.up_to(64))
        return
    opcode = (0x43, 0x43, 0x43, 0x04)[kind >> 3 & 3]
    word20 = 0xFFFF_FFFF if opcode == 0x04 else 0
    lun = 0x400001370001 << 16 | (source.number(2) if kind & 0x80 else 0)
    header = Header(
        opcode, flags & 0xCF, source.number(2) if kind & 0x40 else 0, 0, lun, 1, word20, 1, 1, bytes(16)
    )
    peer.receive(pdu(header, text))
