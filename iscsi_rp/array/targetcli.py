"""What a stock targetcli is told of the volumes, and what keeps tcmu-runner from refusing the backstores that
targetcli and the restore service make of them.

tcmu-runner has the kernel wait for an answer about every device that is enabled, anybody's, and answers for
each: that it is none of its own, of ours. The first answer counts. So beside tcmu-runner the kernel is not to
wait as long as there is a volume whose backstore others make: a restore removes one and makes it again within
milliseconds, and asks nobody before.
"""

from collections.abc import Callable, Collection
from typing import Final

import structlog

from iscsi_rp.frontend.tcmu_bus import Bridge, BridgeState
from iscsi_rp.frontend.tcmu_server import SUBTYPE, TcmuServer

_DESCRIPTION: Final = "The name of a volume whose front end is lio: `iscsi-rp volume list` shows them."

_log = structlog.get_logger(__name__)


class Targetcli:
    """The subtype on the system bus, and the kernel's waiting for answers."""

    def __init__(self, server: TcmuServer, names: Callable[[], Collection[str]], *, made_here: bool) -> None:
        """`names` has the volumes whose front end is `lio`; `made_here`: the array makes their backstores,
        and then has the kernel wait for no answer about each.
        """
        self._server = server
        self._names = names
        self._made_here = made_here
        self._bridge = Bridge(SUBTYPE, _DESCRIPTION, self._check, self._tell_kernel)
        self._waits = True
        "The kernel, for answers: what it was told last."

    @property
    def state(self) -> BridgeState:
        return self._bridge.state

    async def start(self) -> None:
        """From here on others may restore what they saved, beside a tcmu-runner that runs already."""
        await self._bridge.start()

    async def stop(self) -> None:
        """The kernel is left as it is: what is restored before the next start is then taken over."""
        await self._bridge.stop()

    def volumes_changed(self) -> None:
        """`names` may be others now."""
        if self._bridge.state is BridgeState.REGISTERED and self._waits is self._others_make():
            self._tell_kernel()

    def _tell_kernel(self) -> None:
        """Also whenever a tcmu-runner is there anew: each has the kernel wait when it starts. Where none is
        there nobody would answer.
        """
        self._waits = not self._others_make()
        self._server.ask_for_replies(self._waits)
        _log.info("told the kernel, beside tcmu-runner", wait_for_answers=self._waits)

    def _others_make(self) -> bool:
        return not self._made_here and bool(self._names())

    def _check(self, config: str) -> str | None:
        """Why no backstore can be made of this configuration, if none can."""
        name = config.removeprefix(f"{SUBTYPE}/")
        if name not in self._names():
            there_is = "`iscsi-rp volume list` shows what there is"
            return f"there is no volume {name!r} whose front end is lio: {there_is}"
        if self._server.devices(name):
            return f"volume {name!r} is a backstore already"
        return None
