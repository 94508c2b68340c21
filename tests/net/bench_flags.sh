#!/bin/bash
# SPDX-License-Identifier: MIT
# Flags of transfer_engine_bench: help, mistakes, what is refused, and errors that must come within 5 s.
set -eu

bench=${B:-build}/bin/transfer_engine_bench
tmp=$(mktemp -d)
pids=
cleanup()
{
	for pid in $pids; do
		kill "$pid" 2>/dev/null || :
	done
	rm -rf "$tmp"
}
trap cleanup EXIT

fail()
{
	echo "FAILED: $1" >&2
	sed 's/^/  stdout: /' "$tmp/out" >&2 || :
	sed 's/^/  stderr: /' "$tmp/err" >&2 || :
	exit 1
}

# expect STATUS PATTERN-ON-STDERR ARGUMENTS...
expect()
{
	local want=$1 pattern=$2 got=0 begin

	shift 2
	begin=$(date +%s%N)
	timeout 20 "$bench" "$@" >"$tmp/out" 2>"$tmp/err" || got=$?
	[ "$got" = "$want" ] || fail "exit status $got instead of $want: $*"
	grep -Eq -- "$pattern" "$tmp/err" || fail "no \"$pattern\": $*"
	[ "$(wc -l <"$tmp/err")" -le 1 ] || fail "more than one line: $*"
	[ $((($(date +%s%N) - begin) / 1000000)) -lt 6000 ] || fail "took over 6 s: $*"
}

"$bench" --help >"$tmp/out" 2>"$tmp/err" || fail "--help"
for flag in local_server_name metadata_server mode operation protocol device_name nic_priority_matrix segment_id \
	buffer_size batch_size block_size duration threads auto_discovery report_unit report_precision backend use_vram \
	init_mem gpu_id json check sweep key_file insecure classic require_ack integrity checksum bind advertise streams \
	io_threads timeout_ms depth page_size memory warmup config; do
	grep -q -- "--$flag" "$tmp/out" || fail "--help does not list --$flag"
done
[ ! -s "$tmp/err" ] || fail "--help wrote to stderr"
"$bench" --version | grep -q '^transfer_engine_bench [0-9]' || fail "--version"

expect 2 'there is no flag --thread; did you mean --threads\?' --thread=4
expect 2 'there is no flag --blocksize; did you mean --block_size\?' --blocksize 4
expect 2 '--threads is a whole number from 1 to 4096, not "0"' --threads=0
expect 2 '--threads is a whole number from 1 to 4096, not "many"' -threads many
expect 2 '--block_size is a number of bytes such as .* from 1 to .*, not "0"' --block-size=0
expect 2 '--mode is one of initiator\|target, not "server"' --mode=server
expect 2 '--operation is one of read\|write, not "copy"' --operation=copy
expect 2 '--backend is one of classic\|tent, not "x"' --backend=x
expect 2 '--check is true or false, not "perhaps"' --check=perhaps
expect 2 '--batch_size needs a value' --batch_size
expect 2 '--duration is a number' --duration=soon
expect 2 '--duration' --duration=0
expect 2 '"target" is no flag' target
expect 2 '--protocol is one of .*, not "tpc"; did you mean tcp\?' --protocol=tpc
expect 2 '--memory is shared, memfd, anonymous or named:NAME, not "disk"' --memory=disk

for protocol in barex efa nvlink nvlink_intra musa hip sunrise_link ub ubshmem; do
	expect 1 "^transfer_engine_bench: --protocol=$protocol: .*use --protocol=tcp or auto\$" --protocol=$protocol
done
if [ -z "$(ls /sys/class/infiniband 2>/dev/null)" ]; then
	expect 1 'no RDMA device .*use --protocol=tcp or auto$' --protocol=rdma
