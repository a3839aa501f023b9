"""Makes a subtype of user backstores known to `targetcli`, by way of the system bus.

`targetcli` asks one service for them, `org.kernel.TCMUService1`: its ObjectManager has an object for each
subtype, with `CheckConfig` and `ConfigDesc` (tcmu-runner, `tcmu-handler.xml`). That name has one owner:

- where tcmu-runner does not run, this process, which thereby keeps the bus from starting tcmu-runner;
- where it runs, tcmu-runner, which takes in what registers with it (`HandlerManager1.RegisterHandler`), asks
  for `CheckConfig` under a name and a path of its own, and forgets the subtype when that name is gone.

Both wait for the name in the bus's queue, so it passes from one to the other without a gap. tcmu-runner does
not ask to replace an owner, and systemd gives up its start while it stays without the name: it is for this
side to see that somebody waits, to register with it, and to step back.
"""

import asyncio
import contextlib
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Final

import structlog
from dbus_fast import AuthError, BusType, Message, MessageType, NameFlag, PropertyAccess
from dbus_fast.aio import MessageBus
from dbus_fast.annotations import DBusSignature, DBusStr
from dbus_fast.constants import RequestNameReply
from dbus_fast.service import ServiceInterface, dbus_method, dbus_property

from iscsi_rp.errors import Error

SERVICE: Final = "org.kernel.TCMUService1"
MANAGER: Final = f"{SERVICE}.HandlerManager1"
POLICY_FILE: Final = f"{SERVICE}.iscsi-rp.conf"
CALL_S: Final = 5.0
"For each answer of the bus, and of tcmu-runner."
LOOK_S: Final = 2.0
"How often is looked whether somebody waits for the name: the bus does not tell."
MAX_PAUSE_S: Final = 30.0
"Between two attempts at what has failed: each waits twice as long as the one before, up to this."

POLICY_HINT: Final = (
    f"Only root may, and only where a policy says so: install packaging/dbus/{POLICY_FILE} of the project "
    "to /etc/dbus-1/system.d, or tcmu-runner, which has its own."
)

_BUS: Final = "org.freedesktop.DBus"
_ACCESS_DENIED: Final = "org.freedesktop.DBus.Error.AccessDenied"

_log = structlog.get_logger(__name__)


class BridgeError(Error):
    """targetcli cannot be told of the subtype."""


class BridgeState(StrEnum):
    """How `targetcli` finds the subtype."""

    NO_BUS = "no bus"
    REFUSED = "refused"
    "It does not: the log says why."
    OWNER = "owns the service's name"
    REGISTERED = "registered with tcmu-runner"


class _Backstore(ServiceInterface):
    """The object of the subtype, as `targetcli` sees it."""

    def __init__(self, description: str, check: Callable[[str], str | None]) -> None:
        super().__init__(SERVICE)
        self.description = description
        self._check = check

    @dbus_method(name="CheckConfig")
    def check_config(self, config: DBusStr) -> Annotated[tuple[bool, str], DBusSignature("bs")]:
        return self.verdict(config)

    @dbus_property(access=PropertyAccess.READ, name="ConfigDesc")
    def config_desc(self) -> DBusStr:
        return self.description

    def verdict(self, config: str) -> tuple[bool, str]:
        refusal = self._check(config)
        return refusal is None, refusal or "success"


