#!/bin/sh
# windows_bites.sh EXT WORK RENAME - each of these broken variants of
# ext/sockopt/windows.c must be caught by a test over the fake Winsock.
ext=$1
work=$2
rename=$3
passed=0
failed=0

variant() { # what is broken, the file, sed commands
    rm -rf "$work" && mkdir -p "$work" && cp "$ext"/sockopt/* "$work/" || exit 1
    sed -i "$3" "$work/$2"
    verdict=missed
    if cmp -s "$work/$2" "$ext/sockopt/$2"; then
        verdict='is no change'
    else
        for test in options info; do
            # shellcheck disable=SC2086
            ${CC:-gcc} -std=c11 -w -D_WIN32 $rename -I. -I"$work" -Iwinsock -I"$ext/include" \
                -I"$ext/core" -I"$ext/poll" "test_windows_$test.c" fake_winsock.c \
                "$ext/core/policy.c" "$ext/core/liveness.c" -o "$work/test" 2>"$work/log" || {
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

rm -rf "$work"
[ "$failed" -eq 0 ] || exit 1
echo "windows bites: $passed passed"
