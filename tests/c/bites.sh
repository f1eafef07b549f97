#!/bin/sh
# bites.sh EXT OUT [PART PARTS] - break the core on purpose, one way at a time;
# each broken core must be caught by the program named, for the reason named.
# With PART and PARTS only every so many-th, so that several can run at once.
ext=$1
out=$2
part=${3:-0}
parts=${4:-1}
turn=0
caught=0
missed=0

miss() {
    echo "bites: $1: $2"
    missed=$((missed + 1))
}

# The objects of the sound core, which a bite shares but for what it breaks.
# They must not be older than any source: make goes by the time.
sound() { # VARIANT TARGET
    make --no-print-directory EXT="$ext" OUT="$out/sound" VARIANT="$1" \
        "$out/sound/$1/$2" >"$out/sound.log" 2>&1
}

# Most reasons are the name of a case: then no other one is waited for.
one_of() { # TARGET REASON PROGRAM
    if grep -qE "RUN(_FORKED)?\($2" "$1.c" 2>/dev/null; then
        TEST_ONLY=$2 "$3"
    else
        "$3"
    fi
}

# bite NAME FILE SED VARIANT TARGET REASON
bite() {
    turn=$((turn + 1))
    [ $((turn % parts)) -eq "$part" ] || return
    dir=$out/$1
    rm -rf "$dir"
    mkdir -p "$dir/ext"
    cp -rp "$ext/include" "$ext/core" "$ext/sockopt" "$ext/poll" "$ext/diag" "$dir/ext"
    sed "$3" "$ext/$2" >"$dir/ext/$2"
    if cmp -s "$ext/$2" "$dir/ext/$2"; then
        miss "$1" "the source has changed, this one breaks nothing now"
        return
    fi
    if ! sound "$4" "$5"; then
        miss "$1" "the sound core does not compile, see $out/sound.log"
        return
    fi
    cp -rp "$out/sound/$4" "$dir/$4"
    rm -f "$dir/$4/$5"
    touch "$dir/ext/$2"
    program=$dir/$4/$5
    if ! make --no-print-directory EXT="$dir/ext" OUT="$dir" VARIANT="$4" \
        "$program" >"$dir/build" 2>&1; then
        miss "$1" "does not compile, see $dir/build"
        return
    fi
    if one_of "$5" "$6" "$program" >"$dir/log" 2>&1; then
        miss "$1" "$5 passes"
    elif ! grep -q "$6" "$dir/log"; then
        miss "$1" "$5 fails, but not by '$6'"
    else
        caught=$((caught + 1))
    fi
    rm -rf "${dir:?}/$4" "$dir/ext"
}

mkdir -p "$out"

linux=sockopt/linux.c
live=core/liveness.c

bite idle-first $linux \
    's/{KA_ENABLED, *KA_INT/{KA_IDLE, KA_INT/; s/, *KA_IDLE}/, KA_ENABLED}/' \
    plain test_apply everything_is_set_idle_last
bite half-way core/policy.c 's/put_back(sock, &before, changed)/put_back(sock, \&before, 0)/' \
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
bite reads-too-far sockopt/raw.h 's/offset + sizeof value > size/offset > size/' \
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

epoll=poll/epoll.c
fallback=poll/pollfallback.c

bite no-growth $epoll 's/while (count == poller->room &&/while (count > poller->room \&\&/' \
    plain test_poller 'epoll more_than_the_array_holds'
bite undrained $epoll 's/if (unpack(\(.*\)))/if (unpack(\1) > 1)/' \
    plain test_poller 'epoll a_wake_comes_before_the_wait'
bite unpacks-over-unread $epoll 's/(size_t)room \* spare/(size_t)(room > 0) * spare/' \
    plain test_poller 'epoll tags_come_back_whole'
bite too-small $epoll 's/malloc((size_t)room/malloc((size_t)count/' \
    asan test_poller AddressSanitizer
bite closed-spins $fallback 's/drop(poller, place);/place++;/' \
    plain test_poller 'poll a_closed_descriptor_is_forgotten'
bite closed-ends-the-wait $fallback 's/rc != 0 || left == 0/rc >= 0/' \
    plain test_poller 'poll a_closed_descriptor_is_forgotten'
bite hole-left $fallback 's/if (((bucket - home) & mask) < .*/if (home <= mask)/' \
    plain test_poller 'poll any_order_of_calls'
bite tag-left $fallback 's/poller->tag\[place\] = poller->tag\[last\];//' \
    plain test_poller 'poll any_order_of_calls'
