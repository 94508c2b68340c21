#!/usr/bin/env bash
# The P2P store with real processes: one trainer and several inferencers, files and directories, deaths of seed and
# receiver in the middle, resuming, a metadata service that goes away, wrong keys and wrong sizes.
# shellcheck source=tests/net/common.sh disable=SC2034
. "$(dirname "$0")/common.sh"
example=$B/bin/p2p-store-example
[ -x "$example" ] || skip "built without the P2P store"
mkdir "$dir/data"
start_server

get() { "$tool" p2p get --metadata_server="$uri" --advertise=127.0.0.1 "$@"; }
register() { # LOG NAME PATH [FLAGS]: serves in the background; its pid is in $pid
	background "$1" "$tool" p2p register --metadata_server="$uri" --advertise=127.0.0.1 "${@:4}" "$2" "$3"
	until_true 60 grep -q '^Serving' "$dir/$1"
}
# ls_field NAME FIELD: a number of an object as ls tells it
ls_field() { "$tool" p2p ls --metadata_server="$uri" --json "$1" | jq -r --arg n "$1" '[.[] | select(.name == $n)][0].'"$2"; }
is() { [ "$(ls_field "$1" "$2")" = "$3" ]; }
head -c 300000001 /dev/urandom >"$dir/data/big"

echo "--- one trainer, three inferencers, over each path"
for protocol in tcp auto; do
	background trainer "$example" --cmd=trainer --metadata_server="$uri" --local_server_name=trainer --advertise=127.0.0.1 \
		--protocol=$protocol --file_size_mb=128
	trainer=$pid
	until_true 30 grep -q '^Idle for 100 seconds' "$dir/trainer"
	grep -q '^\[{foo/bar 67108864 134217728 \[134217728\]}\]$' "$dir/trainer" || die "the classic line of the list is not there"
	waits=()
	for i in 1 2 3; do
		background "inferencer$i" "$example" --cmd=inferencer --metadata_server="$uri" --local_server_name="inferencer$i" \
			--advertise=127.0.0.1 --protocol=$protocol --file_size_mb=128
		waits+=("$pid")
	done
	for i in 1 2 3; do
		wait "${waits[i - 1]}" || die "inferencer $i over $protocol failed"
		[ "$(tail -n 1 "$dir/inferencer$i")" = "ALL DONE" ] || die "inferencer $i did not say ALL DONE"
	done
	kill "$trainer"
	wait "$trainer" || die "the trainer did not end well"
	tail -n 1 "$dir/trainer" | grep -q '^Simulated training process stopped gracefully' || die "no last line of the trainer"
	is foo/bar name null || die "the object is still listed"
done

echo "--- mistakes are told"
rc=0; "$example" --cmd=inferencer --metadata_server="$uri" --object=no/such --file_size_mb=1 --wait=1 >"$dir/unknown" 2>&1 || rc=$?
[ $rc = 1 ] && grep -q 'no/such' "$dir/unknown" || die "an unknown object: status $rc"
register seed obj "$dir/data/big"
seed=$pid
rc=0; "$example" --cmd=inferencer --metadata_server="$uri" --advertise=127.0.0.1 --object=obj --file_size_mb=1 >"$dir/size" 2>&1 || rc=$?
[ $rc = 1 ] && grep -q 300000001 "$dir/size" && grep -q 1048576 "$dir/size" || die "a wrong size: status $rc"
head -c 1000 /dev/urandom >"$dir/data/other"
rc=0; timeout 20 "$tool" p2p register --metadata_server="$uri" --advertise=127.0.0.1 obj "$dir/data/other" >"$dir/taken" 2>&1 || rc=$?
[ $rc = 1 ] && grep -q "'obj'" "$dir/taken" || die "a name that is taken: status $rc"

echo "--- a file arrives whole; who has it serves it after the seed was killed; a new seed may join"
get obj "$dir/data/copy" --json >"$dir/get1" || die "get failed"
cmp "$dir/data/big" "$dir/data/copy" || die "a wrong byte"
[ "$(jq .fetched "$dir/get1")" = 300000001 ] || die "not exactly one copy was fetched"
[ ! -e "$dir/data/copy.part" ] || die "a .part was left"
background keeper "$tool" p2p get --metadata_server="$uri" --advertise=127.0.0.1 --serve obj "$dir/data/kept"
keeper=$pid
until_true 30 grep -q '^Serving' "$dir/keeper"
is obj holders 2 || die "the keeper is not counted as a holder"
kill -9 "$seed"
get obj "$dir/data/copy2" >"$dir/get2" || die "get from another receiver failed"
cmp "$dir/data/big" "$dir/data/copy2" || die "a wrong byte from another receiver"
until_true 30 is obj seeds 0
kill "$keeper"
wait "$keeper" || die "the keeper did not end well"
is obj name null || die "the last member left, and the record stayed"

