"""Array and appliance as real processes, with a real initiator: the whole way of a write, and bad input."""

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from iscsi_rp.block import create_file
from iscsi_rp.control.appliance_models import (
    BookmarkCreate,
    GroupCreate,
    ImageAccess,
    ImageRequest,
    ImageSelector,
)
from iscsi_rp.control.array_models import SplitterMode, VolumeState
from iscsi_rp.control.models import JobState
from iscsi_rp.errors import ConflictError, Error, NotFoundError
from tests.kit.initiator import Initiator, InitiatorError
from tests.kit.processes import free_port, iscsi_rp
from tests.kit.stack import IQN, SPLIT_TIMEOUT_S, Stack, image_url

MIB = 1 << 20
SIZE = 4 * MIB
JOURNAL = 256 * MIB
BLOCK = 64 << 10


class Site:
    """One pair of daemons for all tests; every test has volumes and groups of its own."""

    def __init__(self, directory: Path) -> None:
        self.stack = Stack(directory)
        self.directory = directory
        self.stack.start()

    def luns(self, *names: str) -> list[int]:
        return [self.stack.create_volume(name, SIZE).lun for name in names]

    def protected(self, name: str) -> int:
        """A volume in a group of the same name, split; its LUN."""
        (lun,) = self.luns(name)
        self.protect(name, name)
        return lun

    def protect(self, group: str, *volumes: str) -> None:
        """Make a group, and wait until it has an image."""
        self.stack.protect(group, list(volumes), JOURNAL)
        eventually("an image", lambda: self.stack.appliance_api.group(group).latest)

    def initiator(self, *luns: int) -> Initiator:
        return Initiator(self.stack.portal, IQN, luns=luns)

    def bookmark(self, group: str, name: str) -> int:
        return self.stack.appliance_api.create_bookmark(group, BookmarkCreate(name=name)).position

    def enable(self, group: str, **selector: object) -> ImageAccess:
        request = ImageRequest.model_validate(selector)
        return self.stack.appliance_api.enable_image(group, request)


def end(stack: Stack) -> None:
    stack.kill()
    stack.array_api.close()
    stack.appliance_api.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    try:
        yield site
        site.stack.stop()
    finally:
        end(site.stack)
    for log in site.directory.glob("*.log"):
        assert "Traceback" not in log.read_text(), log.read_text()


@pytest.fixture
def site(running: Site) -> Site:
    running.stack.start()
    return running


def into(access: ImageAccess, lun: int = 0) -> Initiator:
    return Initiator(access.portal, access.iqn, luns=(lun,))


def pattern(number: int) -> bytes:
    return bytes([number]) * BLOCK


