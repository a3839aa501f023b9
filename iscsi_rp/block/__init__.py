"""Devices over real media: a file or block special, memory; and the layer that forbids writing."""

from iscsi_rp.block.file_device import FileDevice
from iscsi_rp.block.memory_device import MemoryDevice
from iscsi_rp.block.read_only_device import ReadOnlyDevice
from iscsi_rp.block.store import (
    StoreExistsError,
    StoreInUseError,
    StoreMissingError,
    StoreSizeError,
    create_file,
    grow_file,
)

__all__ = [
    "FileDevice",
    "MemoryDevice",
    "ReadOnlyDevice",
    "StoreExistsError",
    "StoreInUseError",
    "StoreMissingError",
    "StoreSizeError",
    "create_file",
    "grow_file",
]
