"""Stop and go on: checkpoints with AdamW's moments, --resume, --export.

    out/checkpoint-N/    after N updates: a Hugging Face folder (model, tokenizer) that transformers
                         and vLLM load, and optimizer.safetensors (AdamW's moments), trainer.json
                         (N, the run and its flags, and the hash of every file)

1. A checkpoint is written beside its place and renamed when whole: a kill at any moment leaves the
   one before it. Its hashes are checked before it is used; one that is damaged is named, kept as it
   is, and the one before it taken.
2. It holds all that a run needs: to go on takes neither the base model nor config.json.
3. Only folders that trainer.json shows to be of this run are used or removed, and none is removed
   before `keep` newer ones stand whole. What others made is left alone.
4. No random state is saved: prompts, samples and evaluations are pure functions of (seed, step).
5. Nothing is pickled; tensors are safetensors, the rest JSON. A folder names no code that is run:
   a verifier or a tracker must be given again.
"""

import errno
import hashlib
import json
import os
import re
import shlex
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import load_file

from plumbing.checkpoints import fill_adapters, load_model, save_adapters, save_model
from plumbing.checkpoints import write_tensors
from plumbing.console import say
from plumbing.files import check_record, hash_of, is_plain_name, lock_folder, read_json
from plumbing.files import write_json, write_lines, written_whole
from plumbing.flags import FIXED, FREE, Config, flag_of
from plumbing.processes import gather, gather_tensors, part_of, rank
from plumbing.records import OWN_FILES, read_records

FAILURES_IN_A_ROW = 3  # updates that were not finite, before a run stops
NAME = re.compile(r"checkpoint-([1-9][0-9]*)")
OF_EVAL = ("results.json", "responses.jsonl")  # eval.py's files
MOMENTS = "optimizer.safetensors"  # the file of AdamW's moments

# --------------------------------------------------------------------------------------------------
# The folder of a run


@contextmanager
def open_folder(path, resume):
    """The output folder, made and locked. Raises ValueError if it is not free for this run."""
    folder = Path(path)
    if rank():  # the first process has it
        yield folder
        return
    if resume and not folder.exists():
        raise ValueError(f"--resume: there is no folder {folder}: see --out")
    halves = [half for half in folder.glob("checkpoint-*.partial") if NAME.fullmatch(half.stem)]
    with lock_folder(folder, [*OWN_FILES, *(half.stem for half in halves)]):
        found = [path.name for _, path in checkpoints(folder)]
        if resume and not found:
            if not run_of(folder):
                found = nothing_in(folder, "no run: start without --resume")
                raise ValueError(f"--resume: {folder} holds {found}")
            check_young(folder)
            cut_back(folder, 0)  # it was ended before its first checkpoint, and begins anew
        found += [name for name in (*OWN_FILES, *OF_EVAL) if (folder / name).exists()]
        found += [half.name for half in halves]
        begun = found == ["config.json"] and run_of(folder)  # it stopped before it wrote more
        if found and not resume and not begun:
            resumable = run_of(folder) or read_checkpoints(folder)[0]
            raise ValueError(
                f"{folder} holds a run, or files of the same names ({', '.join(found[:3])}): give "
                f"another --out{', or go on with --resume' if resumable else ''}"
            )
        for half in halves:  # a kill left it
            shutil.rmtree(half)
        yield folder


def nothing_in(folder, otherwise):
    """What a folder without a run holds: who gives a checkpoint is told where its run is."""
    is_checkpoint = NAME.fullmatch(folder.resolve().name)
    advice = "no run, it is a checkpoint: give the folder of its run as --out"
    return advice if is_checkpoint else otherwise


def check_young(folder):
    """Raise ValueError where a run without checkpoints has records of updates that had one."""
    records, every = read_records(folder / "metrics.jsonl"), saved_settings(folder)["save_every"]
    updates = sum("reward" in record for record in records)
    if updates > every:  # a kill while the first is written leaves as many
        raise ValueError(
            f"--resume: {folder} has records of {updates} updates, but no checkpoint any more: put "
            "one back, or give another --out"
        )


def run_of(folder):
    """The name of the run in a folder, by its config.json; None where that is not whole."""
    try:
        found = read_json(folder / "config.json")
    except ValueError:
        return None
    return found["run"] if found.keys() >= {"run", "model", "variant"} else None


def checkpoints(folder):
    """(N, path) of each folder whose name is checkpoint-N and nothing more, newest first."""
    named = [(NAME.fullmatch(path.name), path) for path in Path(folder).glob("checkpoint-*")]
    return sorted(((int(match[1]), path) for match, path in named if match), reverse=True)


