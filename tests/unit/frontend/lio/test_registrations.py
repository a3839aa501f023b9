"""Registrations as LIO keeps them, and as it is told them: real files, and a folder in place of configfs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iscsi_rp.frontend.lio import configfs, registrations
from iscsi_rp.frontend.lio.desired import Acl, Backstore, Target
from iscsi_rp.frontend.lio.errors import LioError
from iscsi_rp.scsi.persistent import Kind, Registrant, Registrations

IQN: Final = "iqn.2026-11.io.iscsi-rp:array"
HOST: Final = "iqn.2026-11.io.iscsi-rp:host"
DATA: Final = Backstore("data", "11111111-1111-4111-8111-111111111111", 1 << 20, 512)
TARGET: Final = Target(
    IQN,
    {1: [("192.0.2.1", 3260)], 2: []},
    {4: "data"},
    acls=[Acl(HOST, {7: "data"}), Acl(f"{HOST}2", {})],
)
A: Final = Registrant(f"{HOST},i,0x00023d000001", 1)
B: Final = Registrant(f"{HOST}2,i,0x00023d000002", 2)
KEPT: Final = f"""\
PR_REG_START: 0
initiator_fabric=iSCSI
initiator_node={HOST}
initiator_sid=00023d000001
sa_res_key=2748
res_holder=1
res_type=5
res_scope=0
res_all_tg_pt=0
mapped_lun=7
target_fabric=iSCSI
target_node={IQN}
tpgt=1
port_rtpi=1
target_lun=4
PR_REG_END: 0
PR_REG_START: 1
initiator_fabric=iSCSI
initiator_node={HOST}2
initiator_sid=00023d000002
sa_res_key=3567
res_holder=0
res_all_tg_pt=0
mapped_lun=4
target_fabric=iSCSI
target_node={IQN}
tpgt=2
port_rtpi=2
target_lun=4
PR_REG_END: 1
"""
STATE: Final = Registrations({A: 0xABC, B: 0xDEF}, Kind.WRITE_EXCLUSIVE_REGISTRANTS_ONLY, A, aptpl=True)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """That of a backstore. Its settings are files, so what it is told last is what is there."""
    root = tmp_path_factory.mktemp("lio")
    (root / "pr").mkdir()
    (root / "dbroot").write_text(f"{root}\n")
    (root / "pr/res_aptpl_metadata").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(configfs, "TARGET", root)
        yield root


def kept(folder: Path) -> Path:
    return folder / "pr" / f"aptpl_{DATA.serial}"


def test_written_as_the_kernel_reads_it(folder: Path) -> None:
    registrations.write(folder, DATA, TARGET, STATE)
    assert kept(folder).read_text() == KEPT
    assert registrations.read(DATA.serial, IQN) == STATE


def test_told_without_the_lines_around_it(folder: Path) -> None:
    told = folder / "pr/res_aptpl_metadata"
    told.write_text("")
    registrations.write(folder, DATA, TARGET, Registrations({B: 0xDEF}, aptpl=True))
    assert told.read_text().split(",") == KEPT.splitlines()[-13:-1]


def test_read_as_the_kernel_writes_it(folder: Path) -> None:
    kept(folder).write_text(KEPT.replace("res_type=5\nres_scope=0\n", "res_type=05\nres_scope=00\n") + "\0")
    assert registrations.read(DATA.serial, IQN) == STATE


def test_none_are_none(folder: Path) -> None:
    registrations.write(folder, DATA, TARGET, STATE)
    for none in (Registrations(), Registrations({A: 1}, aptpl=False)):
        registrations.write(folder, DATA, TARGET, none)
        assert not kept(folder).exists()
        assert registrations.read(DATA.serial, IQN) == Registrations()
    kept(folder).write_text("No Registrations or Reservations")
    assert registrations.read(DATA.serial, IQN) == Registrations()


def test_what_somebody_else_registered_at_another_target_is_left_out(folder: Path) -> None:
    kept(folder).write_text(
        KEPT.replace(f"target_node={IQN}\ntpgt=1", "target_node=iqn.2026-11.org:x\ntpgt=1")
    )
    assert registrations.read(DATA.serial, IQN) == Registrations({B: 0xDEF}, aptpl=True)


@pytest.mark.parametrize(
    "text", ["nonsense", KEPT.replace("tpgt=1", "tpgt=x"), KEPT.replace("sa_res_key=2748\n", "")]
)
def test_what_cannot_be_read_is_an_error(folder: Path, text: str) -> None:
    kept(folder).write_text(text)
    with pytest.raises(LioError, match="aptpl_") as caught:
        registrations.read(DATA.serial, IQN)
    assert caught.value.hint


@st.composite
def states(draw: st.DrawFn) -> Registrations:
    names = st.builds(
        "{},i,0x{:012x}".format, st.sampled_from((HOST, f"{HOST}2", f"{HOST}3")), st.integers(0, 9)
    )
    registrants = st.builds(Registrant, names, st.sampled_from((1, 2)))
    keys = draw(st.dictionaries(registrants, st.integers(1, (1 << 64) - 1), min_size=1))
    kind = draw(st.sampled_from((None, *Kind)))
    holder = draw(st.sampled_from(list(keys))) if kind not in (None, 7, 8) else None
    return Registrations(keys, kind, holder, aptpl=True)


@given(states())
def test_there_and_back(folder: Path, state: Registrations) -> None:
    registrations.write(folder, DATA, TARGET, state)
    assert registrations.read(DATA.serial, IQN) == state
