# shellcheck shell=bash
# What the scenarios are made of. Each begins by removing what a run of it left that was killed in its middle.
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

site() { # MACHINE ADDRESS MACHINE ADDRESS: of the array, and of the appliance
    machine_of=([array]=$1 [appliance]=$3)
    iqn=iqn.2026-11.io.iscsi-rp:$1
    target=([embedded]="$iqn" [lio]="$iqn.lio")
    portal=([embedded]="$2:$(setting embedded_port)" [lio]="$2:$(setting lio_port)" [image]="$4:$(setting image_port)")
}

declare -A portal target
a=$(setting host_a)
site host "$a" host "$a"
mend() { :; } # what a scenario has to put right before all else
name= # of the scenario, its volume, its group, its mount points

begin() { # NAME: cleans up first, and when the script ends
    name=$1 began=$SECONDS
    [ "$(id -u)" -eq 0 ] || { echo "scenario: be root" >&2; exit 1; }
    exec 9> "$runtime/scenario"
    flock --nonblock 9 || { echo "scenario: another one runs" >&2; exit 1; }
    clean
    trap 'end $?' EXIT
    trap 'exit 130' INT TERM
    say "begins"
}

end() { # CODE
    trap - EXIT
    if [ "$1" -eq 0 ]; then
        clean
        say "ok, $((SECONDS - began)) s"
    else
        say "FAILED ($1) after $((SECONDS - began)) s; \`iscsi-rp status\` shows what there is; run again, it cleans up first" >&2
    fi
    exit "$1"
}

say() { echo "$name: $*"; }
proved() { echo "$name: proved: $*"; }
fail() { echo "$name: $*" >&2; exit 1; }
now() { date +%s.%N; }
since() { echo "$1 $(now)" | awk '{ printf "%.1f s", $2 - $1 }'; }
fact() { sed -n "s/^$1: *//p"; }            # KEY: of what `show` prints

clean() { # what any scenario left
    local pid group volume
    pid=$(cat "$runtime/load.pid" 2> /dev/null || true)
    if alive "$pid"; then kill -KILL "$pid"; fi
    # Before all else: a disk whose handler is gone keeps whoever asks it waiting.
    mend
    appliance service_start appliance
    array service_start array
    awk '$2 ~ "^/mnt/lab-" { print $2 }' /proc/mounts | xargs --no-run-if-empty umount
    iscsiadm -m node --logoutall=all > /dev/null 2>&1 || true
    iscsiadm -m node -o delete > /dev/null 2>&1 || true
    for group in $(appliance iscsi-rp group list | awk '/^lab-/ { print $1 }'); do
        appliance iscsi-rp image disable "$group" --yes > /dev/null 2>&1 || true
        appliance iscsi-rp group delete "$group" --destroy --yes > /dev/null
    done
    # The volume of a local disk has the name of its device.
    for volume in $(array iscsi-rp volume list | awk '/^(lab-|loop)/ { print $1 }'); do
        array iscsi-rp volume delete "$volume" --destroy --force --yes > /dev/null
    done
    rm -f "$runtime"/load.*
}

log_in() { # embedded|lio: the disk of the scenario's volume
    local naa
    iscsiadm -m discovery -t sendtargets -p "${portal[$1]}" > /dev/null
    iscsiadm -m node -T "${target[$1]}" -p "${portal[$1]}" --login > /dev/null
    naa=$(array iscsi-rp volume show "$name" | fact NAA)
    disk_of "$naa"
}

log_in_both() { # embedded|lio: the disk of the scenario's volume, by multipath through both storage processors
    local naa
    iscsiadm -m discovery -t sendtargets -p "${portal[$1]}" > /dev/null
    iscsiadm -m node -T "${target[$1]}" --login > /dev/null
    naa=$(array iscsi-rp volume show "$name" | fact NAA)
    eventually 30 "a map of both paths" has_paths "$naa" 2
    eventually 30 "its device" test -b "/dev/mapper/3$naa"
    echo "/dev/mapper/3$naa"
}

has_paths() { [ "$(multipathd show paths raw format "%w %t %T" | grep --count "^3$1 active ready")" -eq "$2" ]; } # NAA COUNT
written() { array iscsi-rp session list | awk -v processor="$1" '$4 == processor { print $(NF-1), $NF }'; } # A|B: through it

log_out() { iscsiadm -m node -T "${target[$1]}" -p "${portal[$1]}" --logout > /dev/null; } # embedded|lio

