"""dm-multipath over both storage processors: priorities by ALUA, owners that change, a portal that is cut."""

import json
from typing import Any, Final

import pytest

from tests.kernel.guest import Guest
from tests.kernel.load import finish_load, start_load
from tests.kernel.site import PORTALS, Daemons, OpenIscsi, eventually

pytestmark = pytest.mark.kernel

CONFIG: Final = """\
defaults {
    find_multipaths greedy
    polling_interval 1
    max_polling_interval 1
}
blacklist {
    devnode "^ubd"
}
devices {
    device {
        vendor "ISCSI-RP"
        product ".*"
        path_grouping_policy group_by_prio
        prio alua
        path_checker tur
        failback immediate
        no_path_retry 30
    }
}
"""
TIMES: Final = {
    "node.session.timeo.replacement_timeout": "3",
    "node.conn[0].timeo.noop_out_interval": "1",
    "node.conn[0].timeo.noop_out_timeout": "2",
}


class Multipath:
    """The map of one LUN that is seen through both storage processors."""

    def __init__(self, guest: Guest, disks: dict[str, str]) -> None:
        self._guest = guest
        self._processors = {disk.removeprefix("/dev/"): sp for sp, disk in disks.items()}

    def paths(self) -> dict[str, dict[str, Any]]:
        """Storage processor -> its path, with `group`, the state of its path group."""
        (found,) = json.loads(self._guest.run("multipathd", "show", "maps", "json").out)["maps"]
        return {
            self._processors[path["dev"]]: {**path, "group": group["dm_st"]}
            for group in found["path_groups"]
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
        (found,) = json.loads(self._guest.run("multipathd", "show", "maps", "json").out)["maps"]
        return f"/dev/mapper/{found['name']}"


@pytest.fixture(scope="module")
def multipath(guest: Guest, daemons: Daemons, initiator: OpenIscsi) -> Multipath:
    lun = daemons.create_volume("paths", "--owner", "A")
    guest.run("dd", "of=/etc/multipath.conf", "status=none", stdin=CONFIG)
    guest.shell("modprobe -a dm-multipath dm-service-time && multipathd")
    initiator.discover()
    for processor in PORTALS:
        initiator.set(TIMES, processor)
        initiator.login(processor)
    found = Multipath(guest, {processor: initiator.disk(lun, processor) for processor in PORTALS})
    eventually("a map of two paths", lambda: _two_paths(guest))
    return found


def _two_paths(guest: Guest) -> bool:
    maps = json.loads(guest.run("multipathd", "show", "maps", "json").out)["maps"]
    return [each["paths"] for each in maps] == [2]


def test_both_paths_lead_to_one_lun_and_the_owners_is_preferred(guest: Guest, multipath: Multipath) -> None:
    paths = multipath.paths()
    assert set(paths) == {"A", "B"}
    assert paths["A"]["pri"] > paths["B"]["pri"] > 0
    guest.run("dd", f"if={multipath.device}", "of=/dev/null", "bs=1M", "iflag=direct")
    assert multipath.used() == "A"


def test_a_portal_is_cut_under_load_and_comes_back(
    guest: Guest, daemons: Daemons, multipath: Multipath
) -> None:
    load = start_load(guest, multipath.device, seconds=25)
    eventually("I/O through A", lambda: multipath.used() == "A")
    guest.run("ip", "address", "del", f"{PORTALS['A']}/32", "dev", "lo")
    eventually("I/O through B", lambda: multipath.used() == "B")
    assert multipath.paths()["A"]["dm_st"] == "failed"
    guest.run("ip", "address", "add", f"{PORTALS['A']}/32", "dev", "lo")
    eventually("I/O through A again", lambda: multipath.used() == "A")
    finish_load(load)
    written = {each["processor"]: each["written_bytes"] for each in daemons.query("session", "list")}
    assert written["B"] > 0


def test_a_new_owner_is_preferred_under_load(guest: Guest, daemons: Daemons, multipath: Multipath) -> None:
    load = start_load(guest, multipath.device, seconds=15)
    daemons.cli("volume", "set", "paths", "--owner", "B")
    eventually("I/O through B", lambda: multipath.used() == "B")
    paths = multipath.paths()
    assert paths["B"]["pri"] > paths["A"]["pri"] > 0
    assert "Asymmetric access state changed" in guest.shell("dmesg")
    finish_load(load)
