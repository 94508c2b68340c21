# SPDX-License-Identifier: MIT
# shellcheck shell=bash disable=SC2154,SC2034 # variables of tests/bench/rdma
# Pieces of tests/bench/rdma: starting things, taking samples, the tables.
bench=$B/bin/transfer_engine_bench
metadata=http://127.0.0.1:18080/metadata

start_metadata_server() {
	"$B/bin/mooncake-metadata-server" --port=18080 >"$work/server" 2>&1 &
	pids="$pids $!"
	wait_for 60 curl -sf http://127.0.0.1:18080/health -o /dev/null || fail "no metadata server: $(cat "$work/server")"
}
start_target() { # NAME DEVICES
	"$bench" --mode=target --metadata_server=$metadata --local_server_name="$1" --protocol=rdma --device_name="$2" \
		--buffer_size=32M >"$work/target.$1" 2>&1 &
	pids="$pids $!"
	wait_for 60 grep -q Ready "$work/target.$1" || fail "the target is not ready: $(cat "$work/target.$1")"
}

# As many as perftest has under way, as long as it is not more than 8 MiB; half of them a batch, so that one is under way
# while the other ends.
batch_of() { echo $(($1 <= 65536 ? 64 : 4)); }
initiator() { # TARGET DEVICES OPERATION SIZE FLAGS...
	local target=$1 devices=$2 op=$3 size=$4
	shift 4
	"$bench" --mode=initiator --metadata_server=$metadata --local_server_name=i --segment_id="$target" --protocol=rdma \
		--device_name="$devices" --operation="$op" --block_size="$size" --batch_size="$(batch_of "$size")" --depth=2 \
		--threads=1 --warmup=0.3 --json "$@"
}
ours() { # TARGET DEVICES OPERATION SIZE REPEAT [WHO]
	initiator "$1" "$2" "$3" "$4" --duration="$seconds" >"$work/ours" 2>"$work/ours.err" ||
		fail "$3 of $4 bytes: $(cat "$work/ours.err")"
	jq -c --arg op "$3" --argjson size "$4" --argjson rep "$5" --arg who "${6:-ours}" '{who: $who, op: $op, size: $size, rep: $rep,
		rate: .bytes_per_second, cpu: .cpu_seconds_per_gib_initiator, failed: (.failed + .timed_out + .stale)}' \
		<"$work/ours" >>"$samples"
}

# run_perftest OPERATION SIZE COUNT [PREFIX...]: bytes a second. It measures the processor's clock first, and says 0 when it did
# not manage to.
run_perftest() {
	local rate
	for _ in 1 2 3 4 5; do
		rate=$(try_perftest "$@") || return 1
		[ "$rate" = 0 ] || break
	done
	echo "$rate"
}
try_perftest() {
	local tool=ib_$1_bw flags="-x 1 -F -N -s $2 -n $3" server size=$2
	shift 3
	$tool -d rxe1 $flags >"$work/perf.server" 2>&1 &
	server=$!
	wait_for 60 grep -q ':4853 ' /proc/net/tcp /proc/net/tcp6 || fail "$tool: $(cat "$work/perf.server")"
	"$@" $tool -d rxe0 $flags 10.9.0.2 >"$work/perf" 2>&1 || fail "$tool: $(cat "$work/perf")"
	wait $server || fail "$tool: $(cat "$work/perf.server")"
	awk -v size="$size" '$1 == size && NF >= 4 { printf "%.0f\n", $4 * 1048576 }' "$work/perf"
}
# How many make a sample.
calibrate() { # OPERATION SIZE
	local n=$((16777216 / $2)) rate
	[ $n -lt 2000 ] || n=2000
	rate=$(run_perftest "$1" "$2" $n)
	count=$(awk -v r="$rate" -v s="$2" -v t="$seconds" 'BEGIN { n = int(r * t / s); print n < 20 ? 20 : n }')
}
perftest() { # OPERATION SIZE REPEAT
	local rate
	rate=$(run_perftest "$1" "$2" "$count")
	jq -nc --arg op "$1" --argjson size "$2" --argjson rep "$3" --argjson rate "$rate" \
		'{who: "perftest", op: $op, size: $size, rep: $rep, rate: $rate}' >>"$samples"
}

jq_words='
	def median: sort | length as $n | if $n == 0 then null elif $n % 2 == 1 then .[($n - 1) / 2] else (.[$n / 2 - 1] + .[$n / 2]) / 2 end;
	def at($q): sort | .[((length - 1) * $q) | round];
	def num($d): if . == null then "–" else (. * pow(10; $d) | round | tostring) as $t
		| ("0" * ([$d + 1 - ($t | length), 0] | max) // "") + $t | .[:-$d] + "." + .[-$d:] end;
	def spread: "\(median / 1e6 | num(1)) (\(min / 1e6 | num(1))…\(max / 1e6 | num(1)))";
	def size: if . >= 1048576 then "\(. / 1048576) MiB" else "\(. / 1024) KiB" end;
	def pairs($a; $b): [.[] | select(.who == $a or .who == $b)] | group_by(.rep) | map(select(length == 2)
		| (.[] | select(.who == $a).rate) / (.[] | select(.who == $b).rate));
	def rates($who): map(select(.who == $who).rate);
	def ratio: "\(median | num(2)) (\(at(0.25) | num(2))…\(at(0.75) | num(2)))";'

speed_table() {
	echo
	echo "| operation | size | ours MB/s (min…max) | perftest MB/s (min…max) | ratio of pairs, median (quartiles) | CPU-s/GiB | failed |"
	echo "|---|---:|---:|---:|---:|---:|---:|"
	jq -rs "$jq_words"'map(select(.who == "ours" or .who == "perftest")) | group_by([.size, .op])[]
		| "| \(.[0].op) | \(.[0].size | size) | \(rates("ours") | spread) | \(rates("perftest") | spread) | \(pairs("ours"; "perftest") | ratio) | \(map(.cpu | values) | median | num(2)) | \(map(.failed // 0) | add) |"' \
		<"$samples"
}
nics_table() {
	echo
	echo "| operation | size | two NICs MB/s (min…max) | one NIC MB/s (min…max) | ratio of pairs, median (quartiles) |"
	echo "|---|---:|---:|---:|---:|"
	jq -rs "$jq_words"'map(select(.who == "nics1" or .who == "nics2")) | group_by(.op)[]
		| "| \(.[0].op) | \(.[0].size | size) | \(rates("nics2") | spread) | \(rates("nics1") | spread) | \(pairs("nics2"; "nics1") | ratio) |"' \
		<"$samples"
}
