"""The moments of a group: their window, the image that is accessed, and how one is chosen."""

from __future__ import annotations

import time as clock
from collections.abc import Mapping
from typing import Any, Callable

from targetcli_rp.errors import RpError
from targetcli_rp.nodes.node import Item, Listing, Node, Summary, joined
from targetcli_rp.units import format_duration, format_moment, format_size, format_time, parse_time


class Lun(Item):
    def shown(self) -> Summary:
        return (f"{format_size(self.record['size_bytes'])}, {lun_url(self.parent.record, self.record)}", True)


class Accessed(Listing):
    """The image that is accessed, with its LUNs by the names of the volumes."""

    item = Lun

    @property
    def record(self) -> Any:
        access = self.parent.parent.record["access"]
        if access is None:
            raise RpError("no image is accessed")
        return access

    def records(self) -> dict[str, Any]:
        return {lun["volume"]: lun for lun in self.record["luns"]}

    def shown(self) -> Summary:
        access = self.record
        return (
            f"{format_time(access['time_ns'])}, position {access['position']}, writes {writes(access)}",
            True,
        )


class Images(Node):
    def wanted(self) -> Mapping[str, Callable[[str, Node], Node]]:
        return {} if self.parent.record["access"] is None else {"accessed": Accessed}

    def shown(self) -> Summary:
        group = self.parent.record
        if group["latest"] is None:
            return ("no images yet", None)
        window = f"window of {format_duration(group['window_s'])}"
        return (
            joined(window, f"latest {format_moment(group['latest'])}", group["access"] and "one is accessed"),
            None,
        )

    def ui_command_list(self, since: str | None = None, until: str | None = None, limit: str = "20") -> None:
        """
        Lists the stretches of time of which every moment is an image, and the newest images.

        PARAMETERS
        ==========

        since, until
        ------------
        No image before, or after: 10m-ago, 14:30:00, 2026-11-23T01:50:49.123

        limit
        -----
        At most so many images.
        """
        now_ns = clock.time_ns()
        images = self.site.appliance.get(
            *("groups", self.parent.name, "images"),
            since_ns=None if since is None else parse_time(since, now_ns),
            until_ns=None if until is None else parse_time(until, now_ns),
            limit=int(limit),
        )
        if images["window"] is None:
            self.say("no images yet: the first is there when the first synchronisation has ended")
            return
        rows = [(format_moment(each["first"]), format_moment(each["last"])) for each in images["offered"]]
        self.say_table(("EVERY MOMENT FROM", "TO"), rows)
        if images["images"]:
            sample = [(format_time(i["time_ns"]), i["position"], i["bookmark"]) for i in images["images"]]
            self.say_table(("TIME", "POSITION", "BOOKMARK"), sample)


def chosen(latest: str | None, bookmark: str | None, time: str | None, position: str | None) -> Any:
    """The selector of the API; None where nothing was chosen. Raises `RpError` and `ValueError`."""
    given = [value for value in (latest, bookmark, time, position) if value is not None]
    if len(given) > 1 or latest not in (None, "latest", "true"):
        raise RpError(
            "choose an image by one of latest, bookmark=NAME, time=TIME and position=N",
            "A time has no blanks here: time=30s-ago, time=14:30:00 or time=2026-11-23T01:50:49",
        )
    if latest is not None or time == "latest":
        return {"latest": True}
    if bookmark is not None:
        return {"bookmark": bookmark}
    if time is not None:
        return {"time_ns": parse_time(time, clock.time_ns())}
    return None if position is None else {"position": int(position)}


def writes(access: Any) -> str:
    """What becomes of writes to an image."""
    if not access["writable"]:
        return f"refused: {access['read_only_reason']}" if access["read_only_reason"] else "refused"
    used, capacity = format_size(access["log_bytes_used"]), format_size(access["log_bytes_capacity"])
    return f"kept apart, {used} of {capacity} used"


def lun_url(access: Any, lun: Any) -> str:
    return f"iscsi://{access['portal']}/{access['iqn']}/{lun['lun']}"
