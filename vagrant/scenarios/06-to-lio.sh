#!/bin/bash
# A LUN moves from the array's own target to the kernel's and back, protected all the time.
. "$(dirname "$0")/lib.sh"
begin lab-move

iscsi-rp volume create "$name" --size 64MiB
disk=$(log_in embedded)
file_system "$disk"
protect 256MiB
files 40
naa=$(iscsi-rp volume show "$name" | fact NAA)
here=embedded count=40
for there in lio embedded; do
    umount "/mnt/$name"
    log_out "$here"
    start=$(now)
    iscsi-rp volume move "$name" --front-end "$there"
    disk=$(log_in "$there")
    mounted "$disk"
    say "$here to $there: mounted again $(since "$start") after it was unmounted"
    [ "$(iscsi-rp volume show "$name" | fact NAA)" = "$naa" ] || fail "the NAA is another"
    intact production "$count"
    dd if=/dev/urandom of="/mnt/$name/by-$there" bs=1M count=4 conv=fsync status=none
    (cd "/mnt/$name" && sha256sum "by-$there" >> "$runtime/$name.sums")
    count=$((count + 1))
    here=$there
done
is_mode SPLITTING || fail "the group is $(mode)"
umount "/mnt/$name"
mounted "$disk"
intact production 42
proved "there and back: 40 files of before and one written on each side intact, NAA $naa both times"
equal
