"""targetcli's root with `/recoverpoint` in it."""

from __future__ import annotations

from typing import Any

from targetcli_rp.nodes.recoverpoint import RecoverPoint
from targetcli_rp.shell import ExecutionError
from targetcli_rp.site import Site


def root_class(stock: Any, site: Site) -> Any:
    """A subclass of targetcli's `UIRoot`, whose tree is hard-coded and made anew by each `refresh`."""

    class Root(stock):  # type: ignore[misc]
        def __init__(self, shell: Any, as_root: bool = False) -> None:
            try:
                super().__init__(shell, as_root)
            except Exception as error:
                raise _no_target(error) from error

        def refresh(self) -> None:
            try:
                super().refresh()
            except Exception as error:
                raise _no_target(error) from error
            RecoverPoint(self, site)

    return Root


def _no_target(error: Exception) -> ExecutionError:
    return ExecutionError(
        f"targetcli cannot start: {error}\n"
        "It needs the kernel's target (LIO: target_core_mod, configfs) and the system's D-Bus.\n"
        "`iscsi-rp` shows and does all that is below /recoverpoint, and needs neither."
    )
