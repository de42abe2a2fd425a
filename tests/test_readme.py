"""The README says what is there: files, line counts, functions and their lines, flags, metrics.

After a change of length, `python tests/test_readme.py --write` puts the true numbers in.
"""

import ast
import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
README = (ROOT / "README.md").read_text()
FILES = re.compile(r"^\| \[`(\w+\.py)`\]\(\1\) \| ([\d,]+) \|", re.MULTILINE)
# [`prerl.cosine`](prerl.py#L1-L9)
PLACES = re.compile(r"\[`(\w+)\.(\w+)`\]\(\1\.py#L(\d+)-L(\d+)\)")
TORCHRUN = "--standalone --nproc-per-node --nnodes --node-rank --master-addr --master-port".split()
DIFFS = re.compile(r"```diff\n(.*?)```", re.DOTALL)


def lines_of(name):
    return len((ROOT / name).read_text().splitlines())


def place_of(module, name):
    """First and last line of a function or class."""
    for node in ast.walk(ast.parse((ROOT / f"{module}.py").read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node.lineno, node.end_lineno
    raise AssertionError(f"{module}.py has no {name}")


def commands(script):
    found = re.findall(rf"python {script}\.py((?: +[^\s`#|&]+| +\"[^\"]*\")*)", README)
    return [command.split() for command in found]


def test_line_counts():
    """Bug: a file table that nobody believes any more."""
    stated = {name: int(count.replace(",", "")) for name, count in FILES.findall(README)}
    assert stated == {path.name: lines_of(path.name) for path in ROOT.glob("*.py")}


def test_nothing_is_left_to_fill_in():
    """Bug: a heading or a table that was to come."""
    for text in (README, (ROOT / "STUDY.md").read_text()):
        assert not re.search(r"^[A-Z][A-Z-]{4,}$|TODO", text, re.M)


def test_formulas_lead_to_their_functions():
    """Bug: a formula that leads to other lines, or to a function that was renamed."""
    places = PLACES.findall(README)
    assert len(places) > 10
    for module, name, first, last in places:
        assert (int(first), int(last)) == place_of(module, name), f"{module}.{name}"
    for module, name in re.findall(r"`(\w+)\.(\w+)\(?\)?`", README):
        if (ROOT / f"{module}.py").is_file() and name not in ("py", "jsonl"):
            assert re.search(rf"^(def |class )?{name}\b", (ROOT / f"{module}.py").read_text(), re.M)


def test_commands_parse():
    """Bug: a command with a flag or a variant that dsrl.py does not know."""
    import dsrl

    assert len(commands("dsrl")) > 10
    for command in commands("dsrl"):
        dsrl.parse_args(command)
    flags = {f"--{item.name.replace('_', '-')}" for item in dataclasses.fields(dsrl.Config)}
    own = "".join(path.read_text() for path in [*ROOT.glob("*.py"), *ROOT.glob("tests/*.py")])
    for flag in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)):
        known = flag in flags or f'"{flag}"' in own
        assert known or flag in TORCHRUN, flag


def test_every_file_named_is_there():
    """Bug: a command or a link that leads nowhere."""
    for name in re.findall(r"\]\(([\w/.-]+?)(?:#[\w-]+)?\)", README):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"python ((?:tests/)?\w+\.py)", README):
        assert (ROOT / name).is_file() or name == "mine.py", name


def test_variants_are_all_there():
    import dsrl

    assert set(re.findall(r"`python dsrl.py --variant ([\w-]+)`", README)) == set(dsrl.VARIANTS)


def test_results_are_those_of_the_files():
    """Bug: a number in the README that no file of results has any more."""
    for name in re.findall(r"tests/results/[\w.-]+\.json\b", README):
        json.loads((ROOT / name).read_text())


def test_forks_apply_and_run(tmp_path):
    """Bug: an ablation shown as a diff that no longer fits the code, or breaks it."""
    for path in ROOT.glob("*.py"):
        shutil.copy(path, tmp_path)
    diffs = DIFFS.findall(README)
    assert diffs
    for diff in diffs:
        changed = [line for line in diff.splitlines() if re.match(r"[+-](?![+-]{2})", line)]
        assert 0 < len(changed) < 10
        (tmp_path / "fork.diff").write_text(diff)
        apply = ["git", "apply", "--recount", "fork.diff"]
        ended = subprocess.run(apply, cwd=tmp_path, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
    check = "import prerl, run; assert run.VARIANTS['dsrl'][0] == ('psr-prerl',); prerl.main([])"
    subprocess.run([sys.executable, "-c", check], cwd=tmp_path, check=True)


def write():
    """Put the true line numbers into the README."""
    text = FILES.sub(lambda m: f"| [`{m[1]}`]({m[1]}) | {lines_of(m[1]):,} |", README)
    text = PLACES.sub(
        lambda m: "[`{0}.{1}`]({0}.py#L{2}-L{3})".format(m[1], m[2], *place_of(m[1], m[2])), text
    )
    (ROOT / "README.md").write_text(text)


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    write()
