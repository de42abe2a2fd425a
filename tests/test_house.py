"""The house as it should be: short files, no cycles, and who may import whom.

python -m pytest tests/test_house.py
"""

import ast
import graphlib
from pathlib import Path

import mutants
import pytest

ROOT = Path(__file__).parent.parent
READ = {  # the floor that is read: lines at most
    "dsrl": 340, "prerl": 360, "rollout": 540, "model": 450, "logprobs": 300, "tiny": 420,
    "reward": 320,
}  # fmt: skip
LIMITS = READ | {"eval": 400, "study": 550, "plumbing.answers": 900}
SCRIPTS = ("dsrl", "eval", "study")
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in [*ROOT.glob("*.py"), *ROOT.glob("plumbing/*.py")]
}


def lines_of(name):
    return len(FILES[name].read_text().splitlines())


def imports(path):
    """{own module: names of the functions that import it, "" for the top of the file}."""
    found = {}

    def visit(node, function):
        if isinstance(node, ast.FunctionDef):
            function = node.name
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name in FILES:
                found.setdefault(name, set()).add(function)
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse(path.read_text()), "")
    return found


@pytest.mark.parametrize("name", FILES)
def test_no_file_is_too_long(name):
    """Bug: a file that grew past what one reads in a sitting."""
    assert lines_of(name) <= LIMITS.get(name, 550)


def test_the_floor_that_is_read_is_short():
    """Bug: seven files within their limits that are too much together."""
    assert sum(map(lines_of, READ)) <= 2700


def test_no_import_cycle():
    """Bug: two files that need each other, hidden by an import inside a function."""
    graph = {name: set(imports(path)) - {name} for name, path in FILES.items()}
    list(graphlib.TopologicalSorter(graph).static_order())


def test_who_imports_whom():
    """Bug: a file of the method that cannot be read without the plumbing; a script as a library."""
    for name, path in FILES.items():
        found = imports(path)
        assert not set(found) & set(SCRIPTS), f"{name} imports a script"
        below = {module: places for module, places in found.items() if "plumbing" in module}
        if name in READ and name not in ("dsrl", "reward"):
            shell = {"main", "demo", "self_check", "show"}
            assert all(places <= shell for places in below.values()), f"{name}: {below}"


@pytest.mark.parametrize("file", sorted({file for file, *_ in mutants.table()}))
def test_each_mutant_changes_one_place(file):
    """Bug: a mutant whose text is gone, or stands in two places: it would no longer be tried."""
    text = (ROOT / file).read_text("utf-8")
    olds = [old for name, old, _, _ in mutants.table() if name == file]
    assert {old: text.count(old) for old in olds} == dict.fromkeys(olds, 1)
