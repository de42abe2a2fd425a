"""The study: the paper's claims in the tiny world, all variants, several seeds; STUDY.md tells it.

    python study.py            # nine variants, five seeds each, about an hour
    python study.py --quick    # the same in minutes, to try it
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from pathlib import Path

from tqdm import tqdm

from eval import encode_prompt, load_problems, read_lines
from model import load_model
from prerl import gradient_alignment, start_token_of
from rollout import generate
from tiny import World, build

STEPS, WARM_UP = 80, 20  # updates of a run; those after which the pre-train space is judged
RUNS = {  # name in the tables: flags of dsrl.py
    "GRPO": "--variant grpo", "NSR-RL": "--variant nsr-rl", "PSR-RL": "--variant psr-rl",
    "PreRL": "--variant prerl", "NSR-PreRL": "--variant nsr-prerl",
    "PSR-PreRL": "--variant psr-prerl", "DSRL-5": "--prerl-steps 5",
    "DSRL-10": "--prerl-steps 10", "DSRL-20": "--prerl-steps 20",
}  # fmt: skip
WORLDS = {  # one property of the world changed at a time
    "as it is": {},
    "a second look slips as often as a first": {"care": 1.0},
    "no document without its question": {"unprompted": 0.0},
    "most documents without their question": {"unprompted": 0.7},
    "no hard facts": {"hard_share": 0.0, "easy_slip": 0.28},
    "few slips": {"hard_share": 0.05, "easy_slip": 0.12},
}
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # Student's t, 1, 2, ...


def sample_test(folder, model, tokenizer, limit=None, seed=0):
    """(problems of test.jsonl, a Rollout of 8 responses to each)."""
    problems = load_problems(f"{folder}/test.jsonl", limit=limit)
    prompts = [encode_prompt(tokenizer, problem) for problem in problems]
    options = dict(group_size=8, max_new_tokens=128, eos_ids=model.eos_ids, seed=seed)
    return problems, generate(model, prompts, progress="sampling", **options)


def train_and_evaluate(job):
    """One run of dsrl.py, and its Avg@8 on the files of `outside`; kept as study.json in `out`."""
    out, base, seed, steps, flags, outside = job
    if (out / "study.json").is_file():
        return json.loads((out / "study.json").read_text())
    shutil.rmtree(out, ignore_errors=True)  # what a stopped study left half done
    train = ["dsrl.py", "--preset", "tiny", "--model", base, *flags.split(), "--out", out]
    train += ["--data", f"{base}/train.jsonl", "--eval-data", f"{base}/test.jsonl"]
    train += ["--steps", steps, "--seed", seed, "--eval-every", 20, "--save-every", steps]
    tasks = ",".join(f"{base}/{name}.jsonl" for name in outside)
    test = ["eval.py", "--model", out / f"checkpoint-{steps}", "--tasks", tasks, "--limit", 128]
    test += ["--k", 8, "--temperature", 1, "--max-new-tokens", 128, "--out", out / "outside"]
    for command in (train, test) if outside else (train,):
        words = [sys.executable, *map(str, command)]
        how = dict(capture_output=True, text=True, cwd=Path(__file__).parent)
        ended = subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, **how)
        if ended.returncode:
            raise RuntimeError(f"{' '.join(words)} failed:\n{ended.stderr[-2000:]}")
    result = read_run(out)
    (out / "study.json").write_text(json.dumps(result))
    shutil.rmtree(out / f"checkpoint-{steps}")
    return result


def read_run(out):
    """What the tables need of one run: evaluations, what was spent before each, Avg@8 outside."""
    lines = read_lines(out / "metrics.jsonl")
    updates = [line for line in lines if "reward" in line]
    parts = ("seconds_sample", "seconds_grade", "seconds_update")
    tokens = list(accumulate((line["tokens_forward"] for line in updates), initial=0))
    seconds = list(accumulate((sum(line[part] for part in parts) for line in updates), initial=0.0))
    curve = [{**line, "tokens": tokens[line["step"]], "seconds": seconds[line["step"]]}
             for line in lines if "avg_at_k" in line]  # fmt: skip
    results = out / "outside" / "results.json"
    tasks = json.loads(results.read_text())["tasks"] if results.is_file() else {}
    outside = {Path(task).stem: summary["avg_at_k"] for task, summary in tasks.items()}
    return {"curve": curve, "outside": outside}


def at(run, step, key):
    """A figure of the evaluation after `step` updates."""
    return next(record[key] for record in run["curve"] if record["step"] == step)


def at_budget(run, kind, budget):
    """Avg@8 where the run had spent `budget` tokens or seconds, between its evaluations."""
    for before, after in pairwise(run["curve"]):
        if before[kind] <= budget < after[kind]:
            share = (budget - before[kind]) / (after[kind] - before[kind])
            return before["avg_at_k"] + share * (after["avg_at_k"] - before["avg_at_k"])
    return run["curve"][-1]["avg_at_k"]


def interval(values):
    """(mean, half width) of the 95 % confidence interval over seeds."""
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return mean, float("nan")
    return mean, T_95[count - 2] * statistics.stdev(values) / count**0.5


def show_interval(values, form=".3f"):
    mean, half = interval(values)
    return f"{mean:{form}} ± {half:.3f}"


def table(title, heading, rows):
    lines = [f"\n### {title}\n", "| " + " | ".join(heading) + " |", "| --- " * len(heading) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def study_variants(run_jobs, folder, seeds, steps):
    """All variants from one base. Returns the tables as text and the runs for the figure."""
    base, files = build(quiet=True), ("test_long", "test_mix")
    names = [(name, seed) for name in RUNS for seed in range(seeds)]
    done = run_jobs([(folder / f"{name}-{seed}", base, seed, steps, RUNS[name], files)
                     for name, seed in names])  # fmt: skip
    runs = {name: done[i * seeds : (i + 1) * seeds] for i, name in enumerate(RUNS)}
    budgets = {kind: min(run["curve"][-1][kind] for run in done) for kind in ("tokens", "seconds")}
    keys = ("avg_at_k", "pass_at_k", "reflection", "transition", "length")
    start = ([at(run, 0, key) for run in done[:seeds]] for key in keys)
    rows = [["base", *map(show_interval, start), *[""] * 4]]
    for name, group in runs.items():
        figures = [[at(run, steps, key) for run in group] for key in keys]
        figures += [[run["outside"][file] for run in group] for file in files]
        figures += [[at_budget(run, kind, budgets[kind]) for run in group] for kind in budgets]
        rows.append([name, *map(show_interval, figures)])
    title = f"After {steps} updates, mean and 95 % interval over {seeds} seeds"
    text = table(title, ["", *keys, *files, *(f"at equal {kind}" for kind in budgets)], rows)
    text += f"\n\nEqual tokens: {budgets['tokens']:,.0f} fed to the model in training; "
    text += f"equal wall time: {budgets['seconds']:.0f} s: the most that every run reached."
    return text + claims(runs, steps, alignment(base, seeds)), runs


def alignment(base, seeds):
    """cos(grad log P(y), grad log P(y | x)) of the base, on 16 test problems x 8 for each seed."""
    model, tokenizer = load_model(base)
    start_token = start_token_of(tokenizer, model.config.vocab_size)
    rollouts = (sample_test(base, model, tokenizer, 16, seed)[1] for seed in range(seeds))
    return [gradient_alignment(model, rollout, start_token)["whole_model"] for rollout in rollouts]


def claims(runs, steps, cosines):
    """The paper's claims as differences with intervals, and a verdict on each."""
    early = min(WARM_UP, steps)

    def gain(name, key):  # since the start, seed by seed
        return [at(run, early, key) - at(run, 0, key) for run in runs[name]]

    def ahead(name, other, file=None):  # of the other at the end, seed by seed
        def end(run):
            return run["outside"][file] if file else at(run, steps, "avg_at_k")

        pairs = zip(runs[name], runs[other], strict=True)
        return [end(run) - end(reference) for run, reference in pairs]

    reflection = zip(gain("NSR-PreRL", "reflection"), gain("GRPO", "reflection"), strict=True)
    more = [ours - theirs for ours, theirs in reflection]
    stated = [  # claim, the sign that the paper reports, values by seed
        ("1 the cosine of both gradients is above 0", 1, cosines),
        (f"2 NSR-PreRL raises Avg@8 in {early} updates", 1, gain("NSR-PreRL", "avg_at_k")),
        (f"2 PSR-PreRL lowers it in {early} updates", -1, gain("PSR-PreRL", "avg_at_k")),
        (f"3 NSR-PreRL raises reflection in {early} updates", 1, gain("NSR-PreRL", "reflection")),
        (f"3 and transitions in {early} updates", 1, gain("NSR-PreRL", "transition")),
        ("3 more reflection than GRPO's by then", 1, more),
        ("4 DSRL-10 ends above GRPO", 1, ahead("DSRL-10", "GRPO")),
        ("4 on longer chains too", 1, ahead("DSRL-10", "GRPO", "test_long")),
        ("4 with other operators too", 1, ahead("DSRL-10", "GRPO", "test_mix")),
        ("5 NSR-PreRL for all updates ends below GRPO", -1, ahead("NSR-PreRL", "GRPO")),
        ("5 DSRL-20 ends below DSRL-10", -1, ahead("DSRL-20", "DSRL-10")),
    ]
    rows = [[claim, show_interval(values, "+.3f"), verdict(values, sign)]
            for claim, sign, values in stated]  # fmt: skip
    return "\n" + table("The claims", ["claim", "difference", "verdict"], rows)


