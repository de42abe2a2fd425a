"""Stop and go on: nothing that was saved is lost, nothing that others made is touched.

    python -m pytest tests/test_resume.py
    DSRL_KILLS=50 python -m pytest tests/test_resume.py -k killed       # the long forms
    DSRL_DISK=18 python -m pytest tests/test_resume.py -k fills_up
"""

import errno
import json
import os
import random
import shutil
import subprocess
import time
import types
from pathlib import Path

import pytest
import torch
from conftest import arguments, start
from safetensors import SafetensorError
from safetensors.torch import load_file
from test_dsrl import no_curves, same_weights, updates, weights  # noqa: F401

import dsrl
from plumbing import checkpoints, records, resume
from plumbing.files import read_lines

DRAW_CURVES = records.draw_curves


def test_resume_ends_with_the_same_weights(world, finished, tmp_path, capsys):
    """Bug: moments, data order or sampling that start again; flags forgotten. To the bit."""
    assert dsrl.main(arguments(world, tmp_path, "--steps", "2")) == 0
    assert dsrl.main(["--out", str(tmp_path), "--resume", "--steps", "4"]) == 0
    assert same_weights(finished / "checkpoint-4", tmp_path / "checkpoint-4")
    assert updates(finished) == updates(tmp_path)
    output = capsys.readouterr().out
    assert "--steps was 2, is now 4" in output and "changes the result" not in output


def test_a_run_ended_before_its_first_checkpoint_begins_anew(finished, copy, capsys):
    """Bug: --resume and a new start that send a person to each other; rows written twice; the
    defaults instead of the run's flags.
    """
    for _, path in resume.checkpoints(copy):
        shutil.rmtree(path)
    resume.cut_back(copy, 1)
    assert dsrl.main(["--out", str(copy), "--resume"]) == 0
    assert "has no checkpoint yet: its run begins anew" in capsys.readouterr().out
    assert same_weights(finished / "checkpoint-4", copy / "checkpoint-4")
    assert updates(finished) == updates(copy)


def test_a_run_whose_checkpoints_are_gone_keeps_its_records(copy, capsys):
    """Bug: the only records of a finished run dropped, as if it had not reached a checkpoint."""
    for _, path in resume.checkpoints(copy):
        shutil.rmtree(path)
    before = content(copy)
    assert dsrl.main(["--out", str(copy), "--resume", "--steps", "6"]) == 2
    assert "has records of 4 updates, but no checkpoint any more" in capsys.readouterr().err
    assert content(copy) == before


def test_a_checkpoint_is_no_run(copy, capsys):
    """Bug: advice that leads in a circle."""
    before = {path.name for path in (copy / "checkpoint-4").iterdir()}
    for more in (["--resume"], ["--export", str(copy / "new")]):
        assert dsrl.main(["--out", str(copy / "checkpoint-4"), *more]) == 2
        assert "it is a checkpoint: give the folder of its run as --out" in capsys.readouterr().err
        names_in = {path.name for path in (copy / "checkpoint-4").iterdir()}
        assert names_in <= before  # a lock would keep it from being removed
        (copy / "checkpoint-4/trainer.json").unlink(missing_ok=True)  # with it, it is exported
    assert dsrl.main(["--out", str(copy / "checkpoint-99"), "--export", str(copy / "new")]) == 2
    told = "checkpoint-99; its run has checkpoint-4, checkpoint-3"
    assert f"--export: there is no folder --out {copy}/{told}" in capsys.readouterr().err


def test_a_preset_cannot_be_given_to_a_run(copy, capsys):
    """Bug: a preset that is said to be taken, and is not."""
    assert dsrl.main(["--out", str(copy), "--resume", "--preset", "qwen2.5-1.5b-80gb"]) == 2
    assert "--preset was None" in capsys.readouterr().err


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
        begun = (out / "config.json").exists()  # --resume takes it, with a checkpoint or without
        last = kills == int(os.environ.get("DSRL_KILLS", 2))
        process = start(["--out", out, "--resume"] if begun else words, output=tmp_path / "log")
        if last:
            break
        process.join(rng.uniform(0, seconds))
        if process.is_alive():
            process.kill()
            kills, resumed = kills + 1, resumed + begun
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
    assert "checkpoint-2: go on with" in error and "--resume" in error
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


