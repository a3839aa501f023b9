"""Blocking hosts while production is restored, and giving it back: in the order in which it was asked for."""

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from iscsi_rp.array.catalogue import Attachment, AttachmentState, Catalogue
from iscsi_rp.array.protection import ProtectedGroup, Protection
from iscsi_rp.control.array_models import VolumeKind
from iscsi_rp.link.local import LocalSocket
from iscsi_rp.splitter.group import GroupSplitter

COMMIT_S = 0.1


def test_a_block_asked_for_during_an_unblock_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        catalogue = Catalogue.open(tmp_path / "catalogue.db")
        volume = catalogue.add_volume("data", VolumeKind.FILE, tmp_path / "data.img", 1 << 20)
        attachment = Attachment("g", "db", "cluster", (volume.uuid,))
        catalogue.attach(attachment)
        commit = catalogue.set_attachment_state

        def slow(group_id: str, state: AttachmentState, position: int | None = None) -> None:
            time.sleep(COMMIT_S)
            commit(group_id, state, position)

        monkeypatch.setattr(catalogue, "set_attachment_state", slow)
        protection = Protection(catalogue, {}, LocalSocket(tmp_path / "replication.sock"), "array-1", 1.5)
        device = SimpleNamespace(blocked=None)
        group = ProtectedGroup(attachment, [], cast(GroupSplitter, SimpleNamespace(devices=[device])))
        await protection._block(group, 7)
        unblock = asyncio.create_task(protection._unblock(group))
        await asyncio.sleep(COMMIT_S / 2)  # its commit is under way
        await protection._block(group, 9)
        await unblock
        assert device.blocked is not None
        assert [(each.state, each.restore_position) for each in catalogue.attachments()] == [
            (AttachmentState.RESTORING, 9)
        ]
        await protection._unblock(group)
        assert device.blocked is None
        catalogue.close()

    asyncio.run(main())
