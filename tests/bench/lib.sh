# SPDX-License-Identifier: MIT
# shellcheck shell=bash disable=SC2154,SC2086,SC2016,SC2034 # variables of tests/bench/run; jq's own
# Pieces of tests/bench/run: starting things, taking samples, the report.

progress()
{
	[ -t 2 ] || return 0
	printf '\r\033[K%s' "$1" >&2
}

# A port that nobody listens on at this moment.
free_port()
{
	local port

	for _ in $(seq 50); do
		port=$((20000 + RANDOM % 12000))
		(exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || {
			echo $port
			return 0
		}
	done
	echo "bench: no free port found" >&2
	return 1
}

# Wait until a file matches, or its process died, or 10 s passed.
wait_for()
{
	local pid=$1 file=$2 pattern=$3

	for _ in $(seq 200); do
		grep -q "$pattern" "$file" 2>/dev/null && return 0
		kill -0 "$pid" 2>/dev/null || break
		sleep 0.05
	done
	echo "bench: a process did not start:" >&2
	cat "$file" >&2
	exit 1
}

start_metadata_server()
{
	"$bin/mooncake-metadata-server" --port=0 >"$tmp/metadata.log" 2>&1 &
	pids="$pids $!"
	wait_for $! "$tmp/metadata.log" 'listening on'
	metadata=$(sed -n 's/.*listening on //p' "$tmp/metadata.log")
}

# A target of the case, once; sets $segment and $target_pid.
start_target()
{
	local what=$1 memory=memfd protocol=$1 log=$tmp/target.$1

	case $what in
	process_vm)
		memory=anonymous
		protocol=shm
		;;
	esac
	if [ ! -e "$log.json" ]; then
		"$bin/transfer_engine_bench" --mode=target --metadata_server="$metadata" --json --protocol=$protocol \
			--local_server_name="bench-$what-$$" --buffer_size=$working_set --working_set=$working_set \
			--memory=$memory --advertise=127.0.0.1 >"$log.json" 2>"$log.err" &
		target_pid=$!
		pids="$pids $target_pid"
		wait_for $target_pid "$log.json" '"segment"'
	fi
	segment=$(jq -r .segment "$log.json")
	target_pid=$(jq -r .pid "$log.json")
}

# sample CASE WHO OPERATION BLOCK THREADS REPEAT JSON-FILTER <json
sample()
{
	jq -c --arg case "$1" --arg who "$2" --arg op "$3" --argjson block "$4" --argjson threads "$5" \
		--argjson rep "$6" '{case: $case, who: $who, op: $op, block: $block, threads: $threads, rep: $rep} + '"$7" \
		>>"$samples" || echo "bench: $2 gave no figures" >&2
}

ours()
{
	local what=$1 op=$2 block=$3 n=$4 rep=$5 batch=32 memory=memfd protocol=$1

	[ "$block" -gt 4096 ] || batch=128
	[ "$what" != process_vm ] || {
		memory=anonymous
		protocol=shm
	}
	"$bin/transfer_engine_bench" --mode=initiator --json --metadata_server="$metadata" --segment_id="$segment" \
		--local_server_name="bench-initiator-$$-$done_runs" --advertise=127.0.0.1 --protocol=$protocol \
		--memory=$memory --operation="$op" --block_size="$block" --batch_size=$batch --threads="$n" \
		--working_set=$working_set --duration="$duration" --warmup=0.1 >"$tmp/ours.json" 2>"$tmp/ours.err" || {
		progress ""
		echo "bench: $what $op, $block bytes, $n threads failed:" >&2
		cat "$tmp/ours.err" >&2
	}
	sample "$what" ours "$op" "$block" "$n" "$rep" '{rate: .bytes_per_second,
		here: .cpu_seconds_per_gib_initiator, there: .cpu_seconds_per_gib_target, path: .path,
		allocs: .data_path_allocs, failed: (.failed + .timed_out + .stale)}' <"$tmp/ours.json"
	streams=$(jq -r '.path | (capture("(?<n>[0-9]+) streams?") | .n) // 1' <"$tmp/ours.json")
	streams=${streams:-1}
}

