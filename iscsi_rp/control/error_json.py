"""How an error crosses the API: as JSON, from which the client raises the same class again."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from iscsi_rp.errors import Error


class ErrorBody(BaseModel):
    types: list[str]
    "Names of the error's classes, the most specific first: a client raises the first that it knows."
    message: str
    hint: str | None = None


def error_body(error: Error) -> ErrorBody:
    types = [cls.__name__ for cls in type(error).__mro__ if issubclass(cls, Error)]
    return ErrorBody(types=types, message=error.message, hint=error.hint)


def error_of(body: ErrorBody) -> Error:
    known = {cls.__name__: cls for cls in _subclasses(Error)}
    cls = next((known[name] for name in body.types if name in known), Error)
    # A subclass may build its message from other arguments; here the message is there already.
    error = cls.__new__(cls)
    Error.__init__(error, body.message, hint=body.hint)
    return error


def _subclasses(cls: type[Error]) -> list[type[Error]]:
    return [cls, *(below for child in cls.__subclasses__() for below in _subclasses(child))]


def complaint(errors: Iterable[Mapping[str, Any]]) -> str:
    """The errors of a pydantic validation on one line: `size_bytes: Input should be greater than 0; …`."""
    lines = []
    for entry in errors:
        place = ".".join(str(part) for part in entry["loc"] if part not in ("body", "query", "path"))
        reason = str(entry["msg"]).removeprefix("Value error, ")
        lines.append(f"{place}: {reason}" if place else reason)
    return "; ".join(lines)
