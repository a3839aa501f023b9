#!/bin/sh
# Sets up what `make test` and `make demo` need: Debian packages (as root or by sudo without a password) and .venv.
# Safe to run again; the second time it finds everything in place and takes a moment. Arguments: more packages.
set -eu
cd "$(dirname "$0")/.."

packages="libiscsi-bin qemu-utils qemu-block-extra e2fsprogs tgt sg3-utils gcc libc6-dev libiscsi-dev dbus $*"
stamp=.venv/.installed

say() { printf 'setup: %s\n' "$*"; }

missing_of() {
    for package in "$@"; do
        case "$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null)" in
            "install ok installed") ;;
            *) printf '%s ' "$package" ;;
        esac
    done
}

find_python() {
    for candidate in python3.11 python3 python3.13 python3.12; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

can_be_root() { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; }

install_packages() {
    # Debian's tgt starts a daemon that takes port 3260, which is ours by default: it is kept from starting.
    if [ -d /run/systemd/system ] && [ -z "${1##*tgt *}" ]; then
        say "masking tgt.service: the benchmark starts its own tgtd"
        as_root systemctl mask tgt.service || true
    fi
    as_root apt-get update -q || return 1
    # shellcheck disable=SC2086  # a list of words
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $1
}

have_venv() { .venv/bin/python -m pip --version >/dev/null 2>&1; }

python=$(find_python)
if [ ! -e "$stamp" ] && ! have_venv && ! "${python:-false}" -c 'import ensurepip, venv' 2>/dev/null; then
    packages="python3 python3-venv $packages"
fi

if ! command -v dpkg-query >/dev/null; then
    say "not a Debian system: please see to it that these are there: $packages"
else
    # shellcheck disable=SC2086  # a list of words
    missing=$(missing_of $packages)
    if [ -n "$missing" ] && can_be_root; then
        say "installing $missing"
        install_packages "$missing" || say "could not install all of: $missing(going on with what is there)"
    elif [ -n "$missing" ]; then
        say "missing packages: $missing(going on with what is there)"
        say "to have everything, run as root: apt-get update && apt-get install --no-install-recommends $missing"
    fi
fi

if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
    if ! have_venv; then
        python=$(find_python)
        [ -n "$python" ] || { say "Python 3.11 or newer is needed"; exit 1; }
        say "making .venv with $python"
        "$python" -m venv .venv
    fi
    say "installing the project and its tools into .venv"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev,lio]'
    touch "$stamp"
fi
