"""The management API of an array: what its service must do, and the HTTP routes to it."""

from typing import Protocol

from fastapi import FastAPI, Response

from iscsi_rp.control.app import make_app, no_such
from iscsi_rp.control.metrics import CONTENT_TYPE, array_metrics
from iscsi_rp.control.models import ArrayStatus, Job, Session, Volume, VolumeCreate


class ArrayService(Protocol):
    """An object that does not exist is a `NotFoundError`, a state that forbids it a `ConflictError`."""

    async def status(self) -> ArrayStatus: ...

    async def list_volumes(self) -> list[Volume]: ...

    async def create_volume(self, request: VolumeCreate) -> Volume:
        """Makes or takes the store, and serves it. ConflictError: the name or the store is in use."""
        ...

    async def delete_volume(self, name: str, destroy: bool, force: bool) -> None:
        """Stops serving; with `destroy` removes a store that is a file too.

        ConflictError: it is in a group; or an initiator uses it, unless `force`.
        """
        ...

    async def list_sessions(self) -> list[Session]: ...

    async def verify(self, group: str) -> Job:
        """Compares each volume of the group with its copy, by hashes."""
        ...

    async def job(self, job_id: str) -> Job: ...


def array_app(service: ArrayService) -> FastAPI:
    app = make_app("iscsi-rp array")

    @app.get("/status")
    async def status() -> ArrayStatus:
        return await service.status()

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(array_metrics(await service.status()), media_type=CONTENT_TYPE)

    @app.get("/volumes")
    async def list_volumes() -> list[Volume]:
        return await service.list_volumes()

    @app.get("/volumes/{name}")
    async def volume(name: str) -> Volume:
        for volume in await service.list_volumes():
            if volume.name == name:
                return volume
        raise no_such("volume", name, "iscsi-rp volume list")

    @app.post("/volumes", status_code=201)
    async def create_volume(request: VolumeCreate) -> Volume:
        return await service.create_volume(request)

    @app.delete("/volumes/{name}", status_code=204)
    async def delete_volume(name: str, destroy: bool = False, force: bool = False) -> None:
        await service.delete_volume(name, destroy, force)

    @app.get("/sessions")
    async def list_sessions() -> list[Session]:
        return await service.list_sessions()

    @app.post("/groups/{group}/verify", status_code=202)
    async def verify(group: str) -> Job:
        return await service.verify(group)

    @app.get("/jobs/{job_id}")
    async def job(job_id: str) -> Job:
        return await service.job(job_id)

    return app
