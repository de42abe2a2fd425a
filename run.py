"""A run's settings, what it keeps on disk, and how it goes on after it was stopped.

    out/config.json      every flag as resolved, versions, device
    out/metrics.jsonl    one line per update, one per evaluation
    out/samples.jsonl    a few responses per evaluation
    out/curves.png       redrawn at each evaluation
    out/checkpoint-N/    after N updates: a Hugging Face folder (model, tokenizer) that transformers
                         and vLLM load, and optimizer.safetensors (AdamW's moments), trainer.json
                         (N, and the hash of every file)

1. A checkpoint is written beside its place and renamed when whole: a kill at any moment leaves the
   one before it. Its hashes are checked before it is used; a damaged one is named and the one
   before it taken.
2. No random state is saved: prompts, samples and evaluations are pure functions of (seed, step).
3. Nothing is pickled; tensors are safetensors, the rest JSON: a downloaded checkpoint runs no code.

Used by dsrl.py; `python dsrl.py --resume --out out` continues a run.
"""

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import types
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from safetensors.torch import load_file, save_file
from tqdm import tqdm

from model import fill_parameters, save_model
from prerl import OBJECTIVES

PRESETS = {  # defaults by name; every value can be overridden by its flag
    "tiny": {"lr": 2e-4, "steps": 80, "prerl_steps": 10, "prompts_per_step": 32,
             "max_response_tokens": 128, "eval_every": 20},
    "paper": {"lr": 1e-6, "steps": 348, "prerl_steps": 20, "prompts_per_step": 128,
              "max_response_tokens": 8192},
    "small": {"lr": 1e-6, "steps": 348, "prerl_steps": 20, "prompts_per_step": 64,
              "max_response_tokens": 2048},
}  # fmt: skip
VARIANTS = {  # objectives of the first `prerl_steps` updates, and of the others
    "dsrl": (("nsr-prerl",), ("grpo",)),
    "joint": (("grpo", "nsr-prerl"),) * 2,
    **{name: ((name,),) * 2 for name in OBJECTIVES},
}
COLUMNS = (  # of the console: metric, heading, format
    ("step", "step", "5d"), ("phase", "phase", "5"), ("reward", "reward", "6.3f"),
    ("mixed", "mixed", "5.2f"), ("length", "length", "6.1f"), ("cut", "cut", "5.2f"),
    ("reflection", "reflect", "7.3f"), ("transition", "transit", "7.3f"),
    ("entropy", "entropy", "7.3f"), ("grad_norm", "gradnorm", "8.1e"),
    ("sampler_gap", "gap", "7.1e"), ("seconds_sample", "sample", "6.2f"),
    ("seconds_grade", "grade", "5.2f"), ("seconds_update", "update", "6.2f"),
    ("tokens_per_second", "tok/s", "7.0f"),
)  # fmt: skip


# --------------------------------------------------------------------------------------------------
# The command line


def flag(default, help_text, least=None, **options):
    """A field of Config: its default, and what `--help` says of the flag that sets it."""
    return field(default=default, metadata={"help": help_text, "least": least, "options": options})


