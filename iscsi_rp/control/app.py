"""What both daemons' APIs have in common: how an error becomes an answer."""

from importlib.metadata import version
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from iscsi_rp.control.error_json import complaint, error_body
from iscsi_rp.errors import (
    ConfigError,
    ConflictError,
    Error,
    NotFoundError,
    UnreachableError,
    UsageError,
    VerifyError,
)

HTTP_STATUS: Final = {
    UsageError: 422,
    ConfigError: 422,
    NotFoundError: 404,
    ConflictError: 409,
    VerifyError: 409,
    UnreachableError: 503,
    Error: 500,
}
"The nearest class above an error decides."


def no_such(kind: str, name: str, list_command: str) -> NotFoundError:
    return NotFoundError(f"there is no {kind} {name!r}", hint=f"`{list_command}` shows those there are.")


def make_app(title: str) -> FastAPI:
    app = FastAPI(
        title=title, version=version("iscsi-rp"), docs_url=None, redoc_url=None, redirect_slashes=False
    )

    @app.exception_handler(Error)
    async def known(_: Request, error: Error) -> JSONResponse:
        return _answer(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return _answer(UsageError(complaint(error.errors())))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        detail = f"{request.method} {request.url.path}: {error.detail}"
        return _answer(NotFoundError(detail) if error.status_code == 404 else UsageError(detail))

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        # uvicorn logs the traceback: this is a bug of ours, and the caller is told no more than that.
        return _answer(
            Error(f"internal error ({type(error).__name__})", hint="The daemon's log has the details.")
        )

    return app


def _answer(error: Error) -> JSONResponse:
    status = next(HTTP_STATUS[cls] for cls in type(error).__mro__ if cls in HTTP_STATUS)
    return JSONResponse(error_body(error).model_dump(), status_code=status)
