#!/bin/bash
# Provisions a machine of the lab, as root: array, appliance, host or dr. Again, it changes nothing.
set -euo pipefail
here=$(dirname "$0")
machine=${1:-}
[ "$(id -u)" -eq 0 ] || { echo "provision: be root" >&2; exit 1; }
case $machine in
    array | appliance) daemons=("$machine") ;;
    host) daemons=(appliance array) ;;
    dr) daemons=() ;;
    *) echo "usage: $0 array|appliance|host|dr" >&2; exit 2 ;;
esac
"$here/common.sh"
"$here/bare.sh"
"$here/trust.sh" "$machine"
"$here/daemons.sh" "$machine" "${daemons[@]}"
if [ "$machine" = host ]; then "$here/host.sh" "$machine"; fi
echo "provision: $machine is ready"
