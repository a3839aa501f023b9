"""`/recoverpoint` of targetcli's shell over the real daemons, below a bare root of configshell."""

import io
import re
import time
from collections.abc import Callable, Iterator

import pytest
from configshell import ConfigNode, ConfigShell, ExecutionError

from iscsi_rp.control.appliance_models import BookmarkCreate
from iscsi_rp.control.array_models import SplitterMode
from targetcli_rp.nodes.recoverpoint import RecoverPoint
from targetcli_rp.site import Site
from tests.kit.initiator import Initiator
from tests.kit.stack import IQN, Stack, image_url

MIB = 1 << 20
SIZE = 4 * MIB

pytestmark = [
    pytest.mark.slow,
    # configshell uses names that pyparsing is about to drop.
    pytest.mark.filterwarnings("ignore:'\\w+' deprecated - use:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("site"))
    stack.start()
    try:
        yield stack
        stack.stop()
    finally:
        stack.kill()
        stack.array_api.close()
        stack.appliance_api.close()
    assert "Traceback" not in stack.array.log_tail(10_000) + stack.appliance.log_tail(10_000)


@pytest.fixture
def stack(running: Stack) -> Iterator[Stack]:
    """With no volumes and no groups."""
    running.start()
    yield running
    running.start()
    for group in running.appliance_api.list_groups():
        if group.access is not None:
            running.appliance_api.disable_image(group.name)
        running.appliance_api.delete_group(group.name, destroy=True)
        running.array.until("the detaching", lambda: not running.array_api.status().groups or None)
    for volume in running.array_api.list_volumes():
        running.array_api.delete_volume(volume.name, destroy=True, force=True)


class Shell:
    """The shell, and what it displays."""

    def __init__(self, stack: Stack) -> None:
        self._shell = ConfigShell()
        self.root = ConfigNode("/", shell=self._shell)
        RecoverPoint(self.root, Site(stack.directory / "state"))

    def __call__(self, command: str) -> str:
        """What a command displays."""
        self._shell.con._stdout = said = io.StringIO()
        self._shell._current_node = self.root
        self._shell.run_cmdline(command)
        return said.getvalue()

    def complete(self, path: str, command: str, parameter: str, text: str = "") -> list[str]:
        node = self.root.get_node(path)
        found: list[str] = node.get_completion_method(command)({}, text, parameter)
        return found


@pytest.fixture
def shell(stack: Stack) -> Shell:
    return Shell(stack)


def line(tree: str, name: str) -> str:
    """What `ls` says of a node."""
    found = re.search(rf"o- {re.escape(name)} \.*\s*\[(.*)\]$", tree, re.MULTILINE)
    assert found, f"no node {name} in\n{tree}"
    return found[1]


def test_all_of_a_groups_life(shell: Shell, stack: Stack) -> None:
    array = "/recoverpoint/arrays/array-1"
    assert "volume data: 4 MiB, LUN 0" in shell(f"{array} create_volume data 4MiB")
    shell("/recoverpoint/groups create db volumes=data journal=64MiB")
    stack.wait_splitting("db")
    tree = shell("ls")
    assert line(tree, "recoverpoint") == "array-1, rpa-1, 1 group"
    assert line(tree, "array-1").startswith(IQN)
    assert line(tree, "splitters") == "of array-1: 1 group"
    assert re.search(r"o- db \.*\s*\[SPLITTING, to rpa-1.*\]", tree)
    assert re.search(r"o- db \.*\s*\[active, journal [\d.]+ \w*B of 64 MiB\]", tree)
    assert "LUN 0, " in line(tree, "data")
    assert "array-1 connected" in line(tree, "rpa-1")
    group = "/recoverpoint/groups/db"
    with Initiator(stack.portal, IQN) as host:
        host.write(0, 0, b"1" * 512)
        assert re.match(r"bookmark before: \d{4}-.*, position \d+\n", shell(f"{group} bookmark before"))
        host.write(0, 0, b"2" * 512)
        sessions = shell(f"{array}/sessions ls")
        assert "from 127.0.0.1" in sessions
        with pytest.raises(ExecutionError, match=r"may use volumes of group 'db'.*\n.*force=true"):
            shell(f"{group} recover_production bookmark=before yes=true")
        assert host.read(0, 0, 512) == b"2" * 512
    assert f"{group}: equal, 4 MiB compared".removeprefix("/recoverpoint/groups/") in shell(f"{group} verify")
    assert "bookmark" in line(shell(f"{group} ls"), "bookmarks")
    said = shell(f"{group} enable_image bookmark=before")
    access = stack.appliance_api.image_access("db")
    assert access is not None
    assert image_url(access) in said
    assert image_url(access) in line(shell(f"{group}/images ls"), "data")
    with Initiator(access.portal, access.iqn) as host:
        assert host.read(0, 0, 512) == b"1" * 512
        host.write(0, 0, b"3" * 512)
    with pytest.raises(ExecutionError, match=r"drop .* written .*\n.*yes=true"):
        shell(f"{group} disable_image")
    assert "as it was" in shell(f"{group} undo_writes yes=true")
    assert "no image is accessed" in shell(f"{group} disable_image")
    assert stack.appliance_api.image_access("db") is None
    plan = shell(f"{group} recover_production bookmark=before dry_run=true")
    assert re.search(r"^bookmark: +before$", plan, re.MULTILINE)
    assert re.search(r"^in use by: +nobody$", plan, re.MULTILINE)
    with Initiator(stack.portal, IQN) as host:
        assert host.read(0, 0, 512) == b"2" * 512
    assert "production is as it was at" in shell(f"{group} recover_production bookmark=before yes=true")
    with Initiator(stack.portal, IQN) as host:
        assert host.read(0, 0, 512) == b"1" * 512
    assert "deleted" in shell(f"{group}/bookmarks delete before yes=true")
    shell("/recoverpoint/groups unsplit db destroy=true yes=true")
    assert stack.appliance_api.list_groups() == []
    with pytest.raises(ExecutionError, match="No such path"):
        shell(f"{group} ls")


def test_split_makes_a_group_of_volumes(shell: Shell, stack: Stack) -> None:
    for name in ("a", "b"):
        stack.create_volume(name, SIZE)
    assert shell.complete("/recoverpoint/groups", "split", "*") == ["a", "b", "group=", "journal="]
    assert shell.complete("/recoverpoint/groups", "split", "*", "g") == ["group="]
    shell("/recoverpoint/groups split a b group=pair journal=64MiB")
    (group,) = stack.appliance_api.list_groups()
    assert (group.name, [v.name for v in group.volumes]) == ("pair", ["a", "b"])
    assert shell.complete("/recoverpoint/groups", "create", "volumes") == []
    assert shell.complete("/recoverpoint/groups", "unsplit", "group") == ["pair "]
    with pytest.raises(ExecutionError, match="expected: split"):
        shell("/recoverpoint/groups split a jurnal=64MiB")


def test_what_loses_something_asks(shell: Shell, stack: Stack) -> None:
    stack.create_volume("data", SIZE)
    stack.protect("db", ["data"], 64 * MIB)
    stack.appliance_api.create_bookmark("db", _mark("now"))
    for command in (
        "/recoverpoint/groups unsplit db",
        "/recoverpoint/groups/db delete",
        "/recoverpoint/groups/db/bookmarks delete now",
        "/recoverpoint/groups/db recover_production bookmark=now",
        "/recoverpoint/arrays/array-1 delete_volume data",
    ):
        with pytest.raises(ExecutionError, match="so it was not done"):
            shell(command)
    assert [mark.name for mark in stack.appliance_api.list_bookmarks("db")] == ["now"]
    assert stack.mode("db") is SplitterMode.SPLITTING
    assert "db: to be deleted first" in shell("/recoverpoint/arrays/array-1 delete_volume data dry_run=true")


def _mark(name: str) -> BookmarkCreate:
    return BookmarkCreate(name=name)


def test_names_are_completed(shell: Shell, stack: Stack) -> None:
    stack.create_volume("data", SIZE)
    stack.protect("db", ["data"], 64 * MIB)
    for name in ("first", "second"):
        stack.appliance_api.create_bookmark("db", _mark(name))
    group = "/recoverpoint/groups/db"
    assert shell.complete(group, "enable_image", "bookmark") == ["first", "second"]
    assert shell.complete(group, "enable_image", "bookmark", "f") == ["first "]
    assert shell.complete(group, "recover_production", "yes", "t") == ["true "]
    assert shell.complete(f"{group}/bookmarks", "delete", "bookmark") == ["first", "second"]
    assert shell.complete("/recoverpoint/arrays/array-1", "delete_volume", "volume") == ["data "]
    assert shell.complete("/", "ls", "path", "/recoverpoint/gr") == ["/recoverpoint/groups/"]


def test_images_are_listed_and_chosen(shell: Shell, stack: Stack) -> None:
    stack.create_volume("data", SIZE)
    stack.protect("db", ["data"], 64 * MIB)
    with Initiator(stack.portal, IQN) as host:
        host.write(0, 0, b"1" * 512)
    stack.appliance_api.create_bookmark("db", _mark("now"))
    group = "/recoverpoint/groups/db"
    listed = shell(f"{group}/images list limit=5")
    assert "EVERY MOMENT FROM" in listed
    position = re.search(r"(\d+) +now$", listed, re.MULTILINE)
    assert position
    assert f"position {position[1]}" in shell(f"{group} enable_image position={position[1]} writable=false")
    assert "writes refused" in line(shell(f"{group}/images ls"), "accessed")
    shell(f"{group} disable_image")
    assert "FOR INITIATORS" in shell(f"{group} enable_image latest")
    shell(f"{group} disable_image")
    for wrong, why in (
        ("", "which image"),
        ("latest bookmark=now", "one of latest"),
        ("time=30s ago", "one of latest"),
        ("time=30s", "not a time"),
        ("time=1d-ago", "(?i)image"),
        ("bookmark=never", "never"),
        ("position=x", "invalid literal"),
    ):
        with pytest.raises(ExecutionError, match=why):
            shell(f"{group} enable_image {wrong}")
    assert stack.appliance_api.image_access("db") is None


def test_a_daemon_that_is_not_there(shell: Shell, stack: Stack) -> None:
    stack.create_volume("data", SIZE)
    stack.protect("db", ["data"], 64 * MIB)
    stack.appliance.kill()
    shell("/recoverpoint refresh")
    tree = shell("ls")
    assert line(tree, "recoverpoint").startswith(
        "the appliance does not answer: `iscsi-rp up` starts it, unless"
    )
    assert line(tree, "groups") == line(tree, "appliances") == line(tree, "recoverpoint")
    assert "LUN 0" in line(tree, "data")
    stack.array.until("MARKING", lambda: stack.mode("db") is SplitterMode.MARKING or None)
    tree = shell("/recoverpoint ls")
    assert re.match(r"MARKING, (.* marked, )?no appliance answers", line(tree, "db"))
    assert "alert" in line(tree, "array-1")
    assert "; next: " in line(tree, stack.array_api.status().alerts[0].code)
    with pytest.raises(ExecutionError, match=r"does not answer at .*\n.*iscsi-rp up"):
        shell("/recoverpoint/groups create other data")
    assert shell.complete("/recoverpoint/groups", "unsplit", "group") == []


def test_a_daemon_that_hangs_does_not_hold_the_tree_up_for_long(
    shell: Shell, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("targetcli_rp.api.STATUS_TIMEOUT_S", 1.0)
    stack.array.pause()
    try:
        begun_s = time.monotonic()
        said = line(shell("ls"), "arrays")
        assert time.monotonic() - begun_s < 3  # it is waited for once, though several nodes ask
    finally:
        stack.array.resume()
    assert "does not answer" in said


def test_a_bad_name_is_not_another_path(shell: Shell) -> None:
    with pytest.raises(ExecutionError, match="is not a name"):
        shell("/recoverpoint/arrays/array-1 delete_volume ../groups yes=true")


def test_what_the_daemon_refuses_is_said_with_its_hint(shell: Shell, stack: Stack) -> None:
    stack.create_volume("data", SIZE)
    stack.protect("db", ["data"], 64 * MIB)
    with pytest.raises(ExecutionError, match=r"db.*\nhint: .*group delete db"):
        shell("/recoverpoint/arrays/array-1 delete_volume data yes=true")
    with pytest.raises(ExecutionError, match="not a size"):
        shell("/recoverpoint/arrays/array-1 create_volume other size=big")


def test_a_session_is_ended(shell: Shell, stack: Stack) -> None:
    stack.create_volume("data", SIZE)
    with Initiator(stack.portal, IQN):
        (session,) = stack.array_api.list_sessions()
        assert f"session {session.id}: ended" in shell(
            f"/recoverpoint/arrays/array-1 disconnect {session.id}"
        )
        gone: Callable[[], bool | None] = lambda: not stack.array_api.list_sessions() or None  # noqa: E731
        stack.array.until("the end of the session", gone)


def test_every_command_has_help(shell: Shell, stack: Stack) -> None:
    stack.create_volume("data", SIZE)
    stack.protect("db", ["data"], 64 * MIB)
    for path in ("arrays/array-1", "groups", "groups/db", "groups/db/images", "groups/db/bookmarks"):
        node = shell.root.get_node(f"/recoverpoint/{path}")
        for command in node.list_commands():
            assert "No description" not in node.get_command_description(command)
            assert f"{command}" in shell(f"/recoverpoint/{path} help {command}")
