# SPDX-License-Identifier: MIT
# shellcheck shell=bash disable=SC2154,SC2034,SC2086,SC2016 # variables of tests/bench/rdma
# Pieces of tests/bench/rdma: starting things, taking samples, the tables.
bench=$B/bin/transfer_engine_bench
clock=$B/tests/bench/preload/clock.so
metadata=http://127.0.0.1:18080/metadata

start_metadata_server() {
	"$B/bin/mooncake-metadata-server" --port=18080 >"$work/server" 2>&1 &
	pids="$pids $!"
	wait_for 60 curl -sf http://127.0.0.1:18080/health -o /dev/null || fail "no metadata server: $(cat "$work/server")"
}
start_target() { # NAME DEVICES
	: >"$work/target.$1"
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
	# However busy the machine is, and however slow callgrind makes it: it may take its time to prove a way.
	$bench --mode=initiator --metadata_server=$metadata --local_server_name=i --segment_id="$target" --protocol=rdma \
		--open_timeout_ms=60000 --device_name="$devices" --operation="$op" --block_size="$size" --batch_size="$(batch_of "$size")" --depth=2 \
		--threads=1 --warmup="${warmup-0.3}" --json "$@"
}
ours() { # TARGET DEVICES OPERATION SIZE REPEAT [WHO]
	initiator "$1" "$2" "$3" "$4" --duration="$seconds" >"$work/ours" 2>"$work/ours.err" ||
		fail "$3 of $4 bytes: $(cat "$work/ours.err")"
	jq -c --arg op "$3" --argjson size "$4" --argjson rep "$5" --arg who "${6:-ours}" '{who: $who, op: $op, size: $size, rep: $rep,
		rate: .bytes_per_second, cpu: .cpu_seconds_per_gib_initiator, failed: (.failed + .timed_out + .stale)}' \
		<"$work/ours" >>"$samples"
}

# run_perftest OPERATION SIZE COUNT [PREFIX...]: bytes a second. It measures the processor's counter first, and gives no figure when
# it was disturbed meanwhile (preload/clock.c sees to that); and it ends at the first completion with an error, of which
# soft-RoCE has some of its own. Then once more.
run_perftest() {
	local rate
	for _ in 1 2 3 4 5 6 7 8; do
		rate=$(try_perftest "$@") && [ "${rate:-0}" != 0 ] && echo "$rate" && return
		echo "$1 $2" >>"$work/again"
	done
	fail "ib_$1_bw: $(cat "$work/perf")"
}
try_perftest() {
	local tool=ib_$1_bw flags="-x 1 -F -N -s $2 -n $3" server size=$2 rc=0
	shift 3
	timeout 120 $tool -d rxe1 $flags >"$work/perf.server" 2>&1 &
	server=$!
	wait_for 60 grep -q ':4853 ' /proc/net/tcp /proc/net/tcp6 || fail "$tool: $(cat "$work/perf.server")"
	timeout 120 env LD_PRELOAD="$clock" "$@" $tool -d rxe0 $flags 10.9.0.2 >"$work/perf" 2>&1 || rc=$?
	[ $rc = 0 ] || kill $server 2>/dev/null || :
	wait $server || rc=$?
	awk -v size="$size" '$1 == size && NF >= 4 { printf "%.0f\n", $4 * 1048576 }' "$work/perf"
	return $rc
}
declare -A count
# How many make a sample is known from the sample before it: first one of ours, then its own.
perftest() { # OPERATION SIZE REPEAT
	local rate n
	[ -n "${count[$1$2]-}" ] || count[$1$2]=$(jq -s --argjson t "$seconds" \
		'last | [20, .rate * $t / .size] | max | floor' <"$samples")
	n=${count[$1$2]}
	rate=$(run_perftest "$1" "$2" "$n")
	count[$1$2]=$(awk -v r="$rate" -v s="$2" -v t="$seconds" -v n="$n" 'BEGIN { w = int(r * t / s)
		print (w < 20 ? 20 : w > 4 * n ? 4 * n : w < n / 4 ? int(n / 4) + 1 : w) }')
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
	echo "| operation | size | ours MB/s (min…max) | perftest MB/s (min…max) | ratio of pairs, median (quartiles) | pairs | CPU-s/GiB | failed |"
	echo "|---|---:|---:|---:|---:|---:|---:|---:|"
	jq -rs "$jq_words"'map(select(.who == "ours" or .who == "perftest")) | group_by([.size, .op])[]
		| "| \(.[0].op) | \(.[0].size | size) | \(rates("ours") | spread) | \(rates("perftest") | spread) | \(pairs("ours"; "perftest") | ratio) | \(pairs("ours"; "perftest") | length) | \(map(.cpu | values) | median | num(2)) | \(map(.failed // 0) | add) |"' \
		<"$samples"
	echo
	echo "Runs of perftest that gave no figure and were done again: $(grep -c . "$work/again")."
}
nics_table() {
	echo
	echo "| operation | size | two NICs MB/s (min…max) | one NIC MB/s (min…max) | ratio of pairs, median (quartiles) |"
	echo "|---|---:|---:|---:|---:|"
	jq -rs "$jq_words"'map(select(.who == "nics1" or .who == "nics2")) | group_by(.op)[]
		| "| \(.[0].op) | \(.[0].size | size) | \(rates("nics2") | spread) | \(rates("nics1") | spread) | \(pairs("nics2"; "nics1") | ratio) |"' \
		<"$samples"
}

