r"""Problems and benchmarks: load, prompt, sample, grade, and the numbers that papers report.

A problem is a dict: `problem` (text), `answer` (text), `kind`, `index`, and what its kind needs. Per problem, k
responses are sampled and graded 1 or 0; n problems, c right of k, give

    avg@k      mean of all grades, with the standard error over problems   std(problem means) / sqrt(n)
    pass@j     1 - C(k - c, j) / C(k, j), unbiased for j <= k              (Chen et al., arXiv 2107.03374)
    majority@k the grade of the answer that most responses give, equal answers counted as one; first seen wins a tie
    thoughts   reflections and transitions by the keyword rule of SEAL     (arXiv 2504.07986)

| kind               | the answer is                                         | right when                                   |
| math, tiny         | the last box, else after `####` or "answer is"        | equal by `reward.equal`                      |
| olympiad           | the same                                              | equal, or within the problem's own `error`   |
| minerva            | the same                                              | numbers within 1 %, all else `reward.equal`  |
| choice             | "answer is (X)", "Answer: X", box, last lone letter   | that letter; no letter is wrong, not a guess |
| bbh                | after the last "answer is", to the end of its sentence | the same text, see `same_text`              |

Shapes: n problems, k samples of each.

    python eval.py --model Qwen2.5-1.5B --tasks amc23,olympiadbench --k 32
"""

import argparse
import csv
import io
import json
import math
import platform
import random
import re
import statistics
import sys
import time
import urllib.request
import zipfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from model import load_model, resolve_model
from reward import equal, extract_answer
from rollout import generate


# ---------------------------------------------------------------------------------------------------------------------
# The benchmarks


@dataclass(frozen=True)
class Task:
    """One benchmark: where it is, how it is graded, how it is sampled unless flags say otherwise."""

    kind: str  # row of the table above
    repo: str  # data set on the Hugging Face hub
    files: str  # its data files; `{split}` is filled in
    licence: str
    k: int = 1
    temperature: float = 0.0  # 0 is greedy
    max_new_tokens: int = 1024
    split: str = "test"


AVG_32 = {"k": 32, "temperature": 1.0, "max_new_tokens": 8192}  # the paper's Avg@32 sets; length limit of its training
LONG = {"max_new_tokens": 4096}
# Hub ids, file names and columns below were read from the data sets' documentation and have not been tried against
# the hub. Parquet files are those that the hub itself converts every public data set to: config/split/*.parquet.
TASKS = {
    "gsm8k": Task("math", "openai/gsm8k", "main/{split}/*.parquet", "MIT"),
    "math": Task("math", "DigitalLearningGmbH/MATH-lighteval", "default/{split}/*.parquet", "MIT", **LONG),
    "math500": Task("math", "HuggingFaceH4/MATH-500", "default/{split}/*.parquet", "MIT", **LONG),
    "aime24": Task("math", "math-ai/aime24", "default/{split}/*.parquet", "none stated", **AVG_32),
    "aime25": Task("math", "math-ai/aime25", "default/{split}/*.parquet", "none stated", **AVG_32),
    "amc23": Task("math", "math-ai/amc23", "default/{split}/*.parquet", "none stated", **AVG_32),
    "olympiadbench": Task("olympiad", "Hothan/OlympiadBench", "OE_TO_maths_en_COMP/{split}/*.parquet", "Apache-2.0",
                          **AVG_32, split="train"),
    "minerva": Task("minerva", "math-ai/minervamath", "default/{split}/*.parquet", "none stated", **AVG_32),
    "mmlu_pro": Task("choice", "TIGER-Lab/MMLU-Pro", "default/{split}/*.parquet", "MIT", **LONG),
    "gpqa": Task("choice", "Idavidrein/gpqa", "gpqa_diamond.csv", "CC-BY-4.0, gated", **LONG),
    "bbh": Task("bbh", "", "", "MIT", max_new_tokens=2048),
}
BBH_ZIP = "https://github.com/suzgunmirac/BIG-Bench-Hard/archive/refs/heads/main.zip"
GPQA_HINT = ("GPQA is gated: accept its terms at huggingface.co/datasets/Idavidrein/gpqa and set HF_TOKEN, "
             "or pass your copy with --data gpqa=FILE.csv")
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
LETTERS = "ABCDEFGHIJ"
BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
SYSTEM = {  # the system turn of each kind; "tiny" (the embedded small world) is trained on bare problems
    "math": BOXED, "olympiad": BOXED, "minerva": BOXED, "tiny": None,
    "choice": 'Think step by step, then end with "the answer is (X)", where X is the letter of the right option.',
    "bbh": 'Think step by step, then end with "So the answer is ...", giving only the answer in the form asked for.',
}


