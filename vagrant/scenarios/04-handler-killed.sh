#!/bin/bash
# LIO serves the LUN, and the handler of its commands is killed under load, twice. What keeps the daemons starts it again.
. "$(dirname "$0")/lib.sh"
begin lab-handler

iscsi-rp volume create "$name" --size 64MiB --front-end lio
disk=$(log_in lio)
file_system "$disk"
protect 256MiB
load 15
another() { [ -n "$(service_pid array)" ] && [ "$(service_pid array)" != "$pid" ] && serves array; }
for round in 1 2; do
    pid=$(service_pid array)
    start=$(now)
    kill -KILL "$pid"
    eventually 60 "a new handler" another
    say "kill $round: served again after $(since "$start")"
    sleep 1
done
loaded
proved "2 kills of the handler under load; $issued, no error"
state=$(cat /sys/class/iscsi_session/*/state)
[ "$state" = LOGGED_IN ] || fail "the session is $state"
splitting
proved "the session stayed"
equal
