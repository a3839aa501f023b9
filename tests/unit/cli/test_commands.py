"""The commands over the real API and client; only what the daemons do is kept in memory."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from iscsi_rp.cli.main import main
from iscsi_rp.clock import utc_ns
from iscsi_rp.control.appliance_models import ImageSelector
from iscsi_rp.control.array_models import RefusedLogin, RefusedLogins
from iscsi_rp.control.models import Alert
from iscsi_rp.units import format_time
from tests.unit.cli.shell import Shell
from tests.unit.control.services import END, HOST, time_of
from tests.unit.control.serving import memory_site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with memory_site(tmp_path_factory.mktemp("site")) as (config, array, appliance):
        yield Shell(config.state, array, appliance)


@pytest.fixture
def shell(site: Shell) -> Shell:
    site.array.forget()
    site.appliance.forget()
    return site


@pytest.fixture
def db(shell: Shell) -> Shell:
    shell.run("volume", "create", "data", "--size", "1GiB")
    shell.run("volume", "create", "log", "--size", "64MiB")
    shell.run("group", "create", "db", "--volume", "data", "--volume", "log")
    return shell


def test_volumes(shell: Shell) -> None:
    made = shell.run("volume", "create", "data", "--size", "1.5GiB", "--sector", "4kn").stdout
    assert "iscsi://127.0.0.1:3260/iqn.2026-11.io.iscsi-rp:array-1/0" in made
    assert shell.json("volume", "show", "data")["size_bytes"] == 3 << 29
    assert shell.json("volume", "list")[0]["block_size"] == 4096
    listed = shell.run("volume", "list").stdout.splitlines()
    assert listed[0].split() == ["VOLUME", "LUN", "SIZE", "SP", "KIND", "GROUP", "STATE", "STORE"]
    assert listed[1].split() == ["data", "0", "1.5", "GiB", "A", "file", "-", "online", "/v/data.img"]
    assert "NAA:" in shell.run("volume", "show", "data").stdout
    would = shell.run("volume", "delete", "data", "--destroy", "--dry-run").stdout
    assert "/v/data.img is removed" in would
    assert "in use by:  iqn.2026-11.test:host" in would
    assert shell.array.deleted == []
    told = shell.run("volume", "delete", "data", "--destroy", "--force", "--yes").stdout
    assert told == "volume data: deleted, /v/data.img is removed\n"
    assert shell.array.deleted == [("data", True, True)]
    assert "volume create" in shell.run("volume", "list").stdout


def test_a_relative_path_is_made_absolute_here_and_not_in_the_daemon(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shell.json("volume", "create", "data", "--path", "disk.img")["path"] == str(tmp_path / "disk.img")


def test_groups(db: Shell) -> None:
    assert db.json("group", "list")[0]["journal_bytes_capacity"] == 10 << 30
    assert "data, log" in db.run("group", "list").stdout
    shown = db.run("group", "show", "db").stdout
    assert format_time(time_of(END)) in shown
    assert "NO IMAGES AFTER" in shown


def test_a_group_is_shown_with_what_the_array_says_of_it(db: Shell) -> None:
    about = Alert(code="volume-offline", text="volume 'data' is offline", next_step="Wait.", group="db")
    other = about.model_copy(update={"group": "other"})
    db.array.alerts = [about, other]
    shown = db.run("group", "show", "db").stdout
    assert "splitter:      SPLITTING\n" in shown
    assert shown.count("alert volume-offline: volume 'data' is offline\n  next: Wait.\n") == 1
    assert [alert["group"] for alert in db.json("group", "show", "db")["alerts"]] == ["db"]
    socket = db.state / "array" / "api.sock"
    away = socket.rename(socket.with_suffix(".away"))
    assert "splitter:      unknown: the array does not answer\n" in db.run("group", "show", "db").stdout
    away.rename(socket)


def test_what_a_deleted_group_leaves_is_told_and_removed(db: Shell) -> None:
    assert "no deleted group" in db.run("group", "list", "--deleted").stdout
    told = db.run("group", "delete", "db", "--yes").stdout
    assert told == (
        "group db: deleted\n"
        "journal and copies stay: /j, /c/data.img, /c/log.img\n"
        "  next: `iscsi-rp group delete db --destroy` removes them\n"
    )
    listed = db.run("group", "list", "--deleted").stdout.splitlines()
    assert listed[0].split() == ["GROUP", "DELETED", "SPACE", "JOURNAL", "COPIES"]
    assert listed[1].endswith("  5 B    /j       /c/data.img, /c/log.img")
    assert db.json("group", "list", "--deleted")[0]["copies"] == ["/c/data.img", "/c/log.img"]
    assert db.run("group", "delete", "db", "--destroy", "--yes").stdout == "group db: deleted and destroyed\n"
    assert db.appliance.deleted == [("db", False), ("db", True)]
    assert db.json("group", "list", "--deleted") == []


def test_bookmarks(db: Shell) -> None:
    db.run("bookmark", "create", "db", "before", "--consistency", "application")
    assert db.json("bookmark", "list", "db")[0]["consistency"] == "application"
    assert "before" in db.run("bookmark", "list", "db").stdout
    db.run("bookmark", "create", "db", "before", code=5)
    db.run("bookmark", "delete", "db", "before", "--yes")
    assert db.json("bookmark", "list", "db") == []


def test_images_are_listed_by_time(db: Shell) -> None:
    shown = db.run(
        "image", "list", "db", "--until", format_time(time_of(500)), "--limit", "2"
    ).stdout.splitlines()
    assert [line.split()[2] for line in shown[-2:]] == ["500", "499"]
    assert len(db.json("image", "list", "db")["images"]) == 20


@pytest.mark.parametrize(
    ("options", "position"),
    [
        (["--latest"], END),
        (["--time", "latest"], END),
        (["--time", format_time(time_of(321))], 321),
        (["--position", "17"], 17),
        (["--bookmark", "before"], 100),
    ],
)
def test_an_image_is_chosen_in_one_of_four_ways(db: Shell, options: list[str], position: int) -> None:
    db.run("bookmark", "create", "db", "before")
    access = db.json("image", "enable", "db", *options)
    assert (access["position"], access["writable"]) == (position, True)
    shown = db.run("image", "show", "db").stdout
    assert "iscsi://127.0.0.1:3261/iqn.2026-11.io.iscsi-rp:array-1.db/1" in shown


def test_an_image_is_chosen_in_one_way_only(db: Shell) -> None:
    assert "only" in db.run("image", "enable", "db", "--latest", "--position", "3", code=2).stderr
    assert "which image" in db.run("image", "enable", "db", code=2).stderr
    assert "--time" in db.run("image", "enable", "db", "--time", "tomorrow", code=2).stderr
    assert db.appliance.access is None


def test_an_image_is_given_back(db: Shell) -> None:
    db.run("image", "enable", "db", "--latest", "--read-only")
    assert db.appliance.access is not None
    assert db.appliance.access.writable is False
    db.run("image", "disable", "db")
    assert db.json("image", "show", "db") is None
    assert "no image" in db.run("image", "show", "db", code=4).stderr


def test_what_was_written_to_an_image_is_not_lost_unasked(db: Shell) -> None:
    db.run("image", "enable", "db", "--latest")
    db.run("image", "undo", "db", answer="n\n", code=1)
    assert db.appliance.access is not None
    assert db.appliance.access.log_bytes_used
    assert "8 KiB" in db.run("image", "undo", "db", answer="y\n").stdout
    assert not db.appliance.access.log_bytes_used
    db.run("image", "disable", "db")
    assert db.appliance.access is None


def test_recovery_asks_and_shows_what_it_would_do(db: Shell) -> None:
    refused = db.run("recover-production", "db", "--position", str(END - 3), "--force", answer="n\n", code=1)
    assert "3: production loses them" in refused.stdout
    assert f"in use by:        {HOST}\n" in refused.stdout
    assert db.appliance.recovered == []
    db.run("recover-production", "db", "--position", str(END - 3), "--dry-run")
    assert db.json("recover-production", "db", "--position", str(END - 3), "--dry-run")["later_writes"] == 3
    assert db.appliance.recovered == []
    done = db.run("recover-production", "db", "--position", str(END - 3), "--force", answer="y\n").stdout
    assert db.appliance.recovered == [ImageSelector(position=END - 3)]
    assert format_time(time_of(END - 3)) in done
    assert "1.5 s" in done


def test_recovery_takes_the_accessed_image_unless_another_is_chosen(db: Shell) -> None:
    assert "no image is accessed" in db.run("recover-production", "db", "--force", "--yes", code=5).stderr
    db.run("image", "enable", "db", "--position", "40")
    assert format_time(time_of(40)) in db.run("recover-production", "db", "--force", "--yes").stdout
    assert db.appliance.recovered == [None]


def test_json_of_a_recovery_is_json_even_when_it_asks(db: Shell) -> None:
    result = db.run("recover-production", "db", "--latest", "--force", "--json", answer="y\n")
    assert json.loads(result.stdout)["state"] == "done"
    assert "restore production" in result.stderr


def test_a_job_that_fails_is_an_error(db: Shell) -> None:
    db.appliance.recovery_fails = True
    assert (
        "the array is gone"
        in db.run("recover-production", "db", "--latest", "--force", "--yes", code=1).stderr
    )


def test_recovery_does_not_surprise_hosts_that_are_logged_in(db: Shell) -> None:
    refused = db.run("recover-production", "db", "--latest", "--yes", code=5).stderr
    assert f"initiators are logged in, and may use volumes of group 'db': {HOST}\nhint: Unmount" in refused
    assert db.json("recover-production", "db", "--latest", "--dry-run")["in_use_by"] == [HOST]
    assert db.appliance.recovered == []
    db.array.initiators.logged_in = []
    assert "in use by:        nobody\n" in db.run("recover-production", "db", "--latest", "--dry-run").stdout
    db.run("recover-production", "db", "--latest", "--yes")
    assert len(db.appliance.recovered) == 1


def test_a_recovery_is_planned_where_no_array_answers(db: Shell) -> None:
    socket = db.state / "array" / "api.sock"
    away = socket.rename(socket.with_suffix(".away"))
    planned = db.run("recover-production", "db", "--latest", "--dry-run").stdout
    away.rename(socket)
    assert "in use by:        unknown: the array does not answer\n" in planned


def test_verify(db: Shell) -> None:
    assert "equal" in db.run("verify", "db").stdout
    db.array.verification = {"equal": False, "compared_bytes": 1 << 20, "different_bytes": 65536}
    assert "64 KiB of 1 MiB differ" in db.run("verify", "db", code=7).stderr
    assert db.run("verify", "db", "--json", code=7).stdout.startswith("{")


def test_status_and_sessions(db: Shell) -> None:
    shown = db.run("status").stdout
    for part in ("array-1", "rpa-1", "data", "SPLITTING", "it smells of smoke", "Look for fire."):
        assert part in shown
    assert db.json("status")["appliance"]["groups"][0]["name"] == "db"
    assert "iqn.2026-11.test:host" in db.run("session", "list").stdout
    assert db.json("session", "list")[0]["commands"] == 7


def test_status_tells_of_logins_that_were_refused(db: Shell) -> None:
    assert "refused" not in db.run("status").stdout
    last = [
        RefusedLogin(
            time_ns=utc_ns() - 9_030_000_000_000,
            peer="10.0.0.5:40000",
            initiator=initiator,
            reason="authentication failure",
            detail="The CHAP user or response is wrong.",
        )
        for initiator in (HOST, "iqn.2026-11.test:earlier")
    ]
    by_reason = {"authentication failure": 4, "target not found": 2, "out of resources": 0}
    db.array.refused_logins = RefusedLogins(by_reason=by_reason, last=last)
    shown = db.run("status").stdout
    assert "refused logins:  6, the last 2 h 30 min ago: " in shown
    assert f"{HOST} from 10.0.0.5:40000: authentication failure (The CHAP user or" in shown
    assert db.json("status")["array"]["refused_logins"]["last"][1]["initiator"] == "iqn.2026-11.test:earlier"


def test_status_shows_what_answers(db: Shell) -> None:
    socket = db.state / "appliance" / "api.sock"
    away = socket.rename(socket.with_suffix(".away"))
    result = db.run("status", code=6)
    assert "data" in result.stdout
    assert "the appliance does not answer" in result.stderr
    assert db.run("status", "--json", code=6).stdout.count("null") >= 1
    away.rename(socket)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ["volume", "show", "nothing"],
            4,
            "error: there is no volume 'nothing'\nhint: `iscsi-rp volume list`",
        ),
        (["volume", "create", "data", "--size", "1MiB"], 5, "error: there is a volume 'data' already"),
        (["volume", "create", "Data", "--size", "1MiB"], 2, "error: name: String should match pattern"),
        (["volume", "create", "x", "--size", "1000"], 2, "error: the size must be a multiple"),
        (["volume", "create", "x", "--size", "much"], 2, "'much' is not a size"),
        (["volume", "create", "x"], 2, "error: a new store needs a size"),
        (["volume", "delete", "data", "--yes"], 5, "error: volume 'data' is in group 'db'"),
        (["group", "create", "g", "--volume", "nothing"], 4, "error: there is no volume 'nothing'"),
        (["group", "show", "a/b"], 2, "error: 'a/b' is not a name"),
        (["bookmark", "delete", "db", "nothing", "--yes"], 4, "error: there is no bookmark 'nothing'"),
        (["image", "enable", "db", "--position", "2000"], 5, "hint: The nearest is 1000."),
        (["verify"], 2, "Missing argument 'GROUP'"),
    ],
)
def test_errors_are_a_line_a_hint_and_a_code(db: Shell, words: list[str], code: int, message: str) -> None:
    assert message in db.run(*words, code=code).stderr


@pytest.mark.parametrize(
    ("words", "untouched"),
    [
        (["volume", "delete", "data"], lambda shell: shell.array.deleted == []),
        (["group", "delete", "db", "--destroy"], lambda shell: shell.appliance.deleted == []),
        (["bookmark", "delete", "db", "before"], lambda shell: len(shell.appliance.bookmarks) == 1),
    ],
)
def test_nothing_is_deleted_unasked(db: Shell, words: list[str], untouched: Callable[[Shell], bool]) -> None:
    db.run("bookmark", "create", "db", "before")
    assert "?" in db.run(*words, answer="n\n", code=1).stdout
    assert untouched(db)


def test_without_daemons_the_next_step_is_said(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--state", str(tmp_path), "volume", "list"])
    assert result.exit_code == 6
    assert result.stderr.startswith("error: the array does not answer at ")
    assert "hint: Start it by `iscsi-rp up`" in result.stderr


def test_what_is_no_command_is_said_in_one_way_everywhere() -> None:
    for words, command in ((["--nix"], "iscsi-rp"), (["volume", "list", "--nix"], "iscsi-rp volume list")):
        result = CliRunner().invoke(main, words, prog_name="iscsi-rp")
        assert result.exit_code == 2
        error, hint = result.stderr.splitlines()
        assert error.startswith("error: No such option")
        assert hint == f"hint: `{command} --help` says how it is used."


def test_a_noun_alone_shows_its_commands() -> None:
    for words in ([], ["volume"]):
        result = CliRunner().invoke(main, words, prog_name="iscsi-rp")
        assert result.exit_code == 2
        assert result.stderr.startswith("Usage: iscsi-rp")
        assert "error" not in result.stderr


def test_a_question_that_nobody_answers_names_the_option(db: Shell) -> None:
    result = db.run("group", "delete", "db", code=1)
    assert result.stderr.endswith("\nerror: nothing was done\nhint: --yes answers questions.\n")
    assert db.json("group", "list")


def test_config(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('state = "s"\n[array]\nportal = []\n')
    result = CliRunner().invoke(main, ["config", "check", str(path)])
    assert (result.exit_code, result.stderr) == (
        3,
        f"error: {path}:3: array.portal: unknown key, did you mean 'portals'?\n",
    )
    path.write_text('state = "s"\n')
    assert CliRunner().invoke(main, ["config", "check", str(path)]).stdout == f"{path}: ok\n"
    shown = CliRunner().invoke(main, ["--config", str(path), "config", "show"]).stdout
    assert f'state = "{tmp_path}/s"' in shown
    as_json = CliRunner().invoke(main, ["--config", str(path), "config", "show", "--json"]).stdout
    assert json.loads(as_json)["array"]["portals"] == ["127.0.0.1:3260"]


def test_names_are_completed_from_the_daemons(db: Shell, tmp_path: Path) -> None:
    db.run("bookmark", "create", "db", "before")

    def completed(state: Path, *words: str) -> list[str]:
        env = {
            "COMP_WORDS": " ".join(["iscsi-rp", "--state", str(state), *words]),
            "_ISCSI_RP_COMPLETE": "bash_complete",
        }
        env["COMP_CWORD"] = str(len(env["COMP_WORDS"].split()) - (words[-1] != ""))
        output = CliRunner().invoke(main, [], env=env, prog_name="iscsi-rp").stdout
        return [line.removeprefix("plain,") for line in output.split()]

    assert completed(db.state, "volume", "show", "") == ["data", "log"]
    assert completed(db.state, "volume", "show", "d") == ["data"]
    assert completed(db.state, "group", "show", "") == ["db"]
    assert completed(db.state, "bookmark", "delete", "db", "") == ["before"]
    assert completed(tmp_path / "nowhere", "volume", "show", "") == []
