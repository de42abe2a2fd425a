r"""Benchmarks from the shell: Avg@k, pass@k, majority, thoughts; finished runs side by side.

    python eval.py                                     # a made-up sampler: do the figures agree?
    python eval.py --model Qwen2.5-1.5B --tasks amc23,olympiadbench --k 32
    python eval.py --compare out-eval/a out-eval/b     # side by side, and their pass@k curves
"""

import argparse
import hashlib
import json
import random
import sys
import time
from pathlib import Path

import torch
import transformers

from plumbing.benchmarks import TASKS, load_problems, task_of
from plumbing.checkpoints import best_device, identity_of, load_model
from plumbing.console import report_errors, say
from plumbing.evaluation import avg_at_k, count_thoughts, evaluate, pass_at_k, rounded, summarize
from plumbing.files import NUMBER, append_line, check_record, lock_folder, read_checked, read_json
from plumbing.files import read_lines, write_json, write_lines
from plumbing.grading import answer_in, grade
from plumbing.prompts import check_embeddings, control_tokens_in, describe_template
from plumbing.prompts import encode_prompt, opens_thought
from plumbing.text import printable

__all__ = ["avg_at_k", "count_thoughts", "evaluate", "grade", "load_problems", "pass_at_k"]

MAX_NEW_TOKENS = 8192  # the response limit of the paper's training
ROWS_PER_CALL = 512  # responses sampled together, then saved
PICTURE, COMPARED, MADE_BY = "pass_at_k.png", Path("compare.png"), "eval.py of dsrl"
ROW = {"sample": int, "problem": str, "ground_truth": str, "answer": str | None, "correct": NUMBER,
       "finished": bool, "tokens": int, "reflection": int, "transition": int}  # fmt: skip
SUMMARY = {"problems": int, "k": int, "avg_at_k": NUMBER, "avg_at_k_se": NUMBER, "pass_at_k": dict,
           "sampling": dict, "thoughts": dict}  # what is read of a task's figures  # fmt: skip


