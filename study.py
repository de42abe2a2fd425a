"""The study: when does the pre-train space help? Runs of dsrl.py over worlds, bases and seeds.

    python study.py                  # what is not done yet, then every table: hours, resumable
    python study.py --quick          # a few short runs from one base, in minutes
    python study.py --part D         # one part alone
    python study.py --report         # tables and figure of what is done, nothing is run
    python study.py --look tiny      # one model: cosines of both spaces, a response token by token

Each run is one line of tests/results/study.jsonl: what it was, and its evaluations. STUDY.md is
written from these tables. The part "grid" chooses for the parts "4e-4" and "8e-4".
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from itertools import groupby, pairwise, product
from math import inf
from pathlib import Path

from tqdm import tqdm

from plumbing.alignment import alignment_by_probability, gradient_alignment
from plumbing.benchmarks import load_problems
from plumbing.checkpoints import load_model
from plumbing.console import report_errors
from plumbing.evaluation import rounded
from plumbing.files import NUMBER, append_line, read_checked, read_json, read_lines, write_lines
from plumbing.look import look, sampled
from tiny import NAMED_WORLDS, build

ROOT = Path(__file__).parent
RESULTS = ROOT / "tests/results/study.jsonl"
DOCUMENTS = (ROOT / "README.md", ROOT / "STUDY.md")  # which show tables of it
D = NAMED_WORLDS["tiny"]
WORLDS = NAMED_WORLDS | {  # one property of the default world removed at a time
    "not restated": replace(D, restate=False),
    "looks as often after a question": replace(D, look_again=0.3),
    "looks as rarely without one": replace(D, look_again_unprompted=0.01),
    "facts can be learned": replace(D, hard_slip=0.6),
    "no document without its question": replace(D, unprompted=0.0),
    "half of them without": replace(D, unprompted=0.5),
}
FORKS = {  # what a reader would change in a file for an ablation: run before dsrl.main
    "": "",
    # log P(y given the question of another problem): is it the missing question, or any other?
    "shuffled": """
import prerl
own = prerl.contexts_of
def other_problems(rollout, space, *rest):
    contexts = own(rollout, "conditional", *rest)
    half = len(contexts) // 2 if space == "marginal" else 0
    return contexts[half:] + contexts[:half]
prerl.contexts_of = other_problems
""",
    # AdamW begins anew at the switch, so that the warm-up's small moments are not carried over it
    "reset": """
import dsrl
update = dsrl.update
def with_reset(run, rollout, rewards, step):
    if step == run.config.prerl_steps:
        run.optimizer.state.clear()
    return update(run, rollout, rewards, step)
