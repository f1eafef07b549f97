"""The compiled backend, its twin, the stub, the C header and the .pxd say the same."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap

import pytest

from stillalive import _backend, _impl, liveness
from stillalive import _pure as pure
from stillalive._pure import _engine, _transport

from . import tree

HEADER = "ext/include/stillalive.h"
PXD = "ext/include/stillalive.pxd"
OF_THE_LOOP = ("os", "clock", "table", "loop")
PXDS = {
    PXD: [HEADER],
    "ext/binding/loop.pxd": [
        *(f"ext/core/{name}.h" for name in OF_THE_LOOP),
        "ext/poll/backend.h",
        "ext/binding/gate.h",
    ],
    "ext/binding/watcher.pxd": [
        *(f"ext/core/{name}.h" for name in ("judge", "reserve", "ring", "watcher")),
    ],
    "ext/binding/stream.pxd": [f"ext/core/{name}.h" for name in ("os", "loop", "stream")],
}
"""What declares C to Cython, and the headers it speaks of."""

CLASSES = {
    "PolicyLike": "Policy",
    "WitnessLike": "Witness",
    "QuestionLike": "Question",
    "HandleLike": "Handle",
    "EngineLike": "Engine",
    "ServerLike": "ServerEngine",
    "RuleLike": "Rule",
    "FirstLookLike": "FirstLook",
    "WatcherLike": "Watcher",
}
WITHOUT_PROTOCOL = {"Transport"}
"""What only protocols of a server see: the stub says what it must have."""

Shape = dict[str, tuple[str, ...]]
"""Name of a function, or Class.method, and its parameters.

