import tomllib
from pathlib import Path

import pytest

from iscsi_rp.control.array_models import Processor
from iscsi_rp.control.config import Config, Portal, find_config, load_config
from iscsi_rp.errors import ConfigError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ISCSI_RP_CONFIG", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def complaints(folder: Path, text: str) -> str:
    path = write(folder / "c.toml", text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return caught.value.message.replace(str(path), "FILE")


def test_without_a_file_everything_has_a_default() -> None:
    config = load_config()
    assert config.array.portals == [Portal("127.0.0.1", 3260)]
    assert config.state.is_absolute()
    assert config.array_socket == config.state / "array" / "api.sock"
    assert config.appliance_socket == config.state / "appliance" / "api.sock"
    assert config.replication == config.state / "replication.sock"
    assert config.pki_folder == config.state / "pki"


@pytest.mark.parametrize(("user", "expected"), [(0, "/var/lib/iscsi-rp"), (1000, "home/iscsi-rp")])
def test_the_default_state_is_the_users(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, user: int, expected: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    assert load_config().state == tmp_path / expected


def test_every_key_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "c.toml",
        """
        state = "state"
        pki = "certificates"
        [array]
        name = "sp-a"
        iqn = "iqn.2001-04.com.example:storage:disk2"
        portals = ["10.0.0.1:3260", "[::1]:13260"]
        split_timeout_s = 3
        [appliance]
        name = "rpa-7"
        portals = ["localhost:3262"]
        replication = "unix:/run/replication.sock"
        """,
    )
    config = load_config(path)
    assert config.state == tmp_path / "state"
    assert config.pki_folder == tmp_path / "state" / "certificates"
    assert config.array.portals == [Portal("10.0.0.1", 3260), Portal("::1", 13260)]
    assert [str(portal) for portal in config.array.portals] == ["10.0.0.1:3260", "[::1]:13260"]
    assert config.array.split_timeout_s == 3.0
    assert config.appliance.name == "rpa-7"
    assert config.replication == Path("/run/replication.sock")


def test_the_first_place_that_has_a_file_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_config() is None
    here = write(tmp_path / "iscsi-rp.toml", "")
    assert find_config() == here
    monkeypatch.setenv("ISCSI_RP_CONFIG", "other.toml")
    assert find_config() == tmp_path / "other.toml"
    assert find_config(Path("given.toml")) == tmp_path / "given.toml"


def test_a_given_state_wins_and_counts_from_here(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    path = write(tmp_path / "etc" / "c.toml", 'state = "in-file"')
    assert load_config(path).state == tmp_path / "etc" / "in-file"
    assert load_config(path, Path("given")).state == tmp_path / "given"


def test_what_is_in_force_can_be_loaded_again(tmp_path: Path) -> None:
    config = load_config(state=tmp_path / 'quote" and \\ and é')
    again = load_config(write(tmp_path / "c.toml", config.toml()))
    assert tomllib.loads(again.toml()) == tomllib.loads(config.toml())
    assert again.replication == config.replication
    assert again.pki_folder == config.pki_folder


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[array]\n\nportal = ["x"]', "FILE:3: array.portal: unknown key, did you mean 'portals'?"),
        ("[aray]\n", "FILE:1: aray: unknown key, did you mean 'array'?"),
        ("colour = 1", "FILE:1: colour: unknown key, known are state, pki, array, lio, appliance"),
        ('[appliance]\nname = "x"\n[array]\nname = "X Y"', "FILE:4: array.name: "),
        ('[array]\nportals = ["nowhere"]', "FILE:2: array.portals: 'nowhere' is not a portal"),
        ('[array]\nportals = ["::1:3260"]', "FILE:2: array.portals: '::1:3260' is not a portal"),
        ('[array]\nportals = ["host:70000"]', "FILE:2: array.portals: 'host:70000' is not a portal"),
        ("[array]\nportals = []", "FILE:2: array.portals: "),
        ("[array]\nportals = [1]", "FILE:2: array.portals: 1 is not a portal"),
        ('[array]\niqn = "disk"', "FILE:2: array.iqn: 'disk' is not an iSCSI name"),
        (f'[array]\niqn = "iqn.2001-04.com.example:{"x" * 200}"', "FILE:2: array.iqn: "),
        ("[array]\nsplit_timeout_s = 60", "FILE:2: array.split_timeout_s: "),
        ("[array]\nsplit_timeout_s = 0", "FILE:2: array.split_timeout_s: "),
        ('[appliance]\nreplication = "tcp:1.2.3.4"', "FILE:2: appliance.replication: "),
        ('[appliance]\nportals = ["127.0.0.1:3260"]', "FILE: the portal 127.0.0.1:3260 is given twice"),
        ("array = 1", "FILE:1: array: "),
    ],
)
def test_what_is_wrong_is_named_with_line_and_key(tmp_path: Path, text: str, complaint: str) -> None:
    assert complaints(tmp_path, text).startswith(complaint)


def test_everything_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    assert len(complaints(tmp_path, "a = 1\nb = 2\n[array]\nc = 3").splitlines()) == 3


def test_what_is_no_toml_is_named_with_its_line(tmp_path: Path) -> None:
    assert "line 2" in complaints(tmp_path, "[array]\nname = x\n")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: No such file"):
        load_config(tmp_path / "absent.toml")
    (tmp_path / "latin.toml").write_bytes(b"state = '\xe9'")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path / "latin.toml")


def test_the_folder_of_certificates_may_be_elsewhere(tmp_path: Path) -> None:
    assert load_config(write(tmp_path / "c.toml", 'pki = "/etc/pki/rp"')).pki_folder == Path("/etc/pki/rp")


def test_two_ports_of_the_systems_choice_are_not_the_same() -> None:
    Config.model_validate({"array": {"portals": ["[::1]:0"]}, "appliance": {"portals": ["[::1]:0"]}})


def test_portals_belong_to_storage_processors(tmp_path: Path) -> None:
    text = '[array]\nportals = ["h:1", {address = "[::1]:2", sp = "B"}, {address = "h:3", sp = "A"}]'
    config = load_config(write(tmp_path / "c.toml", text))
    assert config.array.portals == [
        Portal("h", 1, Processor.A),
        Portal("::1", 2, Processor.B),
        Portal("h", 3, Processor.A),
    ]
    assert config.array.processors == [Processor.A, Processor.B]
    again = load_config(write(tmp_path / "again.toml", config.toml()))
    assert again.array == config.array
    assert load_config(write(tmp_path / "c.toml", "")).array.processors == [Processor.A]


@pytest.mark.parametrize(
    "portal",
    ['{address = "h:1"}', '{address = "h:1", sp = "C"}', '{address = "h:1", sp = "B", x = 1}', "{sp = []}"],
)
def test_a_portal_of_no_storage_processor_is_refused(tmp_path: Path, portal: str) -> None:
    assert "array.portals: a portal is" in complaints(tmp_path, f"[array]\nportals = [{portal}]")


def test_the_same_address_twice_is_refused_whatever_the_processor(tmp_path: Path) -> None:
    text = '[array]\nportals = ["h:1", {address = "h:1", sp = "B"}]'
    assert "the portal h:1 is given twice" in complaints(tmp_path, text)
