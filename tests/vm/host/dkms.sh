#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# vm: kernels=6.1
# The module by DKMS on a bare Debian: a root file system of its own packages and nothing of this machine's. From a
# package's place in /usr/src and from the repository's top it is added, built, installed; a guest on that root loads
# it, runs tests and the tool, and removes it again. With MOONCAKE_VM_DKMS_INSIDE=1 the build itself runs in the guest,
# emulated, which takes minutes; else in a chroot.
set -eu -o pipefail
. "$(dirname "$0")/../lib/common.sh"
. "$VM/lib/apt.sh"

kernel=$("$VM/kernel" dir 6.1)
release=$(cat "$kernel/release")
bare=$MOONCAKE_VM_CACHE/bare-$release
[ "$(id -u)" = 0 ] || cannot "only root can make a root file system"
command -v mmdebstrap >/dev/null || cannot "mmdebstrap is not installed; scripts/deps --test installs it"
[ -d "$REPO/kmod" ] || cannot "there is no kernel module (kmod/) in this tree"

# What our programs need, by the packages that this machine has it from. By name: of the two paths that a library has on
# a system with merged /usr, dpkg knows one.
packages() {
	ldd "$B/libmooncake.so" | awk '/=> \// { n = split($3, part, "/"); print "*/x86_64-linux-gnu/" part[n] }' |
		xargs dpkg -S | cut -d: -f1 | sort -u | paste -sd,
}
make_bare() {
	rm -rf "$bare.new"
	apt_sources bookworm bookworm-updates bookworm-security >"$bare.sources" || cannot "the Debian archive's address is not known"
	mmdebstrap --quiet --variant=apt --include="$wanted" --dpkgopt=force-unsafe-io \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		bookworm "$bare.new" - <"$bare.sources" >&2 || cannot "a bare Debian with linux-headers-$release could not be fetched from the archive; if it has a newer kernel by now: rm -r $kernel"
	# The image's package would want an initramfs; depmod wants no more than these of it.
	cp "$kernel/root/lib/modules/$release"/modules.{order,builtin,builtin.modinfo} "$bare.new/lib/modules/$release/"
	echo "$wanted" >"$bare.new/packages"
	rm -rf "$bare"
	mv "$bare.new" "$bare"
}
wanted=dkms,gcc,make,kmod,mount,iproute2,linux-headers-$release,$(packages)
mkdir -p "$MOONCAKE_VM_CACHE"
exec 9>"$bare.lock"
flock 9
# One made when our programs needed other packages is made anew.
[ "$(cat "$bare/packages" 2>/dev/null)" = "$wanted" ] || make_bare
exec 9>&-

# The rest in a mount name space of its own: an overlay keeps the bare system as it is, and nothing stays behind.
work=$MOONCAKE_VM_CACHE/dkms-root
if [ "${1:-}" != inside ]; then
	exec 9>"$work.lock"
	flock 9
	rm -rf "$work"
	mkdir -p "$work"/{upper,work,root}
	rc=0
	unshare -m "$(realpath "$0")" inside || rc=$?
	rm -rf "$work"
	exit $rc
fi
mount -t overlay -o "lowerdir=$bare,upperdir=$work/upper,workdir=$work/work" overlay "$work/root" 2>/dev/null || {
	# The cache lies on a file system that cannot carry an overlay.
	mount -t tmpfs tmpfs "$work"
	mkdir "$work"/{upper,work,root}
	mount -t overlay -o "lowerdir=$bare,upperdir=$work/upper,workdir=$work/work" overlay "$work/root"
}
root=$work/root
mount -t proc proc "$root/proc"
version=$(sed -n 's/^PACKAGE_VERSION="\(.*\)"/\1/p' "$REPO/dkms.conf")

# The top of the repository as somebody has it who has just fetched it, and the place that a package fills.
mkdir "$root/repository"
(cd "$REPO" && git ls-files -co --exclude-standard Kbuild dkms.conf kmod uapi Makefile LICENSE scripts | tar -cf - -T -) |
	tar -C "$root/repository" -xf -
make -s -C "$REPO" install-dkms DESTDIR="$root"
mkdir -p "$root/opt/tests"
cp "$B"/tests/uapi/{layout,errors,buffer,kept,grant,revoke,events} "$root/opt/tests/"
cp "$B"/bin/{mooncake,transfer_engine_bench} "$root/usr/bin/"
cp "$B"/libmooncake.so.1 "$root/usr/lib/"

