"""How commands arrive: the embedded iSCSI server."""

from iscsi_rp.frontend.iscsi_server import AddressError, IscsiServer, PortInUseError, SessionStatus

__all__ = ["AddressError", "IscsiServer", "PortInUseError", "SessionStatus"]
