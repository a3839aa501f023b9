"""What the kernel tells about user backstores: generic netlink, family TCM-USER (target_core_user.h).

Our own devices are configured so that the kernel waits for no reply. Others may have switched replies on for
all (tcmu-runner does), and then a device that was made by other hands waits in state D until somebody
answers. An answer that nobody waits for is refused, and complained of in the kernel's log.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from enum import IntEnum
from typing import Any, ClassVar, Final, NamedTuple

from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST, genlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import AsyncGenericNetlinkSocket

from iscsi_rp.errors import UnreachableError

FAMILY: Final = "TCM-USER"
GROUP: Final = "config"
VERSION: Final = 2
_REPLY_S: Final = 5.0
_SET_FEATURES: Final = 7
_NETLINK_GENERIC: Final = 16


class NoKernelTargetError(UnreachableError):
    """The kernel has no user backstores (TCMU)."""

    hint = "Load them: `modprobe target_core_user`. Without LIO there is the embedded front end."


class Event(IntEnum):
    """TCMU_CMD_*; what answers an event is three more."""

    ADDED = 1
    REMOVED = 2
    RECONFIGURED = 3


class DeviceEvent(NamedTuple):
    """Something happened to a user backstore, anybody's."""

    event: Event
    name: str
    "As in `/sys/class/uio/uioN/name`: `tcm-user/HBA/NAME/CONFIGURATION`."
    minor: int
    "Of `/dev/uioN`."
    device_id: int
    "What the answer names."
    config: str | None
    "RECONFIGURED: the new configuration."
    size_bytes: int | None
    "RECONFIGURED: the new size."


class _Message(genlmsg):  # type: ignore[misc]
    """A message of the family."""

    nla_map: ClassVar = (
        ("TCMU_ATTR_UNSPEC", "none"),
        ("TCMU_ATTR_DEVICE", "asciiz"),
        ("TCMU_ATTR_MINOR", "uint32"),
        ("TCMU_ATTR_PAD", "none"),
        ("TCMU_ATTR_DEV_CFG", "asciiz"),
        ("TCMU_ATTR_DEV_SIZE", "uint64"),
        ("TCMU_ATTR_WRITECACHE", "uint8"),
        ("TCMU_ATTR_CMD_STATUS", "int32"),
        ("TCMU_ATTR_DEVICE_ID", "uint32"),
        ("TCMU_ATTR_SUPP_KERN_CMD_REPLY", "uint8"),
    )


class Netlink:
    """Two sockets: events come by one, answers go by the other, so that they never wait for each other."""

    def __init__(self) -> None:
        self._events = AsyncGenericNetlinkSocket()
        self._answers = AsyncGenericNetlinkSocket()

    async def open(self) -> None:
        """From here on no event is missed. Raises `NoKernelTargetError`."""
        try:
            for each in (self._events, self._answers):
                each.module_err_level = "debug"  # it is told by the error
                await each.bind(FAMILY, _Message)
            self._events.add_membership(GROUP)
        except (NetlinkError, OSError) as error:
            await self.close()
            raise NoKernelTargetError(f"the kernel has no user backstores (TCMU): {error}") from error

    async def open_again(self) -> None:
        """After an error, an overrun above all: a socket that had one says nothing else from then on. What
        happened meanwhile is not told. Raises `NoKernelTargetError`.
        """
        await self.close()
        self._events, self._answers = AsyncGenericNetlinkSocket(), AsyncGenericNetlinkSocket()
        await self.open()

    async def close(self) -> None:
        for each in (self._events, self._answers):
            with contextlib.suppress(OSError):
                each.close()

    async def events(self) -> AsyncIterator[DeviceEvent]:
        """All that happens, until the task is cancelled."""
        while True:
            async for message in self._events.get():
                if message["cmd"] in list(Event):
                    yield _event(message)

    async def answer(self, event: DeviceEvent, status: int = 0) -> None:
        """Tell the kernel that an event was taken in, 0, or not: a negative errno."""
        message = _Message()
        message["cmd"], message["version"] = event.event + 3, VERSION
        message["attrs"] = [
            ("TCMU_ATTR_CMD_STATUS", status),
            ("TCMU_ATTR_DEVICE_ID", event.device_id),
        ]
        # Refused: somebody else has answered. And the kernel's word may be late where it is busy.
        with contextlib.suppress(NetlinkError, TimeoutError):
            async with asyncio.timeout(_REPLY_S):
                await self._request(message)

    def ask_for_replies(self, wanted: bool) -> None:
        """Whether the kernel is to wait for answers about devices that are enabled from now on, anybody's. It
        is in force when this returns.
        """
        message = _Message()
        message["cmd"], message["version"] = _SET_FEATURES, VERSION
        message["attrs"] = [("TCMU_ATTR_SUPP_KERN_CMD_REPLY", int(wanted))]
        message["header"]["type"], message["header"]["flags"] = self._answers.prid, NLM_F_REQUEST
        message.encode()
        # The kernel does it within the call. Whatever it says goes with the socket.
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_GENERIC) as line:
            line.bind((0, 0))
            line.send(message.data)

    async def _request(self, message: _Message) -> None:
        # Only with ACK: an error that nobody asked for would end the reader.
        flags = NLM_F_REQUEST | NLM_F_ACK
        async for _ in await self._answers.nlm_request(message, self._answers.prid, flags):
            pass


def _event(message: Any) -> DeviceEvent:
    return DeviceEvent(
        Event(message["cmd"]),
        message.get_attr("TCMU_ATTR_DEVICE") or "",
        message.get_attr("TCMU_ATTR_MINOR") or 0,
        message.get_attr("TCMU_ATTR_DEVICE_ID") or 0,
        message.get_attr("TCMU_ATTR_DEV_CFG"),
        message.get_attr("TCMU_ATTR_DEV_SIZE"),
    )
