"""Initiators that cost nothing: a socket each, PDUs by hand."""

import socket
import struct
from typing import Final

from iscsi_rp.iscsi.pdu import HEADER, Header
from tests.kit.target_process import IQN

PATIENCE_S: Final = 30.0
READ_BLOCKS: Final = 2048


class LoginError(Exception):
    """The target did not let us in."""


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE_S)


def login_request(number: int) -> bytes:
    """A login with all it needs, of an initiator of its own for each number."""
    name = f"iqn.2026-11.io.iscsi-rp:soak-{number}"
    keys = {"InitiatorName": name, "TargetName": IQN, "SessionType": "Normal", "AuthMethod": "None"}
    text = b"".join(f"{key}={value}\0".encode() for key, value in keys.items())
    return _pdu(Header(0x43, 0x83, 0, len(text), 0x400001370001 << 16, 1, 0, 1, 0, bytes(16)), text)


def log_in(port: int, number: int) -> socket.socket:
    """An idle session. Raises `LoginError`."""
    peer = connect(port)
    peer.sendall(login_request(number))
    answer = peer.recv(4096)
    if len(answer) < 48 or answer[0] != 0x23 or answer[36:38] != bytes(2):
        peer.close()
        raise LoginError(f"session {number}: {answer[:48].hex()}")
    return peer


def ask_and_never_read(peer: socket.socket, count: int) -> None:
    """Ask for `count` MiB, 1 MiB a command, and read nothing of it."""
    for at in range(count):
        cdb = struct.pack(">BBIxHx", 0x28, 0, 0, READ_BLOCKS).ljust(16, b"\0")
        peer.sendall(_pdu(Header(0x01, 0xC0, 0, 0, 0, at + 2, READ_BLOCKS * 512, at + 1, 0, cdb), b""))


def _pdu(header: Header, data: bytes) -> bytes:
    return HEADER.pack(*header) + data + bytes(-len(data) & 3)
