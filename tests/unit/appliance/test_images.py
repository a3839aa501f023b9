"""Which moments are images, and what is said of those that are not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from iscsi_rp.appliance.images import ImageNotOfferedError, Offer
from iscsi_rp.control.appliance_models import ImageSelector
from iscsi_rp.errors import NotFoundError
from iscsi_rp.journal.files import OsDirectory, OsFile
from iscsi_rp.journal.replica import Replica
from iscsi_rp.replication import frames as wire
from iscsi_rp.units import format_time
from tests.unit.appliance.rig import SIZE, Rig, Splitter

S = 10**9


class Site:
    """A group with two stretches of images and a span between them."""

    def __init__(self, path: Path) -> None:
        (path / "journal").mkdir()
        self.rig = Rig(path / "journal")
        copies = {index: OsFile(path / f"copy-{index}", create=True) for index in range(2)}
        for copy in copies.values():
            copy.truncate(SIZE)
        self.replica = Replica.open(
            self.rig.log, OsDirectory(path / "journal"), copies, dict.fromkeys(copies, SIZE)
        )
        self.splitter = Splitter(self.rig)

    def fill(self) -> "Site":
        self.splitter.join()
        self.first = self.rig.log.end
        self.splitter.write()
        self.bookmark = self.rig.receiver.bookmark("noon", "application", self.rig.now())
        self.splitter.write()
        self.before = self.rig.seal(self.splitter)
        self.splitter.write()
        self.rig.receiver.lost(self.splitter.session, "the link is gone")
        self.splitter.hello(fresh=False).start()
        self.splitter.write()
        self.inside = self.rig.log.end
        self.splitter.tell(wire.END)
        self.after = self.rig.log.end
        self.splitter.write()
        self.latest = self.rig.seal(self.splitter)
        return self

    def trim(self) -> None:
        for steps in (self.replica.distribute(self.rig.log.durable, 1 << 30), self.replica.trim()):
            for step in steps:
                step()

    def offer(self) -> Offer:
        return Offer.of(self.rig.receiver, self.replica)

    def choose(self, **selector: object) -> int:
        return self.offer().choose(ImageSelector.model_validate(selector)).position

    def refusal(self, **selector: object) -> ImageNotOfferedError:
        with pytest.raises(ImageNotOfferedError) as caught:
            self.choose(**selector)
        return caught.value

    def time_of(self, position: int) -> int:
        return self.offer().moment(position).time_ns


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.rig.log.close()


@pytest.fixture
def site(empty: Site) -> Site:
    return empty.fill()


def test_there_is_no_image_before_the_first_resynchronisation_has_ended(empty: Site) -> None:
    assert "no image yet" in empty.refusal(latest=True).message
    empty.splitter.hello().start()
    empty.splitter.write()
    empty.rig.sync()
    assert empty.offer().ranges == []
    assert empty.offer().listing(None, None, 10).window is None


def test_every_position_outside_of_the_span_is_an_image(site: Site) -> None:
    offer = site.offer()
    assert offer.ranges == [(site.first, site.before), (site.after, site.latest)]
    assert site.before < site.inside < site.after
    for position in range(site.rig.log.end + 2):
        in_first, in_second = (
            position in range(site.first, site.before + 1),
            position in range(site.after, site.latest + 1),
        )
        assert offer.holds(position) == (in_first or in_second)
        if offer.holds(position):
            assert site.choose(position=position) == position
        else:
            assert f"no image at position {position}: " in site.refusal(position=position).message


def test_latest_is_the_newest_that_is_sealed(site: Site) -> None:
    assert site.choose(latest=True) == site.latest
    site.splitter.write()
    assert site.choose(latest=True) == site.latest


def test_a_bookmark_is_its_position(site: Site) -> None:
    image = site.offer().choose(ImageSelector(bookmark="noon"))
    assert (image.position, image.bookmark) == (site.bookmark, "noon")
    with pytest.raises(NotFoundError, match="no bookmark 'midnight'"):
        site.choose(bookmark="midnight")


def test_a_time_is_the_newest_image_at_or_before_it(site: Site) -> None:
    for position in range(site.first, site.before + 1):
        assert site.choose(time_ns=site.time_of(position)) == position
    assert site.choose(time_ns=site.time_of(site.bookmark) + 1) == site.bookmark
    assert site.choose(time_ns=site.time_of(site.bookmark) - 1) == site.bookmark - 1


def test_a_time_inside_a_resynchronisation_is_refused_naming_both_sides(site: Site) -> None:
    error = site.refusal(time_ns=site.time_of(site.inside))
    assert "inside a resynchronisation" in error.message
    assert f"position {site.before} " in str(error.hint)
    assert f"position {site.after} " in str(error.hint)


def test_a_time_behind_the_newest_image_is_that_unless_more_was_written(site: Site) -> None:
    assert site.choose(time_ns=site.rig.now() + 100 * S) == site.latest
    site.splitter.write()
    error = site.refusal(time_ns=site.rig.now() + 100 * S)
    assert "newer than the newest image" in error.message
    assert f"position {site.latest} " in str(error.hint)


def test_a_time_before_the_first_image_is_refused_naming_it(site: Site) -> None:
    for time_ns in (0, site.time_of(site.first) - 1):
        error = site.refusal(time_ns=time_ns)
        assert (
            error.message
            == f"there is no image of {format_time(time_ns)}: it lies before the protection window"
        )
        assert f"position {site.first} " in str(error.hint)


def test_after_a_trim_the_window_begins_at_the_end_of_what_went(site: Site) -> None:
    while len(site.rig.log.segments) < 3:
        site.splitter.write()
        site.rig.sync()
    site.latest = site.rig.seal(site.splitter)
    gone = site.rig.log.segments[0].last
    time_ns = site.time_of(gone)
    site.trim()
    assert (site.rig.log.first, site.offer().ranges[0][0]) == (gone + 1, gone)
    assert site.time_of(gone) == time_ns  # although the record itself is gone
    assert site.choose(time_ns=time_ns) == site.choose(position=gone) == gone
    for error in (
        site.refusal(position=gone - 1),
        site.refusal(time_ns=time_ns - 1),
        site.refusal(time_ns=0),
    ):
        assert "before the protection window" in error.message
        assert f"position {gone} " in str(error.hint)


def test_the_listing_has_samples_bookmarks_and_spans(site: Site) -> None:
    listing = site.offer().listing(None, None, 5)
    assert listing.window is not None
    assert (listing.window.first.position, listing.window.last.position) == (site.first, site.latest)
    assert [each.name for each in listing.bookmarks] == ["noon"]
    assert (site.bookmark, "noon") in [(each.position, each.bookmark) for each in listing.images]
    positions = [each.position for each in listing.images]
    assert positions == sorted(set(positions), reverse=True)
    assert len(positions) <= 5
    assert all(site.offer().holds(position) for position in positions)
    (span,) = site.offer().spans()
    assert span.last is not None
    assert (span.first.position, span.last.position) == (site.before, site.after)


def test_an_open_span_has_no_end(site: Site) -> None:
    site.rig.receiver.lost(site.splitter.session, "the link is gone")
    assert site.offer().spans()[-1].last is None
    assert site.choose(latest=True) == site.latest


def test_a_listing_is_limited_to_the_times_asked_for(site: Site) -> None:
    since = site.time_of(site.after)
    listing = site.offer().listing(since, None, 10)
    assert [(each.first.position, each.last.position) for each in listing.offered] == [
        (site.after, site.latest)
    ]
    assert listing.bookmarks == []
    assert {each.position for each in listing.images} <= set(range(site.after, site.latest + 1))
