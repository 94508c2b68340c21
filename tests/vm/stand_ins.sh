#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The devices that guests are given for the tests are there and hold what is written to them: a window of memory kept
# apart, ivshmem's BAR, the edu device, and persistent CXL memory where kernel and QEMU can do it.
. "$REPO/tests/vm/lib/guest.sh"
echo "$(vm_pci 1234:11e8) edu, $(vm_pci 1af4:1110) ivshmem"
[ -n "$(vm_pci 1234:11e8)" ] || fail "there is no edu device"
bar=/sys/bus/pci/devices/$(vm_pci 1af4:1110)/resource2
[ "$(stat -c %s "$bar")" = $((4 << 20)) ] || fail "ivshmem's memory is not 4 MiB"
# DAX maps whole 2 MiB pages.
hold() { # DEVICE: a pattern written at 2 MiB is read back by another process
	"$B/tests/vm/poke" "$1" $((2 << 20)) write && "$B/tests/vm/poke" "$1" $((2 << 20)) read || fail "$1 does not hold what is written"
}
hold "$bar"
for kind in vm_window_dax vm_cxl_dax; do
	rc=0
	device=$($kind) || rc=$?
	case $rc in
	0) echo "note $kind: $device" && hold "$device" ;;
	77) echo "SKIP $kind" ;;
	*) exit 1 ;;
	esac
done
