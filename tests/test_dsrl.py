"""The method in one loop: phases, variants, one seed.    python -m pytest tests/test_dsrl.py"""

from pathlib import Path

import pytest
import torch
from conftest import arguments

import dsrl
import run
from model import load_model
from prerl import OBJECTIVES


@pytest.fixture(autouse=True)
def no_curves(monkeypatch, finished):
    """They are drawn once, in `finished`: a quarter of a second at each evaluation."""
    monkeypatch.setattr(run, "draw_curves", lambda folder: None)


def updates(folder):
    """Metrics of the updates, without the clock."""
    records = run.read_lines(Path(folder) / "metrics.jsonl")
    return [
        {name: value for name, value in record.items() if "second" not in name}
        for record in records if "reward" in record
    ]  # fmt: skip


def weights(path):
    return dict(load_model(str(path))[0].named_parameters())


def same_weights(first, second):
    first, second = weights(first), weights(second)
    return all(torch.equal(first[name], second[name]) for name in first)


def test_phase_boundary():
    """Bug: N warm-up updates that are N - 1, or a step counted from 1."""
    assert [dsrl.phase(step, 2) for step in range(4)] == ["prerl", "prerl", "rl", "rl"]
    assert dsrl.phase(0, 0) == "rl"
    of = {
        name: dsrl.parse_args(["--variant", name, "--steps", "90"]).prerl_steps
        for name in dsrl.VARIANTS
    }
    assert all(0 < of.pop(name) < 90 for name in ("dsrl", "twin", "prerl-grpo"))
    one_phase = dict.fromkeys(("joint", "grpo", "nsr-rl", "psr-rl", "nsr-twin"), 0)
    assert of == one_phase | dict.fromkeys(("prerl", "nsr-prerl", "psr-prerl"), 90)


def test_the_whole_run(world, finished, tmp_path):
    """Bug: any break between the files; two runs of one seed that differ."""
    assert dsrl.main(arguments(world, tmp_path)) == 0
    first = updates(finished)
    assert [record["phase"] for record in first] == ["prerl", "prerl", "rl", "rl"]
    assert first == updates(tmp_path)
    assert any(record["rows_trained"] for record in first), "no signal: the case tests nothing"
    names = {"config.json", "metrics.jsonl", "samples.jsonl", "curves.png", "checkpoint-4"}
    assert {path.name for path in finished.iterdir()} >= names
    assert not same_weights(finished / "checkpoint-4", world)
    assert same_weights(finished / "checkpoint-4", tmp_path / "checkpoint-4")
    assert all(record["sampler_gap"] < 1e-4 for record in first)
    reasons = [name for record in first for name in record if name.startswith("share_")]
    assert "share_right" in reasons and "share_no_answer" in reasons


def test_checkpoint_loads_in_transformers(finished):
    """Bug: a folder only we can read."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = finished / "checkpoint-4"
    tokenizer = AutoTokenizer.from_pretrained(path)
    turns = [{"role": "user", "content": "Start with 1."}]
    ids = torch.tensor([tokenizer.apply_chat_template(turns, return_dict=False)])
    ours, _ = load_model(str(path))
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(path)(ids).logits
        assert torch.allclose(ours.lm_head(ours(ids)), theirs, atol=1e-4)


@pytest.mark.parametrize("variant", dsrl.VARIANTS)
def test_every_variant_takes_an_update(world, tmp_path, variant):
    """Bug: a variant that the loop cannot run, or that trains another space than its name says."""
    more = ("--variant", variant, "--steps", "1", "--eval-problems", "1")
    assert dsrl.main(arguments(world, tmp_path, *more)) == 0
    (record,) = updates(tmp_path)
    two = {"dsrl": ("nsr-prerl",), "joint": ("grpo", "nsr-prerl"), "twin": ("nsr-twin",)}
    two["prerl-grpo"] = ("prerl",)
    config = dsrl.parse_args(["--variant", variant])
    expected = [OBJECTIVES[name] for name in two.get(variant, (variant,))]
    assert dsrl.active_objectives(config, 0) == expected
    assert record["grad_norm"] > 0 and record["skipped"] is None
    if variant in ("dsrl", "twin", "prerl-grpo"):
        assert dsrl.active_objectives(config, config.prerl_steps) == [OBJECTIVES["grpo"]]


@pytest.mark.parametrize("variant", ["grpo", "nsr-prerl"])
def test_several_updates_per_rollout(world, tmp_path, variant):
    """Bug: the second update on a rollout treated as on-policy: its ratio must move."""
    more = ("--variant", variant, "--updates-per-rollout", "3", "--lr", "0.02", "--steps", "2")
    assert dsrl.main(arguments(world, tmp_path, *more)) == 0
    assert any(record.get("clip_fraction", 0) > 0 for record in updates(tmp_path))


def test_prompts_are_a_shuffled_pass():
    """Bug: problems repeated before all were seen; an order that depends on a resumed start."""
    config = dsrl.parse_args(["--prompts-per-step", "4"])
    problems = list(range(10))
    seen = [problem for step in range(5) for problem in dsrl.prompts_of(step, problems, config)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == problems and seen[:10] != seen[10:]


def test_training_raises_the_reward(world, tmp_path):
    """Bug: a sign error between reward and weights. Rewarded is the answer 1, whatever is asked."""
    (tmp_path / "mine.py").write_text(
        "def one(problem, response):\n    return float(response.rstrip().endswith('{1}.'))\n"
    )
    more = ("--variant", "grpo", "--steps", "12", "--prompts-per-step", "8", "--group-size", "8")
    more += ("--reward", f"{tmp_path}/mine.py:one", "--save-every", "12")
    assert dsrl.main(arguments(world, tmp_path / "a", *more)) == 0
    rewards = [record["reward"] for record in updates(tmp_path / "a")]
    assert sum(rewards[-3:]) / 3 > rewards[0] + 0.2, rewards


def test_a_reward_without_differences_is_no_signal(world, tmp_path, capsys):
    """Bug: --reward read and not used; an update made of nothing."""
    (tmp_path / "mine.py").write_text("def always(problem, response):\n    return 1.0\n")
    more = ("--reward", f"{tmp_path}/mine.py:always", "--steps", "2")
    assert dsrl.main(arguments(world, tmp_path / "a", *more)) == 0
    assert all(record["reward"] == 1 and record["skipped"] for record in updates(tmp_path / "a"))
    assert same_weights(world, tmp_path / "a/checkpoint-2")
    assert "every group is solved" in capsys.readouterr().out


def test_alignment_is_logged_and_changes_nothing(world, finished, tmp_path):
    """Bug: --alignment-every read and not used, or gradients of it left for the update."""
    assert dsrl.main(arguments(world, tmp_path, "--steps", "2", "--alignment-every", "2")) == 0
    first, second = updates(tmp_path)
    assert -1 <= first["alignment"] <= 1 and "alignment" not in second
    assert same_weights(finished / "checkpoint-2", tmp_path / "checkpoint-2")
