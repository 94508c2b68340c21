#!/usr/bin/env bash
# The mooncake tool from outside: every subcommand against a real metadata server and a real target, exit
# statuses, JSON that parses, no token and no key in any output, and the completion script.
set -eu
cd "$(dirname "$0")/../.."
B=${B:-build}
dir=$(mktemp -d)
name=tool-test-$$
pids=()
cleanup() {
	local pid
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
	wait
	"$B/bin/mooncake" memory unlink "$name" 2>/dev/null || true
	rm -rf "$dir"
}
trap cleanup EXIT
unset http_proxy https_proxy HTTPS_PROXY all_proxy ALL_PROXY MOONCAKE_CONFIG MOONCAKE_KEY_FILE MC_METADATA_CLUSTER_ID

# run STATUS ARGUMENTS...: output in $out, both streams
out=
run() {
	local want=$1 got=0
	shift
	out=$(timeout 60 "$B/bin/mooncake" "$@" 2>&1 </dev/null) || got=$?
	[ "$got" = "$want" ] || { echo "mooncake $*: status $got, want $want: $out"; exit 1; }
}
has() { grep -qF -- "$1" <<<"$out" || { echo "lacks \"$1\": $out"; exit 1; }; }
lacks() { ! grep -qF -- "$1" <<<"$out" || { echo "has \"$1\": $out"; exit 1; }; }
is_json() { python3 -c 'import json, sys; json.load(sys.stdin)' <<<"$out" || { echo "no JSON: $out"; exit 1; }; }
value() { python3 -c "import json, sys; d = json.load(sys.stdin); print($1)" <<<"$out"; }
equal() { [ "$1" = "$2" ] || { echo "\"$1\" is not \"$2\""; exit 1; }; }
await() {
	for _ in $(seq 200); do grep -qE "$2" "$1" && return; sleep 0.05; done
	echo "$1 never said $2: $(cat "$1")"
	exit 1
}

echo "# help, versions, mistakes"
run 0 --help; has doctor; has topology
run 0 --version; has "mooncake 0."
run 2; has "a command is missing"
run 2 doctr; has 'did you mean "mooncake doctor"?'
run 2 segment shw; has 'did you mean "mooncake segment show"?'
run 2 memory; has "a command is missing"
run 2 doctor --jsn; has "did you mean --json"
run 2 key new
for command in doctor topology "segment ls" "segment show" "metadata ls" "metadata get" "key new" "key show" \
	"config check" "config show" "memory ls" "memory show" "memory revoke" "memory unlink" bench; do
	# shellcheck disable=SC2086 # two words
	run 0 $command --help
	has Usage:
done

