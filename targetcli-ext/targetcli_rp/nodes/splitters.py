"""The splitter of the array: each group as it splits it."""

from __future__ import annotations

from typing import Any

from targetcli_rp.nodes.node import Item, Listing, Summary, counted, joined
from targetcli_rp.units import format_duration, format_size

HEALTH = {"SPLITTING": True, "RESYNCING": None, "MARKING": False, "DETACHED": False}


class Splitter(Item):
    def shown(self) -> Summary:
        splitter = self.record
        resync = splitter["resync"]
        marked, left = splitter["marked_bytes"], splitter["to_sync_bytes"]
        text = joined(
            splitter["mode"],
            splitter["appliance"] and f"to {splitter['appliance']}",
            marked and f"{format_size(marked)} marked",
            resync and f"{format_size(resync['done_bytes'])} of {format_size(resync['total_bytes'])} done",
            left and f"{format_size(left)} to go",
            resync and resync["remaining_s"] and f"{format_duration(resync['remaining_s'])} left",
            splitter["last_error"],
        )
        return (text, HEALTH.get(splitter["mode"]))


class Splitters(Listing):
    item = Splitter

    def records(self) -> dict[str, Any]:
        return {splitter["group"]: splitter for splitter in self.site.array_status()["groups"]}

    def shown(self) -> Summary:
        status = self.site.array_status()
        return (f"of {status['name']}: {counted(len(status['groups']), 'group')}", None)