dsrl.update = with_reset
""",
}


@dataclass(frozen=True)
class Run:
    """One run of dsrl.py with the tiny preset; equal fields give equal curves on one machine."""

    world: str  # of WORLDS
    base: int  # seed of the base model
    seed: int  # of data order and sampling
    steps: int  # updates
    flags: str  # of dsrl.py
    fork: str = ""  # of FORKS


@dataclass(frozen=True)
class Part:
    """Runs that stand in one table: every variant from every base with every seed."""

    title: str
    variants: dict  # name in the table: flags, and after a "|" the fork
    world: str = "tiny"
    bases: tuple = (0, 1, 2)
    seeds: tuple = (0, 1, 2, 3)
    steps: int = 160

    def run_of(self, name, base, seed):
        flags, _, fork = self.variants[name].partition("|")
        return Run(self.world, base, seed, self.steps, flags, fork)

    def runs(self):
        """All of them; a study that is stopped has every variant from the bases it has begun."""
        places = product(self.seeds, self.bases, self.variants)
        return [self.run_of(name, base, seed) for seed, base, name in places]


def plain(*names):
    """{name: flags} of variants without other flags."""
    return {name: f"--variant {name}".lower() for name in names}


GRPO, DSRL, TWIN = "--variant grpo", "--prerl-steps 20", "--variant twin --prerl-steps 20"
THREE = {"DSRL": DSRL, "GRPO": GRPO, "twin": TWIN}
SIX = THREE | plain("NSR-PreRL", "PSR-PreRL", "NSR-RL")
FEW = {name: flags + " --prompts-per-step 8" for name, flags in THREE.items()}
RATES = ("2e-4", "4e-4", "8e-4")
GRID = {f"GRPO, lr {rate}": f"{GRPO} --lr {rate}" for rate in RATES} | {
    f"{name}, {count} of warm-up, lr {rate}": f"{flags} --prerl-steps {count} --lr {rate}".strip()
    for name, flags in (("DSRL", ""), ("twin", "--variant twin"))
    for count in (10, 20) for rate in RATES
} | {f"GRPO, rank 8, lr {rate}": f"{GRPO} --lora-rank 8 --lr {rate}" for rate in ("1e-3", "2e-3")}
CONTROLS = {
    "DSRL": DSRL, "prompt shuffled": f"{DSRL}|shuffled", "PreRL, then GRPO":
    "--variant prerl-grpo --prerl-steps 20", "twin": TWIN, "GRPO": GRPO,
    "DSRL, coefficient 1": f"{DSRL} --prerl-coef 1",
    "twin, coefficient 1": f"{TWIN} --prerl-coef 1", "DSRL, moments reset": f"{DSRL}|reset",
    "twin, moments reset": f"{TWIN}|reset",
}  # fmt: skip
OTHERS = plain("PreRL", "NSR-PreRL", "PSR-PreRL", "NSR-RL", "PSR-RL", "joint")
TUNED = {  # at two rates, with the warm-ups that are best there in the grid
    rate: {"DSRL": f"--prerl-steps {ours} --lr {rate}"}
    | {name: f"{THREE[name]} --lr {rate}" for name in ("GRPO", "twin")}
    for rate, ours in (("4e-4", 20), ("8e-4", 10))}  # fmt: skip
RANK_8 = THREE | {f"{name}, rank 8": f"{THREE[name]} --lora-rank 8" for name in ("DSRL", "GRPO")}
PARTS = {  # the most important first; about four hours on two cores in all
    "D": Part("World D: DSRL, GRPO and the twin", THREE),
    "grid": Part("Learning rates and warm-ups", GRID, bases=(9,), seeds=(90,), steps=80),
    **{at: Part(f"World D at rate {at}", TUNED[at], seeds=(0, 1), steps=80) for at in TUNED},
    "few": Part("World D with 64 responses an update", FEW, seeds=(0, 1)),
    "controls": Part("World D: is it the space?", CONTROLS, seeds=(0, 1), steps=80),
    "others": Part("World D: the other variants", OTHERS, seeds=(0,), steps=80),
    **{world: Part(f"World D, but: {world}", THREE, world, seeds=(0,), steps=80)
       for world in WORLDS if world not in NAMED_WORLDS},
    "H": Part("World H: first looks can be learned", THREE, "tiny-h", seeds=(0, 1), steps=80),
    "D98": Part("World D98: a few first looks are right", THREE, "tiny-d98", seeds=(0,), steps=80),
    "LoRA": Part("World D: LoRA beside full training", RANK_8, bases=(0,), seeds=(0, 1, 2)),
    "M": Part("World M: the six that the claims hang on", SIX, "tiny-m", seeds=range(5), steps=40),
    "old": Part("The old world: the same six", SIX, "tiny-old", seeds=(0,), steps=80),
}  # fmt: skip
QUICK = Part("A first look", THREE, bases=(0,), seeds=(0, 1), steps=100)
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179,
        2.160, 2.145)  # Student's t for 1, 2, ... degrees of freedom  # fmt: skip


# --------------------------------------------------------------------------------------------------
# Running

BUILDING, WRITING = threading.Lock(), threading.Lock()
KEPT = (
    "step", "avg_at_k", "pass_at_k", "reflection", "transition", "length", "cut", "reads_right",
    "first_look_right", "look_changes", "look_mends", "right_after_look", "looks_again",
)  # fmt: skip
POINT = {"step": int} | dict.fromkeys(KEPT[1:6] + ("tokens",), NUMBER)
RUN = {one.name: one.type for one in fields(Run)} | {"curve": [POINT]}


def train(run):
    """The run's evaluations, and for 160 updates Avg@8 on longer chains and other operators."""
    with BUILDING:
        base = Path(build(seed=run.base, quiet=True, world=WORLDS[run.world]))
    with tempfile.TemporaryDirectory(prefix="dsrl-study-") as folder:
        out = Path(folder, "out")
        program = f"import sys\n{FORKS[run.fork]}\nimport dsrl\nsys.exit(dsrl.main(sys.argv[1:]))"
        command("-c", program, "--preset", "tiny", "--model", base, "--data", base / "train.jsonl",
                "--eval-data", base / "test.jsonl", *run.flags.split(), "--steps", run.steps,
                "--seed", run.seed, "--eval-every", 20, "--save-every", run.steps,
                "--out", out)  # fmt: skip
        record = asdict(run) | curve_of(out)
        if run.steps == 160 and not run.fork:
            command("eval.py", "--model", out / f"checkpoint-{run.steps}", "--tasks",
                    ",".join(f"{base}/{name}.jsonl" for name in OUTSIDE), "--limit", 128, "--k", 8,
                    "--temperature", 1, "--max-new-tokens", 256, "--out", out / "outside")
            found = read_json(out / "outside/results.json")["tasks"]
            record |= {Path(task).stem: rounded(found[task]["avg_at_k"]) for task in found}
        return record


