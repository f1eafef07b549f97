# The audit hook. It sees every audited event of the process, of all
# interpreters in it, and cannot be taken out again. So it is C alone: the
# compiler lets nothing in here touch this module's Python objects, which
# belong to one interpreter, and an event that is none of ours costs the
# comparison of a few bytes. Whatever a socket answers, the audited call goes
# on; only what is no Exception, such as Ctrl-C inside of somebody's own
# fileno(), passes through.
from cpython.ref cimport PyObject
from libc.string cimport strcmp, strncmp

cdef extern from "autotune.h" nogil:
    enum:
        KA_AT_BIND
        KA_AT_CONNECT
        KA_UNLIKE
    struct ka_rule:
        pass
    ka_rule *ka_rule_add(const ka_policy *policy, int listeners, int outgoing)
    void ka_rule_end(ka_rule *rule)
    uint64_t ka_rule_tuned(const ka_rule *rule)
    uint64_t ka_rule_given_back(const ka_rule *rule)
    int ka_autotune_concerns(int moment)
    void ka_autotune_fresh(const ka_policy *fresh)
    int ka_autotune(ka_sock sock, int moment)

cdef extern from "audit.h" nogil:
    int ka_audit_fresh(ka_policy *out)

cdef extern from "Python.h":
    int PySys_AddAuditHook(
        int (*hook)(const char *, PyObject *, void *) noexcept,
        void *data) except -1
    int PySys_Audit(const char *event, const char *format) except -1

# These need the GIL and are not told to Cython as such: the hook has it.
cdef extern from "Python.h" nogil:
    PyObject *ka_Exception "PyExc_Exception"
    int ka_is_tuple "PyTuple_Check"(PyObject *)
    int ka_is_int "PyLong_Check"(PyObject *)
    Py_ssize_t ka_size "PyTuple_Size"(PyObject *)
    PyObject *ka_item "PyTuple_GetItem"(PyObject *, Py_ssize_t)
    int ka_descriptor "PyObject_AsFileDescriptor"(PyObject *)
    int ka_is_error "PyErr_ExceptionMatches"(PyObject *)
    void ka_clear "PyErr_Clear"()

cdef const char *_AUDIT_SELF = "stillalive.autotune"
cdef int _audit_seen = 0


cdef int _audit_descriptor(PyObject *args) noexcept nogil:
    """Return the descriptor that bind or connect is called on; -1 none, -2 stop."""
    cdef int fd
    # AF_UNIX has text for an address; what is no socket comes from who raises
    # events of this name himself.
    if ka_size(args) < 2 or not ka_is_tuple(ka_item(args, 1)) \
            or ka_is_int(ka_item(args, 0)):
        return -1
    fd = ka_descriptor(ka_item(args, 0))
    if fd >= 0:
        return fd
    if not ka_is_error(ka_Exception):
        return -2
    ka_clear()
    return -1


cdef int _audit_hook(const char *event, PyObject *args, void *data) noexcept nogil:
    global _audit_seen
    cdef ka_policy fresh
    cdef int what, fd
    if event[0] != c"s":
        return 0
    if strncmp(event, "socket.", 7) != 0:
        if strcmp(event, _AUDIT_SELF) == 0:
            _audit_seen = 1
        return 0
    if strcmp(event + 7, "connect") == 0:
        what = KA_AT_CONNECT
    elif strcmp(event + 7, "bind") == 0:
        what = KA_AT_BIND
    else:
        return 0
    if args == NULL or not ka_is_tuple(args) or not ka_autotune_concerns(what):
        return 0
    fd = _audit_descriptor(args)
    if fd < 0:
        return -1 if fd == -2 else 0
    if ka_autotune(fd, what) == KA_UNLIKE and ka_audit_fresh(&fresh) == 0:
        ka_autotune_fresh(&fresh)
        ka_autotune(fd, what)
    return 0


def audit_install():
    global _audit_seen
    _audit_seen = 0
    PySys_Audit(_AUDIT_SELF, NULL)
    if not _audit_seen:
        PySys_AddAuditHook(_audit_hook, NULL)
        PySys_Audit(_AUDIT_SELF, NULL)
    return _audit_seen == 1


cdef class Rule:
    """What is done with sockets when they are bound or connected."""
    cdef ka_rule *rule

    def __init__(self, tuple values, bint listeners, bint outgoing):
        cdef ka_policy policy
        _fill(&policy, values)
        if self.rule != NULL:
            ka_rule_end(self.rule)
        self.rule = ka_rule_add(&policy, listeners, outgoing)
        if self.rule == NULL:
            raise MemoryError()

    def end(self):
        if self.rule != NULL:
            ka_rule_end(self.rule)

    def stats(self):
        if self.rule == NULL:
            return {"tuned": 0, "given_back": 0}
        return {"tuned": ka_rule_tuned(self.rule),
                "given_back": ka_rule_given_back(self.rule)}
