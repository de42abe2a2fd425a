"""What a run needs beside the method: flags, records, checkpoints, several processes, a plan.

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
4. Processes of torchrun hold the same weights and a share of the prompts each; their gradients are
   summed. The first process alone writes.
5. With --shard (FSDP2) N processes hold a part each: 16/N bytes a parameter for weights, gradients
   and moments, and 2 (4 on CPU) for a whole copy in the compute dtype, which samples. A layer's
   weights are gathered for its turn. Checkpoints are the same: any number goes on from them.

Used by dsrl.py; `python dsrl.py --out out --resume` continues a run with the flags it had.
"""

import argparse
import fcntl
import hashlib
import importlib.util
import json
import math
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import types
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from eval import encode_prompt, grade_all, load_problems, read_lines
from model import LOGITS_PER_CHUNK, CausalLM, KVCache, fetch_folder, fill_parameters, load_config
from model import load_model, part_of, save_model, whole
from prerl import OBJECTIVES, PACK_TOKENS, is_sharded
from tiny import NAMED_WORLDS

PRESETS = {  # defaults by name; every value can be overridden by its flag
    "tiny": {"model": "tiny", "lr": 2e-4, "steps": 160, "prerl_steps": 20, "prompts_per_step": 32,
             "max_response_tokens": 128, "eval_every": 20},
    "qwen2.5-1.5b-24gb": {"model": "Qwen2.5-1.5B", "prompts_per_step": 32, "kv_cache_gb": 6,
                          "max_response_tokens": 1024, "micro_batch_tokens": 4096,
                          "checkpoint_activations": True, "offload": True},
    "qwen2.5-1.5b-80gb": {"model": "Qwen2.5-1.5B", "micro_batch_tokens": 8192},
    "paper-qwen3-4b": {"model": "Qwen3-4B", "prompts_per_step": 128, "max_response_tokens": 8192,
                       "checkpoint_activations": True},
}  # fmt: skip
VARIANTS = {  # objectives of the first `prerl_steps` updates, and of the others
    "dsrl": (("nsr-prerl",), ("grpo",)),
    "twin": (("nsr-twin",), ("grpo",)),  # DSRL's control: another space, all else equal
    "prerl-grpo": (("prerl",), ("grpo",)),
    "joint": (("grpo", "nsr-prerl"),) * 2,
    **{name: ((name,),) * 2 for name in OBJECTIVES},
}
FIXED = ("model", "data", "prompts_per_step", "seed")  # flags that --resume cannot change
FREE = (  # flags that change nothing of the result
    "steps", "resume", "out", "keep", "save_every", "eval_every", "eval_problems", "preset",
    "kv_cache_gb", "device", "dry_run", "report_to", "alignment_every", "offload", "shard",
)  # fmt: skip
COLUMNS = (  # of the console: metric, heading, width, format
    ("step", "step", 5, "d"), ("phase", "phase", 5, ""), ("reward", "reward", 6, ".3f"),
    ("mixed", "mixed", 5, ".2f"), ("length", "length", 6, ".1f"), ("cut", "cut", 5, ".2f"),
    ("reflection", "reflect", 7, ".3f"), ("transition", "transit", 7, ".3f"),
    ("entropy", "entropy", 7, ".3f"), ("grad_norm", "gradnorm", 8, ".1e"),
    ("sampler_gap", "gap", 7, ".1e"), ("seconds_sample", "sample", 6, ".2f"),
    ("seconds_grade", "grade", 5, ".2f"), ("seconds_update", "update", 6, ".2f"),
    ("tokens_per_second", "tok/s", 7, ".0f"),
)  # fmt: skip
EVAL_K = 8  # responses per problem of an evaluation
SHOWN = 300  # characters of a sample on the console
PANELS = {  # of curves.png: metrics of updates and of evaluations
    "share right": ("reward", "avg_at_k", "pass_at_k"),
    "response tokens": ("length",),
    "thoughts per response": ("reflection", "transition"),
    "nats per token": ("entropy", "logprob_conditional", "logprob_marginal"),
}
TOO_MANY_CUT = 0.2  # share of responses
FAILURES_IN_A_ROW = 3  # updates that were not finite, before a run stops
UNREWARDED_IN_A_ROW = 3  # updates without a right response, before a warning
# small matrices gain nothing from a second thread and lose much on a busy machine
ONE_THREAD_BELOW = 50e6  # parameters


# --------------------------------------------------------------------------------------------------
# The command line


def flag(default, help_text, least=None, **options):
    """A field of Config: its default, and what `--help` says of the flag that sets it."""
    return field(default=default, metadata={"help": help_text, "least": least, "options": options})