@dataclass(frozen=True)
class Config:
    """Every flag of the command line, in one place; checked on creation, written to config.json."""

    model: str = flag("tiny", "tiny, a folder, a short name (Qwen2.5-1.5B) or a hub id")
    preset: str | None = flag(
        None, "defaults by name (default: tiny for the tiny model, else small)", choices=PRESETS
    )
    data: str | None = flag(
        None, "problems: a benchmark's name or a file (default: the tiny world's own, else math)"
    )
    eval_data: str | None = flag(
        None, "problems to evaluate on "
        "(default: the world's test set, math500, or held out of --data)"
    )  # fmt: skip
    reward: str | None = flag(
        None, "your own verifier, file.py:function, (problem, response) -> float in [0, 1]"
    )

    variant: str = flag("dsrl", "which objectives, see the table in the README", choices=VARIANTS)
    prerl_steps: int = flag(20, "updates of phase 1; 0 is plain GRPO", 0)
    advantage: str | None = flag(
        None, "override the normalisation of the objective", choices=("mean", "zscore", "sign")
    )
    prerl_coef: float | None = flag(None, "coefficient of a P(y) loss (default: 0.01)")
    start_token: int | None = flag(
        None, "id of the token that stands in for the prompt (default: looked up)"
    )
    mask_eos: bool = flag(False, "leave EOS out of the loss")
    skip_first: int = flag(0, "response tokens left out of the loss at its start", 0)
    clip_low: float = flag(0.2, "the ratio is clipped at 1 - this", 0)
    clip_high: float = flag(0.2, "the ratio is clipped at 1 + this", 0)
    updates_per_rollout: int = flag(1, "optimizer steps on one rollout; 1 is strictly on-policy", 1)

    prompts_per_step: int = flag(64, "P, prompts per update", 1)
    group_size: int = flag(8, "G, responses per prompt", 2)
    max_prompt_tokens: int = flag(1024, "problems with a longer prompt are left out", 1)
    max_response_tokens: int = flag(2048, "tokens; a longer response is cut", 1)
    temperature: float = flag(1.0, "of sampling and of scoring, above 0", 1e-3)
    kv_cache_gb: float | None = flag(None, "GB for the KV cache (default: half of what is free)")

    steps: int = flag(348, "updates in all, both phases", 1)
    lr: float = flag(1e-6, "learning rate of AdamW, constant", 0)
    micro_batch_tokens: int | None = flag(
        None, "tokens of one forward and backward (default: 4096 on CPU, 16384 on CUDA)", 1
    )
    checkpoint_activations: bool = flag(
        False, "recompute layers in backward: less memory, a third more work"
    )

    eval_every: int = flag(25, "updates between evaluations", 1)
    eval_problems: int = flag(128, "problems of an evaluation", 1)
    eval_k: int = flag(8, "responses per problem of an evaluation", 1)
    save_every: int = flag(20, "updates between checkpoints", 1)
    keep: int = flag(2, "checkpoints kept", 1)
    seed: int = flag(0, "of data order, sampling and evaluation", 0)
    threads: int | None = flag(
        None, "CPU threads (default: 1 for a small model, else all cores)", 1
    )
    out: str = flag("out", "folder of the run")
    resume: bool = flag(False, "go on from the newest checkpoint in --out")

    def __post_init__(self):
        for item in fields(self):
            value, least = getattr(self, item.name), item.metadata["least"]
            if value is not None and least is not None and not value >= least:  # NaN fails too
                name = item.name.replace("_", "-")
                raise ValueError(f"--{name} is {value}: it must be at least {least}")


def parse_args(argv):
    """The Config of a command line: its flags over the preset's values over the defaults."""
    about = "Dual Space RL: NSR-PreRL on P(y), then GRPO on P(y|x)."
    parser = argparse.ArgumentParser(description=about)
    group = None
    for item in fields(Config):
        group = parser.add_argument_group(GROUPS[item.name]) if item.name in GROUPS else group
        names = ["--" + name.replace("_", "-") for name in (item.name, *ALIASES.get(item.name, ()))]
        kind = item.type.__args__[0] if isinstance(item.type, types.UnionType) else item.type
        typed = {"type": kind, "metavar": kind.__name__.upper()}
        how = {"action": "store_true"} if kind is bool else typed
        choices = item.metadata["options"].get("choices")
        how |= {"choices": tuple(choices), "metavar": None} if choices else {}
        shown = "" if item.default is None or kind is bool else f" (default: {item.default})"
        how |= {"help": item.metadata["help"] + shown, "default": argparse.SUPPRESS}
        group.add_argument(*names, dest=item.name, **how)
    argv = sys.argv[1:] if argv is None else argv
    # --group_size is right too
    hyphens = [re.sub("^--[^=]+", lambda match: match[0].replace("_", "-"), word) for word in argv]
    given = vars(parser.parse_args(hyphens))
    tiny = given.get("model", "tiny") == "tiny"
    preset = given.get("preset") or ("tiny" if tiny else "small")
    config = {"data": "tiny" if tiny else "math", "preset": preset} | PRESETS[preset] | given
    objective = OBJECTIVES.get(config.get("variant"))
    if config.get("variant", "dsrl") != "dsrl":  # only dsrl has two phases, the others have one
        marginal = objective and objective.space == "marginal"
        config["prerl_steps"] = config["steps"] if marginal else 0
    return Config(**config)


GROUPS = {  # the field that opens each group of --help
    "model": "model and data", "variant": "phase 1 (PreRL) and phase 2 (RL)",
    "prompts_per_step": "sampling", "steps": "optimizer", "eval_every": "evaluation and output",
}  # fmt: skip
ALIASES = {  # spellings people type from habit
    "model": ("model_name_or_path",), "lr": ("learning_rate",), "group_size": ("num_generations",),
    "max_response_tokens": ("max_completion_length",), "out": ("output_dir",),
}  # fmt: skip


