# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# What the scripts of tests/vm share: where things lie, how they complain, and whether KVM can be used here.
VM=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
REPO=$(cd "$VM/../.." && pwd)
export VM REPO
B=${B:-build}
case $B in /*) ;; *) B=$REPO/$B ;; esac
MOONCAKE_VM_CACHE=${MOONCAKE_VM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mooncake/vm}
export B MOONCAKE_VM_CACHE
PATH=$PATH:/usr/sbin:/sbin

say() { echo "${0##*/}: $*" >&2; }
die() { say "$*"; exit 1; }
# What this machine cannot do: the caller turns status 77 into a visible SKIP with this reason as its last line.
cannot() { say "$*"; exit 77; }

kernel_dir() { echo "$MOONCAKE_VM_CACHE/kernels/$1"; }

# vm_accel VMLINUX: "kvm" if a guest kernel says its first words under KVM here, else "tcg". A /dev/kvm that cannot
# run stock guests exists, so it is tried, once per boot of this machine. MOONCAKE_VM_ACCEL=tcg|kvm overrides.
vm_accel() {
	local verdict out
	[ -z "${MOONCAKE_VM_ACCEL:-}" ] || { echo "$MOONCAKE_VM_ACCEL"; return; }
	[ -w /dev/kvm ] || { echo tcg; return; }
	verdict=$MOONCAKE_VM_CACHE/accel-$(cat /proc/sys/kernel/random/boot_id)
	if [ ! -s "$verdict" ]; then
		rm -f "$MOONCAKE_VM_CACHE"/accel-*
		out=$(timeout -k 1 10 qemu-system-x86_64 -M q35 -accel kvm -cpu host -m 512 -display none -monitor none \
			-nodefaults -no-reboot -serial stdio -kernel "$1" -append 'console=ttyS0 panic=-1' </dev/null 2>&1)
		if grep -q 'Linux version' <<<"$out"; then echo kvm; else echo tcg; fi >"$verdict"
	fi
	cat "$verdict"
}