@dataclass(frozen=True)
class Config:
    """Every flag of the command line, in one place; checked on creation, written to config.json."""

    model: str = flag("tiny", "tiny, a folder, a short name (Qwen2.5-1.5B) or a hub id")
    preset: str | None = flag(None, "defaults by name; other flags override", choices=PRESETS)
    data: str | None = flag(None, "a file or a benchmark's name (default: the tiny world's, math)")
    eval_data: str | None = flag(None, "default: the test set of --data, or held out of it")
    reward: str | None = flag(None, "file.py:function, (problem, response) -> float in [0, 1]")
    device: str = flag("auto", "auto is CUDA where there is one", choices=("auto", "cpu", "cuda"))

    variant: str = flag("dsrl", "which objectives, see the table in the README", choices=VARIANTS)
    prerl_steps: int = flag(20, "updates of phase 1; 0 is plain GRPO", 0)
    prerl_coef: float | None = flag(None, "coefficient of a P(y) loss (default: 0.01)")
    advantage: str | None = flag(
        None, "override the objective's normalisation", choices=("mean", "zscore", "sign")
    )
    start_token: int | None = flag(None, "id that stands in for the prompt (default: looked up)")
    mask_eos: bool = flag(False, "leave EOS out of the loss")
    skip_first: int = flag(0, "response tokens left out of the loss at its start", 0)
    updates_per_rollout: int = flag(1, "optimizer steps on one rollout; 1 is strictly on-policy", 1)

    prompts_per_step: int = flag(64, "P, prompts per update", 1)
    group_size: int = flag(8, "G, responses per prompt", 2)
    max_prompt_tokens: int = flag(1024, "problems with a longer prompt are left out", 1)
    max_response_tokens: int = flag(2048, "tokens; a longer response is cut", 1)
    kv_cache_gb: float | None = flag(None, "GB for the KV cache (default: half of what is free)")

    steps: int = flag(348, "updates in all, both phases", 1)
    lr: float = flag(1e-6, "learning rate of AdamW, constant", 0)
    micro_batch_tokens: int | None = flag(
        None, f"tokens of a forward and backward (default: {PACK_TOKENS['cpu']} on CPU, "
        f"{PACK_TOKENS['cuda']} on CUDA)", 1
    )
    checkpoint_activations: bool = flag(False, "compute layers again in backward: less memory")
    offload: bool = flag(False, "AdamW's moments in host memory: 8 bytes a parameter less on a GPU")
    shard: bool = flag(False, "weights, gradients and moments cut over the processes of torchrun")

    eval_every: int = flag(25, "updates between evaluations", 1)
    eval_problems: int = flag(128, "problems of an evaluation, 8 responses each", 1)
    alignment_every: int | None = flag(None, "updates between two cosines of the spaces", 1)
    save_every: int = flag(20, "updates between checkpoints", 1)
    keep: int = flag(2, "checkpoints kept", 1)
    report_to: str | None = flag(None, "log there too", choices=("wandb", "trackio"))
    seed: int = flag(0, "of data order, sampling and evaluation", 0)
    out: str = flag("out", "folder of the run")
    resume: bool = flag(False, "go on from the newest checkpoint in --out, with its flags")
    dry_run: bool = flag(False, "print settings, memory and time per update, then stop")

    def __post_init__(self):
        for item in fields(self):
            value, least = getattr(self, item.name), item.metadata["least"]
            if value is not None and least is not None and not value >= least:  # NaN fails too
                raise ValueError(f"{flag_of(item.name)} is {value}: it must be at least {least}")
        if self.shard and (self.offload or self.alignment_every):
            raise ValueError("--shard goes with neither --offload nor --alignment-every")


GROUPS = {  # the field that opens each group of --help
    "model": "model and data", "variant": "phase 1 (PreRL) and phase 2 (RL)",
    "prompts_per_step": "sampling", "steps": "optimizer", "eval_every": "evaluation and output",
}  # fmt: skip
ALIASES = {  # spellings people type from habit
    "model": ("model_name_or_path",), "lr": ("learning_rate",), "group_size": ("num_generations",),
    "max_response_tokens": ("max_completion_length",), "out": ("output_dir",),
}  # fmt: skip


def flag_of(name):
    return "--" + name.replace("_", "-")


def make_parser():
    about = "Dual Space RL: NSR-PreRL on P(y), then GRPO on P(y|x)."
    usage = "python dsrl.py [--model M] [--data FILE] [flags]"
    wide = partial(argparse.HelpFormatter, max_help_position=36, width=100)  # characters
    how = {"usage": usage, "formatter_class": wide, "allow_abbrev": False}
    parser = argparse.ArgumentParser(description=about, **how)
    group = None
    for item in fields(Config):
        group = parser.add_argument_group(GROUPS[item.name]) if item.name in GROUPS else group
        names = [flag_of(name) for name in (item.name, *ALIASES.get(item.name, ()))]
        kind = item.type.__args__[0] if isinstance(item.type, types.UnionType) else item.type
        choices = item.metadata["options"].get("choices")
        how = {"type": kind, "metavar": kind.__name__.upper()}
        how = {"choices": tuple(choices)} if choices else how
        how = {"action": argparse.BooleanOptionalAction} if kind is bool else how
        shown = "" if item.default is None or kind is bool else f" (default: {item.default})"
        text = item.metadata["help"] + shown
        group.add_argument(*names, dest=item.name, help=text, default=argparse.SUPPRESS, **how)
    return parser