# ---------------------------------------------------------------------------------------------------------------------
# Loading


def read_rows(path):
    """All rows of one .jsonl, .json (a list, or a dict holding one), .csv or .parquet file, as dicts."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: cannot read {path.suffix or 'a file without suffix'}; legal: {', '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        import pyarrow.parquet  # here, not above: most runs and all tests of grading do without it
        return pyarrow.parquet.read_table(path).to_pylist()
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(text)))
    try:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid {path.suffix[1:]}: {error}") from None
    return rows if isinstance(rows, list) else next((v for v in rows.values() if isinstance(v, list)), [rows])


def hub_files(repo, pattern):
    """Download (or find in the hub's own cache) the files of a data set that match `pattern`."""
    from huggingface_hub import snapshot_download
    revision = "refs/convert/parquet" if pattern.endswith(".parquet") else None
    try:
        folder = snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=[pattern])
    except OSError as error:  # every error of the hub's client is one: no network, no such data set, gated
        hint = GPQA_HINT if "gpqa" in repo else "pass your own copy with --data NAME=FILE"
        raise ValueError(f"cannot load data set {repo!r}: {str(error).splitlines()[0]} ({hint})") from None
    files = sorted(Path(folder).glob(pattern))
    if not files:
        raise ValueError(f"data set {repo!r} has no file {pattern!r}; try another split, or OWNER/NAME:CONFIG")
    return files


def bbh_folder():
    """The 27 tasks and their 3-shot prompts, from the benchmark's own repository, kept in the user's cache."""
    folder = Path.home() / ".cache" / "dsrl" / "bbh"
    if not folder.exists():
        try:
            archive = urllib.request.urlopen(BBH_ZIP, timeout=60).read()  # seconds
        except OSError as error:
            raise ValueError(f"cannot download {BBH_ZIP}: {error}; pass your copy with --data bbh=FOLDER") from None
        partial = folder.with_name("bbh.partial")
        for name in (zipped := zipfile.ZipFile(io.BytesIO(archive))).namelist():
            inner = Path(*Path(name).parts[1:])  # without the archive's top folder
            if len(inner.parts) == 2 and inner.parts[0] in ("bbh", "cot-prompts"):
                target = partial / (inner.name if inner.parts[0] == "bbh" else inner)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(zipped.read(name))
        partial.rename(folder)  # so that an interrupted download is never taken for the whole
    return folder


def find_files(name, split):
    """name (local path, benchmark, "bbh/TASK", or hub OWNER/NAME[:CONFIG]) -> (files, Task or None)."""
    path, (short, _, part) = Path(name), str(name).partition("/")
    if path.is_dir():
        one = [path / f"{split or 'test'}{suffix}" for suffix in SUFFIXES]
        files = [file for file in one if file.exists()] or sorted(path.glob("*.json"))
        if not files:
            raise ValueError(f"{path} holds neither {split or 'test'}.jsonl (.csv, .parquet) nor .json files")
        return files, None
    if path.is_file():
        return [path], None
    if short == "bbh":
        files = [file for file in sorted(bbh_folder().glob("*.json")) if part in ("", file.stem)]
        if not files:
            raise ValueError(f"no BBH task {part!r}; known: {', '.join(f.stem for f in bbh_folder().glob('*.json'))}")
        return files, TASKS["bbh"]
    if name in TASKS:
        task = TASKS[name]
        return hub_files(task.repo, task.files.format(split=split or task.split)), task
    if path.suffix in SUFFIXES or str(name).count("/") != 1:
        raise ValueError(f"no file and no task {str(name)!r}; known tasks: {', '.join(TASKS)}; or a hub OWNER/NAME")
    repo, _, config = str(name).partition(":")
    return hub_files(repo, f"{config or 'default'}/{split or 'test'}/*.parquet"), None


