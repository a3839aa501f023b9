"""Data on its way in: the data of writes that did not come whole with their command (RFC 7143 11.7, 11.8)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from iscsi_rp.device import Buffer
from iscsi_rp.iscsi.budget import OWN_BYTES, Budget
from iscsi_rp.iscsi.pdu import FINAL, NO_TAG, Header, ProtocolError
from iscsi_rp.scsi import LogicalUnit
from iscsi_rp.scsi.sense import INCORRECT_AMOUNT_OF_DATA, PROTOCOL_SERVICE_CRC_ERROR, Sense

GRANTED_BYTES: Final = 8 << 20
"Data that a connection is asked for at once; further transfers wait for their R2T."


@dataclass(slots=True)
class Burst:
    """A sequence of Data-Out PDUs that is under way: what one R2T asks for, or what comes unsolicited."""

    ttt: int
    end: int
    "Where it ends in the command's data; unsolicited data may end before."
    data_sn: int = 0


class Asked(NamedTuple):
    """What an R2T says."""

    ttt: int
    r2t_sn: int
    offset: int
    length: int


@dataclass(slots=True, eq=False)
class Transfer:
    """The data of one command. It comes in order (DataPDUInOrder, DataSequenceInOrder)."""

    header: Header
    "Of the command."
    unit: LogicalUnit | None
    "What the initiator saw under that LUN when the command came: nothing else may get its data."
    wanted: int
    "Bytes that the command needs."
    data: bytearray
    bursts: list[Burst] = field(default_factory=list)
    "Under way, in the order in which they were asked for."
    granted: bool = False
    asked: int = 0
    "Data up to here has come or was asked for."
    r2t_sn: int = 0
    error: Sense | None = None
    "What the command ends with instead of reaching its logical unit."
    held_bytes: int = 0
    "Of the budget."

    @property
    def over(self) -> bool:
        """Nothing more comes: all data is there, or it has failed and the last burst has ended."""
        return not self.bursts and (self.error is not None or len(self.data) >= self.wanted)

    def expect_unsolicited(self, limit: int) -> None:
        """Data comes without an R2T, up to `limit`."""
        self.bursts.append(Burst(NO_TAG, limit))

    def ask(self, ttt: int, max_burst_bytes: int, outstanding: int) -> Asked | None:
        """The next R2T, if there may be one more with `outstanding` at once."""
        if self.error is not None or self.asked >= self.wanted or len(self.bursts) >= outstanding:
            return None
        offset, self.asked = self.asked, min(self.asked + max_burst_bytes, self.wanted)
        self.bursts.append(Burst(ttt, self.asked))
        self.r2t_sn += 1
        return Asked(ttt, self.r2t_sn - 1, offset, self.asked - offset)

    def take(self, header: Header, data: Buffer, *, damaged: bool = False) -> bool:
        """Take a Data-Out; true when it was the last of its burst. Raises `ProtocolError`.

        One that is `damaged`, out of order or too long breaks the command: the rest of it is dropped, and it
        ends with `error` when all bursts have ended (RFC 7143 7.7, 7.8, 7.9).
        """
        burst = next((burst for burst in self.bursts if burst.ttt == header.word20), None)
        if burst is None:
            raise ProtocolError("Data came that nobody asked for.")
        data_sn = int.from_bytes(header.tail[4:8], "big")
        offset = int.from_bytes(header.tail[8:12], "big")
        final, solicited = bool(header.flags & FINAL), burst.ttt != NO_TAG
        end = offset + len(data)
        if damaged or burst is not self.bursts[0] or data_sn != burst.data_sn or offset != len(self.data):
            self.error = self.error or PROTOCOL_SERVICE_CRC_ERROR
        elif end > burst.end or (final and solicited and end < burst.end):
            self.error = self.error or INCORRECT_AMOUNT_OF_DATA
        if self.error is None:
            self.data += data
            burst.data_sn += 1
        if final:
            self.bursts.remove(burst)
            self.asked = self.asked if solicited else len(self.data)
        return final


class Transfers:
    """The transfers of one connection, by initiator task tag, and who waits for an R2T."""

    def __init__(self, budget: Budget) -> None:
        self.by_itt: dict[int, Transfer] = {}
        "For who looks into it at each command; only `add` and `remove` change it."
        self._budget = budget
        self._granted_bytes = 0
        self.moved = False
        "Data has come."

    def __contains__(self, itt: int) -> bool:
        return itt in self.by_itt

    def __len__(self) -> int:
        return len(self.by_itt)

    def __getitem__(self, itt: int) -> Transfer:
        return self.by_itt[itt]

    def add(self, transfer: Transfer) -> None:
        self.by_itt[transfer.header.itt] = transfer
        transfer.held_bytes = transfer.bursts[0].end if transfer.bursts else len(transfer.data)
        self._budget.take(transfer.held_bytes)

    def remove(self, itt: int) -> Transfer:
        transfer = self.by_itt.pop(itt)
        if transfer.granted:
            self._granted_bytes -= transfer.wanted
        self._budget.give_back(transfer.held_bytes)
        return transfer

    def tags(self) -> list[int]:
        return list(self.by_itt)

    def stalled(self) -> bool:
        """Data is due, and the initiator has sent none since this was last asked."""
        due = any(transfer.bursts for transfer in self.by_itt.values())
        moved, self.moved = self.moved, False
        return due and not moved

    def grant(self) -> Iterator[Transfer]:
        """Those that may have their first R2T now, in order of arrival."""
        for transfer in self.by_itt.values():
            if transfer.granted or transfer.bursts:
                continue
            granted_bytes = self._granted_bytes + transfer.wanted
            if (self._budget.spent and granted_bytes > OWN_BYTES) or (
                self._granted_bytes and granted_bytes > GRANTED_BYTES
            ):
                return
            transfer.granted = True
            self._granted_bytes += transfer.wanted
            self._budget.take(transfer.wanted - transfer.held_bytes)
            transfer.held_bytes = transfer.wanted
            yield transfer
