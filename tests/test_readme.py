"""The README says what is there: files, functions, flags, forks.

python -m pytest tests/test_readme.py
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
# [`prerl.token_losses`](prerl.py), [`plumbing.alignment.cosine`](plumbing/alignment.py)
PLACES = re.compile(r"\[`([\w.]+)\.(\w+)`\]\(([\w/]+)\.py\)")
TORCHRUN = (
    "--standalone --nproc-per-node --nnodes --node-rank --master-addr --master-port "
    "--shutdown-timeout"
).split()
OTHER_PROGRAMS = "--enable-lora --max-lora-rank --lora-modules --outfile --outtype".split()
DIFFS = re.compile(r"```diff\n(.*?)```", re.DOTALL)


def names_in(path):
    """Functions and classes of a file."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def commands(script):
    found = re.findall(rf"python {script}\.py((?: +[^\s`#|&]+| +\"[^\"]*\")*)", README)
    return [command.split() for command in found]


def test_nothing_is_left_to_fill_in():
    """Bug: a heading or a table that was to come."""
    for text in (README, (ROOT / "STUDY.md").read_text()):
        assert not re.search(r"^[A-Z][A-Z-]{4,}$|TODO", text, re.M)


def test_formulas_lead_to_their_functions():
    """Bug: a formula that leads to a function that was renamed or moved."""
    places = PLACES.findall(README)
    assert len(places) > 10
    for module, name, file in [place for place in places if place[1] != "py"]:
        assert module.replace(".", "/") == file and name in names_in(ROOT / f"{file}.py"), name
    for module, name in re.findall(r"`(\w+)\.(\w+)\(?\)?`", README):
        if (ROOT / f"{module}.py").is_file() and name not in ("py", "jsonl"):
            assert name in (ROOT / f"{module}.py").read_text(), f"{module}.{name}"


def test_commands_parse():
    """Bug: a command with a flag or a variant that dsrl.py does not know."""
    import dsrl
    from plumbing.flags import Config

    assert len(commands("dsrl")) > 10
    for command in commands("dsrl"):
        dsrl.parse_args(command)
    flags = {f"--{item.name.replace('_', '-')}" for item in dataclasses.fields(Config)}
    files = [*ROOT.glob("*.py"), *ROOT.glob("plumbing/*.py"), *ROOT.glob("tests/*.py")]
    own = "".join(path.read_text() for path in files)
    for flag in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)):
        known = flag in flags or f'"{flag}"' in own
        assert known or flag in [*TORCHRUN, *OTHER_PROGRAMS], flag


def test_every_file_named_is_there():
    """Bug: a command or a link that leads nowhere."""
    for name in re.findall(r"\]\(([\w/.-]+?)(?:#[\w-]+)?\)", README):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"python ((?:tests/)?\w+\.py)", README):
        assert (ROOT / name).is_file() or name in ("mine.py", "convert_hf_to_gguf.py"), name


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
    shutil.copytree(ROOT / "plumbing", tmp_path / "plumbing")
    diffs = DIFFS.findall(README)
    assert diffs
    for diff in diffs:
        changed = [line for line in diff.splitlines() if re.match(r"[+-](?![+-]{2})", line)]
        assert 0 < len(changed) < 10
        (tmp_path / "fork.diff").write_text(diff)
        apply = ["git", "apply", "--recount", "fork.diff"]
        ended = subprocess.run(apply, cwd=tmp_path, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
    check = (
        "import dsrl, prerl; from plumbing.flags import VARIANTS; "
        "assert VARIANTS['dsrl'][0] == ('psr-prerl',); prerl.demo()"
    )
    subprocess.run([sys.executable, "-c", check], cwd=tmp_path, check=True)