A property, or an attribute, has ("property",), and "settable" if it has a setter.
"""


# ---- Python: Protocol, stub, binding, twin ---------------------------------------------------


def _parameters(node: ast.FunctionDef) -> tuple[str, ...]:
    decorators = {ast.unparse(one) for one in node.decorator_list}
    if "property" in decorators:
        return ("property",)
    if f"{node.name}.setter" in decorators:
        return ("property", "settable")
    return tuple(arg.arg for arg in node.args.args if arg.arg != "self")


def _methods(name: str, body: list[ast.stmt]) -> Shape:
    found: Shape = {}
    for node in body:
        if isinstance(node, ast.FunctionDef):
            found[f"{name}.{node.name}"] = _parameters(node)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[f"{name}.{node.target.id}"] = ("property",)
    return found


def shape_of_protocols(source: str) -> Shape:
    """Return what `Backend` and the protocols of its classes ask for."""
    shape: Shape = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        if node.name == "Backend":
            functions = [part for part in node.body if isinstance(part, ast.FunctionDef)]
            shape |= {part.name: _parameters(part) for part in functions}
        elif node.name in CLASSES:
            shape |= _methods(CLASSES[node.name], node.body)
    return shape


def shape_of_stub(source: str) -> Shape:
    shape: Shape = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            shape[node.name] = _parameters(node)
        elif isinstance(node, ast.ClassDef):
            shape |= _methods(node.name, node.body)
    return shape


_DEF = re.compile(
    r"^(?P<margin> *)def (?P<name>\w+)\((?P<taken>[^)]*)\)|^cdef class (?P<cls>\w+)", re.MULTILINE
)


def shape_of_binding(source: str) -> Shape:
    """Read the `def`s of the .pyx: the compiled functions keep no signature to ask for."""
    shape: Shape = {}
    inside = ""
    for found in _DEF.finditer(source):
        if found["cls"]:
            inside = found["cls"] + "."
            continue
        if not found["margin"]:
            inside = ""
        if found["name"].startswith("__") and found["name"] != "__init__":
            continue  # Python's own protocols, such as __dealloc__
        taken = [
            part.partition("=")[0].removesuffix(" not None").split()[-1]
            for part in found["taken"].split(",")
            if part.strip()
        ]
        before = source[: found.start()].rstrip().rpartition("\n")[2].strip()
        shape[inside + found["name"]] = {
            "@property": ("property",),
            f"@{found['name']}.setter": ("property", "settable"),
        }.get(before, tuple(name for name in taken if name != "self"))
    return shape


def _member(value: object) -> tuple[str, ...]:
    if inspect.isfunction(value):
        return tuple(inspect.signature(value).parameters)[1:]
    settable = isinstance(value, property) and value.fset is not None
    return ("property", "settable") if settable else ("property",)


def _members(cls: type) -> Shape:
    """Return methods, properties, slots, and what methods assign to self."""
    parsed = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    assigned = (
        node.attr
        for node in ast.walk(parsed)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    )
    found = dict.fromkeys(assigned, ("property",)) | {
        name: _member(value) for name, value in vars(cls).items()
    }
    return {
        f"{cls.__name__}.{name}": shape
        for name, shape in found.items()
        if name == "__init__" or not name.startswith("_")
    }


def shape_of_twin() -> Shape:
    shape = _members(_engine.Handle) | _members(_transport.Transport)
    for name in pure.__all__:
        value = getattr(pure, name)
        if inspect.isclass(value):
            shape |= _members(value)
        elif callable(value):
            shape[name] = tuple(inspect.signature(value).parameters)
    return shape


def binding() -> str:
    """Return the whole of the binding, which is one module in several files."""
    names = tree.under("ext/binding", ".pyx", ".pxi")
    assert len(names) > 3
    return "\n".join(tree.read(name) for name in names)


WANTED = shape_of_protocols(tree.read("src/stillalive/_backend.py"))
STUB = shape_of_stub(tree.read("src/stillalive/_core.pyi"))


def differences(have: Shape, want: Shape) -> dict[str, object]:
    return {name: have.get(name) for name in want if have.get(name) != want[name]}


def test_the_protocol_is_read_whole():
    assert WANTED["apply_options"] == ("fd", "values")
    assert WANTED["Question.saved"] == ("property",)
    assert WANTED["Witness.__init__"] == ("fd",)
    assert WANTED["Handle.key"] == ("property",)
    assert WANTED["Handle.idle_timeout"] == ("property", "settable")
    assert WANTED["Engine.select"] == ("timeout",)
    assert WANTED["ServerEngine.close"] == ("timeout",)


def test_the_stub_has_the_functions_of_the_protocol():
    assert differences(STUB, WANTED) == {}
    assert {name.partition(".")[0] for name in STUB.keys() - WANTED.keys()} == WITHOUT_PROTOCOL


def test_the_binding_has_what_the_stub_says():
    assert shape_of_binding(binding()) == STUB


def test_the_twin_has_what_the_stub_says():
    """Its classes may have more: what one module of it needs of another."""
    twin = shape_of_twin()
    assert differences(twin, STUB) == {}
    functions = {name for name in twin if "." not in name}
    assert functions == {name for name in STUB if "." not in name}


def _compiled():
    try:
        return _impl.choose("c")
    except ImportError:
        pytest.skip("the extension is not built")


def test_the_compiled_module_has_the_names_of_the_stub():
    compiled = _compiled()
    for name in STUB:
        target = compiled
        for part in name.split("."):
            target = getattr(target, part)
    public = {name for name in vars(compiled) if not name.startswith("_")}
    assert public == {name.partition(".")[0] for name in STUB} | {"NAME", "api"}


def test_both_count_the_same():
    compiled, mechanism = _compiled(), pure.mechanisms()[0]
    both = [compiled.Engine(mechanism), pure.Engine(mechanism)]
    counted = [list(engine.stats()) for engine in both]
    for engine in both:
        engine.close()
    assert counted[0] == counted[1]
    assert compiled.mechanisms() == pure.mechanisms()


def test_a_wrong_parameter_is_found():
    for right, wrong in (
        ("ask(self, int64_t now_ms)", "ask(self)"),
        ("    @property\n    def asked", "    def asked"),
        ("    @idle_timeout.setter\n", ""),
        ("select(self, timeout=None)", "select(self)"),
        ("def shed(self, n)", "def drop(self, n)"),
    ):
        assert right in binding()
        assert shape_of_binding(binding().replace(right, wrong)) != STUB
    stub = tree.read("src/stillalive/_core.pyi")
    assert differences(shape_of_stub(stub.replace("def kind(fd", "def kind(sock")), WANTED)


# ---- C: header and .pxd ----------------------------------------------------------------------


def enums(source: str) -> dict[str, int]:
    """Return the numbers of all enum members and numeric macros of the header."""
    text = tree.without_comments(source)
    found = {}
    for body in re.findall(r"enum\s+\w+\s*\{([^}]*)\}", text):
        found |= {name: int(value) for name, value in re.findall(r"(\w+)\s*=\s*(-?\d+)", body)}
    macro = r"#define\s+(KA_\w+)[\s\\]+\(?(-?\d+)\)?"
    return found | {name: int(value) for name, value in re.findall(macro, text)}


def members(text: str) -> list[tuple[str, str]]:
    """Return (type, name) of what one declaration of a struct declares."""
    text = re.sub(r"\bKA_ATOMIC\(([^)]*)\)", r"\1", text)
    plain = re.sub(r"\bstruct\s+|( noexcept)?( nogil)?$", "", " ".join(text.split()))
    pointer = re.fullmatch(r"(\w+) \(\*(\w+)\)\((.*)\)", plain)
    if pointer is not None:
        return [(f"{pointer[1]}({kinds(pointer[3])})", pointer[2])]
    found = re.fullmatch(r"((?:const |unsigned )*\w+) (\S.*)", plain)
    if found is None:
        return []
    names = [name.strip() for name in found[2].split(",")]
    return [(found[1] + "*" * name.count("*"), name.lstrip("*")) for name in names]


def kinds(parameters: str) -> str:
    """Return the types of parameters, without their names."""
    parts = [re.sub(r"\w+$", "", part.strip()) for part in parameters.split(",")]
    return ", ".join(re.sub(r"\s+", " ", part).strip() for part in parts)


def structs(text: str) -> dict[str, list[tuple[str, str]]]:
    """Return the members of each struct; works on the headers and the .pxd files."""
    plain = re.sub(r"(?m) *#.*$", "", tree.without_comments(text))
    bodies = re.findall(r"struct\s+(\w+)\s*\{([^}]*)\}", plain)
    for name, body in re.findall(r"^    struct (\w+):\n((?:        .*\n)+)", plain, re.MULTILINE):
        bodies.append((name, re.sub(r"\n(?! {8}\S)", " ", body).replace("\n", ";")))
    return {
        name: [one for part in body.split(";") for one in members(part)] for name, body in bodies
    }


def prototypes(text: str) -> dict[str, str]:
    """Return each function's type and parameter types, normalised; header and .pxd alike."""
    plain = re.sub(r'(\w+) "(\w+)"\(', r"\2(", tree.without_comments(text))
    plain = re.sub(
        r"^#.*$|\bstatic inline\s+|\bstruct\s+(?=\w+ )|\(void\)",
        _blank_or_empty,
        plain,
        flags=re.MULTILINE,
    )
    pattern = r"^ *(?!return )((?:const )?\w+)\s+(\*?)(ka_\w+)\(([^()]*)\)"
    return {
        name: f"{result}{pointer}({kinds(taken)})"
        for result, pointer, name, taken in re.findall(pattern, plain, re.MULTILINE)
    }


