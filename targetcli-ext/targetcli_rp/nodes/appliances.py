"""The appliance (RPA) and its cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

from targetcli_rp.nodes.alerts import alerts_of, warned
from targetcli_rp.nodes.node import Item, Listing, Node, Summary, counted


class Appliance(Item):
    def wanted(self) -> Mapping[str, Callable[[str, Node], Node]]:
        return alerts_of(self.record)

    def shown(self) -> Summary:
        status = self.record
        arrays = ", ".join(status["arrays"]) or "no array"
        text = f"images at {', '.join(status['portals'])}, {arrays} connected, cluster {status['cluster_id']}"
        return warned(status, text, bool(status["arrays"]) or None)


class Appliances(Listing):
    item = Appliance

    def records(self) -> dict[str, Any]:
        status = self.site.appliance_status()
        return {status["name"]: status}

    def shown(self) -> Summary:
        return (counted(len(self.records()), "appliance"), None)