bite no-lag core/clock.c 's/(ms + ka_os_clock_lag_ms()/(ms/' \
    plain test_clock limits_are_never_early
bite wrong-side-of-fork core/os_posix.c 's/(NULL, NULL, count_fork)/(NULL, count_fork, NULL)/' \
    plain test_clock forks_are_counted_in_the_child

kqueue=poll/kqueue.c

bite half-added $kqueue 's/if (unwanted \&\& (rc < 0 || fresh))/if (unwanted \&\& rc >= 0 \&\& fresh)/' \
    plain kqueue/test_kqueue half_an_add_is_undone
bite readiness-lost $kqueue 's/fresh ? 0 : unwanted, error/unwanted, error/' \
    plain kqueue/test_kqueue a_failed_modify_changes_nothing
bite unwanted-left $kqueue 's/fresh ? 0 : unwanted, error/0, error/' \
    plain kqueue/test_kqueue two_filters_are_one_call
bite receipts-unread $kqueue 's/receipt\[i\].flags & EV_ERROR ? (int)receipt\[i\].data : 0/0/' \
    plain kqueue/test_kqueue half_an_add_is_undone
bite two-entries $kqueue 's/if (place->at < made \&\& ready\[place->at\].tag == place->tag)/if (0)/' \
    plain kqueue/test_kqueue both_filters_are_one_entry
bite stale-place $kqueue 's/if (place->at < made \&\& ready\[place->at\].tag == place->tag)/if (place->at < made)/' \
    plain kqueue/test_kqueue both_filters_are_one_entry
bite end-is-no-error $kqueue 's/event->flags & EV_EOF \&\& event->fflags/0/' \
    plain kqueue/test_kqueue ends
bite end-is-an-error $kqueue 's/event->flags & EV_EOF \&\& event->fflags/event->flags \& EV_EOF/' \
    plain kqueue/test_poller 'kqueue fin_is_readable'
bite wake-lost $kqueue 's/\*woken |= is_wake/*woken |= 0 \&\& is_wake/' \
    plain kqueue/test_kqueue growth_loses_no_wake
bite closes-anothers $kqueue 's/ \&\& poller->born == ka_os_fork_generation()//' \
    plain kqueue/test_kqueue a_child_closes_nothing_of_its_own
bite gone-is-an-error $kqueue 's/found == ENOENT \&\& interrupted/0 \&\& interrupted/' \
    plain kqueue/test_kqueue an_interrupted_change_is_made
bite handlers-errno $kqueue '/^static int kqueue_wake/,/^}/s/errno = before;/(void)before;/' \
    plain kqueue/test_poller 'kqueue a_signal_handler_wakes'
bite undrained-pipe $kqueue 's/ka_os_wake_drain(poller->wake);/(void)poller;/' \
    plain kqueue_pipe/test_poller 'kqueue a_wake_comes_before_the_wait'
bite array-too-short $kqueue 's/while (places <= fd)/while (places < fd)/' \
    asan kqueue/test_kqueue AddressSanitizer

loop=core/loop.c
registry=core/registry.c

bite one-look $loop \
    's/if (due || rc < 0) {/if (due \&\& rc >= 0) {\n take(loop, rc, now);\n expire(loop, now);\n } else if (rc < 0) {/' \
    plain test_loop_time after_a_wait_idleness_needs_a_second_look
bite interrupted-look $loop \
    's/} while (rc == -EINTR && --tries > 0);/} while (--tries < 0);\n    if (rc == -EINTR)\n        rc = 0;/' \
    plain test_loop_time an_interrupted_poll_calls_nobody_idle
bite no-stamp $loop 's/touched |= ka_place_touch(&place, now);//' \
    plain test_loop readiness_is_told_and_stamps
bite stale-told $loop 's/if (entry->generation != place.generation)/if (0)/' \
    plain test_loop a_dup_left_open_is_reported_no_more
bite stale-for-ever $loop 's/(void)renew(loop);/(void)0;/' \
    plain test_loop a_dup_left_open_is_reported_no_more
bite stop-counts $loop 's/if (excess <= 0)/if (excess <= 1 << 30)/' \
    plain test_loop_time a_long_callback_expires_nobody
bite parents-set $loop 's/unsigned generation = ka_os_fork_generation();/&\n    return 0;/' \
    plain test_loop a_child_that_only_removes_leaves_the_parent_s
bite parents-sleep $loop 's/return 0; .. it is the parent.*/(void)0;/' \
    plain test_loop a_child_has_a_set_of_its_own
bite stale-answer $loop 's/loop->waited = -EINTR;//' \
    asan test_loop a_fork_inside_a_round_looks_again