class Bridge:
    """Makes the subtype known to targetcli, by way of the system bus.

    `check` gets the configuration as targetcli has it, with the subtype in front (`rpsplit/data`); it answers
    None when that is good, else why not. Whoever may speak to the bus can ask it. `registered` is told of
    each tcmu-runner that has taken the subtype in.
    """

    def __init__(
        self,
        subtype: str,
        description: str,
        check: Callable[[str], str | None],
        registered: Callable[[], None],
    ) -> None:
        self._subtype = subtype
        self._backstore = _Backstore(description, check)
        self._registered = registered
        self._answered = asyncio.Event()
        "The bus has, or there is none."
        self._state = BridgeState.NO_BUS
        self._told: str | None = None
        "What was logged last, to say it once."
        self._pause_s = LOOK_S
        self._task: asyncio.Task[None] | None = None

    @property
    def state(self) -> BridgeState:
        return self._state

    async def start(self) -> None:
        """Begin. Returns when it is known how `targetcli` finds the subtype (`state`), or after `CALL_S`."""
        self._task = asyncio.create_task(self._run())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CALL_S):
                await self._answered.wait()

    async def stop(self) -> None:
        """Leave the bus; tcmu-runner forgets the subtype by itself."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _run(self) -> None:
        while True:
            try:
                await self._stay_connected()
            except Exception as error:  # whatever happens on the bus, the array goes on
                self._failed(BridgeState.NO_BUS, error)
            finally:
                self._state = BridgeState.NO_BUS
            await asyncio.sleep(self._pause_s)

    async def _stay_connected(self) -> None:
        """Raises whatever ends the connection; nothing else does."""
        bus = await _connect()
        changed = asyncio.Event()
        lost = asyncio.ensure_future(bus.wait_for_disconnect())  # type: ignore[no-untyped-call]
        lost.add_done_callback(lambda _: changed.set())
        try:
            registration = _Registration(bus, self._subtype, self._backstore, self._registered, changed)
            while not lost.done():
                changed.clear()
                try:
                    self._reached(await registration.settle())
                except BridgeError as error:
                    self._failed(BridgeState.OWNER if registration.owns else BridgeState.REFUSED, error)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause_s):
                        await changed.wait()
            raise EOFError
        except (EOFError, ConnectionError):  # reset, where it had not read our last call
            raise BridgeError("the bus has closed the connection") from None
        finally:
            bus.disconnect()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CALL_S):
                    await asyncio.gather(lost, return_exceptions=True)

    def _reached(self, state: BridgeState) -> None:
        self._answered.set()
        self._pause_s = LOOK_S
        self._told = None
        if state is not self._state:
            self._state = state
            _log.info("known to targetcli", backstore=f"user:{self._subtype}", how=str(state))

    def _failed(self, state: BridgeState, error: Exception) -> None:
        self._answered.set()
        self._state = state
        self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)
        reason = str(error) or type(error).__name__
        if reason != self._told:
            self._told = reason
            hint = getattr(error, "hint", None)
            _log.warning("unknown to targetcli", backstore=f"user:{self._subtype}", reason=reason, hint=hint)


class _Registration:
    """What one connection to the bus has reached."""

    def __init__(
        self,
        bus: MessageBus,
        subtype: str,
        backstore: _Backstore,
        registered: Callable[[], None],
        changed: asyncio.Event,
    ) -> None:
        self.owns = False
        "The service's name."
        self._bus = bus
        self._subtype = subtype
        self._backstore = backstore
        self._registered = registered
        self._changed = changed
        self._own_name = f"{MANAGER}.{subtype}"
        self._own_path = _path(self._own_name)
        self._asked = False
        "For our names."
        self._runner: str | None = None
        "The connection of the tcmu-runner that has taken in the subtype."
        bus.export(_path(f"{SERVICE}.{subtype}"), backstore)
        bus.add_message_handler(self._on_message)

    async def settle(self) -> BridgeState:
        """Do what there is to do.

        Raises `BridgeError`, and where the connection ends what the library makes of that.
        """
        if not self._asked:
            await self._ask()
            self._asked = True
        (owners,) = await self._call_bus("ListQueuedOwners", "s", SERVICE)
        self.owns = owners[0] == self._bus.unique_name
        others = [owner for owner in owners if owner != self._bus.unique_name]
        if not others:
            return BridgeState.OWNER
        if others[0] != self._runner:
            await self._register(others[0])
            self._runner = others[0]
            self._registered()
        if self.owns:  # and tcmu-runner waits: it is its turn
            await self._call_bus("ReleaseName", "s", SERVICE)
            await self._request(SERVICE, NameFlag.NONE)
            self.owns = False
        return BridgeState.REGISTERED

    async def _ask(self) -> None:
        rule = f"type='signal',sender='{_BUS}',member='NameOwnerChanged',arg0='{SERVICE}'"
        await self._call_bus("AddMatch", "s", rule)
        if await self._request(self._own_name, NameFlag.DO_NOT_QUEUE) is RequestNameReply.EXISTS:
            raise BridgeError(
                f"another process has {self._own_name}", hint="Only one array of a host can serve LIO."
            )
        await self._request(SERVICE, NameFlag.NONE)

    async def _register(self, runner: str) -> None:
        """Have tcmu-runner list the subtype. It looks for our own name, which we have by now."""
        message = Message(
            destination=runner,
            path=_path(MANAGER),
            interface=MANAGER,
            member="RegisterHandler",
            signature="ss",
            body=[self._subtype, self._backstore.description],
        )
        succeeded, reason = await self._call(message)
        if not succeeded:
            raise BridgeError(f"tcmu-runner does not take it in: {reason}")

    async def _request(self, name: str, flags: NameFlag) -> RequestNameReply:
        (reply,) = await self._call_bus("RequestName", "su", name, flags.value)
        return RequestNameReply(reply)

    async def _call_bus(self, member: str, signature: str, *arguments: object) -> list[Any]:
        return await self._call(
            Message(
                destination=_BUS,
                path=_path(_BUS),
                interface=_BUS,
                member=member,
                signature=signature,
                body=list(arguments),
            )
        )

    async def _call(self, message: Message) -> list[Any]:
        try:
            async with asyncio.timeout(CALL_S):
                reply = await self._bus.call(message)
        except TimeoutError:
            raise BridgeError(f"{message.member}: no answer within {CALL_S:.0f} s") from None
        if reply.message_type is MessageType.ERROR:
            hint = POLICY_HINT if reply.error_name == _ACCESS_DENIED else None
            detail = reply.body[0] if reply.body else reply.error_name
            raise BridgeError(f"{message.member}: {detail}", hint=hint)
        return reply.body

    def _on_message(self, message: Message) -> Message | None:
        """The owner of the service has changed, or tcmu-runner passes on a `CheckConfig`.

        That comes to a path of its own. An object exported there would stand in the answer to
        GetManagedObjects, too, and `targetcli` would find the subtype twice.
        """
        kind, wanted = message.message_type, (message.path, message.member, message.signature)
        if kind is MessageType.SIGNAL and message.member == "NameOwnerChanged":
            self._changed.set()
        elif kind is MessageType.METHOD_CALL and wanted == (self._own_path, "CheckConfig", "s"):
            return Message.new_method_return(message, "bs", list(self._backstore.verdict(message.body[0])))
        return None


async def _connect() -> MessageBus:
    try:
        async with asyncio.timeout(CALL_S):
            return await MessageBus(bus_type=BusType.SYSTEM).connect()
    except (OSError, EOFError, AuthError) as error:
        reason = str(error) or type(error).__name__
        hint = "targetcli needs it, the array does not: install and start dbus."
        raise BridgeError(f"no system bus: {reason}", hint=hint) from None


def _path(name: str) -> str:
    return "/" + name.replace(".", "/")
