"""The columns of the opcode table that say when a command may be done, and for whom."""

from enum import Enum, auto


class Reserved(Enum):
    """What another nexus' reservation makes of a command (SPC-4 table 66, SBC-4 table 13, SPC-2 table 9)."""

    CONFLICT = auto()
    "Only the holder and, where the type says so, registrants may have it done."
    READS = auto()
    "As CONFLICT, but anybody under a *write exclusive* type."
    PERSISTENT_ALLOWED = auto()
    "Anybody, unless the reservation is a SCSI-2 one."
    ALLOWED = auto()
    "Anybody."
    OWN_RULES = auto()
    "The handler decides."


class PortState(Enum):
    """In which asymmetric access states of its target port group a command is served (SPC-4 5.15.2.4)."""

    ACTIVE = auto()
    "Optimized and non-optimized only: it needs the medium."
    STANDBY = auto()
    "In standby, too."
    ANY = auto()
    "Even where the group is unavailable."
