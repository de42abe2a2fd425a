"""What a run keeps on disk, and how it goes on after it was stopped.

    out/config.json      every flag as resolved, versions, device        out/samples.jsonl  a few responses per evaluation
    out/metrics.jsonl    one line per update, one per evaluation         out/curves.png     redrawn at each evaluation
    out/checkpoint-N/    after N updates: a Hugging Face folder (model, tokenizer) that transformers and vLLM load, and
                         optimizer.safetensors (AdamW's moments), trainer.json (N, and the hash of every file)

1. A checkpoint is written beside its place and renamed when it is whole: a kill at any moment leaves the one before it.
   Its hashes are checked before it is used; a damaged one is named and the one before it taken.
2. There is no random state to save: prompts, samples and evaluations are pure functions of (seed, step).
3. Nothing is pickled. Tensors are safetensors, the rest is JSON: a downloaded checkpoint cannot run code.

Used by dsrl.py; `python dsrl.py --resume --out out` continues a run.
"""

import fcntl
import hashlib
import json
import os
import shutil
import signal
from pathlib import Path

from safetensors.torch import load_file, save_file
from tqdm import tqdm

from model import fill_parameters, save_model

COLUMNS = (  # of the console: metric, heading, format
    ("step", "step", "5d"), ("phase", "phase", "5"), ("reward", "reward", "6.3f"), ("mixed", "mixed", "5.2f"),
    ("length", "length", "6.1f"), ("cut", "cut", "5.2f"), ("reflection", "reflect", "7.3f"), ("transition", "transit", "7.3f"),
    ("entropy", "entropy", "7.3f"), ("grad_norm", "gradnorm", "8.1e"), ("sampler_gap", "gap", "7.1e"),
    ("seconds_sample", "sample", "6.2f"), ("seconds_grade", "grade", "5.2f"), ("seconds_update", "update", "6.2f"),
    ("tokens_per_second", "tok/s", "7.0f"),
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Records


def write_json(path, value):
    """Write beside and rename: a reader, or a kill, never meets half a file."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    os.replace(temporary, path)


def append_line(path, record):
    with path.open("a") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_lines(path):
    """The records of a .jsonl file; a last line that a kill cut short is left out."""
    if not path.is_file():
        return []
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def console_heading():
    return " ".join(f"{heading:>{width_of(form)}}" for _, heading, form in COLUMNS)


def console_line(metrics):
    cells = [(metrics.get(name), form) for name, _, form in COLUMNS]
    return " ".join(format(value, form) if value is not None else " " * width_of(form) for value, form in cells)


def width_of(form):
    return int(form.rstrip("dfe").split(".")[0])


def open_folder(path, resume):
    """Make the output folder and lock it for this process. Raises ValueError if it holds another run, or one is running."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise ValueError(f"cannot write to {folder} ({error.strerror}): give another --out") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(f"another run is writing to {folder}: wait for it, or give another --out") from error
    if (folder / "metrics.jsonl").exists() and not resume:
        raise ValueError(f"{folder} holds a run: continue it with --resume, give another --out, or remove the folder")
    return folder, lock


def draw_curves(folder):
    """curves.png: reward and accuracy, response length, thoughts, log-probs and entropy over updates; the switch is marked."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    records = read_lines(folder / "metrics.jsonl")
    updates = [record for record in records if "reward" in record]
    evaluations = [record for record in records if "avg_at_k" in record]
    panels = (
        ("share right", ("reward",), ("avg_at_k", "pass_at_k")),
        ("response tokens", ("length",), ("length",)),
        ("thoughts per response", ("reflection", "transition"), ("reflection", "transition")),
        ("nats per token", ("entropy", "logprob_conditional", "logprob_marginal"), ()),
    )
    figure, axes = plt.subplots(2, 2, figsize=(11, 7), sharex=True)
    for axis, (title, sampled, measured) in zip(axes.flat, panels, strict=True):
        for color, name in enumerate(sampled):
            points = [(record["step"] + 1, record[name]) for record in updates if record.get(name) is not None]
            axis.plot(*zip(*points, strict=True), color=f"C{color}", alpha=0.6, label=f"{name} (training)") if points else None
        for color, name in enumerate(measured):
            points = [(record["step"], record[name]) for record in evaluations if record.get(name) is not None]
            axis.plot(*zip(*points, strict=True), "o--", color=f"C{color}", label=f"{name} (evaluation)") if points else None
        switch = next((record["step"] for record in updates if record["phase"] == "rl"), 0)
        if switch:
            axis.axvline(switch, color="grey", linestyle=":", label="PreRL | RL")
        axis.set_title(title)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7)
    for axis in axes[1]:
        axis.set_xlabel("updates")
    figure.tight_layout()
    figure.savefig(folder / "curves.partial.png", dpi=110)
    plt.close(figure)
    os.replace(folder / "curves.partial.png", folder / "curves.png")


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints


def checkpoints(folder):
    """(step, path) of every checkpoint folder, newest first."""
    found = [(int(path.name.split("-")[1]), path) for path in folder.glob("checkpoint-*") if path.name.split("-")[1].isdigit()]
    return sorted(found, reverse=True)


def save_checkpoint(folder, step, model, tokenizer, optimizer, config, keep):
    """Write checkpoint-<step>, after `step` updates, then drop all but the newest `keep`. Returns its path."""
    target, temporary = folder / f"checkpoint-{step}", folder / f"checkpoint-{step}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        save_model(model, tokenizer, temporary)
        moments = {}
        for name, parameter in model.named_parameters():
            for key, value in optimizer.state.get(parameter, {}).items():
                moments[f"{key}|{name}"] = value.detach().cpu().clone()
        save_file(moments, temporary / "optimizer.safetensors")
        hashes = {path.name: file_hash(path) for path in sorted(temporary.iterdir())}
        write_json(temporary / "trainer.json", {"step": step, "config": config, "sha256": hashes})
        for path in temporary.iterdir():
            sync(path)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise ValueError(f"checkpoint-{step} could not be written ({error.strerror}); the ones before it are whole") from error
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)
    for _, path in checkpoints(folder)[keep:]:
        shutil.rmtree(path)
    return target


def sync(path):
    with path.open("rb") as file:
        os.fsync(file.fileno())


def file_hash(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def newest_whole(folder):
    """(step, path, trainer.json) of the newest checkpoint whose hashes are right, or None; damaged ones are named."""
    for step, path in checkpoints(folder):
        if not (path / "trainer.json").is_file():
            tqdm.write(f"{path} is not whole (no trainer.json): the one before it is used")
            continue
        trainer = json.loads((path / "trainer.json").read_text())
        damaged = [name for name, digest in trainer["sha256"].items() if not (path / name).is_file() or file_hash(path / name) != digest]
        if not damaged:
            return step, path, trainer
        tqdm.write(f"{path} is damaged ({', '.join(damaged)}): the one before it is used")
    return None


def load_checkpoint(path, model, optimizer):
    """Weights and AdamW's moments of a checkpoint, to the bit, into a model and optimizer of the same shapes."""
    fill_parameters(model, path)
    parameters = dict(model.named_parameters())
    for key, value in load_file(path / "optimizer.safetensors").items():
        kind, name = key.split("|")
        parameter = parameters[name]
        # AdamW keeps its step counter on the CPU, the moments beside the weights
        optimizer.state[parameter][kind] = value if kind == "step" else value.to(parameter.device)


def cut_back(folder, step):
    """Drop the records from `step` on (the evaluation at `step` included): the resumed run writes them again."""
    for name in ("metrics.jsonl", "samples.jsonl"):
        kept = [record for record in read_lines(folder / name) if record["step"] < step]
        temporary = folder / (name + ".partial")
        temporary.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept))
        os.replace(temporary, folder / name)


# ---------------------------------------------------------------------------------------------------------------------
# Signals


def catch_signals():
    """Ctrl-C and SIGTERM ask the loop to stop after the update in hand: returns a dict whose "stop" becomes True.

    A second Ctrl-C interrupts at once.
    """
    asked = {"stop": False}

    def ask(number, frame):
        asked["stop"] = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        tqdm.write("stopping after this update (Ctrl-C again leaves at once)")

    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGTERM, ask)
    return asked
