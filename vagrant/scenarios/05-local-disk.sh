#!/bin/bash
# A disk of this machine, with a file system that is not empty, gets the host-based splitter before it, and is freed again.
. "$(dirname "$0")/lib.sh"
begin lab-local

image=$(setting state)/lab-local.img
for device in $(losetup --noheadings --output NAME --associated "$image"); do losetup --detach "$device"; done
rm -f "$image"
truncate --size=64M "$image"
device=$(losetup --find --show "$image")
file_system "$device"
files 40
umount "/mnt/$name"

start=$(now)
said=$(iscsi-rp host attach "$device" --group "$name" --journal 256MiB)
disk=$(disk_of "$(sed -n 's/.*wwn-0x//p' <<< "$said")")
mounted "$disk"
intact production 40
proved "$device is $disk, with 40 of 40 files, $(since "$start") after it was unmounted"
splitting
iscsi-rp bookmark create "$name" good
encrypt
mounted "$(image bookmark good)" image
intact image 40
close_image
proved "encrypted files: all 40 as they were, in an image"

umount "/mnt/$name"
iscsi-rp recover-production "$name" --bookmark good --yes
iscsi-rp group delete "$name" --destroy --yes
iscsi-rp host detach "$(iscsi-rp array status | awk '$2 == "local" { print $1 }')" --yes
mounted "$device"
intact production 40
umount "/mnt/$name"
losetup --detach "$device"
rm "$image"
proved "rewound, and freed of the splitter: 40 of 40 files on $device itself"
