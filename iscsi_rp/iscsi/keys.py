"""The keys of the operational negotiation: what we answer, and what follows (RFC 7143 13)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

MAX_RECV_DATA_BYTES: Final = 256 << 10
"The longest data segment that we take: MaxRecvDataSegmentLength."
LOGIN_DATA_BYTES: Final = 8192
"The same while logging in, by RFC 7143 13.12."
_MAX_BURST_BYTES: Final = 1 << 20
_FIRST_BURST_BYTES: Final = 64 << 10
_OUTSTANDING_R2T: Final = 4
_LENGTHS: Final = (512, (1 << 24) - 1)

REJECT: Final = "Reject"
NOT_UNDERSTOOD: Final = "NotUnderstood"
ANSWERS: Final = frozenset({REJECT, NOT_UNDERSTOOD, "Irrelevant"})
"Values that nobody may offer (RFC 7143 6.2)."

_Rule: TypeAlias = Callable[[str], str]


def _choose(*ours: str) -> _Rule:
    """A list: the initiator's first choice that we have."""

    def rule(value: str) -> str:
        return next((choice for choice in value.split(",") if choice in ours), REJECT)

    return rule


def parse_number(value: str, low: int, high: int) -> int | None:
    """A numerical value, decimal or hexadecimal (RFC 7143 6.1); None when it is none or out of range."""
    try:
        if not value.isascii() or not value.isalnum():
            return None
        number = int(value, 16 if value[:2] in ("0x", "0X") else 10)
    except ValueError:
        return None
    return number if low <= number <= high else None


def _number(low: int, high: int, result: Callable[[int, int], int], ours: int) -> _Rule:
    def rule(value: str) -> str:
        theirs = parse_number(value, low, high)
        return REJECT if theirs is None else str(result(theirs, ours))

    return rule


def _boolean(result: Callable[[bool, bool], bool], ours: bool) -> _Rule:
    def rule(value: str) -> str:
        if value not in ("Yes", "No"):
            return REJECT
        return "Yes" if result(value == "Yes", ours) else "No"

    return rule


def _or(theirs: bool, ours: bool) -> bool:
    return theirs or ours


def _and(theirs: bool, ours: bool) -> bool:
    return theirs and ours


NEGOTIATED: Final[dict[str, _Rule]] = {
    "HeaderDigest": _choose("CRC32C", "None"),
    "DataDigest": _choose("CRC32C", "None"),
    "MaxConnections": _number(1, 65535, min, 1),
    "InitialR2T": _boolean(_or, False),
    "ImmediateData": _boolean(_and, True),
    "MaxBurstLength": _number(*_LENGTHS, min, _MAX_BURST_BYTES),
    "FirstBurstLength": _number(*_LENGTHS, min, _FIRST_BURST_BYTES),
    "DefaultTime2Wait": _number(0, 3600, max, 0),
    "DefaultTime2Retain": _number(0, 3600, min, 0),
    "MaxOutstandingR2T": _number(1, 65535, min, _OUTSTANDING_R2T),
    "DataPDUInOrder": _boolean(_or, True),
    "DataSequenceInOrder": _boolean(_or, True),
    "ErrorRecoveryLevel": _number(0, 2, min, 0),
    "iSCSIProtocolLevel": _number(0, 31, min, 1),
    "TaskReporting": _choose("RFC3720"),
    # Obsolete, and never to be answered NotUnderstood (RFC 7143 13.25).
    "IFMarker": _choose("No"),
    "OFMarker": _choose("No"),
    "IFMarkInt": _choose(),
    "OFMarkInt": _choose(),
}
"Key -> how its value is answered."


@dataclass(slots=True)
class Parameters:
    """What a session works with; the defaults of RFC 7143 13 where nothing was agreed."""

    max_send_data_bytes: int = LOGIN_DATA_BYTES
    "The longest data segment that the initiator takes."
    max_burst_bytes: int = 256 << 10
    first_burst_bytes: int = 64 << 10
    initial_r2t: bool = True
    immediate_data: bool = True
    max_outstanding_r2t: int = 1
    "R2Ts of one command that may wait for their data at once."
    header_digest: bool = False
    "CRC32C over the header and what is added to it, in every PDU of the full feature phase."
    data_digest: bool = False
    "The same over each data segment."

    def take(self, key: str, value: str) -> str | None:
        """Take what the initiator offers or declares; the answer, or None where none is due."""
        if key == "MaxRecvDataSegmentLength":
            declared = parse_number(value, *_LENGTHS)
            if declared is None:
                return REJECT
            self.max_send_data_bytes = declared
            return None
        rule = NEGOTIATED.get(key)
        if rule is None:
            return NOT_UNDERSTOOD
        answer = rule(value)
        if answer == REJECT:
            return REJECT
        if key == "FirstBurstLength":
            # It may not exceed MaxBurstLength (RFC 7143 13.14).
            answer = str(min(int(answer), self.max_burst_bytes))
        self._agree(key, answer)
        return answer

    def _agree(self, key: str, value: str) -> None:
        if key == "MaxBurstLength":
            self.max_burst_bytes = int(value)
            self.first_burst_bytes = min(self.first_burst_bytes, self.max_burst_bytes)
        elif key == "FirstBurstLength":
            self.first_burst_bytes = int(value)
        elif key == "InitialR2T":
            self.initial_r2t = value == "Yes"
        elif key == "ImmediateData":
            self.immediate_data = value == "Yes"
        elif key == "MaxOutstandingR2T":
            self.max_outstanding_r2t = int(value)
        elif key == "HeaderDigest":
            self.header_digest = value == "CRC32C"
        elif key == "DataDigest":
            self.data_digest = value == "CRC32C"
