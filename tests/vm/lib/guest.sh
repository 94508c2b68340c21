# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# For scripts in a guest. REPO, B, KVER (kernel release) and SERIES (see tests/vm/kernel) are in the environment.
export VM=$REPO/tests/vm
DEBUGFS=/sys/kernel/debug

# Their words go to standard error, so that a function may be called as name=$(function) || exit.
skip() { echo "$*" >&2; exit 77; }
fail() { echo "FAIL: $*" >&2; exit 1; }

# wait_for SECONDS COMMAND...: until the command succeeds; fails when the time is over.
wait_for() {
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.1
	done
}

# ---- the module ----

vm_load() { # MODULE.ko [PARAMETER...]
	local module=$1 need
	shift
	for need in $(modinfo -F depends "$module" | tr , ' '); do
		[ -d "/sys/module/$need" ] || modprobe "$need" || return 1
	done
	insmod "$module" "$@"
}
vm_unload() { # MODULE.ko|NAME
	local name=${1##*/}
	rmmod "${name%.ko}"
}

# vm_gauges: "name value" of every counter of the module that goes up and down with what is alive. After each test
# they must be what they were before. Counters that only grow are not among them.
vm_gauges() {
	local file=$DEBUGFS/mooncake/counters
	[ -r "$file" ] || return 0
	grep -E '^(contexts|objects|handles|attachments|grants|mappings|buffer_pages|pinned_pages|kept|kept_pages|dmabufs) ' "$file" | sort
}
# vm_gauges_settle BEFORE: prints the gauges once they equal BEFORE, or after 10 s as they are: freeing may be deferred.
vm_gauges_settle() {
	local end=$((SECONDS + 10)) now
	while :; do
		now=$(vm_gauges)
		[ "$now" != "$1" ] && [ $SECONDS -lt $end ] || break
		sleep 0.2
	done
	echo "$now"
}

# vm_leak_scan: if VM_LEAKS is set and there is kmemleak, scan (tens of seconds under emulation: after the last test, or
# after each with VM_LEAKS=each) and put what it found into the kernel's log, where it is judged. A young object may
# still be in a register or a queue; what is reported must be found by two scans. A signal ends a scan.
vm_leak_scan() {
	local leaks=$DEBUGFS/kmemleak start=$SECONDS limit=${VM_LEAK_SECONDS:-240}
	[ -w "$leaks" ] && [ -n "${VM_LEAKS:-}" ] || return 0
	timeout "$limit" sh -c "echo scan >$leaks" || { echo "BUG: the leak scan did not end within $limit s" >/dev/kmsg; return 0; }
	echo "mooncake-leak: scanned in $((SECONDS - start)) s" >/dev/kmsg
	grep -q . "$leaks" || return 0
	sleep 1
	timeout "$limit" sh -c "echo scan >$leaks" || echo "BUG: the second leak scan did not end within $limit s" >/dev/kmsg
	sed 's/^/mooncake-leak: /' "$leaks" >>/host/kmemleak.log
	if grep -q '\[mooncake\]' "$leaks"; then
		echo "unreferenced object 0x0 (kmemleak: of mooncake, see kmemleak.log)" >/dev/kmsg
	fi
	echo clear >"$leaks"
}

# ---- soft-RoCE ----

# vm_wire N: v<2N> and v<2N+1>, two ends of one wire in one network name space, with the addresses 10.9.N.1 and 10.9.N.2.
# Traffic between the two crosses the wire (soft-RoCE of 6.1 and 6.12 knows no name spaces): it would stay inside by default.
vm_wire() {
	local n=$1 a=v$((2 * $1)) b=v$((2 * $1 + 1)) d table=$((100 + 2 * $1))
	local from=10.9.$1.1 to=10.9.$1.2
	[ ! -d "/sys/class/net/$a" ] || return 0
	modprobe veth 2>/dev/null
	ip link add "$a" type veth peer name "$b" || return 1
	ip addr add "$from/32" dev "$a"
	ip addr add "$to/32" dev "$b"
	ip link set "$a" up
	ip link set "$b" up
	for d in all "$a" "$b"; do
		echo 1 >"/proc/sys/net/ipv4/conf/$d/accept_local"
		echo 0 >"/proc/sys/net/ipv4/conf/$d/rp_filter"
	done
	ip rule add pref $((10 + n)) iif "$a" lookup local
	ip rule add pref $((15 + n)) iif "$b" lookup local
	ip rule add pref $((20 + n)) oif "$a" lookup $table
	ip rule add pref $((25 + n)) oif "$b" lookup $((table + 1))
	ip rule add pref $((30 + n)) from "$from" to "$to" lookup $table
	ip rule add pref $((35 + n)) from "$to" to "$from" lookup $((table + 1))
	vm_wire_routes "$n"
	ip rule show pref 50 | grep -q . || ip rule add pref 50 lookup local
	ip rule del pref 0 2>/dev/null
	return 0
}
# vm_wire_routes N: what a link that was taken down has lost.
vm_wire_routes() {
	local a=v$((2 * $1)) b=v$((2 * $1 + 1)) table=$((100 + 2 * $1))
	ip neigh replace "10.9.$1.2" lladdr "$(cat /sys/class/net/$b/address)" dev "$a"
	ip neigh replace "10.9.$1.1" lladdr "$(cat /sys/class/net/$a/address)" dev "$b"
	ip route replace "10.9.$1.2/32" dev "$a" src "10.9.$1.1" table $table
	ip route replace "10.9.$1.1/32" dev "$b" src "10.9.$1.2" table $((table + 1))
}

# vm_rxe_wire N: rxe<2N> and rxe<2N+1> on the ends of wire N, both ACTIVE. GID index 1 is the IPv4 one. Skips the test
# where soft-RoCE cannot be.
vm_rxe_wire() {
	local a=$((2 * $1)) b=$((2 * $1 + 1))
	command -v rdma >/dev/null || skip "the rdma tool (iproute2) is not installed"
	vm_wire "$1" || skip "no veth pair in this kernel"
	[ ! -d "/sys/class/infiniband/rxe$b" ] || return 0
	# Another test may have made one of that name over another interface.
	[ ! -d "/sys/class/infiniband/rxe$a" ] || rdma link delete "rxe$a"
	modprobe -a ib_uverbs rdma_ucm 2>/dev/null
	modprobe rdma_rxe || skip "kernel $KVER has no soft-RoCE"
	rdma link add "rxe$a" type rxe netdev "v$a" || fail "rdma link add rxe$a"
	rdma link add "rxe$b" type rxe netdev "v$b" || fail "rdma link add rxe$b"
	wait_for 10 grep -q ACTIVE "/sys/class/infiniband/rxe$b/ports/1/state" || fail "rxe$b does not become active"
}
vm_rxe_pair() { vm_rxe_wire 0; }

# ---- CXL, DAX, PCI devices (see vm_devices in host.sh) ----

# vm_cxl_dax: a devdax namespace on the persistent CXL memory; prints its device, as /dev/dax0.0.
vm_cxl_dax() {
	local region
	command -v cxl >/dev/null || skip "the cxl tool (package ndctl) is not installed"
	modprobe -a cxl_acpi cxl_pci cxl_mem cxl_port cxl_pmem nd_pmem device_dax dax_pmem 2>/dev/null
	wait_for 10 test -e /sys/bus/cxl/devices/mem0 || skip "no CXL memory in this guest"
	wait_for 10 test -e /sys/bus/cxl/devices/decoder0.0 || skip "no CXL window in this guest"
	region=$(cxl list -R | sed -n 's/.*"region":"\([a-z0-9]*\)".*/\1/p')
	if [ -z "$region" ]; then
		region=$(cxl create-region -m -d decoder0.0 -w 1 -t pmem mem0 | sed -n 's/.*"region":"\([a-z0-9]*\)".*/\1/p')
		[ -n "$region" ] || skip "kernel $KVER and this QEMU make no persistent CXL region"
		ndctl create-namespace -f -m devdax -M mem -r "$region" >&2 || fail "ndctl create-namespace on $region"
	fi
	wait_for 10 vm_dax_of "/$region/" >/dev/null || fail "no dax device on $region"
	vm_dax_of "/$region/"
}
vm_dax_of() { # PART-OF-PATH: the dax device whose sysfs path holds it, once it is ready to be mapped
	local d
	for d in /sys/bus/dax/devices/dax*; do
		[ "$(basename "$(readlink -f "$d/driver")")" = device_dax ] && [ -c "/dev/${d##*/}" ] || continue
		case $(readlink -f "$d") in *"$1"*) echo "/dev/${d##*/}" && return ;; esac
	done
	return 1
}

