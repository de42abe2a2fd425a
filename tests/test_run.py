"""Updates that are not finite, prompts, problems, verifiers.    python -m pytest tests/test_run.py"""

import dataclasses
import types
from pathlib import Path

import pytest
import torch
from conftest import arguments, random_model
from test_dsrl import no_curves, same_weights, updates  # noqa: F401

import dsrl
from plumbing import checkpoints
from plumbing.benchmarks import load_data
from plumbing.checkpoints import load_model
from plumbing.grading import load_grader
from plumbing.plan import Fit
from prerl import marginal_logprobs


def test_not_finite_is_counted_logged_and_stops(world, tmp_path, monkeypatch, capsys):
    """Bug: a NaN update applied, or a run that goes on forever without learning."""
    nan = torch.tensor(float("nan"))
    monkeypatch.setattr(dsrl.torch.nn.utils, "clip_grad_norm_", lambda *_: nan)
    more = ("--variant", "grpo", "--steps", "30", "--save-every", "30")
    assert dsrl.main(arguments(world, tmp_path, *more)) == 2
    records, (output, error) = updates(tmp_path), capsys.readouterr()
    assert len(records) == 3 and all("not finite" in record["skipped"] for record in records)
    assert all(record["grad_norm"] is None and record["text"] for record in records)
    assert "update 2 was not applied: the loss or" in output and records[2]["text"] in output
    assert "3 updates in a row" in error and "--resume" in error
    assert same_weights(world, tmp_path / "checkpoint-3")


def test_a_later_update_on_a_rollout_that_is_not_finite(world, tmp_path, monkeypatch):
    """Bug: an update that half happened is recorded as if nothing had."""
    norms = iter(map(torch.tensor, (1.0, float("nan"))))
    monkeypatch.setattr(dsrl.torch.nn.utils, "clip_grad_norm_", lambda *_: next(norms))
    more = ("--variant", "grpo", "--steps", "1", "--updates-per-rollout", "2")
    assert dsrl.main(arguments(world, tmp_path, *more)) == 0
    assert updates(tmp_path)[0]["skipped"].endswith("not finite, after 1 updates on this rollout")
    assert not same_weights(world, tmp_path / "checkpoint-1")


def test_the_row_that_is_not_finite_is_found(rollout):
    """Bug: the text of some other row under the message."""
    model = random_model()
    config = dataclasses.replace(dsrl.parse_args([]), start_token=2)
    run = types.SimpleNamespace(config=config, model=model, fit=Fit(1024, False, False, None))
    scored = marginal_logprobs(model, rollout.response_ids, rollout.response_mask, 2)
    sums = scored.sum(1).tolist()
    assert sums[dsrl.offending_row(run, rollout, "marginal")] == min(sums)
    model.model.embed_tokens.weight.data[40] = float("nan")  # poisons the rows that read token 40
    rollout.response_ids[rollout.response_ids == 40] = 41
    rollout.response_ids[7, 1] = 40
    model.lm_head.weight = torch.nn.Parameter(random_model().lm_head.weight.data.clone())
    assert dsrl.offending_row(run, rollout, "marginal") == 7


def test_a_tokenizer_without_template_is_said(world, tmp_path, capsys):
    """Bug: a base model that samples on into a second question, or silence about the prompt."""
    model, tokenizer = load_model(world)
    tokenizer.chat_template = None
    checkpoints.save_model(model, tokenizer, tmp_path / "base")
    words = arguments(world, tmp_path / "out", "--model", f"{tmp_path}/base", "--steps", "1")
    assert dsrl.main(words) == 0
    assert "no chat template: prompts are plain text" in capsys.readouterr().out


def test_a_few_problems_are_enough(world, tmp_path):
    """Bug: all of a small data set held out for evaluation, nothing left to train on."""
    few, lines = tmp_path / "few.jsonl", Path(world, "train.jsonl").read_text().splitlines()
    few.write_text("\n".join(lines[:10]) + "\n")
    config = dsrl.parse_args(["--model", world, "--data", str(few), "--max-response-tokens", "24"])
    model, tokenizer = load_model(world)
    problems, held_out = load_data(config, tokenizer, model.max_positions)
    assert (len(problems), len(held_out)) == (8, 2)


def test_a_verifier_out_of_range_is_refused(tmp_path):
    """Bug: rewards of 2, or NaN, found out later and blamed on something else."""
    for value in ("2.0", "-0.1", "float('nan')"):
        (tmp_path / "mine.py").write_text(f"def check(problem, response):\n    return {value}\n")
        grade = load_grader(f"{tmp_path}/mine.py:check")
        with pytest.raises(ValueError, match="must lie in"):
            grade([{"answer": "1"}], ["1"])