bite sleeps-on $registry 's/if (atomic_fetch_or(&loop->asleep, 0))/if (0)/' \
    plain test_loop_wake a_rescue_makes_a_sleeper_look_at_the_new_deadline
bite too-awake $loop 's/if (take_wake(loop) || loop->count > 0)/if (rc > 0 || take_wake(loop))/' \
    plain test_loop_wake a_rescue_does_not_end_a_round
bite closed-under-wakers $loop 's/ && atomic_load(&loop->wakers) == 0//' \
    tsan test_loop_wake ThreadSanitizer
bite late-limit $registry '/^int ka_loop_set_limit/,/^}/s/ka_moved(loop);//' \
    plain test_loop_time limits_change_and_rest

table=core/table.c

bite early core/table.h 's/last + limit + 1/last + limit/' \
    plain test_table never_early_never_late
bite rescued-for-ever $table 's/lower_both(place->page, place->slot .*;//' \
    plain test_table a_touch_rescues_what_is_due
bite any-generation core/table.h 's/(seen >> 32) != place->generation/(seen >> 32) == 0/' \
    plain test_table ids_go_stale
bite generation-0 $table 's/next ? next : 1/next/' \
    plain test_table generations_leave_0_out
bite big-is-late $table 's/ka_tick_since(now, bound) >= 0/now >= bound/' \
    plain test_table a_late_sweep_across_the_wrap
bite no-room-no-bound $table 's/sweep->full = 1;/&\n            return KA_NONE;/' \
    plain test_table_model 'a due entry was not claimed'
bite no-room-no-bound-fuzzed $table 's/sweep->full = 1;/&\n            return KA_NONE;/' \
    plain smoke_table 'next comes after a deadline'
bite always-from-the-start $table 's/table->cursor = index.*;/table->cursor = 0;/' \
    plain test_table the_sweep_goes_round
bite limitless-due $table 's/(limit == KA_NO_LIMIT)/(limit > KA_NO_LIMIT)/' \
    plain test_table without_a_limit
bite room-without-memory $table 's/    if (larger == NULL)/    table->room = room;\n&/' \
    asan test_table_memory 'null pointer'
# Races: what is broken is also made slow, so that it shows every time.
slow='for (volatile int spin = 3000; spin > 0; spin--) {}'
bite scan-then-store $table \
    "s/(void)atomic_exchange(&page->bound.block., KA_NEVER);//
    s/if (least != KA_NONE)/$slow atomic_store(\&page->bound[block], least == KA_NONE ? KA_NEVER : now + (ka_tick)least); if (0)/" \
    plain test_table_threads 'late is'
bite claim-by-store $table \
    "s/if (!atomic_compare_exchange_strong(&page->word.at., &seen,/$slow if (!atomic_exchange(\&page->word[at],/" \
    plain test_table_threads 'wrong_idle is'
bite touch-by-store $table \
    "s/} while (!atomic_compare_exchange_weak(/$slow } while (!atomic_exchange(place->word, make_word(place->generation, wanted)) \&\& !atomic_compare_exchange_weak(/" \
    plain test_table_threads 'late is\|strangers is'
bite unordered-growth $table \
    '/shared_pages, table->pages/,/;/s/memory_order_release/memory_order_relaxed/' \
    tsan test_table_threads ThreadSanitizer

stream=core/stream.c
conn=core/conn.c

bite no-linger $conn 's/if (rc < 0 || nothing_to_wait_for(conn))/if (nothing_to_wait_for(conn) || rc <= 0)/' \
    plain test_stream_ends closing_with_unread_input_loses_no_answer
bite spins-at-eof $conn 's/(KA_CONN_PAUSED | KA_CONN_PEER_DONE)/KA_CONN_PAUSED/' \
    plain test_stream the_peer_may_end_its_side_first
bite unsent-is-idle $conn 's/(void)ka_loop_pause(&stream->loop, conn->id);//' \
    plain test_stream_ends the_silent_one_ends_and_no_other
bite idle-by-hearsay $stream 's/idle_ms < (int64_t)limit/idle_ms < 0 * (int64_t)limit/' \
    plain test_stream_ends an_idle_one_is_rescued_before_its_turn
bite half-an-answer $conn \
    '/^int ka_conn_write(/,/^}/s/ka_conn_queue(stream, conn, KA_CONN_LOOK);/ka_conn_may_leave(stream, conn);/' \
    plain test_stream_ends an_owed_answer_is_given_before_age_ends_it
