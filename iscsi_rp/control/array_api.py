"""The management API of an array: what its service must do, and the HTTP routes to it."""

from collections.abc import Sequence
from typing import Protocol

from fastapi import FastAPI, Response

from iscsi_rp.control.access_models import (
    AccessChange,
    AccessRules,
    Initiator,
    InitiatorChange,
    InitiatorCreate,
)
from iscsi_rp.control.app import make_app, no_such
from iscsi_rp.control.array_models import ArrayStatus, Session, Volume, VolumeChange, VolumeCreate, VolumeMove
from iscsi_rp.control.latency import Latencies
from iscsi_rp.control.metrics import CONTENT_TYPE, array_metrics
from iscsi_rp.control.models import Job


class InitiatorService(Protocol):
    """Who may log in, and what they see. A change is durable and in force when the method returns."""

    async def list(self) -> Sequence[Initiator]:
        """Those that are listed, and those that are logged in."""
        ...

    async def get(self, name: str) -> Initiator: ...

    async def add(self, request: InitiatorCreate) -> Initiator:
        """ConflictError: it is listed. NotFoundError: there is no such volume."""
        ...

    async def change(self, name: str, request: InitiatorChange) -> Initiator: ...

    async def remove(self, name: str) -> None: ...

    async def rules(self) -> AccessRules: ...

    async def set_rules(self, request: AccessChange) -> AccessRules: ...


class ArrayService(Protocol):
    """An object that does not exist is a `NotFoundError`, a state that forbids it a `ConflictError`."""

    @property
    def initiators(self) -> InitiatorService: ...

    async def status(self) -> ArrayStatus: ...

    async def list_volumes(self) -> list[Volume]: ...

    async def create_volume(self, request: VolumeCreate) -> Volume:
        """Makes or takes the store, and serves it. ConflictError: the name or the store is in use."""
        ...

    async def change_volume(self, name: str, request: VolumeChange) -> Volume:
        """ConflictError: it would shrink, is in a group, or the storage processor has no portal."""
        ...

    async def move_volume(self, name: str, request: VolumeMove) -> Volume:
        """Another front end shows it. ConflictError: it is in use, unless `force`; or is shown so already."""
        ...

    async def delete_volume(self, name: str, destroy: bool, force: bool) -> None:
        """Stops serving; with `destroy` removes a store that is a file too.

        ConflictError: it is in a group; or an initiator uses it, unless `force`.
        """
        ...

    async def apply_to_lio(self) -> list[str]:
        """Makes the kernel's target what it should be; what was changed."""
        ...

    async def list_sessions(self) -> list[Session]: ...

    async def disconnect(self, session_id: int) -> None:
        """Asks the initiator to log out, and drops the session if it does not."""
        ...

    async def latencies(self) -> Latencies: ...

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
        figures = array_metrics(await service.status(), await service.latencies())
        return Response(figures, media_type=CONTENT_TYPE)

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

    @app.patch("/volumes/{name}")
    async def change_volume(name: str, request: VolumeChange) -> Volume:
        return await service.change_volume(name, request)

    @app.post("/volumes/{name}/move")
    async def move_volume(name: str, request: VolumeMove) -> Volume:
        return await service.move_volume(name, request)

    @app.delete("/volumes/{name}", status_code=204)
    async def delete_volume(name: str, destroy: bool = False, force: bool = False) -> None:
        await service.delete_volume(name, destroy, force)

    @app.post("/lio/apply")
    async def apply_to_lio() -> list[str]:
        return await service.apply_to_lio()

    @app.get("/sessions")
    async def list_sessions() -> list[Session]:
        return await service.list_sessions()

    @app.delete("/sessions/{session_id}", status_code=204)
    async def disconnect(session_id: int) -> None:
        await service.disconnect(session_id)

    @app.get("/latencies")
    async def latencies() -> Latencies:
        return await service.latencies()

    @app.post("/groups/{group}/verify", status_code=202)
    async def verify(group: str) -> Job:
        return await service.verify(group)

    @app.get("/jobs/{job_id}")
    async def job(job_id: str) -> Job:
        return await service.job(job_id)

    _initiator_routes(app, service.initiators)
    return app


def _initiator_routes(app: FastAPI, service: InitiatorService) -> None:
    @app.get("/initiators")
    async def list_initiators() -> Sequence[Initiator]:
        return await service.list()

    @app.post("/initiators", status_code=201)
    async def add_initiator(request: InitiatorCreate) -> Initiator:
        return await service.add(request)

    @app.get("/initiators/{name}")
    async def initiator(name: str) -> Initiator:
        return await service.get(name)

    @app.patch("/initiators/{name}")
    async def change_initiator(name: str, request: InitiatorChange) -> Initiator:
        return await service.change(name, request)

    @app.delete("/initiators/{name}", status_code=204)
    async def remove_initiator(name: str) -> None:
        await service.remove(name)

    @app.get("/access")
    async def access() -> AccessRules:
        return await service.rules()

    @app.patch("/access")
    async def set_access(request: AccessChange) -> AccessRules:
        return await service.set_rules(request)
