"""The appliance's end of the replication protocol: what each link is for, and which arrays are there."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import structlog

from iscsi_rp.appliance.group import Group
from iscsi_rp.appliance.session import Session
from iscsi_rp.clock import monotonic_s
from iscsi_rp.control import models
from iscsi_rp.errors import ConflictError, Error, NotFoundError
from iscsi_rp.link.connection import Link, Listener, Way
from iscsi_rp.link.pki import Role
from iscsi_rp.link.tls import REFUSED_S, PeerError
from iscsi_rp.replication import frames as wire
from iscsi_rp.replication.messages import Alert, Announce, GroupInfo, Groups, Hello, VolumeInfo, parse

_log = structlog.get_logger(__name__)


class ArrayLink:
    """The management connection of one array."""

    def __init__(self, announce: Announce) -> None:
        self.announce = announce


class GroupLink:
    """A session of a group."""

    def __init__(self, group: Group, session: Session) -> None:
        self.group = group
        self.session = session


class Links:
    """All connections of arrays to this appliance."""

    def __init__(self, way: Way, cluster_id: str, name: str, groups: Callable[[], Sequence[Group]]) -> None:
        self._cluster_id = cluster_id
        self._name = name
        self._groups = groups
        self._listener = Listener(way, self._frames, self._lost)
        self._arrays: dict[Link, ArrayLink] = {}
        self._impostor: tuple[float, str] | None = None
        "When (monotonic, seconds) one was refused, and what to say of it."

    async def start(self) -> None:
        """Raises ConflictError when another appliance listens there."""
        await self._listener.start()

    async def stop(self) -> None:
        await self._listener.close()

    # -- arrays

    @property
    def arrays(self) -> list[str]:
        """Names of the arrays that are connected."""
        return sorted(each.announce.name for each in self._arrays.values())

    def alerts(self) -> Iterator[models.Alert]:
        trouble = self._listener.way.trouble
        if self._impostor and monotonic_s() - self._impostor[0] < REFUSED_S:
            trouble = self._impostor[1]
        if trouble:
            yield models.Alert(
                code="array-link",
                text=f"link to the arrays: {trouble}",
                next_step="docs/pki.md says which certificate each needs, `iscsi-rp pki list` which hold.",
            )

    def find_volume(self, name: str) -> tuple[Announce, VolumeInfo]:
        """What its array has announced, and the volume of that name.

        Raises NotFoundError, or ConflictError where several have it.
        """
        found = [
            (each.announce, volume)
            for each in self._arrays.values()
            for volume in each.announce.volumes
            if volume.name == name
        ]
        if not found:
            hint = (
                "`iscsi-rp volume list` shows them."
                if self._arrays
                else "No array is connected: is it running?"
            )
            raise NotFoundError(f"no array has a volume {name!r}", hint=hint)
        if len(found) > 1:
            raise ConflictError(f"several arrays have a volume {name!r}")
        return found[0]

    def tell(self) -> None:
        """Tell every array which groups there are."""
        for link, array in self._arrays.items():
            self._tell(link, array)

    def _tell(self, link: Link, array: ArrayLink) -> None:
        groups = [
            GroupInfo(id=row.group_id, name=row.name, volumes=[each.volume_uuid for each in row.sets])
            for row in (group.row for group in self._groups())
            if all(each.array_id == array.announce.array_id for each in row.sets)
            and (link.identity is None or link.identity.name == row.array_name)
        ]
        message = Groups(cluster_id=self._cluster_id, name=self._name, groups=groups)
        link.send(wire.frame(wire.GROUPS, payload=message.encode()))

    # -- frames

    def _frames(self, link: Link, frames: Sequence[wire.Frame]) -> None:
        context = link.context
        if isinstance(context, GroupLink):
            context.group.receive(context.session, frames)
            return
        last = max((index for index, frame in enumerate(frames) if frame[0] == wire.ANNOUNCE), default=0)
        for index, frame in enumerate(frames):
            if not link.open:  # refused by what stood before
                return
            if frame[0] == wire.ANNOUNCE:
                if index == last:  # the others are out of date
                    self._announced(link, parse(Announce, frame[6]))
            elif frame[0] == wire.HELLO and link.context is None:
                self._greeted(link, parse(Hello, frame[6]))
                if frames[index + 1 :]:
                    raise wire.RemoteProtocolError("frames behind a hello that is not answered yet")
            else:
                raise wire.RemoteProtocolError(
                    f"a frame of type {frame[0]} on a connection that has not begun"
                )

    def _announced(self, link: Link, announce: Announce) -> None:
        same = [
            other
            for other, array in self._arrays.items()
            if other is not link and array.announce.array_id == announce.array_id
        ]
        reason = _impostor(link, announce.name)
        owner = self._owner(announce.array_id, same)
        if not reason and link.identity and owner not in (None, announce.name):
            reason = f"{link.identity} has the id of array {owner}"
        if reason:
            self._refuse(link, PeerError(reason))
            return
        for other in same:
            del self._arrays[other]
            other.close("the array connected again")
        self._arrays[link] = link.context = ArrayLink(announce)
        self._tell(link, self._arrays[link])

    def _owner(self, array_id: str, connected: Iterable[Link]) -> str | None:
        """The name of the array with this id: its groups say it, else whoever is connected. One of another
        name is not told of "no groups", for an array that was given a new name would detach those it has.
        """
        for group in self._groups():
            if any(each.array_id == array_id for each in group.row.sets):
                return group.row.array_name
        return next((self._arrays[link].announce.name for link in connected), None)

    def _greeted(self, link: Link, hello: Hello) -> None:
        try:
            group = next((each for each in self._groups() if each.row.group_id == hello.group), None)
            if group is None:
                raise NotFoundError("this appliance has no such group")
            if reason := _impostor(link, group.row.array_name):
                raise PeerError(reason)
            if any(each.array_id != hello.array_id for each in group.row.sets):
                raise PeerError("the group is another array's")
            if not hello.processor.startswith(f"{hello.array_id}/"):
                raise PeerError(f"{hello.processor} is not a storage processor of the array")
            if not group.running:
                raise ConflictError("the group's journal cannot be used")
            link.context = GroupLink(group, group.hello(link, hello))
        except Error as error:
            _log.warning("session refused", group=hello.group, reason=error.message)
            self._refuse(link, error)

    def _refuse(self, link: Link, error: Error) -> None:
        alert = Alert(code=type(error).__name__, text=error.message[:1000])
        link.send(wire.frame(wire.REFUSED, payload=alert.encode()))
        link.close(error.message)
        if isinstance(error, PeerError):
            self._impostor = monotonic_s(), error.message

    def _lost(self, link: Link, reason: str) -> None:
        self._arrays.pop(link, None)
        if isinstance(link.context, GroupLink):
            link.context.group.receiver.lost(link.context.session, reason)


def _impostor(link: Link, array: str) -> str | None:
    """Why this peer may not speak for the array of that name. On a Unix socket file permissions have said who
    may come.
    """
    identity = link.identity
    if identity is None or (identity.role is Role.ARRAY and identity.name == array):
        return None
    return f"{identity} speaks for array {array}"
