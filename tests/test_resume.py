"""Stop and go on: nothing that was saved is lost, nothing that others made is touched.

    python -m pytest tests/test_resume.py
    DSRL_KILLS=50 python -m pytest tests/test_resume.py -k killed    # the long form of that test
"""

import errno
import os
import random
import shutil
import time
import types

from conftest import arguments, start
from test_dsrl import no_curves, same_weights, updates  # noqa: F401

import dsrl
from plumbing import records, resume


DRAW_CURVES = records.draw_curves


def test_resume_ends_with_the_same_weights(world, finished, tmp_path, capsys):
    """Bug: moments, data order or sampling that start again; flags forgotten. To the bit."""
    assert dsrl.main(arguments(world, tmp_path, "--steps", "2")) == 0
    assert dsrl.main(["--out", str(tmp_path), "--resume", "--steps", "4"]) == 0
    assert same_weights(finished / "checkpoint-4", tmp_path / "checkpoint-4")
    assert updates(finished) == updates(tmp_path)
    output = capsys.readouterr().out
    assert "--steps was 2, is now 4" in output and "changes the result" not in output


def test_damaged_checkpoints_are_passed_over(finished, copy, capsys):
    """Bug: half a file taken for a checkpoint."""
    file = copy / "checkpoint-4/optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    (copy / "checkpoint-9").mkdir()
    assert dsrl.main(["--out", str(copy), "--resume"]) == 0
    output = capsys.readouterr().out
    assert "checkpoint-4 is damaged (optimizer.safetensors)" in output
    assert "checkpoint-9 has no trainer.json" in output and "checkpoint-3: 3 updates done" in output
    assert same_weights(finished / "checkpoint-4", copy / "checkpoint-4")
    assert updates(finished) == updates(copy)


def test_killed_at_any_moment(world, tmp_path, monkeypatch):
    """Bug: a state between two files. SIGKILL at random moments, then --resume; to the bit."""
    monkeypatch.setattr(records, "draw_curves", DRAW_CURVES)
    words = arguments(world, tmp_path / "whole", "--steps", "8", "--keep", "2")
    began = time.monotonic()
    assert dsrl.main(words) == 0
    seconds, rng, out = time.monotonic() - began, random.Random(0), tmp_path / "killed"
    words = arguments(world, out, "--steps", "8", "--keep", "2")
    kills = resumed = 0
    while True:
        whole = [path for _, path in resume.checkpoints(out) if (path / "trainer.json").exists()]
        if not whole:
            shutil.rmtree(out, ignore_errors=True)
        last = kills == int(os.environ.get("DSRL_KILLS", 2))
        process = start(["--out", out, "--resume"] if whole else words, output=tmp_path / "log")
        if last:
            break
        process.join(rng.uniform(0, seconds))
        if process.is_alive():
            process.kill()
            kills, resumed = kills + 1, resumed + bool(whole)
        process.join()
        if process.exitcode == 0:  # it was faster than the kill
            shutil.rmtree(out)
    process.join(120)
    assert process.exitcode == 0, (tmp_path / "log").read_text()[-2000:]
    print(f"{kills} kills, {resumed} of them in a resumed run")
    assert same_weights(tmp_path / "whole/checkpoint-8", out / "checkpoint-8")
    assert updates(tmp_path / "whole") == updates(out)


def test_a_deleted_folder_does_not_lose_the_state(world, finished, tmp_path, capsys):
    """Bug: hours of training lost with a folder that somebody tidied away."""
    out = tmp_path / "a"
    (tmp_path / "mine.py").write_text(
        "import eval, shutil\ncalls = []\ndef check(problem, response):\n    calls.append(1)\n"
        f"    if len(calls) == 40: shutil.rmtree({str(out)!r})\n"  # in the second update
        "    return eval.grade(problem, response, loose=False)\n"
    )
    more = ("--reward", f"{tmp_path}/mine.py:check", "--save-every", "9")
    assert dsrl.main(arguments(world, out, *more)) == 2
    error = capsys.readouterr().err
    assert "checkpoint-2: make room" in error and "--resume" in error
    assert same_weights(finished / "checkpoint-2", out / "checkpoint-2")


def test_a_full_disk_leaves_no_half_checkpoint(world, finished, tmp_path, monkeypatch, capsys):
    """Bug: half a checkpoint beside the whole ones, or the state lost with the disk."""
    real, out = resume.write_tensors, tmp_path / "out"
    monkeypatch.setattr(resume.tempfile, "gettempdir", lambda: str(tmp_path))

    def full(tensors, path):
        if path.is_relative_to(out) and "checkpoint-3" in str(path):
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(resume, "write_tensors", full)
    assert dsrl.main(arguments(world, out)) == 2
    error = capsys.readouterr().err
    assert "No space left" in error and "dsrl-rescue" in error and "error: " in error
    assert {path.name for path in out.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}
    (rescued,) = tmp_path.glob("dsrl-rescue-*")
    assert same_weights(finished / "checkpoint-3", rescued / "checkpoint-3")
    assert dsrl.main(["--out", str(rescued), "--resume"]) == 0
    assert same_weights(finished / "checkpoint-4", rescued / "checkpoint-4")


def test_a_sharded_state_is_not_rescued_by_one_process(tmp_path):
    """Bug: a process that waits for the others to save with it; they know nothing of its error."""
    run = types.SimpleNamespace(config=dsrl.parse_args(["--shard"]), folder=tmp_path, done=1)
    message = resume.rescue(OSError("full"), run)
    assert "the checkpoints before are whole" in message and not list(tmp_path.iterdir())


def test_one_folder_one_run(copy, world, tmp_path, capsys):
    """Bug: two runs that write into each other; a run overwritten; one resumed as another."""
    assert dsrl.main(arguments(world, copy)) == 2 and "holds a run" in capsys.readouterr().err
    with resume.open_folder(copy, resume=True):
        assert dsrl.main(["--out", str(copy), "--resume"]) == 2
    assert "another run is writing" in capsys.readouterr().err
    other = f"{world}/test.jsonl"
    for flag, value in (("--seed", "1"), ("--prompts-per-step", "8"), ("--data", other)):
        assert dsrl.main(["--out", str(copy), "--resume", flag, value]) == 2
        error = capsys.readouterr().err
        assert f"{flag} was" in error and "cannot change" in error
    assert dsrl.main(["--out", str(copy), "--resume", "--steps", "3"]) == 2
    assert "4 updates are made" in capsys.readouterr().err
