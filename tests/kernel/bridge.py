"""Runs in the guest: the bridge alone, for a subtype that has one good configuration, `rpsplit/data`.

Prints its state whenever that has changed, until SIGTERM.
"""

import asyncio
import signal

from iscsi_rp.frontend.tcmu_bus import Bridge

LOOK_S = 0.05


def check(config: str) -> str | None:
    return None if config == "rpsplit/data" else f"no volume {config.removeprefix('rpsplit/')}"


async def main() -> None:
    bridge = Bridge("rpsplit", "The name of a volume", check, lambda: None)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await bridge.start()
    said = None
    while not stop.is_set():
        if bridge.state is not said:
            said = bridge.state
            print("state:", said, flush=True)
        await asyncio.sleep(LOOK_S)
    await bridge.stop()
    print("state:", bridge.state, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
