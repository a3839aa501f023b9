#!/bin/bash
# Ransomware on a mounted ext4: found by time in an image, undone by a bookmark on production.
. "$(dirname "$0")/lib.sh"
begin lab-ransomware

iscsi-rp volume create "$name" --size 64MiB
disk=$(log_in embedded)
file_system "$disk"
protect 256MiB
files 60
iscsi-rp bookmark create "$name" friday
sleep 1
moment=$(date --utc +%FT%T.%NZ)
sleep 1
encrypt
intact production 0
say "60 of 60 files are encrypted; they were not at $moment"

start=$(now)
mounted "$(image time "$moment")" image
intact image 60
intact production 0
proved "by time: all 60 files in the image next to production, mounted and read in $(since "$start")"
close_image

start=$(now)
umount "/mnt/$name"
log_out embedded
iscsi-rp recover-production "$name" --bookmark friday --yes
mounted "$(log_in embedded)"
intact production 60
[ -z "$(find "/mnt/$name" -name '*.locked')" ] || fail "there are encrypted files"
proved "by bookmark: all 60 files back in production, $(since "$start") from umount to the last of them read"
equal
