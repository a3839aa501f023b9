"""The replication sets of a group: production volumes, and their copies."""

from __future__ import annotations

from typing import Any

from targetcli_rp.nodes.node import Item, Listing, Summary, counted
from targetcli_rp.units import format_size


class ReplicationSet(Item):
    def shown(self) -> Summary:
        return (f"{format_size(self.record['size_bytes'])}, set {self.record['index']}", None)


class ReplicationSets(Listing):
    item = ReplicationSet

    def records(self) -> dict[str, Any]:
        return {volume["name"]: volume for volume in self.parent.record["volumes"]}

    def shown(self) -> Summary:
        return (counted(len(self.records()), "volume"), None)


class Copy(Item):
    def shown(self) -> Summary:
        return (self.record["copy_path"], None)


class Copies(ReplicationSets):
    item = Copy

    def shown(self) -> Summary:
        group = self.parent.record
        behind = f"{counted(group['lag_writes'], 'write')} ({format_size(group['lag_bytes'])}) behind"
        return (f"at position {group['distributed']}, {behind}", None)