def parse_args(argv):
    """The Config of a command line: its flags over the preset's values over the defaults.

    With --resume: its flags over those that the run in --out had. Raises ValueError.
    """

    def refuse(message):
        raise ValueError(f"{message} (python dsrl.py --help lists the flags)")

    parser = make_parser()
    parser.error = refuse  # one line, as for every other mistake
    argv = sys.argv[1:] if argv is None else argv
    # --group_size is right too
    hyphens = [re.sub("^--[^=]+", lambda match: match[0].replace("_", "-"), word) for word in argv]
    given = vars(parser.parse_args(hyphens))
    settings = {item.name: item.default for item in fields(Config)}
    saved = Path(given.get("out", settings["out"])) / "config.json"
    if given.get("resume") and saved.is_file():
        before = json.loads(saved.read_text())
        settings |= {name: before[name] for name in settings if name in before}
    else:
        preset = "tiny" if given.get("model", "tiny") in NAMED_WORLDS else None
        settings |= PRESETS.get(given.get("preset", preset), {})
    settings |= given
    own = settings["model"] if settings["model"] in NAMED_WORLDS else "math"
    settings["data"] = settings["data"] or own
    first, second = VARIANTS[settings["variant"]]
    if first == second:
        if "prerl_steps" in given:
            raise ValueError(f"--prerl-steps: {settings['variant']} has one phase, dsrl has two")
        objective = OBJECTIVES.get(settings["variant"])
        marginal = objective and objective.space == "marginal"
        settings["prerl_steps"] = settings["steps"] if marginal else 0
    return Config(**settings)


# --------------------------------------------------------------------------------------------------
# Records


