"""A real API server for each of two services, in a thread with an event loop of its own."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from structlog.testing import capture_logs

from iscsi_rp.control.appliance_api import ApplianceService, appliance_app
from iscsi_rp.control.array_api import ArrayService, array_app
from iscsi_rp.control.config import Config
from iscsi_rp.control.server import ApiServer
from tests.unit.control.services import MemoryAppliance, MemoryArray


@contextmanager
def serving(state: Path, array: ArrayService, appliance: ApplianceService) -> Iterator[Config]:
    config = Config(state=state)
    started, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        servers = [
            ApiServer(array_app(array), config.array_socket),
            ApiServer(appliance_app(appliance), config.appliance_socket),
        ]
        for server in servers:
            await server.start()
        started.set()
        await stop.wait()
        await asyncio.gather(*(server.stop() for server in servers))

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    with capture_logs():  # a command that is tested in this process prints to where they would go
        thread.start()
        try:
            assert started.wait(10)
            yield config
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join()
            loop.close()


@contextmanager
def memory_site(state: Path) -> Iterator[tuple[Config, MemoryArray, MemoryAppliance]]:
    array = MemoryArray()
    appliance = MemoryAppliance(array)
    with serving(state, array, appliance) as config:
        yield config, array, appliance