bite freed-too-early $conn \
    '/^void ka_conn_drop/,/^}/s/if (conn->flags & KA_CONN_TOLD)/if (1)/' \
    asan test_stream_ends AddressSanitizer
bite shed-for-nobody core/accept.c \
    's/(stream->accepts_left < KA_ACCEPTS || !make_room(stream))/!make_room(stream)/' \
    plain test_stream_accept one_too_many_sheds_the_longest_idle
bite told-without-end core/accept.c 's/stream->flags & KA_STREAM_REFUSING/0/' \
    plain test_stream_accept without_descriptors_the_listener_rests
bite out-of-order $conn 's/if (conn->buffered == 0) {/if (1) {/' \
    plain test_stream a_megabyte_is_echoed_through_small_buffers

monitor=core/monitor_posix.c
reserve=core/reserve_posix.c
ring=core/ring.c
diag=diag/linux.c

bite takes-signals $monitor 's/sigfillset(&all)/sigemptyset(\&all)/' \
    plain test_monitor no_signal_reaches_it
bite wall-clock $monitor 's/&attributes, CLOCK_MONOTONIC/\&attributes, CLOCK_REALTIME/' \
    plain test_monitor a_wait_takes_its_time
bite child-waits $monitor 's/if (monitor->born_in == getpid() &&/if (1 ||/' \
    plain test_monitor a_child_frees_without_waiting
bite dup-onto-anything $reserve \
    '/^static int is_pipe/,/^}/s/ == reserve/ + 1 > 0 * reserve/' \
    plain test_reserve who_got_our_number_keeps_it
bite gives-blindly $reserve 's/ && is_duplicate(reserve))/)/' \
    plain test_reserve a_file_that_got_it_while_taken_survives
bite any-socket $reserve 's/has_mark(reserve->sock, &seen, reserve->taken)/has_mark(reserve->sock, \&seen, mark_of(reserve->sock, \&seen))/' \
    plain test_reserve a_socket_that_got_it_while_taken_survives
bite holds-it-open $reserve '/^void ka_reserve_give/,/^}/s/(void)close(reserve->sock);//' \
    plain test_reserve a_lost_pipe_leaves_no_duplicate
bite limit-is-gone $reserve 's/return -EMFILE;/return rc;/' \
    plain test_reserve a_limit_below_it_is_not_a_closed_socket
bite forked-amid $reserve 's/ || is_one_of_late(reserve))/ || is_one_of_late(reserve) > 1)/' \
    plain test_reserve whenever_it_is_forked_a_child_closes_its_own
bite inherited $reserve 's/dup3(from, to, O_CLOEXEC)/dup2(from, to)/' \
    plain test_reserve a_duplicate_is_the_same_socket
bite drops-silently $ring 's/ring->dropped++;//' \
    plain test_ring a_full_ring_drops_the_newest
bite woken-for-nothing $ring 's/while (ring->count == 0 &&/if (ring->count == 0 \&\&/' \
    plain test_ring who_was_too_slow_waits_on
bite beyond-the-ring $ring 's/% ring->room)/% (ring->room + 1))/' \
    asan test_ring AddressSanitizer
bite unguarded-count $ring '/^uint64_t ka_ring_dropped/,/^}/{/ka_monitor/d}; s/^    kept = !ring->closed.*/    ka_monitor_leave(ring->monitor);\n&\n    ka_monitor_enter(ring->monitor);/' \
    tsan test_ring ThreadSanitizer
bite first-thread-s-table $diag 's/thread-self/self/' \
    plain test_diag the_first_thread_may_have_ended
bite ended-never-was $diag 's/return info->segs_in > 0;/return 0;/' \
    plain test_diag what_has_ended_was_connected

judge=core/judge.c

bite stalled-at-once $judge \
    's/klass != KA_SENDING || past->klass != KA_SENDING ||/klass != KA_SENDING ||/' \
    plain test_judge a_reader_that_takes_nothing_is_stalled
bite tie-is-unanswered $judge \
    's/last_data_recv_ms < info->last_data_sent_ms/last_data_recv_ms <= info->last_data_sent_ms/' \
    plain test_judge 'a tie is answered'
bite fin-is-a-word $judge \
    's/info->bytes_received > (info->state == KA_TCP_CLOSE_WAIT)/info->bytes_received > 0/' \
    plain test_judge 'never spoke, closed by the peer'
bite old-questions $judge 's/past->heard = since_ms == 0;/past->heard = 1;/' \
    plain test_judge old_questions_do_not_count
bite asked-before $judge 's/info->last_data_sent_ms >= heard_ms(info)/0/' \
    plain test_judge 'heard after it'