def write_json(path, value):
    """Write beside and rename: a reader, or a kill, never meets half a file."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def append_line(path, record):
    """One line of JSON, by the first process. What is not finite has no place in JSON: null."""
    if rank():
        return
    floats = {name: value for name, value in record.items() if isinstance(value, float)}
    record = record | {name: None for name, value in floats.items() if not math.isfinite(value)}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


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


def start_records(folder, config, model, device):
    """Write config.json and print it: every flag as resolved, versions, device."""
    here = {"cwd": Path(__file__).parent, "capture_output": True, "text": True}
    git = shutil.which("git") and subprocess.run(["git", "rev-parse", "HEAD"], **here).stdout
    resolved = asdict(config) | {
        "python": platform.python_version(), "torch": torch.__version__,
        "transformers": transformers.__version__, "commit": (git or "").strip() or None,
        "runs_on": str(device), "compute_dtype": str(model.compute_dtype),
        "threads": torch.get_num_threads(), "processes": world_size(),
    }  # fmt: skip
    if rank() == 0:
        write_json(folder / "config.json", resolved)
    print(json.dumps(resolved))


@dataclass
class State:
    """What changes while a run goes on, beside weights and moments."""

    folder: Path
    tracker: types.ModuleType | None  # wandb or trackio
    budget: int  # tokens of a micro-batch; halved when memory runs out
    done: int = 0  # updates made
    failures: int = 0  # updates in a row that were not finite
    unrewarded: int = 0  # updates in a row without a right response
    told: set = field(default_factory=set)  # warnings given
    stop: str | None = None  # why the run ends after this update


def open_tracker(name, config):
    """The module wandb or trackio with a run begun in it, or None. Both have init, log, finish."""
    if name is None or rank():
        return None
    try:
        tracker = importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"--report-to {name}: it is not installed; pip install {name}") from error
    tracker.init(project="dsrl", name=Path(config.out).name, config=asdict(config))
    return tracker


def log_record(state, record):
    """To metrics.jsonl, and to the tracker where there is one."""
    append_line(state.folder / "metrics.jsonl", record)
    if state.tracker:
        numbers = {name: value for name, value in record.items() if isinstance(value, int | float)}
        state.tracker.log(numbers, step=record["step"])


def log_update(state, config, metrics, rollout, texts, clock):
    """Record an update, print its line and what a person should know of it; count failures."""
    seconds = [later - earlier for earlier, later in zip(clock, clock[1:], strict=False)]
    names = ("seconds_sample", "seconds_grade", "seconds_update")
    metrics |= dict(zip(names, seconds, strict=True))
    tokens = config.prompts_per_step * config.group_size * metrics["length"]
    metrics["tokens_per_second"] = tokens / seconds[0]
    if "row" in metrics:
        metrics["text"] = texts[metrics["row"]]
    log_record(state, metrics)
    skipped = f"  skipped: {metrics['skipped']}" if metrics["skipped"] else ""
    tqdm.write(console_line(metrics) + skipped)
    if "cache" not in state.told:
        state.told.add("cache")
        size = "{cache_rows} rows at a time, {cache_gb:.3f} GB".format(**rollout.stats)
        tqdm.write(f"KV cache: {size} (--kv-cache-gb limits it)")
    if "row" in metrics:
        what = f"update {metrics['step']} was not applied: {metrics['skipped']}"
        tqdm.write(f"{what}; the row that stands out:\n{metrics['text']}")
    state.failures = state.failures + 1 if "row" in metrics else 0
    state.unrewarded = 0 if metrics["reward"] > 0 else state.unrewarded + 1
    for kind, warning in warnings_of(metrics, config, state).items():
        if kind not in state.told:
            tqdm.write(f"warning: {warning}")
            state.told.add(kind)


def warnings_of(metrics, config, state):
    """{kind: what looks wrong and what to do} of this update; each kind is told once in a run."""
    found, limit = {}, f"--max-response-tokens {config.max_response_tokens}"
    if metrics["cut"] > TOO_MANY_CUT:
        found["cut"] = f"{metrics['cut']:.0%} of the responses are cut at {limit}: raise it"
    if metrics["mixed"] == 0:
        solved, other = ("solved", "harder") if metrics["reward"] > 0.5 else ("unsolved", "easier")
        equal = solved if metrics["reward"] in (0, 1) else "of equal rewards"
        found[solved] = (
            f"every group is {equal}, which is no signal: take {other} problems, "
            "or a larger --group-size"
        )
    if state.unrewarded >= UNREWARDED_IN_A_ROW:
        found["zero"] = (
            f"no right answer in {state.unrewarded} updates. The usual causes: responses are cut "
            f"before their answer ({limit}); the model does not write \\boxed{{}} (see "
            "samples.jsonl); the answers of --data are in a form that the grader does not read "
            "(give your own --reward)"
        )
    return found


def console_heading():
    return " ".join(f"{heading:>{width}}" for _, heading, width, _ in COLUMNS)


def console_line(metrics):
    cells = [(metrics.get(name), width, form) for name, _, width, form in COLUMNS]
    texts = ["" if value is None else format(value, form) for value, _, form in cells]
    return " ".join(f"{text:>{width}}" for text, (_, width, _) in zip(texts, cells, strict=True))


def draw_curves(folder):
    """curves.png over updates, dots where evaluated; the switch of the phases is marked."""
    from matplotlib.figure import Figure  # slow to import

    records = read_lines(folder / "metrics.jsonl")
    updates = [record for record in records if "reward" in record]
    evaluations = [record for record in records if "avg_at_k" in record]
    switch = next((record["step"] for record in updates if record["phase"] == "rl"), 0)
    figure = Figure(figsize=(11, 7), layout="tight")
    axes = figure.subplots(2, 2, sharex=True)
    for axis, (title, names) in zip(axes.flat, PANELS.items(), strict=True):
        for color, name in enumerate(names):
            for seen, form, alpha in ((updates, "-", 0.5), (evaluations, "o--", 1.0)):
                points = [(x["step"], x[name]) for x in seen if x.get(name) is not None]
                if points:
                    label = f"{name} ({'evaluation' if seen is evaluations else 'training'})"
                    style = dict(color=f"C{color}", alpha=alpha, label=label)
                    axis.plot(*zip(*points, strict=True), form, **style)
        if switch:
            axis.axvline(switch, color="grey", linestyle=":", label="PreRL | RL")
        axis.set(title=title, xlabel="updates")
        if axis.lines:
            axis.legend(fontsize=7)
    figure.savefig(folder / "curves.partial.png", dpi=110)
    os.replace(folder / "curves.partial.png", folder / "curves.png")


def show_evaluation(title, record, rows):
    """Print the figures of an evaluation, a question and two of the responses to it."""
    tqdm.write(
        f"{title}: Avg@{EVAL_K} {record['avg_at_k']:.3f} +- {record['avg_at_k_se']:.3f}, "
        f"pass@{EVAL_K} {record['pass_at_k']:.3f}, reflection {record['reflection']:.3f} and "
        f"transition {record['transition']:.3f} per response, {record['length']:.1f} tokens"
    )
    shown = [("asked", row["problem"]) for row in rows[:1]]
    for row in rows[:2]:
        verdict = {1.0: "right", 0.0: "wrong"}.get(row["correct"], f"{row['correct']:.2f}")
        shown.append((verdict, row["response"]))
    for label, text in shown:
        text = " ".join(text.split())
        tqdm.write(f"    {label}: {text if len(text) <= SHOWN else text[:SHOWN] + ' ...'}")


def summarize_run(config, folder):
    """Before, at the switch and after, as recorded."""
    print(f"\n{config.variant} on {config.data}, {config.steps} updates:")
    evaluations = {}
    for record in read_lines(folder / "metrics.jsonl"):
        evaluations |= {record["step"]: record} if "avg_at_k" in record else {}
    samples = read_lines(folder / "samples.jsonl")
    moments = {config.prerl_steps: "at the switch", 0: "before", config.steps: "after"}
    for step, name in sorted(moments.items()):
        if step in evaluations:
            rows = [row for row in samples if row["step"] == step]
            show_evaluation(f"{name:>13}", evaluations[step], rows)
    print(f"{folder}/: curves.png, metrics.jsonl, samples.jsonl, checkpoint-{config.steps}/")


# --------------------------------------------------------------------------------------------------
# Problems and their grader


def load_data(config, tokenizer, max_positions):
    """(training problems with "prompt_ids", evaluation problems); says what is left, held out."""
    # those that come with a training and a test set
    splits = {**{world: world for world in NAMED_WORLDS}, "math": "math500", "gsm8k": "gsm8k"}
    problems = load_problems(config.data, split="train" if config.data in splits else None)
    if config.eval_data or config.data in splits:
        held_out = load_problems(config.eval_data or splits[config.data])
    else:
        count = min(config.eval_problems, len(problems) // 5)
        held_out, problems = problems[len(problems) - count :], problems[: len(problems) - count]
        last = f"the last {count} problems of {config.data}"
        print(f"{last} are held out for evaluation (--eval-data gives others)")
    if not tokenizer.chat_template:
        print("the tokenizer has no chat template: prompts are plain text, Question: ... Answer:")
    held_out = held_out[: config.eval_problems]
    problems = [problem | {"prompt_ids": encode_prompt(tokenizer, problem)} for problem in problems]
    limit, total = config.max_prompt_tokens, len(problems)
    short = [problem for problem in problems if len(problem["prompt_ids"]) <= limit]
    if dropped := total - len(short):
        print(f"{dropped} of {total} prompts are longer than --max-prompt-tokens {limit}: left out")
    if not short or len(held_out) < world_size():
        left = f"{len(short)} problems to train on and {len(held_out)} to evaluate on"
        raise ValueError(f"{config.data} leaves {left}: give more data, or --eval-data")
    longest = max(len(problem["prompt_ids"]) for problem in short) + config.max_response_tokens
    if longest > max_positions:
        lengths = f"may reach {longest} tokens, the model has {max_positions} positions"
        raise ValueError(f"prompt and response {lengths}: lower --max-response-tokens")
    return short, held_out


def load_grader(spec):
    """grade(problems, responses, counts) -> floats in [0, 1]: standard, or a file.py:function.

    counts  dict | None  the standard one adds up its reasons there: right, wrong, unparsable, ...
    """
    if spec is None:
        return partial(grade_all, loose=False)
    path, _, name = spec.rpartition(":")
    if not Path(path).is_file():
        raise ValueError(f"--reward {spec!r}: no such file; give file.py:function")
    module_spec = importlib.util.spec_from_file_location("user_reward", path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    if not callable(getattr(module, name, None)):
        raise ValueError(f"--reward {spec!r}: {path} has no function {name}")
    function = getattr(module, name)

    def grade(problems, responses, counts=None):
        pairs = zip(problems, responses, strict=True)
        rewards = [float(function(problem, text)) for problem, text in pairs]
        if not all(0 <= reward <= 1 for reward in rewards):  # NaN fails too
            found = f"gives {min(rewards)} to {max(rewards)}"
            raise ValueError(f"--reward {spec!r}: {name} {found}: it must lie in [0, 1]")
        return rewards

    return grade


# --------------------------------------------------------------------------------------------------
# Checkpoints


def checkpoints(folder):
    """(step, path) of every checkpoint folder, newest first."""
    steps = {path: path.name.split("-")[1] for path in folder.glob("checkpoint-*")}
    found = [(int(step), path) for path, step in steps.items() if step.isdigit()]
    return sorted(found, reverse=True)


def save_when_due(config, state, model, tokenizer, optimizer):
    """Write a checkpoint if it is time, or the last moment. Raises ValueError after failures."""
    state.stop = next(filter(None, gather([state.stop])), None)  # a signal may reach one process
    failed = state.failures == FAILURES_IN_A_ROW
    last = state.stop or failed or state.done == config.steps
    if not last and state.done % config.save_every:
        return
    path = state.folder / f"checkpoint-{state.done}"
    save_checkpoint(path, state.done, model, tokenizer, optimizer, asdict(config))
    if rank() == 0:
        for _, old in checkpoints(state.folder)[config.keep :]:
            shutil.rmtree(old)
    how = f"go on with: {resume_command(config)}"
    if failed:
        failed = f"{state.failures} updates in a row were not finite; saved {path}"
        raise ValueError(f"{failed}: lower --lr, see the rows in metrics.jsonl; {how}")
    if state.stop:
        tqdm.write(f"{state.stop}: saved {path}; {how}")


def resume_command(config):
    return f"python dsrl.py --out {shlex.quote(config.out)} --resume"


def save_checkpoint(target, step, model, tokenizer, optimizer, config):
    """Write the folder `target`, after `step` updates: all of it, or on OSError nothing.

    The first process writes; the others give their parts.
    """
    parameters = dict(model.named_parameters())
    state = {name: optimizer.state.get(parameter, {}) for name, parameter in parameters.items()}
    moments = {f"{key}|{name}": value for name in state for key, value in state[name].items()}
    weights, moments = gather_tensors(parameters), gather_tensors(moments)
    if rank():
        return
    temporary = target.with_name(target.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        save_model(model, tokenizer, temporary, weights)
        save_file(moments, temporary / "optimizer.safetensors")
        hashes = {path.name: file_hash(path) for path in sorted(temporary.iterdir())}
        write_json(temporary / "trainer.json", {"step": step, "config": config, "sha256": hashes})
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


def rescue(error, config, state, model, tokenizer, optimizer):
    """After a failed write: save where one can, --out or a temporary folder; return a message."""
    reason = f"cannot go on ({error})"
    if rank():
        return reason
    folders = (state.folder, Path(tempfile.gettempdir()) / f"dsrl-rescue-{os.getpid()}")
    for folder in () if config.shard else folders:  # sharded, the others have parts of the state
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"checkpoint-{state.done}"
            save_checkpoint(path, state.done, model, tokenizer, optimizer, asdict(config))
            write_json(folder / "config.json", asdict(config))
        except (OSError, SafetensorError):
            continue
        how = resume_command(replace(config, out=str(folder)))
        return f"{reason}; the state after {state.done} updates is in {path}: make room, then {how}"
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


def load_checkpoint(path, model, sampler, optimizer, offload):
    """Weights and AdamW's moments, to the bit, into a model and optimizer of the same shapes."""
    fill_parameters(model, path)
    copy_weights(model, sampler)
    parameters = dict(model.named_parameters())
    for key, value in load_file(path / "optimizer.safetensors").items():
        kind, name = key.split("|")
        value = value if offload else part_of(value, parameters[name])
        optimizer.state[parameters[name]][kind] = value


