"""CHAP on a command line: the users are options, the secrets come from files or are asked for."""

import sys
import warnings
from collections.abc import Callable
from functools import wraps
from getpass import GetPassWarning
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import click

from iscsi_rp.control.access_models import Authentication, ChapCredentials
from iscsi_rp.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

_FILE: Final = click.Path(path_type=Path, allow_dash=True)


def chap_options(command: F) -> F:
    """`--chap-user`, `--mutual-user` and their secret files: as the argument `chap`, an `Authentication`,
    or None where none was given.
    """

    @wraps(command)
    def with_chap(
        *args: Any,
        chap_user: str | None,
        chap_secret_file: Path | None,
        mutual_user: str | None,
        mutual_secret_file: Path | None,
        **options: Any,
    ) -> Any:
        chap = authentication(chap_user, chap_secret_file, mutual_user, mutual_secret_file)
        return command(*args, chap=chap, **options)

    decorated: Any = with_chap
    for option in (
        click.option(
            "--mutual-secret-file", type=_FILE, help="Its first line; - is the standard input. Default: asks."
        ),
        click.option(
            "--mutual-user", metavar="USER", help="The array proves itself to the initiator by this user."
        ),
        click.option(
            "--chap-secret-file", type=_FILE, help="Its first line; - is the standard input. Default: asks."
        ),
        click.option("--chap-user", metavar="USER", help="The initiator must log in by CHAP, as this user."),
    ):
        decorated = option(decorated)
    return cast(F, decorated)


def authentication(
    chap_user: str | None,
    chap_secret_file: Path | None,
    mutual_user: str | None,
    mutual_secret_file: Path | None,
) -> Authentication | None:
    """What the four options say. UsageError: they do not go together."""
    for user, file, name in (
        (chap_user, chap_secret_file, "chap"),
        (mutual_user, mutual_secret_file, "mutual"),
    ):
        if user is None and file is not None:
            raise UsageError(f"--{name}-secret-file needs --{name}-user")
    if chap_user is None and mutual_user is None:
        return None
    if chap_user is None:
        raise UsageError(
            "mutual CHAP needs the initiator's own user and secret, too", hint="Give --chap-user as well."
        )
    if chap_secret_file == mutual_secret_file == Path("-"):
        raise UsageError("only one of the secrets can come from the standard input")
    mutual = mutual_user and _credentials(mutual_user, mutual_secret_file, "the array")
    return Authentication.model_validate(
        {"chap": _credentials(chap_user, chap_secret_file, "the initiator"), "mutual": mutual}
    )


def _credentials(user: str, file: Path | None, whose: str) -> ChapCredentials:
    secret = _secret(file, f"CHAP secret of {whose} ({user})")
    return ChapCredentials.model_validate({"user": user, "secret": secret})


def _secret(file: Path | None, prompt: str) -> str:
    if file is None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", GetPassWarning)
            try:
                given: str = click.prompt(prompt, hide_input=True, confirmation_prompt=True, err=True)
            except GetPassWarning:
                raise UsageError(
                    "there is no terminal to ask for a secret",
                    hint="Give its file, or - for the standard input, by --chap-secret-file"
                    " and --mutual-secret-file.",
                ) from None
        return given
    try:
        text = sys.stdin.read() if file == Path("-") else file.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read a secret from {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read a secret from {file}: it is not UTF-8") from error
    return text.partition("\n")[0].removesuffix("\r")
