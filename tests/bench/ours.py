"""The product on a file like the one that tgt serves."""

from pathlib import Path
from typing import Final

from tests.kit.stack import Stack

GROUP: Final = "bench"
VOLUME: Final = "bench"
JOURNAL_BYTES: Final = 8 << 30


class Ours:
    """Array and appliance; `url` is the LUN on `image`, not split until `split`."""

    def __init__(self, image: Path, directory: Path, *, tls: bool = False) -> None:
        self._image = image
        self.stack = Stack(directory, tls=tls)
        self.url = ""
        self._is_split = False

    @classmethod
    def on_empty_file(cls, directory: Path, size_bytes: int) -> "Ours":
        """The LUN on a new file in `directory`, of which nothing is allocated yet."""
        image = directory / "image"
        with image.open("wb") as file:
            file.truncate(size_bytes)
        return cls(image, directory)

    def start(self) -> None:
        self.stack.start()
        self.url = self.stack.url(self.stack.create_volume(VOLUME, None, self._image))

    def add_luns(self, images: list[Path]) -> list[str]:
        """Further volumes, not split."""
        volumes = [self.stack.create_volume(f"{VOLUME}-{image.name}", None, image) for image in images]
        return [self.stack.url(volume) for volume in volumes]

    def split(self, journal_bytes: int = JOURNAL_BYTES) -> None:
        """Protect the volume, unless it is already; returns when the copy is complete."""
        if not self._is_split:
            self.stack.protect(GROUP, [VOLUME], journal_bytes)
            self._is_split = True

    def kill(self) -> None:
        self.stack.kill()

    def pids(self) -> dict[str, int]:
        return self.stack.pids()
