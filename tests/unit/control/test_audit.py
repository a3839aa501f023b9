"""Whoever changes something by the API stands in the log, and no secret does."""

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from iscsi_rp.control.access_models import Authentication, InitiatorCreate
from iscsi_rp.control.array_api import array_app
from iscsi_rp.control.array_models import VolumeCreate
from iscsi_rp.control.client import ArrayClient
from iscsi_rp.control.server import ApiServer
from iscsi_rp.errors import Error, NotFoundError
from tests.unit.control.services import HOST, MemoryArray

SECRET = "a-secret-of-the-host"


def audited(tmp_path: Path, ask: Callable[[ArrayClient], object], array: MemoryArray) -> list[dict[str, Any]]:
    """The lines that a real server logs of what `ask` does by a real socket."""

    def client() -> None:
        with ArrayClient(tmp_path / "api.sock") as api:
            ask(api)

    async def scenario() -> None:
        server = ApiServer(array_app(array), tmp_path / "api.sock")
        await server.start()
        await asyncio.to_thread(client)
        await server.stop()

    with capture_logs() as lines:
        asyncio.run(scenario())
    return [dict(line) for line in lines if line["event"] == "request"]


def test_changes_are_logged_with_who_asked_and_what_came_of_it(tmp_path: Path) -> None:
    def ask(api: ArrayClient) -> None:
        api.create_volume(VolumeCreate(name="data", size_bytes=512))
        api.status()
        api.delete_volume("data", destroy=True)
        with pytest.raises(NotFoundError):
            api.delete_volume("da ta\nforged")

    lines = audited(tmp_path, ask, MemoryArray())
    assert [(line["method"], line["path"], line["status"]) for line in lines] == [
        ("POST", "/volumes", 201),
        ("DELETE", "/volumes/data", 204),
        ("DELETE", "/volumes/da%20ta%0Aforged", 404),
    ]
    assert {(line["uid"], line["pid"]) for line in lines} == {(os.getuid(), os.getpid())}
    assert "destroy=true" in lines[1]["query"]
    assert all(0 <= line["seconds"] < 10 for line in lines)


def test_a_fault_of_ours_is_logged_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = MemoryArray()

    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(array, "delete_volume", broken)

    def ask(api: ArrayClient) -> None:
        with pytest.raises(Error, match="internal error"):
            api.delete_volume("data")

    (line,) = audited(tmp_path, ask, array)
    assert line["status"] == 500


def test_secrets_are_not_logged(tmp_path: Path) -> None:
    chap = {"chap": {"user": "host", "secret": SECRET}, "mutual": None}

    def ask(api: ArrayClient) -> None:
        api.add_initiator(
            InitiatorCreate(name=HOST, authentication=Authentication.model_validate(chap), luns=None)
        )

    (line,) = audited(tmp_path, ask, MemoryArray())
    assert (line["path"], line["status"]) == ("/initiators", 201)
    assert SECRET not in json.dumps(line)
