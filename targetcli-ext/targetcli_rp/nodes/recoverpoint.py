"""`/recoverpoint`: all of it at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

from targetcli_rp.nodes.appliances import Appliances
from targetcli_rp.nodes.arrays import Arrays
from targetcli_rp.nodes.groups import Groups
from targetcli_rp.nodes.node import Node, Summary, counted
from targetcli_rp.nodes.splitters import Splitters
from targetcli_rp.site import Site


class RecoverPoint(Node):
    def __init__(self, parent: Any, site: Site) -> None:
        super().__init__("recoverpoint", parent)
        self._site = site

    @property
    def site(self) -> Site:
        return self._site

    def wanted(self) -> Mapping[str, Callable[[str, Node], Node]]:
        return {"arrays": Arrays, "splitters": Splitters, "appliances": Appliances, "groups": Groups}

    def shown(self) -> Summary:
        array, appliance = self.site.array_status(), self.site.appliance_status()
        alerts = len(array["alerts"]) + len(appliance["alerts"])
        text = f"{array['name']}, {appliance['name']}, {counted(len(appliance['groups']), 'group')}"
        return (f"{text}, {counted(alerts, 'alert')}" if alerts else text, not alerts)
