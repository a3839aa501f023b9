"""What can go wrong between us and LIO, each with its likely cause and what to do."""

import errno
import os
from typing import Final

from iscsi_rp.errors import ConfigError, ConflictError, Error

_CAUSES: Final[dict[int, tuple[str, str]]] = {
    errno.EACCES: ("only root may change it", "Run the array as root."),
    errno.EPERM: ("only root may change it", "Run the array as root."),
    errno.EBUSY: (
        "it is exported, or in use",
        "See what exports it: `targetcli ls`; end that, or wait until it has ended.",
    ),
    errno.EEXIST: ("somebody else has just made it", "Look with `targetcli ls`, and try again."),
    errno.ENOENT: (
        "it is gone, or the kernel has no such setting",
        "Somebody may have changed LIO at this moment: try again; see that the modules of LIO are loaded.",
    ),
    errno.ENODEV: ("the backstore is not enabled", "Remove it with `targetcli`, and try again."),
    errno.ESRCH: (
        "nobody listens to the events of user backstores (TCM-USER)",
        "The handler of the array has to run first: start the array, or restart it.",
    ),
    errno.EINVAL: (
        "the kernel takes no such value, or not in this state",
        "Look at the end of `dmesg`: the kernel says there what it refused.",
    ),
    errno.EADDRINUSE: (
        "the port is in use: by another process, or by another portal group or target of LIO",
        "See who has it: `ss -ltn` and `targetcli ls /iscsi`; give the portal another port or address.",
    ),
    errno.EADDRNOTAVAIL: (
        "this machine has no such address",
        "Add the address to an interface: `ip address`, or change the portal.",
    ),
    errno.ENOMEM: ("the kernel has no memory for it", "Free memory, and try again."),
    errno.ENOSPC: ("the kernel has no room for it", "Free memory, and try again."),
}


class LioError(Error):
    """LIO refused a change."""

    def __init__(
        self,
        detail: str | None = None,
        *,
        hint: str | None = None,
        path: str | None = None,
        errno: int | None = None,
    ) -> None:
        """`path` is that in configfs, `errno` what the kernel answered, where there was one."""
        super().__init__(detail, hint=hint)
        self.path = path
        self.errno = errno

    @classmethod
    def of(cls, what: str, path: str, number: int | None, said: str = "") -> "LioError":
        """What failed at a path of configfs. `said` stands for the cause where there is no error number."""
        if number is None:
            return cls(f"cannot {what}: {path}: {said}", path=path)
        cause, hint = _CAUSES.get(number, (os.strerror(number), None))
        name = errno.errorcode.get(number, str(number))
        return cls(f"cannot {what}: {path}: {cause} ({name})", hint=hint, path=path, errno=number)


class LioMissingError(LioError, ConfigError):
    """The kernel's target (LIO) is not there."""


class LioConflictError(LioError, ConflictError):
    """Something of somebody else in LIO is in the way."""


class LioUnsupportedError(LioError, ConfigError):
    """LIO cannot do this."""