def run_task(model, tokenizer, name, problems, args, folder, results):
    """Sample what the folder lacks of a task, chunk by chunk; returns the task's summary."""
    k, most = args.k or task_of(name).k, model.max_positions
    limit = min(args.max_new_tokens or MAX_NEW_TOKENS, most - 1)
    how = {key: getattr(args, key) for key in ("top_p", "top_k", "seed", "template", "strict")}
    # k greedy responses would be one
    temperature = float(k > 1) if args.temperature is None else args.temperature
    how |= {"k": k, "temperature": temperature, "max_new_tokens": limit}
    rooms, thought = [], {"opens_thought": opens_thought(tokenizer, args.template)}
    for problem in problems:
        problem |= thought
        ids = encode_prompt(tokenizer, problem, args.template)
        check_embeddings(tokenizer, problem, ids, model.config.vocab_size)
        rooms.append(most - len(ids))
    if min(rooms) < (args.max_new_tokens or limit):
        say(f"{name}: of the model's {most} positions the prompts leave {max(0, min(rooms))} to "
            f"{max(rooms)} for a response; {sum(room < 1 for room in rooms)} of {len(rooms)} leave "
            "none")  # fmt: skip
    if held := list(filter(None, control_tokens_in(tokenizer, problems))):
        say(f"warning: {len(held)} questions of {name} hold control tokens of the model, "
            f"{' '.join(sorted({*held}))}, which it obeys")  # fmt: skip
    path = folder / "responses.jsonl"
    recorded = read_checked(path, lambda row: ROW)
    write_lines(path, recorded)  # without a last line that a kill cut short
    rows = [row for row in recorded if row.get("task") == name][: k * len(problems)]
    expected = [(one["problem"], one["answer"], i) for one in problems for i in range(k)]
    found = [(row["problem"], row["ground_truth"], row["sample"]) for row in rows]
    if found != expected[: len(rows)]:
        raise ValueError(
            f"{path} holds responses to other problems of {name}, or graded by other answers: give "
            "another --out"
        )
    start, tokens, size = time.perf_counter(), 0, max(1, ROWS_PER_CALL // k)
    for first in range(len(rows) // k, len(problems), size):
        # Draws belong to (seed, number of the problem, sample): a resumed run repeats them.
        new = evaluate(
            model, tokenizer, problems[first : first + size], first_prompt=first,
            progress=f"{name} from {first + 1} of {len(problems)}", **how,
        )  # fmt: skip
        new = new[len(rows) - first * k :]  # of the first problem some may be there
        tokens += sum(row["tokens"] for row in new)
        write_json(folder / "results.json", results)  # the settings of a run that is killed
        for row in new:
            rows.append({"task": name, **row})
            append_line(path, rows[-1])
    summary, seconds = summarize(problems, rows, k), time.perf_counter() - start
    speed = {"seconds": seconds, "tokens_per_second": tokens / seconds} if tokens else {}
    asked = [(one["problem"], one["options"], one["answer"]) for one in problems]
    questions = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    return summary | {"sampling": how, "questions": questions[:12]} | speed


def report(name, summary):
    """Print all figures of a task, rounded, a line each."""
    say(name)
    for key, value in (summary | summary["thoughts"]).items():
        if key != "thoughts":
            say(f"  {key:18} {json.dumps(rounded(value))}")


def read_results(path, remedy="give another --out"):
    """What a run left in its results.json; raises ValueError if that is not there or not whole."""
    results, place = read_json(path), f"{path} is damaged, {remedy}"
    check_record(place, results, {"settings": dict, "tasks": dict})
    check_record(place, results["tasks"], dict.fromkeys(results["tasks"], dict))
    for name, summary in results["tasks"].items():
        check_record(f"{place}: {name}", summary, SUMMARY)
        sizes = summary["pass_at_k"]  # {k: share}
        check_record(f"{place}: {name}", sizes, dict.fromkeys(sizes, NUMBER))
        if not all(size.isdecimal() and len(size) < 9 for size in sizes):
            raise ValueError(f"{place}: {name}: pass_at_k is {sizes}")
        if not all(0 <= share <= 1 for share in (summary["avg_at_k"], *sizes.values())):
            raise ValueError(f"{place}: {name}: a share is not in [0, 1]")
    return {name: results[name] for name in ("settings", "tasks", "model") if name in results}


def drawn(text):
    """A text as matplotlib shows it: between two dollars it would read a formula."""
    return printable(str(text)).replace("$", r"\$")


def compare(folders, picture):
    """Print the Avg@k of finished runs side by side and draw their pass@k curves."""
    from matplotlib.figure import Figure  # slow to import

    runs_of = {}  # task -> {folder: summary}
    for folder in folders:
        if Path(folder).is_file():  # of --compare *
            say(f"{folder} is no folder, and is left out")
            continue
        file, trained = Path(folder, "results.json"), ("metrics.jsonl", "trainer.json")
        if not file.exists() and any(Path(folder, name).exists() for name in trained):
            advice = "give what eval.py --model CHECKPOINT --tasks ... --out NEW makes of it"
            raise ValueError(f"--compare {folder}: that is of a training run; {advice}")
        finished = read_results(file, "make it anew")["tasks"]
        begun = {row.get("task"): None for row in read_lines(Path(folder, "responses.jsonl"))}
        unfinished = [task for task in begun if task not in finished]
        for task in unfinished:
            say(f"{folder}: {task} is not finished, and left out")
        if not finished and not unfinished:
            say(f"{folder}: no task is finished, and it is left out")
        for task, summary in finished.items():
            runs_of.setdefault(task, {})[folder] = summary
    if not runs_of:
        raise ValueError(f"{', '.join(folders)}: no task of these runs is finished")
    compared = [one for one in folders if any(one in runs for runs in runs_of.values())]
    figure = Figure(figsize=(4 * len(runs_of), 3.5), layout="tight")
    axes = figure.subplots(1, len(runs_of), squeeze=False)[0]
    for axis, (task, runs) in zip(axes, runs_of.items(), strict=True):
        for folder, summary in runs.items():
            error = f"+- {summary['avg_at_k_se']:.4f} over {summary['problems']} problems"
            say(f"{task}: Avg@{summary['k']} {summary['avg_at_k']:.4f} {error}  {folder}")
            sizes, values = list(map(int, summary["pass_at_k"])), summary["pass_at_k"].values()
            axis.plot(sizes, list(values), marker="o", label=drawn(folder))
        if without := [name for name in compared if name not in runs]:
            say(f"{task}: not in {', '.join(without)}")
        named = ("problems", "questions")
        settings = [one["sampling"] | {name: one.get(name) for name in named}
                    for one in runs.values()]  # fmt: skip
        for key in dict.fromkeys(key for one in settings for key in one):
            values = [str(one.get(key)) for one in settings]
            if len(set(values)) > 1:
                say(f"{task}: not alike: {key} is {', '.join(values)}")
        axis.set(title=drawn(task), xlabel="k", ylabel="pass@k", ylim=(0, 1))
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.legend(fontsize="small")
    figure.savefig(picture, metadata={"Software": MADE_BY})
    say(f"wrote {picture}")


def demo():
    """A made-up sampler, right with probability 0.3: Avg@8 and pass@8 come out as they must."""
    draw, problem = random.Random(0), {"problem": "9 + 9", "answer": "18", "kind": "math"}
    texts = [f"Wait.\n\n\\boxed{{{19 - (draw.random() < 0.3)}}}" for _ in range(3200)]
    rows = [{"answer": answer_in(problem, text), "correct": grade(problem, text),
             "finished": True, "tokens": 9, **count_thoughts(text)} for text in texts]  # fmt: skip
    summary = summarize([problem] * 400, rows, 8)
    report("sums, right with probability 0.3", summary)
    assert abs(summary["avg_at_k"] - 0.3) < 0.03, summary["avg_at_k"]
    assert abs(summary["pass_at_k"][8] - (1 - 0.7**8)) < 0.03, summary["pass_at_k"]


def parse_args(argv):
    """The flags; what is None has a default that depends on the task or the model."""
    parser = argparse.ArgumentParser(description="Benchmarks. No arguments: a demo.")
    add, known = parser.add_argument, f"{', '.join(TASKS)}, bbh/TASK, tiny, a file, a hub data set"
    add("--model", default="tiny", help="tiny (default), a folder, a short name or a hub id")
    add("--tasks", help=f"comma-separated: {known}")
    add("--data", action="append", default=[], metavar="TASK=FILE", help="your copy of a task")
    add("--k", type=int, help="responses per problem (default: the task's)")
    add("--limit", type=int, help="problems, the first so many (default: all)")
    add("--max-new-tokens", type=int, help=f"default {MAX_NEW_TOKENS}, or the model's room")
    add("--temperature", type=float, help="default 0 (greedy) for one response, else 1")
    add("--top-p", type=float, default=1.0, help="1 (default) is off")
    add("--top-k", type=int, default=0, help="0 (default) is off")
    add("--seed", type=int, default=0, help="default 0")
    add("--template", choices=("chat", "base"), default="chat", help="base: plain text")
    add("--strict", action="store_true", help="as the method's authors: a box, compared as text")
    add("--out", default="out-eval", help="folder of the results; if it exists, the run goes on")
    add("--compare", nargs="+", metavar="FOLDER", help="finished runs side by side")
    return parser.parse_args(argv)


def run(args):
    """Evaluate the tasks one by one; results.json is whole after each."""
    counts = {"--k": args.k, "--limit": args.limit, "--max-new-tokens": args.max_new_tokens}
    for flag, value in counts.items():
        if value is not None and not 1 <= value <= 10**9:
            raise ValueError(f"{flag} {value}: must be at least 1, at most 10^9")
    if not args.tasks:
        raise ValueError("nothing to do: give --tasks or --compare, or --help")
    tasks = [name.strip() for name in args.tasks.split(",")]
    data = dict(item.partition("=")[::2] for item in args.data)
    for name, file in data.items():
        if not file or name not in tasks:
            raise ValueError(f"--data {name}: must read TASK=FILE, TASK of --tasks {args.tasks}")
    problems = {name: load_problems(data.get(name, name), None, args.limit, name, keep_rows=False)
                for name in tasks}  # fmt: skip
    with lock_folder(args.out, ("results.json", "responses.jsonl")) as folder:
        evaluate_tasks(args, problems, folder)


def evaluate_tasks(args, problems, folder):
    """Sample and record them in a folder that is ours; a run that was killed goes on."""
    free = ("tasks", "data", "limit", "out", "compare")  # may differ in a run that goes on
    settings = {key: value for key, value in vars(args).items() if key not in free}
    path = folder / "results.json"
    results = read_results(path) if path.exists() else {"settings": settings, "tasks": {}}
    # A new run holds the very settings, of which a temperature of NaN does not equal itself.
    for key, value in settings.items():
        if (old := results["settings"].get(key)) is not value and old != value:
            raise ValueError(f"{folder} was made with {key} {old}, not {value}: give another --out")
    for name in ("metrics.jsonl", "trainer.json", "model.safetensors"):
        if (folder / name).exists():
            raise ValueError(f"{folder} is of a run or a model, with {name}: give another --out")
    others = () if path.exists() else (folder / "responses.jsonl", folder / PICTURE)
    for file in others:
        if file.exists() and file.stat().st_size:
            raise ValueError(f"{folder} has {file.name} and no results.json: give another --out")
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    results["versions"] = {"python": sys.version.split()[0], **versions}
    print("settings:", json.dumps(settings | results["versions"]))
    model, tokenizer = load_model(args.model, **best_device())
    model_files = identity_of(args.model)
    if results.setdefault("model", model_files) != model_files:
        raise ValueError(f"{folder} was made with other files of {args.model}: give another --out")
    if args.template == "chat" and (description := describe_template(tokenizer)):
        say(description)
    for name in problems:
        made = run_task(model, tokenizer, name, problems[name], args, folder, results)
        before = results["tasks"].get(name, {})
        if before.get("problems", 0) > made["problems"]:
            say(f"{name}: {before['problems']} problems before, now the first {made['problems']}")
        results["tasks"][name] = before | made
        write_json(path, results)
        report(name, results["tasks"][name])
    compare([str(folder)], folder / PICTURE)


def main(argv=None):
    """Exit status: 0, or 2 after a mistake of the user, told in one line."""
    argv = sys.argv[1:] if argv is None else argv

    def start():
        args = parse_args(argv)
        if not argv:
            demo()
        elif args.compare:
            if COMPARED.exists() and MADE_BY.encode() not in COMPARED.read_bytes()[:4096]:
                raise ValueError(f"{COMPARED} is not of this script: move it, or go elsewhere")
            compare(args.compare, COMPARED)
        else:
            run(args)

    return report_errors(start, "the same command goes on", "lower --max-new-tokens")


if __name__ == "__main__":
    sys.exit(main())
