"""What a front end tells of logins: lines in the log, and those that were refused."""

from collections import Counter, deque
from typing import Final, NamedTuple

import structlog

from iscsi_rp.clock import utc_ns
from iscsi_rp.iscsi import Refusal, Session
from iscsi_rp.iscsi.login import REASONS

REFUSALS_LOGGED: Final = 5
SESSIONS_LOGGED: Final = 100
"Lines of a tick of the server, 15 s: peers do not choose how long the log is. Of the rest it has the number."
KEPT: Final = 10
"The last refusals."

_log = structlog.get_logger(__name__)


class RefusedLogin(NamedTuple):
    """A login that was refused: when, and to whom."""

    time_ns: int
    "UTC."
    peer: str
    refusal: Refusal


class Logins:
    """Every `Stream` tells of its login, or of its refusal, and of its session's end."""

    def __init__(self) -> None:
        self.refused = Counter(dict.fromkeys(REASONS.values(), 0))
        "By reason."
        self.last_refused: deque[RefusedLogin] = deque(maxlen=KEPT)
        "The newest stands at the end."
        self._refusals = self._sessions = 0

    def refuse(self, peer: str, refusal: Refusal) -> None:
        self.refused[refusal.reason] += 1
        self.last_refused.append(RefusedLogin(utc_ns(), peer, refusal))
        self._refusals += 1
        if self._refusals <= REFUSALS_LOGGED:
            _log.warning("login refused", peer=peer, **refusal._asdict())

    def begin(self, session: Session) -> None:
        self._tell("login", session, auth=session.auth)

    def end(self, session: Session) -> None:
        self._tell("logout" if session.logged_out else "session ended", session)

    def tick(self) -> None:
        """Called at intervals."""
        if self._refusals > REFUSALS_LOGGED:
            _log.warning("more logins refused", number=self._refusals - REFUSALS_LOGGED)
        if self._sessions > SESSIONS_LOGGED:
            _log.info("more logins and logouts", number=self._sessions - SESSIONS_LOGGED)
        self._refusals = self._sessions = 0

    def _tell(self, event: str, session: Session, **more: str) -> None:
        self._sessions += 1
        if self._sessions <= SESSIONS_LOGGED:
            target = session.target.name if session.target is not None else "discovery"
            _log.info(
                event,
                initiator=session.initiator,
                peer=session.peer,
                target=target,
                portal=session.local,
                session=session.tsih,
                **more,
            )