fi
expect 1 '--use_vram=true: this build has no GPU support' --use_vram
expect 1 '--nic_priority_matrix=/nowhere/matrix' --nic_priority_matrix=/nowhere/matrix
echo '{"cpu:0": ["mlx5_0"]}' >"$tmp/matrix"
expect 1 'not of the form' --nic_priority_matrix="$tmp/matrix"
echo '{"cpu:0": [["mlx5_0"], [}' >"$tmp/matrix"
expect 1 'line 1' --nic_priority_matrix="$tmp/matrix"
expect 2 'over 64 TiB' --block_size=1T --batch_size=65536
expect 2 'over 64 TiB' --block_size=1T
expect 2 '--sweep_threads is a list' --sweep --sweep_threads=1,x
expect 2 '--sweep_block_size is a list' --sweep_block_size=abc
expect 2 '--sweep_block_size is a list' --sweep_block_size=
expect 2 '--page_size is 4K, 2M, 1G' --page_size=3
expect 2 '--working_set=1024 is less' --working_set=1K
expect 2 '--segment_id is empty' --segment_id=
expect 2 'no metadata service given' --metadata_server=
expect 2 'unknown scheme' --metadata_server=ftp://x
# The word after a boolean flag is its value.
expect 2 'unknown scheme' --auto_discovery true -use_vram false --metadata_server=ftp://x
expect 1 '--use_vram=true: this build' --auto_discovery false -use_vram yes

# Errors of the library come through as its sentence.
local=127.0.0.1
expect 1 'transfer_engine_bench: .+' --metadata_server=http://$local:1/metadata --local_server_name=a
expect 1 'transfer_engine_bench: .+' --metadata_server=$local:1 --local_server_name=a
expect 1 'transfer_engine_bench: .+' --metadata_server=redis://$local:1 --local_server_name=a
expect 1 'transfer_engine_bench: .+' --metadata_server=http://no-such-host.invalid:8080/metadata --local_server_name=a
expect 2 'transfer_engine_bench: .+' --metadata_server=gopher://$local:1 --local_server_name=a
nobody=http://$local:1/metadata
for name in y:99999 x:-5 x:22x '[::1]:99999'; do
	expect 2 'no valid port' --metadata_server=$nobody --mode=target --local_server_name="$name"
done
expect 2 "peers could not use 'foo.invalid'" --metadata_server=$nobody --mode=target --advertise=foo.invalid
expect 2 "peers could not use '1.2.3.4.5'" --metadata_server=$nobody --mode=target --advertise=$local,1.2.3.4.5
MOONCAKE_LOG=error expect 1 "'no.such.host.invalid'" --metadata_server=P2PHANDSHAKE --insecure \
	--segment_id=no.such.host.invalid:1234

# Settings are not masked by the defaults of flags; a flag wins over the environment, that over the file.
printf 'engine:\n  metadata: http://127.0.0.1:2/from-file\n' >"$tmp/config"
expect 1 'http://127.0.0.1:2' --config="$tmp/config"
MOONCAKE_METADATA=http://127.0.0.1:3/x expect 1 'http://127.0.0.1:3' --config="$tmp/config"
MOONCAKE_METADATA=http://127.0.0.1:3/x expect 1 'http://127.0.0.1:1' --config="$tmp/config" --metadata_server=$nobody
MOONCAKE_NAME=name:77777 expect 2 "'name:77777'" --metadata_server=$nobody

# What runs out is named.
for files in 8 12; do
	(ulimit -n $files; expect 1 'ulimit -n' --metadata_server=P2PHANDSHAKE --mode=target --buffer_size=4096)
done

# A signal ends set-up at once, also while memory is being filled.
begin=$(date +%s%N)
status=0
timeout -s INT 0.5 "$bench" --mode=target --metadata_server=P2PHANDSHAKE --buffer_size=4G >"$tmp/out" 2>"$tmp/err" || status=$?
took=$((($(date +%s%N) - begin) / 1000000))
if grep -q Ready "$tmp/out"; then
	echo "4 GiB were filled before the signal came"
elif grep -q 'are available to this process' "$tmp/err"; then
	echo "this machine has no 4 GiB to fill"
else
	grep -q 'interrupted while setting up' "$tmp/err" || fail "no sentence after SIGINT during set-up"
	[ $took -lt 2500 ] || fail "SIGINT during set-up took $took ms"
fi
expect 1 'transfer_engine_bench: .*nowhere' --metadata_server=P2PHANDSHAKE --local_server_name=$local \
	--key_file=/nowhere/key
expect 1 'transfer_engine_bench: .*nowhere' --metadata_server=P2PHANDSHAKE --config=/nowhere/config

# With a server: an unknown segment, a name and a port that are taken.
server=${B:-build}/bin/mooncake-metadata-server
"$server" --port=0 >"$tmp/server" 2>&1 &
pids="$pids $!"
for _ in $(seq 200); do
	grep -q 'listening on' "$tmp/server" && break
	sleep 0.05
done
metadata=$(sed -n 's/.*listening on //p' "$tmp/server")
expect 1 'no-such-segment' --metadata_server="$metadata" --segment_id=no-such-segment --local_server_name=i1 \
	--advertise=$local --duration=0.1
