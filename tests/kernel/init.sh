#!/bin/sh
# The first process of the guest. / is a folder of the host, read-only (hostfs); the kernel's command line gave
# SHARES (folders of the host, separated by commas, mounted read-only at the same paths) and AGENT (what to run, by
# PYTHON).
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
off() { echo "init: $1"; exit 1; } # the kernel panics, and with it ends its process on the host

mount -t proc proc /proc
# Whatever the guest writes goes to memory. Without this it would write to the host: then better nothing.
mount -t tmpfs -o size=75% tmpfs /mnt && mkdir /mnt/upper /mnt/work /mnt/root &&
    insmod /lib/modules/"$(uname -r)"/kernel/fs/overlayfs/overlay.ko &&
    mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root &&
    cd /mnt/root && mkdir .old && mount -n --move /proc proc && pivot_root . .old && umount -l /.old ||
    off "no overlay"

mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2> /dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir -p /run/lock
ln -sfn /proc/self/fd /dev/fd
ln -sfn /proc/mounts /etc/mtab
ip link set lo up
hostname guest
for share in $(echo "$SHARES" | tr , ' '); do
    mkdir -p "$share"
    mount -r -t hostfs -o "$share" none "$share" || off "no $share"
done
# The disk of the guest: a real file system, with what the target's stores need of one.
mkfs.ext4 -q -E lazy_itable_init=1,lazy_journal_init=1 /dev/ubda && mount /dev/ubda /srv || off "no disk"

setsid "$PYTHON" "$AGENT" /dev/ttyS0
off "the agent ended"
