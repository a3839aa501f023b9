"""The management API of an appliance: what its service must do, and the HTTP routes to it."""

from typing import Annotated, Final, Protocol

from fastapi import FastAPI, Query, Response

from iscsi_rp.control.app import make_app
from iscsi_rp.control.appliance_models import (
    ApplianceStatus,
    Bookmark,
    BookmarkCreate,
    DeletedGroup,
    GroupCreate,
    GroupStatus,
    ImageAccess,
    ImageList,
    ImageRequest,
    ImageSelector,
    RecoverRequest,
    RecoveryPlan,
)
from iscsi_rp.control.metrics import CONTENT_TYPE, appliance_metrics
from iscsi_rp.control.models import Job

MAX_IMAGES: Final = 1000


class ApplianceService(Protocol):
    """An object that does not exist is a `NotFoundError`, a state that forbids it a `ConflictError`."""

    async def status(self) -> ApplianceStatus: ...

    async def list_groups(self) -> list[GroupStatus]: ...

    async def create_group(self, request: GroupCreate) -> GroupStatus:
        """Makes journal and copies, and has the array attach. ConflictError: name or volume is taken."""
        ...

    async def delete_group(self, name: str, destroy: bool) -> DeletedGroup | None:
        """Detaches. Journal and copies stay, and are returned; with `destroy` they are removed, those of a
        group that was deleted before, too. ConflictError: an image is accessed, or a copy is in use.
        """
        ...

    async def list_deleted_groups(self) -> list[DeletedGroup]:
        """Those whose journal and copies are there still."""
        ...

    async def group(self, name: str) -> GroupStatus: ...

    async def create_bookmark(self, group: str, request: BookmarkCreate) -> Bookmark:
        """Returns when the bookmark is sealed: it holds every write acknowledged before it was asked for."""
        ...

    async def list_bookmarks(self, group: str) -> list[Bookmark]: ...

    async def delete_bookmark(self, group: str, name: str) -> None: ...

    async def list_images(
        self, group: str, since_ns: int | None, until_ns: int | None, limit: int
    ) -> ImageList:
        """Bookmarks and ranges between the two times, and at most `limit` of the images, newest first."""
        ...

    async def plan_recovery(self, group: str, selector: ImageSelector | None) -> RecoveryPlan:
        """What `recover_production` would do. None is the accessed image."""
        ...

    async def enable_image(self, group: str, request: ImageRequest) -> ImageAccess:
        """Serves the image as a target of its own.

        ConflictError: one is accessed already; or there is no such image, and the nearest are named.
        """
        ...

    async def image_access(self, group: str) -> ImageAccess | None: ...

    async def disable_image(self, group: str) -> None:
        """Stops serving; drops what was written to it."""
        ...

    async def undo_writes(self, group: str) -> ImageAccess:
        """Drops what was written to the image, and goes on serving it."""
        ...

    async def recover_production(self, group: str, selector: ImageSelector | None) -> Job:
        """Restores production to the image. None is the accessed image, without what was written to it."""
        ...

    async def job(self, job_id: str) -> Job: ...


def appliance_app(service: ApplianceService) -> FastAPI:
    app = make_app("iscsi-rp appliance")

    @app.get("/status")
    async def status() -> ApplianceStatus:
        return await service.status()

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(appliance_metrics(await service.status()), media_type=CONTENT_TYPE)

    @app.get("/jobs/{job_id}")
    async def job(job_id: str) -> Job:
        return await service.job(job_id)

    _group_routes(app, service)
    _image_routes(app, service)
    return app


def _group_routes(app: FastAPI, service: ApplianceService) -> None:
    @app.get("/groups")
    async def list_groups() -> list[GroupStatus]:
        return await service.list_groups()

    @app.post("/groups", status_code=201)
    async def create_group(request: GroupCreate) -> GroupStatus:
        return await service.create_group(request)

    @app.get("/groups/{name}")
    async def group(name: str) -> GroupStatus:
        return await service.group(name)

    @app.delete("/groups/{name}")
    async def delete_group(name: str, destroy: bool = False) -> DeletedGroup | None:
        return await service.delete_group(name, destroy)

    @app.get("/deleted-groups")
    async def list_deleted_groups() -> list[DeletedGroup]:
        return await service.list_deleted_groups()

    @app.get("/groups/{group}/bookmarks")
    async def list_bookmarks(group: str) -> list[Bookmark]:
        return await service.list_bookmarks(group)

    @app.post("/groups/{group}/bookmarks", status_code=201)
    async def create_bookmark(group: str, request: BookmarkCreate) -> Bookmark:
        return await service.create_bookmark(group, request)

    @app.delete("/groups/{group}/bookmarks/{name}", status_code=204)
    async def delete_bookmark(group: str, name: str) -> None:
        await service.delete_bookmark(group, name)


def _image_routes(app: FastAPI, service: ApplianceService) -> None:
    @app.get("/groups/{group}/images")
    async def list_images(
        group: str,
        since_ns: int | None = None,
        until_ns: int | None = None,
        limit: Annotated[int, Query(ge=0, le=MAX_IMAGES)] = 20,
    ) -> ImageList:
        return await service.list_images(group, since_ns, until_ns, limit)

    @app.get("/groups/{group}/image-access")
    async def image_access(group: str) -> ImageAccess | None:
        return await service.image_access(group)

    @app.put("/groups/{group}/image-access")
    async def enable_image(group: str, request: ImageRequest) -> ImageAccess:
        return await service.enable_image(group, request)

    @app.delete("/groups/{group}/image-access", status_code=204)
    async def disable_image(group: str) -> None:
        await service.disable_image(group)

    @app.post("/groups/{group}/image-access/undo-writes")
    async def undo_writes(group: str) -> ImageAccess:
        return await service.undo_writes(group)

    @app.post("/groups/{group}/recovery-plan")
    async def plan_recovery(group: str, request: RecoverRequest) -> RecoveryPlan:
        return await service.plan_recovery(group, request.image)

    @app.post("/groups/{group}/recover-production", status_code=202)
    async def recover_production(group: str, request: RecoverRequest) -> Job:
        return await service.recover_production(group, request.image)
