#!/bin/bash
# Runs a daemon of ours and starts it again when it ends, for a machine without systemd. Argument: its name.
. "$(dirname "$0")/../lib.sh"
unit=/etc/systemd/system/iscsi-rp-$1.service
read -ra command <<< "$(sed -n 's/^ExecStart=//p' "$unit")"
echo $$ > "$runtime/$1.keeper"
while :; do
    "${command[@]}" &
    echo $! > "$runtime/$1.pid"
    wait $! || echo "keep: the $1 ended ($?)"
    sleep "$(sed -n 's/^RestartSec=//p' "$unit")"
done
