#!/bin/sh
# windows_bites.sh EXT WORK RENAME - each of these broken variants of
# ext/sockopt/windows.c, and of the watcher over it, must be caught by a test
# over the fake Winsock.
ext=$1
work=$2
rename=$3
passed=0
failed=0

# The watcher, as windows.mk links it.
parts='watcher ward deed ending pace sample judge discover ring table table_scan'

sources() { # of a test
    [ "$1" = watch ] || return 0
    printf "$work/%s.c " $parts
    echo "$ext/diag/none.c"
}

variant() { # what is broken, the file, sed commands, the tests
    rm -rf "$work" && mkdir -p "$work" && cp "$ext"/sockopt/* "$ext"/core/* "$work/" || exit 1
    sed -i "$3" "$work/$2"
    verdict=missed
    if cmp -s "$work/$2" "$ext/sockopt/$2" || cmp -s "$work/$2" "$ext/core/$2"; then
        verdict='is no change'
    else
        for test in ${4:-options info}; do
            # shellcheck disable=SC2046,SC2086
            ${CC:-gcc} -std=c11 -w -D_WIN32 -DKA_NAMED_BY_ENDS=1 $rename -I. -I"$work" -Iwinsock \
                -I"$ext/include" -I"$ext/diag" -I"$ext/poll" "test_windows_$test.c" fake_winsock.c \
                "$ext/core/policy.c" "$ext/core/liveness.c" $(sources $test) -o "$work/test" \
                2>"$work/log" || {
                verdict='does not compile'
                break
            }
            timeout 20 "$work/test" >/dev/null 2>&1 || verdict=caught
        done
    fi
    if [ "$verdict" = caught ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "windows bites: $1: $verdict"
    fi
}

variant 'the idle time goes first' windows.c \
    's/{KA_ENABLED,      KA_INTERVAL, KA_COUNT,/{KA_IDLE, KA_INTERVAL, KA_COUNT,/
     s/KA_USER_TIMEOUT, KA_RTO_MAX,  KA_IDLE};/KA_USER_TIMEOUT, KA_RTO_MAX,  KA_ENABLED};/'
variant 'seconds are rounded down' windows.c 's|value / 1000 + (value % 1000 != 0)|value / 1000|'
variant 'the total is not kept' windows.c \
    's|interval_ms = interval_ms \* (uint64_t)count / KA_FIXED_PROBES;|;|'
variant 'idle alone is set' windows.c '/if (interval == KA_LEAVE)/{n;s/.*/interval = 1;/}'
variant 'interval alone is set' windows.c '/if (idle == KA_LEAVE)/{n;s/.*/idle = 7200;/}'
variant 'a count alone is dropped' windows.c \
    's|return refuse(-ENOPROTOOPT, KA_COUNT, fault);|return 0;|'
variant 'the pair leaves it on' windows.c 's|if (rc == 0 && !on) {|if (0) {|'
variant 'the pair is not put back' windows.c \
    's/\*changed |= 1u << KA_IDLE | 1u << KA_INTERVAL;/;/'
variant 'half a pair is put back' windows.c \
    's|return -ENOPROTOOPT; /\* half of a pair \*/|;|'
variant 'off is 0 to the kernel' windows.c \
    's|wanted = atomic_load_explicit(&ka_own_rt, memory_order_relaxed);|wanted = 0;|'
variant 'never is 24 days' windows.c 's|wanted = KA_RT_NEVER;|wanted = value;|'
variant 'Winsock is not let go' windows.c 's|^    WSACleanup();||'
variant 'a socket of its own is left' windows.c 's|^        closesocket(sock);||'
variant 'keepalive is not set' windows.c \
    's|rc = ka_set_in_order(sock, &first, changed, fault);|rc = 0;|'
variant 'ranges are not looked at first' windows.c \
    's|^            !in_range(option, policy->value\[option\]))|            0)|'
variant 'an interval overflows' windows.c 's|if (interval_ms > UINT32_MAX)|if (0)|'
variant 'one byte is read as four' windows.c \
    's|int held = 0, size = sizeof held;|int held = -1, size = sizeof held;|'
