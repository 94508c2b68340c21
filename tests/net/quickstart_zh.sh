#!/usr/bin/env bash
# Every command of the Chinese guide, as written there: "sh background" blocks keep running meanwhile.
set -eu
cd "$(dirname "$0")/../.."
guide=docs/quickstart.zh-CN.md
dir=$(mktemp -d)
pids=()
cleanup() {
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
	wait
	rm -rf "$dir"
	rm -f build/cluster.key
}
trap cleanup EXIT
[ "${B:-build}" = build ] || { echo "the guide speaks of build/, this run of ${B:-}"; exit 77; }
rm -f build/cluster.key

awk -v dir="$dir" '
	/^```sh/ { n++; file = sprintf("%s/%02d%s", dir, n, /background/ ? ".bg" : ".fg"); inside = 1; next }
	/^```/ { inside = 0 }
	inside { print > file }' "$guide"
count=0
for block in "$dir"/*.?g; do
	echo "--- $(cat "$block")"
	case $block in
	*.bg)
		# The block is one command: exec it, so that the pid is its own.
		bash -c "exec $(cat "$block")" >"$block.out" 2>&1 &
		pids+=($!)
		for _ in $(seq 100); do
			[ -s "$block.out" ] && break
			kill -0 $! 2>/dev/null || { cat "$block.out"; exit 1; }
			sleep 0.1
		done
		[ -s "$block.out" ] || { echo "it printed nothing for 10 s"; exit 1; }
		;;
	*) timeout 120 bash -eu "$block" </dev/null ;;
	esac
	count=$((count + 1))
done
[ "$count" -ge 9 ] || { echo "only $count blocks found in $guide"; exit 1; }
for pid in "${pids[@]}"; do kill -0 "$pid" || { echo "a background command ended early"; exit 1; }; done
echo "all $count blocks of $guide work"
