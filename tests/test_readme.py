"""The README says what is there: files, line counts, functions, flags, metrics.    python -m pytest tests/test_readme.py

After a change of length: python tests/test_readme.py --write puts the true counts in.
"""

import dataclasses
import importlib
import re
import sys
from pathlib import Path

import dsrl

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
ROW = re.compile(r"^\| `(\w+\.py)` \| ([\d,]+) \|", re.MULTILINE)


def lines_of(name):
    return len((ROOT / name).read_text().splitlines())


def test_line_counts():
    """Bug: a file table that nobody believes any more."""
    stated = {name: int(count.replace(",", "")) for name, count in ROW.findall(README)}
    assert stated == {path.name: lines_of(path.name) for path in ROOT.glob("*.py")}


def test_functions_exist():
    """Bug: a formula that leads to a function of another name."""
    names = re.findall(r"`(model|rollout|reward|prerl|eval|dsrl|tiny|run)\.(\w+)`", README)
    names = [(module, name) for module, name in names if name != "py"]
    assert len(names) > 10
    for module, name in names:
        assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


def test_commands_parse():
    """Bug: a command with a flag or a variant that dsrl.py does not know."""
    commands = re.findall(r"python dsrl\.py((?: +[^\s`#|&]+| +\"[^\"]*\")*)", README)
    assert len(commands) > 10
    for command in commands:
        dsrl.parse_args(command.split())
    flags = {f"--{item.name.replace('_', '-')}" for item in dataclasses.fields(dsrl.Config)}
    own = "".join((ROOT / name).read_text() for name in ("eval.py", "rollout.py", "prerl.py", "reward.py", "tiny.py"))
    for flag in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)):
        assert flag in flags or f'"{flag}"' in own, flag


def test_variants_are_all_there():
    assert set(re.findall(r"`python dsrl.py --variant ([\w-]+)`", README)) == set(dsrl.VARIANTS)


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    put = lambda match: f"| `{match[1]}` | {lines_of(match[1])} |"  # noqa: E731
    (ROOT / "README.md").write_text(ROW.sub(put, README))
