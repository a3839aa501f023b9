"""How commands arrive: the embedded iSCSI server."""

from iscsi_rp.frontend.iscsi_server import AddressError, IscsiServer, NoSuchSessionError, PortInUseError
from iscsi_rp.frontend.iscsi_stream import portal_name
from iscsi_rp.frontend.logins import Logins
from iscsi_rp.frontend.status import SessionStatus

__all__ = [
    "AddressError",
    "IscsiServer",
    "Logins",
    "NoSuchSessionError",
    "PortInUseError",
    "SessionStatus",
    "portal_name",
]
