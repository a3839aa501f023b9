"""What can go wrong below `/recoverpoint`. The shell shows it, and ends with 1 where it runs one command."""

from __future__ import annotations


class RpError(Exception):
    """Something went wrong: `message`, and in `hint` what to do next."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message = message
        self.hint = hint
        super().__init__(message if hint is None else f"{message}\nhint: {hint}")

    @property
    def brief(self) -> str:
        """For the line of a node."""
        return self.message


class UnreachableError(RpError):
    """The daemon does not answer."""

    def __init__(self, daemon: str, path: str, reason: object) -> None:
        self._daemon = daemon
        super().__init__(
            f"the {daemon} does not answer at {path} ({reason})",
            "Start it by `iscsi-rp up`, or say by --state or --config where it lives.",
        )

    @property
    def brief(self) -> str:
        return (
            f"the {self._daemon} does not answer: `iscsi-rp up` starts it, unless it has a machine of its own"
        )
