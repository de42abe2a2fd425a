"""The loop from the outside: what a person types, and what lies in the folder afterwards.    python -m pytest tests/test_dsrl.py

A world of a few thousand training tokens stands in for the cached one: its base model knows nothing, and every code path is the same.
"""

import ast
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import dsrl
import run
import tiny
from model import load_model
from prerl import OBJECTIVES

ROOT = Path(__file__).parent.parent
SHORT = "--steps 4 --prerl-steps 2 --prompts-per-step 4 --group-size 4 --max-response-tokens 24 --eval-problems 4 --eval-k 2".split()


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Folder of a base trained on 100,000 tokens: enough to write the format, so that some answers are right."""
    settings = tiny.World(tokens=100_000, modulus=3, steps=(1, 2), long_steps=(3, 3), train_problems=40, test_problems=16)
    return tiny.build(cache_dir=tmp_path_factory.mktemp("world"), world=settings, quiet=True)


def arguments(world, out, *more):
    data = ["--data", f"{world}/train.jsonl", "--eval-data", f"{world}/test.jsonl"]
    return ["--model", world, *data, "--lr", "1e-3", "--threads", "1", "--save-every", "1", *SHORT, "--out", str(out), *more]


def updates(folder):
    """Metrics of the updates, without the clock."""
    records = [record for record in run.read_lines(Path(folder) / "metrics.jsonl") if "reward" in record]
    return [{key: value for key, value in record.items() if "second" not in key} for record in records]


def weights(path):
    return dict(load_model(str(path))[0].named_parameters())


def same_weights(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_phase_boundary():
    """Bug: N warm-up updates that are N - 1, or a step counted from 1."""
    assert [dsrl.phase(step, 2) for step in range(4)] == ["prerl", "prerl", "rl", "rl"]
    assert dsrl.phase(0, 0) == "rl"
    steps = {name: dsrl.parse_args(["--variant", name, "--steps", "90"]).prerl_steps for name in dsrl.VARIANTS}
    assert 0 < steps.pop("dsrl") < 90 and steps == {
        "joint": 0, "grpo": 0, "nsr-rl": 0, "psr-rl": 0, "prerl": 90, "nsr-prerl": 90, "psr-prerl": 90}  # fmt: skip


def test_the_whole_run(world, tmp_path):
    """Bug: any break between the files. The folder holds what the README says, and two runs of one seed are identical."""
    assert dsrl.main(arguments(world, tmp_path / "a")) == 0 and dsrl.main(arguments(world, tmp_path / "b")) == 0
    first = updates(tmp_path / "a")
    assert [record["phase"] for record in first] == ["prerl", "prerl", "rl", "rl"] and first == updates(tmp_path / "b")
    assert any(record["rows_trained"] for record in first), "no update had a signal: the case tests nothing"
    assert {path.name for path in (tmp_path / "a").iterdir()} >= {
        "config.json", "metrics.jsonl", "samples.jsonl", "curves.png", "checkpoint-3", "checkpoint-4"}  # --keep 2  # fmt: skip
    after = weights(tmp_path / "a/checkpoint-4")
    assert not same_weights(after, weights(world)) and same_weights(after, weights(tmp_path / "b/checkpoint-4"))
    assert all(record["sampler_gap"] < 1e-4 for record in first)


def test_checkpoint_loads_in_transformers(world, tmp_path):
    """Bug: a folder only we can read."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert dsrl.main(arguments(world, tmp_path / "a")) == 0
    path = tmp_path / "a/checkpoint-4"
    tokenizer = AutoTokenizer.from_pretrained(path)
    ids = torch.tensor([tokenizer.apply_chat_template([{"role": "user", "content": "Start with 1."}], return_dict=False)])
    ours, _ = load_model(str(path))
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(path)(ids).logits
        assert torch.allclose(ours.lm_head(ours(ids)), theirs, atol=1e-4)


@pytest.mark.parametrize("variant", dsrl.VARIANTS)
def test_every_variant_takes_an_update(world, tmp_path, variant):
    """Bug: a variant that the loop cannot run, or that trains another space than its name says."""
    assert dsrl.main(arguments(world, tmp_path, "--variant", variant, "--steps", "1", "--prerl-steps", "1")) == 0
    (record,) = updates(tmp_path)
    config = dsrl.parse_args(["--variant", variant, "--prerl-steps", "1"])
    objectives = dsrl.active_objectives(config, 0)
    assert objectives == {"dsrl": [OBJECTIVES["nsr-prerl"]], "joint": [OBJECTIVES["grpo"], OBJECTIVES["nsr-prerl"]]}.get(
        variant, [OBJECTIVES.get(variant)])  # fmt: skip
    assert record["grad_norm"] > 0 and record["skipped"] is None
    if variant == "dsrl":
        assert dsrl.active_objectives(config, 1) == [OBJECTIVES["grpo"]]