def test_a_sharded_state_is_not_rescued_by_one_process(tmp_path, copy):
    """Bug: a process that waits for the others to save with it; they know nothing of its error."""
    run = types.SimpleNamespace(config=dsrl.parse_args(["--shard"]), folder=tmp_path, done=1)
    message = resume.rescue(OSError("full"), run)
    assert "nothing is saved" in message  # no advice to go on from what is not there
    run.folder, before = copy, content(copy)
    assert "the checkpoints before are whole" in resume.rescue(OSError("full"), run)
    assert content(copy) == before


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

# --------------------------------------------------------------------------------------------------
# What others made, and what is damaged


def content(folder):
    """{path: bytes} of all below a folder; a link is where it leads."""
    files = {path: os.readlink(path).encode() for path in folder.rglob("*") if path.is_symlink()}
    return files | {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path not in files
    }


def names_of(folder):
    return {path.name for path in folder.glob("checkpoint-*")}


def edit(file, **changes):
    """Change keys of a JSON file; None removes one."""
    found = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))


def damage(path):
    """Flip the last bit of the weights."""
    file = path / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


COPIES = ("checkpoint-2-best", "checkpoint-9-from-other-run", "checkpoint-2.bak", "checkpoint-02",
          "checkpoint-9", "checkpoint-2 ", "checkpoint-\u0662", "checkpoint-", "checkpoint-+2")  # fmt: skip


def test_copies_are_never_read_nor_removed(copy, capsys):
    """Bug: a folder that somebody kept taken for checkpoint N, and deleted when N is old."""
    for name in COPIES:
        shutil.copytree(copy / "checkpoint-2", copy / name)
    shutil.copytree(copy / "checkpoint-4", copy / "checkpoint-8")
    edit(copy / "checkpoint-8/trainer.json", step=8, run="of another")
    before = {name: content(copy / name) for name in (*COPIES, "checkpoint-8")}
    assert dsrl.main(["--out", str(copy), "--resume", "--keep", "2", "--steps", "6"]) == 0
    assert names_of(copy) == {"checkpoint-5", "checkpoint-6", *before}
    assert {name: content(copy / name) for name in before} == before
    output = capsys.readouterr().out
    assert "checkpoint-4: 4 updates done" in output
    assert "checkpoint-8 is of another run: not used" in output


@pytest.mark.parametrize(
    "name",
    ["checkpoint-100/trainer_state.json", "checkpoint-2/model.safetensors", "config.json",
     "metrics.jsonl", "samples.jsonl", "curves.png", "checkpoint-3/trainer.json",
     "checkpoint-7.partial/mine"],
)  # fmt: skip
def test_a_folder_of_another_program_is_refused(world, tmp_path, capsys, name):
    """Bug: the checkpoints of another trainer deleted as old ones, a model's config.json replaced."""
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text('{"model_type": "qwen2"}')
    before = content(out)
    assert dsrl.main(arguments(world, out)) == 2
    assert "give another --out" in capsys.readouterr().err
    assert content(out) == before


@pytest.mark.parametrize("name", ["trainer_state.json", "trainer.json"])
def test_a_run_does_not_write_over_what_others_made(copy, capsys, name):
    """Bug: another program's checkpoint-5 replaced by the run's own."""
    (copy / "checkpoint-5").mkdir()
    (copy / "checkpoint-5" / name).write_text('{"step": 5, "run": "another"}')
    before = content(copy / "checkpoint-5")
    assert dsrl.main(["--out", str(copy), "--resume", "--steps", "6"]) == 2
    assert "checkpoint-5 is not of this run" in capsys.readouterr().err
    assert content(copy / "checkpoint-5") == before
    assert names_of(copy) == {f"checkpoint-{step}" for step in range(1, 6)}


@pytest.mark.parametrize(("keep", "stopped"), [("2", False), ("1", True)])
def test_damaged_checkpoints_cost_no_good_one(copy, monkeypatch, keep, stopped):
    """Bug: the newest, damaged, are kept; the good ones and all that are new are deleted."""
    damage(copy / "checkpoint-3")
    (copy / "checkpoint-4/trainer.json").write_text("")
    log_update = records.log_update

    def log_and_stop(run, *more):
        log_update(run, *more)
        run.signal = "SIGTERM" if stopped else None

    monkeypatch.setattr(records, "log_update", log_and_stop)
    assert dsrl.main(["--out", str(copy), "--resume", "--keep", keep]) == 0
    assert resume.newest_whole(copy).step == (3 if stopped else 4)
    whole = names_of(copy) - {path.name for path in copy.glob("*damaged*")}
    assert whole == ({"checkpoint-3", "checkpoint-4"}), "of which 4 is damaged where it stopped at 3"
    assert any(".damaged-" in name for name in names_of(copy))  # set aside, not deleted


