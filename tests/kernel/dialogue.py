"""Runs in the guest: a dialogue with a program on a terminal of its own.

Arguments: the program's command line. Standard input: a list in JSON of what is typed, and of the pattern
that has to come before more is typed. Prints the terminal; ends with 1 where a pattern did not come.
"""

import json
import sys

import pexpect

ANSWER_S = 30
TERMINAL = (50, 132)


def main() -> None:
    steps = json.load(sys.stdin)
    program = pexpect.spawn(
        sys.argv[1],
        sys.argv[2:],
        timeout=ANSWER_S,
        dimensions=TERMINAL,
        encoding="utf-8",
        codec_errors="replace",
    )
    program.logfile_read = sys.stdout
    for typed, pattern in steps:
        program.send(typed)
        try:
            program.expect(pexpect.EOF if pattern is None else pattern)
        except (pexpect.TIMEOUT, pexpect.EOF):
            sys.exit(f"\nafter {typed!r} there did not come {pattern!r}")


if __name__ == "__main__":
    main()
