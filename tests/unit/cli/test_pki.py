"""`iscsi-rp pki` on a real folder. What the files are good for is tested in link/test_pki.py."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

from iscsi_rp.cli.main import main
from iscsi_rp.clock import utc_ns
from iscsi_rp.units import format_time

DAY_NS = 86_400_000_000_000


class Machine:
    def __init__(self, state: Path) -> None:
        self.state = state
        self.folder = state / "pki"

    def run(self, *words: str, answer: str = "", code: int = 0) -> Result:
        result = CliRunner().invoke(main, ["--state", str(self.state), "pki", *words], input=answer)
        assert result.exit_code == code, result.output + repr(result.exception)
        return result

    def list(self) -> Any:
        return json.loads(self.run("list", "--json").stdout)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ISCSI_RP_CONFIG", raising=False)
    machine = Machine(tmp_path / "state")
    machine.run("init", "--name", "berlin")
    return machine


def test_what_issue_prints_is_what_a_machine_needs(site: Machine, tmp_path: Path) -> None:
    printed = site.run("issue", "array", "array-1").stdout
    copied = [Path(line.strip()) for line in printed.splitlines() if line.startswith("  ")]
    assert copied == [site.folder / name for name in ("authority.crt", "revoked.crl", "array-array-1.pem")]
    assert "into its folder `pki`" in printed
    assert "mode 0600" in printed
    assert "remove it here" in printed
    other = Machine(tmp_path / "other")
    other.folder.mkdir(parents=True)
    for file in copied:
        shutil.copy(file, other.folder)
    refused = other.run("issue", "array", "array-2", code=4)
    assert "authority.key is missing" in refused.stderr
    other.run("init", code=5)
    assert sorted(os.listdir(other.folder)) == sorted(file.name for file in copied)


def test_init_is_done_once(site: Machine) -> None:
    key = (site.folder / "authority.key").read_bytes()
    assert "authority.key" in site.run("init", code=5).stderr
    assert (site.folder / "authority.key").read_bytes() == key


def test_without_an_authority_nothing_works(tmp_path: Path) -> None:
    nothing = Machine(tmp_path / "nothing")
    for words in (("list",), ("issue", "array", "a"), ("revoke", "array", "a")):
        assert "`iscsi-rp pki init`" in nothing.run(*words, code=4).stderr
    assert not nothing.state.exists()


def test_list_shows_each_certificate(site: Machine) -> None:
    assert "nothing was issued" in site.run("list").stdout
    site.run("issue", "appliance", "rpa-1", "--days", "10")
    site.run("issue", "array", "array-1")
    site.run("revoke", "array", "array-1", "--yes")
    rpa, array = site.list()
    assert (rpa["role"], rpa["name"], rpa["state"], rpa["revoked_ns"]) == (
        "appliance",
        "rpa-1",
        "valid",
        None,
    )
    assert (array["role"], array["name"], array["state"]) == ("array", "array-1", "revoked")
    assert abs(array["revoked_ns"] - utc_ns()) < 60 * 10**9
    assert abs(rpa["not_after_ns"] - utc_ns() - 10 * DAY_NS) < 60 * 10**9
    assert (site.folder / "issued" / f"{rpa['serial']}.crt").exists()
    heading, *rows = site.run("list").stdout.splitlines()
    assert heading.split("  ")[0] == "ROLE"
    assert rows[0].split() == [
        "appliance",
        "rpa-1",
        rpa["serial"],
        *format_time(rpa["not_after_ns"]).split(),
        "valid",
    ]


def test_a_second_certificate_wants_renew(site: Machine) -> None:
    site.run("issue", "array", "array-1")
    refused = site.run("issue", "array", "array-1", code=5)
    assert "--renew" in refused.stderr
    assert "revokes all that there are of the name" in refused.stderr
    site.run("issue", "array", "array-1", "--renew")
    assert [each["state"] for each in site.list()] == ["valid", "valid"]
    asked = site.run("revoke", "array", "array-1", answer="y\n")
    assert "revoke 2 certificates of array array-1?" in asked.output
    assert [each["state"] for each in site.list()] == ["revoked", "revoked"]


def test_revoke_asks_and_says_what_to_copy(site: Machine) -> None:
    site.run("issue", "array", "array-1")
    site.run("revoke", "array", "array-1", answer="n\n", code=1)
    site.run("revoke", "array", "array-1", code=1)  # nobody answers
    assert site.list()[0]["state"] == "valid"
    printed = site.run("revoke", "array", "array-1", "--yes").stdout
    assert str(site.folder / "revoked.crl") in printed
    assert "every machine" in printed
    assert "in seconds" in printed
    assert "no valid certificate" in site.run("revoke", "array", "array-1", code=4).stderr


@pytest.mark.parametrize(
    "words",
    [
        ("issue", "host", "a"),
        ("issue", "array", "../a"),
        ("issue", "array", "A"),
        ("revoke", "array", "a/b"),
        ("issue", "array", "a", "--days", "0"),
        ("issue", "array", "a", "--days", "100000"),
        ("issue", "array"),
        ("init", "--name", "Two words"),
    ],
)
def test_what_makes_no_sense_is_refused(site: Machine, words: tuple[str, ...]) -> None:
    before = sorted(site.folder.rglob("*"))
    site.run(*words, code=2)
    assert sorted(site.folder.rglob("*")) == before


def test_a_damaged_list_is_named(site: Machine) -> None:
    (site.folder / "revoked.crl").write_text("")
    for words in (("list",), ("issue", "array", "a")):
        assert str(site.folder / "revoked.crl") in site.run(*words, code=1).stderr


def test_the_folder_is_the_configurations(tmp_path: Path) -> None:
    config = tmp_path / "iscsi-rp.toml"
    config.write_text(f'state = "state"\npki = "{tmp_path}/elsewhere"\n')
    result = CliRunner().invoke(main, ["--config", str(config), "pki", "init"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "elsewhere" / "authority.key").exists()
    assert not (tmp_path / "state").exists()


def test_completion_knows_roles_and_who_has_a_certificate(site: Machine) -> None:
    for name in ("array-1", "array-2", "lost"):
        site.run("issue", "array", name)
    site.run("issue", "appliance", "rpa-1")
    site.run("revoke", "array", "lost", "--yes")
    shell = ShellComplete(main, {}, "iscsi-rp", "_ISCSI_RP_COMPLETE")
    command = ["--state", str(site.state), "pki", "revoke"]

    def complete(*words: str) -> list[str]:
        return [each.value for each in shell.get_completions([*command, *words], "")]

    assert complete() == ["array", "appliance"]
    assert complete("array") == ["array-1", "array-2"]
    assert complete("appliance") == ["rpa-1"]
    (site.folder / "authority.key").unlink()
    assert complete("array") == []
