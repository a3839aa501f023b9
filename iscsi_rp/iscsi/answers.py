"""What a session sends: sequence numbers, responses, data (RFC 7143 4.2.2, 11.4, 11.7)."""

from collections.abc import Callable
from typing import Final

from iscsi_rp.device import Buffer
from iscsi_rp.iscsi.login import WINDOW, Login
from iscsi_rp.iscsi.pdu import (
    DATA_IN,
    FINAL,
    IMMEDIATE,
    NO_TAG,
    PADDING,
    SCSI_RESPONSE,
    Header,
    Numbers,
    async_message,
    reject,
)

WRAP: Final = 0xFFFF_FFFF


class Answers:
    """Answers gather in `out`, which the connection takes at the end of a wake-up."""

    def __init__(self, login: Login, flush: Callable[[], None]) -> None:
        """`flush` is called when there are answers outside of a wake-up; it must send them."""
        self.out: list[Buffer] = []
        self.over = False
        "The connection is to be closed once `out` is sent."
        self._parameters, self._flush = login.parameters, flush
        self._stat_sn, self._exp_cmd_sn = login.stat_sn, login.cmd_sn
        self._max_cmd_sn = login.cmd_sn + WINDOW - 1 & WRAP
        self._receiving = False

    def numbers(self, *, advance: bool = True) -> Numbers:
        numbers = Numbers(self._stat_sn, self._exp_cmd_sn, self._max_cmd_sn)
        if advance:
            self._stat_sn = self._stat_sn + 1 & WRAP
        return numbers

    def answer(self, pdu: Callable[[Numbers], bytes]) -> None:
        """Send an answer to something other than a SCSI command."""
        if not self.over:
            self.out.append(pdu(self.numbers()))
            self._flush_later()

    def reject(self, header: Header, reason: int) -> None:
        self.out.append(reject(header, reason, self.numbers()))

    def tell(self, event: int, *, lun: int = 0, seconds: int = 0, sense: bytes = b"") -> None:
        """Send an asynchronous message; `seconds` is its third parameter, which logout requests use."""
        if not self.over:
            parameters = (0, 0, seconds)
            self.out.append(async_message(event, self.numbers(), lun=lun, parameters=parameters, sense=sense))
            self._flush_later()

    def _flush_later(self) -> None:
        if not self._receiving:
            self._flush()

    def _ended_one(self, opcode: int) -> None:
        """A command of this opcode is no more: the window opens by one, if it took part in it."""
        if not opcode & IMMEDIATE:
            self._max_cmd_sn = self._max_cmd_sn + 1 & WRAP

    def _send_data(self, itt: int, data: memoryview, max_send: int) -> int:
        """Data-In PDUs for data that is longer than one; each sequence ends at MaxBurstLength. Returns how
        many there are.
        """
        max_burst = self._parameters.max_burst_bytes
        at = data_sn = 0
        while at < len(data):
            burst_left = max_burst - at % max_burst
            part = data[at : at + min(max_send, burst_left)]
            end = at + len(part)
            final = FINAL if end == len(data) or len(part) == burst_left else 0
            numbers = (0, self._exp_cmd_sn, self._max_cmd_sn)
            self.out.append(DATA_IN.pack(0x25, final, 0, len(part), itt, NO_TAG, *numbers, data_sn, at, 0))
            self.out.append(part)
            if len(part) & 3:
                self.out.append(PADDING[len(part) & 3])
            at, data_sn = end, data_sn + 1
        return data_sn

    def _respond(
        self, itt: int, status: int, sense: Buffer, expected: int, transfer: int, data_sn: int = 0
    ) -> None:
        """A SCSI Response after `data_sn` R2Ts or Data-Ins; the residual tells how far the CDB's transfer
        length and the expected one differ.
        """
        under = expected - transfer
        residual = residual_flags(under)
        segment = len(sense).to_bytes(2, "big") + sense if sense else b""
        head = (0x21, residual, 0, status, len(segment), itt, *self.numbers(), data_sn, 0, abs(under))
        self.out.append(SCSI_RESPONSE.pack(*head))
        if segment:
            self.out.append(segment + PADDING[len(segment) & 3])


def residual_flags(under: int) -> int:
    """F, with U or O: the expected length is `under` bytes more than the CDB moves (RFC 7143 11.4.5)."""
    return 0x82 if under > 0 else 0x84 if under < 0 else 0x80