echo "# keys"
run 0 key new "$dir/key"
equal "$(stat -c %a "$dir/key")" 600
lacks "$(cat "$dir/key")"
run 1 key new "$dir/key"; has "exists"
run 1 key new "$dir/missing/key"; has "create that first"
run 0 key show "$dir/key"; id=$out
equal ${#id} 16
MOONCAKE_KEY_FILE=$dir/key run 0 key id; equal "$out" "$id"
run 0 key show --role=metadata "$dir/key"; bearer=$out
equal ${#bearer} 64
lacks "$(cat "$dir/key")"
run 2 key show --role=root "$dir/key"
run 2 key show; has MOONCAKE_KEY_FILE
chmod 644 "$dir/key"
run 1 key show "$dir/key"; has "chmod 600"
chmod 600 "$dir/key"

echo "# configuration"
printf 'engine:\n  port: 15999\nmetadata:\n  password: hunter2\n' >"$dir/good.yaml"
printf 'engine:\n  prt: 15999\n' >"$dir/bad.yaml"
chmod 644 "$dir/good.yaml"
run 0 config check "$dir/good.yaml"; has "chmod 600"
chmod 600 "$dir/good.yaml"
run 0 config check "$dir/good.yaml"; has good
run 1 config check "$dir/bad.yaml"; has "bad.yaml:2: engine.prt"; has "did you mean engine.port?"
run 1 config check "$dir/none.yaml"; has "none.yaml"; has "check the path"
MOONCAKE_CONFIG=$dir/bad.yaml run 1 config check; has "bad.yaml:2"
run 0 config show "$dir/good.yaml"; has 15999; lacks hunter2
run 0 config show --explain; has "segment name"
MOONCAKE_PORT=15998 run 0 config show --json "$dir/good.yaml"; is_json; lacks hunter2
equal "$(value "[(s['value'], s['origin']) for s in d if s['key'] == 'engine.port'][0]")" "(15998, 'MOONCAKE_PORT')"

echo "# servers that cannot start"
server() {
	local want=$1 got=0
	shift
	out=$(timeout 20 "$B/bin/mooncake-metadata-server" --port=0 "$@" 2>&1 </dev/null) || got=$?
	[ "$got" = "$want" ] || { echo "metadata server $*: status $got, want $want: $out"; exit 1; }
}
server 2 --cert_file="$dir/none.pem"; has "--cert_key_file"
server 2 --cert_key_file="$dir/none.pem"; has "--cert_file"
server 1 --log_file="$dir/missing/log"; has "create that first"

echo "# topology"
run 0 topology; has "NUMA node"
run 0 topology --json; is_json
equal "$(value "'lo' in [n['name'] for n in d['netdevs']]")" True
run 0 topology --matrix; is_json
equal "$(value "all(len(v) == 2 for v in d.values()) and 'cpu:0' in d")" True

echo "# a cluster of one target"
"$B/bin/mooncake-metadata-server" --port=0 >"$dir/server" 2>&1 &
pids+=($!)
await "$dir/server" listening
uri=$(grep -oE 'http://[^ ]*/metadata' "$dir/server" | head -n 1)
run 0 segment ls --metadata_server="$uri"; has "no segment"
"$B/bin/transfer_engine_bench" --mode=target --metadata_server="$uri" --local_server_name="$name" \
	--buffer_size=1M --memory=named:"$name" >"$dir/target" 2>&1 &
target=$!
pids+=("$target")
await "$dir/target" Ready
run 0 segment ls --metadata_server="$uri"; has "$name"; has mooncake_c
run 0 segment ls --metadata_server="$uri" --json; is_json
equal "$(value "[s['regions'] for s in d if s['name'] == '$name'][0] > 0")" True
run 0 segment show "$name" --metadata_server="$uri"; has "$name"; has rw
run 0 segment show --metadata_server="$uri" --transports=tcp --json "$name"; is_json
equal "$(value "{r['path'] for r in d['regions']}")" "{'tcp'}"
run 1 segment show --metadata_server="$uri" nobody; has nobody
run 0 segment ls --metadata_server="$uri" --cluster_id=other; has "no segment"
# the look left nothing behind
run 0 metadata ls --metadata_server="$uri"; has "mooncake/ram/$name"; lacks "-look-"
run 0 metadata get --metadata_server="$uri" "mooncake/ram/$name"; is_json
run 1 metadata get --metadata_server="$uri" mooncake/ram/nobody; has "no key"
run 1 metadata ls --metadata_server=http://127.0.0.1:1/metadata; has "cannot be reached"
run 2 segment show --metadata_server=nonsense://x y
run 2 segment ls --metadata_server=nonsense://x
run 2 segment ls; has "no metadata service given"
run 2 metadata ls; has "no metadata service given"

echo "# what others wrote cannot steer the terminal"
evil=$(printf 'mooncake/ram/evil\033[2J\302\233x')
python3 - "$uri" "$evil" <<'PY'
import sys, urllib.request, urllib.parse
urllib.request.urlopen(urllib.request.Request(sys.argv[1] + "?key=" + urllib.parse.quote(sys.argv[2], safe=""),
                       data=b'{"protocol": "t\\u001b[31mcp"}\n\033]0;title\007', method="PUT"))
PY
for command in "segment ls" "metadata ls" "metadata ls --values"; do
	# shellcheck disable=SC2086 # words
	run 0 $command --metadata_server="$uri"
	has 'evil\x1b[2J\x9bx'
	! grep -qP '\x1b|\x07|\xc2\x9b' <<<"$out" || { echo "control bytes: $command"; exit 1; }
done
has '\x1b]0;title\x07'
run 0 metadata get --metadata_server="$uri" "$evil"; has '\x1b]0;title\x07'; lacks $'\033'
run 1 segment show --metadata_server="$uri" "${evil#mooncake/ram/}"; lacks $'\033'

echo "# tokens are never shown"
token=$(python3 - "$uri" "mooncake/token/$name" <<'PY'
import sys, urllib.request, urllib.parse
print(urllib.request.urlopen(sys.argv[1] + "?key=" + urllib.parse.quote(sys.argv[2], safe="")).read().decode())
PY
)
token=$(grep -oE '[0-9a-f]{32}' <<<"$token" | head -n 1)
equal ${#token} 32
run 0 metadata get --metadata_server="$uri" "mooncake/token/$name"; has redacted; lacks "$token"
run 0 metadata ls --metadata_server="$uri" --values; has "mooncake/token/$name"; lacks "$token"
run 0 metadata ls --metadata_server="$uri" --json; is_json; lacks "$token"

echo "# memory"
run 0 memory ls; has "$name"; has "$target"
run 0 memory ls --json; is_json
equal "$(value "[m['holder_pid'] for m in d if m['name'] == '$name'][0]")" "$target"
run 0 memory show "$name"; has "$target"; has "content id"
run 0 memory show --json "$name"; is_json
run 1 memory revoke "$name"; has "--yes"
run 1 memory show "$name-that-is-not"; has "there is no memory"
run 1 memory unlink "$name"; has "process $target"
kill -9 "$target"
wait "$target" 2>/dev/null || true
run 0 memory ls --json
equal "$(value "[m['holder_pid'] for m in d if m['name'] == '$name'][0]")" None
run 0 memory unlink "$name"
run 1 memory unlink "$name"; has "no memory"
run 1 memory unlink ../etc

echo "# without a server"
"$B/bin/transfer_engine_bench" --mode=target --metadata_server=P2PHANDSHAKE --local_server_name=127.0.0.1 \
	--buffer_size=1M >"$dir/p2p" 2>&1 &
pids+=($!)
await "$dir/p2p" Ready
segment=$(grep -oE 'segment_id=[^ ]+' "$dir/p2p" | head -n 1)
run 0 segment show --metadata_server=P2PHANDSHAKE "${segment#segment_id=}"; has rw
run 2 segment ls --metadata_server=P2PHANDSHAKE; has "no metadata service"
run 1 segment show --metadata_server=P2PHANDSHAKE 192.0.2.1:15000; has "--insecure"
run 1 segment show --metadata_server=P2PHANDSHAKE --insecure no.such.host.invalid:1; has "'no.such.host.invalid' is not known"
# The name says where it listens; other loopback addresses than the usual one too.
"$B/bin/transfer_engine_bench" --mode=target --metadata_server=P2PHANDSHAKE --local_server_name='[::1]:0' \
	--buffer_size=1M >"$dir/p2p6" 2>&1 &
pids+=($!)
await "$dir/p2p6" Ready
segment=$(sed -n "s/.*segment_id='*\([^ ']*\).*/\1/p" "$dir/p2p6" | head -n 1)
[[ $segment == "[::1]:"* ]] || { echo "asked for ::1, got $segment"; exit 1; }
run 0 segment show --metadata_server=P2PHANDSHAKE --transports=tcp "$segment"; has rw; has tcp

echo "# doctor"
run 0 doctor --metadata_server="$uri"; has "answers in"; has "memlock"; has " 0 failures"
run 1 doctor --metadata_server=http://127.0.0.1:1/metadata; has "fix:"; has "1 failure"
run 1 doctor --config="$dir/bad.yaml"; has "engine.prt"
run 0 doctor --key_file="$dir/key" --json; is_json; lacks "$(cat "$dir/key")"
equal "$(value "d['failures']")" 0
has "$id"
chmod 644 "$dir/key"
run 1 doctor --key_file="$dir/key"; has "chmod 600"
http_proxy=http://127.0.0.1:9 run 0 doctor --metadata_server="$uri"; has '$http_proxy is set'; has "answers in"
run 2 doctor one two
run 1 doctor --metadata_server="$uri" nobody-$$; has "nobody-$$"; has "fix: start it"
if [ -z "$(ls /sys/class/infiniband 2>/dev/null)" ]; then
	run 0 doctor; has "no device; data moves over TCP"
	run 1 doctor --metadata_server=P2PHANDSHAKE "$segment"; has "is reached over TCP"; has "none could be tried"
	run 1 doctor --device_name=mlx5_0; has "RDMA engine"
fi

echo "# bench, and where it is looked for"
run 0 bench --help; has transfer_engine_bench
mkdir "$dir/bin"
cp "$B/bin/mooncake" "$dir/bin"
got=0
out=$(PATH=/nonexistent LD_LIBRARY_PATH=$B "$dir/bin/mooncake" bench 2>&1) || got=$?
equal "$got" 1
has "neither beside this program nor in the PATH"

echo "# completion"
complete_line() {
	bash --norc -c '
		PATH=$1:$PATH
		. scripts/completion.bash
		shift
		compopt() { :; }
		COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
		case $1 in mooncake) _mooncake "$1" ;; *) _mooncake_tool "$1" ;; esac
		echo "${COMPREPLY[@]}"' bash "$B/bin" "$@"
}
equal "$(complete_line mooncake doc)" doctor
equal "$(complete_line mooncake segment "")" "ls show --help"
equal "$(complete_line mooncake topology --ma)" --matrix
equal "$(complete_line mooncake segment show --transp)" --transports
equal "$(complete_line transfer_engine_bench --metadata_s)" --metadata_server=
equal "$(complete_line transfer_engine_bench --mode = ini)" initiator
equal "$(complete_line mooncake-metadata-server --max_b)" --max_bytes=

echo "# output that cannot be written is an error"
for command in topology "config show --json"; do
	got=0
	# shellcheck disable=SC2086 # words
	"$B/bin/mooncake" $command >/dev/full 2>"$dir/full" || got=$?
	equal "$got" 1
	grep -q "cannot write the output" "$dir/full" && ! grep -q Success "$dir/full" || { cat "$dir/full"; exit 1; }
done

echo "# installed: each tool finds its completion; uninstalled: nothing is left"
make -s B="$B" PREFIX=/p DESTDIR="$dir/root" install >/dev/null
completions=$dir/root/p/share/bash-completion/completions
for name in mooncake transfer_engine_bench mooncake-metadata-server; do
	grep -q "complete -F" "$completions/$name" || { echo "no completion for $name"; exit 1; }
done
make -s B="$B" PREFIX=/p DESTDIR="$dir/root" uninstall >/dev/null
equal "$(find "$dir/root" ! -type d)" ""
echo passed