def test_several_updates_per_rollout(world, tmp_path):
    """Bug: the second update on a rollout treated as on-policy: its ratio must move, in either space."""
    for variant in ("grpo", "nsr-prerl"):
        options = ("--variant", variant, "--updates-per-rollout", "3", "--lr", "0.02", "--steps", "2")
        assert dsrl.main(arguments(world, tmp_path / variant, *options)) == 0
        assert any(record.get("clip_fraction", 0) > 0 for record in updates(tmp_path / variant)), variant


def test_resume_ends_with_the_same_weights(world, tmp_path):
    """Bug: moments, data order or sampling that start again. To the bit, records included."""
    assert dsrl.main(arguments(world, tmp_path / "whole")) == 0
    assert dsrl.main(arguments(world, tmp_path / "parts", "--steps", "2")) == 0
    assert dsrl.main(arguments(world, tmp_path / "parts", "--resume")) == 0
    assert same_weights(weights(tmp_path / "whole/checkpoint-4"), weights(tmp_path / "parts/checkpoint-4"))
    assert updates(tmp_path / "whole") == updates(tmp_path / "parts")


def test_damaged_checkpoint_is_passed_over(world, tmp_path, capsys):
    """Bug: half a file taken for a checkpoint."""
    assert dsrl.main(arguments(world, tmp_path / "whole")) == 0
    assert dsrl.main(arguments(world, tmp_path / "a")) == 0
    file = tmp_path / "a/checkpoint-4/optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    (tmp_path / "a/checkpoint-9").mkdir()
    assert dsrl.main(arguments(world, tmp_path / "a", "--resume")) == 0
    output = capsys.readouterr().out
    assert "checkpoint-4 is damaged (optimizer.safetensors)" in output and "checkpoint-9 is not whole" in output
    assert same_weights(weights(tmp_path / "whole/checkpoint-4"), weights(tmp_path / "a/checkpoint-4"))
    assert updates(tmp_path / "whole") == updates(tmp_path / "a")


def start(world, out, *more):
    code = "import sys, torch; sys.argv[0] = 'dsrl.py'; torch.set_num_threads(1); import dsrl; sys.exit(dsrl.main(sys.argv[1:]))"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code, *arguments(world, out, *more)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(condition, process):
    deadline = time.monotonic() + 60
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.parametrize("kills", [int(os.environ.get("DSRL_KILLS", 2))])
def test_killed_at_any_moment(world, tmp_path, kills):
    """Bug: a state between two files. DSRL_KILLS=50 runs the long form: SIGKILL at random moments, then --resume."""
    assert dsrl.main(arguments(world, tmp_path / "whole", "--steps", "8")) == 0
    rng, out = random.Random(0), tmp_path / "killed"
    for _ in range(kills):
        resumable = any((path / "trainer.json").exists() for path in out.glob("checkpoint-*[0-9]"))
        if out.exists() and not resumable:
            subprocess.run(["rm", "-rf", str(out)], check=True)
        process = start(world, out, "--steps", "8", *(["--resume"] if resumable else []))
        wait_for((out / "metrics.jsonl").exists, process)
        time.sleep(rng.uniform(0, 2))
        process.kill()
        process.communicate()
    resumable = bool(run.checkpoints(out))
    process = start(world, out, "--steps", "8", *(["--resume"] if resumable else []))
    if not resumable:
        subprocess.run(["rm", "-rf", str(out)], check=True)
    assert process.wait(120) == 0, process.stderr.read().decode()[-2000:]
    assert same_weights(weights(tmp_path / "whole/checkpoint-8"), weights(out / "checkpoint-8"))
    assert updates(tmp_path / "whole") == updates(out)


