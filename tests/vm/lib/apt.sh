# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# A private apt that knows other suites of the Debian archive this machine already uses. Nothing of the system's own
# configuration, lists or packages changes. The archive's address comes from the machine's own sources.

# apt_sources SUITE...: one source line per suite, at the address the machine uses for that kind of suite.
apt_sources() {
	local suite label uri
	for suite in "$@"; do
		case $suite in *-security) label=Debian-Security ;; *) label=Debian ;; esac
		# shellcheck disable=SC2016 # apt's own variables
		uri=$(apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
			awk -v label="$label" '$1 == "Debian" && $2 == label { print $3; exit }')
		[ -n "$uri" ] || return 1
		echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $suite main"
	done
}

# apt_private DIR SUITE...: make the configuration under DIR, fetch its lists, and export APT_CONFIG.
apt_private() {
	local dir=$1
	shift
	mkdir -p "$dir"/{lists/partial,cache/archives/partial}
	: >"$dir/status"
	if ! apt_sources "$@" >"$dir/sources.list"; then
		# The machine's lists were never fetched; only root may.
		[ "$(id -u)" = 0 ] && apt-get update -qq && apt_sources "$@" >"$dir/sources.list" || return 1
	fi
	cat >"$dir/apt.conf" <<-EOF
		Dir::Etc::SourceList "$dir/sources.list";
		Dir::Etc::SourceParts "/dev/null";
		Dir::State::lists "$dir/lists";
		Dir::State::status "$dir/status";
		Dir::Cache "$dir/cache";
		Acquire::Languages "none";
		APT::Architecture "amd64";
		APT::Sandbox::User "$(id -un)";
	EOF
	export APT_CONFIG=$dir/apt.conf
	apt-get update -qq
}

# apt_closure PACKAGE...: those of the packages they depend on (themselves included) that carry a kernel or its headers.
apt_closure() {
	apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "$@" |
		grep -E '^linux-(image|headers|kbuild|modules|binary|base)-.*[0-9]' | sort -u
}
