"""A host that logs in to a `Login`, with CHAP of its own making."""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

from iscsi_rp.block import MemoryDevice
from iscsi_rp.iscsi import Access, Node
from iscsi_rp.iscsi.login import INITIATOR_ERROR, Login, LoginRefusedError
from iscsi_rp.iscsi.pdu import HEADER, Header, ProtocolError
from iscsi_rp.iscsi.text import decode_text, encode_text
from iscsi_rp.scsi import Identity, LogicalUnit

from .initiator import IQN, ISID, NAA, NAME

SECURITY_STAYS, SECURITY_TO_OPERATIONAL, SECURITY_TO_FULL = 0x00, 0x81, 0x83
OPERATIONAL_STAYS, OPERATIONAL_TO_FULL = 0x04, 0x87
NAMES = {"InitiatorName": NAME, "TargetName": IQN}
DISCOVERY = {"InitiatorName": NAME, "SessionType": "Discovery"}
HASHES = {"5": hashlib.md5, "6": hashlib.sha1, "7": hashlib.sha256, "8": hashlib.sha3_256}


def unit() -> LogicalUnit:
    return LogicalUnit(MemoryDevice(1 << 20), Identity(NAA, "t"))


def a_node(access: Access | None = None, luns: int = 1) -> Node:
    """One target; its challenges are all alike, so that who sees one knows the next."""
    node = Node(lambda length: b"\x5a" * length)
    node.add_target(IQN, {lun: unit() for lun in range(luns)})
    node.set_access(access or Access())
    return node


class Answer(NamedTuple):
    status: int
    flags: int
    keys: dict[str, str]
    tsih: int


class Host:
    """One connection that logs in."""

    def __init__(self, node: Node, *, portal_group: int = 1, isid: int = ISID, tsih: int = 0) -> None:
        self.login = Login(node, portal_group)
        self.isid, self.tsih, self.cid = isid, tsih, 0
        self.text = b""

    def say(self, keys: Mapping[str, str] | bytes = b"", flags: int = SECURITY_STAYS) -> Answer:
        data = keys if isinstance(keys, bytes) else encode_text(keys.items())
        session = self.isid << 16 | self.tsih
        header = Header(0x43, flags, 0, len(data), session, 1, self.cid << 16, 7, 0, bytes(16))
        try:
            answer = self.login.receive(header, data)
        except ProtocolError as error:
            status = error.status if isinstance(error, LoginRefusedError) else INITIATOR_ERROR
            answer = self.login.refusal(header, status)
        _, flags, _, length, lun, *_ = HEADER.unpack_from(answer)
        status = int.from_bytes(answer[36:38], "big")
        if status:
            return Answer(status, flags, {}, lun & 0xFFFF)
        self.text += answer[48 : 48 + length]
        keys = {}
        if not flags & 0x40:
            keys, self.text = dict(decode_text(self.text)), b""
        return Answer(status, flags, keys, lun & 0xFFFF)

    def challenged(self, algorithms: str = "7", names: Mapping[str, str] = NAMES) -> dict[str, str]:
        """As far as the target's challenge."""
        method = self.say({**names, "AuthMethod": "CHAP,None"})
        assert (method.status, method.keys["AuthMethod"]) == (0, "CHAP")
        answer = self.say({"CHAP_A": algorithms})
        assert answer.status == 0
        return answer.keys


def response(challenge: Mapping[str, str], secret: bytes, algorithm: str) -> str:
    """CHAP_R to CHAP_I and CHAP_C (RFC 1994 4.1)."""
    identifier = bytes([int(challenge["CHAP_I"])])
    return "0x" + HASHES[algorithm](identifier + secret + bytes.fromhex(challenge["CHAP_C"][2:])).hexdigest()
