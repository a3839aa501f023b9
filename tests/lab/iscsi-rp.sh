#!/bin/bash
# `iscsi-rp` in the guest, where importing it takes seconds: called in a copy of a process that has done so
# (`caller.py`). A daemon is started as anywhere else.
case " $* " in *" run "*) exec "$PYTHON" -m iscsi_rp "$@" ;; esac
calls=/run/iscsi-rp-calls
mkfifo "$calls/$$"
(IFS=$'\x1f'; echo "$$"$'\x1f'"$*" > "$calls/requests")
read -r code < "$calls/$$"
rm "$calls/$$"
exit "$code"
