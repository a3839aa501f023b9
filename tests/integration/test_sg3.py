"""What a person would ask with sg3-utils, answered by a real target: what the tools decode, and the data."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from iscsi_rp.block import create_file
from iscsi_rp.scsi.opcodes import TABLE
from tests.kit.sg3 import Sg3, build
from tests.kit.target_process import IQN, NAA, TargetProcess, target_processes

SIZE_BYTES: Final = 4 << 20
BLOCK: Final = 512
KEY: Final = "0xabc"
OTHER_KEY: Final = "0xdef"
CONFLICT: Final = 24
MISCOMPARE: Final = 14
NOT_READY: Final = 2
ILLEGAL_REQUEST: Final = 5


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("sg3"))


@pytest.fixture(scope="module")
def sg(library: Path) -> Sg3:
    return Sg3(library)


@pytest.fixture(scope="module")
def other(library: Path) -> Sg3:
    return Sg3(library, "iqn.2026-11.io.iscsi-rp:other")


@pytest.fixture
def stores(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"lun-{lun}" for lun in range(2)]
    for path in paths:
        create_file(path, SIZE_BYTES)
    return paths


@pytest.fixture
def target(stores: list[Path]) -> Iterator[TargetProcess]:
    with target_processes(*stores) as process:
        yield process


def pattern(path: Path, blocks: int, seed: int = 1) -> bytes:
    data = bytes((at * 7 + at // BLOCK + seed) & 0xFF for at in range(blocks * BLOCK))
    path.write_bytes(data)
    return data


# Who it is.


def test_inquiry(sg: Sg3, target: TargetProcess) -> None:
    told = sg("sg_inq", target.url())
    for part in ("PDT=0", "RMB=0", "[SPC-4]", "TPGS=3", "3PC=1", "CmdQue=1", "HiSUP=1", "ISCSI-RP", "test-1"):
        assert part in told


def test_every_page_of_vital_product_data_can_be_read(sg: Sg3, target: TargetProcess) -> None:
    raw = bytes.fromhex(
        "".join(re.findall(r"^ [0-9a-f]{2}  +(.*?)(?:    |$)", _hex(sg, target, 0), re.MULTILINE))
    )
    pages = list(raw[4:])
    assert pages == sorted(pages)
    assert {0x00, 0x80, 0x83, 0x86, 0x87, 0x88, 0x8F, 0xB0, 0xB1, 0xB2} <= set(pages)
    for page in pages:
        told = sg("sg_vpd", "--page", f"{page:#x}", target.url())
        assert "page" in told.lower()
        assert "malformed" not in told
        assert "abridged" not in told


def _hex(sg: Sg3, target: TargetProcess, page: int) -> str:
    return sg("sg_vpd", "--page", f"{page:#x}", "-H", target.url())


def test_the_name_is_the_same_on_every_path_and_the_port_is_not(sg: Sg3, target: TargetProcess) -> None:
    for processor in range(2):
        told = sg("sg_vpd", "--page", "di", target.url(processor=processor))
        assert f"0x{NAA.hex()}" in told
        assert f"Relative target port: {processor + 1:#x}" in told
        assert f"Target port group: {processor + 1:#x}" in told
        assert f"{IQN},t,0x000{processor + 1}" in told


def test_block_limits_and_provisioning(sg: Sg3, target: TargetProcess) -> None:
    told = sg("sg_vpd", "--page", "bl", target.url())
    compare = re.search(r"Maximum compare and write length: (\d+) blocks", told)
    assert compare is not None
    assert int(compare[1]) >= 1
    assert "Optimal unmap granularity: 8 blocks" in told
    told = sg("sg_vpd", "--page", "lbpv", target.url())
    for part in ("(LBPU): 1", "(LBPWS): 1", "(LBPWS10): 1", "(LBPRZ): 1", "thin provisioned"):
        assert part in told
    told = sg("sg_readcap", "-l", target.url())
    assert "lbpme=1, lbprz=1" in told
    assert f"Number of logical blocks={SIZE_BYTES // BLOCK}" in told
    assert "physical block length=4096 bytes" in told


def test_luns(sg: Sg3, target: TargetProcess) -> None:
    told = sg("sg_luns", target.url())
    assert "0000000000000000" in told
    assert "0001000000000000" in told
    assert "2 lun entries" in told


def test_every_command_is_reported_with_its_timeout(sg: Sg3, target: TargetProcess) -> None:
    told = sg("sg_opcodes", "--rctd", target.url())
    rows = re.findall(
        r"^ ([0-9a-f]{2})(?: +([0-9a-f]{1,4}))? +(6|10|12|16|32) +(\S+) +(\d+) ", told, re.MULTILINE
    )
    found = {(int(code, 16), int(action, 16) if action else None) for code, action, *_ in rows}
    assert found == set(TABLE)
    assert all(int(recommended) > 0 for *_, recommended in rows)
    one = sg("sg_opcodes", "--opcode=0x89", "--rctd", target.url())
    assert "Command is supported" in one
    assert re.search(r"Usage data: 89 f. ff ff", one)
    functions = sg("sg_opcodes", "--tmf", target.url())
    for name in ("Abort task", "Abort task set", "Clear task set", "Logical unit reset"):
        assert name in functions


def test_log_and_mode_pages(sg: Sg3, target: TargetProcess) -> None:
    told = sg("sg_logs", "--all", target.url())
    for page in (
        "Write error counter",
        "Read error counter",
        "Verify error counter",
        "Informational Exceptions",
    ):
        assert page in told
    told = sg("sg_modes", "-a", target.url())
    for page in ("error recovery", "Caching", "Control", "Informational exceptions"):
        assert page in told
    assert "DpoFua=1" in told


def test_software_write_protect(sg: Sg3, target: TargetProcess, stores: list[Path], tmp_path: Path) -> None:
    pattern(tmp_path / "in", 1)
    # Mode page 0Ah, byte 4, bit 3.
    sg(
        "sg_wr_mode",
        "--page=0xa",
        "--contents=8a,a,2,10,8,40,0,0,0,0,0,0",
        "--mask=0,0,0,0,8,0,0,0,0,0,0,0",
        target.url(),
    )
    assert "WP=1" in sg("sg_modes", "-a", target.url())
    write = ("sg_write_same", f"--in={tmp_path / 'in'}", "--lba=0", "--num=8", f"--xferlen={BLOCK}")
    with pytest.raises(Exception, match=r"[Ww]rite protected|Data protect"):
        sg(*write, target.url())
    assert not any(stores[0].read_bytes()[: 8 * BLOCK])
    sg("sg_reset", "-d", target.url())
    sg(*write, target.url())
    assert stores[0].read_bytes()[: 8 * BLOCK] == (tmp_path / "in").read_bytes() * 8


def test_ready_and_sense(sg: Sg3, target: TargetProcess) -> None:
    sg("sg_turs", target.url())
    assert "No Sense" in sg("sg_requests", target.url())
    assert "Descriptor format" in sg("sg_requests", "--desc", target.url())
    sg("sg_senddiag", "-t", target.url())
    sg("sg_prevent", target.url())
    sg("sg_prevent", "--allow", target.url())
    sg("sg_start", "--start", target.url())


# Its data.


def test_read(sg: Sg3, target: TargetProcess, stores: list[Path], tmp_path: Path) -> None:
    data = pattern(stores[0], SIZE_BYTES // BLOCK)
    out = tmp_path / "out"
    copy = ("sg_dd", f"if={target.url()}", f"of={out}", f"bs={BLOCK}", "skip=9", "count=100", "blk_sgio=1")
    for size in ("6", "10", "12", "16"):
        sg(*copy, f"cdbsz={size}")
        assert out.read_bytes() == data[9 * BLOCK : 109 * BLOCK]
        out.unlink()


def test_write_same_and_unmap(sg: Sg3, target: TargetProcess, stores: list[Path], tmp_path: Path) -> None:
    block = pattern(tmp_path / "in", 1)
    same = ("sg_write_same", f"--in={tmp_path / 'in'}", f"--xferlen={BLOCK}")
    for flag, lba in (("--10", 16), ("--16", 32)):
        sg(*same, flag, f"--lba={lba}", "--num=16", target.url())
        assert stores[0].read_bytes()[lba * BLOCK : (lba + 16) * BLOCK] == block * 16
    sg("sg_unmap", "--force", "--lba=24", "--num=8", target.url())
    stored = stores[0].read_bytes()
    assert stored[16 * BLOCK : 24 * BLOCK] == block * 8
    assert not any(stored[24 * BLOCK : 32 * BLOCK])
    assert stored[32 * BLOCK : 48 * BLOCK] == block * 16
    told = sg("sg_get_lba_status", "--lba=16", target.url())
    assert re.search(r"LBA: 0x0*10 +blocks: +8 +mapped", told)
    assert re.search(
        r"LBA: 0x0*18 +blocks: +8 +deallocated", sg("sg_get_lba_status", "--lba=24", target.url())
    )


def test_compare_and_write(sg: Sg3, target: TargetProcess, stores: list[Path], tmp_path: Path) -> None:
    new = pattern(tmp_path / "new", 2)
    (tmp_path / "in").write_bytes(bytes(2 * BLOCK) + new)
    swap = ("sg_compare_and_write", f"--in={tmp_path / 'in'}", "--lba=5", "--num=2", f"--xferlen={4 * BLOCK}")
    sg(*swap, target.url())
    assert stores[0].read_bytes()[5 * BLOCK : 7 * BLOCK] == new
    assert "byte offset: 0 " in sg(*swap, target.url(), code=MISCOMPARE)
    assert stores[0].read_bytes()[5 * BLOCK : 7 * BLOCK] == new


def test_verify(sg: Sg3, target: TargetProcess, stores: list[Path], tmp_path: Path) -> None:
    data = pattern(stores[0], SIZE_BYTES // BLOCK)
    sg("sg_verify", "--lba=0", "--count=64", target.url())
    sent = tmp_path / "sent"
    compare = ("sg_verify", "--lba=3", "--count=2", "--ebytchk=1", f"--ndo={2 * BLOCK}", f"--in={sent}")
    sent.write_bytes(data[3 * BLOCK : 5 * BLOCK])
    sg(*compare, target.url())
    sent.write_bytes(data[3 * BLOCK : 5 * BLOCK - 1] + b"?")
    sg(*compare, target.url(), code=MISCOMPARE)
    sg("sg_sync", target.url())


@pytest.mark.parametrize("destination", [0, 1], ids=["within", "between"])
def test_extended_copy(sg: Sg3, target: TargetProcess, stores: list[Path], destination: int) -> None:
    pattern(stores[1], SIZE_BYTES // BLOCK, seed=3)
    data = pattern(stores[0], SIZE_BYTES // BLOCK)
    before = stores[destination].read_bytes()
    copy = (f"if={target.url(0)}", f"of={target.url(destination)}", "iflag=xcopy", f"bs={BLOCK}")
    sg("sg_xcopy", *copy, "skip=10", "seek=4000", "count=1000")
    after = stores[destination].read_bytes()
    assert after[4000 * BLOCK : 5000 * BLOCK] == data[10 * BLOCK : 1010 * BLOCK]
    assert after[: 4000 * BLOCK] == before[: 4000 * BLOCK]
    assert after[5000 * BLOCK :] == before[5000 * BLOCK :]
    told = sg("sg_copy_results", "-p", target.url())
    assert "Copy from block device to block device" in told
    assert "Identification descriptor" in told


@pytest.mark.parametrize("way", [("--block",), ("--overwrite", "--zero")], ids=["erase", "overwrite"])
def test_sanitize(sg: Sg3, target: TargetProcess, stores: list[Path], way: tuple[str, ...]) -> None:
    pattern(stores[0], SIZE_BYTES // BLOCK)
    kept = pattern(stores[1], SIZE_BYTES // BLOCK)
    sg("sg_sanitize", *way, "--quick", "--wait", target.url())
    assert not any(stores[0].read_bytes())
    assert stores[1].read_bytes() == kept
    sg("sg_turs", target.url())


def test_format(sg: Sg3, target: TargetProcess, stores: list[Path]) -> None:
    pattern(stores[0], SIZE_BYTES // BLOCK)
    sg("sg_format", "--format", "--quick", "--wait", target.url())
    assert not any(stores[0].read_bytes())


def test_defects(sg: Sg3, target: TargetProcess) -> None:
    assert "grown defect list: 0" in sg("sg_reassign", "--grown", target.url())


# Who may.


def register(sg: Sg3, url: str, key: str) -> None:
    sg("sg_persist", "--out", "--register-ignore", f"--param-sark={key}", url)


def test_persistent_reservations(
    sg: Sg3, other: Sg3, target: TargetProcess, stores: list[Path], tmp_path: Path
) -> None:
    block = pattern(tmp_path / "in", 1)
    write = ("sg_write_same", f"--in={tmp_path / 'in'}", "--lba=0", "--num=1", f"--xferlen={BLOCK}")
    url = target.url()
    for who, key in ((sg, KEY), (other, OTHER_KEY)):
        register(who, url, key)
    assert {KEY, OTHER_KEY} <= set(sg("sg_persist", "--read-keys", url).split())
    # Write exclusive: others read, and do not write.
    sg("sg_persist", "--out", "--reserve", f"--param-rk={KEY}", "--prout-type=1", url)
    assert "Write Exclusive" in other("sg_persist", "--read-reservation", url)
    other(*write, url, code=CONFLICT)
    assert not any(stores[0].read_bytes())
    sg(*write, url)
    assert stores[0].read_bytes()[:BLOCK] == block
    full = other("sg_persist", "--read-full-status", url)
    assert full.count("Reservation holder") == 2 or "<< Reservation holder >>" in full
    assert f"{sg.initiator},i,0x000000000000" in full
    # The other takes over; the first one has no registration any more.
    other(
        "sg_persist",
        "--out",
        "--preempt",
        f"--param-rk={OTHER_KEY}",
        f"--param-sark={KEY}",
        "--prout-type=1",
        url,
    )
    assert KEY not in other("sg_persist", "--read-keys", url).split()
    sg(*write, url, code=CONFLICT)
    other("sg_persist", "--out", "--clear", f"--param-rk={OTHER_KEY}", url)
    assert "NO registered reservation keys" in sg("sg_persist", "--read-keys", url)
    sg(*write, url)
    told = sg("sg_persist", "--report-capabilities", url)
    for part in ("(PTPL_C): 1", "(ATP_C): 1", "(SIP_C): 1", "Exclusive Access, all registrants: 1"):
        assert part in told


def test_a_registration_that_lasts_is_written_down(
    sg: Sg3, target: TargetProcess, stores: list[Path]
) -> None:
    url = target.url()
    sg("sg_persist", "--out", "--register", f"--param-sark={KEY}", "--param-aptpl", url)
    assert "(PTPL_A): 1" in sg("sg_persist", "--report-capabilities", url)
    assert stores[0].with_name("lun-0.registrations").read_bytes()


def test_target_port_groups(sg: Sg3, target: TargetProcess) -> None:
    first, second = (target.url(processor=processor) for processor in range(2))
    told = sg("sg_rtpg", "--decode", second)
    assert re.findall(r"group id : (0x\d) , Pref=(\d)", told) == [("0x1", "1"), ("0x2", "0")]
    assert re.findall(r"access state : 0x(\d\d)", told) == ["00", "01"]
    sg("sg_stpg", "--standby", "--tp=2", first)
    assert re.findall(r"access state : 0x(\d\d)", sg("sg_rtpg", "--decode", first)) == ["00", "02"]
    assert "target port in standby state" in sg("sg_turs", "--verbose", second, code=NOT_READY)
    sg("sg_stpg", "--active", "--tp=2", first)
    sg("sg_turs", second)
    assert "target port group id" in sg("sg_rtpg", "--extended", "--decode", first)