# --------------------------------------------------------------------------------------------------
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
    return " ".join(
        format(value, form) if value is not None else " " * width_of(form) for value, form in cells
    )


def width_of(form):
    return int(form.rstrip("dfe").split(".")[0])


def open_folder(path, resume):
    """Make and lock the output folder. Raises ValueError if another run is in it, or running."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise ValueError(
            f"cannot write to {folder} ({error.strerror}): give another --out"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(
            f"another run is writing to {folder}: wait for it, or give another --out"
        ) from error
    if (folder / "metrics.jsonl").exists() and not resume:
        advice = "continue it with --resume, give another --out, or remove the folder"
        raise ValueError(f"{folder} holds a run: {advice}")
    return folder, lock


def draw_curves(folder):
    """curves.png over updates: reward, accuracy, tokens, thoughts, nats; the switch is marked."""
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
            seen = [record for record in updates if record.get(name) is not None]
            points = [(record["step"] + 1, record[name]) for record in seen]
            style = {"color": f"C{color}", "alpha": 0.6, "label": f"{name} (training)"}
            axis.plot(*zip(*points, strict=True), **style) if points else None
        for color, name in enumerate(measured):
            seen = [record for record in evaluations if record.get(name) is not None]
            points = [(record["step"], record[name]) for record in seen]
            style = {"color": f"C{color}", "label": f"{name} (evaluation)"}
            axis.plot(*zip(*points, strict=True), "o--", **style) if points else None
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


# --------------------------------------------------------------------------------------------------
# Checkpoints


def checkpoints(folder):
    """(step, path) of every checkpoint folder, newest first."""
    steps = {path: path.name.split("-")[1] for path in folder.glob("checkpoint-*")}
    found = [(int(step), path) for path, step in steps.items() if step.isdigit()]
    return sorted(found, reverse=True)


def save_checkpoint(folder, step, model, tokenizer, optimizer, config, keep):
    """Write checkpoint-<step> (after `step` updates), keep the newest `keep`. Returns its path."""
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
        raise ValueError(
            f"checkpoint-{step} could not be written ({error.strerror}); "
            "the ones before it are whole"
        ) from error
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


def load_checkpoint(path, model, optimizer):
    """Weights and AdamW's moments, to the bit, into a model and optimizer of the same shapes."""
    fill_parameters(model, path)
    parameters = dict(model.named_parameters())
    for key, value in load_file(path / "optimizer.safetensors").items():
        kind, name = key.split("|")
        parameter = parameters[name]
        # AdamW keeps its step counter on the CPU, the moments beside the weights
        optimizer.state[parameter][kind] = value if kind == "step" else value.to(parameter.device)


def cut_back(folder, step):
    """Drop the records from `step` on, evaluation included: a resumed run writes them again."""
    for name in ("metrics.jsonl", "samples.jsonl"):
        kept = [record for record in read_lines(folder / name) if record["step"] < step]
        temporary = folder / (name + ".partial")
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in kept]
        temporary.write_text("".join(lines))
        os.replace(temporary, folder / name)


def resume(config, folder, model, optimizer):
    """Load the newest whole checkpoint into model and optimizer; returns the updates made."""
    found = newest_whole(folder)
    if found is None:
        advice = "start without --resume in another folder"
        raise ValueError(f"--resume: {folder} has no whole checkpoint: {advice}")
    step, path, trainer = found
    now, before = asdict(config), trainer["config"]
    free = (
        "steps", "resume", "out", "keep", "save_every", "eval_every", "eval_k", "eval_problems",
        "kv_cache_gb",
    )  # fmt: skip
    changed = {name: (old, now[name]) for name, old in before.items() if now[name] != old}
    changed.pop("resume", None)
    fixed = [name for name in changed if name in ("model", "data", "prompts_per_step", "seed")]
    if fixed:
        flags = ", ".join("--" + name.replace("_", "-") for name in fixed)
        raise ValueError(f"--resume: {flags} cannot change within a run: {changed}")
    for name, (old, new) in changed.items():
        effect = "" if name in free else " (this changes the result)"
        tqdm.write(f"--resume: {name} was {old}, is now {new}{effect}")
    load_checkpoint(path, model, optimizer)
    cut_back(folder, step)
    tqdm.write(f"going on from {path}: {step} updates done")
    return step


# --------------------------------------------------------------------------------------------------
# Signals


def catch_signals():
    """Ctrl-C and SIGTERM ask for a stop after this update: the returned dict's "stop" becomes True.

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
