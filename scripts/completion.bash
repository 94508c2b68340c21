# bash completion for mooncake, transfer_engine_bench, p2p-store-example and mooncake-metadata-server.
# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Flags are read from the tools' own --help, so that they cannot drift apart.

_mooncake_flags() {
	"$@" --help 2>/dev/null </dev/null | grep -oE -- '^ +--[a-z0-9_]+' | tr -d ' '
}

# Values of a flag that has a known set; files for those that name one.
_mooncake_value() {
	local flag=$1 value=$2 words=
	case $flag in
	--mode) words="initiator target" ;;
	--operation) words="read write" ;;
	--cmd) words="trainer inferencer" ;;
	--protocol | --transports) words="auto tcp shm rdma" ;;
	--role) words="metrics metadata admin" ;;
	--metadata_server) words="etcd:// redis:// http:// P2PHANDSHAKE" ;;
	--report_unit) words="GB GiB Gb MB MiB Mb KB KiB Kb" ;;
	--page_size) words="0 4K 2M 1G" ;;
	--memory) words="shared memfd anonymous named:" ;;
	*_file | --config | --nic_priority_matrix)
		mapfile -t COMPREPLY < <(compgen -f -- "$value")
		compopt -o filenames
		return
		;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$value")
	if [[ ${COMPREPLY[0]-} == *[:/] ]]; then compopt -o nospace; fi
}

# "--flag=va" arrives as the words --flag, =, va: COMP_WORDBREAKS has the "=". True if it was a value.
_mooncake_try_value() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} before=
	[ "$COMP_CWORD" -ge 2 ] && before=${COMP_WORDS[COMP_CWORD - 2]}
	if [[ $cur == "=" && $prev == --* ]]; then
		_mooncake_value "$prev" ""
	elif [[ $prev == "=" && $before == --* ]]; then
		_mooncake_value "$before" "$cur"
	else
		return 1
	fi
}

_mooncake_tool() {
	local cur=${COMP_WORDS[COMP_CWORD]}
	COMPREPLY=()
	_mooncake_try_value && return
	mapfile -t COMPREPLY < <(compgen -W "$(_mooncake_flags "$1")" -S = -- "$cur")
	compopt -o nospace
}

_mooncake() {
	local cur=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]-} sub=${COMP_WORDS[2]-} words=
	COMPREPLY=()
	if [ "$COMP_CWORD" = 1 ]; then
		words="doctor topology segment metadata key config memory p2p bench --help --version"
	elif [ "$COMP_CWORD" = 2 ]; then
		case $command in
		segment) words="ls show --help" ;;
		metadata) words="ls get --help" ;;
		key) words="new show id --help" ;;
		config) words="check show --help" ;;
		memory) words="ls show revoke unlink --help" ;;
		p2p) words="register get ls rm watch --help" ;;
		esac
	fi
	if [ -n "$words" ]; then
		mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
		return
	fi
	_mooncake_try_value && return
	case $command in
	doctor | topology | bench) words=$(_mooncake_flags "$1" "$command") ;;
	segment | metadata | key | config | memory | p2p) words=$(_mooncake_flags "$1" "$command" "$sub") ;;
	esac
	if [[ $cur != -* ]]; then
		case "$command $sub" in
		"p2p register" | "p2p get" | "key new" | "key show" | "key id" | "config check" | "config show")
			mapfile -t COMPREPLY < <(compgen -f -- "$cur")
			compopt -o filenames
			return
			;;
		"memory unlink" | "memory show" | "memory revoke")
			words=$("$1" memory ls --json 2>/dev/null | sed -n 's/.*"name": "\([^"]*\)".*/\1/p')
			mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
			return
			;;
		esac
	fi
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}

complete -F _mooncake mooncake
complete -F _mooncake_tool transfer_engine_bench mooncake-metadata-server p2p-store-example