@dataclass
class Checkpoint:
    """What trainer.json says of the state after `step` updates."""

    step: int
    path: Path
    run: str  # the name of the run, made when it began
    config: Config
    inputs: dict  # {what: hash}, see `hashes_of_inputs`
    sha256: dict  # {file: hash}

    def model_for(self, config):
        """Where the weights are; those of LoRA's checkpoints are added to it."""
        if not self.config.lora_rank:
            return str(self.path)
        if config.model != self.config.model:  # the base was moved
            return config.model
        base = read_json(self.path / "adapter_config.json")["base_model_name_or_path"]
        return base if Path(base).is_dir() else self.config.model  # from any working folder

    def damaged(self):
        """The names of the files that are not as they were written."""
        return [
            name for name, digest in self.sha256.items()
            if not (is_plain_name(name) and (self.path / name).is_file())
            or hash_of(self.path / name) != digest
        ]  # fmt: skip


def read_checkpoint(path):
    """The Checkpoint in a folder checkpoint-N. Raises ValueError: why it is none of a run."""
    file = path / "trainer.json"
    trainer = as_of_now(read_json(file))
    kinds = {"step": int, "run": str, "config": dict, "inputs": dict, "sha256": dict}
    check_record(f"{file} is damaged", trainer, kinds)
    if path.name != f"checkpoint-{trainer['step']}":
        raise ValueError(f"{path} is a copy of checkpoint-{trainer['step']}")
    if MOMENTS not in trainer["sha256"]:
        raise ValueError(f"{file} is damaged: it has no hash of {MOMENTS}")
    config = config_of(file, trainer["config"])
    return Checkpoint(**{name: trainer[name] for name in kinds} | {"path": path, "config": config})


def config_of(file, settings):
    """The Config in a file's settings, other keys left out. Raises ValueError, naming the file."""
    known = {item.name for item in fields(Config)} & settings.keys()
    try:
        return Config(**{name: settings[name] for name in known})
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from error


def as_of_now(trainer):
    """A trainer.json as written before runs had names: then "tiny" was the world of tiny-old."""
    config = trainer.get("config")
    if "inputs" in trainer or not isinstance(config, dict):
        return trainer
    small = [name for name in ("model", "data", "eval_data") if config.get(name) == "tiny"]
    config = config | dict.fromkeys(small, "tiny-old")
    return trainer | {"run": "", "inputs": {}, "config": config}


def read_checkpoints(folder):
    """(the Checkpoints of a folder's run, newest first; why each other checkpoint-N is none)."""
    found, others = [], []
    for _, path in checkpoints(folder):
        try:
            found.append(read_checkpoint(path))
        except ValueError as error:
            others.append(str(error))
    runs, named = [one.run for one in found], run_of(folder)
    run = named if named in runs else next(iter(runs), None)  # without config.json the newest's
    others += [f"{one.path} is of another run" for one in found if one.run != run]
    return [one for one in found if one.run == run], others


def where_to_go_on(folder):
    """The newest whole Checkpoint; None of a run that was ended before its first, to begin anew."""
    if checkpoints(folder) or not run_of(folder):
        return newest_whole(folder)
    say(f"{folder} has no checkpoint yet: its run begins anew")
    return None


def newest_whole(folder):
    """The newest Checkpoint whose files are whole; names the others. Raises ValueError."""
    own, others = read_checkpoints(folder)
    for checkpoint in own:
        if not (damaged := checkpoint.damaged()):
            for reason in others:
                say(f"{reason}: not used")
            return checkpoint
        others.append(f"{checkpoint.path} is damaged ({', '.join(damaged)})")
    if not others:
        raise ValueError(f"{folder} has {nothing_in(folder, 'no checkpoint')}")
    raise ValueError(f"no checkpoint in {folder} is whole ({'; '.join(others)})")


def saved_settings(out):
    """{field of Config: value} of the run in a folder as it last was; {} if there is none."""
    own, _ = read_checkpoints(Path(out))
    if own:
        return asdict(own[0].config)
    file = Path(out, "config.json")
    return asdict(config_of(file, read_json(file))) if run_of(Path(out)) else {}


# --------------------------------------------------------------------------------------------------
# Saving


def save_when_due(run):
    """Write a checkpoint if it is time, or the last moment. Raises ValueError after failures."""
    # A signal may reach one process, at any time: what all then know is what all act on.
    run.stop = next(filter(None, gather([run.signal])), None)
    failed = run.failures == FAILURES_IN_A_ROW
    last = run.stop or failed or run.done == run.config.steps
    if not last and run.done % run.config.save_every:
        return
    advice = f"go on with: {resume_command(run.config)}"
    if not all(gather([has_finite_weights(run.model)])):
        raise ValueError(
            f"the weights are not finite after {run.done} updates and are not saved: lower --lr; "
            f"{advice}"
        )
    path = run.folder / f"checkpoint-{run.done}"
    save_checkpoint(path, run)
    if rank() == 0:
        remove_old(run)
    if failed:
        raise ValueError(
            f"{run.failures} updates in a row were not finite; saved {path}: lower --lr, see the "
            f"rows in metrics.jsonl; {advice}"
        )
    if run.stop:
        say(f"{run.stop}: saved {path}; {advice}")


