"""What the GPU scripts share: checks that cannot end one another, a line of JSON each.

gpu_correct.py, gpu_run.py and gpu_bench.py are for one command of ten minutes each on a machine
with a GPU and no network. On CUDA each check has a process of its own, as an error of a kernel is
the end of a process. Without a GPU `--device cpu --quick` runs their code on tiny sizes.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from bench_logprob import DEVICE, about_this_machine

RESULT = "result of the check: "  # begins the line in which a process of its own reports


class Skip(Exception):
    """Why a check cannot be made here."""


class Found:
    """What a check, a function of (args, found), found: figures, and the most that some may be."""

    def __init__(self):
        self.figures, self.bounds = {}, {}

    def add(self, name, figure, most=None):
        self.figures[name] = figure
        if most is not None:
            self.bounds[name] = most

    def result(self):
        """As a record. NaN is above every bound."""
        beyond = [name for name, most in self.bounds.items() if not self.figures[name] <= most]
        status = {"status": "failed", "beyond": beyond} if beyond else {"status": "ok"}
        return status | {"figures": self.figures, "bounds": self.bounds}


def run_checks(script, about, checks, argv=None):
    """Make the checks, each a line of JSON in --out as soon as it is done. 1 if one failed."""
    checks = {check.__name__: check for check in checks}
    args = parse_args(script, about, checks, argv)
    args.work.mkdir(parents=True, exist_ok=True)
    if args.inside:
        print(RESULT + json.dumps(attempt(checks[args.only[0]], args)))
        return 0
    machine = {"python": platform.python_version(), "cuda": torch.version.cuda, "device": DEVICE}
    machine |= about_this_machine() | {"date": str(date.today()), "quick": args.quick}
    start, failed = time.monotonic(), 0
    for name in args.only or checks:
        began = time.monotonic()
        left = 60 * args.minutes - (began - start)
        if left <= 0:
            result = {"status": "skipped", "reason": f"the {args.minutes:g} minutes are over"}
        elif DEVICE == "cuda":
            result = in_its_own_process(script, name, args, left)
        else:
            result = attempt(checks[name], args)
        failed += result["status"] == "failed"
        line = {"check": name, "took": round(time.monotonic() - began, 1), **result}  # seconds
        with args.out.open("a") as file:
            file.write(json.dumps(line | machine) + "\n")
        print(json.dumps(line), flush=True)
    return int(failed > 0)


def parse_args(script, about, checks, argv):
    show = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=about.split("\n")[0], formatter_class=show)
    work = Path(tempfile.gettempdir()) / "dsrl-gpu"
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to test this script")
    parser.add_argument("--minutes", type=float, default=9, help="what is not done then is stopped")
    names = ", ".join(checks)
    parser.add_argument("--only", nargs="+", choices=checks, metavar="CHECK", help=names)
    parser.add_argument("--work", type=Path, default=work, help="folder of random models and runs")
    parser.add_argument("--out", type=Path, help="file of the lines (default: in --work)")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.device != DEVICE:
        hide = "hide a GPU with CUDA_VISIBLE_DEVICES="
        parser.error(f"--device {args.device}: torch computes on {DEVICE} here; {hide}")
    args.out = args.out or args.work / f"{Path(script).stem}.jsonl"
    return args


def attempt(check, args):
    found = Found()
    try:
        check(args, found)
    except Skip as reason:
        return {"status": "skipped", "reason": str(reason), "figures": found.figures}
    except BaseException:  # a check that exits the process failed too
        reason = traceback.format_exc()[-3000:]
        return {"status": "failed", "reason": reason, "figures": found.figures}
    return found.result()


def in_its_own_process(script, name, args, left):
    words = ["--inside", "--only", name, "--device", args.device, "--work", str(args.work)]
    command = [sys.executable, str(script), *words, *(["--quick"] if args.quick else [])]
    try:
        ended = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=left
        )
    except subprocess.TimeoutExpired:
        return {"status": "failed", "reason": f"it was stopped after {left:.0f} s"}
    lines = [line for line in ended.stdout.split("\n") if line.startswith(RESULT)]
    if lines:
        return json.loads(lines[-1].removeprefix(RESULT))
    reason = f"its process ended with {ended.returncode}: {ended.stdout[-3000:]}"
    return {"status": "failed", "reason": reason}
