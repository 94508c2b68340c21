# Sourced by the tests here: a scratch folder, processes that end with the test, waiting for states.
# shellcheck shell=bash
set -eu
B=${B:-build}
case $B in /*) ;; *) B=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/$B ;; esac
bench=$B/bin/transfer_engine_bench
# shellcheck disable=SC2034
tool=$B/bin/mooncake
dir=$(mktemp -d)
pids=()
namespaces=()
uri=

cleanup() {
	local status=$?
	for pid in "${pids[@]}"; do kill -CONT "$pid" 2>/dev/null || true; kill "$pid" 2>/dev/null || true; done
	for pid in "${pids[@]}"; do
		for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
		kill -9 "$pid" 2>/dev/null || true
	done
	for ns in "${namespaces[@]}"; do ip netns del "$ns" 2>/dev/null || true; done
	if [ "$status" != 0 ] && [ "$status" != 77 ]; then
		for f in "$dir"/*; do [ -f "$f" ] && { echo "--- ${f##*/}"; tail -n 15 "$f"; }; done
	fi
	[ -z "$failure" ] || echo "FAILED: $failure"
	rm -rf "$dir"
}
failure=
trap cleanup EXIT

die() { failure=$*; exit 1; }
skip() { echo "$*"; exit 77; }

# until_true SECONDS COMMAND...: poll a state.
until_true() {
	local limit=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $limit ] || die "never came true: $*"
		sleep 0.05
	done
}

# background LOGNAME COMMAND...: start it; its pid is in $pid.
background() {
	local log=$dir/$1
	shift
	: >"$log"	# here, not in the child: what an earlier process wrote must not be taken for this one's
	"$@" >"$log" 2>&1 </dev/null &
	pid=$!
	pids+=("$pid")
}

# start_server [PREFIX...]: metadata server; its URI is in $uri, its pid in $server.
start_server() {
	background server "$@" "$B/bin/mooncake-metadata-server" --port="${server_port:-0}" --bind="${server_bind:-127.0.0.1}" ${server_flags:-}
	# shellcheck disable=SC2034
	server=$pid
	until_true 10 grep -q listening "$dir/server"
	# The first word that is a URI: IPv6 addresses have brackets.
	uri=$(grep -oE 'https?://[^ ]*/metadata' "$dir/server" | head -n 1)
	server_port=$(sed -E 's|.*:([0-9]+)/metadata.*|\1|' <<<"$uri")
}

# start_target NAME [FLAGS...]: its pid is in $target.
start_target() {
	local name=$1
	shift
	background "target-$name" ${target_prefix:-} "$bench" --mode=target --metadata_server="$uri" --local_server_name="$name" --buffer_size=67108864 "$@"
	# shellcheck disable=SC2034
	target=$pid
	until_true 40 grep -qE 'segment_id' "$dir/target-$name"	# a GiB takes its time on a busy machine
}

# initiator NAME TARGET [FLAGS...]: in the foreground.
initiator() {
	local name=$1 to=$2
	shift 2
	${initiator_prefix:-} "$bench" --mode=initiator --metadata_server="$uri" --local_server_name="$name" --segment_id="$to" \
		--threads=2 --batch_size=16 --block_size=65536 --warmup=0 "$@" </dev/null
}
