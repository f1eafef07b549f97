"""The compiled backend, its twin, the stub, the C header and the .pxd say the same."""

from __future__ import annotations

import ast
import inspect
import re

import pytest

from stillalive import _backend, _impl, liveness
from stillalive import _pure as pure

from . import tree

HEADER = "ext/include/stillalive.h"
PXD = "ext/binding/stillalive.pxd"
CLASSES = {"PolicyLike": "Policy", "WitnessLike": "Witness", "QuestionLike": "Question"}

Shape = dict[str, tuple[str, ...]]
"""Name of a function, or Class.method, and its parameters; a property has ("property",)."""


# ---- Python: Protocol, stub, binding, twin ---------------------------------------------------


def _parameters(node: ast.FunctionDef) -> tuple[str, ...]:
    if any(isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list):
        return ("property",)
    return tuple(arg.arg for arg in node.args.args if arg.arg != "self")


def _methods(name: str, body: list[ast.stmt]) -> Shape:
    return {
        f"{name}.{node.name}": _parameters(node)
        for node in body
        if isinstance(node, ast.FunctionDef)
    }


def shape_of_protocols(source: str) -> Shape:
    """Return what `Backend` and the protocols of its classes ask for."""
    shape: Shape = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        if node.name == "Backend":
            methods = _methods("", node.body)
            shape |= {name.removeprefix("."): taken for name, taken in methods.items()}
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
        taken = [part.split()[-1] for part in found["taken"].split(",") if part.strip()]
        before = source[: found.start()].rstrip().rpartition("\n")[2].strip()
        shape[inside + found["name"]] = (
            ("property",) if before == "@property" else tuple(t for t in taken if t != "self")
        )
    return shape


def _members(cls: type) -> Shape:
    names = [name for name in vars(cls) if name == "__init__" or not name.startswith("_")]
    return {
        f"{cls.__name__}.{name}": tuple(inspect.signature(value).parameters)[1:]
        if inspect.isfunction(value := vars(cls)[name])
        else ("property",)
        for name in names
    }


def shape_of_twin() -> Shape:
    shape: Shape = {}
    for name in pure.__all__:
        value = getattr(pure, name)
        if inspect.isclass(value):
            shape |= _members(value)
        elif callable(value):
            shape[name] = tuple(inspect.signature(value).parameters)
    return shape


WANTED = shape_of_protocols(tree.read("src/stillalive/_backend.py"))


def test_the_protocol_is_read_whole():
    assert WANTED["apply_options"] == ("fd", "values")
    assert WANTED["Question.saved"] == ("property",)
    assert WANTED["Witness.__init__"] == ("fd",)


def test_the_twin_has_the_functions_of_the_protocol():
    assert shape_of_twin() == WANTED


def test_the_stub_has_the_functions_of_the_protocol():
    assert shape_of_stub(tree.read("src/stillalive/_core.pyi")) == WANTED


def test_the_binding_has_the_functions_of_the_protocol():
    assert shape_of_binding(tree.read("ext/binding/_core.pyx")) == WANTED


def test_the_compiled_module_has_the_names_of_the_protocol():
    try:
        compiled = _impl.choose("c")
    except ImportError:
        pytest.skip("the extension is not built")
    for name in WANTED:
        target = compiled
        for part in name.split("."):
            target = getattr(target, part)
    public = {name for name in vars(compiled) if not name.startswith("_")}
    assert public == {name.partition(".")[0] for name in WANTED} | {"NAME"}


def test_a_wrong_parameter_is_found():
    binding = tree.read("ext/binding/_core.pyx")
    assert shape_of_binding(binding.replace("ask(self, int64_t now_ms)", "ask(self)")) != WANTED
    assert (
        shape_of_binding(binding.replace("    @property\n    def asked", "    def asked")) != WANTED
    )
    stub = tree.read("src/stillalive/_core.pyi")
    assert shape_of_stub(stub.replace("def kind(fd", "def kind(sock")) != WANTED


# ---- C: header and .pxd ----------------------------------------------------------------------


def enums(source: str) -> dict[str, int]:
    """Return the numbers of all enum members and numeric macros of the header."""
    text = tree.without_comments(source)
    found = {}
    for body in re.findall(r"enum\s+\w+\s*\{([^}]*)\}", text):
        found |= {name: int(value) for name, value in re.findall(r"(\w+)\s*=\s*(-?\d+)", body)}
    macro = r"#define\s+(KA_\w+)[\s\\]+\(?(-?\d+)\)?"
    return found | {name: int(value) for name, value in re.findall(macro, text)}


