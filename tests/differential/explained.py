"""Where we answer otherwise than tgt, and why that is right."""

from typing import Final

_BEYOND: Final = ("one block beyond the end", "far beyond the end", "no blocks, beyond the end")
_UNCHECKED: Final = (
    "SYNCHRONIZE CACHE(10)",
    "SYNCHRONIZE CACHE(16)",
    "VERIFY(10)",
    "VERIFY(12)",
    "VERIFY(16)",
)
_RESIDUAL: Final = "nothing came of what was expected: an underflow of all of it (RFC 7143 11.4.5.1)"

EXPLAINED: Final[dict[str, str]] = {
    **{
        f"{name}, {odd}: 5/21/00, tgt GOOD": "the range ends beyond the medium (SBC-4 4.5, 5.24, 5.36)"
        for name in _UNCHECKED
        for odd in _BEYOND
    },
    "READ CAPACITY(16): other data": "ours is thin and has physical blocks of 4 KiB (SBC-4 5.21.2)",
    "REPORT LUNS, 8 bytes: GOOD, tgt 5/24/00": "16 bytes should be asked for (SPC-4 6.33), no more",
    "TEST UNIT READY: residual 255, tgt 0": _RESIDUAL,
    "an opcode that does not exist: residual 255, tgt 0": _RESIDUAL,
}
"What differs -> by which clause."
