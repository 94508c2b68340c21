# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# User-mode Linux as a guest kernel, by hand: one processor, up in a second, soft-RoCE ten times faster than emulated. It
# knows no PCI devices, DAX or CXL.

# uml_dir: what tests/vm/kernel prints for other kernels: MOONCAKE_VM_UML=DIR, by default "uml" in the cache, with the build
# folder kb and its modules below root (docs/testing.md says how to build it).
uml_dir() {
	local dir=${MOONCAKE_VM_UML:-$MOONCAKE_VM_CACHE/uml}
	[ -x "$dir/kb/linux" ] && [ -d "$dir/root/lib/modules" ] || cannot "there is no User-mode Linux in $dir; docs/testing.md says how to build it"
	[ -e "$dir/release" ] || ls "$dir/root/lib/modules" >"$dir/release"
	echo "$dir"
}

# uml_boot DIR OUT MEMORY APPEND: its command line, in the array boot, and its files. The root is the host's below an overlay in memory, as in
# other guests; the kernel's words go to OUT/console.log.
uml_boot() {
	local dir=$1 out=$2 memory=$3 append=$4
	cat >"$out/uml-init" <<-EOF
		#!/bin/bash
		export PATH=/usr/sbin:/usr/bin:/sbin:/bin
		mount -t tmpfs -o mode=0755,size=75% tmpfs /mnt
		mkdir /mnt/up /mnt/work /mnt/new
		mount -t overlay -o lowerdir=/,upperdir=/mnt/up,workdir=/mnt/work overlay /mnt/new
		mkdir -p /mnt/new/host
		mount -t hostfs -o $out hostfs /mnt/new/host
		mount -t proc proc /mnt/new/proc
		mount -t sysfs sys /mnt/new/sys
		mount -t devtmpfs dev /mnt/new/dev
		mount -t tmpfs tmpfs /mnt/new/run
		exec chroot /mnt/new /bin/bash /host/guest-init
	EOF
	chmod 755 "$out/uml-init"
	exec 3>"$out/console.log" 4> >(exec tee "$out/output.log") 5>/dev/null
	boot=(sh -c 'exec "$0" "$@" 2>&3' "$dir/kb/linux" "mem=${memory}M" root=/dev/root rootfstype=hostfs rootflags=/ ro "init=$out/uml-init"
		con=null con0=null,fd:3 ssl=null ssl1=null,fd:4 loglevel=5 panic=-1 "$append")
}
