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
expect 1 'over 64 TiB' --block_size=1T --batch_size=65536
expect 1 '--sweep_threads is a list' --sweep --sweep_threads=1,x

# Errors of the library come through as its sentence.
local=127.0.0.1
expect 1 'transfer_engine_bench: .+' --metadata_server=http://$local:1/metadata --local_server_name=a
expect 1 'transfer_engine_bench: .+' --metadata_server=$local:1 --local_server_name=a
expect 1 'transfer_engine_bench: .+' --metadata_server=redis://$local:1 --local_server_name=a
expect 1 'transfer_engine_bench: .+' --metadata_server=http://no-such-host.invalid:8080/metadata --local_server_name=a
expect 1 'transfer_engine_bench: .+' --metadata_server=gopher://$local:1 --local_server_name=a
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

kill $target
status=0
wait $target || status=$?
[ $status = 0 ] || fail "the target ended with status $status on SIGTERM"
