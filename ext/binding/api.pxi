# The capsule through which other extensions touch and tune without linking.
from cpython.pycapsule cimport PyCapsule_New
from libc.errno cimport EINVAL


cdef int _mark_of(void *handle, ka_mark *out) noexcept:
    if handle == NULL or type(<object>handle) is not Handle:
        return -EINVAL
    out[0] = (<Handle>handle).mark
    return 0


cdef ka_api _api
_api.version = KA_API_VERSION
_api.size = sizeof(ka_api)
_api.touch_now = ka_touch_now
_api.mark_of = _mark_of
_api.apply = ka_apply
_api.apply_fresh = ka_apply_fresh
_api.check = ka_check

api = PyCapsule_New(&_api, "stillalive._core.api", NULL)
