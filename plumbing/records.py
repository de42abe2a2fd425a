"""What a run writes and says: metrics, samples, curves, the console, and how it ends.

    out/config.json      every flag as resolved, versions, device
    out/metrics.jsonl    one line per update, one per evaluation
    out/samples.jsonl    a few responses per evaluation
    out/curves.png       redrawn at each evaluation
"""

import importlib
import os
import platform
import re
import shutil
import signal
import subprocess
import textwrap
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import transformers

from model import CausalLM
from plumbing.console import say
from plumbing.evaluation import count_thoughts
from plumbing.files import NUMBER, append_line, read_checked, write_json
from plumbing.flags import VARIANTS, Config
from plumbing.plan import Fit
from plumbing.processes import rank, world_size

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
SHOWN, WIDTH = 400, 99  # characters of a sample on the console, and of a line
PANELS = {  # of curves.png: metrics of updates and of evaluations
    "share right": ("reward", "avg_at_k", "pass_at_k"),
    "response tokens": ("length",),
    "thoughts per response": ("reflection", "transition"),
    "nats per token": ("entropy", "logprob_conditional", "logprob_marginal"),
}
DRAWN = [name for names in PANELS.values() for name in names]
FIGURES = ("avg_at_k", "avg_at_k_se", "pass_at_k", "reflection", "transition", "length")
SAMPLE = {"step": int, "problem": str, "response": str, "correct": NUMBER}  # of samples.jsonl
OWN_FILES = ("config.json", "metrics.jsonl", "samples.jsonl", "curves.png")
TOO_MANY_CUT = 0.2  # share of responses
UNREWARDED_IN_A_ROW = 3  # updates without a right response, before a warning


def start_records(run):
    """Write config.json: every flag as resolved, versions, device; print what the run will do."""
    config = run.config
    resolved = asdict(config) | {
        "python": platform.python_version(), "torch": torch.__version__,
        "transformers": transformers.__version__, "commit": commit_of_source(),
        "runs_on": str(run.device), "compute_dtype": str(run.model.compute_dtype),
        "threads": torch.get_num_threads(), "processes": world_size(), "run": run.name,
    }  # fmt: skip
    if rank() == 0:
        write_json(run.folder / "config.json", resolved)
    first, second = ("+".join(names) for names in VARIANTS[config.variant])
    todo = f"{config.prerl_steps} updates of {first}, then {second}" if first != second else first
    say(
        f"{config.model} on {config.data}: {todo}, {config.steps} updates in all; "
        f"{config.prompts_per_step} problems x {config.group_size} responses each\n"
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{resolved['compute_dtype'].removeprefix('torch.')} on {run.device}, {world_size()} "
        f"process(es); every setting is in {run.folder / 'config.json'}"
    )
    if first != second and config.prerl_steps >= config.steps:
        say(
            f"phase 2 is never reached: --prerl-steps {config.prerl_steps} of "
            f"--steps {config.steps} are phase 1"
        )


def commit_of_source():
    """The git commit of these files, with "-dirty" where some were changed since, or None."""
    root = Path(__file__).parent.parent
    if not shutil.which("git") or not (root / ".git").exists():  # perhaps in another repository
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True)
    return ended.stdout.strip() or None


@dataclass
class Run:
    """What a run holds, and below what changes while it goes on."""

    config: Config
    device: torch.device
    model: CausalLM  # fp32 master weights; with --shard a part of them
    tokenizer: object
    optimizer: torch.optim.AdamW
    problems: list  # to train on, with "prompt_ids"
    held_out: list  # to evaluate on
    fit: Fit  # how it fits the device
    grade: Callable | None = None  # (problems, responses, counts) -> rewards
    folder: Path | None = None
    tracker: object = None  # wandb, trackio or TensorBoard
    done: int = 0  # updates made
    failures: int = 0  # updates in a row that were not finite
    unrewarded: int = 0  # updates in a row without a right response
    told: set = field(default_factory=set)  # warnings given
    signal: str | None = None  # that came to this process
    stop: str | None = None  # that came to any: all end after this update
    name: str = field(default_factory=lambda: uuid.uuid4().hex)  # the same when it goes on
    inputs: dict = field(default_factory=dict)  # {what: hash}, see resume.hashes_of_inputs
    whole: set = field(default_factory=set)  # folders of checkpoints that are known to be whole


class TensorBoard:
    """torch's writer into out/tensorboard, with the functions of wandb and trackio."""

    def init(self, config, **_):
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self.writer = SummaryWriter(Path(config["out"], "tensorboard"))

    def log(self, numbers, step):
        for name, number in numbers.items():
            self.writer.add_scalar(name, number, step)

    def finish(self):
        self.writer.close()


