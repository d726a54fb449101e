#!/bin/bash
# The main job, told on the terminal: on a virtual machine with a real boot loader, or, where none can be had, on a disk image.
#
#   run.sh CACHE_DIR        images of the second form are kept there
set -uo pipefail
cd "$(dirname "$0")/../.."
bin=${OTA_BIN:-${CARGO_TARGET_DIR:-target}/release}
"$bin/demo"
status=$?
((status == 3)) || exit "$status"
echo "The same story is told on a disk image instead; hostsim plays the machine's reboot."
exec integration/demo/demo.sh "$1"
