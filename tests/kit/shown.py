"""Commands that a page shows with what they print, and whether they still print it."""

import re
from collections.abc import Iterator
from typing import NamedTuple


class Shown(NamedTuple):
    """A command, and what the page says that it prints."""

    command: str
    output: str


def shown(page: str, prompt: str) -> Iterator[Shown]:
    """All of a page's blocks of `console`."""
    for block in re.findall(r"^```console\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        for part in re.split(rf"^{re.escape(prompt)} ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield Shown(command, output)


def shape(output: str) -> str:
    """What does not change from run to run: numbers with their units are `#`, runs of blanks are one."""
    text = re.sub(r"\b6001405[0-9a-f]{25}\b", "NAA", output)
    text = re.sub(r"\d+(\.\d+)?( (ns|ms|s|min|B|KiB|MiB|GiB)\b)?", "#", text)
    return "\n".join(" ".join(line.split()) for line in text.splitlines())


def matches(said: str, shows: str) -> bool:
    """A line `...` stands for any lines."""
    pattern = re.escape(shape(shows)).replace(re.escape("..."), "(.|\n)*")
    return re.fullmatch(pattern, shape(said)) is not None
