"""Runs in the guest: starts the commands that the host asks for over the serial line (see `guest`).

A line of JSON each way. Request: `id`, `command`, `input`, `timeout_s`. Answers: `id` and `pid` when it was
started, then `id`, `code` (None: it took too long and was killed), `out` and `err` when it ended.

The command `iscsi-rp` is not started but called: tests do that often, and importing it takes seconds here.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import traceback
import tty
from collections.abc import Callable
from typing import Any, Final

calling: Final = threading.Lock()
"Held over a call of `iscsi-rp`: it has the interpreter's standard streams."


def serve(line: int) -> None:
    lock = threading.Lock()

    def answer(message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        with lock:
            while data:
                data = data[os.write(line, data) :]

    answer({"id": 0, "pid": os.getpid()})
    with os.fdopen(os.dup(line), "rb") as requests:
        for line_of_text in requests:
            request = json.loads(line_of_text)
            handle = call if request["command"][0] == "iscsi-rp" else run
            threading.Thread(target=handle, args=(request, answer), daemon=True).start()


def call(request: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> None:
    from click.testing import CliRunner

    from iscsi_rp.cli.main import main

    answer({"id": request["id"], "pid": os.getpid()})
    with calling:
        result = CliRunner().invoke(main, request["command"][1:], request["input"], prog_name="iscsi-rp")
    err = result.stderr
    if result.exc_info is not None and result.exc_info[0] is not SystemExit:
        err += "".join(traceback.format_exception(*result.exc_info))
    answer({"id": request["id"], "code": result.exit_code, "out": result.stdout, "err": err})


def run(request: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> None:
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(
            request["command"], stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True, cwd="/srv"
        )
    except OSError as error:
        answer({"id": request["id"], "pid": 0})
        answer({"id": request["id"], "code": 127, "out": "", "err": str(error)})
        return
    answer({"id": request["id"], "pid": process.pid})
    code: int | None
    try:
        out, err = process.communicate(request["input"].encode(), request["timeout_s"])
        code = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        (out, err), code = process.communicate(), None
    texts = {"out": out.decode(errors="replace"), "err": err.decode(errors="replace")}
    answer({"id": request["id"], "code": code, **texts})


if __name__ == "__main__":
    serial = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
    tty.setraw(serial)
    serve(serial)
