"""All connections of a front end: what they share, and how many there may be."""

import resource
from collections.abc import Iterable
from typing import Final

from iscsi_rp.frontend.iscsi_stream import ReceiveBuffer, Stream
from iscsi_rp.frontend.logins import Logins
from iscsi_rp.iscsi import Node, Session
from iscsi_rp.iscsi.shared import Shared

CONNECTIONS: Final = 2304
"Connections at once, logged in or not; one more is closed as soon as it is accepted."
LOGINS: Final = 256
"Connections that have not logged in; with one more the oldest of them is dropped."
_OTHER_FILES: Final = 512
"File descriptors that connections leave to the rest of the process."


class Streams:
    """Every `Stream` says when it is opened, logged in and gone."""

    def __init__(self, node: Node, shared: Shared) -> None:
        self.node, self.shared = node, shared
        self.buffer = ReceiveBuffer()
        self.logins = Logins()
        self._all: set[Stream] = set()
        self._logging_in: dict[Stream, None] = {}
        self._by_session: dict[int, Stream] = {}
        self._allowed = _connections_allowed()

    def all(self) -> list[Stream]:
        return list(self._all)

    def of(self, sessions: Iterable[Session]) -> list[Stream]:
        """The streams of sessions, as far as they have one."""
        streams = (self._by_session.get(session.tsih) for session in sessions)
        return [stream for stream in streams if stream is not None]

    def opened(self, stream: Stream) -> None:
        if len(self._all) >= self._allowed:
            return stream.abort()
        if len(self._logging_in) >= LOGINS:
            next(iter(self._logging_in)).abort()
        self._all.add(stream)
        self._logging_in[stream] = None
        return None

    def logged_in(self, stream: Stream) -> None:
        self._logging_in.pop(stream, None)
        if stream.session is not None:
            self._by_session[stream.session.tsih] = stream
            self.logins.begin(stream.session)

    def gone(self, stream: Stream) -> None:
        self._all.discard(stream)
        self._logging_in.pop(stream, None)
        if stream.session is not None:
            self.logins.end(stream.session)
            if self._by_session.get(stream.session.tsih) is stream:
                del self._by_session[stream.session.tsih]


def _connections_allowed() -> int:
    """`CONNECTIONS`, or fewer where the process may not open so many files."""
    wanted = CONNECTIONS + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < wanted:  # RLIM_INFINITY is -1
        soft = wanted if hard < 0 else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return CONNECTIONS if soft < 0 else min(CONNECTIONS, max(soft - _OTHER_FILES, soft // 2))