def eventually(what: str, condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"{what} did not come within {timeout_s} s"
        time.sleep(0.05)


# -- the whole way


def test_a_volume_is_protected_and_goes_back_to_a_bookmark(site: Site) -> None:
    lun = site.protected("whole")
    with site.initiator(lun) as host:
        host.write(lun, 0, pattern(1))
        host.write(lun, SIZE - BLOCK, pattern(2), fua=True)
        site.bookmark("whole", "good")
        host.write(lun, 0, pattern(9))
        host.unmap(lun, SIZE - BLOCK, BLOCK)
        access = site.enable("whole", bookmark="good", writable=False)
        with into(access) as image:
            assert image.read(0, 0, BLOCK) == pattern(1)
            assert image.read(0, SIZE - BLOCK, BLOCK) == pattern(2)
            with pytest.raises(InitiatorError):
                image.write(0, 0, pattern(3))
        command = ["qemu-img", "info", "-f", "raw", image_url(access)]
        assert "4 MiB" in subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert host.read(lun, 0, BLOCK) == pattern(9)
        site.stack.appliance_api.disable_image("whole")
        job = site.stack.appliance_api.recover_production("whole", ImageSelector(bookmark="good"))
        assert site.stack.appliance_api.wait(job, 0.05).state is JobState.DONE
        site.stack.wait_splitting("whole")
        eventually("production", lambda: site.stack.array_api.volume("whole").state is VolumeState.ONLINE)
        assert host.read(lun, 0, BLOCK) == pattern(1)
        assert host.read(lun, SIZE - BLOCK, BLOCK) == pattern(2)
    assert site.stack.verify("whole").result["equal"] is True


def test_a_group_of_two_volumes_has_one_history(site: Site) -> None:
    one, two = site.luns("pair-1", "pair-2")
    site.protect("pair", "pair-1", "pair-2")
    with site.initiator(one, two) as host:
        begin = site.bookmark("pair", "begin")
        for number in range(1, 6):
            host.write(one, 0, pattern(number))
            host.write(two, 0, pattern(number))
        last = site.bookmark("pair", "end")
    seen = []
    for position in range(begin, last + 1):
        access = site.enable("pair", position=position, writable=False)
        with Initiator(access.portal, access.iqn, luns=(0, 1)) as image:
            seen.append(tuple(image.read(lun, 0, 512)[0] for lun in (0, 1)))
        site.stack.appliance_api.disable_image("pair")
    # Each write of the second volume depends on that of the first.
    steps = [(number // 2 + number % 2, number // 2) for number in range(11)]
    assert list(dict.fromkeys(seen)) == steps


def test_writes_to_an_image_are_undone_and_nobody_elses(site: Site) -> None:
    lun = site.protected("undo")
    with site.initiator(lun) as host:
        host.write(lun, 0, pattern(1))
        site.bookmark("undo", "good")
        access = site.enable("undo", bookmark="good")
        with into(access) as image:
            image.write(0, 0, pattern(7))
            assert image.read(0, 0, BLOCK) == pattern(7)
            assert site.stack.appliance_api.undo_writes("undo").log_bytes_used < BLOCK
            assert image.read(0, 0, BLOCK) == pattern(1)
        assert host.read(lun, 0, BLOCK) == pattern(1)
    site.stack.appliance_api.disable_image("undo")


# -- requests that cannot be met


def test_an_image_outside_of_the_window_is_refused_naming_the_nearest(site: Site) -> None:
    site.protected("window")
    site.bookmark("window", "first")
    for wrong in ({"time_ns": 1}, {"position": 10**9}):
        with pytest.raises(ConflictError) as caught:
            site.enable("window", **wrong)
        assert "nearest" in str(caught.value.hint)
    with pytest.raises(NotFoundError, match="no bookmark 'none'"):
        site.enable("window", bookmark="none")
    assert site.stack.appliance_api.image_access("window") is None


def test_a_second_image_and_a_second_bookmark_of_a_name_are_refused(site: Site) -> None:
    site.protected("second")
    first = site.bookmark("second", "noon")
    with pytest.raises(ConflictError, match="'noon' already"):
        site.bookmark("second", "noon")
    site.enable("second", latest=True)
    with pytest.raises(ConflictError, match="accessed already"):
        site.enable("second", latest=True)
    with pytest.raises(ConflictError, match="accessed"):
        site.stack.appliance_api.delete_group("second")
    site.stack.appliance_api.disable_image("second")
    assert [each.position for each in site.stack.appliance_api.list_bookmarks("second")] == [first]


def test_a_volume_in_a_group_stays_and_a_group_can_be_made_again(site: Site) -> None:
    lun = site.protected("again")
    with pytest.raises(ConflictError, match="in group 'again'") as caught:
        site.stack.array_api.delete_volume("again")
    assert "group delete again" in str(caught.value.hint)
    with pytest.raises(ConflictError, match="in group 'again' already"):
        site.stack.appliance_api.create_group(
            GroupCreate(name="other", volumes=["again"], journal_bytes=JOURNAL)
        )
    with site.initiator(lun) as host:
        host.write(lun, 0, pattern(1))
        site.stack.appliance_api.delete_group("again", destroy=True)
        eventually("the splitter's end", lambda: site.stack.mode("again") is SplitterMode.DETACHED)
        host.write(lun, 0, pattern(2))
        site.protect("again", "again")
        with into(site.enable("again", latest=True)) as image:
            assert image.read(0, 0, BLOCK) == pattern(2)
        site.stack.appliance_api.disable_image("again")
    site.stack.appliance_api.delete_group("again", destroy=True)
    eventually("the splitter's end", lambda: site.stack.mode("again") is SplitterMode.DETACHED)
    site.stack.array_api.delete_volume("again", destroy=True)


# -- stores


def test_a_volume_without_a_store_or_with_one_in_use_is_not_made(site: Site, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no store"):
        site.stack.create_volume("no-store", None, tmp_path / "none.img")
    create_file(tmp_path / "small.img", MIB)
    with pytest.raises(Error, match="1048576 bytes"):
        site.stack.create_volume("too-small", SIZE, tmp_path / "small.img")
    site.stack.create_volume("taken", None, tmp_path / "small.img")
    other = Stack(tmp_path)
    try:
        other.array.start()
        other.array.until("its API", other._array_status)
        with pytest.raises(ConflictError, match="in use"):
            other.create_volume("taken", None, tmp_path / "small.img")
    finally:
        end(other)
    assert {volume.name for volume in site.stack.array_api.list_volumes()}.isdisjoint(
        {"no-store", "too-small"}
    )


def test_a_store_that_is_gone_or_too_small_at_the_start_is_offline_alone(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    paths = {name: tmp_path / f"{name}.img" for name in ("gone", "small", "good")}
    try:
        stack.array.start()
        stack.array.until("its API", stack._array_status)
        for name, path in paths.items():
            stack.create_volume(name, MIB, path)
        assert stack.array.stop() == 0
        paths["gone"].rename(tmp_path / "elsewhere")
        os.truncate(paths["small"], MIB // 2)
        stack.array.start()
        stack.array.until("its API", stack._array_status)
        volumes = {volume.name: volume for volume in stack.array_api.list_volumes()}
        assert volumes["good"].state is VolumeState.ONLINE
        for name in ("gone", "small"):
            assert volumes[name].state is VolumeState.OFFLINE
            assert str(paths[name]) in str(volumes[name].error)
        assert [alert.code for alert in stack.array_api.status().alerts] == ["volume-offline"] * 2
        with Initiator(stack.portal, IQN, luns=(volumes["good"].lun,)) as host:
            host.write(volumes["good"].lun, 0, pattern(1))
        with pytest.raises(InitiatorError):
            Initiator(stack.portal, IQN, luns=(volumes["gone"].lun,))
        assert stack.array.stop() == 0
        (tmp_path / "elsewhere").rename(paths["gone"])
        stack.array.start()
        stack.array.until("its API", stack._array_status)
        assert stack.array_api.volume("gone").state is VolumeState.ONLINE
    finally:
        end(stack)
    assert paths["small"].stat().st_size == MIB // 2


def test_a_group_of_which_a_volume_is_offline_says_so_and_why_and_what_next(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    store = tmp_path / "gone.img"
    try:
        stack.start()
        gone = stack.create_volume("gone", MIB, store)
        stack.create_volume("good", MIB)
        stack.protect("pair", ["gone", "good"], JOURNAL)
        stack.appliance.kill()
        with Initiator(stack.portal, IQN, luns=(gone.lun,)) as host:
            host.write(gone.lun, 0, pattern(1))  # is marked: to be read when the appliance is there again
        assert stack.array.stop() == 0
        store.rename(tmp_path / "elsewhere")
        stack.start()
        eventually("RESYNCING", lambda: stack.mode("pair") is SplitterMode.RESYNCING)
        time.sleep(1)  # in which it cannot be read
        assert codes(stack) == ["volume-offline"]
        shown = iscsi_rp("--config", str(tmp_path / "iscsi-rp.toml"))
        for query in (["status"], ["group", "show", "pair"]):
            said = subprocess.run([*shown, *query], check=True, capture_output=True, text=True).stdout
            assert f"volume 'gone' of group 'pair' is offline: cannot open {store}" in said
            assert "stays RESYNCING" in said
            assert "next: Bring its store back and start the array again." in said
        assert stack.array.stop() == 0
        (tmp_path / "elsewhere").rename(store)
        stack.start()
        stack.wait_splitting("pair")
        assert codes(stack) == []
    finally:
        end(stack)


def codes(stack: Stack) -> list[str]:
    return [alert.code for alert in stack.array_api.status().alerts]


# -- daemons that do not start


def refused(*arguments: str) -> tuple[int, str]:
    """The exit code and what is said of a daemon that does not start."""
    done = subprocess.run(iscsi_rp(*arguments), check=False, capture_output=True, text=True, timeout=30)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[array]\nname = \n", "line 2"),
        ("[array]\nname = 'a'\nportal = ['127.0.0.1:3260']\n", "portal"),
        ("[array]\nsplit_timeout_s = 'long'\n", "split_timeout_s"),
    ],
)
def test_a_configuration_that_does_not_parse_names_file_and_line(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    code, error = refused("--config", str(path), "array", "run")
    assert code == 3
    assert str(path) in error.replace("\n", "")
    assert said in error.replace("\n", "")


@pytest.mark.parametrize("daemon", ["array", "appliance"])
def test_a_port_in_use_is_named(tmp_path: Path, daemon: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        path = tmp_path / "c.toml"
        path.write_text(f'state = "{tmp_path}/state"\n[{daemon}]\nportals = ["127.0.0.1:{port}"]\n')
        code, error = refused("--config", str(path), daemon, "run")
    assert code != 0
    assert str(port) in error
    assert "use" in error


@pytest.mark.parametrize("daemon", ["array", "appliance"])
def test_a_second_daemon_over_the_same_state_is_refused(site: Site, tmp_path: Path, daemon: str) -> None:
    path = tmp_path / "c.toml"
    state = site.directory / "state"
    path.write_text(f'state = "{state}"\n[{daemon}]\nportals = ["127.0.0.1:{free_port()}"]\n')
    code, error = refused("--config", str(path), daemon, "run")
    assert code != 0
    assert str(state) in error.replace("\n", "")


# -- kills


def test_an_image_survives_a_kill_of_the_appliance_with_what_was_flushed(site: Site) -> None:
    lun = site.protected("survivor")
    with site.initiator(lun) as host:
        host.write(lun, 0, pattern(1))
        site.bookmark("survivor", "good")
        host.write(lun, 0, pattern(2))
    access = site.enable("survivor", bookmark="good")
    with into(access) as image:
        image.write(0, BLOCK, pattern(7))
        image.flush(0)
        site.stack.appliance.kill()
    site.stack.start()
    again = site.stack.appliance_api.image_access("survivor")
    assert again is not None
    assert (again.iqn, again.position, again.luns) == (access.iqn, access.position, access.luns)
    with into(again) as image:
        assert image.read(0, 0, BLOCK) == pattern(1)
        assert image.read(0, BLOCK, BLOCK) == pattern(7)
    site.stack.appliance_api.disable_image("survivor")
    site.stack.wait_splitting("survivor")


def test_a_restore_that_is_killed_in_the_middle_is_completed(site: Site) -> None:
    size = 32 * MIB
    lun = site.stack.create_volume("restored", size).lun
    site.protect("restored", "restored")
    with site.initiator(lun) as host:
        good = b"".join(bytes([number + 1]) * MIB for number in range(size // MIB))
        for offset in range(0, size, MIB):
            host.write(lun, offset, good[offset : offset + MIB])
        site.bookmark("restored", "good")
        for offset in range(0, size, MIB):
            host.write(lun, offset, b"bad!" * (MIB // 4))
    site.stack.appliance_api.recover_production("restored", ImageSelector(bookmark="good"))

    def restoring() -> bool:
        return site.stack.array_api.volume("restored").state is VolumeState.RESTORING

    for daemon in (site.stack.array, site.stack.appliance):
        eventually("the restore", restoring)
        daemon.kill()
        if daemon is site.stack.array:
            assert site.stack.appliance_api.group("restored").restoring is not None
        else:
            assert restoring()
        site.stack.start()
    eventually("the restore's end", lambda: site.stack.appliance_api.group("restored").restoring is None)
    eventually("production", lambda: not restoring())
    site.stack.wait_splitting("restored")
    with site.initiator(lun) as host:
        assert b"".join(host.read(lun, offset, MIB) for offset in range(0, size, MIB)) == good
    assert site.stack.verify("restored").result["equal"] is True


def test_a_hung_appliance_delays_a_write_no_longer_than_promised(site: Site) -> None:
    lun = site.protected("hung")
    with site.initiator(lun) as host:
        resume = threading.Timer(4.0, site.stack.appliance.resume)
        site.stack.appliance.pause()
        resume.start()
        try:
            waited_s = []
            for number in range(1, 4):
                begun_s = time.monotonic()
                host.write(lun, 0, pattern(number))
                waited_s.append(time.monotonic() - begun_s)
            assert waited_s[0] < SPLIT_TIMEOUT_S + 1
            assert max(waited_s[1:]) < 1
            assert site.stack.mode("hung") is SplitterMode.MARKING
        finally:
            resume.join()
        assert host.read(lun, 0, BLOCK) == pattern(3)
    site.stack.wait_splitting("hung")
    assert site.stack.verify("hung").result["equal"] is True
