#!/bin/bash
# SPDX-License-Identifier: MIT
# Real runs between two processes: tcp and shm, read, write and --check, text and JSON; the target is killed
# and restarted in the middle of a run; SIGINT ends a run with its summary.
# shellcheck source=tests/net/common.sh
. "$(dirname "$0")/common.sh"
command -v jq >/dev/null || skip "jq is not installed"

target_of() # NAME FLAGS...; sets $target
{
	start_target "$@" --advertise=127.0.0.1 --block_size=64K --batch_size=16 --threads=2 --json
}

# initiate NAME FLAGS...: stdout to $dir/out
initiate()
{
	local name=$1

	shift
	timeout 60 "$bench" --metadata_server="$uri" --segment_id="$name" --advertise=127.0.0.1 \
		--local_server_name="i-$name" --block_size=64K --batch_size=16 --threads=2 --duration=0.5 --warmup=0.1 \
		"$@" >"$dir/out" 2>"$dir/err"
}

start_server

good='.failed == 0 and .timed_out == 0 and .stale == 0 and .bytes > 0 and .bytes_per_second > 0 and
	.batches > 0 and .batch_latency_us.p50 > 0 and .batch_latency_us.p50 <= .batch_latency_us.p999 and
	.cpu_seconds_per_gib_initiator > 0 and .interrupted == false and .last_error == null'

for memory in memfd anonymous; do
	target_of "t-$memory" --memory=$memory
	for protocol in tcp shm; do
		for operation in read write; do
			initiate "t-$memory" --protocol=$protocol --operation=$operation --json ||
				die "$protocol $operation of $memory memory"
			jq -e "$good" <"$dir/out" >/dev/null || die "$protocol $operation of $memory memory: figures"
			jq -e --arg p $protocol '.path | startswith($p)' <"$dir/out" >/dev/null ||
				die "$protocol $operation of $memory memory took another path"
		done
		initiate "t-$memory" --protocol=$protocol --check --json --block_size=65537 --working_set=32M ||
			die "--check over $protocol, $memory memory"
		jq -e '.wrong_bytes == 0 and .checked_bytes > 0 and .rounds > 0' <"$dir/out" >/dev/null ||
			die "--check over $protocol, $memory memory: figures"
	done
	kill "$target"
	wait "$target" || die "the target did not end with 0 on SIGTERM"
done

target_of t-text
initiate t-text || die "a run with text output"
grep -Eq '^Worker 1 stopped!$' "$dir/out" || die "no line of a worker"
grep -Eq '^Test completed: duration [0-9]+\.[0-9]{2}, batch count [0-9]+, throughput [0-9]+\.[0-9]{2} GB/s$' "$dir/out" ||
	die "no line as the classic tool prints it"
[ ! -s "$dir/err" ] || die "something on stderr"
initiate t-text --sweep --sweep_block_size=4K,64K --sweep_batch_size=1,8 --sweep_threads=1,2 --duration=0.1 --json ||
	die "--sweep"
jq -e '(.sweep | length) == 8 and all(.sweep[]; .bytes > 0 and .failed == 0)' <"$dir/out" >/dev/null || die "--sweep: figures"

# The target dies and comes back under its name: counted, re-opened, and the run goes on.
timeout 60 "$bench" --metadata_server="$uri" --segment_id=t-text --advertise=127.0.0.1 \
	--local_server_name=i-restart --protocol=tcp --block_size=64K --batch_size=16 --threads=2 --duration=8 \
	--timeout_ms=2000 --json >"$dir/out" 2>"$dir/err" &
initiator=$!
sleep 1.5
kill -9 "$target"
wait "$target" 2>/dev/null || :
target_of t-text
status=0
wait $initiator || status=$?
[ $status = 1 ] || die "a run over a restart ended with $status instead of 1"
jq -e '.reopened >= 1 and .bytes > 0 and .failed + .timed_out + .stale > 0' <"$dir/out" >/dev/null || die "restart: figures"

# SIGINT: a summary, long before the time is up.
begin=$SECONDS
timeout -s INT 2 "$bench" --metadata_server="$uri" --segment_id=t-text \
	--advertise=127.0.0.1 --local_server_name=i-int --threads=2 --block_size=64K --batch_size=16 --duration=60 \
	>"$dir/out" 2>"$dir/err" || :
[ $((SECONDS - begin)) -lt 10 ] || die "SIGINT did not end the run"
grep -q '^Test completed: ' "$dir/out" || die "no summary after SIGINT"
