#!/bin/bash
# `host` may run commands on array and appliance, as root, by a key that they share. Argument: the name of the machine.
. "$(dirname "$0")/steps.sh"
machine=$1
key=$(cd "$lab" && realpath --canonicalize-missing "$(setting key)")

holder() {
    local name
    put /root/.ssh/iscsi-rp-lab 600 < "$key"
    # A connection stays for a minute: a scenario asks often.
    for name in array appliance; do
        cat << END
Host $name
    HostName $(setting "$([ $name = array ] && echo array_a || echo appliance)")
    User root
    IdentityFile /root/.ssh/iscsi-rp-lab
    StrictHostKeyChecking accept-new
    UserKnownHostsFile /root/.ssh/iscsi-rp-lab-hosts
    BatchMode yes
    ConnectTimeout 10
    ControlMaster auto
    ControlPath /run/iscsi-rp-ssh-%n
    ControlPersist 60
END
    done | put /etc/ssh/ssh_config.d/iscsi-rp-lab.conf
}

accepted() {
    if ! grep --quiet --line-regexp --fixed-strings --file="$key.pub" /root/.ssh/authorized_keys 2> /dev/null; then
        install -d --mode=700 /root/.ssh
        cat "$key.pub" >> /root/.ssh/authorized_keys
        echo "added to /root/.ssh/authorized_keys"
    fi
}

if [ ! -e "$key" ]; then
    echo "provision: trust: left alone: there is no $key (\`ssh-keygen -t ed25519 -N '' -f FILE\` makes one, for all three machines)"
    exit
fi
mirror="see that apt reaches a mirror of Debian 12"
case $machine in
    host)
        step packages "$mirror" packages openssh-client
        step trust "look at $key" holder
        ;;
    array | appliance)
        step packages "$mirror" packages openssh-server
        step trust "look at $key.pub" accepted
        ;;
esac
