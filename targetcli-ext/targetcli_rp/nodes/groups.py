"""Consistency groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from targetcli_rp.errors import RpError
from targetcli_rp.nodes.group import Group
from targetcli_rp.nodes.node import Listing, Offers, Summary, counted
from targetcli_rp.units import parse_size

JOURNAL = "10GiB"


class Groups(Listing):
    item = Group

    offers: ClassVar[Offers] = {
        "volumes": lambda groups: groups.unprotected(),
        "*": lambda groups: (*groups.unprotected(), "group=", "journal="),
        "group": lambda groups: groups.names(),
    }

    def records(self) -> dict[str, Any]:
        return {group["name"]: group for group in self.site.appliance_status()["groups"]}

    def shown(self) -> Summary:
        return (counted(len(self.records()), "group"), None)

    def unprotected(self) -> Iterable[str]:
        return [v["name"] for v in self.site.array_status()["volumes"] if v["group"] is None]

    def ui_command_create(
        self, name: str, volumes: str, journal: str = JOURNAL, copy_directory: str | None = None
    ) -> None:
        """
        Protects volumes together: journals every write of theirs, and keeps a copy.

        PARAMETERS
        ==========

        name
        ----
        Up to 63 of a-z 0-9 . _ -

        volumes
        -------
        Their names, with commas between them.

        journal
        -------
        The journal's capacity.

        copy_directory
        --------------
        Where the copies go, absolute. Without it, below the appliance's state.
        """
        self._create(name, volumes.split(","), journal, copy_directory)

    def ui_command_split(self, *volumes: str, **options: str) -> None:
        """
        Splits the writes of volumes: makes a group of them.

        PARAMETERS
        ==========

        volumes
        -------
        Their names.

        group
        -----
        The group's name. Without it, that of the first volume.

        journal
        -------
        The journal's capacity.

        SEE ALSO
        ========
        create unsplit
        """
        if not volumes or options.keys() - {"group", "journal"}:
            raise RpError("expected: split VOLUME... [group=NAME] [journal=SIZE]")
        self._create(options.get("group", volumes[0]), volumes, options.get("journal", JOURNAL), None)

    def ui_command_unsplit(self, group: str, destroy: str | None = None, yes: str | None = None) -> None:
        """
        Stops splitting the writes of a group's volumes: deletes the group.

        PARAMETERS
        ==========

        destroy
        -------
        true removes journal and copies too. Every image is lost.

        yes
        ---
        true: do not ask.

        SEE ALSO
        ========
        split
        """
        self.get_child(group).ui_command_delete(destroy, yes)

    def _create(self, name: str, volumes: Iterable[str], journal: str, copy_directory: str | None) -> None:
        request = {
            "name": name,
            "volumes": list(volumes),
            "journal_bytes": parse_size(journal),
            "copy_directory": copy_directory,
        }
        made = self.site.appliance.post("groups", body=request)
        self.say(f"group {name}: {made['state']}; splitters shows how its first synchronisation goes")