def to_problem(row, kind, source):
    """One row, in any of the column layouts of the public sets, as a problem; `answer` is None if it has no gold."""
    if {"prompt", "reward_model"} <= row.keys():  # the layout of verl, which the method's authors use
        gold = row["reward_model"]["ground_truth"]
        text, gold = row["prompt"][-1]["content"], gold["target"] if isinstance(gold, dict) else gold
    elif {"input", "target"} <= row.keys():
        return {"problem": row["input"], "answer": row["target"], "kind": "bbh"}
    elif {"Question", "Correct Answer", "Incorrect Answer 1"} <= row.keys():
        options = [row["Correct Answer"], *(row[f"Incorrect Answer {i}"] for i in (1, 2, 3))]
        options = [option.strip() for option in options]
        random.Random(row["Question"]).shuffle(options)  # the same order in every run, another for each question
        letter = LETTERS[options.index(row["Correct Answer"].strip())]
        return {"problem": row["Question"].strip(), "answer": letter, "kind": "choice", "options": options}
    elif {"question", "options", "answer"} <= row.keys():
        options = [option for option in row["options"] if option != "N/A"]  # some copies pad to ten with N/A
        return {"problem": row["question"].strip(), "answer": row["answer"], "kind": "choice", "options": options,
                "group": row.get("category")}
    elif {"question", "final_answer"} <= row.keys():
        golds, error = row["final_answer"] or [""], row.get("error")
        gold = ", ".join(golds) if isinstance(golds, list) else golds  # a bare list: `equal` takes any order
        unit = (row.get("unit") or "").strip("$ ")
        gold = gold.replace("$", "").strip().removesuffix(".").removesuffix(unit)
        return {"problem": row["question"], "answer": gold, "kind": "olympiad", "error": float(error) if error else None}
    elif ("problem" in row or "question" in row) and "answer" in row:
        text, gold = row.get("problem") or row.get("question"), row["answer"]
        gold = gold.rpartition("####")[2] if isinstance(gold, str) else gold  # GSM8K: worked solution #### number
    elif {"problem", "solution"} <= row.keys():
        text, gold = row["problem"], extract_answer(row["solution"])
    else:
        raise ValueError(f"{source}: no known layout of columns; found: {', '.join(map(str, row))}; "
                         "simplest that works: problem, answer")
    gold = None if gold is None else str(gold).strip()
    if gold and re.fullmatch(r"-?\d+\.0+", gold):
        gold = gold.partition(".")[0]  # AMC golds are floats: 27.0
    if gold and kind == "minerva":  # golds written as Python: np.arcsin(10/13), -3./2
        gold = re.sub(r"(\d)\./", r"\1/", gold.replace("np.arcsin", "\\arcsin"))
    return {"problem": text, "answer": gold, "kind": row.get("kind") or kind}


def shots_for(file, problem):
    """The worked examples that go before a question: 3 for BBH, those of its category (5) for MMLU-Pro; or ""."""
    if problem["kind"] == "bbh":
        for folder in (file.parent / "cot-prompts", file.parent.parent / "cot-prompts"):
            if (prompt := folder / f"{file.stem}.txt").exists():
                return prompt.read_text(encoding="utf-8").partition("-----\n")[2].strip() + "\n\n"
    return ""


def mmlu_pro_shots(files):
    """category -> worked examples as text, from the validation split."""
    shots = {}
    for row in (row for file in files for row in read_rows(file)):
        problem = to_problem(row, "choice", "validation")
        worked = row["cot_content"].removeprefix("A: Let's think step by step.").strip()
        shots[row["category"]] = shots.get(row["category"], "") + question_text(problem) + f" {worked}\n\n"
    return shots