def cut_back(folder, step):
    """Drop the records from `step` on, evaluation included: a resumed run writes them again."""
    for name in ("metrics.jsonl", "samples.jsonl"):
        kept = [record for record in read_lines(folder / name) if record["step"] < step]
        temporary = folder / (name + ".partial")
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in kept]
        temporary.write_text("".join(lines), encoding="utf-8")
        os.replace(temporary, folder / name)


def resume(config, state, model, sampler, optimizer):
    """Load the newest whole checkpoint into model and optimizer, its number into state.done."""
    found = newest_whole(state.folder)
    if found is None:
        raise ValueError(f"--resume: no checkpoint in {state.folder} is whole: give another --out")
    step, path, trainer = found
    check_changes(trainer["config"], asdict(config), step)
    load_checkpoint(path, model, sampler, optimizer, config.offload)
    if rank() == 0:
        cut_back(state.folder, step)
    tqdm.write(f"going on from {path}: {step} updates done")
    state.done = step


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


# --------------------------------------------------------------------------------------------------
# The ways a run can end


def catch_signals(state):
    """Ctrl-C and SIGTERM set state.stop: the run ends after this update. Ctrl-C again leaves."""

    def ask(number, frame):
        state.stop = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)
        tqdm.write("stopping after this update (Ctrl-C again leaves at once)")

    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGTERM, ask)


