"""Which moments of a group are images, and which of them is meant."""

from dataclasses import dataclass

from iscsi_rp.appliance.receiver import Receiver
from iscsi_rp.clock import utc_ns
from iscsi_rp.control.appliance_models import (
    Bookmark,
    Image,
    ImageList,
    ImageRange,
    ImageSelector,
    Moment,
    Span,
)
from iscsi_rp.errors import ConflictError, NotFoundError
from iscsi_rp.journal.replica import Replica
from iscsi_rp.units import format_time


class ImageNotOfferedError(ConflictError):
    """There is no image at this moment."""


@dataclass(frozen=True, slots=True)
class Offer:
    """The images of a group at this moment: every position in one of `ranges` (both ends included,
    ascending).
    """

    receiver: Receiver
    replica: Replica
    ranges: list[tuple[int, int]]

    @classmethod
    def of(cls, receiver: Receiver, replica: Replica) -> "Offer":
        ranges: list[tuple[int, int]] = []
        start, last = max(replica.first_offered, replica.log.first - 1, 1), receiver.offered
        if receiver.state.ever_whole:
            for begin, end in sorted(receiver.state.spans):
                if start <= begin:
                    ranges.append((start, min(begin, last)))
                start = max(start, end)
            if start <= last:
                ranges.append((start, last))
        return cls(receiver, replica, [each for each in ranges if each[0] <= each[1]])

    def moment(self, position: int) -> Moment:
        """The log has no record of the position before its first one, which can be an image all the same."""
        log = self.replica.log
        time_ns = log.time_of(position) if position >= log.first else log.segments[0].header.previous_time_ns
        return Moment(position=position, time_ns=time_ns)

    @property
    def latest(self) -> int | None:
        return self.ranges[-1][1] if self.ranges else None

    def holds(self, position: int) -> bool:
        return any(first <= position <= last for first, last in self.ranges)

    # -- choosing

    def choose(self, selector: ImageSelector) -> Image:
        """The image that is meant. Raises NotFoundError or ImageNotOfferedError, which names the nearest."""
        if self.latest is None:
            raise ImageNotOfferedError(
                "the group has no image yet", hint="Images begin when the first resynchronisation has ended."
            )
        if selector.bookmark is not None:
            bookmark = self.receiver.state.bookmarks.get(selector.bookmark)
            if bookmark is None:
                raise NotFoundError(
                    f"there is no bookmark {selector.bookmark!r}", hint="`iscsi-rp bookmark list` shows them."
                )
            position = bookmark.position
        elif selector.time_ns is not None:
            position = self._at(selector.time_ns)
        else:
            position = self.latest if selector.position is None else selector.position
        if not self.holds(position):
            asked = (
                f"at position {position}"
                if selector.time_ns is None
                else f"of {format_time(selector.time_ns)}"
            )
            raise self._refusal(position, asked)
        return Image(position=position, time_ns=self.moment(position).time_ns, bookmark=selector.bookmark)

    def _at(self, time_ns: int) -> int:
        """The newest position at or before a time. One behind the newest image is that, unless more was
        written.
        """
        position = self.replica.log.position_at(time_ns)
        if self.moment(position).time_ns > time_ns:
            return position - 1  # the log no longer goes back so far
        latest = self.latest
        if latest is not None and position > latest and self.receiver.content_end <= latest:
            return latest
        return position

    def _refusal(self, position: int, asked: str) -> ImageNotOfferedError:
        before = max((last for _, last in self.ranges if last < position), default=None)
        after = min((first for first, _ in self.ranges if first > position), default=None)
        near = [self._describe(each) for each in (before, after) if each is not None]
        where = "inside a resynchronisation" if before is not None else "before the protection window"
        if before is not None and after is None:
            where = "newer than the newest image"
        return ImageNotOfferedError(
            f"there is no image {asked}: it lies {where}",
            hint=f"The nearest: {' and '.join(near)}.",
        )

    def _describe(self, position: int) -> str:
        return f"position {position} ({format_time(self.moment(position).time_ns)})"

    # -- listing

    def listing(self, since_ns: int | None, until_ns: int | None, limit: int) -> ImageList:
        since = 0 if since_ns is None else since_ns
        until = utc_ns() if until_ns is None else until_ns
        offered = [
            ImageRange(first=self.moment(first), last=self.moment(last)) for first, last in self.ranges
        ]
        offered = [each for each in offered if each.last.time_ns >= since and each.first.time_ns <= until]
        bookmarks = [each for each in self.bookmarks() if since <= each.time_ns <= until]
        window = None
        if self.ranges:
            window = ImageRange(first=self.moment(self.ranges[0][0]), last=self.moment(self.ranges[-1][1]))
        return ImageList(
            window=window,
            offered=offered,
            bookmarks=bookmarks,
            images=self._sample(offered, bookmarks, since, until, limit),
        )

    def bookmarks(self) -> list[Bookmark]:
        """Those that can be opened, oldest first."""
        return sorted(
            (
                Bookmark(
                    name=each.name,
                    position=each.position,
                    time_ns=each.time_ns,
                    consistency="application" if each.consistency == "application" else "crash",
                )
                for each in self.receiver.state.bookmarks.values()
                if self.holds(each.position)
            ),
            key=lambda each: each.position,
        )

    def _sample(
        self, offered: list[ImageRange], bookmarks: list[Bookmark], since: int, until: int, limit: int
    ) -> list[Image]:
        """Images at even intervals of the time that is asked for, and the bookmarks."""
        if not offered or limit <= 0:
            return []
        names = {each.position: each.name for each in bookmarks[-limit:]}
        start, end = max(since, offered[0].first.time_ns), min(until, offered[-1].last.time_ns)
        positions = set(names)
        for step in range(limit):
            position = self.replica.log.position_at(end - (end - start) * step // limit)
            before = [min(last, position) for first, last in self.ranges if first <= position]
            if before and len(positions) < limit:
                positions.add(before[-1])
        return [
            Image(position=each, time_ns=self.moment(each).time_ns, bookmark=names.get(each))
            for each in sorted(positions, reverse=True)
        ]

    def spans(self) -> list[Span]:
        """Stretches without images inside the window; the last may be open."""
        lowest = self.ranges[0][0] if self.ranges else 0
        spans = [
            Span(first=self.moment(begin), last=self.moment(end))
            for begin, end in self.receiver.state.spans
            if begin >= lowest and begin > 0
        ]
        begin = self.receiver.span_from
        if begin is not None and begin >= max(lowest, 1):
            spans.append(Span(first=self.moment(begin)))
        return spans
