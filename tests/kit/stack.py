"""Array and appliance as two real processes on free loopback ports, and what all proofs ask of them."""

from pathlib import Path
from typing import Final

from iscsi_rp.control.appliance_models import ApplianceStatus, GroupCreate, ImageAccess
from iscsi_rp.control.array_models import ArrayStatus, Processor, SplitterMode, Volume, VolumeCreate
from iscsi_rp.control.client import ApplianceClient, ArrayClient
from iscsi_rp.control.config import ApplianceConfig, ArrayConfig, Config, Portal
from iscsi_rp.control.models import Job
from iscsi_rp.errors import UnreachableError
from iscsi_rp.link.pki import Authority, Identity, Role
from tests.kit.processes import Daemon, ProcessError, free_ports, iscsi_rp

IQN: Final = "iqn.2026-11.io.iscsi-rp:proof"
SPLIT_TIMEOUT_S: Final = 1.5


class Stack:
    """Both daemons over one state directory, which survives their deaths.

    With `tls` they talk as they would from machine to machine.
    """

    def __init__(self, directory: Path, *, tls: bool = False) -> None:
        self.directory = directory
        first, second, third, fourth = free_ports(4)
        array_portals = [Portal("127.0.0.1", first), Portal("127.0.0.1", second, sp=Processor.B)]
        appliance_portal = Portal("127.0.0.1", third)
        config = Config(
            state=directory / "state",
            array=ArrayConfig(iqn=IQN, portals=array_portals, split_timeout_s=SPLIT_TIMEOUT_S),
            appliance=ApplianceConfig(
                portals=[appliance_portal], replication=f"tls:127.0.0.1:{fourth}" if tls else None
            ),
        )
        self.pki = config.pki_folder
        if tls:
            authority = Authority.create(self.pki, "proof")
            authority.issue(Identity(Role.ARRAY, config.array.name))
            authority.issue(Identity(Role.APPLIANCE, config.appliance.name))
        path = directory / "iscsi-rp.toml"
        path.write_text(config.toml())
        self.portals = [str(portal) for portal in array_portals]
        "Of the array: SP A, SP B."
        self.portal = self.portals[0]
        base = ("--config", str(path))
        self.array = Daemon("array", iscsi_rp(*base, "array", "run"), directory / "array.log")
        self.appliance = Daemon("appliance", iscsi_rp(*base, "appliance", "run"), directory / "appliance.log")
        self.array_api = ArrayClient(config.array_socket)
        self.appliance_api = ApplianceClient(config.appliance_socket)

    def start(self) -> None:
        """Start what is not running, and wait until it answers."""
        for daemon in (self.array, self.appliance):
            if not daemon.running:
                daemon.start()
        self.array.until("its API", self._array_status)
        self.appliance.until("its API", self._appliance_status)

    def stop(self) -> None:
        """End both. Raises `ProcessError` when one does not end well."""
        ended = {daemon.name: daemon.stop() for daemon in (self.array, self.appliance) if daemon.running}
        if any(ended.values()):
            raise ProcessError(f"exit codes after SIGTERM: {ended}\n{self.logs()}")

    def kill(self) -> None:
        for daemon in (self.array, self.appliance):
            daemon.kill()

    def logs(self) -> str:
        return "".join(f"--- {daemon.name}\n{daemon.log_tail()}\n" for daemon in (self.array, self.appliance))

    def pids(self) -> dict[str, int]:
        return {"array": self.array.pid, "appliance": self.appliance.pid}

    def create_volume(self, name: str, size_bytes: int | None, path: Path | None = None) -> Volume:
        return self.array_api.create_volume(VolumeCreate(name=name, size_bytes=size_bytes, path=path))

    def protect(self, group: str, volumes: list[str], journal_bytes: int) -> None:
        """Make a group, and wait until it is split."""
        request = GroupCreate(name=group, volumes=volumes, journal_bytes=journal_bytes)
        self.appliance_api.create_group(request)
        self.wait_splitting(group)

    def url(self, volume: Volume) -> str:
        return f"iscsi://{self.portal}/{IQN}/{volume.lun}"

    def urls(self, volume: Volume) -> list[str]:
        """One for each portal of the array."""
        return [f"iscsi://{portal}/{IQN}/{volume.lun}" for portal in self.portals]

    def mode(self, group: str) -> SplitterMode:
        modes = {status.group: status.mode for status in self.array_api.status().groups}
        return modes.get(group, SplitterMode.DETACHED)

    def wait_splitting(self, group: str, timeout_s: float = 120) -> None:
        """Until `group` is split and its newest resynchronisation is over."""
        self.array.until(
            "SPLITTING", lambda: self.mode(group) is SplitterMode.SPLITTING or None, timeout_s=timeout_s
        )

    def verify(self, group: str) -> Job:
        """Compare LUNs and copies. Raises `Error` when the comparison fails."""
        return self.array_api.wait(self.array_api.verify(group), poll_s=0.05)

    def _array_status(self) -> ArrayStatus | None:
        try:
            return self.array_api.status()
        except UnreachableError:
            return None

    def _appliance_status(self) -> ApplianceStatus | None:
        try:
            return self.appliance_api.status()
        except UnreachableError:
            return None


def image_url(access: ImageAccess, lun: int = 0) -> str:
    return f"iscsi://{access.portal}/{access.iqn}/{lun}"
