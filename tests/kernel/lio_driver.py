"""Runs in the guest: makes LIO what the host desires. Pickled on standard input, as text: whether to apply,
what is desired, what is owned. Prints JSON: the texts of the plan, and of a second one, or the error.
"""

import base64
import json
import pickle
import sys
from typing import Any

from iscsi_rp.frontend.lio import Desired, LioError, Owned, apply, ensure, plan


def serve(apply_it: bool, desired: Desired, owned: Owned) -> dict[str, Any]:
    try:
        ensure()
        steps = plan(desired, owned=owned)
        if apply_it:
            apply(steps)
        left = plan(desired, owned=Owned.of(desired)) if apply_it else []
    except LioError as error:
        kind = type(error).__name__
        return {"error": kind, "text": error.message, "hint": error.hint or "", "errno": error.errno}
    return {"steps": [step.text for step in steps], "left": [step.text for step in left]}


if __name__ == "__main__":
    print(json.dumps(serve(*pickle.loads(base64.b64decode(sys.stdin.read())))))
