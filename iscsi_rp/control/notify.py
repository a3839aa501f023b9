"""What a daemon tells the service manager (sd_notify(3)); where there is none, nothing."""

import asyncio
import os
import socket
from typing import Final

import structlog

_log = structlog.get_logger(__name__)

SOCKET: Final = "NOTIFY_SOCKET"
WATCHDOG: Final = "WATCHDOG_USEC"
"Microseconds without WATCHDOG=1 after which the service manager ends the daemon."
SEND_S: Final = 1.0


async def notify(message: str) -> None:
    """Send it. What cannot be sent within a second is logged, and the daemon goes on."""
    address = os.environ.get(SOCKET, "")
    if not address:
        return
    if address.startswith("@"):
        address = f"\0{address[1:]}"  # one of the abstract name space
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            sender.connect(address)
            async with asyncio.timeout(SEND_S):
                await asyncio.get_running_loop().sock_sendall(sender, message.encode())
    except OSError as error:
        _log.warning("the service manager was not told", message=message, error=repr(error))


async def serve_until(stop: asyncio.Event) -> None:
    """Say that all is served, then from the event loop that it turns, and at `stop` that it ends."""
    await notify("READY=1")
    turns_s = int(os.environ.get(WATCHDOG, "0")) / 1e6 / 2
    while turns_s and not stop.is_set():
        await notify("WATCHDOG=1")
        try:
            await asyncio.wait_for(stop.wait(), turns_s)
        except TimeoutError:
            pass
    await stop.wait()
    await notify("STOPPING=1")
