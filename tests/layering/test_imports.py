"""Imports go one way through the house, and few modules know primitives by name."""

import ast
from pathlib import Path

import pytest

import avalon
from avalon.graph.primitive import table

PACKAGE = Path(avalon.__file__).parent

# Each part may import the parts of earlier lines, never one of its own line.
ORDER = [
    ["dtype", "shape", "errors", "settings", "rebinding", "device", "switches", "size"],
    ["runtime", "graph", "safetensors", "pictures"],
    ["ops"],
    ["differentiation", "rewrite", "schedule"],
    ["codegen"],
    ["compiler"],
    ["tracing"],
    ["tensor"],
    ["struct", "state", "random", "autograd"],
    ["functions", "placement"],
    ["nn", "optim", "replay", "data"],
    ["transforms", "loops", "model", "history", "progress", "explain"],
    ["diagnosis"],
    ["save"],
    ["checkpoint", "training_step"],
    ["epochs"],
    ["fit"],
    ["zoo"],
    ["cli"],
]
LEVEL = {part: level for level, parts in enumerate(ORDER) for part in parts}
LEAVES_MAY_MEET = set(ORDER[0])

# Imports that are needed only by those who use one feature are made where it is used.
OPTIONAL = {"matplotlib", "tqdm", "torch", "sklearn", "PIL"}


def modules():
    return sorted(p for p in PACKAGE.rglob("*.py") if "__pycache__" not in p.parts)


def part_of(path):
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first in ("__init__", "__main__") else first


def imported(tree):
    """(name, node) of every import of a module of the house."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module == "avalon":
                for alias in node.names:
                    yield f"avalon.{alias.name}", node
            else:
                yield node.module, node


def typing_only(tree):
    """The import statements under `if TYPE_CHECKING:`, which never run."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            found.update(ast.walk(node))
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_to_earlier_parts(path):
    tree = ast.parse(path.read_text())
    part = part_of(path)
    if not part:
        return  # the front door names everything
    assert part in LEVEL, f"{path.name}: say in ORDER where {part} stands"
    skipped = typing_only(tree)
    for name, node in imported(tree):
        pieces = name.split(".")
        if pieces[0] != "avalon" or node in skipped:
            continue
        target = pieces[1] if len(pieces) > 1 else ""
        if target == part or (part in LEAVES_MAY_MEET and target in LEAVES_MAY_MEET):
            continue
        assert LEVEL.get(target, 99) < LEVEL[part], (
            f"{path.relative_to(PACKAGE)}:{node.lineno} imports {name}; "
            f"{part} may import only parts before it"
        )


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_imports_inside_functions(path):
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        for name, node in imported(function):
            assert name.split(".")[0] in OPTIONAL, (
                f"{path.relative_to(PACKAGE)}:{node.lineno} imports {name} inside a function"
            )


def test_modules_form_no_circle():
    graph = {}
    for path in modules():
        tree = ast.parse(path.read_text())
        skipped = typing_only(tree)
        graph[name_of(path)] = {
            target
            for name, node in imported(tree)
            if node not in skipped
            for target in targets(name, node)
        }
    done, active = set(), []

    def visit(module):
        if module in done or module not in graph:
            return
        assert module not in active, " -> ".join([*active[active.index(module) :], module])
        active.append(module)
        for target in sorted(graph[module]):
            visit(target)
        active.pop()
        done.add(module)

    for module in graph:
        visit(module)


def name_of(path):
    parts = ("avalon", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


def targets(name, node):
    """The modules of the house that an import runs: the module, or its submodules by name."""
    if not name.startswith("avalon"):
        return
    found = False
    if isinstance(node, ast.ImportFrom):
        for alias in node.names:
            below = PACKAGE.joinpath(*name.split(".")[1:], alias.name)
            if below.with_suffix(".py").exists() or below.is_dir():
                found = True
                yield f"{name}.{alias.name}"
    if not found:
        yield name


def test_few_modules_below_functions_know_primitives():
    """Adding a primitive edits one file: what reads the table does not know its members."""
    may = {
        "rewrite": "rules are about primitives",
        "ops": "they are declared there",
        "tensor": "operators and indexing are built of them",
        "tracing": "cells and windows are made of movements",
        "random": "draws are made of random bits",
        "codegen": "contractions have a generator of their own",
        "schedule": "lowerings are known by name",
    }
    allowed_files = {
        "compiler.py",
        # gradients of loops, and the counting of their rounds, are written in primitives
        "differentiation/accumulate.py",
        "differentiation/joint.py",
        "differentiation/loops.py",
        "differentiation/reverse.py",
        "schedule/bodies.py",
    }
    names = set(table())
    for path in modules():
        part = part_of(path)
        relative = str(path.relative_to(PACKAGE))
        if not part or LEVEL[part] >= LEVEL["functions"] or part in may:
            continue
        if relative in allowed_files:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("avalon.ops"):
                known = names & {alias.name for alias in node.names}
                assert not known, f"{relative}:{node.lineno} names primitives: {sorted(known)}"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert not (node.value.id == "ops" and node.attr in names), (
                    f"{relative}:{node.lineno} names the primitive {node.attr}"
                )
