# cython: language_level=3, binding=False, embedsignature=False
# cython: freethreading_compatible=True, always_allow_keywords=False
"""Translate between Python and the C core: types, errors, ownership.

No decision is taken here. The GIL is given away to sleep in a loop and to call
a watcher, which may have to wait: all other calls are a few short system calls
on one descriptor, and giving the GIL away costs more than they do.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from stillalive cimport *

from stillalive._errors import fault as _fault

cdef extern from "errors.h":
    int _python_errno "ka_python_errno"(int)

NAME = "c"


cdef object _raise(ka_sock fd, int rc, str call):
    cdef ka_kind kind
    if ka_kind_of(fd, &kind) < 0:
        raise _fault(_python_errno(-rc), call, None)
    raise _fault(_python_errno(-rc), call, (kind.family, kind.type,
                                            kind.protocol,
                                            kind.listening != 0))


cdef object _raise_option(ka_sock fd, int rc, ka_fault *at):
    if at.option < 0:
        return _raise(fd, rc, "getsockopt(SO_COOKIE)")
    cdef str name = ka_option_name(at.option).decode("ascii")
    return _raise(fd, rc, ("setsockopt(%s)" if at.setting
                           else "getsockopt(%s)") % name)


cdef int _fill(ka_policy *policy, tuple values) except -1:
    if len(values) != KA_OPTIONS:
        raise ValueError("a policy has %d values" % KA_OPTIONS)
    cdef int i
    for i in range(KA_OPTIONS):
        policy.value[i] = values[i]
    return 0


cdef tuple _values(const ka_policy *policy):
    return (policy.value[0], policy.value[1], policy.value[2],
            policy.value[3], policy.value[4], policy.value[5])


cdef tuple _verdict(const ka_verdict *v):
    return (v.state, v.reason, _python_errno(v.err), v.asked, v.heard_ms, v.unread,
            v.unanswered)


def supported():
    return ka_supported()


def option_name(int option):
    return ka_option_name(option).decode("ascii")


def option_range(int option):
    cdef ka_range found
    if ka_option_range(option, &found) < 0:
        return None
    return (found.low, found.high)


def kind(ka_sock fd):
    cdef ka_kind found
    cdef int rc = ka_kind_of(fd, &found)
    if rc < 0:
        _raise(fd, rc, "getsockopt(SO_DOMAIN)")
    return (found.family, found.type, found.protocol, found.listening != 0)


def identify(ka_sock fd):
    cdef uint64_t identity = 0
    cdef int rc = ka_identify(fd, &identity)
    if rc < 0:
        _raise(fd, rc, "getsockopt(SO_COOKIE)")
    return identity


def read_options(ka_sock fd):
    cdef ka_policy held
    cdef ka_fault at
    cdef int rc = ka_read(fd, &held, &at)
    if rc < 0:
        _raise_option(fd, rc, &at)
    return _values(&held)


def apply_options(ka_sock fd, tuple values):
    cdef ka_policy wanted, held
    cdef ka_fault at
    _fill(&wanted, values)
    cdef int rc = ka_apply(fd, &wanted, &held, &at)
    if rc < 0:
        _raise_option(fd, rc, &at)
    return _values(&held)


cdef class Policy:
    """Six values ready to be set, for sockets just made or accepted."""
    cdef ka_policy policy

    def __init__(self, tuple values):
        _fill(&self.policy, values)

    def apply(self, ka_sock fd):
        cdef ka_fault at
        cdef int rc = ka_apply_fresh(fd, &self.policy, &at)
        if rc < 0:
            _raise_option(fd, rc, &at)


cdef tuple _info(const ka_info *i):
    return (i.state, i.retransmits, i.probes, i.backoff, i.rto_us, i.rtt_us,
            i.rttvar_us, i.min_rtt_us, i.unacked, i.last_data_sent_ms,
            i.last_data_recv_ms, i.last_ack_recv_ms, i.total_retrans,
            i.bytes_acked, i.bytes_received, i.segs_out, i.segs_in,
            i.notsent_bytes, i.data_segs_in, i.data_segs_out, i.bytes_sent,
            i.bytes_retrans, i.snd_wnd, i.snd_nxt, i.snd_max, i.rcv_nxt,
            i.queued_bytes)


def tcp_info(ka_sock fd):
    cdef ka_info found
    cdef int rc = ka_info_of(fd, &found)
    if rc < 0:
        _raise(fd, rc, "getsockopt(TCP_INFO)")
    return _info(&found)


def check(ka_sock fd):
    cdef ka_verdict verdict
    cdef int rc = ka_check(fd, &verdict)
    if rc < 0:
        _raise(fd, rc, "getsockopt(TCP_INFO)")
    return _verdict(&verdict)


cdef class Witness:
    """Say whether the peer of one socket was heard since begin()."""
    cdef ka_witness witness
    cdef ka_sock fd

    def __init__(self, ka_sock fd):
        self.fd = fd

    @property
    def identity(self):
        return self.witness.identity

    def begin(self, int64_t now_ms):
        cdef ka_verdict verdict
        cdef int rc = ka_witness_begin(&self.witness, self.fd, now_ms,
                                       &verdict)
        if rc < 0:
            _raise(self.fd, rc, "getsockopt(TCP_INFO)")
        return _verdict(&verdict)

    def look(self, int asked, int64_t now_ms):
        cdef ka_verdict verdict
        cdef int rc = ka_witness_look(&self.witness, asked, now_ms, &verdict)
        if rc < 0:
            _raise(self.fd, rc, "getsockopt(TCP_INFO)")
        return _verdict(&verdict)

    def give_up(self, int asked, int64_t now_ms):
        cdef ka_verdict verdict
        cdef int rc = ka_witness_give_up(&self.witness, asked, now_ms,
                                         &verdict)
        if rc < 0:
            _raise(self.fd, rc, "getsockopt(TCP_INFO)")
        return _verdict(&verdict)


cdef class Question:
    """Borrow the options of one socket to ask its peer, and give them back."""
    cdef ka_question question
    cdef ka_sock fd

    def __init__(self, ka_sock fd, uint64_t identity):
        self.fd = fd
        ka_question_begin(&self.question, fd, identity)

    def __dealloc__(self):
        # The last resort, after an exception in the caller's own bookkeeping.
        cdef ka_fault at
        ka_question_end(&self.question, &at)

    @property
    def asked(self):
        return self.question.asked

    @property
    def saved(self):
        return _values(&self.question.saved) if self.question.borrowed else None

    def ask(self, int64_t now_ms):
        cdef ka_fault at
        cdef int rc = ka_question_ask(&self.question, now_ms, &at)
        if rc < 0:
            _raise_option(self.fd, rc, &at)
        return rc == 1

    def end(self):
        cdef ka_fault at
        cdef int rc = ka_question_end(&self.question, &at)
        if rc < 0:
            _raise_option(self.fd, rc, &at)


include "engine.pxi"
include "api.pxi"
include "server.pxi"
include "autotune.pxi"
include "watcher.pxi"
