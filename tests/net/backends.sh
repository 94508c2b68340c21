#!/usr/bin/env bash
# The bench over each kind of metadata service, with the real servers: etcd (two endpoints given, the first dead),
# redis with a password, and none (P2PHANDSHAKE). A proxy in the environment must not capture any of it.
# shellcheck source=tests/net/common.sh disable=SC2034
. "$(dirname "$0")/common.sh"
command -v etcd >/dev/null || skip "etcd is not installed (package etcd-server)"
command -v redis-server >/dev/null || skip "redis is not installed (package redis-server)"
export http_proxy=http://127.0.0.1:9 https_proxy=http://127.0.0.1:9 HTTP_PROXY=http://127.0.0.1:9 ALL_PROXY=http://127.0.0.1:9

free_port() { # a port that nobody listens on at this moment
	local port
	while :; do
		port=$((20000 + RANDOM % 10000))
		(exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo $port; return; }
	done
}

run() { # NAME: target and initiator over $uri
	echo "--- $1"
	start_target "$1" ${flags:-}
	initiator "init-$1" "$1" ${flags:-} --check --duration=1 >"$dir/run-$1" 2>&1 || die "no transfer over $1"
	kill "$target"
	until_true 10 test ! -e /proc/"$target"
}

objects() { # NAME: trainer and inferencer of the P2P store over $uri
	background "trainer-$1" "$B/bin/p2p-store-example" --cmd=trainer --metadata_server="$uri" --local_server_name="trainer-$1" --file_size_mb=8
	trainer=$pid
	until_true 30 grep -q '^Idle' "$dir/trainer-$1"
	"$B/bin/p2p-store-example" --cmd=inferencer --metadata_server="$uri" --local_server_name="inferencer-$1" --file_size_mb=8 >"$dir/inferencer-$1" 2>&1 ||
		die "no object over $1"
	kill "$trainer"
	until_true 10 test ! -e /proc/"$trainer"
}

port=$(free_port) peer=$(free_port) dead=$(free_port)
background etcd etcd --data-dir "$dir/etcd-data" --listen-client-urls "http://127.0.0.1:$port" --advertise-client-urls "http://127.0.0.1:$port" \
	--listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" --initial-cluster "default=http://127.0.0.1:$peer"
until_true 20 env -u http_proxy -u ALL_PROXY curl -sf "http://127.0.0.1:$port/health"
uri="etcd://127.0.0.1:$dead,127.0.0.1:$port" run etcd
uri="127.0.0.1:$port" run etcd-bare
uri="127.0.0.1:$port" objects etcd
[ -z "$(ETCDCTL_API=3 etcdctl --endpoints "127.0.0.1:$port" get --prefix mooncake/ --keys-only 2>/dev/null)" ] || die "a clean exit left keys in etcd"

port=$(free_port)
background redis redis-server --port "$port" --bind 127.0.0.1 --requirepass sesame --save '' --dir "$dir"
until_true 10 redis-cli -p "$port" -a sesame --no-auth-warning ping
export MC_REDIS_PASSWORD=sesame
uri="redis://127.0.0.1:$port" run redis
uri="redis://127.0.0.1:$port" objects redis
rc=0
uri="redis://127.0.0.1:$port"
MC_REDIS_PASSWORD=wrong initiator wrong redis --duration=1 >"$dir/wrong" 2>&1 || rc=$?
[ $rc = 1 ] || die "a wrong redis password gave status $rc"
if grep -q sesame "$dir/wrong"; then die "a password was printed"; fi

echo "--- none"
uri=P2PHANDSHAKE
start_target 127.0.0.1
name=$(grep -oE 'segment_id=[^ ]+' "$dir/target-127.0.0.1" | head -n 1 | cut -d= -f2)
initiator 127.0.0.1 "$name" --check --duration=1 >"$dir/run-p2p" 2>&1 || die "no transfer without a metadata service"
