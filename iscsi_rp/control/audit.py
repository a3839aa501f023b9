"""The audit trail: a line of the log for each request to an API that may change something.

It says who asked (the process at the other end of the Unix socket), for what, and what came of it. Bodies,
which may have secrets in them, are not in it; no route takes one by its path or query.
"""

import socket
import struct
from asyncio import BaseTransport
from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from iscsi_rp.clock import monotonic_s

_UCRED: Final = struct.Struct("3i")
"pid, uid, gid (unix(7))."

_log = structlog.get_logger(__name__)


class AuditedProtocol(H11Protocol):
    """uvicorn's, with the peer's uid and pid where a TCP server has host and port of its client."""

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        peer = transport.get_extra_info("socket")
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, uid, _ = _UCRED.unpack(credentials)
        self.client = (str(uid), pid)


class Audit:
    """Around an application that is served by `AuditedProtocol`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] == "GET":
            await self._app(scope, receive, send)
            return
        began_s = monotonic_s()
        status = 500  # unless it is answered

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            uid, pid = scope["client"]
            _log.info(
                "request",
                uid=int(uid),
                pid=pid,
                method=scope["method"],
                path=_text(scope["raw_path"]),  # as it came: what is escaped cannot begin a line of its own
                query=_text(scope["query_string"]),
                status=status,
                seconds=round(monotonic_s() - began_s, 3),
            )


def _text(raw: bytes) -> str:
    return raw.decode("ascii", "backslashreplace")