echo "--- the seed is killed in the middle: what is missing is told, what came is kept, a new seed finishes it"
caught=no
for nap in 0.25 0.15 0.1 0.05 0.3 0.4; do
	rm -f "$dir/data/mid" "$dir/data/mid.part"
	register seed2 mid "$dir/data/big"
	seed=$pid
	background getter "$tool" p2p get --metadata_server="$uri" --advertise=127.0.0.1 --protocol=tcp --json mid "$dir/data/mid"
	getter=$pid
	sleep $nap
	kill -9 "$seed"
	sleep 1
	if [ -e /proc/"$getter" ] && [ -e "$dir/data/mid.part" ]; then caught=yes; break; fi
	wait "$getter" || true
	until_true 30 is mid members 0
	"$tool" p2p rm --metadata_server="$uri" mid || die "rm of a dead object failed"
done
[ $caught = yes ] || die "the seed was never killed in the middle"
until_true 30 grep -q 'waiting for a new seed' "$dir/getter"
register seed3 mid "$dir/data/big"
seed=$pid
wait "$getter" || die "the new seed did not help"
cmp "$dir/data/big" "$dir/data/mid" || die "a wrong byte after a new seed"

echo "--- a receiver is killed in the middle: started again it goes on with what it has"
caught=no
for nap in 0.35 0.25 0.15 0.5 0.1 0.7; do
	rm -f "$dir/data/again" "$dir/data/again.part"
	background getter "$tool" p2p get --metadata_server="$uri" --advertise=127.0.0.1 --protocol=tcp --json mid "$dir/data/again"
	getter=$pid
	sleep $nap
	kill -9 "$getter"
	wait "$getter" 2>/dev/null || true
	[ -e "$dir/data/again.part" ] || continue
	get mid "$dir/data/again" --json >"$dir/resumed" || die "the second try failed"
	cmp "$dir/data/big" "$dir/data/again" || die "a wrong byte after resuming"
	[ "$(jq '.reused + .fetched' "$dir/resumed")" = 300000001 ] || die "something was fetched that was here: $(cat "$dir/resumed")"
	if [ "$(jq '.reused > 0 and .fetched > 0' "$dir/resumed")" = true ]; then caught=yes; break; fi
done
[ $caught = yes ] || die "the receiver was never killed in the middle"

echo "--- the metadata service goes away in the middle, and comes back"
kill -STOP "$server"
background getter "$tool" p2p get --metadata_server="$uri" --advertise=127.0.0.1 mid "$dir/data/stopped"
getter=$pid
sleep 1
kill -CONT "$server"
wait "$getter" || die "a service that was stopped for a second was too much"
cmp "$dir/data/big" "$dir/data/stopped" || die "a wrong byte"
kill "$seed"
wait "$seed" || die "a seed did not end well"

echo "--- a directory, with empty files, odd names and modes"
mkdir -p "$dir/data/tree/a b/c" "$dir/data/tree/empty"
head -c 5000000 /dev/urandom >"$dir/data/tree/a b/weights.bin"
head -c 1 /dev/urandom >"$dir/data/tree/one"
: >"$dir/data/tree/a b/c/nothing"
echo '#!/bin/sh' >"$dir/data/tree/run"
chmod 750 "$dir/data/tree/run"
ln -s one "$dir/data/tree/link"
register treelog ckpt/step-1 "$dir/data/tree"
tree=$pid
grep -q "link' is left out" "$dir/treelog" || die "the link was left out in silence"
get ckpt/step-1 "$dir/data/out" >"$dir/get3" || die "get of a directory failed"
rm "$dir/data/tree/link"
diff -r "$dir/data/tree" "$dir/data/out" || die "the directory differs"
[ "$(stat -c %a "$dir/data/out/run")" = 750 ] || die "the mode was lost"
[ -d "$dir/data/out/empty" ] || die "the empty directory was lost"
kill "$tree"
wait "$tree" || die "the seed of the directory did not end well"