bite late-look $judge \
    's/again(look, larger(limit - larger(clock, 0)/again(look, larger(limit + 50 - larger(clock, 0)/' \
    plain test_judge 'late(&overdue'
bite one-stretch $judge 's/past->mark_bytes\[0\] < past->mark_bytes\[1\] &&/1 \&\&/' \
    plain test_judge a_word_now_and_then
bite rate-overflow $judge \
    's/    return b > 0 \&\& a > INT64_MAX \/ b ? INT64_MAX : a \* b;/    return a * b;/' \
    asan smoke_judge 'signed integer overflow'

watcher=core/watcher.c
ward=core/ward.c
deed=core/deed.c
discover=core/discover.c

bite by-number $deed 's/rc == 0 && identity == ward->identity/rc == 0/' \
    plain test_watcher_threads a_number_that_changes_between_look_and_deed
bite nameless-watch $ward 's/(ward->flags & (KA_WARD_WATCHED | KA_WARD_ENDING | KA_WARD_ENDED))/0/' \
    plain test_watcher_watch a_number_that_means_another_ends_the_watch
bite looks-alone $ward 's/#define KA_TOGETHER_MS 100/#define KA_TOGETHER_MS 1/' \
    plain test_watcher who_has_time_is_looked_at_together
bite short-limits-wait $ward 's/#define KA_LEISURE_MS 1000/#define KA_LEISURE_MS 0/' \
    plain test_watcher who_has_time_is_looked_at_together
bite unread-is-silence $deed 's/deed->unread > 0) &&/deed->unread > 99999) \&\&/' \
    plain test_watcher_deeds unread_bytes_spare_until_they_are_read
bite stop-is-silence $watcher 's/> KA_STALLED_MS/> 100 * KA_STALLED_MS/' \
    plain test_watcher a_stall_spares_all
bite stop-within-is-silence $deed 's/if (is_late(watcher))/if (is_late(watcher) > 1)/' \
    plain test_watcher_deeds a_late_step_does_nothing
bite death-as-an-end $deed 's/ka_end_disconnect(deed->sock) < 0)/ka_end_shutdown(deed->sock) < 0)/' \
    plain test_watcher_watch "owner.got is 0"
bite unread-thrown-away $deed 's/ unread == 0))) {/ unread >= 0))) {/' \
    plain test_watcher_deeds an_abort_leaves_what_is_unread
bite dry-is-wet $deed 's/if (deed->dry_run) {/if (deed->dry_run > 1) {/' \
    plain test_watcher_deeds a_dry_run_tells_once_and_does_nothing
bite told-again-and-again $deed 's/KA_WARD_TOLD, 1)/KA_WARD_TOLD, 0)/' \
    plain test_watcher_deeds a_dry_run_tells_once_and_does_nothing
bite hold-of-nothing $deed 's/if (ka_is_held(watcher/if (0 \&\& ka_is_held(watcher/' \
    plain test_watcher_deeds held_ones_are_left_alone
bite herd $deed 's/left = watcher->line_ms - deed->now_ms;//' \
    plain test_watcher_deeds who_waits_costs_little
bite goes-on-without-numbers $deed 's/watcher->lost = 1;//' \
    plain test_watcher_deeds lost_numbers_touch_nobody
bite mapped-is-six $watcher 's/network->family = 4;//' \
    plain test_watcher_deeds exempt_networks_are_left_alone
bite shortest-first $discover 's/left < right ? 1/left > right ? 1/; s/left > right ? -1/left < right ? -1/' \
    plain test_watcher_discover the_longest_idle_go_first
bite port-forgotten $discover 's/memcpy(found->listened, .*;/(void)0;/' \
    plain test_watcher_discover a_listener_may_close_and_reopen
bite entered-twice $discover 's/    if (ward == NULL) {$/    if (1) {/' \
    plain test_watcher_deeds a_duplicate_is_the_same_connection
bite sleeps-over-a-watch $watcher '/^int64_t ka_watcher_watch(/,/^}/s/leave_with_notice/leave/' \
    plain test_watcher_threads a_watch_wakes_the_sleeper
bite looks-too-late $watcher 's/if (first \&\& first->identity == identity)/if (0)/' \
    plain test_watcher_watch what_was_seen_before_says_how_it_ended
bite any-first-look $watcher 's/if (first \&\& first->identity == identity)/if (first)/' \
    plain test_watcher_watch what_was_seen_of_another_says_nothing
