"""The daemons that a command talks to, and what of them completes the names on a command line."""

from collections.abc import Callable
from contextlib import closing, suppress
from functools import cached_property
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from iscsi_rp.control.client import ApplianceClient, ArrayClient
from iscsi_rp.control.config import Config, find_config, load_config
from iscsi_rp.errors import Error


class Site:
    """Array and appliance by one configuration. Nothing is read before it is needed."""

    def __init__(self, config_path: Path | None, state: Path | None) -> None:
        self.config_path = config_path
        self.state = state

    @cached_property
    def config(self) -> Config:
        return load_config(find_config(self.config_path), self.state)

    @cached_property
    def array(self) -> ArrayClient:
        return ArrayClient(self.config.array_socket, self._elsewhere)

    @cached_property
    def appliance(self) -> ApplianceClient:
        return ApplianceClient(self.config.appliance_socket, self._elsewhere)

    @property
    def _elsewhere(self) -> str | None:
        if not self.config.is_alone:
            return None
        return "It runs on another machine of the site, and so does this command."

    def close(self) -> None:
        """Ends the connections that were made."""
        for name in ("array", "appliance"):
            if client := self.__dict__.pop(name, None):
                client.close()

    def arguments(self) -> list[str]:
        """The options that give another `iscsi-rp` the same site."""
        options: list[str] = []
        if path := find_config(self.config_path):
            options += ["--config", str(path)]
        if self.state is not None:
            options += ["--state", str(self.state)]
        return options


pass_site = click.make_pass_decorator(Site)

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def complete(names: Callable[[Site, click.Context], list[str]]) -> Complete:
    """Names that begin with what was typed; none when the daemon is not there: completion is silent."""

    def found(context: click.Context, _: click.Parameter, typed: str) -> list[CompletionItem]:
        given = context.find_root().params
        with suppress(Error), closing(Site(given.get("config"), given.get("state"))) as site:
            return [CompletionItem(name) for name in names(site, context) if name.startswith(typed)]
        return []

    return found


complete_volume = complete(lambda site, _: [volume.name for volume in site.array.list_volumes()])
complete_initiator = complete(lambda site, _: [each.name for each in site.array.list_initiators()])
complete_group = complete(lambda site, _: [group.name for group in site.appliance.list_groups()])
complete_bookmark = complete(
    lambda site, context: [mark.name for mark in site.appliance.list_bookmarks(context.params["group"])]
)