# baseline PROGRAM CASE OPERATION BLOCK THREADS REPEAT THREADS-OF-ITS-OWN
baseline()
{
	"$base/$1" --operation="$3" --block_size="$4" --threads="$7" --working_set=$working_set \
		--duration="$duration" --warmup=0.1 >"$tmp/base.json"
	sample "$2" "$1" "$3" "$4" "$5" "$6" '{rate: .bytes_per_second, here: .cpu_seconds_per_gib_initiator,
		there: .cpu_seconds_per_gib_target}' <"$tmp/base.json"
}

# With writes of our block size; it knows no threads of ours, so its figures stand beside every thread count.
iperf()
{
	local op=$1 block=$2 rep=$3 parallel port pid reverse=

	command -v iperf3 >/dev/null || return 0
	[ "$op" = write ] || reverse=-R
	# iperf3 refuses writes above 1 MiB.
	local length=$((block > 1048576 ? 1048576 : block))
	for parallel in 1 4; do
		port=$(free_port)
		: >"$tmp/iperf.log"
		iperf3 -s -1 -p "$port" -B 127.0.0.1 --forceflush >"$tmp/iperf.log" 2>&1 &
		pid=$!
		iperf_pid=$pid
		for _ in $(seq 100); do
			grep -q listening "$tmp/iperf.log" 2>/dev/null && break
			sleep 0.02
		done
		iperf3 -c 127.0.0.1 -p "$port" -P $parallel -l $length -t 1 -C cubic -J $reverse >"$tmp/iperf.json" || :
		kill $pid 2>/dev/null || :
		wait $pid 2>/dev/null || :
		iperf_pid=
		sample tcp "iperf3_$parallel" "$op" "$block" 0 "$rep" '(.end | .sum_received as $r | select($r.bytes > 0) | {
			rate: ($r.bits_per_second / 8),
			here: (.cpu_utilization_percent.host_total / 100 * $r.seconds / ($r.bytes / 1073741824)),
			there: (.cpu_utilization_percent.remote_total / 100 * $r.seconds / ($r.bytes / 1073741824))})' \
			<"$tmp/iperf.json"
	done
}

