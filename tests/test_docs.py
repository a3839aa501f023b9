"""README.md and docs/ are true: the tour does what it shows, links lead somewhere, tables are the code's."""

import os
import re
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from iscsi_rp.appliance.state import Note
from iscsi_rp.control.client import ApplianceClient
from iscsi_rp.control.config import ApplianceConfig, ArrayConfig, Config, Portal
from iscsi_rp.replication import frames
from iscsi_rp.splitter.core import TRANSITIONS
from tests.kit.processes import Daemon, free_port, iscsi_rp
from tests.kit.shown import matches, shown

ROOT: Final = Path(__file__).parent.parent
README: Final = (ROOT / "README.md").read_text()
PAGES: Final = (
    *(
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "targetcli-ext/README.md",
        ROOT / "vagrant/README.md",
    ),
    *sorted((ROOT / "docs").glob("*.md")),
)
COMMAND_S: Final = 30.0


@pytest.mark.skipif(shutil.which("qemu-io") is None, reason="qemu-io is missing: `make setup` installs it")
def test_the_tour_does_what_it_shows(tmp_path: Path) -> None:
    ports = {"127.0.0.1:3260": f"127.0.0.1:{free_port()}", "127.0.0.1:3261": f"127.0.0.1:{free_port()}"}
    array, appliance = (Portal.parse(portal) for portal in ports.values())
    site = Config(
        state=tmp_path / "state",
        array=ArrayConfig(portals=[array]),
        appliance=ApplianceConfig(portals=[appliance]),
    )
    config = tmp_path / "iscsi-rp.toml"
    config.write_text(site.toml())
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "ISCSI_RP_CONFIG": str(config), "PATH": path}
    up = Daemon("up", iscsi_rp("--config", str(config), "up"), tmp_path / "up.log")
    up.start()
    try:
        up.until("being ready", lambda: "next, in another terminal" in up.log_tail() or None)
        with closing(ApplianceClient(site.appliance_socket)) as client:
            up.until("the array's connection", lambda: client.status().arrays or None)
        commands = list(shown(README, "$"))
        assert len(commands) > 8
        for command, output in commands:
            for usual, here in ports.items():
                command, output = command.replace(usual, here), output.replace(usual, here)
            run = subprocess.run(
                ["bash", "-c", command],
                env=environment,
                cwd=tmp_path,
                timeout=COMMAND_S,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            assert run.returncode == 0, f"{command}\n{run.stdout}\n{up.log_tail()}"
            assert matches(run.stdout, output), f"{command} printed\n{run.stdout}\nand not\n{output}"
    finally:
        if up.running:
            assert up.stop() == 0


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        path = (page.parent / target) if target else page
        assert path.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(path), f"{page.name}: {link}"


def test_every_page_is_linked_from_the_readme() -> None:
    linked = set(re.findall(r"\(docs/([a-z-]+\.md)\)", README))
    assert linked == {page.name for page in (ROOT / "docs").glob("*.md")}


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"(?:`|^ {4})make ([a-z]+)", page.read_text(), re.MULTILINE))
        assert named <= targets, page.name


def rows(page: str, row: str) -> dict[int, str]:
    """Number to name, as a page's tables have them."""
    found = re.findall(row, (ROOT / "docs" / page).read_text(), re.MULTILINE)
    return {int(number): name for number, name in found}


def test_every_frame_stands_in_the_protocol() -> None:
    names = [*frames.__dict__][: [*frames.__dict__].index("KIND_DATA")]
    types = {frames.__dict__[name]: name for name in names[names.index("ANNOUNCE") :]}
    assert rows("replication-protocol.md", r"^\| (\d+) \| ([A-Z]+) \|") == types


def test_every_note_stands_in_the_docs() -> None:
    assert rows("appliance.md", r"^\| (\d+) \| ([A-Z]+) \|") == {note.value: note.name for note in Note}


def test_the_transitions_stand_in_the_docs() -> None:
    text = (ROOT / "docs/splitting.md").read_text()
    diagram = text[text.index("## Modes") : text.index("`TRANSITIONS`")]
    for (before, event), after in TRANSITIONS.items():
        assert {before.value, event.name, after.value} <= set(re.findall("[A-Z]+", diagram))


def test_every_alert_stands_in_the_docs() -> None:
    sources = (path.read_text() for path in (ROOT / "iscsi_rp").rglob("*.py"))
    pattern = r'(?:Alert\(\s*code=|_pause\(\s*|alerts\[)"([a-z-]+)"'
    raised = {code for source in sources for code in re.findall(pattern, source)}
    text = (ROOT / "docs/appliance.md").read_text()
    listed = set(re.findall(r"^\| `([a-z-]+)` \|", text[text.index("## Alerts") :], re.MULTILINE))
    assert listed == raised - {"paused"}