def has_finite_weights(model):
    """Whether all weights are, of those that this process holds."""
    parts = (getattr(parameter, "_local_tensor", parameter) for parameter in model.parameters())
    return all(bool(part.isfinite().all()) for part in parts)


def resume_command(config, out=None):
    """What continues a run. Code of the user's own is named again: a folder never names it."""
    command = f"python dsrl.py --out {shlex.quote(str(out or config.out))} --resume"
    for name in ("reward", "report_to"):
        if value := getattr(config, name):
            command += f" {flag_of(name)} {shlex.quote(value)}"
    return command


def save_checkpoint(target, run):
    """Write the state after `run.done` updates as the folder `target`: all of it, or on OSError
    nothing. The first process writes; the others give their parts.
    """
    parameters = {name: one for name, one in run.model.named_parameters() if one.requires_grad}
    moments = {
        f"{kind}|{name}": value
        for name, parameter in parameters.items()
        for kind, value in run.optimizer.state.get(parameter, {}).items()
    }
    weights, moments = gather_tensors(parameters), gather_tensors(moments)
    if rank() or target in run.whole and target.is_dir():
        return
    run.inputs = run.inputs or hashes_of_inputs(run)
    with written_whole(target) as folder:
        if run.config.lora_rank:
            save_adapters(run.config, weights, folder, run.model.base)
        else:
            save_model(run.model, run.tokenizer, folder, weights)
        write_tensors(moments, folder / MOMENTS)
        trainer = {
            "step": run.done, "run": run.name, "config": asdict(run.config), "inputs": run.inputs,
            "sha256": {path.name: hash_of(path) for path in sorted(folder.iterdir())},
        }  # fmt: skip
        write_json(folder / "trainer.json", trainer)
    run.whole.add(target)


def hashes_of_inputs(run):
    """{what: hash} of all that decides a run and is no flag: the text of problems and verifier."""
    inputs = {"training problems": run.problems, "evaluation problems": run.held_out}
    hashes = {}
    for name, problems in inputs.items():
        found = hashlib.sha256()
        for problem in problems:
            found.update(json.dumps(problem, sort_keys=True, default=str).encode())
        hashes[name] = found.hexdigest()
    if run.config.lora_rank:
        hashes["base's weights"] = run.model.base[1]
    if run.config.reward:
        hashes["verifier"] = hash_of(Path(run.config.reward.rpartition(":")[0]))
    return hashes


def remove_old(run):
    """Remove this run's checkpoints before the `keep` newest that are whole; links stay."""
    own, _ = read_checkpoints(run.folder)
    kept = 0
    for checkpoint in [one for one in own if one.step <= run.done and one.run == run.name]:
        path = checkpoint.path
        if kept < run.config.keep:
            if path in run.whole or not checkpoint.damaged():
                run.whole.add(path)
                kept += 1
        elif others := {one.name for one in path.iterdir()} - {"trainer.json", *checkpoint.sha256}:
            if str(path) not in run.told:
                say(f"{path} stays: {', '.join(sorted(others))} in it is not of the run")
            run.told.add(str(path))
        elif not path.is_symlink():
            half = path.with_name(path.name + ".partial")
            try:
                os.replace(path, half)  # a kill leaves no half of a checkpoint
                shutil.rmtree(half)
            except OSError as error:  # one that may not be removed ends no run
                say(f"{path} stays: {error}")


def rescue(error, run):
    """After a failed write: save where one can, --out or a temporary folder; return a message."""
    reason = f"cannot go on ({error})"
    if rank() or not run.done:  # there is nothing yet that would be lost
        return reason
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "make room, then " if is_full or error.errno is None else ""
    if error.errno == errno.EFBIG:
        remedy = "allow larger files (ulimit -f), then "
    # Sharded, the other processes hold parts of the state, and know nothing of the error.
    lost = run.config.shard or not has_finite_weights(run.model)
    for folder in () if lost else (run.folder, None):
        try:
            folder = folder or Path(tempfile.mkdtemp(prefix="dsrl-rescue-"))
            path = folder / f"checkpoint-{run.done}"
            save_checkpoint(path, run)
            write_json(folder / "config.json", asdict(run.config) | {"run": run.name})
        except OSError:
            continue
        return (
            f"{reason}; the state after {run.done} updates is in {path}: {remedy}"
            f"go on with: {resume_command(run.config, folder)}"
        )
    before = read_checkpoints(run.folder)[0]
    left = f"the checkpoints before are whole: {remedy}--resume" if before else "nothing is saved"
    return f"{reason}, nor elsewhere; {left}"


