"""Stop and go on: the run folder and its lock, checkpoints with AdamW's moments, --resume.

    out/checkpoint-N/    after N updates: a Hugging Face folder (model, tokenizer) that transformers
                         and vLLM load, and optimizer.safetensors (AdamW's moments), trainer.json
                         (N, and the hash of every file)

1. A checkpoint is written beside its place and renamed when whole: a kill at any moment leaves the
   one before it. Its hashes are checked before it is used; a damaged one is named and the one
   before it taken.
2. No random state is saved: prompts, samples and evaluations are pure functions of (seed, step).
3. Nothing is pickled; tensors are safetensors, the rest JSON.
"""

import fcntl
import hashlib
import json
import os
import shlex
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from plumbing.checkpoints import fill_parameters, save_model
from plumbing.flags import FIXED, FREE, flag_of
from plumbing.processes import copy_weights, gather, gather_tensors, part_of, rank
from plumbing.records import read_lines, write_json

FAILURES_IN_A_ROW = 3  # updates that were not finite, before a run stops


@contextmanager
def open_folder(path, resume):
    """The output folder, made and locked. Raises ValueError if a run is in it, or running."""
    folder = Path(path)
    if rank():  # the first process has it
        yield folder
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        reason = f"cannot write to {folder} ({error.strerror})"
        raise ValueError(f"{reason}: give another --out") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            advice = "wait for it, or give another --out"
            raise ValueError(f"another run is writing to {folder}: {advice}") from error
        if (folder / "metrics.jsonl").exists() and not resume:
            saved = "continue it with --resume" if checkpoints(folder) else "it saved nothing yet"
            advice = f"{saved}; give another --out, or remove the folder"
            raise ValueError(f"{folder} holds a run: {advice}")
        if resume and not checkpoints(folder):  # before a model is loaded for nothing
            raise ValueError(f"--resume: {folder} has no checkpoint: start without --resume")
        yield folder


def checkpoints(folder):
    """(step, path) of every checkpoint folder, newest first."""
    steps = {path: path.name.split("-")[1] for path in folder.glob("checkpoint-*")}
    found = [(int(step), path) for path, step in steps.items() if step.isdigit()]
    return sorted(found, reverse=True)


def save_when_due(run):
    """Write a checkpoint if it is time, or the last moment. Raises ValueError after failures."""
    run.stop = next(filter(None, gather([run.stop])), None)  # a signal may reach one process
    failed = run.failures == FAILURES_IN_A_ROW
    last = run.stop or failed or run.done == run.config.steps
    if not last and run.done % run.config.save_every:
        return
    path = run.folder / f"checkpoint-{run.done}"
    save_checkpoint(path, run)
    if rank() == 0:
        for _, old in checkpoints(run.folder)[run.config.keep :]:
            shutil.rmtree(old)
    if failed:
        raise ValueError(
            f"{run.failures} updates in a row were not finite; saved {path}: lower --lr, see the "
            f"rows in metrics.jsonl; go on with: {resume_command(run.config.out)}"
        )
    if run.stop:
        tqdm.write(f"{run.stop}: saved {path}; go on with: {resume_command(run.config.out)}")


def resume_command(out):
    return f"python dsrl.py --out {shlex.quote(str(out))} --resume"


def save_checkpoint(target, run):
    """Write the state after `run.done` updates as the folder `target`: all of it, or on OSError
    nothing. The first process writes; the others give their parts.
    """
    parameters = dict(run.model.named_parameters())
    moments = {
        f"{kind}|{name}": value
        for name, parameter in parameters.items()
        for kind, value in run.optimizer.state.get(parameter, {}).items()
    }
    weights, moments = gather_tensors(parameters), gather_tensors(moments)
    if rank():
        return
    temporary = target.with_name(target.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        save_model(run.model, run.tokenizer, temporary, weights)
        save_file(moments, temporary / "optimizer.safetensors")
        hashes = {path.name: file_hash(path) for path in sorted(temporary.iterdir())}
        trainer = {"step": run.done, "config": asdict(run.config), "sha256": hashes}
        write_json(temporary / "trainer.json", trainer)
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
    except (OSError, SafetensorError):
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def file_hash(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def rescue(error, run):
    """After a failed write: save where one can, --out or a temporary folder; return a message."""
    reason = f"cannot go on ({error})"
    if rank():
        return reason
    folders = [run.folder, Path(tempfile.gettempdir()) / f"dsrl-rescue-{os.getpid()}"]
    if run.config.shard:  # the other processes hold parts of the state
        folders = []
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"checkpoint-{run.done}"
            save_checkpoint(path, run)
            write_json(folder / "config.json", asdict(run.config))
        except (OSError, SafetensorError):
            continue
        return (
            f"{reason}; the state after {run.done} updates is in {path}: make room, then "
            f"go on with: {resume_command(folder)}"
        )
    return f"{reason}, nor elsewhere; the checkpoints before are whole: make room, then --resume"


def newest_whole(folder):
    """(step, path, trainer.json) of the newest with right hashes, or None; names damaged ones."""
    for step, path in checkpoints(folder):
        if not (path / "trainer.json").is_file():
            tqdm.write(f"{path} is not whole (no trainer.json): the one before it is used")
            continue
        trainer = json.loads((path / "trainer.json").read_text())
        damaged = [
            name for name, digest in trainer["sha256"].items()
            if not (path / name).is_file() or file_hash(path / name) != digest
        ]  # fmt: skip
        if not damaged:
            return step, path, trainer
        tqdm.write(f"{path} is damaged ({', '.join(damaged)}): the one before it is used")
    return None


def load_checkpoint(path, run):
    """Weights and AdamW's moments, to the bit, into a model and optimizer of the same shapes."""
    fill_parameters(run.model, path)
    copy_weights(run.model, run.sampler)
    parameters = dict(run.model.named_parameters())
    for key, value in load_file(path / "optimizer.safetensors").items():
        kind, name = key.split("|")
        value = value if run.config.offload else part_of(value, parameters[name])
        run.optimizer.state[parameters[name]][kind] = value


def cut_back(folder, step):
    """Drop the records from `step` on, evaluation included: a resumed run writes them again."""
    for name in ("metrics.jsonl", "samples.jsonl"):
        kept = [record for record in read_lines(folder / name) if record["step"] < step]
        temporary = folder / (name + ".partial")
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in kept]
        temporary.write_text("".join(lines), encoding="utf-8")
        os.replace(temporary, folder / name)


def go_on(run):
    """Load the newest whole checkpoint into model and optimizer, its number into run.done."""
    found = newest_whole(run.folder)
    if found is None:
        raise ValueError(f"--resume: no checkpoint in {run.folder} is whole: give another --out")
    step, path, trainer = found
    check_changes(trainer["config"], asdict(run.config), step)
    load_checkpoint(path, run)
    if rank() == 0:
        cut_back(run.folder, step)
    tqdm.write(f"going on from {path}: {step} updates done")
    run.done = step


def check_changes(before, now, step):
    """List the flags that changed; raise ValueError for those that cannot within a run."""
    if now["steps"] < step:
        raise ValueError(f"--resume: {step} updates are made, --steps is {now['steps']}: raise it")
    changed = [name for name in before if now.get(name, before[name]) != before[name]]
    for name in changed:
        change = f"--resume: {flag_of(name)} was {before[name]}, is now {now[name]}"
        if name in FIXED:
            raise ValueError(f"{change}: that cannot change within a run")
        if name not in FREE:
            change += " (this changes the result)"
        if name != "resume":
            tqdm.write(change)
