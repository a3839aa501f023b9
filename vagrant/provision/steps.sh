# shellcheck shell=bash
# How a step of provisioning is done, and told.
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
log=/var/log/iscsi-rp-provision.log

step() { # NAME HINT FUNCTION [ARGUMENT...]: the function prints what it changes; all else goes to the log
    local name=$1 hint=$2 said code
    shift 2
    set +e
    said=$(set -e; "$@" 2> "$runtime/step")
    code=$?
    set -e
    { echo "=== $name"; cat "$runtime/step"; } >> "$log"
    if [ "$code" -ne 0 ]; then
        echo "provision: $name: FAILED ($code)" >&2
        tail --lines=15 "$runtime/step" | sed 's/^/    /' >&2
        echo "provision: to go on: $hint" >&2
        echo "provision: then run this again; what was done is left as it is. All of it: $log" >&2
        exit "$code"
    fi
    printf '%s\n' "${said:-nothing to change}" | sed "s/^/provision: $name: /"
}

put() { # FILE [MODE]: what comes from the standard input, unless it is there
    local new
    new=$(mktemp)
    cat > "$new"
    if ! cmp --silent "$new" "$1"; then
        install -D --mode="${2:-644}" "$new" "$1"
        echo "wrote $1"
    fi
    rm "$new"
}

put_all() { # FOLDER MODE: the files of a tar archive that comes from the standard input
    local new file
    new=$(mktemp --directory)
    tar --extract --directory "$new"
    for file in "$new"/*; do put "$1/${file##*/}" "$2" < "$file"; done
    rm -r "$new"
}

packages() { # PACKAGE...
    local missing=() package
    for package in "$@"; do
        [ "$(dpkg-query --show --showformat='${Status}' "$package" 2> /dev/null)" = "install ok installed" ] || missing+=("$package")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    apt-get update --quiet >&2
    DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends "${missing[@]}" >&2
    echo "installed ${missing[*]}"
}
