"""iSCSI as a target speaks it (RFC 7143), without I/O."""

from iscsi_rp.iscsi.access import Access, Chap, ChapError, InitiatorAccess
from iscsi_rp.iscsi.connection import PDU_BYTES, Connection
from iscsi_rp.iscsi.node import Node, NoSuchTargetError, Target, TargetExistsError, TargetNameError
from iscsi_rp.iscsi.refusal import Refusal
from iscsi_rp.iscsi.session import Session

__all__ = [
    "PDU_BYTES",
    "Access",
    "Chap",
    "ChapError",
    "Connection",
    "InitiatorAccess",
    "NoSuchTargetError",
    "Node",
    "Refusal",
    "Session",
    "Target",
    "TargetExistsError",
    "TargetNameError",
]
