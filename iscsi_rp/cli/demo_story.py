"""The story of the demonstration, told as it goes. Each claim is checked; the first untrue one ends it."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import Progress

from iscsi_rp.cli import demo_attack, demo_files, demo_tools
from iscsi_rp.cli.demo_attack import Attack
from iscsi_rp.cli.demo_daemons import IQN, Daemons
from iscsi_rp.control.appliance_models import BookmarkCreate, GroupCreate, ImageRequest, ImageSelector
from iscsi_rp.control.array_models import SplitterMode, VolumeCreate
from iscsi_rp.errors import VerifyError
from iscsi_rp.units import GIB, MIB, NS_PER_S, format_size

VOLUME: Final = "share"
GROUP: Final = "office"
BOOKMARK: Final = "monday-morning"
LUN_BYTES: Final = 512 * MIB
JOURNAL_BYTES: Final = 2 * GIB
SPLITTING_S: Final = 60.0
IMAGES_SHOWN: Final = 6


class Story:
    def __init__(self, daemons: Daemons, folder: Path, console: Console) -> None:
        self._array, self._appliance = daemons.array, daemons.appliance
        self._daemons = daemons
        self._folder = folder
        self._console = console
        self._began_s = time.monotonic()
        self._url = ""
        "Of the production LUN."
        self._local = folder / "share.ext4"
        "What production should hold, as the initiator's side knows it."
        self._expected: dict[str, str] = {}
        "SHA-256 of each file, by its name, just before the attack."

    def tell(self) -> None:
        """Raises `VerifyError` when anything is not as it should be."""
        self._protect()
        self._fill()
        self._work()
        attack = self._attack()
        self._list_images(attack)
        readable_s = self._image_before(attack)
        self._one_write_later(attack)
        recovery_s = self._recover(attack)
        self._sum_up(attack, readable_s, recovery_s)

    def _protect(self) -> None:
        pids = ", ".join(f"{name} {pid}" for name, pid in self._daemons.pids.items())
        self._say(f"two processes and a Unix socket between them: {pids}")
        volume = self._array.create_volume(VolumeCreate(name=VOLUME, size_bytes=LUN_BYTES))
        self._url = f"iscsi://{self._daemons.portal}/{IQN}/{volume.lun}"
        self._say(f"a LUN of {format_size(LUN_BYTES)}: {self._url}")
        request = GroupCreate(name=GROUP, volumes=[VOLUME], journal_bytes=JOURNAL_BYTES)
        self._appliance.create_group(request)
        self._wait_splitting()
        self._say(f"group {GROUP} is SPLITTING: each write goes to the journal, then to the LUN, then GOOD")

    def _fill(self) -> None:
        files = self._folder / "files"
        demo_files.make_files(files, seed=1)
        demo_files.make_image(self._local, files, LUN_BYTES)
        demo_tools.put(self._local, self._url)
        self._expected = demo_files.hashes(files)
        total_bytes = sum(path.stat().st_size for path in files.rglob("*") if path.is_file())
        told = f"ext4 with {len(self._expected)} files, {format_size(total_bytes)}"
        self._say(f"QEMU's initiator puts a file system on it: {told}")
        bookmark = self._appliance.create_bookmark(GROUP, BookmarkCreate(name=BOOKMARK))
        self._say(f"bookmark {BOOKMARK} stands at position {bookmark.position:,}")

    def _work(self) -> None:
        """One more file after the bookmark: only an image by time can have it."""
        report = self._folder / "report.txt"
        report.write_text("Written after the bookmark.\n" * 3000)
        before = self._folder / "before.ext4"
        shutil.copyfile(self._local, before)
        demo_files.add_file(self._local, report)
        blocks = list(demo_files.changed_blocks(before, self._local))
        demo_attack.write_blocks(self._url, self._local, blocks)
        self._expected[report.name] = demo_files.sha256(report)
        self._say(f"the office works on: {report.name}, {len(blocks)} blocks, later than the bookmark")

    def _attack(self) -> Attack:
        blocks = demo_files.file_blocks(self._local, self._folder, sorted(self._expected))
        told = f"RANSOMWARE overwrites every file: {len(blocks):,} blocks in {demo_attack.ATTACK_S:.0f} s"
        self._say(told, style="bold red")
        with self._progress("encrypting", len(blocks)) as advance:
            attack = demo_attack.encrypt(self._url, blocks, advance)
        found = self._files_on(self._url, "damaged")
        harmed = sum(found.get(name) != known for name, known in self._expected.items())
        self._check(harmed == len(self._expected), f"{harmed} of {len(self._expected)} files are lost")
        return attack

    def _list_images(self, attack: Attack) -> None:
        listed = self._appliance.list_images(
            GROUP, attack.before_ns - 2 * NS_PER_S, attack.first_ns + NS_PER_S, IMAGES_SHOWN
        )
        offered = self._appliance.list_images(GROUP, limit=0).offered
        count = sum(found.last.position - found.first.position + 1 for found in offered)
        self._say(f"{count:,} images to choose from; around {_clock(attack.before_ns)}:")
        for image in listed.images:
            when = "before" if image.time_ns <= attack.before_ns else "AFTER"
            self._console.print(
                f"           {image.position:>9,}  {_clock(image.time_ns)}  {when} the damage"
            )

    def _image_before(self, attack: Attack) -> float:
        """The image at the last moment without damage. Returns the seconds until its first byte was read."""
        asked_s = time.monotonic()
        url, position = self._open(attack.before_ns)
        demo_tools.read(url, 0, demo_files.BLOCK)
        readable_s = time.monotonic() - asked_s
        self._say(f"the image just before it, position {position:,}, is a LUN: {url}")
        self._say(f"its first byte was read {readable_s:.2f} s after it was asked for")
        self._compare(self._files_on(url, "image"), "the image")
        self._appliance.disable_image(GROUP)
        return readable_s

    def _one_write_later(self, attack: Attack) -> None:
        """The image one write further holds that write and not the next: images are exact."""
        url, position = self._open(attack.first_ns)
        first, second = (
            demo_tools.holds(url, block * demo_files.BLOCK, demo_files.BLOCK, demo_attack.PATTERN)
            for block in (attack.first_block, attack.second_block)
        )
        self._appliance.disable_image(GROUP)
        told = (
            f"the image one write later, position {position:,}, has the first encrypted block, not the second"
        )
        self._check(first and not second, told)

    def _recover(self, attack: Attack) -> float:
        """Returns the seconds until production was restored."""
        began_s = time.monotonic()
        restoring = self._appliance.recover_production(GROUP, ImageSelector(time_ns=attack.before_ns))
        with self._progress("restoring", 100) as advance:
            for job in self._appliance.follow(restoring, poll_s=0.1):
                advance(100 * job.done // max(1, job.total))
        recovery_s = time.monotonic() - began_s
        self._say(f"production is restored to that image in {recovery_s:.1f} s")
        self._compare(self._files_on(self._url, "production"), "production")
        self._wait_splitting()
        result = self._array.wait(self._array.verify(GROUP)).result
        self._check(result.get("equal") is True, "LUN and copy are equal, by hashes of every region")
        return recovery_s

    def _sum_up(self, attack: Attack, readable_s: float, recovery_s: float) -> None:
        group = self._appliance.group(GROUP)
        figures = {
            "records in the journal": f"{group.end:,}",
            "journal": format_size(group.journal_bytes_used),
            "blocks overwritten": f"{attack.blocks:,}",
            "until the image could be read": f"{readable_s:.2f} s",
            "recovery of production": f"{recovery_s:.1f} s",
        }
        for name, value in figures.items():
            self._console.print(f"           {name:<32}{value:>12}")
        self._console.print(
            f"PROVEN: all {len(self._expected)} files, encrypted from {_clock(attack.before_ns)} on, are "
            "back as they were before, read from the image and recovered on production: "
            "equal by SHA-256, fsck clean, LUN equal to copy",
            style="bold green",
            soft_wrap=True,
        )

    def _open(self, time_ns: int) -> tuple[str, int]:
        """URL and position of the newest image at or before `time_ns`."""
        access = self._appliance.enable_image(GROUP, ImageRequest(time_ns=time_ns))
        return f"iscsi://{access.portal}/{access.iqn}/{access.luns[0].lun}", access.position

    def _files_on(self, url: str, name: str) -> dict[str, str]:
        """Reads a LUN by the initiator, checks its file system, and returns the files' hashes."""
        image, files = self._folder / f"{name}.ext4", self._folder / name
        demo_tools.fetch(url, image)
        demo_files.check(image)
        demo_files.extract(image, files)
        image.unlink()
        return demo_files.hashes(files)

    def _compare(self, found: dict[str, str], where: str) -> None:
        equal = sum(found.get(name) == known for name, known in self._expected.items())
        told = (
            f"{equal} of {len(self._expected)} files on {where} are as they were, by SHA-256; fsck is clean"
        )
        self._check(found == self._expected, told)

    def _wait_splitting(self) -> None:
        deadline_s = time.monotonic() + SPLITTING_S
        while [group.mode for group in self._array.status().groups] != [SplitterMode.SPLITTING]:
            if time.monotonic() > deadline_s:
                raise VerifyError(f"group {GROUP} is not SPLITTING after {SPLITTING_S:.0f} s")
            time.sleep(0.05)

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(f"{time.monotonic() - self._began_s:7.1f} s  {text}", style=style, soft_wrap=True)

    def _check(self, holds: bool, claim: str) -> None:
        if not holds:
            raise VerifyError(f"not so: {claim}", hint="`iscsi-rp demo --keep` leaves the files for a look.")
        self._say(claim)

    @contextmanager
    def _progress(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar on a terminal, nothing elsewhere. Yields what takes the count done so far."""
        with Progress(
            console=self._console, transient=True, disable=not self._console.is_terminal
        ) as progress:
            task = progress.add_task(f"{'':11}{what}", total=total)
            yield lambda done: progress.update(task, completed=done)


def _clock(time_ns: int) -> str:
    """Local time with milliseconds."""
    return datetime.fromtimestamp(time_ns / NS_PER_S).strftime("%H:%M:%S.%f")[:-3]