def structs(text: str) -> dict[str, list[tuple[str, str]]]:
    """Return (type, name) of each member of each struct; works on the header and the .pxd."""
    plain = tree.without_comments(text)
    member = re.compile(r"^\s*([\w ]+?)\s+(\w+(?:\[\w+\])?);?\s*$", re.MULTILINE)
    bodies = re.findall(r"struct\s+(\w+)\s*\{([^}]*)\}", plain)
    bodies += re.findall(r"^    struct (\w+):\n((?:        .*\n)+)", plain, re.MULTILINE)
    return {
        name: [(kind.removeprefix("struct "), found) for kind, found in member.findall(body)]
        for name, body in bodies
    }


def prototypes(text: str) -> dict[str, str]:
    """Return each function's type and parameter types, normalised; header and .pxd alike."""
    plain = re.sub(r'(\w+) "(\w+)"\(', r"\2(", tree.without_comments(text))
    plain = re.sub(
        r"^#.*$|\bstruct\s+(?=\w+ )|\(void\)", _blank_or_empty, plain, flags=re.MULTILINE
    )
    found = {}
    pattern = r"^ *((?:const )?\w+)\s+(\*?)(ka_\w+)\(([^()]*)\)"
    for result, pointer, name, taken in re.findall(pattern, plain, re.MULTILINE):
        kinds = [
            re.sub(r"\s+", " ", re.sub(r"\w+$", "", part.strip())) for part in taken.split(",")
        ]
        found[name] = f"{result}{pointer}({', '.join(kind.strip() for kind in kinds)})"
    return found


def _blank_or_empty(found: re.Match[str]) -> str:
    return "()" if found.group() == "(void)" else ""


NUMBERS = enums(tree.read(HEADER))


def python_name(name: str) -> str:
    return name.removeprefix("KA_TCP_").removeprefix("KA_")


def test_the_numbers_of_the_header_are_those_of_the_backends():
    assert len(NUMBERS) > 35
    number_of_options = NUMBERS.pop("KA_OPTIONS")
    assert number_of_options == len(_backend.Values.__args__)
    assert {name: getattr(_backend, python_name(name), None) for name in NUMBERS} == NUMBERS


def test_states_are_in_the_order_of_their_numbers():
    names = ["ALIVE", "OPEN", "PEER_CLOSED", "RESET", "DEAD", "SILENT", "UNKNOWN"]
    assert [state.name for state in liveness.State] == names
    assert [getattr(_backend, name) for name in names] == list(range(7))


def test_the_info_tuple_has_the_members_of_the_struct():
    members = [name for _, name in structs(tree.read(HEADER))["ka_info"]]
    assert list(_backend.Info._fields) == members
    returned = re.search(
        r"def tcp_info\(.*?return \((.*?)\)", tree.read("ext/binding/_core.pyx"), re.DOTALL
    )
    assert returned is not None
    assert re.findall(r"i\.(\w+)", returned[1]) == members


def test_the_verdict_tuple_has_the_members_of_the_struct():
    members = [name for _, name in structs(tree.read(HEADER))["ka_verdict"]]
    returned = re.search(
        r"_verdict\(.*?return \((.*?)\)", tree.read("ext/binding/_core.pyx"), re.DOTALL
    )
    assert returned is not None
    assert re.findall(r"v\.(\w+)", returned[1]) == members
    assert len(_backend.Verdict.__args__) == len(members)


def wrong_structs(pxd: str, header: str) -> list[str]:
    """Say which struct members the .pxd declares otherwise than the header."""
    true, claimed = structs(header), structs(pxd)
    return [
        f"{name}.{member[1]}"
        for name, members in claimed.items()
        for member in members
        if (member[0], member[1].replace("[6]", "[KA_OPTIONS]")) not in true.get(name, [])
    ]


def wrong_prototypes(pxd: str, header: str) -> list[str]:
    """Say which functions the .pxd declares otherwise than the header."""
    true, claimed = prototypes(header), prototypes(pxd)
    return [name for name, kind in claimed.items() if true.get(name) != kind]


def test_the_pxd_agrees_with_the_header():
    pxd, header = tree.read(PXD), tree.read(HEADER)
    assert len(structs(pxd)) > 5
    assert len(prototypes(pxd)) > 10
    assert wrong_structs(pxd, header) == []
    assert wrong_prototypes(pxd, header) == []
    for name in re.findall(r"^ +(KA_\w+)$", pxd, re.MULTILINE):
        assert name in enums(header)


def test_a_wrong_pxd_is_found():
    pxd, header = tree.read(PXD), tree.read(HEADER)
    assert wrong_structs(pxd.replace("int64_t heard_ms", "int32_t heard_ms"), header)
    assert wrong_structs(pxd.replace("int32_t asked", "int32_t answered"), header)
    assert wrong_prototypes(pxd.replace("ka_check(ka_sock", "ka_check(int"), header)
    assert wrong_prototypes(pxd.replace("ka_read(", "ka_reads("), header)


def test_a_changed_number_is_found():
    changed = tree.read(HEADER).replace("KA_SILENT = 5", "KA_SILENT = 6")
    assert enums(changed)["KA_SILENT"] != _backend.SILENT