cat >"$root/opt/build" <<EOF
set -e
echo "--- from the package's place"
dkms add mooncake/$version
dkms build mooncake/$version -k $release
dkms install mooncake/$version -k $release
modinfo -k $release -n mooncake
dkms remove mooncake/$version --all
[ -z "\$(dkms status mooncake)" ]
if modinfo -k $release mooncake 2>/dev/null; then exit 1; fi
rm -rf /usr/src/mooncake-$version
echo "--- from the repository's top"
dkms add /repository
dkms build mooncake/$version -k $release
dkms install mooncake/$version -k $release
EOF
cat >"$root/opt/use" <<EOF
version=$version release=$release
EOF
cat >>"$root/opt/use" <<'EOF'
set -eu -o pipefail
fail() { echo "FAIL: $*"; exit 1; }
trap 'echo "FAIL: line $LINENO: $BASH_COMMAND"' ERR
objects() { awk '$1 == "objects" { print $2 }' /sys/kernel/debug/mooncake/counters; }
doctor() { mooncake doctor >/tmp/doctor 2>&1 || true; }
dkms status | grep -q "mooncake/$version, $release, .*: installed"
doctor
grep 'module.*not loaded' /tmp/doctor || { cat /tmp/doctor; fail "doctor does not say that the module is not loaded"; }
modprobe mooncake
[ -c /dev/mooncake ]
# The one that runs is the one that DKMS put there.
[ "$(modinfo -n mooncake)" = /lib/modules/$release/updates/dkms/mooncake.ko ] || fail "the module lies at $(modinfo -n mooncake)"
[ "$(cat /sys/module/mooncake/srcversion)" = "$(modinfo -F srcversion mooncake)" ] || fail "another module is loaded"
before=$(objects)

echo "--- tests"
for test in /opt/tests/*; do
	rc=0
	$test >/tmp/test 2>&1 || rc=$?
	case $rc in
	0) echo "PASS ${test##*/}" ;;
	77) echo "SKIP ${test##*/}: $(tail -n 1 /tmp/test)" ;;
	*) cat /tmp/test; fail "${test##*/}, status $rc" ;;
	esac
done

echo "--- the tools"
mooncake --version
doctor
grep "module.*loaded, version $version" /tmp/doctor || { cat /tmp/doctor; fail "doctor does not see the module"; }
common='--metadata_server=P2PHANDSHAKE --local_server_name=127.0.0.1 --block_size=64K --batch_size=4 --threads=2'
transfer_engine_bench --mode=target --memory=shared --buffer_size=16M $common >/tmp/target 2>&1 &
target=$!
for ((i = 0; i < 300; i++)); do
	if grep -q ^Ready /tmp/target || ! kill -0 $target; then break; fi
	sleep 0.2
done
segment=$(sed -n 's/^Segment \([^,]*\),.*/\1/p' /tmp/target)
[ -n "$segment" ] || { cat /tmp/target; fail "the target did not come up"; }
[ "$(objects)" -gt "$before" ] || fail "the target's memory is none of the module's"
for mode in --operation=read --operation=write --check; do
	timeout 120 transfer_engine_bench --segment_id="$segment" $common --memory=shared --protocol=shm --duration=1 \
		--warmup=0.1 $mode >/tmp/bench 2>&1 || { cat /tmp/bench /tmp/target; fail "the bench with $mode"; }
	echo "bench $mode: $(grep -E "^Test completed|^ *check:" /tmp/bench | paste -sd" ")"
done
kill -INT $target
wait $target

echo "--- removal"
for ((i = 0; i < 50; i++)); do if [ "$(objects)" = "$before" ]; then break; fi; sleep 0.2; done
[ "$(objects)" = "$before" ] || fail "the module has $(objects) objects, before the tests it had $before"
rmmod mooncake
[ ! -e /dev/mooncake ]
dkms remove mooncake/$version --all
[ -z "$(dkms status)" ]
if modinfo mooncake 2>/dev/null; then fail "modinfo still finds the module"; fi
if find /lib/modules /var/lib/dkms -name 'mooncake*' | grep .; then fail "files were left"; fi
EOF
if [ "${MOONCAKE_VM_DKMS_INSIDE:-0}" = 1 ]; then
	umount "$root/proc"
	"$VM/run" -n dkms -r "$root" -m 3072 -t 1800 'set -e; bash -x /opt/build; bash /opt/use'
else
	chroot "$root" bash -x /opt/build
	umount "$root/proc"
	"$VM/run" -n dkms -r "$root" -m 2048 -t 300 'bash /opt/use'
fi
