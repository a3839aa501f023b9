#!/bin/bash
# A LUN that is in use through both storage processors is protected for the first time, and a file that is deleted comes back.
. "$(dirname "$0")/lib.sh"
begin lab-protect

iscsi-rp volume create "$name" --size 64MiB
disk=$(log_in_both embedded)
file_system "$disk"
files 40
load 10
start=$(now)
protect 256MiB
took=$(since "$start")

naa=$(iscsi-rp volume show "$name" | fact NAA)
iscsiadm -m node -T "$iqn" -p "${portal[embedded]}" --logout > /dev/null
has_paths "$naa" 1 || fail "multipath still has both paths"
dd if=/dev/urandom of="/mnt/$name/meanwhile" bs=1M count=4 conv=fsync status=none
through_b=$(written B)
log_in embedded > /dev/null
eventually 30 "both paths" has_paths "$naa" 2
loaded
proved "under load, SPLITTING $took after it was asked for; $issued, no error"
[ "${through_b%.*}" != 0 ] || fail "nothing was written through SP B"
proved "the path through SP A was away under that load: $through_b went through SP B"
equal

iscsi-rp bookmark create "$name" good
start=$(now)
rm "/mnt/$name/files/report-7.txt"
sync --file-system "/mnt/$name"
mounted "$(image bookmark good)" image
cp "/mnt/$name-image/files/report-7.txt" "/mnt/$name/files"
close_image
intact production 40
proved "a deleted file is back from an image, $(since "$start") after it went; 40 of 40 files intact"
