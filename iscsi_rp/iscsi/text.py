"""Text: `key=value` pairs, each ended by a zero byte (RFC 7143 6)."""

from collections.abc import Iterable
from typing import Final

from iscsi_rp.device import Buffer
from iscsi_rp.iscsi.pdu import ProtocolError

TEXT_BYTES: Final = 16 << 10
"The most text of one negotiation, over all its PDUs."
_KEY_CHARACTERS: Final = 63
_VALUE_BYTES: Final = 8192

Pairs = list[tuple[str, str]]


def decode_text(data: Buffer) -> Pairs:
    """The pairs in their order. Raises `ProtocolError`: not text, no key, a key twice, too long."""
    try:
        lines = bytes(data).decode("utf-8").split("\0")
    except UnicodeDecodeError:
        raise ProtocolError("The text is not UTF-8.") from None
    pairs: Pairs = []
    for line in lines:
        if not line:
            continue
        key, separator, value = line.partition("=")
        if not separator or not key or len(key) > _KEY_CHARACTERS or len(value) > _VALUE_BYTES:
            raise ProtocolError("The text has a line that is no key=value.")
        pairs.append((key, value))
    if len({key for key, _ in pairs}) < len(pairs):
        raise ProtocolError("The text has a key twice.")
    return pairs


def encode_text(pairs: Iterable[tuple[str, str]]) -> bytes:
    return b"".join(f"{key}={value}\0".encode() for key, value in pairs)
