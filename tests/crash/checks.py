"""What must be true after a kill, each asked through the initiator and the management API."""

import random
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from iscsi_rp.control.appliance_models import BookmarkCreate, GroupStatus, ImageRequest
from iscsi_rp.errors import Error
from tests.crash.history import History
from tests.crash.reading import decode_all, digest, read_image, read_luns
from tests.crash.writer import Writer
from tests.kit.stack import IQN, Stack

GROUP: Final = "crash"
SEAL_S: Final = 0.5
"With link and host quiet the newest write is sealed long before this has passed."
REMEMBERED: Final = 4


@dataclass(slots=True)
class Score:
    images: int = 0
    broken: int = 0
    lost: int = 0
    "Blocks of the LUNs that did not hold their newest acknowledged write."
    refused: int = 0
    "Images asked for that had left the window in the meantime."

    def report(self, what: str, findings: list[str]) -> None:
        if findings:
            self.broken += 1
            print(f"BROKEN {what}:", *findings, sep="\n  ", flush=True)


@dataclass(slots=True)
class Checks:
    stack: Stack
    history: History
    writer: Writer
    names: list[str]
    "Volumes of the group, in the order of the history's."
    luns: list[int]
    random: random.Random
    score: Score = field(default_factory=Score)
    _asked: int = 0
    "Bookmarks asked for."
    _bookmarks: dict[str, tuple[int, int]] = field(default_factory=dict)
    "Name: the events before it was asked for and after it was made."
    _remembered: deque[tuple[int, str]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    "Position and digest of images that were read."

    def bookmark(self) -> None:
        """Make one under load; an appliance that is resynchronising may refuse."""
        self._asked += 1
        name, before = f"bookmark-{self._asked}", self.history.now
        try:
            self.stack.appliance_api.create_bookmark(GROUP, BookmarkCreate(name=name))
        except Error as error:
            print(f"  no bookmark now: {error.message}", flush=True)
        else:
            self._bookmarks[name] = (before, self.history.now)

    def quiet(self) -> None:
        """With the host quiet: the LUN lost nothing, LUN and copy are equal, `latest` holds everything."""
        self.writer.pause()
        self._lun()
        self._verify()
        time.sleep(SEAL_S)
        self._image("latest", ImageRequest(latest=True), self.history.now, self.history.now)
        self.writer.resume()

    def under_load(self) -> None:
        """An image remembered from before, and one by bookmark, time or position, while the host writes."""
        if self._remembered:
            self._again(*self.random.choice(self._remembered))
        self.random.choice((self._by_bookmark, self._by_time, self._by_position))()

    def _lun(self) -> None:
        found, wrong = decode_all(read_luns(self.stack.portal, IQN, self.luns, self.history.sizes))
        self.score.lost += self.history.lost(found)
        self.score.report("LUN", wrong or self.history.explain(found, floor=self.history.now))

    def _verify(self) -> None:
        try:
            result = self.stack.verify(GROUP).result
        except Error as error:
            self.score.report("verify", [error.message])
        else:
            equal = result.get("equal") is True
            self.score.report("verify", [] if equal else [f"LUN and copy differ: {result}"])

    def _by_bookmark(self) -> None:
        if self._bookmarks:
            name, (floor, ceiling) = self.random.choice(list(self._bookmarks.items()))
            self._image(name, ImageRequest(bookmark=name), floor, ceiling)

    def _by_time(self) -> None:
        offered = self.stack.appliance_api.list_images(GROUP, None, None, 0).offered
        if offered:
            chosen = self.random.choice(offered)
            time_ns = self.random.randint(chosen.first.time_ns, chosen.last.time_ns)
            event = self.history.event_at(time_ns)
            self._image(f"time {time_ns}", ImageRequest(time_ns=time_ns), event, event)

    def _by_position(self) -> None:
        offered = self.stack.appliance_api.list_images(GROUP, None, None, 0).offered
        if offered:
            chosen = self.random.choice(offered)
            position = self.random.randint(chosen.first.position, chosen.last.position)
            self._image(f"position {position}", ImageRequest(position=position), 0, self.history.now)

    def _image(self, what: str, request: ImageRequest, floor: int, ceiling: int) -> None:
        read = self._read(what, request)
        if read is not None:
            position, contents = read
            self._remembered.append((position, digest(contents)))
            found, wrong = decode_all(contents)
            self.score.report(
                f"image {what}", wrong or self.history.explain(found, floor=floor, ceiling=ceiling)
            )

    def _again(self, position: int, expected: str) -> None:
        read = self._read(f"position {position} again", ImageRequest(position=position))
        if read is not None and digest(read[1]) != expected:
            self.score.report(f"image position {position}", ["it reads otherwise than before"])

    def _read(self, what: str, request: ImageRequest) -> tuple[int, list[bytes]] | None:
        """Position and content; None when the image has left the window."""
        api = self.stack.appliance_api
        try:
            access = api.enable_image(GROUP, request)
        except Error as error:
            if not self._left_the_window(request):
                self.score.report(f"image {what}", [f"refused: {error.message}"])
            return None
        try:
            contents = read_image(access, self.names, self.history.sizes)
        finally:
            api.disable_image(GROUP)
        self.score.images += 1
        return access.position, contents

    def _left_the_window(self, request: ImageRequest) -> bool:
        start = self._group().window_start
        if start is None:
            return False
        if request.bookmark is not None:
            names = {bookmark.name for bookmark in self.stack.appliance_api.list_bookmarks(GROUP)}
            gone = request.bookmark not in names
            if gone:
                del self._bookmarks[request.bookmark]
        elif request.position is not None:
            gone = request.position < start.position
        else:
            gone = request.time_ns is not None and request.time_ns < start.time_ns
        self.score.refused += gone
        return gone

    def _group(self) -> GroupStatus:
        return self.stack.appliance_api.group(GROUP)
