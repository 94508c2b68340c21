#!/usr/bin/env bash
# The program in docs/api.md compiles against the public headers and moves its bytes.
set -eu
cd "$(dirname "$0")/../.."
B=${B:-build}
dir=$(mktemp -d)
pids=()
cleanup() {
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
	wait
	rm -rf "$dir"
}
trap cleanup EXIT
awk '/^```c$/ { inside = 1; next } /^```/ { inside = 0 } inside' docs/api.md >"$dir/app.c"
cc -Wall -Wextra -Werror -Ilib/include -o "$dir/app" "$dir/app.c" -L"$B" -lmooncake -Wl,-rpath,"$PWD/$B"
"$B/bin/mooncake-metadata-server" --port=0 >"$dir/server" 2>&1 &
pids+=($!)
for _ in $(seq 100); do grep -q listening "$dir/server" && break; sleep 0.05; done
uri=$(grep -oE 'http://[^ ]*/metadata' "$dir/server" | head -n 1)
"$B/bin/transfer_engine_bench" --mode=target --metadata_server="$uri" --local_server_name=docs --buffer_size=1048576 >"$dir/target" 2>&1 &
pids+=($!)
for _ in $(seq 100); do
	"$B/bin/mooncake" metadata get mooncake/ram/docs --metadata_server="$uri" 2>/dev/null | grep -q content_id && break
	sleep 0.05
done
"$dir/app" "$uri" docs | tee "$dir/out"
grep -q '^done over' "$dir/out"