log_out_both() { # DISK: of log_in_both
    multipath -f "$1"
    iscsiadm -m node -T "$iqn" --logout > /dev/null
}

disk_of() { # NAA: its device, as soon as udev knows it
    eventually 30 "the disk $1" test -b "/dev/disk/by-id/wwn-0x$1"
    realpath "/dev/disk/by-id/wwn-0x$1"
}

mounted() { # DISK [image]
    mkdir -p "/mnt/$name${2:+-$2}"
    mount "$1" "/mnt/$name${2:+-$2}"
}

file_system() { # DISK
    mkfs.ext4 -q "$1"
    mounted "$1"
}

files() { # COUNT: files of 64 KiB, and their checksums
    local number
    mkdir -p "/mnt/$name/files"
    for number in $(seq "$1"); do
        head --bytes=48K /dev/urandom | base64 > "/mnt/$name/files/report-$number.txt"
    done
    (cd "/mnt/$name" && sha256sum files/* > "$runtime/$name.sums")
    sync --file-system "/mnt/$name"
}

intact() { # production|image COUNT: so many of these files are as they were
    local count at=/mnt/$name
    [ "$1" = production ] || at+=-$1
    count=$(cd "$at" && { sha256sum --check "$runtime/$name.sums" 2> /dev/null || true; } | awk '/: OK$/ { n++ } END { print n + 0 }')
    [ "$count" -eq "$2" ] || fail "$count files are intact in $at, not $2"
}

encrypt() { # what ransomware does: each file is overwritten where it is, and gets another name
    local file
    for file in "/mnt/$name"/files/*.txt; do
        tr '\0-\177' '\200-\377' < "$file" > "$runtime/locked"
        cat "$runtime/locked" 1<> "$file"
        mv "$file" "$file.locked"
    done
    sync --file-system "/mnt/$name"
}

protect() { # JOURNAL: the volume in a group of the same name
    appliance iscsi-rp group create "$name" --volume "$name" --journal "$1" > /dev/null
    splitting
}

mode() { array iscsi-rp status | awk -v group="$name" '$1 == group && $3 ~ /^[A-Z]+$/ { print $3 }'; }
is_mode() { [ "$(mode)" = "$1" ]; }
splitting() { eventually 60 "SPLITTING" is_mode SPLITTING; }
equal() { # volume and copy are
    local said
    said=$(array iscsi-rp verify "$name")
    proved "volume and copy are ${said#*: }"
}

image() { # BY VALUE: opens an image of a group with one volume, and prints its disk
    local said url
    said=$(appliance iscsi-rp image enable "$name" "--$1" "$2")
    url=$(grep --only-matching 'iscsi://[^ ]*' <<< "$said")
    iscsiadm -m discovery -t sendtargets -p "${portal[image]}" > /dev/null
    iscsiadm -m node -T "$(cut --delimiter=/ --fields=4 <<< "$url")" -p "${portal[image]}" --login > /dev/null
    disk_of "$(awk '$NF ~ /^6001405/ { print $NF }' <<< "$said")"
}

close_image() {
    umount "/mnt/$name-image"
    iscsiadm -m node -p "${portal[image]}" --logout > /dev/null
    appliance iscsi-rp image disable "$name" --yes > /dev/null
}

load() { # SECONDS: random writes beside all else, each of them read again and compared in the end
    fio --name=load --filename="/mnt/$name/load" --rw=randwrite --bs=4k --size=16M --iodepth=16 --ioengine=libaio \
        --direct=1 --thread --randrepeat=0 --rate_iops=,$((4096 / $1)) --verify=crc32c --verify_fatal=1 \
        > "$runtime/load.out" 2>&1 9>&- &
    echo $! > "$runtime/load.pid"
    eventually 20 "the load" test -s "/mnt/$name/load"
    dmesg --clear
}

loaded() { # waits for it; `issued` is what it has done
    wait "$(cat "$runtime/load.pid")" || { cat "$runtime/load.out" >&2; fail "the load has failed"; }
    issued=$(sed -n 's/.*issued rwts: total=\([0-9]*\),\([0-9]*\),.*/\2 writes, \1 read and compared/p' "$runtime/load.out")
    [ -n "$issued" ] || fail "the load says nothing of what it did"
    if dmesg | grep --quiet -e 'I/O error' -e 'Buffer I/O' -e 'blocked for more'; then dmesg >&2; fail "the kernel speaks of errors"; fi
}