def command(*words):
    words, environment = [sys.executable, *map(str, words)], os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=environment)
    if ended.returncode:
        raise ValueError(f"{' '.join(words)} failed:\n{ended.stderr[-2000:]}")


def curve_of(out):
    """Every evaluation of a run, with the tokens fed to the model in training before it."""
    tokens, curve = 0, []
    for line in read_lines(out / "metrics.jsonl"):
        if "avg_at_k" in line:
            kept = {name: rounded(line[name]) for name in KEPT if line.get(name) is not None}
            curve.append(kept | {"tokens": round(tokens)})
        else:
            tokens += line["tokens_forward"]
    return {"commit": read_json(out / "config.json")["commit"], "curve": curve}


def read_results(path):
    """The lines of a file of results. Raises ValueError for one that is not as a study wrote it."""
    measured = {"world": str, "base": int, "alignment": {"whole_model": NUMBER, "positions": dict}}
    return read_checked(path, lambda line: measured if "alignment" in line else RUN)


def load_results(path):
    """{run: record}; a run answers for every shorter one that it passed, at its evaluations."""
    results, runs = {}, [record for record in read_results(path) if "curve" in record]
    for record in sorted(runs, key=lambda record: record["steps"]):
        run, curve = Run(**{one.name: record[one.name] for one in fields(Run)}), record["curve"]
        if lacks := {*range(0, run.steps + 1, 20)} - {point["step"] for point in curve}:
            raise ValueError(f"{path}: {run} lacks the evaluation after {min(lacks)} updates")
        for count, point in enumerate(curve[:-1], 1):
            part = {"base": run.base, "seed": run.seed, "curve": curve[:count]}
            results[replace(run, steps=point["step"])] = part
        results[run] = record
    return results


def run_parts(parts, path, jobs):
    """Train what the results lack, in the order of the parts; each run is kept as soon as done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_lines(path, read_results(path))  # without a last line that a kill cut short
    done = load_results(path)
    runs = dict.fromkeys(run for part in parts for run in part.runs())  # each once, in order
    missing = [run for run in runs if run not in done]
    with ThreadPoolExecutor(jobs) as pool:

        def train_and_keep(run):
            record = train(run)
            with WRITING:
                append_line(path, record)

        list(tqdm(pool.map(train_and_keep, missing), total=len(missing), desc="runs", disable=None))


def align(path):
    """Measure what the results lack of the bases of worlds D, M and old: the cosine of
    grad log P(y) and grad log P(y | x), of the whole model, by position and by probability."""
    done = {(line["world"], line["base"]) for line in read_results(path) if "alignment" in line}
    wanted = product(("tiny", "tiny-m", "tiny-old"), (0, 1, 2))
    for world, base in [pair for pair in wanted if pair not in done]:
        folder = build(seed=base, quiet=True, world=WORLDS[world])
        model, tokenizer = load_model(folder)
        sample = sampled(model, tokenizer, load_problems(f"{folder}/test.jsonl", limit=16))
        found = gradient_alignment(model, *sample) | alignment_by_probability(model, *sample)
        append_line(path, {"alignment": found, "world": world, "base": base})


# --------------------------------------------------------------------------------------------------
# Figures of a run, and of several


def at(record, step, key="avg_at_k"):
    """A figure of the evaluation after `step` updates; None where it was not measured."""
    return next(point.get(key) for point in record["curve"] if point["step"] == step)


def between(record, kind, value, wanted):
    """`wanted` where `kind` first reaches `value`, between two evaluations; inf where never."""
    for before, after in pairwise(record["curve"]):
        if before[kind] < value <= after[kind]:
            share = (value - before[kind]) / (after[kind] - before[kind])
            return before[wanted] + share * (after[wanted] - before[wanted])
    return inf


def interval(values):
    """(mean, half width) of the 95 % confidence interval, Student's t; NaN for a single value."""
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return mean, float("nan")
    return mean, T_95[count - 2] * statistics.stdev(values) / count**0.5


