"""Where the daemons are, and what they said last."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from targetcli_rp.api import Api
from targetcli_rp.errors import RpError

try:
    import tomllib
except ImportError:  # Python 3.11 has it first
    tomllib = None  # type: ignore[assignment]

ENVIRONMENT = "ISCSI_RP_CONFIG"
PLACES = ("iscsi-rp.toml", "/etc/iscsi-rp/iscsi-rp.toml")
FRESH_S = 0.5
"So long an answer is shown again: a listing of the tree asks each daemon once, and shows one moment."


class Site:
    """Array and appliance by the folder of their state."""

    def __init__(self, state: Path) -> None:
        self.array = Api("array", str(state / "array/api.sock"))
        self.appliance = Api("appliance", str(state / "appliance/api.sock"))
        self._answers: dict[str, tuple[float, Any]] = {}

    def array_status(self) -> Any:
        return self._ask("array", self.array.status)

    def appliance_status(self) -> Any:
        return self._ask("appliance", self.appliance.status)

    def bookmarks(self, group: str) -> Any:
        return self._ask(f"bookmarks of {group}", lambda: self.appliance.get("groups", group, "bookmarks"))

    def forget(self) -> None:
        """What the daemons said is out of date."""
        self._answers.clear()

    def _ask(self, what: str, ask: Callable[[], Any]) -> Any:
        asked_s, answer = self._answers.get(what, (0.0, None))
        if answer is None or time.monotonic() - asked_s > FRESH_S:
            try:
                answer = ask()
            except RpError as error:  # kept, too: a daemon that hangs is waited for once, not at each node
                answer = error
            self._answers[what] = (time.monotonic(), answer)
        if isinstance(answer, RpError):
            raise answer
        return answer


def find_state(state: str | None, config: str | None) -> Path:
    """The state's folder, as `iscsi-rp` finds it: given, by the configuration, or the default.

    Raises `RpError` for a configuration that cannot be read.
    """
    if state is not None:
        return Path(state).absolute()
    given = config or os.environ.get(ENVIRONMENT)
    file = Path(given) if given else next((Path(place) for place in PLACES if Path(place).exists()), None)
    if file is None:
        return _default()
    if tomllib is None:
        raise RpError(f"this Python is too old to read {file}", "Say by --state where the state is.")
    try:
        with file.open("rb") as opened:
            named = tomllib.load(opened).get("state")
    except (OSError, ValueError) as error:
        raise RpError(f"{file} cannot be read: {error}", "`iscsi-rp config check` tells more.") from error
    return _default() if named is None else file.absolute().parent / str(named)


def _default() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/iscsi-rp")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "iscsi-rp"
