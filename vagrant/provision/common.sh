#!/bin/bash
# For every machine: the packages of Debian, and iscsi-rp itself, from this checkout.
. "$(dirname "$0")/steps.sh"
prefix=/opt/iscsi-rp

digest() { # of all that is installed
    (cd "$checkout" && find iscsi_rp targetcli-ext pyproject.toml -type f ! -path '*/__pycache__/*' ! -path '*.egg-info/*' -print0 |
        sort --zero-terminated | xargs --null sha256sum | sha256sum | cut --characters=-16)
}

program() {
    local now sources
    if [ "$(setting program)" = installed ]; then
        iscsi-rp --version >&2
        return
    fi
    now=$(digest)
    [ "$(cat "$prefix/digest" 2> /dev/null)" != "$now" ] || return 0
    [ -x "$prefix/bin/python" ] || python3 -m venv "$prefix" >&2
    # A copy, for a build leaves files where it is done.
    sources=$(mktemp --directory)
    (cd "$checkout" && cp -r iscsi_rp pyproject.toml README.md LICENSE "$sources")
    "$prefix/bin/pip" wheel --quiet --no-deps --wheel-dir "$sources/wheel" "$sources" >&2
    "$prefix/bin/pip" install --quiet --force-reinstall --no-deps "$sources"/wheel/*.whl >&2
    "$prefix/bin/pip" install --quiet "$(echo "$sources"/wheel/*.whl)[lio]" >&2
    rm -r "$sources"
    ln --force --symbolic "$prefix/bin/iscsi-rp" /usr/local/bin/iscsi-rp
    echo "$now" > "$prefix/digest"
    touch "$runtime/restart"
    echo "built and installed $("$prefix/bin/iscsi-rp" --version)"
}

wanted=(dbus e2fsprogs iproute2 kmod procps python3)
if [ "$(setting program)" = checkout ]; then wanted+=(python3-venv libudev1); fi
step packages "see that apt reaches a mirror of Debian 12" packages "${wanted[@]}"
step program "see that pip reaches a package index (PIP_INDEX_URL), and that $checkout is a checkout" program
