#!/bin/sh
# bites.sh EXT OUT - break the core on purpose, one way at a time; each broken
# core must be caught by the program named, for the reason named.
ext=$1
out=$2
caught=0
missed=0

miss() {
    echo "bites: $1: $2"
    missed=$((missed + 1))
}

# bite NAME FILE SED VARIANT TARGET REASON
bite() {
    dir=$out/$1
    rm -rf "$dir"
    mkdir -p "$dir/ext"
    cp -r "$ext/include" "$ext/core" "$ext/sockopt" "$dir/ext"
    sed "$3" "$ext/$2" >"$dir/ext/$2"
    if cmp -s "$ext/$2" "$dir/ext/$2"; then
        miss "$1" "the source has changed, this one breaks nothing now"
        return
    fi
    program=$dir/$4/$5
    if ! make --no-print-directory EXT="$dir/ext" OUT="$dir" VARIANT="$4" \
        "$program" >"$dir/build" 2>&1; then
        miss "$1" "does not compile, see $dir/build"
        return
    fi
    if "$program" >"$dir/log" 2>&1; then
        miss "$1" "$5 passes"
    elif ! grep -q "$6" "$dir/log"; then
        miss "$1" "$5 fails, but not by '$6'"
    else
        caught=$((caught + 1))
    fi
}

linux=sockopt/linux.c
live=core/liveness.c

bite idle-first $linux \
    's/{KA_ENABLED, *KA_INT/{KA_IDLE, KA_INT/; s/, *KA_IDLE}/, KA_ENABLED}/' \
    plain test_apply everything_is_set_idle_last
bite half-way core/policy.c 's/put_back(sock, policy, &before, i)/put_back(sock, policy, \&before, 0)/' \
    plain test_apply failing_nth_set_puts_back
bite few-probes $linux 's/ka_options\[KA_COUNT\].range.high/9/' \
    plain test_question borrowing_disarms_before_it_asks
bite few-probes-fuzzed $linux 's/ka_options\[KA_COUNT\].range.high/9/' \
    plain smoke_liveness 'held\[KA_COUNT\].value == 127'
bite user-timeout-left $linux \
    's/saved->value\[KA_USER_TIMEOUT\] > 0/saved->value[KA_USER_TIMEOUT] > 9999/' \
    plain smoke_liveness 'held\[KA_USER_TIMEOUT\]'
bite hasty $live 's/< KA_ASK_SPACING_MS/< 1/' \
    plain test_question asks_are_750_ms_apart
bite wrong-socket $live 's/identity == question->identity ? 0 : -EBADF/0/' \
    plain test_question another_socket_is_never_touched
bite rst-is-life $live 's/case KA_TCP_CLOSE:/case 99:/' \
    plain test_verdict 'RST meanwhile is not life'
bite takes-the-error $linux \
    's/int unread = 0;/&\n    get_int(sock, SOL_SOCKET, SO_ERROR, \&unread);/' \
    plain test_info 'getsockopt(SO_ERROR)'
bite peeks $linux \
    's/int unread = 0;/&\n    recv(sock, \&unread, 1, MSG_PEEK);/' \
    plain test_verdict recv
bite reads-too-far $linux 's/offset + sizeof value > size/offset > size/' \
    plain test_info every_length_is_decoded
bite overflow $linux 's/socklen_t size = sizeof raw;/socklen_t size = 512;/' \
    asan test_info AddressSanitizer
bite shift $linux 's/found |= 1u << option/found |= 1 << (option + 30)/' \
    asan test_options 'runtime error'
bite race $linux \
    's/static _Atomic/static/; s/atomic_load_explicit(&cached, .*)/cached/; s/atomic_store_explicit(&cached, found, .*)/cached = found/' \
    tsan test_threads ThreadSanitizer
bite unset $live 's/verdict->unanswered = unanswered(info);/(void)unanswered;/' \
    msan smoke_liveness MemorySanitizer

if [ "$missed" -gt 0 ]; then
    echo "bites: $missed MISSED, $caught passed"
    exit 1
fi
echo "bites: $caught passed"