def read_problems(name, split=None):
    """All usable problems of a data set, and how many rows were dropped: (problems, {reason: count})."""
    files, task = find_files(name, split)
    stem = re.sub(r"[^a-z0-9_]", "", files[0].stem.lower())
    kind = task.kind if task else next((TASKS[t].kind for t in TASKS if stem.startswith(t)), "math")
    validation = [file.with_name(file.name.replace("test", "validation")) for file in files]
    if task is TASKS["mmlu_pro"]:
        validation = hub_files(task.repo, task.files.format(split="validation"))
    problems, seen, dropped = [], set(), {"no_gold": 0, "repeated": 0}
    for file in files:
        shots = None
        for row in read_rows(file):
            problem = to_problem(row, kind, file)
            key = (problem["problem"], file.stem if problem["kind"] == "bbh" else "")
            if not problem["answer"] or key in seen:
                # AIME 2025 comes 32 times over in some copies; --k is the way to ask for 32 samples
                dropped["repeated" if problem["answer"] else "no_gold"] += 1
                continue
            seen.add(key)
            if problem["kind"] == "bbh":
                shots = shots_for(file, problem) if shots is None else shots
                problem.update(group=file.stem, shots=shots)
            problems.append({**problem, "index": len(problems)})
    if any(p.get("group") and p["kind"] == "choice" for p in problems) and validation[0].exists() \
            and validation[0] not in files:
        by_category = mmlu_pro_shots(validation)
        problems = [{**p, "shots": by_category.get(p["group"], "")} for p in problems]
    return problems, dropped


def load_problems(name_or_path, split=None, limit=None):
    """The problems of a benchmark, of a hub data set or of a local file; rows without a gold or repeated are dropped.

    name_or_path  a key of TASKS, "bbh/navigate", a file (.jsonl .json .csv .parquet), a folder, or OWNER/NAME[:CONFIG]
    split         str   "train", "test", ...; the benchmark's own test split if None
    limit         int   the first so many; all if None
    Returns       list of dicts with `problem`, `answer`, `kind`, `index` (and `options`, `shots`, `group`, `error`)
    Raises        ValueError  for an unknown name, unreadable file, unknown columns, or no network
    """
    problems, dropped = read_problems(name_or_path, split)
    if any(dropped.values()):
        print(f"{name_or_path}: {len(problems):,} problems; dropped {dropped['no_gold']} without a gold, "
              f"{dropped['repeated']} repeated")
    return problems[:limit]


# ---------------------------------------------------------------------------------------------------------------------
# Prompts


def question_text(problem):
    """The question as the benchmark's own prompt writes it, up to where the answer starts."""
    if problem["kind"] == "choice":
        options = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, problem["options"]))
        return f"Question:\n{problem['problem']}\nOptions:\n{options}\nAnswer: Let's think step by step."
    if problem["kind"] == "bbh":
        return f"Q: {problem['problem']}\nA: Let's think step by step."
    return problem["problem"]


def encode_prompt(tokenizer, problem, template="chat", max_prompt_tokens=None):
    """Token ids of the prompt: the one function that training and evaluation share.

    template           "chat": the tokenizer's chat template, thinking off where the template knows it; a tokenizer
                       without one gets "base": plain text for a model that only continues text
    max_prompt_tokens  int, the end of a longer prompt is kept
    Returns            list of int
    """
    if template not in ("chat", "base"):
        raise ValueError(f"template {template!r} is unknown; legal: chat, base")
    system, question = SYSTEM.get(problem["kind"], BOXED), problem.get("shots", "") + question_text(problem)
    if problem["kind"] == "bbh" and problem.get("shots"):
        system = None  # the worked examples show the form
    if template == "chat" and tokenizer.chat_template:
        turns = [{"role": "system", "content": system}] if system else []
        turns.append({"role": "user", "content": question})
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        ids = tokenizer(text, add_special_tokens=False).input_ids  # the template wrote them already
    else:
        if problem["kind"] in ("math", "olympiad", "minerva"):
            question = f"Question: {question}\nAnswer:"
        ids = tokenizer(f"{system}\n\n{question}" if system else question).input_ids
    return ids[-max_prompt_tokens:] if max_prompt_tokens else ids
