"""An initiator that sends one command at a time and sees exactly what the target answers (RFC 7143)."""

import socket
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from iscsi_rp.iscsi.pdu import HEADER, Header

PATIENCE_S: Final = 30.0
_KEYS: Final = {
    "InitiatorName": "iqn.2026-11.io.iscsi-rp:differential",
    "SessionType": "Normal",
    "HeaderDigest": "None",
    "DataDigest": "None",
    "ImmediateData": "Yes",
    "InitialR2T": "Yes",
    "FirstBurstLength": "65536",
    "MaxRecvDataSegmentLength": "262144",
}


class WireError(Exception):
    """The target broke off, or said what it must not."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a command."""

    status: int
    sense: tuple[int, int, int] | None
    "Key, additional code and qualifier."
    data: bytes
    residual: int
    "Positive: fewer bytes than were expected; negative: the CDB asked for more."


class Wire:
    """A session with the LUN of `url`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        _, iqn, lun = parts.path.split("/")
        assert parts.hostname is not None
        self._lun = int(lun)
        self._socket = socket.create_connection((parts.hostname, parts.port or 3260), PATIENCE_S)
        self._cmd_sn, self._tag = 1, 0
        text = b"".join(f"{key}={value}\0".encode() for key, value in {**_KEYS, "TargetName": iqn}.items())
        head = Header(0x43, 0x87, 0, len(text), 0x400001370003 << 16, 0, 0, 1, 0, bytes(16))
        self._send(head, text)
        header, _ = self._receive()
        while header[0] == 0x23 and not header[1] & 0x80 and header[36:38] == bytes(2):
            # It has keys of its own to tell; we have none left.
            self._send(head._replace(lengths=0, exp_stat_sn=int.from_bytes(header[24:28], "big") + 1), b"")
            header, _ = self._receive()
        if header[0] != 0x23 or header[36:38] != bytes(2):
            raise WireError(f"the login is refused: {header.hex()}")
        self._stat_sn = int.from_bytes(header[24:28], "big")

    def close(self) -> None:
        self._socket.close()

    def command(self, cdb: bytes, expected: int, data: bytes | None) -> Answer:
        """`data` goes out, or `expected` bytes at most come in. Raises `WireError`."""
        self._tag += 1
        flags = 0x80 if not expected else 0xC0 if data is None else 0xA0
        head = Header(
            1, flags, 0, len(data or b""), self._lun << 48, self._tag, expected, self._cmd_sn, 0, cdb
        )
        self._cmd_sn += 1
        self._send(head._replace(exp_stat_sn=self._stat_sn + 1), data or b"")
        got = bytearray()
        while True:
            header, segment = self._receive()
            opcode, answer_flags, status = header[0] & 0x3F, header[1], header[3]
            if opcode == 0x25:
                got += segment
                if not answer_flags & 1:
                    continue
            elif opcode != 0x21:
                raise WireError(f"an answer of opcode {opcode:02x}h")
            self._stat_sn = int.from_bytes(header[24:28], "big")
            residual = int.from_bytes(header[44:48], "big")
            signed = residual if answer_flags & 2 else -residual if answer_flags & 4 else 0
            sense = _sense(segment[2:]) if opcode == 0x21 and status == 2 else None
            return Answer(status, sense, bytes(got), signed)

    def _send(self, header: Header, data: bytes) -> None:
        self._socket.sendall(HEADER.pack(*header) + data + bytes(-len(data) & 3))

    def _receive(self) -> tuple[bytes, bytes]:
        header = self._exactly(48)
        length = int.from_bytes(header[5:8], "big")
        self._exactly(header[4] * 4)
        return header, self._exactly(length + (-length & 3))[:length]

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            if not part:
                raise WireError("the target closed the connection")
            data += part
        return bytes(data)


def _sense(data: bytes) -> tuple[int, int, int]:
    if data[0] & 0x7F >= 0x72:
        return data[1] & 0x0F, data[2], data[3]
    return data[2] & 0x0F, data[12], data[13]
