"""The named images of a group."""

from __future__ import annotations

from typing import Any, ClassVar

from targetcli_rp.nodes.node import Item, Listing, Offers, Summary, counted
from targetcli_rp.units import format_time


class Bookmark(Item):
    def shown(self) -> Summary:
        mark = self.record
        return (
            f"{format_time(mark['time_ns'])}, position {mark['position']}, {mark['consistency']} consistent",
            None,
        )


class Bookmarks(Listing):
    item = Bookmark
    offers: ClassVar[Offers] = {"bookmark": lambda bookmarks: bookmarks.names()}

    def records(self) -> dict[str, Any]:
        return {mark["name"]: mark for mark in self.site.bookmarks(self.parent.name)}

    def shown(self) -> Summary:
        return (counted(len(self.records()), "bookmark"), None)

    def ui_command_delete(self, bookmark: str, yes: str | None = None) -> None:
        """
        Forgets a bookmark. Its image stays as long as others of its time do.

        PARAMETERS
        ==========

        yes
        ---
        true: do not ask.
        """
        group = self.parent.name
        self.confirm(f"delete bookmark {bookmark} of group {group}?", yes)
        self.site.appliance.delete("groups", group, "bookmarks", bookmark)
        self.say(f"bookmark {bookmark}: deleted")