bite only-quiet-ones core/ending.c 's/ka_unacked(sock) > 0 ||/ka_unacked(sock) > 1 << 30 ||/' \
    plain test_watcher_watch who_was_never_quiet_is_reset_too
bite taken-is-gone core/ending.c 's/ == ward->seen_beyond;/ == 99;/' \
    plain test_watcher_watch what_was_seen_before_says_how_it_ended
bite loss-untold $deed 's/if (ka_ring_is_full(watcher->ring)) \/\* who.*/if (0)/' \
    plain test_watcher_review the_loss_is_told_when_there_is_room
bite held-before $discover 's/ward->from_ms = ka_held_until(.*;//' \
    plain test_watcher_review a_hold_counts_before_it_is_found
bite drain-forgets $deed 's/if (deed->watcher->draining/if (0 \&\& deed->watcher->draining/' \
    plain test_watcher_review a_drain_looks_again_at_who_spoke
bite stop-is-reading $deed 's/ward->abort_ms = watcher->epoch_ms;/(void)0;/' \
    plain test_watcher_review a_stop_within_an_abort_is_no_time_to_read
bite unlocked $watcher '/^void ka_watcher_stats(/,/^}/{s/enter(watcher);//;s/leave(watcher);//}' \
    tsan test_watcher_threads ThreadSanitizer

bsd=sockopt/bsd.h
darwin=sockopt/darwin.c
freebsd=sockopt/freebsd.c
netbsd=sockopt/netbsd.c
openbsd=sockopt/openbsd.c

bite idle-before-on $darwin 's/{KA_COUNT, *KA_ENABLED,/{KA_COUNT, KA_IDLE,/; s/KA_RTO_MAX, KA_IDLE}/KA_RTO_MAX, KA_ENABLED}/' \
    plain test_darwin the_count_then_on_then_the_idle_time
bite endless-handshake $darwin 's/^#define KA_HANDSHAKE 0x20.*//' \
    plain test_darwin the_handshake_goes_along
bite owners-handshake $bsd 's/rc == 0 && handshake == held &&/rc == 0 \&\&/' \
    plain test_darwin the_handshake_goes_along
bite half-a-timeout $bsd 's/(void)set_native(sock, KA_USER_TIMEOUT, held);//' \
    plain test_darwin half_of_the_two_is_put_back
bite whole-seconds-down $bsd 's/value + row->down - 1)/value)/' \
    plain test_darwin milliseconds_are_rounded_up
bite seconds-as-milliseconds $bsd 's# / row->up \* row->down;# / row->up;#' \
    plain test_darwin milliseconds_are_rounded_up
bite wrapped-by-the-kernel $bsd 's/value > ka_rows\[option\].range.high)$/value > INT32_MAX - 1)/; s/ka_rows\[option\].range.low ||/INT32_MIN ||/' \
    plain test_darwin out_of_range_never_reaches_the_kernel
bite eight-is-on $bsd 's/option == KA_ENABLED ? held != 0/option == KA_ENABLED ? held/' \
    plain test_darwin on_is_1_though_the_kernel_says_8
bite timer-of-0 $darwin 's/if (info->rto_us == 0)/if (0)/' \
    plain test_darwin connection_info
bite whole-seconds $netbsd 's/, 1, 2, 1},/, 1, 1, 1},/' \
    plain test_netbsd half_seconds_and_on_comes_last
bite default-doubled $netbsd 's/set_native(sock, option, default_of(option))/set_within(sock, option, default_of(option))/' \
    plain test_netbsd what_cannot_be_read_goes_to_the_system_s
bite on-first $netbsd 's/{KA_COUNT, *KA_INTERVAL, *KA_IDLE,/{KA_ENABLED, KA_COUNT, KA_INTERVAL,/; s/KA_RTO_MAX, *KA_ENABLED}/KA_RTO_MAX, KA_IDLE}/' \
    plain test_netbsd half_seconds_and_on_comes_last
bite armed-anew $freebsd 's/if (guard == KA_UNGUARDED)/if (guard < KA_UNGUARDED)/' \
    plain test_freebsd asking_again_arms_nothing_anew
bite counted-too-early $live 's/if (rc > 0) .. what has not left.*/if (0)/' \
    plain test_freebsd what_has_not_left_is_not_counted
bite near-at-once $freebsd 's/{{KA_IDLE, KA_FAR},/{{KA_IDLE, 1},/' \
    plain test_freebsd no_state_on_the_way_is_deadly
bite product-overflows $freebsd 's/#define KA_FAR 2000000/#define KA_FAR 4000000/' \
    plain test_freebsd a_question_is_far_first_and_now_last