def _blank_or_empty(found: re.Match[str]) -> str:
    return "()" if found.group() == "(void)" else ""


NUMBERS = enums(tree.read(HEADER))


def python_name(name: str) -> str:
    return name.removeprefix("KA_TCP_").removeprefix("KA_")


def test_the_numbers_of_the_header_are_those_of_the_backends():
    assert len(NUMBERS) > 35
    assert NUMBERS["KA_OPTIONS"] == len(_backend.Values.__args__)
    shared = {name: NUMBERS[name] for name in NUMBERS.keys() - {"KA_OPTIONS", "KA_API_VERSION"}}
    assert {name: getattr(_backend, python_name(name), None) for name in shared} == shared


def test_the_numbers_of_the_loop_are_those_of_the_backends():
    found = enums(tree.read("ext/core/os.h")) | enums(tree.read("ext/core/clock.h"))
    bits = (_backend.READ, _backend.WRITE, _backend.IDLE_EVENT)
    assert tuple(found[name] for name in ("KA_READ", "KA_WRITE", "KA_IDLENESS")) == bits
    assert found["KA_MOST_SECONDS"] == _backend.MOST_SECONDS


def test_the_numbers_of_the_watcher_are_those_of_the_backends():
    found = {}
    for name in ("judge", "ring", "watcher"):
        found |= enums(tree.read(f"ext/core/{name}.h"))
    assert len(found) > 20
    inner = {"KA_RATE_STRETCH_MS", "KA_QUESTIONS"}
    shared = {name: value for name, value in found.items() if name not in inner}
    assert {name: getattr(_backend, python_name(name), None) for name in shared} == shared