# ---- what is exact ----

# per_request FILE NUMBER OBJECT...: instructions a request of what a callgrind file of single instructions counts in these
# objects. One that ran more often than there were requests was waiting: it counts once a request.
per_request() {
	local file=$1 n=$2
	shift 2
	awk -v n="$n" -v objects="$*" '
		BEGIN { m = split(objects, want, " ") }
		/^ob=/ { here = 0; for (i = 1; i <= m; i++) if (index($0, want[i])) here = 1 }
		/^calls=/ { getline; next }
		here && /^0x/ { count[$1] += $NF }
		END { for (a in count) sum += count[a] < n ? count[a] : n; printf "%.0f\n", sum / n }' "$file"
}
# inclusive FILE FUNCTION: instructions of a function and all it calls.
inclusive() {
	callgrind_annotate --inclusive=yes --threshold=100 "$1" 2>/dev/null |
		sed -n "s/^ *\([0-9,]*\) .*:$2 \[.*/\1/p" | tr -d , | sort -n | tail -n 1
}
perftest_under() { # OPERATION SIZE COUNT PREFIX...: its rate does not count
	for _ in 1 2 3 4 5; do
		! try_perftest "$@" >/dev/null || return 0
	done
	fail "ib_$1_bw: $(cat "$work/perf")"
}
doorbells_of_perftest() { # OPERATION SIZE COUNT: system calls that write, of the client
	perftest_under "$1" "$2" "$3" strace -f -c -e trace=write -o "$work/strace"
	awk '$NF == "write" { print $4 }' "$work/strace"
}
exact() { # OPERATION SIZE COUNT
	local op=$1 size=$2 n=$3 line done_ posted doorbells asked taken a b grind="valgrind --tool=callgrind"
	MOONCAKE_LOG=debug initiator one rxe0 "$op" "$size" --duration=2 >"$work/ours" 2>"$work/ours.err" ||
		fail "$op: $(cat "$work/ours.err")"
	line=$(grep -o 'rdma: [0-9]* work requests.*' "$work/ours.err")
	read -r posted doorbells asked taken <<<"$(tr -dc '0-9 \n' <<<"$line")"
	done_=$(jq .engine.requests_done "$work/ours")
	a=$(doorbells_of_perftest "$op" "$size" "$n")
	b=$(doorbells_of_perftest "$op" "$size" $((3 * n)))
	jq -nc --arg op "$op" --argjson n "$done_" --argjson posted "$posted" --argjson doorbells "$doorbells" --argjson asked "$asked" \
		--argjson taken "$taken" --argjson theirs "$(awk -v a="$a" -v b="$b" -v n=$((2 * n)) 'BEGIN { print (b - a) / n }')" \
		--argjson moderation "$(sed -n 's/.*CQ Moderation *: *//p' "$work/perf")" '{who: "exact", op: $op, n: $n, posted: ($posted / $n),
		doorbells: ($doorbells / $n), asked: ($asked / $n), taken: ($taken / $n), theirs: {doorbells: $theirs, taken: (1 / $moderation)}}' \
		>>"$samples"
	command -v valgrind >/dev/null || return 0
	bench="$grind --callgrind-out-file=$work/ours.grind $bench" warmup=0 initiator one rxe0 "$op" "$size" --duration=6 \
		>"$work/ours" 2>"$work/ours.err" || fail "$op under callgrind: $(cat "$work/ours.err")"
	done_=$(jq .engine.requests_done "$work/ours")
	perftest_under "$op" "$size" $((2 * n)) $grind --callgrind-out-file="$work/perf.grind" --dump-instr=yes --compress-strings=no --compress-pos=no
	for line in mc_batch_add mc_batch_submit mci_rdma_poll; do
		jq -nc --arg op "$op" --arg what $line --argjson sum "$(inclusive "$work/ours.grind" $line)" --argjson n "$done_" \
			'{who: "instructions", op: $op, what: $what, each: ($sum / $n)}' >>"$samples"
	done
	for line in ib_ librxe; do
		jq -nc --arg op "$op" --arg what $line --argjson each "$(per_request "$work/perf.grind" $((2 * n)) $line)" \
			'{who: "instructions", op: $op, what: $what, each: $each}' >>"$samples"
	done
}
exact_table() {
	echo
	echo "Of a request of 4 KiB:"
	echo
	echo "| operation | whose | work requests | doorbells | completions |"
	echo "|---|---|---:|---:|---:|"
	jq -rs "$jq_words"'map(select(.who == "exact"))[]
		| "| \(.op) | ours | \(.posted | num(3)) | \(.doorbells | num(3)) | \(.taken | num(3)) |",
		"| \(.op) | perftest | 1 | \(.theirs.doorbells | num(3)) | \(.theirs.taken | num(3)) |"' <"$samples"
	echo
	echo "| operation | \`mc_batch_add\` | \`mc_batch_submit\` | completions, with posting anew | ours | perftest: its program | its provider |"
	echo "|---|---:|---:|---:|---:|---:|---:|"
	jq -rs "$jq_words"'map(select(.who == "instructions")) | group_by(.op)[] | (map({key: .what, value: .each}) | from_entries) as $i
		| "| \(.[0].op) | \($i.mc_batch_add | round) | \($i.mc_batch_submit | round) | \($i.mci_rdma_poll | round) | \($i.mc_batch_add + $i.mc_batch_submit + $i.mci_rdma_poll | round) | \($i.ib_ | round) | \($i.librxe | round) |"' \
		<"$samples"
}

# ---- registration ----

registration() { # one GiB where there is so much memory
	local length=1G
	[ "$(awk '/MemAvailable/ { print $2 }' /proc/meminfo)" -gt 2200000 ] || length=256M
	"$B/tests/bench/registration" --devices=rxe0,rxe2 --length=$length --repeats="$repeats" >>"$samples" ||
		fail "registration"
	echo
	echo "Registering $length:"
	echo
	echo "| two NICs, ours GiB/s (min…max) | one NIC, ibv_reg_mr GiB/s (min…max) | time, ours to ibv_reg_mr: median of pairs (quartiles) |"
	echo "|---:|---:|---:|"
	jq -rs "$jq_words"'def gib: "\(median / 1073741824 | num(2)) (\(min / 1073741824 | num(2))…\(max / 1073741824 | num(2)))";
		"| \(rates("registration") | gib) | \(rates("ibv_reg_mr") | gib) | \(pairs("ibv_reg_mr"; "registration") | ratio) |"' <"$samples"
}