bite dies-afterwards $freebsd 's/value = safe_count(saved, &info);/(void)safe_count;/' \
    plain test_freebsd no_state_on_the_way_is_deadly
bite clock-never-wraps $freebsd 's/< KA_CLOCK_S;/> 0;/' \
    plain test_freebsd the_silent_keep_their_count_while_it_is_safe
bite ends-a-handshake $freebsd 's/if (rc == 0 \&\& !has_keepalive(&info))/if (0)/' \
    plain test_freebsd a_handshake_is_left_alone
bite microseconds-as-ms $openbsd 's#us < 0 ? -1 : us / 1000#us#' \
    plain test_openbsd its_clocks_are_in_microseconds
bite acknowledged-is-heard $openbsd 's/ms_at(raw, size, 52)/ms_at(raw, size, 56)/' \
    plain test_openbsd what_was_heard_is_told_and_nothing_asked
bite backlog-is-unread $bsd 's/        pending->unread = 0;$/        (void)listening;/' \
    plain test_openbsd pictures_of_a_kqueue
bite half-closed-is-over $bsd 's/pending->rdhup \&\& sent_eof/pending->rdhup || sent_eof/' \
    plain test_openbsd pictures_of_a_kqueue
bite linux-states $bsd 's/? states\[native\] : -1/? (int)native : -1/' \
    plain test_openbsd states_are_mapped
bite one-end-only $bsd 's/mix_end(ka_mix_end(\(.*\), &local, 0), &peer, 0)/mix_end(\1, \&local, 0)/' \
    plain test_openbsd identity_is_both_ends
bite datagrams-are-tcp $bsd 's/kind.protocol != KA_LEVEL_TCP/kind.protocol < 0/' \
    plain test_darwin what_is_not_tcp_is_refused
bite datagrams-lack-idle core/policy.c 's/kind.protocol == KA_PROTOCOL_TCP/kind.protocol >= 0/' \
    plain test_openbsd what_is_not_tcp_is_refused
bite queue-left-open $bsd 's/    close(queue);//' \
    plain test_openbsd pictures_of_a_kqueue
bite end-is-a-stranger $live 's/if (rc < 0 && rc != -ENOTCONN)$/if (rc < 0)/' \
    plain test_openbsd ends_are_told_by_the_error_that_stays
# Systems that tell less than Linux.
sample=core/sample.c
pace=core/pace.c

bite tie-is-a-question $sample 's/^    sample->out_ms = read_ms;/    sample->out_ms = read_ms - 1;/' \
    plain test_sample both_in_one_look_is_a_tie
bite probe-is-a-question $sample 's/return sample->singles <=/return 0 * sample->singles >/' \
    plain test_sample a_byte_now_and_then_asks_nothing
bite stamped-before-the-reading $sample 's/peer_spoke(sample, info, read_ms);/peer_spoke(sample, info, now_ms);/' \
    plain test_sample a_stamp_is_not_before_the_reading
bite hidden-progress $sample 's/(more > 0 || !flying)/!flying/' \
    plain test_sample what_the_peer_takes_shows
bite next-of-the-same-ends $sample 's/        return -1;/        return 1;/' \
    plain test_masked the_next_of_the_same_ends_is_another
numbers=test_sample_numbers
bite only-ahead-is-movement $sample 's/info->rcv_nxt != sample->rcv_nxt/info->rcv_nxt > sample->rcv_nxt/' \
    plain $numbers random_lives
bite retransmission-is-rest $sample 's/info->snd_nxt != sample->snd_nxt/info->snd_nxt > sample->snd_nxt/' \
    plain test_sample numbers_date_movement_and_no_more
bite next-is-all-there-is $sample 's/info->snd_max != sample->snd_max/0/' \
    plain $numbers random_lives
bite highest-is-all-there-is $sample 's/info->snd_nxt != sample->snd_nxt ||/0 ||/' \
    plain $numbers random_lives
bite still-since-ever $sample 's/if (!sample->begun || info->rcv_nxt/if (info->rcv_nxt/' \
    plain test_sample numbers_date_movement_and_no_more
bite numbers-before-the-reading $sample '/^static void see_movement/,/^}/s/sample->in_ms = read_ms/sample->in_ms = now_ms/' \
    plain test_sample numbers_are_dated_after_the_reading
bite numbers-are-bytes $sample '/^static void see_movement/,/^}/s/    sample->begun = 1;$/    sample->begun = 1; info->bytes_received = info->rcv_nxt; info->data_segs_out = info->snd_nxt;/' \
    plain $numbers a_trickle_is_never_idle
