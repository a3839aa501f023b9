#!/bin/bash
# Array and appliance. Arguments: the name of the machine, and which of them run there; none, where it is idle.
. "$(dirname "$0")/steps.sh"
machine=$1
daemons=("${@:2}")

addresses() {
    local device address
    device=$(setting address_device)
    for address in "${addresses[@]}"; do
        [ -z "$(ip -oneline address show to "$address")" ] || continue
        [ "$device" != none ] || { echo "this machine has no $address" >&2; return 1; }
        ip address add "$address/32" dev "$device"
        echo "added $address to $device"
    done
}

configuration() {
    local iqn a=${addresses[0]} b=${addresses[1]:-} link
    iqn=iqn.2026-11.io.iscsi-rp:$machine
    link="replication = \"tls:$(setting appliance):$(setting replication_port)\""
    {
        echo "state = \"$(setting state)\""
        if [ "$machine" != appliance ]; then
            cat << END
[array]
name = "$machine"
iqn = "$iqn"
portals = ["$a:$(setting embedded_port)", { address = "$b:$(setting embedded_port)", sp = "B" }]
[lio]
iqn = "$iqn.lio"
portals = ["$a:$(setting lio_port)", { address = "$b:$(setting lio_port)", sp = "B" }]
END
        fi
        echo "[appliance]"
        case $machine in
            array) printf '%s\n' 'name = "appliance"' "$link" ;;
            appliance) printf '%s\n' 'name = "appliance"' "$link" "portals = [\"$a:$(setting image_port)\"]" ;;
            host) printf '%s\n' 'name = "host-rpa"' "portals = [\"$a:$(setting image_port)\"]" ;;
        esac
    } | put /etc/iscsi-rp/iscsi-rp.toml
    iscsi-rp config check /etc/iscsi-rp/iscsi-rp.toml >&2
}

bus() { put /etc/dbus-1/system.d/org.kernel.TCMUService1.iscsi-rp.conf < "$checkout/packaging/dbus/org.kernel.TCMUService1.iscsi-rp.conf"; }

targetcli() {
    local file
    (cd "$checkout/targetcli-ext" && find targetcli_rp -name '*.py') | while read -r file; do
        put "/usr/local/lib/targetcli-rp/$file" < "$checkout/targetcli-ext/$file"
    done | sed -n '1s/.*/installed targetcli-rp/p'
    put /usr/local/bin/targetcli-rp 755 << 'END'
#!/bin/sh
PYTHONPATH=/usr/local/lib/targetcli-rp exec /usr/bin/python3 -m targetcli_rp.main "$@"
END
}

units() {
    local name
    for name in array appliance; do
        put "/etc/systemd/system/iscsi-rp-$name.service" < "$checkout/packaging/systemd/iscsi-rp-$name.service"
    done
}

services() {
    local name
    if have_systemd; then
        systemctl daemon-reload
        systemctl --quiet enable "${daemons[@]/#/iscsi-rp-}"
    fi
    for name in array appliance; do
        if [ -e "$runtime/restart" ] && service_runs "$name"; then service_stop "$name"; fi
    done
    rm -f "$runtime/restart"
    for name in "${daemons[@]}"; do
        service_runs "$name" || { service_start "$name"; echo "started the $name"; }
    done
}

# What a daemon reads at its start.
restarting() {
    "$@" | tee "$runtime/said"
    if [ -s "$runtime/said" ]; then touch "$runtime/restart"; fi
}

step packages "see that apt reaches a mirror of Debian 12" packages targetcli-fb tcmu-runner
if [ "${#daemons[@]}" -gt 0 ]; then
    if [ "$machine" = appliance ]; then
        addresses=("$(setting appliance)")
    else
        addresses=("$(setting "${machine}_a")" "$(setting "${machine}_b")")
    fi
    step addresses "\`vagrant reload $machine\` gives the machine its addresses" addresses
    step configuration "correct $settings" restarting configuration
fi
step bus "see that $checkout is complete" bus
step targetcli-rp "see that $checkout is complete" targetcli
step units "see that $checkout is complete" restarting units
if [ "${#daemons[@]}" -eq 0 ]; then
    echo "provision: services: left alone: this machine is idle until sites replicate to each other"
elif [ "$machine" != host ] && [ ! -e "$(setting state)/pki/authority.crt" ]; then
    echo "provision: services: left alone: until vagrant/provision/join.sh on host has given it a certificate"
else
    step services "\`journalctl -u iscsi-rp-array -u iscsi-rp-appliance\` says why (/var/log/iscsi-rp-*.log without systemd)" services
fi
