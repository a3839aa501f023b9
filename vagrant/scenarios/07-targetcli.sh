#!/bin/bash
# The day's work in targetcli's shell: make, split, look at an image, recover, show by LIO, and take away again.
. "$(dirname "$0")/lib.sh"
begin lab-cli
groups=/recoverpoint/groups
array=/recoverpoint/arrays/host

targetcli-rp "$array" create_volume "$name" 64MiB
targetcli-rp "$groups" split "$name" "group=$name" journal=256MiB
splitting
disk=$(log_in embedded)
file_system "$disk"
files 40
umount "/mnt/$name"
log_out embedded
targetcli-rp "$groups/$name" bookmark good
mounted "$(log_in embedded)"
encrypt
umount "/mnt/$name"
log_out embedded
targetcli-rp "$groups/$name" enable_image bookmark=good
targetcli-rp "$groups/$name" disable_image yes=true
targetcli-rp "$groups/$name" recover_production bookmark=good yes=true
mounted "$(log_in embedded)"
intact production 40
proved "40 of 40 encrypted files back, all of it typed in targetcli-rp"
umount "/mnt/$name"
log_out embedded

iscsi-rp volume move "$name" --front-end lio
tree=$(targetcli-rp ls)
for shown in "o- user:rpsplit " "o- $name " "o- ${target[lio]} " "o- recoverpoint "; do
    grep --quiet --fixed-strings -- "$shown" <<< "$tree" || { echo "$tree" >&2; fail "no '$shown' in the tree"; }
done
proved "one tree shows the backstore user:rpsplit, LIO's target and the group"
targetcli-rp "$groups/$name" verify
targetcli-rp "$groups" unsplit "$name" destroy=true yes=true
targetcli-rp "$array" delete_volume "$name" destroy=true yes=true
[ -z "$(targetcli-rp ls | grep --fixed-strings -- "$name" || true)" ] || fail "$name is still in the tree"
proved "nothing of it is left in the tree"
