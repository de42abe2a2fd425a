"""The study: when does the pre-train space help? Runs of dsrl.py over worlds, bases and seeds.

    python study.py                  # what is not done yet, then every table: hours, resumable
    python study.py --quick          # a few short runs from one base, in minutes
    python study.py --part D         # one part alone
    python study.py --report         # tables and figure of what is done, nothing is run

Each run is one line of tests/results/study.jsonl: what it was, and its evaluations. STUDY.md is
written from these tables. The part "grid" chooses on a base and seeds that no other part has.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from math import inf
from pathlib import Path

from tqdm import tqdm

from plumbing.records import read_lines
from tiny import NAMED_WORLDS, build

ROOT = Path(__file__).parent
RESULTS = ROOT / "tests/results/study.jsonl"
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
        return [self.run_of(name, base, seed)
                for seed in self.seeds for base in self.bases for name in self.variants]  # fmt: skip


GRPO, DSRL, TWIN = "--variant grpo", "--prerl-steps 20", "--variant twin --prerl-steps 20"
THREE = {"DSRL": DSRL, "GRPO": GRPO, "twin": TWIN}
CLAIMS = THREE | {f"{sign}-{space}": f"--variant {sign}-{space}".lower()
                  for sign, space in (("NSR", "PreRL"), ("PSR", "PreRL"), ("NSR", "RL"))}  # fmt: skip
FEW = {name: flags + " --prompts-per-step 8" for name, flags in THREE.items()}
RATES = ("2e-4", "4e-4", "8e-4")
GRID = {f"GRPO, lr {rate}": f"{GRPO} --lr {rate}" for rate in RATES} | {
    f"{name}, {count} of warm-up, lr {rate}": f"{flags} --prerl-steps {count} --lr {rate}".strip()
    for name, flags in (("DSRL", ""), ("twin", "--variant twin"))
    for count in (10, 20) for rate in RATES
}  # fmt: skip
CONTROLS = {
    "DSRL": DSRL, "prompt shuffled": f"{DSRL}|shuffled", "PreRL, then GRPO":
    "--variant prerl-grpo --prerl-steps 20", "twin": TWIN, "GRPO": GRPO,
    "DSRL, coefficient 1": f"{DSRL} --prerl-coef 1", "DSRL, moments reset": f"{DSRL}|reset",
    "twin, moments reset": f"{TWIN}|reset",
}  # fmt: skip
OTHERS = {name: f"--variant {name}".lower()
          for name in ("PreRL", "NSR-PreRL", "PSR-PreRL", "NSR-RL", "PSR-RL", "joint")}  # fmt: skip
ONE_BASE = {"bases": (0,), "seeds": (0, 1, 2, 3, 4)}
PARTS = {  # the most important first
    "D": Part("World D: DSRL, GRPO and the twin", THREE),
    "M": Part("World M: the six that the claims hang on", CLAIMS, "tiny-m", **ONE_BASE, steps=80),
    "few": Part("World D with 64 responses an update", FEW),
    "grid": Part("Learning rates and warm-ups, chosen here", GRID, bases=(9,), seeds=(90, 91)),
    "controls": Part("World D: is it the space?", CONTROLS, steps=80),
    "D98": Part("World D where 2 % of first looks at a hard fact are right", THREE, "tiny-d98",
                seeds=(0, 1)),
    "others": Part("World D: the other variants", OTHERS, steps=80),
    "old": Part("The old world: the same six", CLAIMS, "tiny-old", **ONE_BASE, steps=80),
    "H": Part("World H: first looks can be learned", THREE, "tiny-h", seeds=(0, 1), steps=80),
    **{world: Part(f"World D, but: {world}", THREE, world, seeds=(0,), steps=80)
       for world in WORLDS if world not in NAMED_WORLDS},
}  # fmt: skip
QUICK = Part("A first look", THREE, bases=(0,), seeds=(0, 1), steps=100)
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201)  # 1, 2, ...


# --------------------------------------------------------------------------------------------------
# Running

BUILDING, WRITING = threading.Lock(), threading.Lock()
KEPT = (
    "step", "avg_at_k", "pass_at_k", "reflection", "transition", "length", "cut", "reads_right",
    "first_look_right", "look_changes", "look_mends", "right_after_look", "looks_again",
)  # fmt: skip


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
            tasks = [f"{base}/{name}.jsonl" for name in ("test_long", "test_mix")]
            command("eval.py", "--model", out / f"checkpoint-{run.steps}", "--tasks",
                    ",".join(tasks), "--limit", 128, "--k", 8, "--temperature", 1,
                    "--max-new-tokens", 256, "--out", out / "outside")  # fmt: skip
            found = json.loads((out / "outside/results.json").read_text())["tasks"]
            record |= {Path(task).stem: rounded(found[task]["avg_at_k"]) for task in found}
        return record


def command(*words):
    words = [sys.executable, *map(str, words)]
    how = {"capture_output": True, "text": True, "cwd": ROOT}
    ended = subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, **how)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(words)} failed:\n{ended.stderr[-2000:]}")


def rounded(value):
    return round(value, 4) if isinstance(value, float) else value


def curve_of(out):
    """Every evaluation of a run, with the tokens fed to the model in training before it."""
    lines, tokens, curve = read_lines(out / "metrics.jsonl"), 0, []
    for line in lines:
        if "avg_at_k" in line:
            kept = {name: rounded(line[name]) for name in KEPT if line.get(name) is not None}
            curve.append(kept | {"tokens": round(tokens)})
        else:
            tokens += line["tokens_forward"]
    commit = json.loads((out / "config.json").read_text())["commit"]
    return {"commit": commit, "curve": curve}


def key_of(record):
    return Run(**{item.name: record[item.name] for item in fields(Run)})


def load_results(path):
    """{run: record}; a run of 160 updates answers for the same one of 80."""
    results = {}
    for record in sorted(read_lines(path), key=lambda record: record["steps"]):
        run = key_of(record)
        for steps in (40, 80, 100, 160):
            if steps <= run.steps:
                results[replace(run, steps=steps)] = record
    return results


def run_parts(parts, path, jobs):
    """Train what the results lack, in the order of the parts; each run is kept as soon as done."""
    done = load_results(path)
    runs = dict.fromkeys(run for part in parts for run in part.runs())  # each once, in order
    missing = [run for run in runs if run not in done]
    with ThreadPoolExecutor(jobs) as pool:

        def train_and_keep(run):
            record = train(run)
            with WRITING, path.open("a") as file:
                file.write(json.dumps(record) + "\n")

        list(tqdm(pool.map(train_and_keep, missing), total=len(missing), desc="runs"))


def main():
    parser = argparse.ArgumentParser(description="When does the pre-train space help?")
    parser.add_argument("--quick", action="store_true", help="a few short runs, in minutes")
    parser.add_argument("--part", choices=PARTS, help="this part alone (default: all)")
    parser.add_argument("--report", action="store_true", help="tables of what is done, no runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the runs")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at the same time")
    args = parser.parse_args()
    parts = [QUICK] if args.quick else [PARTS[args.part]] if args.part else list(PARTS.values())
    if not args.report:
        run_parts(parts, args.results, args.jobs)


if __name__ == "__main__":
    main()
