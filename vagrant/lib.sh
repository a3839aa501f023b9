# shellcheck shell=bash
# What provisioning and scenarios have in common: settings, waiting, and the daemons as services.
set -euo pipefail
shopt -s inherit_errexit
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

lab=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck disable=SC2034  # used by those who source this
checkout=$(dirname "$lab")
settings=${ISCSI_RP_SETTINGS:-$lab/settings.yaml}
runtime=/run/iscsi-rp-lab
mkdir -p "$runtime"

setting() { # KEY
    local value
    value=$(sed -n "s/^$1: *//p" "$settings")
    [ -n "$value" ] || { echo "lab: $settings has no '$1'" >&2; return 1; }
    echo "$value"
}

# Array and appliance are host's own, or machines of their own, which `host` reaches by ssh.
declare -A machine_of=([array]=host [appliance]=host)
array() { on "${machine_of[array]}" "$@"; }
appliance() { on "${machine_of[appliance]}" "$@"; }

on() { # MACHINE COMMAND...: a command, or a function of provisioning's, as root; `host` is this machine
    local machine=$1
    shift
    if [ "$machine" = host ]; then
        "$@"
    else
        # shellcheck disable=SC2029  # what is here is what is meant; 9: a lock of the scenarios, which is not for the connection that stays
        ssh "$machine" "$(printf '%q ' env "ISCSI_RP_SETTINGS=$settings" "$lab/provision/there.sh" "$@")" 9>&-
    fi
}

eventually() { # SECONDS WHAT COMMAND...
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" > /dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || { echo "lab: $what did not come in time: $*" >&2; return 1; }
        sleep 0.2
    done
}

# The daemons are systemd's where that runs, and `keep.sh`'s where it does not (in a guest without one).
have_systemd() { [ -d /run/systemd/system ]; }
alive() { [ -n "$1" ] && kill -0 "$1" 2> /dev/null; }
gone() { ! alive "$1"; }
kept() { cat "$runtime/$1.$2" 2> /dev/null || true; } # NAME keeper|pid

service_pid() { # NAME
    if have_systemd; then systemctl show --property MainPID --value "iscsi-rp-$1"; else kept "$1" pid; fi
}

service_runs() { # NAME
    if have_systemd; then systemctl --quiet is-active "iscsi-rp-$1"; else alive "$(kept "$1" keeper)"; fi
}

service_start() { # NAME: returns when it serves
    if have_systemd; then
        systemctl start "iscsi-rp-$1"
    elif ! service_runs "$1"; then
        setsid "$lab/provision/keep.sh" "$1" >> "/var/log/iscsi-rp-$1.log" 2>&1 < /dev/null 9>&- & # 9: a lock of the scenarios
    fi
    eventually 90 "the $1" serves "$1"
}

service_stop() { # NAME [SIGNAL]: it stays away until it is started
    local keeper pid
    if have_systemd; then
        [ $# -lt 2 ] || systemctl kill --signal="$2" "iscsi-rp-$1"
        systemctl stop "iscsi-rp-$1"
        return
    fi
    keeper=$(kept "$1" keeper) pid=$(kept "$1" pid)
    if alive "$keeper"; then kill -KILL "$keeper"; fi
    if alive "$pid"; then kill "-${2:-TERM}" "$pid"; fi
    eventually 60 "the end of the $1" gone "$pid"
}

serves() { # NAME
    # To look is cheap, and to ask is not, on a small machine on which it starts.
    grep --quiet "/$1/api.sock$" /proc/net/unix || return
    case $1 in
        array) iscsi-rp volume list ;;
        appliance) iscsi-rp group list ;;
    esac
}
