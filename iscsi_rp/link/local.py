"""The way between array and appliance of one machine: a Unix socket, which file permissions protect."""

import asyncio
import stat
from collections.abc import Callable
from pathlib import Path

from iscsi_rp.errors import ConflictError
from iscsi_rp.link.connection import Link


class LocalSocket:
    """Implements `connection.Way`."""

    remote = False
    trouble = None

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listens = False

    def __str__(self) -> str:
        return str(self._path)

    async def connect(self, link: Link) -> None:
        await asyncio.get_running_loop().create_unix_connection(lambda: link, str(self._path))

    async def listen(self, make: Callable[[], Link]) -> asyncio.Server:
        await self._remove_stale()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        server = await asyncio.get_running_loop().create_unix_server(make, str(self._path))
        self._path.chmod(0o600)
        self._listens = True
        return server

    async def _remove_stale(self) -> None:
        if not self._path.exists():
            return
        if not stat.S_ISSOCK(self._path.stat().st_mode):
            raise ConflictError(f"{self._path} exists and is not a socket")
        try:
            _, writer = await asyncio.open_unix_connection(str(self._path))
        except OSError:
            self._path.unlink()
            return
        writer.close()
        raise ConflictError(f"another appliance listens at {self._path}")

    async def close(self) -> None:
        if self._listens:
            self._path.unlink(missing_ok=True)
