"""Rules of the source that no run would show: nothing from the network is unpickled or evaluated, and imports
point one way. The arrows between the rooms themselves are import-linter contracts in pyproject.toml."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("dynamo_genie", "passes", "runtime", "remote_daemon", "benchmarks")

# Modules that turn bytes into code or objects.
FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "code"}
# Functions that do.
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_METHODS = {
    "torch.load",
    "torch.jit.load",
    "torch.export.load",
    "torch.package.PackageImporter",
    "numpy.load",
    "np.load",
    "yaml.load",
    "yaml.unsafe_load",
    "sympy.sympify",
    "sympy.parse_expr",
    "builtins.eval",
    "builtins.exec",
    "importlib.import_module",
}

# (file, what it does there): why that is safe.
ALLOWED = {
    # Runs source that the engine itself generated from a Program whose operators are keys of a frozen table.
    ("remote_daemon/engines/eager.py", "exec"),
    ("remote_daemon/engines/eager.py", "compile"),
    # Imports the subcommand that the user typed, from a table in that file.
    ("dynamo_genie/cli/__main__.py", "importlib.import_module"),
    # Imports the worker's module, which the supervisor's command line names.
    ("remote_daemon/sandbox/fork_server.py", "importlib.import_module"),
    # Gives `copy` and `pickle` of a remote tensor an honest answer; reads no bytes.
    ("dynamo_genie/tensor/native_access.py", "__reduce_ex__"),
    ("dynamo_genie/device/device_tensor.py", "__reduce_ex__"),
}

# What the sides may import from the top of the package; everything else there is the face.
LEAVES = {
    "child_process", "engines", "errors", "machine_paths", "options", "quantities", "schemas", "tensors",
    "torch_internals",
}  # fmt: skip
SIDES = ("passes", "runtime", "remote_daemon")


def sources(*rooms: str) -> list[Path]:
    """Every source file once, by its real path: the links in dynamo_genie/ lead to the same files again."""
    return sorted({path.resolve() for room in rooms for path in (ROOT / room).rglob("*.py")})


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Full names: `from a.b import c` gives `a.b` and `a.b.c`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def dangers(tree: ast.AST) -> Iterator[str]:
    """What a file does that could turn foreign bytes into code."""
    for name in imported_modules(tree):
        if name.split(".")[0] in FORBIDDEN_MODULES or name in FORBIDDEN_METHODS:
            yield name
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in FORBIDDEN_CALLS | FORBIDDEN_METHODS:
                yield called
            yield from (f"{kw.arg}=True" for kw in node.keywords if kw.arg in ("allow_pickle", "trust_remote_code"))
        elif isinstance(node, ast.FunctionDef) and node.name in ("__reduce__", "__reduce_ex__", "__setstate__"):
            yield node.name


def is_allowed(path: Path, danger: str) -> bool:
    return (path.relative_to(ROOT).as_posix(), danger) in ALLOWED


def test_nothing_unpickles_or_evaluates() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {danger}"
        for path in sources(*ROOMS)
        for danger in dangers(parse(path))
        if not is_allowed(path, danger)
    ]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load(f)",
        "from torch import load",
        "eval(text)",
        "exec(text)",
        "import numpy as np\nnp.load(f)",
        "f(allow_pickle=True)",
        "class A:\n    def __reduce__(self): ...",
    ],
)
def test_the_search_finds_what_it_should(code: str) -> None:
    assert list(dangers(ast.parse(code))) != []


@pytest.mark.parametrize("code", ["re.compile(x)", "torch.compile(m)", "model.eval()", "engine.compile(p)", "load(f)"])
def test_the_search_leaves_harmless_namesakes_alone(code: str) -> None:
    assert list(dangers(ast.parse(code))) == []


def test_the_sides_never_import_the_face() -> None:
    allowed = LEAVES | set(SIDES)
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources(*SIDES)
        for name in imported_modules(parse(path))
        if name.startswith("dynamo_genie.") and name.split(".")[1] not in allowed
    ]
    assert found == []


def test_every_import_of_ours_goes_through_the_package() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources(*ROOMS, "tests")
        for name in imported_modules(parse(path))
        if name.split(".")[0] in (*SIDES, "benchmarks")
    ]
    assert found == []


def test_one_place_builds_and_posts_a_call() -> None:
    found = [
        path.relative_to(ROOT).as_posix()
        for path in sources("dynamo_genie", *SIDES)
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Call", "m.Call", "messages.Call")
    ]
    # a benchmark of the transport alone posts an empty one of its own, without a program's inputs or results
    benchmark = "benchmarks/transport.py"
    assert [path for path in found if path != benchmark] == ["dynamo_genie/tensor/program_call.py"]


def test_nothing_that_is_called_is_subclassed() -> None:
    called = {"CompiledGraph", "GraphCall", "ProgramCall", "BoundProgram", "Watched"}
    found = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in sources(*ROOMS)
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ClassDef) and called & {ast.unparse(base).split(".")[-1] for base in node.bases}
    ]
    assert found == []