bite numbers-tell-nothing $sample 's/are_counted(info) || are_numbered(info)/are_counted(info) || (0 \&\& are_numbered(info))/' \
    plain test_sample numbers_date_movement_and_no_more
bite shut-is-idle core/judge.c 's/           info->queued_bytes > 0;/           0;/' \
    plain $numbers a_shut_window_is_not_idle
bite queue-is-not-asked $ward 's/info->queued_bytes < 0)/1)/' \
    plain test_masked_watch idle_is_told
bite heard-since-the-first-look $deed 's/if (deed->ward->sample.begun \&\& /if (0 \&\& /' \
    plain test_masked_watch who_was_heard_is_the_kernel_s_to_say
bite buffer-after-the-numbers $freebsd 's/int64_t waiting = queued(sock), silent_us;/int64_t waiting, silent_us;/; s/    info->queued_bytes = waiting;/    waiting = queued(sock); info->queued_bytes = waiting;/' \
    plain test_freebsd the_send_buffer_is_looked_at_before_the_numbers
bite a-card-s-old-numbers $freebsd 's/raw\[5\] & KA_OPT_TOE/0/' \
    plain test_freebsd a_card_s_connection_tells_no_number
bite wrong-highest $freebsd 's/ka_u32_at(raw, size, 180)/ka_u32_at(raw, size, 176)/' \
    plain test_freebsd its_numbers_are_told
bite netbsd-after-the-numbers $netbsd 's/    int64_t waiting = queued(sock);/    int64_t waiting;/; s/    info->queued_bytes = waiting;/    waiting = queued(sock); info->queued_bytes = waiting;/' \
    plain test_netbsd the_send_buffer_is_looked_at_before_the_numbers
bite netbsd-wrong-number $netbsd 's/ka_u32_at(raw, size, 112)/ka_u32_at(raw, size, 116)/' \
    plain test_netbsd its_numbers_are_told
bite nought-is-a-number $openbsd 's/if (ka_u32_at(raw, size, 104) <= 0 \&\&/if (0 \&\&/' \
    plain test_openbsd its_numbers_are_root_s
bite one-nought-hides-both $openbsd 's/104) <= 0 \&\& ka_u32/104) <= 0 || ka_u32/' \
    plain test_openbsd its_numbers_are_root_s
bite junk-in-the-buffer sockopt/linux.c 's/    info->queued_bytes = -1;//' \
    plain test_info every_field_is_where_the_header_says
bite quiet-is-forgotten $deed 's/turn % 2 ? KA_ABORT_QUIET_S : 1/1/' \
    plain test_masked_watch a_living_idle_one_is_given_up_by_freebsd
bite no-pace $ward 's/if (ward->sample.begun)/if (0)/' \
    plain test_masked looks_come_at_the_pace
bite blind-idle $ward '/bytes may wait/,/KA_NO_TIME/s/limits.idle_ms = KA_NO_TIME;/(void)0;/' \
    plain test_masked_watch idle_is_not_guessed
bite corpse-is-a-stranger $ward 's/if (!KA_NAMED_BY_ENDS ||/if (1 ||/' \
    plain test_masked_watch a_reset_is_told
bite stranger-is-a-corpse $deed 's/(!pending.error && pending.code == 0)/0/' \
    plain test_masked_watch who_got_its_number_is_not_its_corpse
bite pressed-to-an-end $deed 's/(void)ka_set(sock, KA_IDLE, turn % 2.*/(void)ka_end_shutdown(sock);/' \
    plain test_masked_watch it_is_pressed_again_and_again
bite count-at-once $pace 's/now_ms + asked_twice_ms(idle, interval)/now_ms + asked_twice_ms(idle, interval) % 2/' \
    plain test_masked the_count_comes_when_it_cannot_kill
bite count-never $pace 's/(void)ka_set(sock, KA_COUNT, count_for/(void)ka_set(sock, KA_RTO_MAX, count_for/' \
    plain test_masked the_count_comes_when_it_cannot_kill
bite gap-hides diag/posix.c 's/found == 0; bound = begin/found < 0; bound = begin/' \
    plain test_diag_posix the_bound_is_the_highest_that_is_open
bite owner-s-values core/autotune.c 's/!is_as_set(&held, &after)/!is_as_set(\&held, \&held)/' \
    plain test_autotune_masked what_its_owner_set_stays

if [ "$missed" -gt 0 ]; then
    echo "bites: $missed MISSED, $caught passed"
    exit 1
fi
echo "bites: $caught passed"