variant 'UDP looks like a wrong value' windows.c \
    's|int other = rc == -EINVAL ? want_tcp(sock) : rc;|int other = rc;|'
variant 'the end is not seen' windows.c 's|pending->rdhup = (seen & POLLHUP) != 0;|pending->rdhup = 0;|'
variant 'a listener fails' windows.c 's|^        unread = 0;|        return -EINVAL;|'
variant 'closed is never connected' windows.c 's|if (info->state == KA_TCP_CLOSE)|if (0)|'
variant 'only the newest version is asked' windows.c \
    's/if (rc == -EINVAL || rc == -EOPNOTSUPP)/if (0)/'
variant 'listening is not looked at' windows.c 's|if (kind.listening)|if (0)|'
variant 'a lost name is another name' windows.c \
    's/!= -ENOTCONN || has_ended(sock))/!= -ENOTCONN)/'
variant 'segments are rounded down' windows_layout.h 's|(in_flight + mss - 1) / mss|in_flight / mss|'
variant 'bytes are swapped' windows_layout.h \
    '/info->bytes_sent/s|, 48)|, 56)|'

variant 'a shut window has nothing waiting' windows_layout.h \
    's|if (in_flight == 0 && info->snd_wnd >= mss)|if (in_flight == 0)|'

core() { # what is broken, the file, sed commands
    variant "$1" "$2" "$3" 'duplicate watch'
}

core 'the duplicate is left' reserve_windows.c 's|(void)closesocket(reserve->sock);|;|'
core 'Winsock stays' reserve_windows.c 's|(void)WSACleanup();|;|'
core 'Winsock is not asked for' reserve_windows.c 's|if (!reserve->started)|if (0)|'
core 'children inherit it' reserve_windows.c 's/ | WSA_FLAG_NO_HANDLE_INHERIT//'
core 'a blocked call is left alone' reserve_windows.c 's|(void)CancelIoEx.*|;|'
core 'one way is left open' reserve_windows.c 's|SD_BOTH) != 0|1) != 0|'
core 'unread bytes are not asked for' reserve_windows.c 's|\*bytes = (int64_t)unread;|*bytes = 0;|'
core 'an age is rounded down' reserve_windows.c 's|((int64_t)seconds + 1) \* 1000|(int64_t)seconds * 1000|'
core 'whoever is not connected is old' reserve_windows.c 's|seconds == 0xFFFFFFFFu|0|'
core 'a stranger is acted on' deed.c 's|rc == 0 && identity == ward->identity|rc == 0|'
core 'the handle of the look before is used' pace.c \
    's|^    sock = watcher->reserve.sock;||;s|^    ka_sock sock;|    ka_sock sock = watcher->reserve.sock;|'
core 'an age that is not told is none' pace.c 's/if (age_ms < 0 ||/if (/'
core 'the age does not matter' pace.c 's|need = (age_ms + AGE_MARGIN_MS) / 1000 / count + 1;|need = 1;|'
core 'nobody is hastened' pace.c 's|if (need < interval)|if (0)|'
core 'the count has no pace' pace.c 's|if (meant(detect_ms, interval) < interval) {|if (0) {|'
core 'the count comes at once' pace.c 's|ward->count_ms = count_when(sock, now_ms);|ward->count_ms = now_ms;|'
core 'bytes that may wait are idle' ward.c 's|info->unacked <= 0 && info->notsent_bytes < 0|0|'
core 'an end of the peer is the end' ward.c \
    's/pending.error || (pending.rdhup && .*);/pending.error || pending.rdhup;/'
core 'an end in order is none' ward.c 's/pending.error || (pending.rdhup && .*);/pending.error;/'
core 'an end is not seen' ward.c 's/pending.error || (pending.rdhup && .*);/0;/'
core 'without a state it was never seen' ward.c 's|info->state >= 0 ? info->state : KA_SEEN|info->state|'

rm -rf "$work"
[ "$failed" -eq 0 ] || exit 1
echo "windows bites: $passed passed"
