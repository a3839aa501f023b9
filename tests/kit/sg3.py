"""sg3-utils (Debian's `sg3-utils`) on an iSCSI URL instead of a device node, through `sg_iscsi.c`."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_name("sg_iscsi.c")
LIMIT_S: Final = 60


class ToolError(Exception):
    """A tool did not end as it should."""


@dataclass(frozen=True, slots=True)
class Sg3:
    """Runs the tools as one initiator: one I_T nexus for each portal, the same in every run."""

    library: Path
    initiator: str = "iqn.2026-11.io.iscsi-rp:sg3-utils"

    def __call__(self, tool: str, *arguments: str, code: int = 0) -> str:
        """What `tool` prints. Raises `ToolError` when it exits with another code than `code`."""
        environment = os.environ | {"LD_PRELOAD": str(self.library), "SG_ISCSI_INITIATOR": self.initiator}
        command = [tool, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=LIMIT_S)
        output = done.stdout + done.stderr
        if done.returncode != code:
            raise ToolError(f"{' '.join(command)}: exit code {done.returncode}, not {code}\n{output}")
        return output


def build(folder: Path) -> Path:
    """Compile the library that `Sg3` needs. Raises `ToolError` (Debian: gcc, libc6-dev, libiscsi-dev)."""
    library = folder / "sg_iscsi.so"
    flags = ("-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
    command = ["gcc", *flags, "-o", str(library), str(SOURCE), "-liscsi"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ToolError(done.stderr)
    return library