def test_interrupt_saves_and_says_how_to_go_on(world, tmp_path):
    """Bug: Ctrl-C that loses the run."""
    process = start(world, tmp_path / "a", "--steps", "500", "--save-every", "500")
    wait_for(lambda: len(updates(tmp_path / "a")) >= 2, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and b"--resume" in output
    (step, path), *_ = run.checkpoints(tmp_path / "a")
    assert len(updates(tmp_path / "a")) == step and (path / "trainer.json").is_file()


def test_non_finite_gradients_are_counted_and_stop(world, tmp_path, monkeypatch, capsys):
    """Bug: a NaN update applied, or a run that goes on forever without learning."""
    monkeypatch.setattr(dsrl.torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(float("nan")))
    assert dsrl.main(arguments(world, tmp_path / "a", "--variant", "grpo", "--steps", "30")) == 2
    records = updates(tmp_path / "a")
    assert [record["skipped"] for record in records if record["rows_trained"]] == ["the gradient is not finite"] * 3
    assert "three updates in a row" in capsys.readouterr().err
    assert same_weights(weights(world), weights(run.checkpoints(tmp_path / "a")[0][1]))


def test_own_reward_and_data(world, tmp_path):
    """Bug: --reward is read and not used. A reward of 1 for every response leaves no signal."""
    (tmp_path / "mine.py").write_text("def always(problem, response):\n    return 1.0\n")
    assert dsrl.main(arguments(world, tmp_path / "a", "--reward", f"{tmp_path}/mine.py:always")) == 0
    assert all(record["reward"] == 1 and record["skipped"] for record in updates(tmp_path / "a"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--model", "/nowhere/at/all"), "unknown model '/nowhere/at/all'"),
        (("--model", "Qwen9-1B"), "Qwen2.5-1.5B"),
        (("--group-size", "1"), "--group-size is 1"),
        (("--max-response-tokens", "0"), "--max-response-tokens is 0"),
        (("--lr", "nan"), "--lr is nan"),
        (("--max-prompt-tokens", "2"), "leaves 0 problems"),
        (("--max-response-tokens", "4000"), "512 positions"),
        (("--start-token", "100000"), "start token 100000"),
        (("--data", "{tmp}/empty.jsonl"), "empty.jsonl"),
        (("--data", "{tmp}/no_answer.jsonl"), "no_answer.jsonl"),
        (("--data", "{tmp}/columns.jsonl"), "columns apple, pear"),
        (("--reward", "{tmp}/none.py:f"), "no such file"),
        (("--out", "/proc/nothing"), "cannot write to /proc/nothing"),
        (("--resume",), "no whole checkpoint"),
    ],
)
def test_user_mistakes_get_one_line(world, tmp_path, capsys, more, message):
    """Bug: a traceback, or a run that starts on nonsense."""
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "no_answer.jsonl").write_text('{"problem": "1+1?", "answer": ""}\n')
    (tmp_path / "columns.jsonl").write_text('{"apple": 1, "pear": 2}\n')
    assert dsrl.main(arguments(world, tmp_path / "out", *(word.format(tmp=tmp_path) for word in more))) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and error.startswith("error: ")


@pytest.mark.parametrize("more", [("--no-such-flag",), ("--variant", "nothing")])
def test_unknown_flags_and_variants(world, tmp_path, more):
    with pytest.raises(SystemExit) as stopped:
        dsrl.main(arguments(world, tmp_path, *more))
    assert stopped.value.code == 2


def test_a_folder_with_a_run_is_not_overwritten(world, tmp_path, capsys):
    assert dsrl.main(arguments(world, tmp_path, "--steps", "1")) == 0
    assert dsrl.main(arguments(world, tmp_path, "--steps", "1")) == 2 and "holds a run" in capsys.readouterr().err
    assert dsrl.main(arguments(world, tmp_path, "--resume", "--seed", "1")) == 2 and "--seed cannot change" in capsys.readouterr().err


def test_hub_names_without_a_network(tmp_path, capsys, monkeypatch):
    """Bug: a traceback where there is no network. The hub's client is told that it is offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert dsrl.main(["--model", "Qwen2.5-1.5B", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "Qwen/Qwen2.5-1.5B" in error and "a folder with config.json" in error


def test_flags_are_read_and_spelled_either_way():
    """Bug: a flag that is parsed and never used; --group_size or --num_generations refused."""
    source = "".join((ROOT / name).read_text() for name in ("dsrl.py", "run.py"))
    read = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    unread = {item.name for item in dataclasses.fields(dsrl.Config)} - read - {"preset"}  # preset is read while parsing
    assert not unread
    for spelling in ("--group-size", "--group_size", "--num_generations", "--num-generations"):
        assert dsrl.parse_args([spelling, "5"]).group_size == 5
    assert dsrl.parse_args(["--learning_rate=3e-4", "--out", "my_run"]).out == "my_run"


def test_prompts_are_a_shuffled_pass(world):
    """Bug: problems repeated before all were seen, or an order that depends on where a run was resumed."""
    config = dsrl.parse_args(["--prompts-per-step", "4"])
    problems = list(range(10))
    seen = [problem for step in range(5) for problem in dsrl.prompts_of(step, problems, config)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == problems and seen[:10] != seen[10:]


def test_training_raises_the_reward(world, tmp_path):
    """Bug: a sign error anywhere between reward and weights. The reward is to answer 1, whatever the question."""
    (tmp_path / "mine.py").write_text("def one(problem, response):\n    return float(response.rstrip().endswith('{1}.'))\n")
    options = ("--variant", "grpo", "--steps", "12", "--prompts-per-step", "8", "--group-size", "8", "--save-every", "12")
    assert dsrl.main(arguments(world, tmp_path / "a", "--reward", f"{tmp_path}/mine.py:one", *options)) == 0
    rewards = [record["reward"] for record in updates(tmp_path / "a")]
    assert sum(rewards[-3:]) / 3 > rewards[0] + 0.3, rewards


def test_json_config_reproduces_the_run(world, tmp_path):
    assert dsrl.main(arguments(world, tmp_path, "--steps", "1")) == 0
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["group_size"] == 4 and config["torch"] == torch.__version__ and config["device"] == "cpu"
