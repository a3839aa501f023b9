"""Initiators, access rules, sessions, and what changes on a volume: the commands, and how secrets get in."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from iscsi_rp.control.access_models import AccessMode, Authentication, ChapCredentials
from iscsi_rp.control.array_models import Processor
from tests.unit.cli.shell import Shell
from tests.unit.control.services import HOST
from tests.unit.control.serving import memory_site

NAME = "iqn.2026-11.test:one"
SECRET, ARRAY_SECRET = "a secret of the host", "a secret of the array"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with memory_site(tmp_path_factory.mktemp("site")) as (config, array, appliance):
        yield Shell(config.state, array, appliance)


@pytest.fixture
def shell(site: Shell) -> Shell:
    site.array.forget()
    site.run("volume", "create", "data", "--size", "1GiB")
    return site


@pytest.fixture
def secret(tmp_path: Path) -> str:
    (tmp_path / "secret").write_text(f"{SECRET}\r\nsecond line\n")
    return str(tmp_path / "secret")


def chap(shell: Shell) -> ChapCredentials:
    found = shell.array.initiators.secrets[NAME].chap
    assert found is not None
    return found


def test_an_initiator_is_added_changed_shown_and_removed(shell: Shell, secret: str) -> None:
    words = ["--chap-user", "one", "--chap-secret-file", secret, "--lun", "data=5", "--lun", "log"]
    said = shell.run("initiator", "add", NAME, *words).stdout
    assert "CHAP" in said
    assert "data=5, log=0" in said
    listed = [line.split() for line in shell.run("initiator", "list").stdout.splitlines()]
    assert listed[0][:4] == ["INITIATOR", "LISTED", "AUTHENTICATION", "LUNS"]
    assert listed[1][:4] == [HOST, "no", "none", "all"]
    assert listed[2][:3] == [NAME, "yes", "CHAP"]
    shell.run("initiator", "set", NAME, "--no-chap", "--all-luns")
    shown = shell.json("initiator", "show", NAME)
    assert (shown["chap_user"], shown["masked"]) == (None, False)
    assert "forget" in shell.run("initiator", "remove", NAME, answer="n\n", code=1).stdout
    assert NAME in shell.array.initiators.listed
    shell.run("initiator", "remove", NAME, "--yes")
    assert shell.json("initiator", "list")[0]["name"] == HOST
    shell.run("initiator", "show", NAME, code=4)


def test_secrets_come_from_files_the_standard_input_or_a_question(shell: Shell, secret: str) -> None:
    add = ["initiator", "add", NAME, "--chap-user", "one"]
    shell.run(*add, "--chap-secret-file", secret)
    assert chap(shell) == ChapCredentials.model_validate({"user": "one", "secret": SECRET})
    mutual = ["--mutual-user", "array", "--mutual-secret-file", "-"]
    change = ["initiator", "set", NAME, "--chap-user", "one", "--chap-secret-file", secret, *mutual]
    shell.run(*change, answer=f"{ARRAY_SECRET}\n")
    both = shell.array.initiators.secrets[NAME]
    assert both.mutual is not None
    assert both.mutual.secret.get_secret_value() == ARRAY_SECRET
    asked = shell.run("initiator", "set", NAME, "--chap-user", "two", answer=f"{SECRET}\n{SECRET}\n")
    assert chap(shell).user == "two"
    assert SECRET not in asked.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["add", NAME, "--chap-secret-file", "SECRET"], "--chap-secret-file needs --chap-user"),
        (["add", NAME, "--mutual-user", "x", "--mutual-secret-file", "SECRET"], "own user and secret"),
        (["add", NAME, "--chap-user", "x", "--chap-secret-file", "SHORT"], "12 to 255 bytes"),
        (["add", NAME, "--chap-user", "x", "--chap-secret-file", "/no/such/file"], "cannot read a secret"),
        (["add", NAME, "--chap-user", "x", "--chap-secret-file", "LATIN"], "cannot read a secret"),
        (
            [
                *("add", NAME, "--chap-user", "x", "--chap-secret-file", "SECRET"),
                *("--mutual-user", "y", "--mutual-secret-file", "SECRET"),
            ],
            "must differ",
        ),
        (
            [
                *("add", NAME, "--chap-user", "x", "--chap-secret-file", "-"),
                *("--mutual-user", "y", "--mutual-secret-file", "-"),
            ],
            "only one of the secrets",
        ),
        (["add", NAME, "--lun", "data=x"], "'data=x' is not VOLUME or VOLUME=LUN"),
        (["add", "host"], "is not an iSCSI name"),
        (["set", HOST, "--all-luns"], "there is no listed initiator"),
        (["set", NAME], "nothing is to be changed"),
        (["set", NAME, "--no-chap", "--chap-user", "x", "--chap-secret-file", "SECRET"], "either --no-chap"),
        (["set", NAME, "--all-luns", "--lun", "data"], "either all LUNs"),
    ],
)
def test_what_makes_no_sense_is_said_without_the_secret(
    shell: Shell, secret: str, tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "short").write_text("elevenbytes\n")
    (tmp_path / "latin").write_bytes(b"\xe9" * 20)
    files = {"SECRET": secret, "SHORT": str(tmp_path / "short"), "LATIN": str(tmp_path / "latin")}
    code = 4 if words[1] == HOST else 2
    result = shell.run("initiator", *(files.get(word, word) for word in words), code=code)
    assert message in result.stderr
    assert SECRET not in result.output
    assert "elevenbytes" not in result.output
    assert shell.array.initiators.secrets == {}


def test_access_rules(shell: Shell, secret: str) -> None:
    assert "open" in shell.run("access", "show").stdout
    result = shell.run("access", "set", "--mode", "listed", answer="n\n", code=1)
    assert f"logged in and not listed: {HOST}" in result.stderr
    assert shell.array.initiators.access.mode is AccessMode.OPEN
    shell.run("access", "set", "--mode", "listed", "--yes")
    shell.run("access", "set", "--chap-user", "one", "--chap-secret-file", secret)
    assert shell.json("access", "show") == {
        "mode": "listed",
        "discovery_chap_user": "one",
        "discovery_mutual_user": None,
    }
    shell.run("access", "set", "--no-chap", "--mode", "open")
    assert shell.json("access", "show")["discovery_chap_user"] is None
    shell.run("access", "set", code=2)


def test_authentication_of_nothing_is_none(shell: Shell) -> None:
    shell.run("initiator", "add", NAME)
    assert shell.array.initiators.secrets[NAME] == Authentication()


def test_sessions_are_shown_and_ended(shell: Shell) -> None:
    shell.array.session_ids = [1, 2, 3]
    heading, line, *_ = shell.run("session", "list").stdout.splitlines()
    assert heading.split()[:4] == ["ID", "INITIATOR", "FROM", "SP"]
    assert line.split()[:4] == ["1", HOST, "127.0.0.1:40000", "A"]
    heading, line, *_ = shell.run("session", "list", "--latency").stdout.splitlines()
    assert heading.split("  ")[-1] == "ALL BELOW"
    assert line.split()[:6] == ["1", HOST, "3", "data", "read", "100"]
    assert line.split()[6:] == ["0.128", "ms", "0.256", "ms", "1.02", "ms"]
    assert "COMMANDS/S" in shell.run("session", "list", "--rates").stdout
    shell.run("session", "list", "--rates", "--json", code=2)
    shell.run("session", "disconnect", "2")
    assert shell.array.session_ids == [1, 3]
    shell.run("session", "disconnect", HOST)
    assert shell.array.session_ids == [3]
    shell.run("session", "disconnect", "2", code=4)
    shell.run("session", "disconnect", NAME, code=4)


def test_a_volume_grows_and_moves(shell: Shell) -> None:
    assert "2 GiB" in shell.run("volume", "resize", "data", "2GiB").stdout
    assert shell.json("volume", "show", "data")["size_bytes"] == 2 << 30
    shell.run("volume", "set", "data", "--owner", "B")
    assert shell.array.volumes["data"].owner is Processor.B
    assert "SP B" in shell.run("volume", "show", "data").stdout
    shell.run("volume", "set", "data", code=2)
    made = shell.json("volume", "create", "new", "--size", "1MiB", "--sector", "512n", "--owner", "B")
    assert (made["block_size"], made["physical_block_size"], made["owner"]) == (512, 512, "B")
    assert "data" in shell.run("volume", "list", "--latency").stdout