def verdict(values, sign):
    mean, half = interval(values)
    if not abs(mean) > half:  # NaN, one seed, too
        return "not reproduced: no difference seen"
    return "reproduced" if mean * sign > 0 else "opposite"


def study_worlds(run_jobs, folder, seeds, steps):
    """What decides? Change of Avg@8 and reflection in short runs, one property at a time."""
    names, rows = ("NSR-PreRL", "NSR-RL", "GRPO"), []
    for place, (title, changes) in enumerate(WORLDS.items()):
        base = build(quiet=True, world=World(**changes))
        done = run_jobs([(folder / f"world{place}-{name}-{seed}", base, seed, steps, RUNS[name], ())
                         for name in names for seed in range(seeds)])  # fmt: skip
        for key in ("avg_at_k", "reflection"):
            gains = [at(run, steps, key) - at(run, 0, key) for run in done]
            cells = [gains[i * seeds : (i + 1) * seeds] for i in range(len(names))]
            shown = [show_interval(cell, "+.3f") for cell in cells]
            rows.append([title, key, f"{at(done[0], 0, key):.3f}", *shown])
    heading = ["world", "figure", "base", *names]
    return "\n" + table(f"One property at a time: change in {steps} updates", heading, rows)


def draw_study(runs, path):
    """Avg@8 and reflection over updates, mean and interval over seeds."""
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(15, 4.5))
    axes = figure.subplots(1, 3)
    panels = (("avg_at_k", "Avg@8"), ("reflection", "reflection per response"),
              ("length", "response tokens"))  # fmt: skip
    for color, (name, group) in enumerate(runs.items()):
        steps = sorted(set.intersection(*({r["step"] for r in run["curve"]} for run in group)))
        for axis, (key, label) in zip(axes, panels, strict=True):
            ends = [interval([at(run, step, key) for run in group]) for step in steps]
            axis.plot(steps, [mean for mean, _ in ends], ".-", color=f"C{color}", label=name)
            low, high = zip(*((mean - half, mean + half) for mean, half in ends), strict=True)
            axis.fill_between(steps, low, high, color=f"C{color}", alpha=0.12)
            axis.set(xlabel="updates", ylabel=label)
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def study(folder, quick):
    """Run what is not done yet, two tables and a figure in `folder`; stopped, it goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds, few, steps, short = (2, 1, 8, 4) if quick else (5, 3, STEPS, WARM_UP)

    def run_jobs(jobs):
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(tqdm(pool.map(train_and_evaluate, jobs), total=len(jobs), desc="runs"))

    text, runs = study_variants(run_jobs, folder, seeds, steps)
    draw_study(runs, folder / "study.png")
    (folder / "study.md").write_text(text + "\n")
    text += study_worlds(run_jobs, folder, few, short)
    (folder / "study.md").write_text(text + "\n")
    print(f"{text}\n\n{folder}/: study.md, study.png and the runs")


def main():
    parser = argparse.ArgumentParser(description="The paper's claims over seeds: tables, a figure.")
    parser.add_argument("--quick", action="store_true", help="in minutes, to try it")
    parser.add_argument("--out", type=Path, default=Path("out-study"), help="folder of the study")
    args = parser.parse_args()
    study(args.out, args.quick)


if __name__ == "__main__":
    main()
