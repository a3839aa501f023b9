#!/bin/bash
# A LUN that is in use by open-iscsi is protected for the first time, and a file that is deleted comes back.
. "$(dirname "$0")/lib.sh"
begin lab-protect

iscsi-rp volume create "$name" --size 64MiB
disk=$(log_in embedded)
file_system "$disk"
files 40
load 8
start=$(now)
protect 256MiB
took=$(since "$start")
loaded
proved "under load, SPLITTING $took after it was asked for; $issued, no error"
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