def test_no_good_checkpoint_goes_before_a_newer_one_stands(copy):
    """Bug: a damaged one counted among those to keep."""
    damage(copy / "checkpoint-3")
    words = ["--out", str(copy), "--resume", "--keep", "3", "--steps", "5"]
    assert dsrl.main(words) == 0
    assert names_of(copy) == {f"checkpoint-{step}" for step in (2, 3, 4, 5)}  # 3 is damaged


NO_TRAINER = {
    "empty": "", "half": '{"step": 4, "run": "', "binary": "\x00\x7f\x01", "list": "[]",
    "null": "null", "deep": "[" * 100_000, "no object": "4", "other keys": '{"epoch": 4}',
}  # fmt: skip
EDITED = {
    "no step": {"step": None}, "step as text": {"step": "4"}, "no run": {"run": None},
    "no config": {"config": None}, "no hashes": {"sha256": None}, "empty hashes": {"sha256": {}},
    "config of a list": {"config": []}, "steps as text": {"config": {"steps": "x"}},
    "no such variant": {"config": {"variant": "none"}}, "rate": {"config": {"lr": 1e999}},
    "no inputs": {"inputs": None}, "another step": {"step": 3}, "a truth": {"step": True},
}  # fmt: skip


@pytest.mark.parametrize("fault", [*NO_TRAINER, *EDITED, "hash of a file outside", "a folder"])
def test_a_damaged_trainer_file_is_named_and_passed_over(copy, capsys, fault):
    """Bug: "Expecting value: line 1 column 1", a traceback, and the whole one before not taken."""
    file = copy / "checkpoint-4/trainer.json"
    if fault in NO_TRAINER:
        file.write_bytes(NO_TRAINER[fault].encode("latin-1"))
    elif fault == "a folder":
        file.unlink()
        file.mkdir()
    else:
        hashes = json.loads(file.read_text())["sha256"] | {"../config.json": "0"}
        edit(file, **EDITED.get(fault, {"sha256": hashes}))
    assert resume.newest_whole(copy).step == 3
    output = capsys.readouterr().out
    assert "checkpoint-4" in output and output.endswith(": not used\n") and output.count("\n") == 1
    assert resume.saved_settings(copy)["steps"] == 4


def test_all_damaged_is_one_line(copy, capsys):
    """Bug: a traceback, or a line without the reason."""
    for path in copy.glob("checkpoint-*"):
        (path / "trainer.json").write_text("{")
    assert dsrl.main(["--out", str(copy), "--resume"]) == 2
    error = capsys.readouterr().err
    assert "no checkpoint in" in error and "checkpoint-1/trainer.json is damaged" in error


@pytest.mark.parametrize("config", [None, "", '{"model": "', "[]", "{}", '{"run": [3]}', '{"run": "x"}'])
def test_settings_come_from_the_checkpoint(finished, copy, capsys, config):
    """Bug: a lost config.json means the defaults: another model, another seed."""
    (copy / "config.json").unlink()
    if config is not None:
        (copy / "config.json").write_text(config)
    shutil.rmtree(copy / "checkpoint-4")
    assert dsrl.main(["--out", str(copy), "--resume"]) == 0
    assert same_weights(finished / "checkpoint-4", copy / "checkpoint-4")
    found = json.loads((copy / "config.json").read_text())
    assert found == json.loads((finished / "config.json").read_text()) | {
        "out": str(copy), "resume": True, "run": found["run"],
    }  # fmt: skip