def open_tracker(run, identity):
    """wandb, trackio or TensorBoard with a run begun, or None. They have init, log, finish.

    identity  the run's name, by which a resumed one goes on in the same place
    """
    name, out = run.config.report_to, Path(run.config.out).name
    if name is None or rank():
        return None
    project = os.environ.get(f"{name.upper()}_PROJECT", "dsrl")
    # trackio knows a run by its name alone.
    more = {"id": os.environ.get("WANDB_RUN_ID", identity)} if name == "wandb" else {}
    try:
        tracker = TensorBoard() if name == "tensorboard" else importlib.import_module(name)
        if not hasattr(tracker, "init"):  # a folder of logs of this name, taken for a package
            raise ImportError
        tracker.init(project=project, name=f"{out}-{identity[:8]}", resume="allow",
                     config=asdict(run.config), **more)  # fmt: skip
    except ImportError as error:
        raise ValueError(f"--report-to {name}: it is not installed; pip install {name}") from error
    return tracker


def log_record(run, record):
    """To metrics.jsonl, and to the tracker where there is one."""
    append_line(run.folder / "metrics.jsonl", record)
    if run.tracker:
        numbers = {name: value for name, value in record.items() if isinstance(value, int | float)}
        run.tracker.log(numbers, step=record["step"])


def log_update(run, metrics, rollout, texts, clock):
    """Record an update, print its line and what a person should know of it; count failures."""
    metrics |= {
        "seconds_sample": clock[1] - clock[0],
        "seconds_grade": clock[2] - clock[1],
        "seconds_update": clock[3] - clock[2],
    }
    tokens = run.config.prompts_per_step * run.config.group_size * metrics["length"]
    metrics["tokens_per_second"] = tokens / metrics["seconds_sample"]
    if "row" in metrics:
        metrics["text"] = texts[metrics["row"]]
    log_record(run, metrics)
    skipped = f"  skipped: {metrics['skipped']}" if metrics["skipped"] else ""
    say(console_line(metrics) + skipped)
    run.failures = run.failures + 1 if "row" in metrics else 0
    run.unrewarded = 0 if metrics["reward"] > 0 else run.unrewarded + 1
    if "row" in metrics:
        say(
            f"update {metrics['step']} was not applied: {metrics['skipped']}; "
            f"the row that stands out:\n{metrics['text']}"
        )
    size = "{cache_rows} rows at a time, {cache_gb:.3f} GB".format(**rollout.stats)
    news = {"cache": f"KV cache: {size} (--kv-cache-gb limits it)"}
    news |= {kind: f"warning: {text}" for kind, text in warnings_of(metrics, run).items()}
    for kind in [kind for kind in news if kind not in run.told]:
        say(news[kind])
        run.told.add(kind)


def log_evaluation(run, step, summary, rows):
    """Record an evaluation and a few of its responses, redraw the curves, print what it found."""
    numbers = {name: value for name, value in summary.items() if isinstance(value, int | float)}
    thoughts = {name: rates["per_response"] for name, rates in summary["thoughts"].items()}
    record = {"step": step, **numbers, "pass_at_k": summary["pass_at_k"][EVAL_K], **thoughts}
    log_record(run, record)
    for row in rows[: EVAL_K * 4]:
        append_line(run.folder / "samples.jsonl", {"step": step, **row})
    if rank() == 0:
        draw_curves(run.folder)
    show_figures(f"evaluation at {step}", record)
    first, second = VARIANTS[run.config.variant]
    if step == 0:
        say("    before any update. What to watch: does the model look again, and does that pay?")
        show_text("asked", rows[0]["problem"])
        show_response("at the start", rows, best=False)
    elif first != second and step == run.config.prerl_steps < run.config.steps:
        say("    the switch: the loss is another from here on, all else goes on as it was")
        show_response("at the switch", rows, best=False)


def warnings_of(metrics, run):
    """{kind: what looks wrong and what to do} of this update; each kind is told once in a run."""
    found, limit = {}, f"--max-response-tokens {run.config.max_response_tokens}"
    if metrics["cut"] > TOO_MANY_CUT:
        found["cut"] = f"{metrics['cut']:.0%} of the responses are cut at {limit}: raise it"
    if metrics["mixed"] == 0:
        solved, other = ("solved", "harder") if metrics["reward"] > 0.5 else ("unsolved", "easier")
        equal = solved if metrics["reward"] in (0, 1) else "of equal rewards"
        found[solved] = (
            f"every group is {equal}, which is no signal: take {other} problems, "
            "or a larger --group-size"
        )
    if run.unrewarded >= UNREWARDED_IN_A_ROW:
        found["zero"] = (
            f"no right answer in {run.unrewarded} updates. The usual causes: responses are cut "
            f"before their answer ({limit}); the model does not write \\boxed{{}} (see "
            "samples.jsonl); the answers of --data are in a form that the grader does not read "
            "(give your own --reward)"
        )
    return found