echo "--- a directory by a link to it, two files alike, to a path with a slash behind and into one that is not there"
mkdir "$dir/data/twins" "$dir/data/twins/sub"
head -c 100000 /dev/urandom >"$dir/data/twins/a"
cp "$dir/data/twins/a" "$dir/data/twins/sub/again"
chmod 700 "$dir/data/twins/sub/again"
head -c 100000 /dev/urandom >"$dir/data/twins/b" # as long, and not alike
ln -s twins "$dir/data/latest"
register twinlog ckpt/twins "$dir/data/latest"
tree=$pid
get ckpt/twins "$dir/data/pair/" >"$dir/get4" 2>&1 || die "get of a directory with two files alike failed"
diff -r "$dir/data/twins" "$dir/data/pair" || die "the directory with two files alike differs"
[ "$(stat -c %a "$dir/data/pair/sub/again")" = 700 ] || die "the mode of the second was lost"
rc=0; get ckpt/twins "$dir/data/no/such" >"$dir/nowhere" 2>&1 || rc=$?
[ $rc = 1 ] && grep -q "directory is not there" "$dir/nowhere" || die "a directory that is not there: status $rc"
mkdir "$dir/data/odd"
: >"$dir/data/twins/nothing"
kill "$tree"
wait "$tree" || die "the seed of the twins did not end well"
register twinlog ckpt/twins "$dir/data/twins/"
tree=$pid
mkfifo "$dir/data/odd/nothing"
rc=0; timeout -s KILL 20 "$tool" p2p get --metadata_server="$uri" --advertise=127.0.0.1 ckpt/twins "$dir/data/odd" >"$dir/fifo" 2>&1 || rc=$?
[ $rc = 1 ] && grep -q "odd/nothing" "$dir/fifo" || die "a pipe in the place of an empty file: status $rc"
kill "$tree"
wait "$tree" || die "the seed of the twins did not end well the second time"

echo "--- a signal ends a directory of many small files, in the middle of hashing and of fetching"
mkdir "$dir/data/many"
for i in $(seq 300); do echo "$i" >"$dir/data/many/$i"; done
background manylog "$tool" p2p register --metadata_server="$uri" --advertise=127.0.0.1 ckpt/many "$dir/data/many"
until_true 30 grep -q root "$dir/manylog"
kill "$pid"
rc=0; wait "$pid" || rc=$?
[ $rc = 1 ] && ! grep -q '^Serving' "$dir/manylog" || die "a signal while it registers: status $rc"
register manylog ckpt/many "$dir/data/many"
tree=$pid
background getter "$tool" p2p get --metadata_server="$uri" --advertise=127.0.0.1 --parallel=16 ckpt/many "$dir/data/few"
until_true 30 test -e "$dir/data/few/1"
kill "$pid"
rc=0; wait "$pid" || rc=$?
[ $rc = 1 ] || die "a signal between two files: status $rc"
[ "$(find "$dir/data/few" -type f | wc -l)" -lt 300 ] || die "a signal between two files was forgotten"
get ckpt/many "$dir/data/few" >"$dir/get5" || die "it does not go on after a signal"
diff -r "$dir/data/many" "$dir/data/few" || die "the directory of many files differs"
kill "$tree"
wait "$tree" || die "the seed of many files did not end well"

echo "--- without a metadata service: by root, from a named peer"
background lone "$example" --cmd=trainer --metadata_server=P2PHANDSHAKE --file_size_mb=16
lone=$pid
until_true 30 grep -q '^Receivers' "$dir/lone"
read -r -a receivers < <(sed -n 's/^Receivers: p2p-store-example//p' "$dir/lone")
"$example" "${receivers[@]}" >"$dir/alone" 2>&1 || die "the command that the trainer prints failed"
grep -q '^ALL DONE' "$dir/alone" || die "no ALL DONE without a metadata service"
kill "$lone"
wait "$lone" || die "the trainer without a service did not end well"

echo "--- who has not the key gets nothing"
kill "$server"
wait "$server" 2>/dev/null || true
"$tool" key new "$dir/key" >/dev/null
"$tool" key new "$dir/wrong" >/dev/null
server_flags="--key_file=$dir/key"
start_server
register keyed secret "$dir/data/other" --key_file="$dir/key"
keyed=$pid
get secret "$dir/data/mine" --key_file="$dir/key" >"$dir/get4" || die "get with the key failed"
for flags in "" "--key_file=$dir/wrong"; do
	rc=0
	# shellcheck disable=SC2086 # a word or none
	timeout 20 "$tool" p2p get --metadata_server="$uri" --advertise=127.0.0.1 $flags secret "$dir/data/stolen" >"$dir/thief" 2>&1 || rc=$?
	[ $rc = 1 ] && [ ! -e "$dir/data/stolen" ] || die "without the key: status $rc"
done
kill "$keyed"
wait "$keyed" || die "a seed with a key did not end well"
echo "all done"
