"""What may skip and what may fail, and why. An explanation without its case is wrong, too."""

from typing import Final

from tests.conformance.suite import Report

_FIXED: Final = "a disk with removable medium only (SPC-4 6.6.2, RMB); ours is fixed"

SKIPS: Final[dict[str, str]] = {
    **dict.fromkeys(
        (
            "PreventAllow.Simple",
            "PreventAllow.Eject",
            "PreventAllow.ITNexusLoss",
            "PreventAllow.Logout",
            "PreventAllow.WarmReset",
            "PreventAllow.ColdReset",
            "PreventAllow.LUNReset",
            "PreventAllow.2ITNexuses",
            "StartStopUnit.Simple",
        ),
        _FIXED,
    ),
    **dict.fromkeys(
        ("Sanitize.CryptoErase", "Sanitize.Readonly", "Sanitize.Reservations"),
        "the part about cryptographic erase only, which is for a medium that is encrypted (SBC-4 4.11.2.4)",
    ),
    "ReadOnly.ReadOnlySBC": "a disk that is write-protected only (SBC-4 4.12); this one is written to",
}
"Suite.Test -> why it cannot run on a fixed, writable disk."

FAULTS: Final[dict[str, str]] = {
    "WriteAtomic16.Simple": (
        "writes up to 256 blocks, whatever MAXIMUM ATOMIC TRANSFER LENGTH says (1 here); SBC-4 5.48 wants "
        "longer ones refused with INVALID FIELD IN CDB"
    ),
    "WriteSame10.UnmapUntilEnd": (
        "sends a block of FFh with UNMAP=1 and expects zeros; SBC-4 4.7.3.4.4: with LBPRZ=1 a block that is "
        "not zeros is written, not unmapped"
    ),
    "GetLBAStatus.UnmapSingle": (
        "asks for LBA i + 1 and expects the first descriptor at i + logical per physical blocks; SBC-4 5.9.3 "
        "wants the LBA asked for. It is the same, and passed, where a physical block is a logical one"
    ),
}
"Suite.Test -> why its failure on a 512e disk is the suite's own fault."

BY_SPEED: Final[dict[str, str]] = {
    "Sanitize.Reset": (
        "wants a SANITIZE to be under way four seconds after it began; SBC-4 4.11 sets no minimum, and a "
        "small disk is done sooner"
    ),
}
"Suite.Test -> why it passes or fails by the speed of the disk. It must pass on a slow one."

ONLY_512E: Final = ("GetLBAStatus.UnmapSingle",)
"Those that must pass on a 512n disk."


def judge(report: Report) -> list[str]:
    """What is wrong with a report of ours: failures, skips and explanations that have no partner."""
    wrong = [
        f"failed: {name}: {told}" for name, told in report.failures if _short(name) not in FAULTS | BY_SPEED
    ]
    wrong += [f"skipped: {name}: {why}" for name, why in report.skips if _short(name) not in SKIPS]
    wrong += [f"incomplete: {name}" for name in report.broken]
    skipped = {_short(name) for name, _ in report.skips}
    failed = {_short(name) for name, _ in report.failures}
    wrong += [f"explained as skipped, but it ran: {name}" for name in SKIPS.keys() - skipped]
    wrong += [
        f"explained as the suite's fault, but it did not fail: {name}" for name in FAULTS.keys() - failed
    ]
    return wrong


def faults(report: Report) -> int:
    """Failures that are the suite's own."""
    return sum(_short(name) in FAULTS | BY_SPEED for name, _ in report.failures)


def _short(name: str) -> str:
    return name.partition(".")[2]
