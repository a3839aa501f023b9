"""The appliance's composition root: from its configuration to its sockets."""

import asyncio
import contextlib
from pathlib import Path

import structlog

from iscsi_rp.appliance.catalogue import Catalogue
from iscsi_rp.appliance.service import Service
from iscsi_rp.control.appliance_api import appliance_app
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
    """Serve until `stop` is set. Raises the errors of the configuration, the catalogue and the sockets."""
    state = config.appliance_state
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    async with contextlib.AsyncExitStack() as stack:
        # Before anything is opened: opening a log cuts its tail, which must not be another appliance's.
        stack.enter_context(StateLock(state))
        catalogue = await asyncio.to_thread(Catalogue.open, state / "catalogue.db")
        stack.callback(catalogue.close)
        server = IscsiServer()
        stack.push_async_callback(server.close, 1.0)
        service = Service(config.appliance.name, state, catalogue, server, _way(config))
        for portal in config.appliance.portals:
            host, port = await server.listen(portal.host, portal.port)
            service.portals.append(portal_name(host, port))
        stack.push_async_callback(service.stop)
        await service.start()
        await service.links.start()
        api = ApiServer(appliance_app(service), config.appliance_socket)
        await api.start()
        stack.push_async_callback(api.stop)
        _log.info("appliance serves", name=config.appliance.name, portals=service.portals)
        await serve_until(stop)


def _way(config: Config) -> Way:
    at = config.replication
    if isinstance(at, Path):
        return LocalSocket(at)
    credentials = Credentials(config.pki_folder, Identity(Role.APPLIANCE, config.appliance.name))
    return Tls(at.host, at.port, credentials)


def main(config: Config) -> int:
    """Run in the foreground until SIGTERM or SIGINT; the exit code."""
    return run_daemon(config, run)