def test_a_checkpoint_needs_no_base_model(world, finished, tmp_path, capsys):
    """Bug: a run whose base model was moved or changed can never go on."""
    base = shutil.copytree(world, tmp_path / "base")
    words = arguments(world, tmp_path / "a", "--model", str(base), "--steps", "2")
    assert dsrl.main(words) == 0
    shutil.rmtree(base)
    words = ["--out", str(tmp_path / "a"), "--resume", "--steps", "4", "--model", str(base)]
    assert dsrl.main([*words, "--dry-run"]) == 0
    assert dsrl.main(words) == 0
    assert same_weights(finished / "checkpoint-4", tmp_path / "a/checkpoint-4")
    assert json.loads((tmp_path / "a/config.json").read_text())["model"] == str(base)
    assert dsrl.main([*words[:3], "--steps", "4", "--model", str(world)]) == 2
    assert "leave it out" in capsys.readouterr().err


def test_links_stay_and_are_not_followed(copy, tmp_path):
    """Bug: "Cannot call rmtree on a symbolic link" at every save; what it leads to deleted."""
    disk = shutil.move(copy / "checkpoint-1", tmp_path / "disk")
    (copy / "checkpoint-1").symlink_to(disk)
    newest = shutil.move(copy / "checkpoint-4", tmp_path / "newest")
    (copy / "checkpoint-4").symlink_to(newest)
    before = content(disk) | content(newest)
    words = ["--out", str(copy), "--resume", "--keep", "1", "--steps", "5"]
    assert dsrl.main(words) == 0
    assert names_of(copy) == {"checkpoint-1", "checkpoint-4", "checkpoint-5"}
    assert content(disk) | content(newest) == before


def test_what_others_put_into_a_checkpoint_stays(copy, capsys):
    """Bug: results of eval.py, or notes, deleted with the old checkpoint that they are kept in."""
    for name in ("checkpoint-1/eval", "checkpoint-2/eval"):
        (copy / name).mkdir()
        (copy / name / "results.json").write_text("{}")
    assert dsrl.main(["--out", str(copy), "--resume", "--keep", "1", "--steps", "5"]) == 0
    assert names_of(copy) == {"checkpoint-1", "checkpoint-2", "checkpoint-5"}
    assert "checkpoint-1 stays: eval in it is not of the run" in capsys.readouterr().out


def test_a_config_of_another_program_is_no_run(copy, capsys):
    """Bug: records cut and settings replaced in a folder whose config.json has a key "run"."""
    for _, path in resume.checkpoints(copy):
        shutil.rmtree(path)
    (copy / "config.json").write_text('{"run": 5, "seed": 1}')
    before = content(copy)
    assert dsrl.main(["--out", str(copy), "--resume"]) == 2
    assert "holds no run" in capsys.readouterr().err and content(copy) == before


def test_a_folder_that_may_not_be_removed_ends_no_run(copy, monkeypatch, capsys):
    """Bug: hours of training ended by an old checkpoint that another user owns."""
    replace = os.replace

    def refuse(source, target):
        if str(target).endswith("checkpoint-1.partial"):
            raise PermissionError(errno.EACCES, "Permission denied")
        replace(source, target)

    monkeypatch.setattr(resume.os, "replace", refuse)
    words = ["--out", str(copy), "--resume", "--keep", "2", "--steps", "5"]
    assert dsrl.main(words) == 0
    assert names_of(copy) == {"checkpoint-1", "checkpoint-4", "checkpoint-5"}
    assert "checkpoint-1 stays" in capsys.readouterr().out


WAYS_OUT = ("checkpoint-5.partial", "metrics.jsonl", "metrics.jsonl.partial", "samples.jsonl",
            "config.json", "config.json.partial", "curves.png.partial", ".lock")  # fmt: skip


@pytest.mark.parametrize("name", WAYS_OUT)
def test_no_link_leads_out_of_the_folder(copy, tmp_path, capsys, name):
    """Bug: a downloaded run folder through which a run writes to the user's own files."""
    outside = tmp_path / "outside"
    outside.mkdir()
    target = outside if name.startswith("checkpoint") else outside / "file"
    (outside / "file").write_text("precious")
    (copy / name).unlink(missing_ok=True)
    (copy / name).symlink_to(target)
    assert dsrl.main(["--out", str(copy), "--resume", "--steps", "6"]) == 2
    assert f"{name} is a link" in capsys.readouterr().err
    assert content(outside) == {outside / "file": b"precious"}


