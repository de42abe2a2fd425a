"""What a run writes and says, and how it ends.    python -m pytest tests/test_records.py"""

import ast
import io
import json
import os
import re
import signal
import sys
import time
import types
from pathlib import Path

import pytest
import torch
from conftest import arguments, start, wait_for
from test_dsrl import no_curves, updates  # noqa: F401

import dsrl
from plumbing import checkpoints, console, records, resume
from plumbing.checkpoints import load_model
from plumbing.flags import Config

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_says_how_to_go_on(world, tmp_path, number):
    """Bug: Ctrl-C, or a terminal that is closed, loses the run."""
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
    model.model.norm.weight.data.fill_(3e38)  # finite, which the logits are not
    checkpoints.save_model(model, tokenizer, tmp_path / "nan")
    words = arguments(world, tmp_path / "out", "--model", f"{tmp_path}/nan")
    assert dsrl.main(words) == 2
    assert "logits are not finite" in capsys.readouterr().err


def test_the_best_and_the_worst_response_are_shown(capsys):
    """Bug: two responses of one grade shown where the question has both; one of another question;
    lines that a terminal breaks; a second look that nothing marks.
    """
    grades = [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    rows = [{"problem": "1 + 1?", "response": f"r{i} one\n\nWait, " + "two " * 40, "correct": grade}
            for i, grade in enumerate(grades)]  # fmt: skip
    records.show_response("now", rows, best=True)
    records.show_response("now", rows, best=False)
    shown = capsys.readouterr().out
    assert "now, right: r2 one >> Wait, two" in shown and "now, wrong: r0 one >> Wait" in shown
    assert all(len(line) <= 100 for line in shown.splitlines())


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
    (tmp_path / "trackio").mkdir()  # logs of an earlier run, which Python takes for a package
    monkeypatch.syspath_prepend(tmp_path)
    assert dsrl.main(arguments(world, tmp_path / "a", "--report-to", "trackio")) == 2
    assert "pip install trackio" in capsys.readouterr().err
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
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    resumed = ["--out", f"{tmp_path}/b", "--resume", "--steps", "2"]
    for name in ("wandb", "wandb", "trackio"):
        assert dsrl.main([*resumed, "--report-to", name]) == 0
    first, second, third = [how for how in seen if "project" in how][1:]
    assert first["project"] == "mine" and third["name"] == seen[0]["name"]
    assert first["id"] == second["id"] == json.loads((tmp_path / "b/config.json").read_text())["run"]
    assert first["resume"] == "allow" and third["resume"] == "allow" and "id" not in third


def test_tensorboard_gets_every_number(world, tmp_path):
    """Bug: as above; a resumed run that hides what was there."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    more = ("--report-to", "tensorboard", "--steps", "1")
    assert dsrl.main(arguments(world, tmp_path, *more)) == 0
    words = ["--out", f"{tmp_path}", "--resume", "--steps", "2", "--report-to", "tensorboard"]
    assert dsrl.main(words) == 0
    events = EventAccumulator(f"{tmp_path}/tensorboard").Reload()
    assert [event.step for event in events.Scalars("reward")] == [0, 1]
    assert "avg_at_k" in events.Tags()["scalars"]


def test_config_says_what_ran(finished):
    config = json.loads((finished / "config.json").read_text())
    assert config["group_size"] == 4 and config["torch"] == torch.__version__
    assert config["runs_on"] == "cpu" and config["threads"] == 1


# --------------------------------------------------------------------------------------------------
# Files that are read while they are written, and what reaches the terminal


HOSTILE = "\x1b[2J\x1b]0;title\x07 a\u202eb\x9b1m \x00\x7f\ud800 \u2066 end\r\n"


def test_texts_do_not_rule_the_terminal(capsys):
    """Bug: a problem or a response that clears the screen, or hides what stands before it."""
    rows = [{"problem": HOSTILE, "response": HOSTILE, "correct": 1.0}]
    record = dict.fromkeys(
        ("avg_at_k", "avg_at_k_se", "pass_at_k", "reflection", "transition", "length"), 0.0
    )
    records.show_figures("evaluation", record)
    records.show_response("before", rows, best=True)
    console.say(HOSTILE)

    def fail():
        raise ValueError(HOSTILE)

    assert console.report_errors(fail) == 2
    found = capsys.readouterr()
    for text in (found.out, found.err):
        assert "\\x1b[2J" in text and "a\\u202eb" in text and "\\x00" in text
        assert all(one.isprintable() or one == "\n" for one in text), ascii(text)


def test_a_text_that_the_terminal_lacks_ends_no_run(monkeypatch):
    """Bug: "'ascii' codec can't encode", on Windows or where no locale is set."""
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert console.report_errors(lambda: console.say("\u2713 \u00fc")) == 0
    terminal.flush()
    assert terminal.buffer.getvalue() == b"\\u2713 \\xfc\n"


def test_no_bars_where_the_output_is_no_terminal(world, tmp_path):
    """Bug: a log of thousands of frames of progress bars."""
    log = tmp_path / "log"
    process = start(arguments(world, tmp_path / "out", "--steps", "2"), output=log)
    process.join(60)
    text = log.read_text()
    assert process.exitcode == 0 and "after 2 updates" not in text and "curves.png" in text
    assert not re.search(r"it/s|s/it|row/s|%\||\r", text), text
    for path in [*ROOT.glob("*.py"), *ROOT.glob("plumbing/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("tqdm", "trange"):
                words = ast.unparse(node)
                assert "disable=" in words or "**" in words, f"{path.name}: {words}"


@pytest.mark.parametrize(
    ("more", "said"),
    [(("--steps", "3", "--prerl-steps", "3"), True), (("--steps", "3"), True),
     (("--steps", "3", "--prerl-steps", "2"), False), (("--variant", "nsr-prerl"), False),
     (("--variant", "twin", "--steps", "3"), True), (("--prerl-steps", "0"), False)],
)  # fmt: skip
def test_a_phase_that_is_never_reached_is_said(tmp_path, capsys, more, said):
    """Bug: --steps 3 with the default of 20 updates on P(y) never comes to GRPO, in silence."""
    model = types.SimpleNamespace(compute_dtype=torch.float32)
    run = types.SimpleNamespace(
        config=dsrl.parse_args(more), device="cpu", model=model, name="x", folder=tmp_path
    )
    records.start_records(run)
    assert ("phase 2 is never reached" in capsys.readouterr().out) == said


EVALUATION = {"step": 0, **dict.fromkeys(records.FIGURES, 0.5)}
UPDATE = {"step": 1, "phase": "rl", "reward": 0.5}
SAMPLE = {"step": 0, "problem": "p", "response": "r", "correct": 0.0}


@pytest.mark.parametrize(("name", "record"), [
    *(("metrics", {**EVALUATION, name: value}) for name in EVALUATION for value in ("x", {})),
    *(("metrics", {**UPDATE, name: []}) for name in UPDATE),
    *(("samples", {**SAMPLE, name: None}) for name in SAMPLE),
    ("metrics", {}), ("samples", {"step": 0}), ("metrics", {**UPDATE, "reward": 10**400}),
    ("samples", {**SAMPLE, "correct": float("nan")}),
    *(("samples", {**SAMPLE, "step": value}) for value in (True, False)),
])  # fmt: skip
def test_an_edited_record_is_named(tmp_path, name, record):
    """Bug: a traceback, or "Unknown format code", after all updates of a resumed run are made."""
    for other, right in (("metrics", UPDATE), ("samples", SAMPLE)):
        wrong = json.dumps(record) + "\n" if other == name else ""
        (tmp_path / f"{other}.jsonl").write_text(json.dumps(right) + "\n" + wrong)
    config = Config(prerl_steps=0, steps=1)
    for read in (lambda: records.summarize_run(config, tmp_path),
                 lambda: resume.cut_back(tmp_path, 9)):  # fmt: skip
        with pytest.raises(ValueError, match=f"{name}.jsonl, line 2: "):
            read()
