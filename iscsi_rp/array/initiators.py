"""Initiators: who may log in and what they see, as the catalogue has it, in force at the front end."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from iscsi_rp.array.access_tables import InitiatorRow, RulesRow
from iscsi_rp.array.catalogue import Catalogue
from iscsi_rp.array.volumes import ServedVolume
from iscsi_rp.control.access_models import (
    AccessChange,
    AccessMode,
    AccessRules,
    Authentication,
    ChapCredentials,
    Initiator,
    InitiatorChange,
    InitiatorCreate,
    Lun,
    ShownVolume,
)
from iscsi_rp.control.app import no_such
from iscsi_rp.errors import ConflictError
from iscsi_rp.frontend import IscsiServer, SessionStatus
from iscsi_rp.iscsi.access import Access, Chap, InitiatorAccess

MAX_INITIATORS: Final = 1024


class Initiators:
    """Those that are listed, and those that are logged in."""

    def __init__(
        self, catalogue: Catalogue, server: IscsiServer, volumes: Mapping[str, ServedVolume]
    ) -> None:
        """Puts what the catalogue says in force. `volumes` are by UUID, and change while this lives."""
        self._tables = catalogue.access
        self._server = server
        self._volumes = volumes
        self._changing = asyncio.Lock()
        self.enforced: Callable[[Access], Awaitable[None]] | None = None
        "Told of new rules: another front end that has to know them."
        self.check: Callable[[Access], None] | None = None
        "Asked before they are stored: raises what that front end cannot have."
        self._rows: dict[str, InitiatorRow] = {}
        self._rules = RulesRow()
        self._read()
        self.enforce()

    def _read(self) -> None:
        self._rows = {row.name: row for row in self._tables.initiators()}
        self._rules = self._tables.rules()

    def enforce(self) -> None:
        """Give the front end the rules as they are, after a change of them or of the volumes."""
        self._server.set_access(self.access)

    @property
    def access(self) -> Access:
        return self._access_by(self._rows, self._rules)

    def _access_by(self, rows: Mapping[str, InitiatorRow], rules: RulesRow) -> Access:
        return Access(
            listed_only=rules.listed_only,
            initiators={name: self._access(row) for name, row in rows.items()},
            discovery=InitiatorAccess(rules.chap, rules.mutual),
        )

    def _access(self, row: InitiatorRow) -> InitiatorAccess:
        luns = None
        if row.luns is not None:
            shown = {lun: self._volumes.get(uuid) for lun, uuid in row.luns.items()}
            luns = {lun: volume.row.lun for lun, volume in shown.items() if volume is not None}
        return InitiatorAccess(row.chap, row.mutual, luns)

    # -- queries

    async def list(self) -> Sequence[Initiator]:
        sessions: dict[str, list[SessionStatus]] = {}
        for session in self._server.sessions():
            sessions.setdefault(session.initiator.lower(), []).append(session)
        names = sorted(self._rows.keys() | sessions.keys())
        return [self._model(name, sessions.get(name, [])) for name in names]

    async def get(self, name: str) -> Initiator:
        for initiator in await self.list():
            if initiator.name == name.lower():
                return initiator
        raise no_such("initiator", name, "iscsi-rp initiator list")

    def _model(self, name: str, sessions: Sequence[SessionStatus]) -> Initiator:
        row = self._rows.get(name)
        return Initiator(
            name=name,
            listed=row is not None,
            chap_user=row.chap.user if row and row.chap else None,
            mutual_user=row.mutual.user if row and row.mutual else None,
            masked=row is not None and row.luns is not None,
            luns=[Lun(lun=lun, volume=volume) for lun, volume in sorted(self.shown_to(name).items())],
            sessions=[session.id for session in sessions],
            commands=sum(session.commands for session in sessions),
            read_bytes=sum(session.bytes_read for session in sessions),
            written_bytes=sum(session.bytes_written for session in sessions),
        )

    def shown_to(self, name: str) -> dict[int, str]:
        """LUN -> name of the volume, as an initiator sees them."""
        row = self._rows.get(name)
        if row is not None and row.luns is not None:
            shown = {lun: self._volumes.get(uuid) for lun, uuid in row.luns.items()}
            return {lun: volume.row.name for lun, volume in shown.items() if volume is not None}
        return {volume.row.lun: volume.row.name for volume in self._volumes.values()}

    # -- changes: durable, then in force

    async def add(self, request: InitiatorCreate) -> Initiator:
        async with self._changing:
            if len(self._rows) >= MAX_INITIATORS:
                raise ConflictError(f"{MAX_INITIATORS} initiators are listed, and no more can be")
            row = InitiatorRow(
                request.name,
                *_chaps(request.authentication),
                None if request.luns is None else self._shown(request.luns),
            )
            self._check({**self._rows, row.name: row}, self._rules)
            await asyncio.to_thread(self._tables.add, row)
            await self._changed()
            return await self.get(row.name)

    async def change(self, name: str, request: InitiatorChange) -> Initiator:
        async with self._changing:
            row = self._rows.get(name.lower())
            if row is None:
                raise no_such("listed initiator", name, "iscsi-rp initiator list")
            if request.authentication is not None:
                chap, mutual = _chaps(request.authentication)
                row = replace(row, chap=chap, mutual=mutual)
            if request.luns is not None or request.all_luns:
                row = replace(row, luns=None if request.luns is None else self._shown(request.luns))
            self._check({**self._rows, row.name: row}, self._rules)
            await asyncio.to_thread(self._tables.replace, row)
            await self._changed()
            return await self.get(row.name)

    async def remove(self, name: str) -> None:
        async with self._changing:
            await asyncio.to_thread(self._tables.remove, name.lower())
            await self._changed()

    async def rules(self) -> AccessRules:
        chap, mutual = self._rules.chap, self._rules.mutual
        return AccessRules(
            mode=AccessMode.LISTED if self._rules.listed_only else AccessMode.OPEN,
            discovery_chap_user=chap.user if chap else None,
            discovery_mutual_user=mutual.user if mutual else None,
        )

    async def set_rules(self, request: AccessChange) -> AccessRules:
        async with self._changing:
            rules = self._rules
            if request.mode is not None:
                rules = replace(rules, listed_only=request.mode is AccessMode.LISTED)
            if request.discovery is not None:
                chap, mutual = _chaps(request.discovery)
                rules = replace(rules, chap=chap, mutual=mutual)
            self._check(self._rows, rules)
            await asyncio.to_thread(self._tables.set_rules, rules)
            await self._changed()
            return await self.rules()

    async def volume_deleted(self) -> None:
        """The catalogue has taken it from the initiators that saw it."""
        async with self._changing:
            await self._changed()

    def _check(self, rows: Mapping[str, InitiatorRow], rules: RulesRow) -> None:
        """What a front end can never have would keep all later changes from it, who is to be let in no more
        above all.
        """
        if self.check is not None:
            self.check(self._access_by(rows, rules))

    async def _changed(self) -> None:
        await asyncio.to_thread(self._read)
        self.enforce()
        if self.enforced is not None:
            await self.enforced(self.access)

    def _shown(self, luns: Sequence[ShownVolume]) -> dict[int, str]:
        """LUN -> UUID. NotFoundError: no such volume. ConflictError: a LUN or volume is given twice."""
        by_name = {volume.row.name: volume.row for volume in self._volumes.values()}
        shown: dict[int, str] = {}
        for each in luns:
            row = by_name.get(each.volume)
            if row is None:
                raise no_such("volume", each.volume, "iscsi-rp volume list")
            lun = row.lun if each.lun is None else each.lun
            if lun in shown:
                raise ConflictError(
                    f"LUN {lun} is given twice",
                    hint=f"Give the volume another one, as in --lun {each.volume}=NUMBER.",
                )
            if row.uuid in shown.values():
                raise ConflictError(f"volume {each.volume!r} is given twice")
            shown[lun] = row.uuid
        return shown


def _chap(credentials: ChapCredentials | None) -> Chap | None:
    if credentials is None:
        return None
    return Chap(credentials.user, credentials.secret.get_secret_value().encode())


def _chaps(authentication: Authentication) -> tuple[Chap | None, Chap | None]:
    return _chap(authentication.chap), _chap(authentication.mutual)
