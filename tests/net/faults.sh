#!/usr/bin/env bash
# What must happen when things die: target killed in mid-transfer, restarted under its name, stopped;
# initiator stopped; metadata server gone and back; names taken over from the dead and not from the living.
# shellcheck source=tests/net/common.sh disable=SC2034
. "$(dirname "$0")/common.sh"

kept=faults-$$
# memory_of PID BYTES: the file behind the memory of a target.
memory_of() {
	local fd
	for fd in /proc/"$1"/fd/*; do
		[ "$(stat -L -c %s "$fd" 2>/dev/null)" != "$2" ] || { echo "$fd"; return; }
	done
	die "process $1 has no memory of $2 bytes"
}
# Zero the beginning of it, and see it written again: bytes move.
written() { [ "$(head -c 65536 "$1" | tr -d '\0' | wc -c)" -gt 0 ]; }
bytes_move() {
	dd if=/dev/zero of="$1" bs=64K count=1 conv=notrunc status=none
	until_true 6 written "$1"
}
end_target() { kill "$target"; until_true 10 test ! -e /proc/"$target"; }

start_server
for protocol in tcp shm; do
	echo "--- $protocol: target killed (-9) in mid-transfer: every request fails in its deadline, the run goes on, status 1"
	start_target "k-$protocol"
	background "init-kill-$protocol" "$bench" --mode=initiator --metadata_server="$uri" --local_server_name="ik-$protocol" --segment_id="k-$protocol" \
		--threads=2 --batch_size=16 --block_size=65536 --protocol=$protocol --operation=write --duration=4 --warmup=0 --timeout_ms=2000 --json
	run=$pid
	sleep 1
	kill -9 "$target"
	until_true 15 test ! -e /proc/"$run"
	rc=0; wait "$run" || rc=$?
	[ $rc = 1 ] || die "status $rc, not 1"
	jq -e '.failed + .timed_out > 0' "$dir/init-kill-$protocol" >/dev/null || die "no failure was counted"

	# The second one is of the default size and so takes its time to be filled; the third has the memory of before.
	for memory in "--buffer_size=96M" "--buffer_size=1G" "--buffer_size=96M --memory=named:$kept-$protocol"; do
		echo "--- $protocol, $memory: restarted under its name: the run goes on to its end, and bytes move again"
		started=$SECONDS
		# shellcheck disable=SC2086
		start_target "r-$protocol" $memory
		seconds=$((5 + 2 * (SECONDS - started)))
		background "init-restart-$protocol" "$bench" --mode=initiator --metadata_server="$uri" --local_server_name="ir-$protocol" --segment_id="r-$protocol" \
			--threads=2 --batch_size=16 --block_size=65536 --protocol=$protocol --operation=write --duration=$seconds --warmup=0 --timeout_ms=4000 --json
		run=$pid
		begun=$(date +%s%N)
		size=$(numfmt --from=iec "$(sed -E 's/.*=([0-9]+[MG]).*/\1/' <<<"$memory")")
		bytes_move "$(memory_of "$target" "$size")"
		kill -9 "$target"
		# shellcheck disable=SC2086
		start_target "r-$protocol" $memory
		bytes_move "$(memory_of "$target" "$size")"
		until_true 15 test ! -e /proc/"$run"
		rc=0; wait "$run" || rc=$?
		[ $rc -le 1 ] || die "the initiator died with status $rc"
		[ $(($(date +%s%N) - begun)) -ge $((seconds * 1000000000 - 200000000)) ] || die "the run ended early, after $((($(date +%s%N) - begun) / 1000000)) ms"
		jq -e ".duration >= $seconds - 0.1" "$dir/init-restart-$protocol" >/dev/null || die "it measured less than the whole duration"
		if [[ $memory == *named* ]]; then
			jq -e '.stale == 0 and .reopened == 0' "$dir/init-restart-$protocol" >/dev/null || die "memory that is still the same was called stale"
		else
			jq -e '.reopened == 1' "$dir/init-restart-$protocol" >/dev/null || die "the segment was not opened anew, once"
		fi
		initiator "ir2-$protocol" "r-$protocol" --protocol=$protocol --check --duration=1 >"$dir/check-$protocol" 2>&1 || die "the new target does not serve"
		end_target
		[[ $memory != *named* ]] || "$tool" memory unlink "$kept-$protocol"
	done

	echo "--- $protocol: target stopped (SIGSTOP) past every deadline, then continued: nothing hangs, no wrong byte"
	start_target "s-$protocol"
	background "init-stop-$protocol" "$bench" --mode=initiator --metadata_server="$uri" --local_server_name="is-$protocol" --segment_id="s-$protocol" \
		--threads=2 --batch_size=16 --block_size=65536 --protocol=$protocol --check --duration=5 --warmup=0 --timeout_ms=1000 --json
	run=$pid
	sleep 1
	kill -STOP "$target"
	sleep 2.5
	kill -CONT "$target"
	until_true 20 test ! -e /proc/"$run"
	rc=0; wait "$run" || rc=$?
	[ $rc -le 1 ] || die "the initiator died with status $rc"
	jq -e '.wrong_bytes == 0' "$dir/init-stop-$protocol" >/dev/null || die "wrong bytes"

	echo "--- $protocol: initiator stopped for longer than its deadlines: the target serves others meanwhile, and it goes on after"
	background "init-sleep-$protocol" "$bench" --mode=initiator --metadata_server="$uri" --local_server_name="iz-$protocol" --segment_id="s-$protocol" \
		--threads=2 --batch_size=16 --block_size=65536 --protocol=$protocol --operation=write --duration=5 --warmup=0 --timeout_ms=1000 --json
	run=$pid
	sleep 0.7
	kill -STOP "$run"
	initiator "other-$protocol" "s-$protocol" --protocol=$protocol --operation=read --duration=1 >"$dir/other-$protocol" 2>&1 || die "others are not served"
	sleep 1
	kill -CONT "$run"
	until_true 20 test ! -e /proc/"$run"
	rc=0; wait "$run" || rc=$?
	[ $rc -le 1 ] || die "the initiator died with status $rc"
	initiator "after-$protocol" "s-$protocol" --protocol=$protocol --check --duration=1 >"$dir/after-$protocol" 2>&1 || die "not served after"
done

echo "--- metadata server stopped during transfers: open segments keep working; back again: new opens succeed"
start_target steady
background init-steady "$bench" --mode=initiator --metadata_server="$uri" --local_server_name=i-steady --segment_id=steady \
	--threads=2 --batch_size=16 --block_size=65536 --protocol=tcp --operation=write --duration=5 --warmup=0 --json
run=$pid
sleep 1
kill "$server"; until_true 5 test ! -e /proc/"$server"
start=$SECONDS
if initiator late steady --duration=1 >"$dir/late" 2>&1; then die "opened without a metadata server"; fi
[ $((SECONDS - start)) -le 5 ] || die "the failure took $((SECONDS - start)) s"
start_server
until_true 15 "$tool" metadata get mooncake/ram/steady --metadata_server="$uri"
initiator late2 steady --duration=1 >"$dir/late2" 2>&1 || die "new opens fail after the server is back"
until_true 15 test ! -e /proc/"$run"
rc=0; wait "$run" || rc=$?
[ $rc = 0 ] || die "the transfer that was under way failed with status $rc"

echo "--- a name in use by a living process is refused; one sentence, status 1"
rc=0
timeout 10 "$bench" --mode=target --metadata_server="$uri" --local_server_name=steady --buffer_size=4096 >"$dir/twice" 2>&1 || rc=$?
[ $rc = 1 ] || die "status $rc, not 1"
grep -q 'in use' "$dir/twice" || die "no sentence"

echo "--- a killed process is gone from listings within its lease"
kill -9 "$target"
gone() { ! "$tool" metadata get mooncake/ram/steady --metadata_server="$uri" 2>/dev/null; }
until_true 15 gone
