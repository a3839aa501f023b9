"""The array (storage processor): its volumes, and the sessions of initiators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Callable, ClassVar

from targetcli_rp.errors import RpError
from targetcli_rp.nodes.alerts import alerts_of, warned
from targetcli_rp.nodes.node import Item, Listing, Node, Offers, Summary, counted, joined
from targetcli_rp.site import Site
from targetcli_rp.units import format_size, parse_size


class Volume(Item):
    def shown(self) -> Summary:
        volume = self.record
        text = joined(
            format_size(volume["size_bytes"]),
            lun_of(volume),
            volume.get("front_end"),
            f"SP {volume['owner']}",
            volume["group"] and f"group {volume['group']}",
            volume["state"],
            volume["error"],
        )
        return (text, {"online": True, "offline": False}.get(volume["state"]))


class Volumes(Listing):
    item = Volume

    def records(self) -> dict[str, Any]:
        return {volume["name"]: volume for volume in self.parent.record["volumes"]}

    def shown(self) -> Summary:
        return (counted(len(self.records()), "volume"), None)


class Session(Item):
    def shown(self) -> Summary:
        session = self.record
        text = joined(
            f"{session['initiator']} from {session['peer']}",
            f"SP {session['processor']}",
            f"read {format_size(session['read_bytes'])}",
            f"written {format_size(session['written_bytes'])}",
        )
        return (text, True)


class Sessions(Listing):
    item = Session

    def records(self) -> dict[str, Any]:
        return {str(session["id"]): session for session in self.parent.record["sessions"]}

    def shown(self) -> Summary:
        return (counted(len(self.records()), "session"), None)


class Array(Item):
    offers: ClassVar[Offers] = {
        "volume": lambda array: [volume["name"] for volume in array.record["volumes"]],
        "kind": lambda _: ("file", "block", "memory"),
        "sector": lambda _: ("512e", "512n", "4kn"),
        "owner": lambda _: ("A", "B"),
        "session": lambda array: [
            name for each in array.record["sessions"] for name in (str(each["id"]), each["initiator"])
        ],
    }

    def wanted(self) -> Mapping[str, Callable[[str, Node], Node]]:
        return {"volumes": Volumes, "sessions": Sessions, **alerts_of(self.record)}

    def shown(self) -> Summary:
        status = self.record
        return warned(
            status, f"{status['iqn']} at {', '.join(p['address'] for p in status['portals'])}", True
        )

    def ui_command_create_volume(
        self,
        name: str,
        size: str | None = None,
        path: str | None = None,
        kind: str = "file",
        sector: str = "512e",
        owner: str = "A",
        preallocate: str | None = None,
    ) -> None:
        """
        Makes a volume, or serves what is at path.

        PARAMETERS
        ==========

        name
        ----
        Up to 63 of a-z 0-9 . _ -

        size
        ----
        As 512MiB, 10G or 1.5TiB. Without it, as large as what is at path.

        path
        ----
        The store, absolute. Without it, a file below the array's state.

        kind
        ----
        file, block (a block device, with path) or memory (a scratch disk).

        sector
        ------
        512e, 512n or 4kn.

        owner
        -----
        The storage processor by which it is best reached: A or B.

        preallocate
        -----------
        true takes the space now, and not as it is written.
        """
        request = {
            "name": name,
            "size_bytes": None if size is None else parse_size(size),
            "kind": kind,
            "path": path,
            "preallocate": self.flag(preallocate),
            "sector": sector,
            "owner": owner,
        }
        made = self.site.array.post("volumes", body=request)
        self.say(f"volume {name}: {joined(format_size(made['size_bytes']), lun_of(made))}")

    def ui_command_delete_volume(
        self,
        volume: str,
        destroy: str | None = None,
        force: str | None = None,
        dry_run: str | None = None,
        yes: str | None = None,
    ) -> None:
        """
        Stops serving a volume. Its store stays, unless destroy=true.

        PARAMETERS
        ==========

        destroy
        -------
        true removes its file too. What is in it is lost.

        force
        -----
        true: even while initiators use it.

        dry_run
        -------
        true shows what would be lost, and for whom.

        yes
        ---
        true: do not ask.
        """
        found = self.site.array.get("volumes", volume)
        gone = self.flag(destroy) and found["kind"] == "file"
        fate = f"{found['path'] or 'memory'} {'is removed' if gone else 'stays'}"
        if self.flag(dry_run):
            self.say_facts(
                [
                    ("volume", f"{volume}, {format_size(found['size_bytes'])}"),
                    ("store", fate),
                    ("in use by", ", ".join(users(self.site, [volume])) or "nobody"),
                    ("group", found["group"] and f"{found['group']}: to be deleted first"),
                ]
            )
            return
        lost = "and destroy what is in it" if gone else "(its store stays)"
        self.confirm(f"delete volume {volume} {lost}?", yes)
        self.site.array.delete("volumes", volume, destroy=self.flag(destroy), force=self.flag(force))
        self.say(f"volume {volume}: deleted, {fate}")

    def ui_command_disconnect(self, session: str) -> None:
        """
        Ends a session by its ID, or all of an initiator by its name. It may log in again.

        It is asked to log out first, so that it can finish its commands.
        """
        ids = [session] if session.isdecimal() else self.site.array.get("initiators", session)["sessions"]
        if not ids:
            raise RpError(f"initiator {session} is not logged in")
        for each in ids:
            self.site.array.delete("sessions", str(each))
            self.say(f"session {each}: ended")


class Arrays(Listing):
    item = Array

    def records(self) -> dict[str, Any]:
        status = self.site.array_status()
        return {status["name"]: status}

    def shown(self) -> Summary:
        return (counted(len(self.records()), "array"), None)


def lun_of(volume: Any) -> str | None:
    """Not each front end gives a volume a LUN."""
    return None if volume["lun"] is None else f"LUN {volume['lun']}"


def users(site: Site, volumes: Sequence[str]) -> list[str]:
    """The initiators that are logged in and see one of these volumes."""
    return [
        each["name"]
        for each in site.array.get("initiators")
        if each["sessions"] and any(lun["volume"] in volumes for lun in each["luns"])
    ]
