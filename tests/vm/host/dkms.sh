#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# vm: kernels=6.1
# The module by DKMS on a bare Debian: a root file system of its own packages and nothing of this machine's. From a
# package's place in /usr/src and from the repository's top it is added, built, installed; a guest on that root loads
# it, runs tests and the tool, and removes it again. With MOONCAKE_VM_DKMS_INSIDE=1 the build itself runs in the guest,
# emulated, which takes minutes; else in a chroot.
set -eu
. "$(dirname "$0")/../lib/common.sh"
. "$VM/lib/apt.sh"

kernel=$("$VM/kernel" dir 6.1)
release=$(cat "$kernel/release")
bare=$MOONCAKE_VM_CACHE/bare-$release
[ "$(id -u)" = 0 ] || cannot "only root can make a root file system"
command -v mmdebstrap >/dev/null || cannot "mmdebstrap is not installed; scripts/deps --test installs it"
[ -d "$REPO/kmod" ] || cannot "there is no kernel module (kmod/) in this tree"

make_bare() {
	local libraries
	# What our programs need, by the packages that this machine has it from.
	libraries=$(ldd "$B/libmooncake.so" | awk '/=> \// { print $3 }' | xargs -n 1 realpath | xargs dpkg -S 2>/dev/null |
		cut -d: -f1 | sort -u | paste -sd,)
	rm -rf "$bare.new"
	apt_sources bookworm bookworm-updates bookworm-security >"$bare.sources" || cannot "the Debian archive's address is not known"
	mmdebstrap --quiet --variant=apt --include="dkms,gcc,make,kmod,iproute2,linux-headers-$release,$libraries" \
		bookworm "$bare.new" - <"$bare.sources" >&2 || cannot "a bare Debian could not be fetched from the archive"
	# The image's package would want an initramfs; depmod wants no more than these of it.
	cp "$kernel/root/lib/modules/$release"/modules.{order,builtin,builtin.modinfo} "$bare.new/lib/modules/$release/"
	rm -rf "$bare"
	mv "$bare.new" "$bare"
}
mkdir -p "$MOONCAKE_VM_CACHE"
exec 9>"$bare.lock"
flock 9
[ -d "$bare" ] || make_bare
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
for program in "$B"/tests/uapi/{layout,buffer} "$B/bin/mooncake"; do [ ! -e "$program" ] || cp "$program" "$root/opt/tests/"; done
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
! modinfo -k $release mooncake 2>/dev/null
rm -rf /usr/src/mooncake-$version
echo "--- from the repository's top"
dkms add /repository
dkms build mooncake/$version -k $release
dkms install mooncake/$version -k $release
EOF
cat >"$root/opt/use" <<EOF
set -e
export LD_LIBRARY_PATH=/usr/lib
dkms status | grep -q "mooncake/$version, $release, .*: installed"
modprobe mooncake
[ -c /dev/mooncake ]
for test in /opt/tests/*; do
	case \$test in
	*/mooncake) \$test --version; \$test doctor || true ;;
	*) rc=0; \$test || rc=\$?; [ \$rc = 0 ] || [ \$rc = 77 ] ;;
	esac
done
rmmod mooncake
dkms remove mooncake/$version --all
[ -z "\$(dkms status)" ]
! modinfo mooncake 2>/dev/null
! find /lib/modules /var/lib/dkms -name 'mooncake*' | grep .
EOF
if [ "${MOONCAKE_VM_DKMS_INSIDE:-0}" = 1 ]; then
	umount "$root/proc"
	"$VM/run" -n dkms -r "$root" -m 3072 -t 1800 'set -e; bash -x /opt/build; bash -x /opt/use'
else
	chroot "$root" bash -x /opt/build
	umount "$root/proc"
	"$VM/run" -n dkms -r "$root" -m 2048 -t 900 'bash -x /opt/use'
fi