def test_states_are_in_the_order_of_their_numbers():
    names = ["ALIVE", "OPEN", "PEER_CLOSED", "RESET", "DEAD", "SILENT", "UNKNOWN"]
    assert [state.name for state in liveness.State] == names
    assert [getattr(_backend, name) for name in names] == list(range(7))


def test_the_info_tuple_has_the_members_of_the_struct():
    wanted = [name for _, name in structs(tree.read(HEADER))["ka_info"]]
    assert list(_backend.Info._fields) == wanted
    returned = re.search(
        r"tuple _info\(.*?return \((.*?)\)", tree.read("ext/binding/_core.pyx"), re.DOTALL
    )
    assert returned is not None
    assert re.findall(r"i\.(\w+)", returned[1]) == wanted


def test_the_verdict_tuple_has_the_members_of_the_struct():
    wanted = [name for _, name in structs(tree.read(HEADER))["ka_verdict"]]
    returned = re.search(
        r"_verdict\(.*?return \((.*?)\)\n\n", tree.read("ext/binding/_core.pyx"), re.DOTALL
    )
    assert returned is not None
    assert re.findall(r"v\.(\w+)", returned[1]) == wanted
    assert len(_backend.Verdict.__args__) == len(wanted)


def wrong_structs(pxd: str, header: str) -> list[str]:
    """Say which struct members the .pxd declares otherwise than the header."""
    true, claimed = structs(header), structs(pxd)
    return [
        f"{name}.{member[1]}"
        for name, claims in claimed.items()
        for member in claims
        if (member[0], member[1].replace("[6]", "[KA_OPTIONS]")) not in true.get(name, [])
    ]


def wrong_prototypes(pxd: str, header: str) -> list[str]:
    """Say which functions the .pxd declares otherwise than the header."""
    true, claimed = prototypes(header), prototypes(pxd)
    return [name for name, kind in claimed.items() if true.get(name) != kind]


def unknown_names(pxd: str, header: str) -> list[str]:
    return [
        name
        for name in re.findall(r"^ +(KA_\w+)$", pxd, re.MULTILINE)
        if not re.search(rf"\b{name}\b", tree.without_comments(header))
    ]


@pytest.mark.parametrize("name", PXDS)
def test_the_pxd_agrees_with_the_header(name):
    pxd = tree.read(name)
    header = "\n".join(tree.read(part) for part in PXDS[name])
    assert len(structs(pxd)) > 4
    assert len(prototypes(pxd)) > 10
    assert wrong_structs(pxd, header) == []
    assert wrong_prototypes(pxd, header) == []
    assert unknown_names(pxd, header) == []


def test_the_public_pxd_has_the_whole_api():
    pxd, header = structs(tree.read(PXD)), structs(tree.read(HEADER))
    assert len(header["ka_api"]) > 6
    for name in ("ka_api", "ka_mark", "ka_verdict", "ka_fault"):
        assert pxd[name] == header[name]


def test_a_wrong_pxd_is_found():
    pxd, header = tree.read(PXD), tree.read(HEADER)
    assert wrong_structs(pxd.replace("int64_t heard_ms", "int32_t heard_ms"), header)
    assert wrong_structs(pxd.replace("int32_t asked", "int32_t answered"), header)
    assert wrong_structs(pxd.replace("(void *handle, ka_mark", "(void *handle, void"), header)
    assert wrong_prototypes(pxd.replace("ka_check(ka_sock", "ka_check(int"), header)
    assert wrong_prototypes(pxd.replace("ka_read(", "ka_reads("), header)
    assert unknown_names(pxd.replace("KA_LEAVE", "KA_LEAVES"), header)


def test_a_changed_number_is_found():
    changed = tree.read(HEADER).replace("KA_SILENT = 5", "KA_SILENT = 6")
    assert enums(changed)["KA_SILENT"] != _backend.SILENT