# Nanoseconds on a CPU of all threads of a process.
task_ns()
{
	cat "/proc/$1"/task/*/schedstat | awk '{ ns += $1 } END { printf "%.0f\n", ns }'
}

# Percent of a core of an idle initiator and of its idle target, over 5 s.
idle_figures()
{
	local before after own

	before=$(task_ns "$target_pid")
	own=$("$base/idle" --metadata_server="$metadata" --segment_id="$segment" --transports=tcp --seconds=5)
	after=$(task_ns "$target_pid")
	jq -n --argjson own "$own" --argjson ns $((after - before)) \
		'{initiator: $own.idle_percent_of_a_core, target_at_most: ($ns / 5.5e9 * 100)}'
}

machine()
{
	jq -n --arg cpu "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" --argjson cores "$(nproc)" \
		--arg kernel "$(uname -sr)" --arg cc "$(cat /proc/sys/net/ipv4/tcp_congestion_control)" \
		--arg memory "$(awk '/MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)" \
		--argjson repeats "$repeats" --argjson duration "$duration" \
		'{cpu: $cpu, cores: $cores, memory: $memory, kernel: $kernel, congestion_control: $cc,
		  repeats: $repeats, seconds_per_sample: $duration}'
}

report()
{
	local filter=-r
	[ $json = no ] || filter=-c

	jq -n $filter --slurpfile s "$samples" --argjson machine "$(machine)" --argjson idle "$1" --arg json $json '
	def median: map(select(. != null)) | sort | length as $n |
		if $n == 0 then null elif $n % 2 == 1 then .[($n - 1) / 2] else (.[$n / 2 - 1] + .[$n / 2]) / 2 end;
	def figures: {rate: (map(.rate) | median), min: (map(.rate | select(. != null)) | min),
		max: (map(.rate | select(. != null)) | max), here: (map(.here) | median), there: (map(.there) | median)};
	def iperf($op; $block): map(select(.threads == 0 and .op == $op and .block == $block));
	def rows: . as $all | map(select(.threads > 0)) | group_by([.case, .threads, .block, .op])
		| map(. + (if .[0].case == "tcp" and .[0].threads < 12 then .[0] as $f | $all | iperf($f.op; $f.block)
			else [] end)) | map(. as $g | {case: .[0].case, op: .[0].op,
		block: .[0].block, threads: .[0].threads, path: ([.[].path | select(. != null)] | unique | join("; ")),
		allocs: ([.[] | .allocs // 0] | max), failed: ([.[] | .failed // 0] | add),
		who: ([$g[].who] | unique | map(. as $w | {key: $w, value: ([$g[] | select(.who == $w)] | figures)})
			| from_entries)});
	def num($d): if . == null then "–" else (. * pow(10; $d) | round) as $v | ($v / pow(10; $d) | tostring) as $t |
		if $d == 0 or ($t | contains("e")) then $t else ($t | split(".")) as $p |
		$p[0] + "." + (($p[1] // "") + "000000")[0:$d] end end;
	def gb: if . == null then "–" else . / 1e9 | num(2) end;
	def size: if . >= 1048576 then "\(. / 1048576) MiB" else "\(. / 1024) KiB" end;
	def cell: if . == null then "– | –" else
		"\(.rate | gb) (\(.min | gb)…\(.max | gb)) | \(.here | num(3)) + \(.there | num(3))" end;
	def ratio($a; $b): if $a.rate == null or $b.rate == null or $b.rate == 0 then "–"
		else $a.rate / $b.rate | num(2) end;
	def limits: {tcp: ["plain_socket", "iperf3_1", "iperf3_4"], shm: ["memcpy"], process_vm: ["process_vm"]};
	def table($case): limits[$case] as $l |
		"| operation | block | threads | ours GB/s (min…max) | CPU-s/GiB here + there |"
		+ ($l | map(" \(gsub("_"; " ")) GB/s (min…max) | CPU-s/GiB | ratio |") | join("")) + " failed | allocations |",
		"|---|---:|---:|---:|---:|" + ($l | map("---:|---:|---:|") | join("")) + "---:|---:|",
		(.[] | select(.case == $case) | . as $r |
		"| \(.op) | \(.block | size) | \(.threads) | \(.who.ours | cell) |"
		+ ($l | map(" \($r.who[.] | cell) | \(ratio($r.who.ours; $r.who[.])) |") | join(""))
		+ " \(.failed) | \(.allocs) |");
	($s | rows) as $rows |
	if $json == "yes" then {machine: $machine, rows: $rows, idle: $idle}
	else
		"\($machine.cpu), \($machine.cores) cores, \($machine.memory), \($machine.kernel), congestion control "
		+ "\($machine.congestion_control). Medians of \($machine.repeats) interleaved repeats of "
		+ "\($machine.seconds_per_sample) s, working set 256 MiB on each side, one machine, loopback.",
		(["tcp", "shm", "process_vm"][] as $c | select(any($rows[]; .case == $c)) |
			"", "### \($c)", "", "Path taken: \([$rows[] | select(.case == $c) | .path] | unique | join(", ")).", "",
			($rows | table($c))),
		(if $idle then "", "### idle", "", "Percent of a core, 5 s without work: initiator "
			+ "\($idle.initiator | num(3)), target at most \($idle.target_at_most | num(3)) (its start of the session included)."
		 else empty end)
	end'
}