# --------------------------------------------------------------------------------------------------
# Going on


def go_on(run, found):
    """AdamW's moments of a Checkpoint whose weights are loaded, to the bit; its number and records.

    Raises ValueError for flags that cannot change, or where the run would meet what others made.
    """
    run.inputs = hashes_of_inputs(run)
    check_changes(found, run)
    for step, path in checkpoints(run.folder):
        if found.step < step <= run.config.steps and is_of_others(path, found.run):
            raise ValueError(f"{path} is not of this run, which would write there: move it away")
    if run.config.lora_rank:
        fill_adapters(run.model, found.path)
    parameters = dict(run.model.named_parameters())
    file = found.path / MOMENTS
    for key, value in load_file(file).items():
        kind, _, name = key.partition("|")
        if name not in parameters or value.shape not in ((), parameters[name].shape):
            raise ValueError(f"{file} does not fit the model: {key}")
        value = value if run.fit.offload else part_of(value, parameters[name])
        run.optimizer.state[parameters[name]][kind] = value
    if rank() == 0:
        due = found.step in (run.config.prerl_steps, run.config.steps)
        cut_back(run.folder, found.step, due or found.step % run.config.eval_every == 0)
    say(f"going on from {found.path}: {found.step} updates done")
    run.done, run.name = found.step, found.run
    run.whole.add(found.path)


def is_of_others(path, run):
    """Whether a checkpoint-N is another run's, a copy, or of another program; damaged is not."""
    try:
        trainer = read_json(path / "trainer.json")
    except ValueError:
        return not any((path / name).exists() for name in ("trainer.json", MOMENTS))
    copied = path.name != f"checkpoint-{trainer.get('step', path.name[11:])}"
    return copied or trainer.get("run", run) != run


def cut_back(folder, step, evaluates_at_step=True):
    """Drop the records that a resumed run makes again: of updates from `step` on, and the
    evaluation after `step` updates if it makes one; none where more --steps follow a run's end.
    """
    for name in ("metrics.jsonl", "samples.jsonl"):
        found = read_records(folder / name)
        before = [one for one in found if one["step"] < step]
        last = [one for one in found if one["step"] == step and "reward" not in one]
        write_lines(folder / name, before if evaluates_at_step else before + last)


def check_changes(found, run):
    """Say what changed since a Checkpoint; raise ValueError for what cannot within a run."""
    before, now = asdict(found.config), asdict(run.config)
    if now["steps"] < found.step:
        raise ValueError(
            f"--resume: {found.step} updates are made, --steps is {now['steps']}: raise it"
        )
    changed = [name for name in found.inputs if run.inputs.get(name) != found.inputs[name]]
    for name in [name for name in before if now[name] != before[name] and name != "resume"]:
        change = f"--resume: {flag_of(name)} was {before[name]}, is now {now[name]}"
        same = {"data": "training problems", "eval_data": "evaluation problems",
                "model": "base's weights"}.get(name)  # fmt: skip
        moved = same in found.inputs and same not in changed
        if name in FIXED and not moved:
            raise ValueError(f"{change}: that cannot change within a run; leave it out")
        say(change if name in FREE or moved else f"{change} (this changes the result)")
    for name in changed:
        say(f"--resume: the {name} are not those of {found.path} (this changes the result)")


def export(out, target):
    """Write the newest whole checkpoint in `out`, or `out`, if it is one, as a model in bf16."""
    target = Path(target).absolute()
    for place in (target, target.parent / f"{target.name}.partial"):
        if os.path.lexists(place):
            raise ValueError(f"--export {target}: {place} is there already: name a new folder")
    if not Path(out).is_dir():
        left = ", ".join(path.name for _, path in checkpoints(Path(out).parent))
        there = f"; its run has {left}" if left else ""
        raise ValueError(f"--export: there is no folder --out {out}{there}")
    if NAME.fullmatch(target.name):
        raise ValueError(f"--export {target}: that is the name of a run's checkpoint: give another")
    is_one = Path(out, "trainer.json").exists()
    found = read_checkpoint(Path(out)) if is_one else newest_whole(Path(out))
    if damaged := found.damaged():
        raise ValueError(f"{found.path} is damaged ({', '.join(damaged)})")
    model, tokenizer = load_model(str(found.path), dtype=torch.bfloat16)
    with written_whole(target) as folder:
        save_model(model, tokenizer, folder)
    say(f"{target}: the model after {found.step} updates, in bfloat16")