def report_errors(function):
    """Run it; what a person can mend becomes one line. Returns the exit code.

    2: a mistake, or a failure explained; 1: another process is gone; 130: a second Ctrl-C.
    """
    try:
        function()
    except (ValueError, FloatingPointError) as error:
        tqdm.write(f"error: {error}", file=sys.stderr)  # below the progress bar
        return 2
    except KeyboardInterrupt:
        print("\nleft at once; --resume goes on from the last checkpoint if any", file=sys.stderr)
        return 130
    except torch.OutOfMemoryError:
        advice = "see --dry-run; lower --max-response-tokens or --kv-cache-gb"
        tqdm.write(f"error: out of memory: {advice}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        lost = f"error: process {rank()} lost the others ({str(error).splitlines()[0]})"
        tqdm.write(f"{lost}; go on with --resume", file=sys.stderr)
        return 1
    return 0


def fit_memory(push, state, longest):
    """push(micro-batch tokens), with half as many each time memory runs out, down to one row."""
    while True:
        try:
            return push(state.budget)
        except torch.OutOfMemoryError as error:
            # Several processes would no longer meet in their sums.
            if state.budget <= longest or world_size() > 1:
                advice = (
                    "lower --micro-batch-tokens or --max-response-tokens, or give "
                    "--checkpoint-activations or --offload"
                )
                raise ValueError(f"out of memory at {state.budget} tokens: {advice}") from error
        # Only here, past the except, has the traceback let go of the tensors that were too many.
        state.budget //= 2
        torch.cuda.empty_cache()
        tqdm.write(f"out of memory: going on with micro-batches of {state.budget} tokens")


def adam_step(optimizer, model, offload):
    """One step of AdamW. Offloaded, each parameter's moments visit the device for their turn."""
    if not offload:
        return optimizer.step()
    gradients = {parameter: parameter.grad for parameter in model.parameters()}
    for parameter in gradients:
        parameter.grad = None
    for parameter, parameter.grad in gradients.items():
        move_moments(optimizer.state[parameter], parameter.device)
        optimizer.step()  # sees one gradient, and so steps one parameter
        move_moments(optimizer.state[parameter], "cpu")
        parameter.grad = None


def move_moments(moments, device):
    for name, value in moments.items():
        moments[name] = value.to(device)


# --------------------------------------------------------------------------------------------------
# Several processes, started by torchrun: the same weights or parts, a share of the prompts each


def join_processes(config):
    """The device of this process; joins those that torchrun started. Raises ValueError."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no CUDA device here; give --device cpu")
    cuda = config.device != "cpu" and torch.cuda.is_available()
    local = os.environ.get("LOCAL_RANK", "0")
    device = torch.device(f"cuda:{local}" if cuda else "cpu")
    if cuda:
        torch.cuda.set_device(device)
    if "RANK" in os.environ and not dist.is_initialized():
        try:
            dist.init_process_group("nccl" if cuda else "gloo")
        except dist.DistNetworkError as error:
            reason = f"the processes cannot meet ({str(error).splitlines()[0]})"
            advice = "another run may hold the port: torchrun --standalone, or --master-port N"
            raise ValueError(f"{reason}; {advice}") from error
    if config.prompts_per_step % world_size():
        shares = f"{config.prompts_per_step} is not divided by {world_size()} processes"
        raise ValueError(f"--prompts-per-step {shares}")
    if config.shard and world_size() == 1:
        start = "torchrun --standalone --nproc-per-node N dsrl.py"
        raise ValueError(f"--shard needs several processes: {start} ..., or give --no-shard")
    if rank():
        sys.stdout = open(os.devnull, "w")  # the first process speaks for all; not of errors
    return device


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def world_size():
    return dist.get_world_size() if dist.is_initialized() else 1


def first_of_share(count):
    """Where this process's share of `count` items begins."""
    return rank() * count // world_size()


def share(items):
    return items[first_of_share(len(items)) : (rank() + 1) * len(items) // world_size()]


def gather(items):
    """The lists of all processes as one, in order of rank."""
    if world_size() == 1:
        return items
    parts = [None] * world_size()
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def average(metrics):
    """The mean over the processes of each metric; all have equally many rows."""
    parts = gather([metrics])
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0) for part in parts) / len(parts) for name in names}


