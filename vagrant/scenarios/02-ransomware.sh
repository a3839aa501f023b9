#!/bin/bash
# Ransomware on a mounted ext4: found by time in an image, undone on production by that time, and the next time by a bookmark.
. "$(dirname "$0")/lib.sh"
begin lab-ransomware

rewind() { # BY VALUE: production, as its host does it
    local start
    start=$(now)
    umount "/mnt/$name"
    log_out embedded
    iscsi-rp recover-production "$name" "--$1" "$2" --yes
    mounted "$(log_in embedded)"
    intact production 60
    [ -z "$(find "/mnt/$name" -name '*.locked')" ] || fail "there are encrypted files"
    proved "by $1: all 60 files back in production, $(since "$start") from umount to the last of them read"
}

iscsi-rp volume create "$name" --size 64MiB
disk=$(log_in embedded)
file_system "$disk"
protect 256MiB
files 60
iscsi-rp bookmark create "$name" friday
sleep 1
echo "written on Saturday" > "/mnt/$name/saturday"
sync --file-system "/mnt/$name"
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

rewind time "$moment"
grep --quiet Saturday "/mnt/$name/saturday" || fail "what was written before the moment is not there"
encrypt
rewind bookmark friday
[ ! -e "/mnt/$name/saturday" ] || fail "what was written after the bookmark is there"
equal
