#!/bin/bash
# Makes array and appliance work together, from `host`, once all three are provisioned: certificates of an authority that `host`
# keeps, then their services. Again, it changes nothing.
. "$(dirname "$0")/steps.sh"
pki=$(setting state)/pki

reach() { ssh "$1" true; }

authority() {
    local name issued
    if [ ! -e "$pki/authority.key" ]; then
        iscsi-rp pki init >&2
        echo "made the site's authority, in $pki"
    fi
    issued=$(iscsi-rp pki list)
    for name in array appliance; do
        ! grep --quiet "^$name  *$name .* valid *$" <<< "$issued" || continue
        iscsi-rp pki issue "$name" "$name" >&2
        echo "issued $name-$name.pem"
    done
}

certificates() { # MACHINE
    tar --directory "$pki" --create authority.crt revoked.crl "$1-$1.pem" | on "$1" put_all "$pki" 600
}

services() { # MACHINE: that of the same name
    on "$1" service_runs "$1" || on "$1" "$lab/provision/daemons.sh" "$1" "$1" | sed --quiet 's/^provision: //; /: nothing to change$/!p'
}

[ "$(id -u)" -eq 0 ] || { echo "provision: be root" >&2; exit 1; }
for each in array appliance; do
    step "$each" "\`vagrant up $each\`; where it was made anew, remove its line from /root/.ssh/iscsi-rp-lab-hosts" reach "$each"
done
step authority "see what is in $pki" authority
for each in array appliance; do
    step "$each: certificates" "see whether it has room for $pki" certificates "$each"
done
for each in appliance array; do
    step "$each: services" "correct that on $each" services "$each"
done
echo "provision: array and appliance work together"
