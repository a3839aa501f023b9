"""Text requests of the full feature phase: SendTargets (RFC 7143 11.10, Appendix C)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from iscsi_rp.device import Buffer
from iscsi_rp.iscsi.chap import SECURITY_KEYS
from iscsi_rp.iscsi.keys import NEGOTIATED, NOT_UNDERSTOOD, REJECT
from iscsi_rp.iscsi.login import Login
from iscsi_rp.iscsi.pdu import CONTINUE, FINAL, NO_TAG, Header, Numbers, ProtocolError, text_response
from iscsi_rp.iscsi.text import TEXT_BYTES, Pairs, decode_text, encode_text

_TTT: Final = 1
"An exchange has one at a time: the initiator may not begin another before."


class TextExchange:
    """The text negotiations of one session, one after the other."""

    def __init__(self, login: Login, local: str) -> None:
        """`local`: the address that the initiator connected to, as SendTargets shows it."""
        self._node, self._initiator, self._target = login.node, login.initiator, login.target
        self._local, self._portal_group, self._parameters = local, login.portal_group, login.parameters
        self._request = bytearray()
        self._response = b""
        self._open = False

    def receive(self, header: Header, data: Buffer, numbers: Callable[[], Numbers]) -> bytes:
        """The answer to a Text Request. Raises `ProtocolError`."""
        if header.word20 == NO_TAG:
            self._request.clear()
            self._response = b""
        elif header.word20 != _TTT or not self._open:
            raise ProtocolError("A text request names no exchange of ours.")
        elif self._response and (data or header.flags & CONTINUE):
            raise ProtocolError("Text comes before our answer was complete.")
        self._open = True
        self._request += data
        if len(self._request) > TEXT_BYTES:
            raise ProtocolError("The text is too long.")
        if header.flags & CONTINUE:
            return text_response(header, 0, _TTT, numbers(), b"")
        if self._request:
            self._response = encode_text(self._answers(decode_text(self._request)))
            self._request.clear()
        limit = self._parameters.max_send_data_bytes
        part, self._response = self._response[:limit], self._response[limit:]
        if self._response:
            return text_response(header, CONTINUE, _TTT, numbers(), part)
        if not header.flags & FINAL:
            # The initiator has more to say, and only it may end the exchange (RFC 7143 11.11.1).
            return text_response(header, 0, _TTT, numbers(), part)
        self._open = False
        return text_response(header, FINAL, NO_TAG, numbers(), part)

    def _answers(self, pairs: Pairs) -> Pairs:
        answers: Pairs = []
        for key, value in pairs:
            if key == "SendTargets":
                answers += self._send_targets(value)
            elif key == "MaxRecvDataSegmentLength":
                if self._parameters.take(key, value) == REJECT:
                    answers.append((key, REJECT))
            elif key in NEGOTIATED or key in SECURITY_KEYS:
                answers.append((key, REJECT))  # Only while logging in.
            elif key != "InitiatorAlias":
                answers.append((key, NOT_UNDERSTOOD))
        return answers

    def _send_targets(self, which: str) -> Pairs:
        """All in a discovery session; in a normal one its own target, by name or the empty value."""
        if which == ("All" if self._target is not None else ""):
            return [("SendTargets", REJECT)]
        names = [self._target.name] if self._target is not None else self._node.targets_of(self._initiator)
        if which not in ("", "All"):
            names = [name for name in names if name.lower() == which.lower()]
        addresses = self._node.addresses(self._local, self._portal_group)
        found: Pairs = []
        for name in names:
            found.append(("TargetName", name))
            found += [("TargetAddress", address) for address in addresses]
        return found
