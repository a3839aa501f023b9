#!/bin/bash
# Host, array and appliance are three machines: the link between the two is cut under load, files come back from an image and in
# production, and an array whose certificate was revoked is not believed. Run vagrant/provision/join.sh once before.
. "$(dirname "$0")/lib.sh"
site array "$(setting array_a)" appliance "$(setting appliance)"
pki=$(setting state)/pki

sever() { # nothing of the appliance reaches the array, while it hears it
    local address
    for address in "$(setting array_a)" "$(setting array_b)"; do appliance ip rule add pref 99 to "$address" blackhole; done
}
restore() { appliance bash -c 'while ip rule del pref 99 2> /dev/null; do :; done'; }
join() { "$lab/provision/join.sh" > "$runtime/join" 2>&1 || { cat "$runtime/join" >&2; fail "array and appliance do not come together"; }; }
mend() {
    restore
    if [ "$(iscsi-rp pki list | awk '$1 == "array" && $NF == "valid"')" = "" ]; then join; fi
}
alert() {
    local said
    said=$(appliance iscsi-rp status)
    grep '^alert .*revoked' <<< "$said"
}
begin lab-three

array iscsi-rp volume create "$name" --size 64MiB
disk=$(log_in_both embedded)
file_system "$disk"
files 20
start=$(now)
protect 256MiB
proved "protected by another machine: SPLITTING $(since "$start") after it was asked for"

load 15
sever
away=$(now)
eventually 30 "MARKING" is_mode MARKING
say "MARKING $(since "$away") after the link was cut"
dd if=/dev/urandom of="/mnt/$name/meanwhile" bs=1M count=8 conv=fsync status=none
took=$(since "$away")
restore
back=$(now)
splitting
proved "the link was cut for $took, 8 MiB were written and flushed meanwhile; resynchronised under load $(since "$back") after it was back"
loaded
proved "$issued, no error"
equal

appliance iscsi-rp bookmark create "$name" good
encrypt
intact production 0
start=$(now)
mounted "$(image bookmark good)" image
intact image 20
cmp "/mnt/$name/meanwhile" "/mnt/$name-image/meanwhile"
close_image
proved "after 20 of 20 files were encrypted: all of them in an image that the appliance serves, mounted and read in $(since "$start")"
start=$(now)
umount "/mnt/$name"
splitting
log_out_both "$disk"
appliance iscsi-rp recover-production "$name" --bookmark good --yes
array iscsi-rp volume move "$name" --front-end lio
mounted "$(log_in_both lio)"
intact production 20
proved "all 20 files back in production, by LIO from now on, $(since "$start") from umount to the last of them read"

splitting
iscsi-rp pki revoke array array --yes > /dev/null
# shellcheck disable=SC2094  # the one is on another machine
appliance put "$pki/revoked.crl" 600 < "$pki/revoked.crl" > /dev/null
start=$(now)
eventually 30 "MARKING" is_mode MARKING
took=$(since "$start")
eventually 30 "an alert" alert
alert
dd if=/dev/urandom of="/mnt/$name/unprotected" bs=1M count=4 conv=fsync status=none
proved "the array's certificate revoked: its protection has ended $took later, and the host wrote on"
start=$(now)
join
splitting
proved "another certificate: protected again $(since "$start") after it was issued"
equal
