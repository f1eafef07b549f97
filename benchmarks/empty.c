/* empty.c - an object of C whose method does nothing: what a call costs. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

static PyObject *nothing(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    Py_RETURN_TRUE;
}

static PyMethodDef methods[] = {
    {"nothing", nothing, METH_NOARGS, "Do nothing."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "empty.Empty",
    .tp_basicsize = sizeof(PyObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_methods = methods,
    .tp_new = PyType_GenericNew,
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "empty",
                                    .m_size = -1};

PyMODINIT_FUNC PyInit_empty(void);
PyMODINIT_FUNC PyInit_empty(void) {
    PyObject *made = PyModule_Create(&module);

    if (made && PyModule_AddType(made, &type) < 0)
        Py_CLEAR(made);
#ifdef Py_GIL_DISABLED
    if (made) /* else importing it would bring the lock back for everyone */
        PyUnstable_Module_SetGIL(made, Py_MOD_GIL_NOT_USED);
#endif
    return made;
}