def show(values, form=".3f"):
    """Mean ± half width; one or two values as they are: an interval of two says nothing."""
    values = [value for value in values if value is not None]
    if len(values) < 3:
        return " ".join(f"{value:{form}}" for value in values)
    mean, half = interval(values)
    return f"{mean:{form}} ± {half:{form.lstrip('+')}}"


def show_difference(values):
    """Mean, interval, and how many pairs are positive."""
    return f"{show(values, '+.3f')} ({sum(value > 0 for value in values)} of {len(values)})"


def verdict(values, sign):
    mean, half = interval(values)
    if len(values) < 3:
        return "too few runs"
    if abs(mean) <= half:
        return "no difference seen"
    return "yes" if mean * sign > 0 else "the opposite"


def differences(pairs, step, key="avg_at_k"):
    """Of a figure after `step` updates, in each pair of records."""
    return [at(ours, step, key) - at(theirs, step, key) for ours, theirs in pairs]


def table(title, heading, rows):
    lines = [f"\n\n### {title}\n", "| " + " | ".join(heading) + " |", "| --- " * len(heading) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


# --------------------------------------------------------------------------------------------------
# Tables of a part

SAME_START = 0.01  # of Avg@8: rounding may turn a token or two, another processor another base
LEVEL = 0.6  # of Avg@8, for the updates that it takes
SHOWN = (0, 20, 40, 60, 80, 100, 120, 160)  # updates
ENDS = ("pass_at_k", "reflection", "transition", "length", "tokens", "reads_right",
        "first_look_right", "look_changes", "look_mends", "right_after_look")  # fmt: skip
OUTSIDE = ("test_long", "test_mix")  # problems unlike those of training, after 160 updates


def pairs_of(part, results, names):
    """[(record, ...)] of the named variants from each base with each seed that is done for all.

    Raises ValueError where such records do not begin with the same evaluation.
    """
    rows = [[results.get(part.run_of(name, base, seed)) for name in names]
            for base in part.bases for seed in part.seeds]  # fmt: skip
    rows = [tuple(row) for row in rows if all(row)]
    for row in rows:
        starts = [record["curve"][0]["avg_at_k"] for record in row]
        if max(starts) - min(starts) > SAME_START:
            raise ValueError(
                f"{part.title}: base {row[0]['base']}, seed {row[0]['seed']} begins at {starts} "
                "before any update: these are bases of two machines; give another --results"
            )
    return rows


def part_tables(part, results):
    done = {name: [row[0] for row in pairs_of(part, results, [name])] for name in part.variants}
    done = {name: records for name, records in done.items() if records}
    if not done:
        return f"\n\n### {part.title}\n\nNothing is done yet."
    steps = sorted({step for step in SHOWN if step <= part.steps} | {part.steps})
    text, heading = "", ["", "runs", *map(str, steps)]
    for key in ("avg_at_k", "pass_at_k", "reflection"):
        rows = [
            [name, str(len(runs)), *(show([at(run, step, key) for run in runs]) for step in steps)]
            for name, runs in done.items()
        ]
        text += table(f"{part.title}: {key} after N updates", heading, rows)
    rows = []
    for name, records in done.items():
        ends = [show([at(record, part.steps, key) for record in records],
                     ",.0f" if key == "tokens" else ".3f") for key in ENDS]  # fmt: skip
        reached = sorted(between(record, "avg_at_k", LEVEL, "step") for record in records)
        outside = [show([record.get(file) for record in records]) for file in OUTSIDE]
        sooner = " ".join("-" if value == inf else f"{value:.0f}" for value in reached)
        rows.append([name, *ends, *outside, sooner])
    heading = ["", *ENDS, *OUTSIDE, f"updates to {LEVEL}"]
    text += table(f"{part.title}: after {part.steps} updates", heading, rows)
    return text + difference_table(part, results, steps[1:])


def difference_table(part, results, steps):
    """The first variant minus each other, pair by pair: same base, same seed. Two tables."""
    (first, *others), rows, apart = part.variants, [], []
    for other in others:
        if not (pairs := pairs_of(part, results, [first, other])):
            continue
        cells = [show_difference(differences(pairs, step)) for step in steps]
        tokens = show_difference([equal_tokens(*pair) for pair in pairs])
        rows.append([f"{first} - {other}, avg_at_k", *cells, tokens])
        # Pairs of one base are neighbours; they are not independent.
        bases = {base: list(own) for base, own in groupby(pairs, lambda pair: pair[0]["base"])}
        cells = [show([statistics.fmean(differences(own, step)) for own in bases.values()], "+.3f")
                 for step in steps]  # fmt: skip
        rows.append(["the same over the means of the bases", *cells, ""])
        cells = [show_difference(differences(pairs, step, "pass_at_k")) for step in steps]
        apart.append([f"{first} - {other}, pass_at_k", *cells])
        for base, own in bases.items():
            cells = [show(differences(own, step), "+.3f") for step in steps]
            apart.append([f"base {base}: {first} - {other}, avg_at_k", *cells])
    heading, title = ["", *map(str, steps)], f"{part.title}: paired differences"
    return (table(f"{title} (positive of all)", [*heading, "at equal tokens"], rows)
            + table(f"{title} of pass@8, and by base", heading, apart))  # fmt: skip


def equal_tokens(ours, theirs):
    """Difference of Avg@8 at the most tokens that both runs fed to the model."""
    budget = min(record["curve"][-1]["tokens"] for record in (ours, theirs))
    return (between(ours, "tokens", budget, "avg_at_k")
            - between(theirs, "tokens", budget, "avg_at_k"))  # fmt: skip


def claims_table(results, alignments):
    """The paper's claims, in each world that has the runs: difference, interval, verdict."""
    rows = []
    for world, end in (("D", 80), ("M", 40), ("old", 80)):
        name = PARTS[world].world
        part = replace(PARTS[world], variants=SIX, steps=end)
        cosines = [line["alignment"]["whole_model"] for line in alignments if line["world"] == name]

        def gain(variant, key, step, part=part):
            return [at(run, step, key) - at(run, 0, key)
                    for run, in pairs_of(part, results, [variant])]  # fmt: skip

        def ahead(variant, other, key, step, part=part):
            return differences(pairs_of(part, results, [variant, other]), step, key)

        stated = (  # claim, the sign that the paper reports, values
            ("1 the cosine of both gradients is above 0", 1, cosines),
            ("2 NSR-PreRL raises Avg@8 in 20 updates", 1, gain("DSRL", "avg_at_k", 20)),
            ("2 PSR-PreRL lowers it in 20", -1, gain("PSR-PreRL", "avg_at_k", 20)),
            ("3 it raises reflection in 20", 1, gain("DSRL", "reflection", 20)),
            ("3 and in 40", 1, gain("NSR-PreRL", "reflection", 40)),
            ("3 and transitions in 40", 1, gain("NSR-PreRL", "transition", 40)),
            ("3 reflection: more than GRPO's in 40", 1,
             ahead("NSR-PreRL", "GRPO", "reflection", 40)),
            (f"4 DSRL is above GRPO after {end}", 1, ahead("DSRL", "GRPO", "avg_at_k", end)),
            ("4 and above its twin", 1, ahead("DSRL", "twin", "avg_at_k", end)),
            (f"5 NSR-PreRL for all {end} is below GRPO", -1,
             ahead("NSR-PreRL", "GRPO", "avg_at_k", end)),
        )
        rows += [[world, claim, show_difference(values), verdict(values, sign)]
                 for claim, sign, values in stated if values]  # fmt: skip
    return table("The claims", ["world", "claim", "difference", "verdict"], rows)


def draw(part, results, path):
    """Avg@8, pass@8, second looks and paired differences over updates: means and 95 % intervals.

    Only bases and seeds that are done for every variant, so that the lines are of the same ones.
    """
    from matplotlib.figure import Figure  # slow to import

    names = list(part.variants)
    if not (rows := pairs_of(part, results, names)):
        return
    figure = Figure(figsize=(9, 6.5), layout="tight")
    panels = {"avg_at_k": "Avg@8", "pass_at_k": "pass@8", "reflection": "second looks a response"}
    *axes, last = figure.subplots(2, 2).flat
    steps = sorted({*range(0, part.steps, 20), part.steps})  # a switch is measured besides

    def line(axis, color, label, values, least, most):
        """`values(step)` are those of all runs."""
        means, halves = zip(*(interval(values(step)) for step in steps), strict=True)
        axis.plot(steps, means, ".-", color=f"C{color}", label=label)
        if len(rows) > 2:
            ends = list(zip(means, halves, strict=True))
            low, high = [max(least, m - h) for m, h in ends], [min(most, m + h) for m, h in ends]
            axis.fill_between(steps, low, high, color=f"C{color}", alpha=0.15, linewidth=0)

    for axis, (key, title) in zip(axes, panels.items(), strict=True):
        for color, name in enumerate(names):
            line(axis, color, name, lambda step, column=color, key=key:
                 [at(row[column], step, key) for row in rows],
                 0, inf if key == "reflection" else 1)  # fmt: skip
        axis.set(title=title, ylim=(0, None))
    for color, name in enumerate(names[1:], 1):
        line(last, color, f"{names[0]} - {name}", lambda step, column=color:
             differences([(row[0], row[column]) for row in rows], step), -1, 1)  # fmt: skip
    last.axhline(0, color="black", linewidth=0.8)
    last.set(title=f"Avg@8: differences in {len(rows)} pairs of runs")
    switch = re.search(r"--prerl-steps (\d+)", part.variants[names[0]])
    for axis in (*axes, last):
        if switch:
            axis.axvline(int(switch[1]), color="gray", linestyle=":", label="the switch to GRPO")
        axis.set(xlabel="updates")
    for axis in (axes[0], last):
        axis.legend(loc="upper left", fontsize=10)
    figure.savefig(path, dpi=110)


def alignment_table(alignments):
    """Cosines by base: whole model, by position, by the probability of a token."""
    rows = []
    for line in alignments:
        found = line["alignment"]
        cells = [("whole model", found["whole_model"])]
        cells += [(f"token {place}", value) for place, value in found["positions"].items()]
        cells += [(name, value["cosine"]) for name, value in found.items() if "P(" in name]
        text = ", ".join(f"{name} {value:.2f}" for name, value in cells if value is not None)
        rows.append([line["world"], str(line["base"]), text])
    return table("cos(grad log P(y), grad log P(y | x)) of the bases", ["world", "base", ""], rows)


def report(parts, path):
    """Print the tables of these parts; keep those of all, and a figure, beside the results.

    The study's own results also renew the tables between marks in README.md and STUDY.md, and their
    figure is always that of world D.
    """
    lines, results = read_results(path), load_results(path)
    alignments = [line for line in lines if "alignment" in line]
    every = {part.title: part for part in (*PARTS.values(), *parts)}
    tables = {title: part_tables(part, results) for title, part in every.items()}
    done = sum("curve" in line for line in lines)
    text = f"Tables of {path.name}, {done} runs; `python study.py --report` writes them."
    text += "".join(tables.values()) + claims_table(results, alignments)
    text += alignment_table(alignments) + "\n"
    path.with_suffix(".md").write_text(text)
    part = parts[0] if parts and path != RESULTS else PARTS["D"]
    draw(part, results, path.with_suffix(".png"))
    if path == RESULTS:
        for document in DOCUMENTS:
            document.write_text(with_tables(document.read_text(), text))
    print("".join(tables[part.title] for part in parts))
    print(f"{path.with_suffix('.md')} has every table, {path.with_suffix('.png')} the curves")


def with_tables(document, text):
    """A document with each table between `<!-- table: TITLE -->` and `<!-- end -->` made anew."""
    tables = dict(section.split("\n\n", 1) for section in text.split("\n### ")[1:])
    return re.sub(r"(<!-- table: (.*?) -->\n).*?(<!-- end -->)",
                  lambda found: found[1] + tables[found[2]].strip() + "\n" + found[3],
                  document, flags=re.DOTALL)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description="When does the pre-train space help?")
    parser.add_argument("--quick", action="store_true", help="a few short runs, in minutes")
    parser.add_argument("--part", choices=[*PARTS, "alignment"], help="this part alone")
    parser.add_argument("--report", action="store_true", help="tables of what is done, no runs")
    parser.add_argument("--results", type=Path, help="file of the runs; those of one machine")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at the same time")
    parser.add_argument("--look", metavar="MODEL", help="into one model, see the header")
    parser.add_argument("--data", default="tiny", help="with --look: problems")
    parser.add_argument("--problem", help="with --look: its text (default: one solved at times)")
    args = parser.parse_args()
    if args.look:
        return look(args.look, args.data, args.problem)
    path = args.results or (Path("out-study/quick.jsonl") if args.quick else RESULTS)
    parts = [QUICK] if args.quick else [PARTS[name] for name in PARTS if args.part in (None, name)]
    if not args.report:
        run_parts(parts, path, args.jobs)
        if not args.quick and args.part in (None, "alignment"):
            align(path)
    report(parts, path)


if __name__ == "__main__":
    sys.exit(report_errors(main, "the same command goes on"))
