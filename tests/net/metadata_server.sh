#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# mooncake-metadata-server as a user meets it: flags, mistakes, exit codes, clients by the thousand, signals.
set -eu
B=${B:-build}
server=$B/bin/mooncake-metadata-server
clients=$B/tests/net/metadata_clients
command -v curl >/dev/null || { echo "curl is not installed"; exit 77; }
unset MOONCAKE_KEY_FILE MOONCAKE_CONFIG
tmp=$(mktemp -d)
pid=
cleanup() {
	[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true
	rm -rf "$tmp"
}
trap cleanup EXIT
die() { echo "FAIL: $*"; exit 1; }
http() { curl -sS --noproxy '*' -m 10 "$@"; }
status() { curl -sS --noproxy '*' -m 10 -o /dev/null -w '%{http_code}' "$@"; }

# start FLAGS...: runs it, sets $pid, $url, $port from the start line
start() {
	: >"$tmp/out" # the one of the run before must not be taken for ours
	"$server" "$@" >"$tmp/out" 2>"$tmp/err" &
	pid=$!
	for _ in $(seq 200); do
		url=$(sed -n 's/^mooncake-metadata-server listening on //p' "$tmp/out")
		[ -z "$url" ] || break
		kill -0 "$pid" 2>/dev/null || { cat "$tmp/err"; die "it ended at once: $*"; }
		sleep 0.05
	done
	[ -n "$url" ] || die "no start line: $*"
	port=$(echo "$url" | sed -E 's/.*:([0-9]+)\/metadata$/\1/')
}
# stop SIGNAL: it must end with 0, and soon
stop() {
	local from=$SECONDS rc=0
	kill "-$1" "$pid"
	wait "$pid" || rc=$?
	pid=
	[ "$rc" = 0 ] || die "SIG$1 ended it with $rc: $(cat "$tmp/err")"
	[ $((SECONDS - from)) -le 5 ] || die "SIG$1 took it $((SECONDS - from)) s"
}
# refused RC WORD FLAGS...: exit status, and one line on stderr with the word in it
refused() {
	local want=$1 word=$2 rc=0
	shift 2
	timeout 10 "$server" "$@" >"$tmp/out" 2>"$tmp/err" || rc=$?
	[ "$rc" = "$want" ] || die "$*: exit status $rc instead of $want"
	grep -qF -- "$word" "$tmp/err" || die "$*: '$word' is not in: $(cat "$tmp/err")"
	[ "$(wc -l <"$tmp/err")" = 1 ] || die "$*: more than one line: $(cat "$tmp/err")"
	[ ! -s "$tmp/out" ] || die "$*: something on stdout: $(cat "$tmp/out")"
}

# help and version
"$server" --help | grep -q -- '--log_file' || die "--help"
"$server" --version | grep -q '[0-9]\.[0-9]' || die "--version"

# mistakes: one sentence, exit 2
refused 2 prot --prot 8080
refused 2 port --port=70000
refused 2 port --port 80a
refused 2 max_bytes --max_bytes=lots
refused 2 addr --addr 8080
refused 2 addr --addr :99999
refused 2 addr --addr :8080 --port 8081
refused 2 log_file --log_file
refused 2 somewhere somewhere
# what cannot be served: one sentence, exit 1
refused 1 --insecure --port 0 --bind 0.0.0.0
refused 1 "$tmp/nowhere/log" --port 0 --log_file "$tmp/nowhere/log"
refused 1 "$tmp/nokey" --port 0 --key_file "$tmp/nokey"
refused 2 --cert_key_file --port 0 --cert_file "$tmp/cert"
echo "this is not a log" >"$tmp/other"
refused 1 "$tmp/other" --port 0 --log_file "$tmp/other"

# spellings of flags
start -port 0 --bind=127.0.0.1 --max-bytes 64MiB
[ "$url" = "http://127.0.0.1:$port/metadata" ] || die "start line: $url"
refused 1 "$port" --port "$port"
[ "$(http "$url?key=x")" = "metadata not found" ] || die "GET of nothing"
[ "$(http -X PUT -d '{"a":1}' "$url?key=mooncake%2Fram%2Fx")" = "metadata updated" ] || die "PUT"
[ "$(http "$url?key=mooncake/ram/x")" = '{"a":1}' ] || die "GET"
[ "$(http "http://127.0.0.1:$port/health")" = OK ] || die "health"
stop TERM
start -addr ":$port"
[ "$url" = "http://127.0.0.1:$port/metadata" ] || die "-addr: $url"
stop INT
start --addr "[::1]:0" 2>/dev/null && { [ "$url" = "http://[::1]:$port/metadata" ] || die "v6: $url"; stop TERM; }

# --json
: >"$tmp/out"
"$server" --port 0 --json >"$tmp/out" 2>"$tmp/err" &
pid=$!
for _ in $(seq 200); do [ -s "$tmp/out" ] && break; sleep 0.05; done
grep -qE '^\{.*"url":"http://127.0.0.1:[0-9]+/metadata".*"pid":'"$pid"'.*\}$' "$tmp/out" || die "--json: $(cat "$tmp/out")"
stop TERM

# a log file: kill -9, restart, the keys are there; one writer at a time
start --port 0 --log-file "$tmp/log"
for i in $(seq 20); do http -o /dev/null -X PUT -d "v$i" "$url?key=k$i"; done
[ "$(stat -c %a "$tmp/log")" = 600 ] || die "others may read the log file"
refused 1 "pid $pid" --port 0 --log_file "$tmp/log"
kill -9 "$pid"
wait "$pid" 2>/dev/null || true
pid=
printf 'torn' >>"$tmp/log"
start --port 0 --log_file "$tmp/log"
grep -q torn "$tmp/err" || die "the torn end was not told of: $(cat "$tmp/err")"
for i in $(seq 20); do [ "$(http "$url?key=k$i")" = "v$i" ] || die "k$i was lost"; done
stop TERM
[ -s "$tmp/log" ] || die "the log file vanished"

# a cluster key, from the environment
printf '%064d\n' 7 >"$tmp/key"
chmod 644 "$tmp/key"
refused 1 "$tmp/key" --port 0 --key_file "$tmp/key"
chmod 600 "$tmp/key"
export MOONCAKE_KEY_FILE=$tmp/key
start --port 0
unset MOONCAKE_KEY_FILE
[ "$(status "$url?key=k")" = 401 ] || die "no token was needed"
[ "$(status -H "Authorization: Bearer 0" "$url?key=k")" = 401 ] || die "a wrong token was taken"
[ "$(http "http://127.0.0.1:$port/health")" = OK ] || die "health needs a token"
stop TERM
refused 1 --cert_file --port 0 --bind 0.0.0.0 --key_file "$tmp/key"

# clients by the thousand
start --port 0
rc=0
"$clients" "$port" 1000 || rc=$?
if [ "$rc" = 77 ]; then
	echo "the limit of open files is too low for 1000 clients; tried with 200"
	"$clients" "$port" 200
elif [ "$rc" != 0 ]; then
	die "1000 clients"
elif [ "$(ulimit -Hn)" = unlimited ] || [ "$(ulimit -Hn)" -ge 6000 ]; then
	"$clients" "$port" 5000 || die "5000 clients"
fi
count=$(http "$url?prefix=client%2F" | grep -o '"key"' | wc -l)
[ "$count" -ge 200 ] || die "only $count keys are listed"
stop TERM
echo "metadata server: all well"
