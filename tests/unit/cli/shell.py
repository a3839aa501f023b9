"""The command as a test calls it: over the real API and client, with daemons that keep all in memory."""

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from iscsi_rp.cli.main import main
from tests.unit.control.services import MemoryAppliance, MemoryArray


class Shell:
    def __init__(self, state: Path, array: MemoryArray, appliance: MemoryAppliance) -> None:
        self.array = array
        self.appliance = appliance
        self.state = state

    def run(self, *words: str, answer: str = "", code: int = 0) -> Result:
        result = CliRunner().invoke(main, ["--state", str(self.state), *words], input=answer)
        assert result.exit_code == code, result.output + repr(result.exception)
        return result

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json").stdout)
