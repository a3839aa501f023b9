"""A small company's file share on an ext4 image: made, changed, found block by block, and compared file by
file.
"""

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from iscsi_rp.cli import demo_tools

BLOCK: Final = 4096

_DEPARTMENTS: Final = ("accounting", "design", "personnel", "sales")
_KINDS: Final = (("txt", 4_000, 40_000), ("csv", 20_000, 90_000), ("jpg", 90_000, 400_000))
"Suffix, and sizes in bytes from and to."
_WORDS: Final = (b"invoice", b"drawing", b"offer", b"contract", b"minutes", b"order", b"payroll", b"customer")


def make_files(directory: Path, seed: int, in_each: int = 50) -> None:
    """Text, tables and pictures, `in_each` of four folders."""
    chance = random.Random(seed)
    for department in _DEPARTMENTS:
        folder = directory / department
        folder.mkdir(parents=True)
        for number in range(in_each):
            suffix, smallest, largest = chance.choice(_KINDS)
            length = chance.randint(smallest, largest)
            content = chance.randbytes(length) if suffix == "jpg" else _text(chance, length)
            (folder / f"{number:03}.{suffix}").write_bytes(content)


def make_image(image: Path, files: Path, size_bytes: int) -> None:
    """An ext4 file system of `size_bytes` that holds `files`."""
    with image.open("wb") as file:
        file.truncate(size_bytes)
    demo_tools.run("mke2fs", "-q", "-t", "ext4", "-b", str(BLOCK), "-d", files, image)


def add_file(image: Path, source: Path) -> None:
    """Put one more file into the root of the file system."""
    demo_tools.run("debugfs", "-w", "-R", f"write {source} {source.name}", image)


def changed_blocks(old: Path, new: Path) -> Iterator[int]:
    """Numbers of the 4 KiB blocks in which two images of one size differ."""
    with old.open("rb") as before, new.open("rb") as after:
        number = 0
        while was := before.read(BLOCK):
            if was != after.read(BLOCK):
                yield number
            number += 1


def file_blocks(image: Path, scratch: Path, names: list[str]) -> list[int]:
    """The blocks in which the contents of these files lie, file by file."""
    script = scratch / "blocks.debugfs"
    script.write_text("".join(f"blocks /{name}\n" for name in names))
    said = demo_tools.run("debugfs", "-f", script, image)
    return [
        int(word) for line in said.splitlines() if not line.startswith("debugfs:") for word in line.split()
    ]


def check(image: Path) -> None:
    """`e2fsck` without repairing anything. Raises `ToolError` when it finds any fault."""
    demo_tools.run("e2fsck", "-f", "-n", image)


def extract(image: Path, directory: Path) -> None:
    """All files of the file system, by `debugfs`."""
    directory.mkdir()
    demo_tools.run("debugfs", "-R", f"rdump / {directory}", image)


def hashes(directory: Path) -> dict[str, str]:
    """SHA-256 of each file, by its path below `directory`."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {str(path.relative_to(directory)): sha256(path) for path in files}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _text(chance: random.Random, length: int) -> bytes:
    words = bytearray()
    while len(words) < length:
        words += chance.choice(_WORDS) + b" %d\n" % chance.randrange(10**6)
    return bytes(words[:length])