def test_a_folder_makes_no_code_run_and_moves_no_output(world, copy, tmp_path, capsys, monkeypatch):
    """Bug: a downloaded run that names a verifier or a tracker, imported before anything is said."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('code of the folder ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for path in copy.glob("checkpoint-*"):
        config = json.loads((path / "trainer.json").read_text())["config"]
        config |= {"report_to": "wandb", "out": f"{tmp_path}/elsewhere"}
        edit(path / "trainer.json", config=config | {"reward": f"{tmp_path}/evil.py:check"})
    edit(copy / "config.json", reward=f"{tmp_path}/evil.py:check", report_to="evil")
    shutil.copytree(copy, tmp_path / "out")  # the default of --out
    for words in (["--out", str(copy), "--resume"], ["--resume"]):
        assert dsrl.main(words) == 2
        assert f"give --reward {tmp_path}/evil.py:check again" in capsys.readouterr().err
    (tmp_path / "mine.py").write_text("def check(problem, response):\n    return 0.5\n")
    words = ["--resume", "--reward", f"{tmp_path}/mine.py:check", "--steps", "5"]
    assert dsrl.main(words) == 0
    output = capsys.readouterr().out
    assert "--report-to was wandb, is now None" in output and "--reward was" in output
    assert not (tmp_path / "elsewhere").exists() and (tmp_path / "out/checkpoint-5").is_dir()


def test_changed_problems_are_said(world, finished, tmp_path, capsys):
    """Bug: a data file edited between start and --resume: other weights, and nothing said."""
    data, held_out = tmp_path / "data.jsonl", tmp_path / "eval.jsonl"
    shutil.copy(f"{world}/train.jsonl", data)
    shutil.copy(f"{world}/test.jsonl", held_out)
    mine = tmp_path / "mine.py"
    mine.write_text("def check(problem, response):\n    return 0.0\n")
    own = ["--data", str(data), "--eval-data", str(held_out), "--reward", f"{mine}:check"]
    out = tmp_path / "out"
    assert dsrl.main([*arguments(world, out), *own, "--steps", "1"]) == 0
    going_on = ["--out", str(out), "--resume", "--reward", f"{mine}:check", "--steps"]
    said = "the {} are not those of".format
    kinds = ("training problems", "evaluation problems", "verifier")
    assert dsrl.main([*going_on, "2"]) == 0
    assert "not those" not in capsys.readouterr().out
    shutil.move(data, tmp_path / "moved.jsonl")  # the same problems elsewhere
    elsewhere = Path(shutil.copy(held_out, tmp_path / "copy.jsonl"))
    moved = ["--data", f"{tmp_path}/moved.jsonl", "--eval-data", str(elsewhere)]
    assert dsrl.main([*going_on, "3", *moved]) == 0
    assert dsrl.main([*going_on, "3", "--eval-data", str(held_out)]) == 0
    output = capsys.readouterr().out
    assert "--data was" in output and "--eval-data was" in output and "changes the result" not in output
    for file, kind in zip((tmp_path / "moved.jsonl", elsewhere, mine), kinds, strict=True):
        file.write_text(file.read_text().replace("Start with 1", "Begin with 1") + "\n")
        assert dsrl.main([*going_on, "3"]) == 0
        output = capsys.readouterr().out
        assert said(kind) in output, kind
    assert dsrl.main([*going_on, "3", "--data", str(held_out)]) == 2  # other problems
    assert "cannot change within a run" in capsys.readouterr().err


def test_the_last_evaluation_stays_where_more_updates_follow(world, tmp_path):
    """Bug: "100 updates, then 100 more" loses the evaluation after 100, and the run makes it not."""
    out = tmp_path / "out"
    assert dsrl.main(arguments(world, out, "--steps", "3")) == 0
    before = [one for one in read_lines(out / "metrics.jsonl") if "avg_at_k" in one]
    samples = read_lines(out / "samples.jsonl")
    assert dsrl.main(["--out", str(out), "--resume", "--steps", "4"]) == 0
    after = [one for one in read_lines(out / "metrics.jsonl") if "avg_at_k" in one]
    assert after[:-1] == before and [one["step"] for one in after] == [0, 2, 3, 4]
    assert read_lines(out / "samples.jsonl")[: len(samples)] == samples
    assert dsrl.main(["--out", str(out), "--resume"]) == 0  # made anew, once
    assert [one["step"] for one in read_lines(out / "metrics.jsonl")] == [0, 0, 1, 2, 2, 3, 3, 4]


def test_export_into_the_present_folder_is_refused(finished, monkeypatch, capsys):
    """Bug: "PosixPath('.') has an empty name"."""
    monkeypatch.chdir(finished)
    for name in (".", "/"):
        assert dsrl.main(["--out", ".", "--export", name]) == 2
        assert "is there already: name a new folder" in capsys.readouterr().err


def test_fewer_held_out_problems_change_the_training_ones(world, tmp_path, capsys):
    """Bug: --eval-problems takes them from the end of --data, and nothing says so."""
    words = [word for word in arguments(world, tmp_path, "--steps", "1")]
    at = words.index("--eval-data")
    assert dsrl.main(words[:at] + words[at + 2 :]) == 0
    capsys.readouterr()
    words = ["--out", str(tmp_path), "--resume", "--steps", "1", "--eval-problems", "3"]
    assert dsrl.main(words) == 0
    assert "the training problems are not those" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------
# Disk, and weights that are no good


def test_a_full_disk_in_the_tensors_is_rescued(world, finished, tmp_path, monkeypatch, capsys):
    """Bug: safetensors has an error of its own for it: a traceback, and the updates are lost."""
    real = checkpoints.save_file
    monkeypatch.setattr(resume.tempfile, "tempdir", str(tmp_path))

    def full(tensors, path, **how):
        if "out/checkpoint-3" in str(path):
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        real(tensors, path, **how)

    monkeypatch.setattr(checkpoints, "save_file", full)
    assert dsrl.main(arguments(world, tmp_path / "out")) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "No space left" in error and "go on with" in error
    (rescued,) = tmp_path.glob("dsrl-rescue-*")
    assert rescued.stat().st_mode & 0o777 == 0o700  # nobody else could have made it
    assert same_weights(finished / "checkpoint-3", rescued / "checkpoint-3")
    assert names_of(tmp_path / "out") == {"checkpoint-1", "checkpoint-2"}


LEVELS = int(os.environ.get("DSRL_DISK", 2))


@pytest.mark.parametrize("level", range(LEVELS))
def test_a_disk_that_fills_up(world, finished, tmp_path, monkeypatch, capsys, level):
    """Bug: a moment at which a full disk is not one line and a state to go on from."""
    disk, room = tmp_path / "disk", 16_000_000
    disk.mkdir()
    monkeypatch.setattr(records, "draw_curves", DRAW_CURVES)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a disk of a set size needs the right to mount one")
    try:
        monkeypatch.setattr(resume.tempfile, "tempdir", str(tmp_path))
        free = (level + 1) * room // (LEVELS + 1)
        (disk / "filler").write_bytes(bytes(room - free))
        code = dsrl.main(arguments(world, disk / "out"))
        error = capsys.readouterr().err
        print(f"level {level}: {free} bytes free, exit {code}: {error[:150]!r}")
        if code == 0:
            assert same_weights(finished / "checkpoint-4", disk / "out/checkpoint-4")
            return
        assert code == 2 and error.count("\n") == 1 and "No space left" in error
        rescued = [*tmp_path.glob("dsrl-rescue-*"), disk / "out"][0]
        done = resume.newest_whole(rescued).step if names_of(rescued) else 0
        assert f"after {done} updates" in error or "cannot write to" in error and done == 0
        words = ["--out", str(rescued), "--resume"]
        (disk / "filler").unlink()
        assert not done or dsrl.main(words) == 0
        assert not done or same_weights(finished / "checkpoint-4", rescued / "checkpoint-4")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_weights_that_are_not_finite_are_never_saved(world, tmp_path, monkeypatch, capsys):
    """Bug: NaN saved as a whole checkpoint, and the good one before it deleted."""
    step, taken = dsrl.plan.adam_step, []

    def poison(optimizer, model, offload):
        step(optimizer, model, offload)
        taken.append(1)
        if len(taken) == 2:
            model.model.norm.weight.data[0] = float("inf")

    monkeypatch.setattr(dsrl.plan, "adam_step", poison)
    more = ("--variant", "grpo", "--keep", "1")
    assert dsrl.main(arguments(world, tmp_path, *more)) == 2
    error = capsys.readouterr().err
    assert "not finite after" in error and "--lr" in error and "--resume" in error
    (kept,) = names_of(tmp_path)
    assert torch.isfinite(weights(tmp_path / kept)["model.norm.weight"]).all()


def test_export_is_a_plain_folder_in_bfloat16(copy, tmp_path, capsys):
    """Bug: fp32 and moments where a server wants 2 bytes a parameter; an older or damaged one."""
    (copy / "checkpoint-4/trainer.json").write_text("")
    before = content(copy)
    target = tmp_path / "bf16"
    words = ["--out", str(copy), "--export", str(target)]
    assert dsrl.main(words) == 0
    found = load_file(target / "model.safetensors")
    kept = load_file(copy / "checkpoint-3/model.safetensors")
    assert found.keys() == kept.keys()
    assert all(torch.equal(found[name], kept[name].bfloat16()) for name in kept)
    files = {path.name for path in (copy / "checkpoint-3").iterdir()}
    assert {path.name for path in target.iterdir()} == files - {"optimizer.safetensors", "trainer.json"}
    assert json.loads((target / "config.json").read_text())["dtype"] == "bfloat16"
    assert "after 3 updates" in capsys.readouterr().out and content(copy) == before
    assert dsrl.main(words) == 2 and "there already" in capsys.readouterr().err
    older = ["--out", str(copy / "checkpoint-3"), "--export", str(tmp_path / "older")]
    assert dsrl.main(older) == 0
    name = "model.safetensors"
    assert (tmp_path / "older" / name).read_bytes() == (target / name).read_bytes()
    capsys.readouterr()
    assert dsrl.main([*older[:2], "--export", "x", "--model", "tiny", "--steps", "3"]) == 2
    assert "only --out counts: leave out --model, --steps" in capsys.readouterr().err
    assert dsrl.main([*older[:3], str(copy / "checkpoint-99")]) == 2
    assert "that is the name of a run's checkpoint" in capsys.readouterr().err
    (copy / "checkpoint-3/model.safetensors").write_bytes(b"")
    assert dsrl.main([*older[:3], str(tmp_path / "damaged")]) == 2
    assert "checkpoint-3 is damaged (model.safetensors)" in capsys.readouterr().err
    (tmp_path / "b.partial").mkdir()  # a kill left it
    assert dsrl.main(["--out", str(copy), "--export", f"{tmp_path}/b"]) == 2
    assert "b.partial is there already" in capsys.readouterr().err
    assert dsrl.main(["--out", str(tmp_path), "--export", f"{tmp_path}/x"]) == 2
    assert f"error: {tmp_path} has no checkpoint\n" == capsys.readouterr().err
    assert dsrl.main(["--out", f"{tmp_path}/new", "--export", ""]) == 2  # it began a run
    assert "--export is empty" in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_a_run_of_before_runs_had_names_goes_on(world, finished, tmp_path, capsys):
    """Bug: checkpoints of earlier versions called damaged; "tiny" read as the world it is now."""
    out = tmp_path / "old"
    assert dsrl.main(arguments(world, out, "--steps", "2")) == 0
    for file in (out / "config.json", *out.glob("checkpoint-*/trainer.json")):
        written = json.loads(file.read_text())
        for name in ("run", "inputs"):
            written.pop(name, None)
        file.write_text(json.dumps(written))
    capsys.readouterr()
    assert dsrl.main(["--out", str(out), "--resume", "--steps", "4"]) == 0
    assert same_weights(finished / "checkpoint-4", out / "checkpoint-4")
    assert "changes the result" not in capsys.readouterr().out
    old = {"step": 2, "config": {"model": "tiny", "data": "tiny", "eval_data": None}}
    assert resume.as_of_now(old)["config"] == {
        "model": "tiny-old", "data": "tiny-old", "eval_data": None
    }


def test_a_dry_run_of_what_has_no_checkpoint_yet(copy, tmp_path, capsys):
    """Bug: what --resume would begin anew has no plan; a plan of the defaults for no run at all."""
    for _, path in resume.checkpoints(copy):
        shutil.rmtree(path)
    before = content(copy)
    assert dsrl.main(["--out", str(copy), "--resume", "--dry-run"]) == 0
    assert '"group_size": 4' in capsys.readouterr().out and content(copy) == before
    assert dsrl.main(["--out", f"{tmp_path}/new", "--resume", "--dry-run"]) == 2
    assert "has no checkpoint" in capsys.readouterr().err
