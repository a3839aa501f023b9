"""Serves an API on a Unix socket, inside the daemon's own event loop."""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import uvicorn
from fastapi import FastAPI

from iscsi_rp.control.audit import Audit, AuditedProtocol
from iscsi_rp.errors import ConfigError, ConflictError

STOP_TIMEOUT_S: Final = 5
MAX_CONNECTIONS: Final = 64
"A client beyond it is answered 503."


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the daemon's business."""
        yield


class ApiServer:
    def __init__(self, app: FastAPI, socket_path: Path) -> None:
        self._path = socket_path
        self._server = _Server(
            uvicorn.Config(
                Audit(app),
                http=AuditedProtocol,
                log_config=None,
                log_level="error",
                access_log=False,
                lifespan="off",
                limit_concurrency=MAX_CONNECTIONS,
                timeout_graceful_shutdown=STOP_TIMEOUT_S,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """ConflictError: a daemon answers there. ConfigError: the socket cannot be made."""
        listener = _listen(self._path)
        # From here on the kernel takes connections, so nobody has to wait for uvicorn to be ready.
        self._serving = asyncio.create_task(self._server.serve([listener]), name="api")

    async def stop(self) -> None:
        """Requests that are being answered are finished, for some seconds at most."""
        if self._serving is None:
            return
        self._server.should_exit = True
        await self._serving
        self._serving = None
        self._path.unlink(missing_ok=True)


def _listen(path: Path) -> socket.socket:
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # bind gives the file the mode of the socket, so nobody else can connect even for a moment.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(str(path))
        listener.listen()
    except OSError as error:
        listener.close()
        raise _config_error(path, error) from error
    return listener


def _clear(path: Path) -> None:
    """A dead daemon leaves its socket behind."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise _config_error(path, error) from error
    raise ConflictError(
        f"a daemon is already running at {path}",
        hint="Stop it first, or give this one another `state` directory.",
    )


def _config_error(path: Path, error: OSError) -> ConfigError:
    if error.errno == errno.ENAMETOOLONG or error.errno is None:
        return ConfigError(
            f"the path of the API socket is too long ({len(str(path))} bytes, at most 107): {path}",
            hint="Choose a shorter `state` directory.",
        )
    return ConfigError(f"cannot make the API socket {path}: {os.strerror(error.errno)}")
