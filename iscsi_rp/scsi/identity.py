"""Who a logical unit says it is."""

from dataclasses import dataclass

from iscsi_rp.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Identity:
    """The names of a logical unit: the same on every path, for the life of the volume."""

    naa: bytes
    "16 bytes, NAA type 6: IEEE Registered Extended (SPC-4 7.8.6.6.5)."
    serial: str
    product: str = "VOLUME"
    vendor: str = "ISCSI-RP"
    revision: str = "0001"

    def __post_init__(self) -> None:
        if len(self.naa) != 16 or self.naa[0] >> 4 != 6:
            raise ConfigError(f"{self.naa.hex()} is not an NAA identifier of type 6 (32 hex digits from 6)")
        texts = (self.vendor, 8), (self.product, 16), (self.revision, 4), (self.serial, 64)
        for text, limit in texts:
            if not text.isascii() or not text.isprintable() or not 0 < len(text) <= limit:
                raise ConfigError(f"{text!r} is not a name of 1 to {limit} printable ASCII characters")
