"""The management API of one daemon: HTTP with JSON on its Unix socket (docs/management.md)."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

from targetcli_rp.errors import RpError, UnreachableError

STATUS_TIMEOUT_S = 3.0
"The tree asks for it, targetcli's own too: a daemon that hangs must not hold that up for long."
ANSWER_TIMEOUT_S = 600.0
"Preallocating a large store is the longest there is."
POLL_S = 0.2


class _Connection(http.client.HTTPConnection):
    """HTTP to a Unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("daemon", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Api:
    """Every call raises what the daemon answers as an `RpError`, or `UnreachableError`."""

    def __init__(self, daemon: str, path: str) -> None:
        self.daemon = daemon
        "`array` or `appliance`"
        self._path = path

    def status(self) -> Any:
        return self._request("GET", ("status",), None, {}, STATUS_TIMEOUT_S)

    def get(self, *path: str, **query: object) -> Any:
        return self._request("GET", path, None, query)

    def post(self, *path: str, body: object = None) -> Any:
        return self._request("POST", path, body, {})

    def put(self, *path: str, body: object) -> Any:
        return self._request("PUT", path, body, {})

    def delete(self, *path: str, **query: object) -> None:
        self._request("DELETE", path, None, query)

    def follow(self, job: Any) -> Iterator[Any]:
        """The job again and again, until it is over. One that fails is raised as an `RpError`."""
        yield job
        while job["state"] == "running":
            time.sleep(POLL_S)
            job = self.get("jobs", job["id"])
            yield job
        if job["state"] == "failed":
            raise RpError(f"{job['kind']} of group {job['group']!r} failed: {job['message']}")

    def _request(
        self,
        method: str,
        path: tuple[str, ...],
        body: object,
        query: dict[str, object],
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> Any:
        connection = _Connection(self._path, timeout_s)
        content = None if body is None else json.dumps(body)
        headers = {} if body is None else {"content-type": "application/json"}
        try:
            connection.request(method, _url(path, query), content, headers)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(self.daemon, self._path, error) from error
        finally:
            connection.close()
        if response.status >= 400:
            raise _refusal(response, answer)
        try:
            return json.loads(answer) if answer else None
        except ValueError as error:
            raise RpError(f"the {self.daemon} at {self._path} does not speak JSON") from error


def _url(path: tuple[str, ...], query: dict[str, object]) -> str:
    for part in path:
        # A server sees an escaped slash as a slash: `db/image-access` would be something else.
        if part in ("", ".", "..") or "/" in part:
            raise RpError(f"{part!r} is not a name")
    url = "/" + "/".join(quote(part, safe="") for part in path)
    given = {key: json.dumps(value) for key, value in query.items() if value is not None}
    return f"{url}?{urlencode(given)}" if given else url


def _refusal(response: http.client.HTTPResponse, answer: bytes) -> RpError:
    try:
        body = json.loads(answer)
        return RpError(body["message"], body.get("hint"))
    except (ValueError, KeyError, TypeError):
        return RpError(f"the daemon answered {response.status} {response.reason}")
