#!/bin/bash
# The initiator: open-iscsi, multipath, fio. Argument: the name of the machine.
. "$(dirname "$0")/steps.sh"
machine=$1

initiator() {
    put /etc/iscsi/initiatorname.iscsi 600 <<< "InitiatorName=iqn.2026-11.io.iscsi-rp:initiator-$machine"
    modprobe --all iscsi_tcp sd_mod sg loop
    mkdir -p /run/lock/iscsi
    if have_systemd; then
        systemctl --quiet enable --now iscsid
    elif ! pidof iscsid > /dev/null; then
        setsid iscsid < /dev/null > /dev/null 2>&1
        echo "started iscsid"
    fi
}

multipath() {
    local said
    said=$(put /etc/multipath.conf < "$lab/provision/multipath.conf")
    modprobe --all dm-multipath dm-service-time
    if have_systemd; then
        systemctl --quiet enable --now multipathd
    elif ! pidof multipathd > /dev/null; then
        multipathd < /dev/null > /dev/null
        echo "started multipathd"
    fi
    if [ -n "$said" ]; then
        eventually 30 "multipathd" multipathd reconfigure
        echo "$said"
    fi
}

step packages "see that apt reaches a mirror of Debian 12" packages fio open-iscsi multipath-tools sg3-utils
step initiator "\`modprobe iscsi_tcp\` has to work: Debian's linux-image-amd64 has it, a cloud kernel may not" initiator
step multipath "look at the log" multipath