def sum_gradients(model):
    """Each .grad becomes the sum over the processes: their denominator is global already."""
    if world_size() == 1 or is_sharded(model):  # whose backward sums
        return
    for parameter in model.parameters():
        if parameter.grad is None:  # no row of this process carried loss
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)


def load_weights(config, device):
    """(model, sampler, tokenizer): fp32 master weights, always, and what samples.

    They are one model, but with --shard, where the sampler is a whole copy in the compute dtype.
    """
    dtype = compute_dtype(device)
    weights = dtype if config.shard else torch.float32
    sampler, tokenizer = load_model(config.model, dtype=weights, device=device)
    sampler.compute_dtype = dtype
    model = shard_model(sampler, config.model, device) if config.shard else sampler
    model.checkpoint_activations = config.checkpoint_activations or too_large(config, device)
    choose_threads(model)
    return model, sampler, tokenizer


def shard_model(sampler, name, device):
    """The fp32 model of a folder or hub id, cut over the processes: this one holds its part."""
    from torch.distributed.fsdp import fully_shard  # slow to import

    model = shapes_of(name, sampler.compute_dtype)
    mesh = dist.init_device_mesh(device.type, (world_size(),))
    for module in (*model.model.layers, model):
        fully_shard(module, mesh=mesh)
        module.set_force_sum_reduction_for_comms(True)  # not the mean: as in `sum_gradients`
        module.set_gradient_divide_factor(1.0)
    model.to_empty(device=device)
    fill_parameters(model, fetch_folder(name))
    model.eos_ids = sampler.eos_ids
    return model


def gather_tensors(tensors):
    """{name: whole tensor on the CPU} in the first process, {} in the others."""
    gathered = {}
    for name, tensor in tensors.items():
        tensor = whole(tensor.detach())
        if rank() == 0:
            gathered[name] = tensor.cpu()
    return gathered


