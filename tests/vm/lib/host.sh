# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# For scripts on the host that boot guests: what a guest can be given besides processors and memory.

# vm_devices DIR SERIES: options of tests/vm/run, one per line, for every stand-in device at once: persistent CXL
# memory (a second, empty root port is needed, or reads do not return what was written), a window of memory that
# firmware keeps apart, ivshmem, the edu device. DIR receives the memory files.
vm_devices() {
	local dir=$1 series=$2 memory=3072
	[ "$series" != debug ] || memory=1280 # it is poisoned at the start and scanned at the end, all of it
	mkdir -p "$dir"
	rm -f "$dir/cxl-labels" # a label of an earlier boot blocks the space
	cat <<-EOF
		-M
		q35,cxl=on
		-m
		$memory
		-a
		memmap=256M%1G+0xefffffff
		-q
		-object memory-backend-file,id=cxl-mem,share=on,mem-path=$dir/cxl-memory,size=256M
		-q
		-object memory-backend-file,id=cxl-labels,share=on,mem-path=$dir/cxl-labels,size=1M
		-q
		-device pxb-cxl,bus_nr=12,bus=pcie.0,id=cxl.1 -device cxl-rp,port=0,bus=cxl.1,id=rp0,chassis=0,slot=2
		-q
		-device cxl-rp,port=1,bus=cxl.1,id=rp1,chassis=0,slot=3
		-q
		-device cxl-type3,bus=rp0,memdev=cxl-mem,lsa=cxl-labels,sn=0x1,id=cxl-pmem0
		-q
		-M cxl-fmw.0.targets.0=cxl.1,cxl-fmw.0.size=4G
		-q
		-object memory-backend-file,id=ivshmem,share=on,mem-path=$dir/ivshmem,size=4M
		-q
		-device ivshmem-plain,memdev=ivshmem,bus=pcie.0 -device edu,bus=pcie.0
	EOF
	# The kernel refuses to invalidate caches of CXL regions under a hypervisor since 6.2.
	[ "$series" = 6.1 ] || [ "$series" = 5.10 ] || printf '%s\n' -C max,-hypervisor
}

# vm_link SOCKET listen|connect NUMBER: options of tests/vm/run for one end of a wire between two guests. In the guest
# the device is the virtio one (eth0); MTU 4200 gives RoCE its 4096. Start the listening guest first.
vm_link() {
	local server=off
	[ "$2" != listen ] || server=on
	printf '%s\n' -q "-netdev stream,id=n0,server=$server,addr.type=unix,addr.path=$1" \
		-q "-device virtio-net-pci,netdev=n0,mac=52:54:00:09:00:0$3,host_mtu=4200"
}
