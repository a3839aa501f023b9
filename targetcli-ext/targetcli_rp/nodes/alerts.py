"""What an operator should know, until it is over. A node is there only as long as there are any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

from targetcli_rp.nodes.node import Item, Listing, Node, Summary, counted


class Alert(Item):
    def shown(self) -> Summary:
        return (f"{self.record['text']}; next: {self.record['next_step']}", False)


class Alerts(Listing):
    """Of the array, appliance or group above it."""

    item = Alert

    def records(self) -> dict[str, Any]:
        named: dict[str, Any] = {}
        for alert in self.parent.record["alerts"]:
            code, again = alert["code"], 1
            while code in named:
                again += 1
                code = f"{alert['code']}-{again}"
            named[code] = alert
        return named

    def shown(self) -> Summary:
        return (counted(len(self.records()), "alert"), False)


def alerts_of(record: Any) -> Mapping[str, Callable[[str, Node], Node]]:
    return {"alerts": Alerts} if record["alerts"] else {}


def warned(record: Any, text: str, healthy: bool | None) -> Summary:
    """A summary with the number of alerts."""
    if not record["alerts"]:
        return (text, healthy)
    return (f"{text}, {counted(len(record['alerts']), 'alert')}", False)
