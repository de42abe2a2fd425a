"""Do the tests bite? Each mutant is one wrong change of a file; the tests named for it must fail.

tests/mutants.txt is the table: under a line "== file | tests" one mutant a line, "old  =>  new".
A mutant is run on a copy of the project in a temporary folder. Each line printed names the test
that failed (killed), or says SURVIVED; the exit code is 1 if any survived. All of them take about
ten minutes of one free core: pytest does not collect this file, and the CI does not run it.
tests/test_house.py checks that each old text is found exactly once, so that the table cannot rot.

    python tests/mutants.py                       # all
    python tests/mutants.py --only sampler_gap    # those whose file, texts or tests hold the word
"""

import argparse
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

ROOT = Path(__file__).parent.parent
SECONDS = 600  # A mutant that hangs is killed too.


def table():
    """[(file, old text, new text, tests), ...] of mutants.txt."""
    mutants = []
    for line in (ROOT / "tests/mutants.txt").read_text("utf-8").splitlines():
        if line.startswith("== "):
            file, tests = line.removeprefix("== ").split(" | ")
        elif line:
            old, new = line.split("  =>")
            mutants.append((file, old, new.strip(), tests))
    return mutants


def mutate(root, file, old, new):
    """Apply a mutant to the project in `root`. Raises ValueError unless the old text is unique."""
    text = (root / file).read_text("utf-8")
    if text.count(old) != 1:
        raise ValueError(f"{file} has {text.count(old)} times, not once: {old}")
    (root / file).write_text(text.replace(old, new), "utf-8")


def run_tests(root, tests, log):
    """In a process of its own, forked: pytest on the copy; its exit code is the process's."""
    with open(log, "w", buffering=1) as output:
        for number in (1, 2):
            os.dup2(output.fileno(), number)
        sys.stdout = sys.stderr = output
        os.chdir(root)
        sys.path[:] = [path for path in sys.path if path != str(Path(__file__).parent)]
        name, _, words = tests.partition(" -k ")
        options = ["-x", "-q", "-p", "no:cacheprovider", "--tb=line", f"--basetemp={root}/made"]
        arguments = [f"tests/{name}.py", *options, *(["-k", words] if words else [])]
        if words == "triton":  # The interpreter must be chosen before anything imports Triton.
            command = [sys.executable, "-B", "-m", "pytest", *arguments]
            os.execve(command[0], command, os.environ | {"TRITON_INTERPRET": "1"})
        import pytest

        code = pytest.main(arguments)
        output.flush()
        os._exit(int(code))


def verdict(mutant):
    """(what came of it, whether it was killed, seconds)."""
    file, old, new, tests = mutant
    before = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        root, log = Path(folder) / "copy", Path(folder) / "log"
        shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(".*", "__pycache__", "out*"))
        mutate(root, file, old, new)
        fork = multiprocessing.get_context("fork")
        process = fork.Process(target=run_tests, args=(root, tests, log))
        process.start()
        process.join(SECONDS)
        hangs = process.is_alive()
        process.kill()
        process.join()
        output = log.read_text("utf-8", "replace")
    seconds, failed = perf_counter() - before, re.search(r"(?:FAILED|ERROR) (\S+.*)", output)
    if hangs:
        return f"killed: {tests} hangs", True, seconds
    if process.exitcode == 0:
        return "SURVIVED", False, seconds
    if process.exitcode != 1 or not failed:  # No test was found, or pytest itself failed.
        return f"SURVIVED, as {tests} did not run: {output[-500:]}", False, seconds
    return f"killed by {failed[1][:150]}", True, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="a word of the mutant's file, texts or tests")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.dont_write_bytecode = True
    # What takes seconds to import, each fork then has at once.
    import hypothesis, matplotlib.pyplot, pytest, sympy, torch.utils.flop_counter  # noqa: F401
    from transformers import AutoTokenizer, LlamaConfig, Qwen2Config, Qwen2ForCausalLM  # noqa: F401

    chosen = [mutant for mutant in table() if options.only in " ".join(mutant)]
    survived = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        results = zip(chosen, pool.map(verdict, chosen), strict=True)
        for (file, old, new, _), (text, killed, seconds) in results:
            print(f"{file}: {old!r} -> {new!r}\n    {text} ({seconds:.0f} s)", flush=True)
            survived += not killed
    print(f"{len(chosen)} mutants, {survived} survived")
    return survived > 0 or not chosen


if __name__ == "__main__":
    sys.exit(main())
