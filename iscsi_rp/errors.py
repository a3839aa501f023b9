"""The root of the project's errors. The docstring of a class is its message, the class owns the exit code
of the command.
"""

from typing import ClassVar


class Error(Exception):
    """Something went wrong."""

    exit_code: ClassVar[int] = 1
    "What `iscsi-rp` exits with when this error ends it (docs/cli.md lists them all)."

    hint: str | None = None
    "What to do next, one sentence; shown below the message."

    def __init__(self, detail: str | None = None, *, hint: str | None = None) -> None:
        """`detail` replaces the class's message where it can say more."""
        self.message = detail if detail is not None else (self.__doc__ or type(self).__name__).splitlines()[0]
        if hint is not None:
            self.hint = hint
        super().__init__(self.message)


class UsageError(Error):
    """The request makes no sense as it was given."""

    exit_code = 2


class ConfigError(Error):
    """The configuration is wrong."""

    exit_code = 3


class NotFoundError(Error):
    """There is no such object."""

    exit_code = 4


class ConflictError(Error):
    """The object is in a state that forbids this."""

    exit_code = 5


class UnreachableError(Error):
    """The daemon does not answer."""

    exit_code = 6


class VerifyError(Error):
    """What should be equal is not."""

    exit_code = 7
