"""A consistency group, and what is done with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable, ClassVar

from targetcli_rp.errors import RpError, UnreachableError
from targetcli_rp.nodes.alerts import alerts_of, warned
from targetcli_rp.nodes.arrays import users
from targetcli_rp.nodes.bookmarks import Bookmarks
from targetcli_rp.nodes.copies import Copies, ReplicationSets
from targetcli_rp.nodes.images import Images, chosen, lun_url, writes
from targetcli_rp.nodes.node import Item, Node, Offers, Summary, joined
from targetcli_rp.units import format_duration, format_moment, format_size, format_time

HEALTH = {"active": True, "paused": False, "error": False}


class Group(Item):
    offers: ClassVar[Offers] = {
        "bookmark": lambda group: [mark["name"] for mark in group.site.bookmarks(group.name)],
        "consistency": lambda _: ("crash", "application"),
        "latest": lambda _: ("latest",),
    }

    def wanted(self) -> Mapping[str, Callable[[str, Node], Node]]:
        return {
            "volumes": ReplicationSets,
            "copies": Copies,
            "images": Images,
            "bookmarks": Bookmarks,
            **alerts_of(self.record),
        }

    def shown(self) -> Summary:
        group = self.record
        used, capacity = group["journal_bytes_used"], group["journal_bytes_capacity"]
        text = joined(
            group["state"],
            group["restoring"] and f"to {format_moment(group['restoring'])}",
            f"journal {format_size(used)} of {format_size(capacity)}",
            None if group["sessions"] else "no array connected",
        )
        return warned(group, text, HEALTH.get(group["state"]))

    def ui_command_bookmark(self, name: str, consistency: str = "crash") -> None:
        """
        Names this moment. It holds every write that was acknowledged before.

        PARAMETERS
        ==========

        name
        ----
        Up to 63 of A-Z a-z 0-9 . _ : -

        consistency
        -----------
        application: the applications were quiesced by whoever makes it.
        """
        request = {"name": name, "consistency": consistency}
        made = self.site.appliance.post("groups", self.name, "bookmarks", body=request)
        self.say(f"bookmark {name}: {format_time(made['time_ns'])}, position {made['position']}")

    def ui_command_enable_image(
        self,
        latest: str | None = None,
        bookmark: str | None = None,
        time: str | None = None,
        position: str | None = None,
        writable: str = "true",
    ) -> None:
        """
        Serves an image, at once, as LUNs of a target of its own.

        PARAMETERS
        ==========

        latest
        ------
        The word latest: the newest image.

        bookmark
        --------
        The bookmark's image.

        time
        ----
        The newest image at or before it: 30s-ago, 14:30:00, 2026-11-23T01:50:49.123

        position
        --------
        The image at this position of the history.

        writable
        --------
        Writes are kept apart from the image; false refuses them.
        """
        image = chosen(latest, bookmark, time, position)
        if image is None:
            raise RpError("which image?", "Give latest, bookmark=NAME, time=TIME or position=N.")
        request = {**image, "writable": self.flag(writable)}
        access = self.site.appliance.put("groups", self.name, "image-access", body=request)
        self.say_facts(
            [
                ("image", f"{format_time(access['time_ns'])}, position {access['position']}"),
                ("writes", writes(access)),
                ("ready after", format_duration(access["seconds_to_ready"])),
            ]
        )
        rows = [
            (lun["volume"], format_size(lun["size_bytes"]), lun_url(access, lun)) for lun in access["luns"]
        ]
        self.say_table(("VOLUME", "SIZE", "FOR INITIATORS"), rows)

    def ui_command_disable_image(self, yes: str | None = None) -> None:
        """
        Stops serving the image. What was written to it is dropped; the image itself stays.

        PARAMETERS
        ==========

        yes
        ---
        true: do not ask before what was written is dropped.
        """
        self._confirm_loss(yes)
        self.site.appliance.delete("groups", self.name, "image-access")
        self.say(f"group {self.name}: no image is accessed")

    def ui_command_undo_writes(self, yes: str | None = None) -> None:
        """
        Drops what was written to the image, and goes on serving it.

        PARAMETERS
        ==========

        yes
        ---
        true: do not ask.
        """
        self._confirm_loss(yes)
        self.site.appliance.post("groups", self.name, "image-access", "undo-writes")
        self.say(f"group {self.name}: the image is as it was")

    def ui_command_recover_production(
        self,
        latest: str | None = None,
        bookmark: str | None = None,
        time: str | None = None,
        position: str | None = None,
        force: str | None = None,
        dry_run: str | None = None,
        yes: str | None = None,
    ) -> None:
        """
        Restores production to an image: the accessed one, unless another is chosen.

        Hosts are blocked meanwhile, and should have unmounted the volumes: what they have cached is of
        another time afterwards. What production was before stays in the journal, as images.

        PARAMETERS
        ==========

        latest, bookmark, time, position
        --------------------------------
        As for enable_image.

        force
        -----
        true: even while initiators use the volumes.

        dry_run
        -------
        true shows what would be restored, and does nothing.

        yes
        ---
        true: do not ask.
        """
        request = {"image": chosen(latest, bookmark, time, position)}
        plan = self.site.appliance.post("groups", self.name, "recovery-plan", body=request)
        hosts = self._hosts(plan["volumes"])
        if self.flag(dry_run) or not self.flag(yes):
            self._say_plan(plan, hosts)
        if self.flag(dry_run):
            return
        if hosts and not self.flag(force):
            raise RpError(
                f"initiators are logged in, and may use volumes of group {self.name!r}: {', '.join(hosts)}",
                "Unmount the volumes and log them out, or recover with force=true.",
            )
        self.confirm(f"restore production of group {self.name} to this image?", yes)
        job = self.site.appliance.post("groups", self.name, "recover-production", body=request)
        self.follow(self.site.appliance, job, f"restoring {self.name}")
        self.say(f"group {self.name}: production is as it was at {format_time(plan['image']['time_ns'])}")

    def ui_command_verify(self) -> None:
        """
        Compares each volume with its copy, by hashes. It is an error when they differ.
        """
        job = self.site.array.post("groups", self.name, "verify")
        result = self.follow(self.site.array, job, f"verifying {self.name}")["result"]
        compared = format_size(result["compared_bytes"])
        if not result["equal"]:
            different = format_size(result["different_bytes"])
            raise RpError(f"group {self.name!r}: {different} of {compared} differ from the copy")
        self.say(f"group {self.name}: equal, {compared} compared")

    def ui_command_delete(self, destroy: str | None = None, yes: str | None = None) -> None:
        """
        Stops protecting the group. Journal and copies stay, unless destroy=true.

        PARAMETERS
        ==========

        destroy
        -------
        true removes journal and copies too. Every image is lost.

        yes
        ---
        true: do not ask.
        """
        lost = "and destroy its journal, its copies and every image"
        question = f"delete group {self.name} {lost if self.flag(destroy) else '(journal and copies stay)'}?"
        self.confirm(question, yes)
        self.site.appliance.delete("groups", self.name, destroy=self.flag(destroy))
        self.say(f"group {self.name}: deleted")

    def _confirm_loss(self, yes: str | None) -> None:
        """Asks only where something would be lost."""
        access = self.site.appliance.get("groups", self.name, "image-access")
        if access is not None and access["log_bytes_used"]:
            written = format_size(access["log_bytes_used"])
            self.confirm(f"drop {written} written to the image of group {self.name}?", yes)

    def _hosts(self, volumes: list[str]) -> list[str] | None:
        """Initiators that are logged in; None: the array does not answer."""
        try:
            return users(self.site, volumes)
        except UnreachableError:
            return None

    def _say_plan(self, plan: Any, hosts: list[str] | None) -> None:
        image = plan["image"]
        self.say_facts(
            [
                ("group", plan["group"]),
                ("image", f"{format_time(image['time_ns'])}, position {image['position']}"),
                ("bookmark", image["bookmark"]),
                ("volumes", ", ".join(plan["volumes"])),
                (
                    "in use by",
                    "unknown: the array does not answer" if hosts is None else ", ".join(hosts) or "nobody",
                ),
                ("writes after it", f"{plan['later_writes']}: production loses them, the journal keeps them"),
                ("to restore", f"at most {format_size(plan['touched_bytes'])}"),
            ]
        )