"$bench" --mode=target --metadata_server="$metadata" --local_server_name=t1 --advertise=$local --buffer_size=1M \
	--block_size=4K --batch_size=1 --threads=1 --json >"$tmp/target" 2>"$tmp/err" &
target=$!
pids="$pids $target"
for _ in $(seq 200); do
	grep -q '"segment"' "$tmp/target" && break
	kill -0 $target 2>/dev/null || fail "the target did not start"
	sleep 0.05
done
port=$(sed -n 's/.*"port": *\([0-9]*\).*/\1/p' "$tmp/target")
expect 1 't1' --mode=target --metadata_server="$metadata" --local_server_name=t1 --advertise=$local --buffer_size=1M
expect 1 "$port" --mode=target --metadata_server="$metadata" --local_server_name="$local:$port" --buffer_size=1M
expect 1 'start the target with --buffer_size' --metadata_server="$metadata" --segment_id=t1 --local_server_name=i2 \
	--advertise=$local --block_size=1M --batch_size=4 --threads=1 --duration=0.1

# Whatever our own memory would have been: the target is looked at first.
expect 1 'start the target with --buffer_size' --metadata_server="$metadata" --segment_id=t1 --local_server_name=i3 \
	--advertise=$local --block_size=16M --batch_size=128
# Not served: no way leads there.
expect 1 'does not serve the classic data protocol; start its process with --classic' --metadata_server="$metadata" \
	--segment_id=t1 --local_server_name=i4 --advertise=$local --block_size=4K --batch_size=1 --threads=1 --protocol=tcp-classic
"${B:-build}/bin/mooncake" segment ls --metadata_server="$metadata" | grep -q tcp || fail "segment ls does not list the target"
! "${B:-build}/bin/mooncake" segment ls --metadata_server="$metadata" | grep -q tcp-classic || fail "tcp-classic is listed, though not served"

kill $target
status=0
wait $target || status=$?
[ $status = 0 ] || fail "the target ended with status $status on SIGTERM"

# An initiator that comes while the target still registers its memory waits for it.
"$bench" --mode=target --metadata_server=P2PHANDSHAKE --local_server_name=$local --buffer_size=512M >"$tmp/target" 2>"$tmp/err" &
target=$!
pids="$pids $target"
for _ in $(seq 200); do
	port=$(ss -Hltnp 2>/dev/null | sed -n "s/.*:\([0-9]*\) .*pid=$target,.*/\1/p" | head -n 1)
	[ -z "$port" ] || break
	sleep 0.01
done
if [ -n "$port" ]; then
	timeout 60 "$bench" --metadata_server=P2PHANDSHAKE --segment_id=$local:"$port" --threads=1 --batch_size=4 --duration=0.1 \
		>"$tmp/out" 2>"$tmp/err" || fail "an initiator that came early"
fi
for _ in $(seq 400); do
	grep -q Ready "$tmp/target" && break
	sleep 0.05
done
segment=$(sed -n 's/.*segment_id=\([^ ]*\).*/\1/p' "$tmp/target")

# The end of a run comes when its time is over, whatever was submitted; that is no failure.
begin=$(date +%s%N)
timeout 60 "$bench" --metadata_server=P2PHANDSHAKE --segment_id="$segment" --duration=0.2 --warmup=0 --threads=4 --depth=16 --batch_size=65536 \
	--working_set=256M --json >"$tmp/out" 2>"$tmp/err" || fail "a run of batches that are larger than its time"
took=$((($(date +%s%N) - begin) / 1000000))
jq -e '.failed == 0 and .timed_out == 0 and .bytes > 0' "$tmp/out" >/dev/null || fail "a run of large batches: figures"
jq -e '.cancelled > 0' "$tmp/out" >/dev/null || echo "this machine moved all of it within the grace"
[ $took -lt 8000 ] || fail "a run of 0.2 s took $took ms"

# Address space for the peer's memory is short: auto takes tcp.
(ulimit -v 700000; timeout 60 "$bench" --metadata_server=P2PHANDSHAKE --segment_id="$segment" --duration=0.2 --threads=1 --batch_size=4 --json \
	>"$tmp/out" 2>"$tmp/err") || fail "a run with little address space"
jq -e '(.path | startswith("tcp")) and .failed == 0' "$tmp/out" >/dev/null || fail "with little address space: not over tcp"
kill $target
