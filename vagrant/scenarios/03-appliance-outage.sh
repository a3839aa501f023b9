#!/bin/bash
# The appliance dies under load, and is away: hosts go on; when it is back, what changed is copied.
. "$(dirname "$0")/lib.sh"
begin lab-outage

iscsi-rp volume create "$name" --size 64MiB
disk=$(log_in embedded)
file_system "$disk"
protect 256MiB
load 15
service_stop appliance KILL
away=$(now)
eventually 30 "MARKING" is_mode MARKING
dd if=/dev/urandom of="/mnt/$name/meanwhile" bs=1M count=8 conv=fsync status=none
service_start appliance
proved "the appliance was away for $(since "$away"), and 8 MiB were written and flushed meanwhile"
back=$(now)
splitting
took=$(since "$back")
loaded
proved "resynchronised under load in $took; $issued, no error"
equal
iscsi-rp bookmark create "$name" back
mounted "$(image bookmark back)" image
cmp "/mnt/$name/meanwhile" "/mnt/$name-image/meanwhile"
close_image
proved "what was written without the appliance is in an image"
