"""The array's composition root: one storage processor, from its configuration to its portals."""

import asyncio
import contextlib
from pathlib import Path

import structlog

from iscsi_rp.array.catalogue import Catalogue, VolumeRow
from iscsi_rp.array.front_ends import FrontEnds
from iscsi_rp.array.initiators import Initiators
from iscsi_rp.array.protection import Protection
from iscsi_rp.array.service import Service
from iscsi_rp.array.space import SpaceWatch
from iscsi_rp.array.unit_keeper import UnitKeeper
from iscsi_rp.array.volumes import ServedVolume, finish_growing
from iscsi_rp.control.array_api import array_app
from iscsi_rp.control.array_models import Portal
from iscsi_rp.control.config import Config
from iscsi_rp.control.lock import StateLock
from iscsi_rp.control.notify import serve_until
from iscsi_rp.control.runtime import run_daemon
from iscsi_rp.control.server import ApiServer
from iscsi_rp.frontend import IscsiServer, portal_name
from iscsi_rp.link.connection import Way
from iscsi_rp.link.credentials import Credentials
from iscsi_rp.link.local import LocalSocket
from iscsi_rp.link.pki import Identity, Role
from iscsi_rp.link.tls import Tls

_log = structlog.get_logger(__name__)


async def run(config: Config, stop: asyncio.Event) -> None:
    """Serve until `stop` is set. Raises the errors of the configuration, the catalogue and the portals."""
    state = config.array_state
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(StateLock(state))
        catalogue = await asyncio.to_thread(Catalogue.open, state / "catalogue.db")
        stack.callback(catalogue.close)
        catalogue.count_restart()
        finish_growing(catalogue)
        keeper = UnitKeeper(catalogue)
        stack.push_async_callback(keeper.drain)

        def serve(row: VolumeRow) -> ServedVolume:
            save, note = keeper.saver(row.uuid), keeper.noter(row.uuid)
            return ServedVolume(row, state / "maps", config.array.processors, save, note)

        volumes = {row.uuid: serve(row) for row in catalogue.volumes()}

        async def close_volumes() -> None:
            for volume in volumes.values():
                await volume.close()

        stack.push_async_callback(close_volumes)
        way = _way(config)
        stack.push_async_callback(way.close)
        protection = Protection(catalogue, volumes, way, config.array.name, config.array.split_timeout_s)
        stack.push_async_callback(protection.stop)
        # Splitters before portals: no write of a host may find a protected volume without one.
        await protection.start()
        server = IscsiServer()
        server.add_target(config.array.iqn, {})
        initiators = Initiators(catalogue, server, volumes)
        front_ends = FrontEnds(server, config.array.iqn, config.lio, volumes, catalogue, initiators)
        stack.push_async_callback(front_ends.close)
        await front_ends.start()
        space = SpaceWatch(volumes, config.array.space_low_percent)
        service = Service(
            config.array.name,
            config.array.iqn,
            state,
            catalogue,
            server,
            volumes,
            protection,
            space,
            initiators,
            front_ends,
            serve,
        )
        stack.push_async_callback(service.stop)
        for portal in config.array.portals:
            group = portal.sp.portal_group
            host, port = await server.listen(portal.host, portal.port, portal_group=group)
            service.portals.append(Portal(address=portal_name(host, port), processor=portal.sp))
        watching = asyncio.create_task(space.run(), name="space")
        stack.callback(watching.cancel)
        api = ApiServer(array_app(service), config.array_socket)
        await api.start()
        stack.push_async_callback(api.stop)
        portals = [f"{portal.address} ({portal.processor})" for portal in service.portals]
        _log.info("array serves", name=config.array.name, portals=portals, iqn=config.array.iqn)
        await serve_until(stop)


def _way(config: Config) -> Way:
    at = config.replication
    if isinstance(at, Path):
        return LocalSocket(at)
    credentials = Credentials(config.pki_folder, Identity(Role.ARRAY, config.array.name))
    return Tls(at.host, at.port, credentials, Identity(Role.APPLIANCE, config.appliance.name))


def main(config: Config) -> int:
    """Run in the foreground until SIGTERM or SIGINT; the exit code."""
    return run_daemon(config, run)
