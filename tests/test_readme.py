"""The README says what is there: files, functions, flags, forks.

python -m pytest tests/test_readme.py
"""

import ast
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

from conftest import arguments, start

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

    assert set(re.findall(r"\| `--variant ([\w-]+)`", README)) == set(dsrl.VARIANTS)


def test_results_are_those_of_the_files():
    """Bug: a number in the README that no file of results has any more."""
    for name in re.findall(r"tests/results/[\w.-]+\.json\b", README):
        json.loads((ROOT / name).read_text())


FORKED = """
import sys, torch, dsrl, prerl
from plumbing.flags import VARIANTS
from transformers import LlamaConfig
from model import CausalLM
from rollout import generate

torch.manual_seed(0)
sizes = dict(vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=1)
model = CausalLM(LlamaConfig(**sizes, num_attention_heads=4))
rollout = generate(model, [[3, 4], [5, 6]], group_size=4, max_new_tokens=9, eos_ids=(1,), seed=0)
rewards = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 1.0]])  # the first has A = 0
advantages = prerl.group_advantages(rewards, True).flatten()
old = prerl.conditional_logprobs(model, rollout).detach() - 0.23  # ratio 1.26, on the clip's edge
gradients = []
for update in (prerl.reference_update, prerl.policy_gradient):
    model.zero_grad()
    update(model, rollout, advantages, space="conditional", samples="all", old_logprobs=old)
    gradients.append(torch.cat([one.grad.flatten() for one in model.parameters()]))
assert torch.allclose(*gradients, atol=1e-6), (gradients[0] - gradients[1]).abs().max()
variant = ["--variant", "psr-warmup"] if "psr-warmup" in VARIANTS else []
assert dsrl.main(words + variant) == 0
print("pushed", gradients[0].norm().item())
"""


def run_fork(fork, words):
    """In a forked process: what is slow to import is there already, the files are the fork's."""
    os.chdir(fork)
    sys.path.insert(0, str(fork))
    own = {"plumbing", *(path.stem for path in ROOT.glob("*.py"))}
    for name in [name for name in sys.modules if name.partition(".")[0] in own]:
        del sys.modules[name]
    exec(FORKED, {"words": words})
    return 0


def test_forks_apply_and_run(tmp_path, world):
    """Bug: an ablation shown as a diff that no longer fits the code, breaks it, changes one of the
    two forms of the update alone, or nothing.
    """
    diffs, running, texts = DIFFS.findall(README), {}, []
    assert len(diffs) == 4
    for number, diff in enumerate(["", *diffs]):
        fork = tmp_path / str(number)
        shutil.copytree(ROOT / "plumbing", fork / "plumbing")
        for path in ROOT.glob("*.py"):
            shutil.copy(path, fork)
        if diff:
            changed = [line for line in diff.splitlines() if re.match(r"[+-](?![+-]{2})", line)]
            assert 0 < len(changed) < 10
            (fork / "fork.diff").write_text(diff)
            apply = ["git", "apply", "--recount", "fork.diff"]
            ended = subprocess.run(apply, cwd=fork, capture_output=True, text=True)
            assert ended.returncode == 0, ended.stderr
        flags = ["--updates-per-rollout", "2", "--prerl-steps", "1", "--steps", "2"]
        words = arguments(world, fork / "out", *flags)
        running[fork] = start(words, output=fork / "log", main=partial(run_fork, fork))
    for fork, process in running.items():
        process.join()
        output = (fork / "log").read_text()
        assert process.exitcode == 0, output
        updates = (fork / "out/metrics.jsonl").read_text().splitlines()
        norms = [json.loads(line).get("grad_norm") for line in updates]
        texts.append(output.splitlines()[-1] + str([norm for norm in norms if norm]))
    assert len(set(texts)) == len(texts), "a fork pushes as another does"
