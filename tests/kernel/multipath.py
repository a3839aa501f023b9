"""dm-multipath in the guest: its configuration, and one map as it is now."""

import json
from collections.abc import Mapping
from typing import Any, Final

from tests.kernel.guest import CHECKOUT, Guest
from tests.kernel.site import OpenIscsi, eventually

CONFIG: Final = (CHECKOUT / "vagrant/provision/multipath.conf").read_text()
IMPATIENT: Final = """\
defaults {
    polling_interval 1
    max_polling_interval 1
}
"""
"What a test has beside it."
TIMES: Final = {
    "node.session.timeo.replacement_timeout": "3",
    "node.conn[0].timeo.noop_out_interval": "1",
    "node.conn[0].timeo.noop_out_timeout": "2",
}


class Multipath:
    """The map of one LUN that is seen through both storage processors."""

    def __init__(self, guest: Guest, initiator: OpenIscsi, lun: int, settings: Mapping[str, str]) -> None:
        """Logs in to both, with `settings` of the node records."""
        self._guest = guest
        guest.run("mkdir", "-p", "/etc/multipath/conf.d")
        for path, text in (("/etc/multipath.conf", CONFIG), ("/etc/multipath/conf.d/test.conf", IMPATIENT)):
            guest.run("dd", f"of={path}", "status=none", stdin=text)
        guest.shell("modprobe -a dm-multipath dm-service-time && { pidof multipathd || multipathd; }")
        initiator.discover()
        for processor in initiator.portals:
            initiator.set({**TIMES, **settings}, processor)
            initiator.login(processor)
        disks = {processor: initiator.disk(lun, processor) for processor in initiator.portals}
        self._processors = {disk.removeprefix("/dev/"): sp for sp, disk in disks.items()}
        eventually("a map of two paths", self._both)

    def _map(self) -> dict[str, Any]:
        """Of our paths; nothing while there is none."""
        for found in json.loads(eventually("multipathd", self._said))["maps"]:
            if any(
                path["dev"] in self._processors for each in found["path_groups"] for path in each["paths"]
            ):
                return dict(found)
        return {}

    def _said(self) -> str | None:
        """None: it has just started, or has other work."""
        said = self._guest.run("multipathd", "show", "maps", "json", check=False).out
        return said if said.startswith("{") else None

    def _both(self) -> bool:
        return len(self.paths()) == 2

    def paths(self) -> dict[str, dict[str, Any]]:
        """Storage processor -> its path, with `group`, the state of its path group."""
        return {
            self._processors[path["dev"]]: {**path, "group": group["dm_st"]}
            for group in self._map().get("path_groups", ())
            for path in group["paths"]
        }

    def used(self) -> str | None:
        """The storage processor through which I/O goes; None while there is none."""
        paths = self.paths().items()
        return next(
            (sp for sp, path in paths if path["group"] == "active" and path["dm_st"] == "active"), None
        )

    @property
    def device(self) -> str:
        return f"/dev/mapper/{self._map()['name']}"
