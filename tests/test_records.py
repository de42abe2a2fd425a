"""What a run writes and says, and how it ends.    python -m pytest tests/test_records.py"""

import json
import os
import signal
import sys
import time
import types

import pytest
import torch
from conftest import arguments, start, wait_for
from test_dsrl import no_curves, updates  # noqa: F401

import dsrl
from plumbing import checkpoints, records, resume
from plumbing.checkpoints import load_model


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(world, tmp_path, number):
    """Bug: Ctrl-C that loses the run."""
    out, log = tmp_path / "a", tmp_path / "log"
    process = start(arguments(world, out, "--steps", "500", "--save-every", "500"), output=log)
    wait_for(lambda: len(updates(out)) >= 2, process)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 0 and f"--out {out} --resume" in log.read_text()
    (step, path), *_ = resume.checkpoints(out)
    assert len(updates(out)) == step and (path / "trainer.json").is_file()


def test_a_second_interrupt_leaves_at_once(world, tmp_path):
    """Bug: a run that cannot be left, or one that leaves half a checkpoint."""
    (tmp_path / "slow.py").write_text(
        "import time\ndef check(problem, response):\n    time.sleep(1)\n    return 0.0\n"
    )
    out, log = tmp_path / "a", tmp_path / "log"
    more = ("--reward", f"{tmp_path}/slow.py:check", "--variant", "grpo", "--eval-problems", "1")
    process = start(arguments(world, out, *more), output=log)
    wait_for(lambda: log.exists() and "start token" in log.read_text(), process)
    time.sleep(0.5)  # in the first evaluation: 8 responses, a second each
    began = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    wait_for(lambda: "stopping after" in log.read_text(), process)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130 and time.monotonic() - began < 5
    assert "left at once" in log.read_text() and not list(out.glob("checkpoint-*"))


def test_broken_weights_get_one_line(world, tmp_path, capsys):
    """Bug: a traceback where the logits are not finite."""
    model, tokenizer = load_model(world)
    model.model.norm.weight.data.fill_(float("nan"))
    checkpoints.save_model(model, tokenizer, tmp_path / "nan")
    words = arguments(world, tmp_path / "out", "--model", f"{tmp_path}/nan")
    assert dsrl.main(words) == 2
    assert "logits are not finite" in capsys.readouterr().err


def test_an_evaluation_shows_a_right_and_a_wrong_response(capsys):
    """Bug: two responses of one grade shown where the question has both; one of another question."""
    grades = [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    rows = [{"problem": "1 + 1?", "response": f"r{i}", "correct": grade}
            for i, grade in enumerate(grades)]  # fmt: skip
    names = ("avg_at_k", "avg_at_k_se", "pass_at_k", "reflection", "transition", "length")
    records.show_evaluation("now", dict.fromkeys(names, 0.5), rows)
    *_, asked, right, wrong = capsys.readouterr().out.splitlines()
    shown = [line.split() for line in (asked, right, wrong)]
    assert shown == [["asked:", "1", "+", "1?"], ["right:", "r2"], ["wrong:", "r0"]]


def test_warnings_name_the_cause():
    """Bug: a run of rewards 0 in silence; the same warning at every update."""
    run = types.SimpleNamespace(config=dsrl.parse_args([]), unrewarded=0)
    fine = {"cut": 0.1, "mixed": 0.5, "reward": 0.5}
    assert records.warnings_of(fine, run) == {}
    assert list(records.warnings_of(fine | {"cut": 0.3}, run)) == ["cut"]
    assert list(records.warnings_of(fine | {"mixed": 0, "reward": 1}, run)) == ["solved"]
    run.unrewarded = 3
    found = records.warnings_of(fine | {"mixed": 0, "reward": 0}, run)
    assert list(found) == ["unsolved", "zero"]
    assert all(cause in found["zero"] for cause in ("cut before", "boxed", "--reward"))


def test_a_tracker_gets_every_number(world, tmp_path, monkeypatch, capsys):
    """Bug: --report-to read and not used; imported when not asked for."""
    assert not {"wandb", "trackio"} & sys.modules.keys()
    assert dsrl.main(arguments(world, tmp_path / "a", "--report-to", "wandb")) == 2
    assert "pip install wandb" in capsys.readouterr().err
    seen = []
    fake = types.SimpleNamespace(
        init=lambda **how: seen.append(how),
        log=lambda record, step: seen.append(record | {"step": step}),
        finish=lambda: seen.append("finished"),
    )
    monkeypatch.setitem(sys.modules, "trackio", fake)
    more = ("--report-to", "trackio", "--steps", "1")
    assert dsrl.main(arguments(world, tmp_path / "b", *more)) == 0
    assert seen[0]["project"] == "dsrl" and seen[-1] == "finished"
    assert [record["step"] for record in seen[1:-1]] == [0, 0, 1] and "reward" in seen[2]


def test_config_says_what_ran(finished):
    config = json.loads((finished / "config.json").read_text())
    assert config["group_size"] == 4 and config["torch"] == torch.__version__
    assert config["runs_on"] == "cpu" and config["threads"] == 1


def test_records_hold_any_text(tmp_path):
    """Bug: a line separator of Unicode in a response, which JSON leaves as it is, ends a record."""
    record = {"step": 1, "text": "one\u2028two\x85three\x0cfour\nfive"}
    for name in ("metrics.jsonl", "samples.jsonl"):
        records.append_line(tmp_path / name, record)
    assert records.read_lines(tmp_path / "samples.jsonl") == [record]
    resume.cut_back(tmp_path, 2)
    assert records.read_lines(tmp_path / "samples.jsonl") == [record]