def console_heading():
    return " ".join(f"{heading:>{width}}" for _, heading, width, _ in COLUMNS)


def console_line(metrics):
    return " ".join(
        format(metrics[name], f">{width}{form}") if metrics.get(name) is not None else " " * width
        for name, _, width, form in COLUMNS
    )


def read_records(file):
    """The records of metrics.jsonl or samples.jsonl, which a person may have edited.

    Raises ValueError naming the file, the line and what is not as a run writes it.
    """

    def kinds_of(record):
        kinds = {"step": int} | {name: NUMBER | None for name in DRAWN if name in record}
        kinds |= {"phase": str} if "reward" in record else {}  # an update
        kinds |= dict.fromkeys(FIGURES, NUMBER) if "avg_at_k" in record else {}  # an evaluation
        return kinds | (SAMPLE if file.name == "samples.jsonl" else {})

    return read_checked(file, kinds_of)


def draw_curves(folder):
    """curves.png over updates, dots where evaluated; the switch of the phases is marked."""
    from matplotlib.figure import Figure  # slow to import

    records = read_records(folder / "metrics.jsonl")
    updates = [record for record in records if "reward" in record]
    evaluations = [record for record in records if "avg_at_k" in record]
    switch = next((record["step"] for record in updates if record["phase"] == "rl"), 0)
    figure = Figure(figsize=(11, 7))  # A layout engine would draw it three times.
    figure.subplots_adjust(0.05, 0.07, 0.98, 0.95, wspace=0.12, hspace=0.14)
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
        axis.set_title(title)
        if axis.lines:
            axis.legend(fontsize=7)
    figure.supxlabel("updates", y=0.01, fontsize=10)
    figure.savefig(folder / "curves.png.partial", format="png", dpi=110)
    os.replace(folder / "curves.png.partial", folder / "curves.png")


def show_figures(title, record):
    say(
        f"{title}: Avg@{EVAL_K} {record['avg_at_k']:.3f} +- {record['avg_at_k_se']:.3f}, "
        f"pass@{EVAL_K} {record['pass_at_k']:.3f}, reflection {record['reflection']:.3f}, "
        f"transition {record['transition']:.3f}, tokens {record['length']:.1f}"
    )


def show_response(moment, rows, best):
    """Print the best or the worst response to the first problem of an evaluation."""
    row = sorted(rows[:EVAL_K], key=lambda row: row["correct"])[-1 if best else 0]
    verdict = {1.0: "right", 0.0: "wrong"}.get(row["correct"], f"{row['correct']:.2f}")
    show_text(f"{moment}, {verdict}", row["response"])


def show_text(label, text):
    """Print a text in lines of a terminal; >> marks a piece that looks back or changes course."""
    pieces = re.split(r"\n\s*\n", text if len(text) <= SHOWN else text[:SHOWN] + " ...")
    marks = [">> " if count_thoughts(piece)["execution"] == 0 else "" for piece in pieces]
    line = " ".join(
        mark + " ".join(piece.split()) for mark, piece in zip(marks, pieces, strict=True)
    )
    indent = " " * 4
    say(textwrap.fill(f"{label}: {line}", WIDTH, initial_indent=indent, subsequent_indent=indent))


def summarize_run(config, folder):
    """Before, at the switch and after, as recorded; a response from before and one from after."""
    say(f"\n{config.variant} on {config.data}, {config.steps} updates:")
    records = read_records(folder / "metrics.jsonl")
    evaluations = {record["step"]: record for record in records if "avg_at_k" in record}
    moments = {config.prerl_steps: "at the switch", 0: "before", config.steps: "after"}
    for step, name in sorted(moments.items()):
        if step in evaluations:
            show_figures(f"{name:>13}", evaluations[step])
    samples = read_records(folder / "samples.jsonl")
    before, after = ([row for row in samples if row["step"] == step] for step in (0, config.steps))
    if before and after:
        show_text("asked", after[0]["problem"])
        show_response("before", before, best=False)
        show_response("after", after, best=True)
    say(f"{folder}/: curves.png, metrics.jsonl, samples.jsonl, checkpoint-{config.steps}/")


# --------------------------------------------------------------------------------------------------
# The ways a run can end


def catch_signals(run):
    """Ctrl-C and SIGTERM set run.signal: the run ends after this update. Ctrl-C again leaves."""

    def ask(number, frame):
        run.signal = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if rank() == 0:  # past sys.stdout, which the signal may have interrupted in a print
            with suppress(OSError):
                os.write(2, b"\nstopping after this update (Ctrl-C again leaves at once)\n")

    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGTERM, ask)
    # A closed terminal sends it, under nohup it is ignored, and Windows has none.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, ask)
