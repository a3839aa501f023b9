"""Data on its way in: the data of one write that did not come whole with its command (RFC 7143 11.7,
11.8).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from iscsi_rp.device import Buffer
from iscsi_rp.iscsi.pdu import FINAL, NO_TAG, Header, ProtocolError
from iscsi_rp.scsi.sense import INCORRECT_AMOUNT_OF_DATA, PROTOCOL_SERVICE_CRC_ERROR, Sense

GRANTED_BYTES: Final = 8 << 20
"Data that a connection is asked for at once; further transfers wait for their R2T."


@dataclass(slots=True, eq=False)
class Transfer:
    """Comes in order (DataPDUInOrder, DataSequenceInOrder), one R2T at a time (MaxOutstandingR2T 1)."""

    header: Header
    "Of the command."
    wanted: int
    "Bytes that the command needs."
    data: bytearray
    unsolicited_limit: int
    "Where unsolicited data must end."
    unsolicited: bool
    "More of it comes without an R2T."
    granted: bool = False
    ttt: int = NO_TAG
    burst_end: int = 0
    data_sn: int = 0
    r2t_sn: int = 0
    error: Sense | None = None
    "What the command ends with instead of reaching its logical unit."

    @property
    def complete(self) -> bool:
        return not self.unsolicited and len(self.data) >= self.wanted

    def next_burst(self, ttt: int, max_burst_bytes: int) -> tuple[int, int, int]:
        """(R2TSN, offset, length) of the R2T to send."""
        offset = len(self.data)
        self.burst_end = min(offset + max_burst_bytes, self.wanted)
        self.ttt, self.data_sn = ttt, 0
        self.r2t_sn += 1
        return self.r2t_sn - 1, offset, self.burst_end - offset

    def take(self, header: Header, data: Buffer) -> bool:
        """Take a Data-Out; true when it was the last of its sequence. Raises `ProtocolError`.

        One that is out of order or too long breaks the command: the rest of it is dropped, and it ends
        with `error` at the end of the sequence (RFC 7143 7.7, 7.9).
        """
        end = self.unsolicited_limit if self.unsolicited else self.burst_end
        data_sn = int.from_bytes(header.tail[4:8], "big")
        offset = int.from_bytes(header.tail[8:12], "big")
        final = bool(header.flags & FINAL)
        if header.word20 != self.ttt:
            raise ProtocolError("Data came that nobody asked for.")
        if data_sn != self.data_sn or offset != len(self.data):
            self.error = PROTOCOL_SERVICE_CRC_ERROR
        elif offset + len(data) > end or (final and not self.unsolicited and offset + len(data) < end):
            self.error = INCORRECT_AMOUNT_OF_DATA
        if self.error is None:
            self.data += data
            self.data_sn += 1
        return final


class Transfers:
    """The transfers of one connection, by initiator task tag, and who waits for an R2T."""

    def __init__(self) -> None:
        self._by_itt: dict[int, Transfer] = {}
        self._granted_bytes = 0

    def __contains__(self, itt: int) -> bool:
        return itt in self._by_itt

    def __len__(self) -> int:
        return len(self._by_itt)

    def __getitem__(self, itt: int) -> Transfer:
        return self._by_itt[itt]

    def add(self, transfer: Transfer) -> None:
        self._by_itt[transfer.header.itt] = transfer

    def remove(self, itt: int) -> Transfer:
        transfer = self._by_itt.pop(itt)
        if transfer.granted:
            self._granted_bytes -= transfer.wanted
        return transfer

    def tags(self) -> list[int]:
        return list(self._by_itt)

    def grant(self) -> Iterator[Transfer]:
        """Those that may have their first R2T now, in order of arrival."""
        for transfer in self._by_itt.values():
            if transfer.granted or transfer.unsolicited:
                continue
            if self._granted_bytes and self._granted_bytes + transfer.wanted > GRANTED_BYTES:
                return
            transfer.granted = True
            self._granted_bytes += transfer.wanted
            yield transfer