def copy_weights(model, sampler):
    """Give a sharded model's weights to the whole one that samples, in its dtype."""
    if sampler is not model:
        for copied, part in zip(sampler.parameters(), model.parameters(), strict=True):
            copied.data.copy_(whole(part.detach().to(copied.dtype)))


def choose_threads(model):
    """CPU threads: OMP_NUM_THREADS if set, else one for a small model, else all cores."""
    small = sum(parameter.numel() for parameter in model.parameters()) < ONE_THREAD_BELOW
    threads = 1 if small else max(1, os.cpu_count() // world_size())
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", threads)))


# --------------------------------------------------------------------------------------------------
# --dry-run


def compute_dtype(device):
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def shapes_of(name, dtype):
    """The model of a folder or hub id from its config.json alone: on "meta", without storage."""
    with torch.device("meta"):
        model = CausalLM(load_config(fetch_folder(name, ["config.json"])))
    model.compute_dtype = dtype
    return model


def bytes_kept(model, tokens):
    """What autograd keeps of `tokens` tokens for backward; counted on a model on "meta"."""
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept = {}  # address -> storage; held here, so that no other takes its address

    def note(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(torch.zeros(1, tokens, dtype=torch.int64, device="meta"))
    return sum(storage.nbytes() for key, storage in kept.items() if key not in weights)


def memory_plan(config, model, device):
    """{item: bytes} on the device, of a model on "meta"; each at its largest."""
    parameters, size = sum(p.numel() for p in model.parameters()), model.compute_dtype.itemsize
    length = config.max_prompt_tokens + config.max_response_tokens
    tokens = max(config.micro_batch_tokens or PACK_TOKENS[device.type], length)
    # From one token and two: at those, attention that keeps T x T weights keeps next to nothing.
    a_token = bytes_kept(model, 2) - bytes_kept(model, 1)
    casts = bytes_kept(model, 1) - a_token  # of the weights to bf16
    layers = model.config.num_hidden_layers
    if config.checkpoint_activations:  # the input of every layer, and all of one layer
        a_token = layers * model.config.hidden_size * size + a_token // layers
        casts = casts // layers
    rows = config.prompts_per_step * config.group_size // world_size()
    cache = rows * length * KVCache.bytes_per_token(model.config, model.compute_dtype)
    logits = min(LOGITS_PER_CHUNK[device.type], tokens * model.config.vocab_size)
    parts = world_size() if config.shard else 1
    # whole for their turn: weights, gradients, and these once more as they are summed
    in_layers = sum(parameter.numel() for parameter in model.model.layers.parameters())
    gathered = 12 * (parameters - in_layers + 2 * in_layers // layers)
    return {
        "weights (float32)": 4 * parameters // parts,
        "gradients (float32)": 4 * parameters // parts,
        "AdamW moments (float32)": 0 if config.offload else 8 * parameters // parts,
        "copy that samples": size * parameters if config.shard else 0,
        "head and 2 layers, gathered": gathered if config.shard else 0,
        f"activations, {tokens:,} tokens": tokens * a_token + casts,
        "logits chunk": logits * size,
        "weights laid out for sampling": size * parameters,
        f"KV cache, {rows:,} rows": min(cache, 1e9 * (config.kv_cache_gb or math.inf)),
    }


def too_large(config, device):
    """Whether an update needs more memory than the GPU has, unless layers are computed again."""
    if device.type != "cuda":
        return False
    model = shapes_of(config.model, compute_dtype(device))
    *update, _, _ = memory_plan(config, model, device).values()
    room = torch.cuda.get_device_properties(device).total_memory
    if sum(update) > room:
        needed = f"an update needs about {sum(update) / 1e9:.0f} GB of {room / 1e9:.0f}"
        print(f"{needed}: --checkpoint-activations is on")
    return sum(update) > room


def print_plan(config, device):
    """What a run would be: settings, dtypes, parameters, memory by item, tokens per update."""
    model = shapes_of(config.model, compute_dtype(device))
    items = memory_plan(config, model, device)
    *update, laid_out, cache = items.values()
    weights, _, moments, copy, *_ = update
    parameters = sum(parameter.numel() for parameter in model.parameters())
    rows = config.prompts_per_step * config.group_size
    compute = str(model.compute_dtype).removeprefix("torch.")
    print(json.dumps(asdict(config), indent=2))
    print(f"{config.model}: {parameters:,} parameters on {device}, {world_size()} process(es)")
    print("dtypes: weights, gradients, moments, log-probs, advantages float32; "
          f"activations, logits, KV cache {compute}")
    print("memory, GB (10^9 bytes); what does not fit of the KV cache waits its turn:")
    totals = {
        "in an update": sum(update),
        "in sampling": weights + moments + copy + laid_out + cache,  # gradients are gone
    }
    for name, size in (items | totals).items():
        if size:
            print(f"  {name:29} {size / 1e9:9.3f}")
    print(f"tokens per update: {rows:,} responses, {rows * config.max_response_tokens:,} at most")