# Below platform/hmem.0, since 7.x below platform/hmem_platform.0/hmem.0.
vm_window_devices() { compgen -G '/sys/devices/platform/hmem.*/dax*' || compgen -G '/sys/devices/platform/hmem_platform.*/hmem.*/dax*'; }
# vm_window_dax: the dax device of the memmap= window, which firmware would call "soft reserved". Newer kernels keep such
# memory for the system until it is given to device_dax by name.
vm_window_dax() {
	local d
	modprobe -a device_dax dax_hmem 2>/dev/null
	wait_for 10 vm_window_devices >/dev/null || skip "no memmap= window in this guest, or no dax_hmem in kernel $KVER"
	for d in $(vm_window_devices); do
		[ -e "$d/driver" ] || echo "${d##*/}" >/sys/bus/dax/drivers/device_dax/new_id
	done
	wait_for 10 vm_dax_of /hmem >/dev/null || fail "the window's dax device has no driver"
	vm_dax_of /hmem
}

# vm_pci VENDOR:DEVICE: the address of the first such PCI device. edu is 1234:11e8, ivshmem-plain 1af4:1110.
vm_pci() {
	local d
	for d in /sys/bus/pci/devices/*; do
		[ "$(cat "$d/vendor"):$(cat "$d/device")" = "0x${1%:*}:0x${1#*:}" ] && echo "${d##*/}" && return
	done
	return 1
}
