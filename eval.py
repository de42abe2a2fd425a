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
from dataclasses import dataclass
from pathlib import Path

import torch

from model import best_device, load_model, resolve_model
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
    name = resolve_model(name) if name == "tiny" else name  # the tiny world's folder holds its problems too
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


# ---------------------------------------------------------------------------------------------------------------------
# Grading


def option_of(response, num_options=len(LETTERS)):
    """The letter a response chooses, or None: the last "answer is (X)" or "Answer: X", the last box, the last lone letter."""
    legal = LETTERS[:num_options]
    stated = re.findall(rf"answer(?: is|:)\**\s*\**\(?([{legal}])\b", response, flags=re.IGNORECASE)
    boxed = re.fullmatch(rf"(?:\\text\{{)?\(?([{legal}])\)?\.?\}}?", (extract_answer(response) or "").strip())
    lone = re.findall(rf"(?<![\w'])\(?([{legal}])\)?(?![\w'])", response)
    found = stated[-1:] or (list(boxed.groups()) if boxed else []) or lone[-1:]
    return found[0].upper() if found else None


def stated_answer(response):
    """What follows the last "answer is", to the end of its sentence, as BBH's own few-shot evaluation takes it; or None."""
    _, cue, tail = response.rpartition("answer is ")
    if not cue:
        return extract_answer(response)
    return tail.split("\n")[0].strip().removesuffix(".").strip()


def same_text(predicted, answer):
    """Exact match but for case, quotes, the brackets around an option's letter, and the spacing of words and brackets."""
    def plain(text):
        text = re.sub(r"\s+", " ", text.strip().strip("\"'*").lower())
        option = re.match(r"\(([a-z])\)", text) or re.fullmatch(r"([a-z])", text)
        return option.group(1) if option else text

    return plain(predicted) == plain(answer) or predicted.split() == answer.split()


def answer_in(problem, response):
    """The answer that `grade` looks at, or None: also what majority@k votes with."""
    if problem["kind"] == "choice":
        return option_of(response, len(problem["options"]))
    if problem["kind"] == "bbh":
        return stated_answer(response)
    return extract_answer(response, loose=True)


def as_number(text):
    """The number a short answer is, "1.2e-3" and "6 \\times 10^{-4}" included, or None."""
    text = re.sub(r"\\(?:times|cdot)\s*10\^\{?(-?\d+)\}?", r"e\1", text.replace(",", "").replace("$", ""))
    match = re.match(r"\s*(-?\d*\.?\d+(?:\s*e[-+]?\d+)?)", text)
    return float(match.group(1).replace(" ", "")) if match and match.end() == len(text.rstrip()) else None


def grade(problem, response):
    """1.0 if the response answers the problem in the standard way of its kind (table in the header), else 0.0."""
    predicted, answer = answer_in(problem, response), problem["answer"]
    if predicted is None:
        return 0.0
    if problem["kind"] == "choice":
        return float(predicted == answer.strip("() "))
    if problem["kind"] == "bbh":
        return float(same_text(predicted, answer))
    tolerance = problem.get("error")
    if problem["kind"] == "minerva" and (gold := as_number(answer)) is not None:
        tolerance = 0.01 * abs(gold)
    if tolerance and (gold := as_number(answer)) is not None and (value := as_number(predicted)) is not None:
        return float(abs(value - gold) <= tolerance)
    return float(equal(predicted, answer))


def grade_all(problems, responses):
    """`grade` of each pair."""
    return [grade(problem, response) for problem, response in zip(problems, responses, strict=True)]


# ---------------------------------------------------------------------------------------------------------------------
# Numbers


def avg_at_k(correct):
    """(N, k) grades -> their mean, in [0, 1]."""
    return float(torch.as_tensor(correct, dtype=torch.float64).mean())


def standard_error(correct):
    """Standard error of avg_at_k over problems: std of the N problem means / sqrt(N); 0 for one problem."""
    means = torch.as_tensor(correct, dtype=torch.float64).mean(1)
    return float(means.std() / math.sqrt(len(means))) if len(means) > 1 else 0.0


def pass_at_k(n, c, k):
    """Chance that k of n responses, c of them right, hold a right one: 1 - C(n-c, k) / C(n, k) (arXiv 2107.03374)."""
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(f"pass@{k} of {n} responses with {c} right: needs 1 <= k <= n and 0 <= c <= n")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def majority(problem, answers, grades):
    """Grade of the answer that most responses give; no answer does not vote; the first seen wins a tie."""
    groups = []  # [answer, votes, grade]
    for answer, value in zip(answers, grades, strict=True):
        if answer is None:
            continue
        same = same_text if problem["kind"] in ("choice", "bbh") else equal
        group = next((group for group in groups if same(answer, group[0])), None)
        if group is None:
            groups.append([answer, 1, value])
        else:
            group[1] += 1
    return max(groups, key=lambda group: group[1])[2] if groups else 0.0


REFLECTION = ("verify", "make sure", "hold on", "think again", "'s correct", "'s incorrect", "let me check", "seems right")
TRANSITION = ("think differently", *(f"another {word}" for word in
              ("way", "approach", "method", "solution", "strategy", "technique")))


def count_thoughts(text):
    """Pieces between blank lines that reflect, change course, or just execute: the SEAL rule (arXiv 2504.07986)."""
    counts = {"reflection": 0, "transition": 0, "execution": 0}
    for piece in re.split(r"\n\s*\n", text.lower()):
        piece = piece.strip()
        if piece.startswith("wait") or any(phrase in piece for phrase in REFLECTION):
            counts["reflection"] += 1
        elif piece.startswith("alternatively") or any(phrase in piece for phrase in TRANSITION):
            counts["transition"] += 1
        elif piece:
            counts["execution"] += 1
    return counts


def thought_summary(rows):
    """Per kind of thought: per response, share of responses with one, per 1,000 tokens, and per right / wrong response."""
    def mean(values):
        return statistics.fmean(values) if values else 0.0

    summary = {}
    for name in ("reflection", "transition"):
        counts = [row[name] for row in rows]
        summary[name] = {
            "per_response": mean(counts),
            "share": mean([count > 0 for count in counts]),
            "per_1000_tokens": 1000 * sum(counts) / max(1, sum(row["tokens"] for row in rows)),
            "per_right": mean([row[name] for row in rows if row["correct"]]),
            "per_wrong": mean([row[name] for row in rows if not row["correct"]]),
        }
    return summary


def summarize(problems, rows, k):
    """All figures of n problems x k rows (the k rows of a problem adjacent)."""
    correct = [[row["correct"] for row in rows[i : i + k]] for i in range(0, len(rows), k)]
    votes = [majority(problem, [row["answer"] for row in rows[i * k : i * k + k]], correct[i]) for i, problem in enumerate(problems)]
    ks = sorted({2**power for power in range(k.bit_length()) if 2**power <= k} | {k})
    return {
        "problems": len(problems), "k": k,
        "avg_at_k": avg_at_k(correct), "avg_at_k_se": standard_error(correct),
        "pass_at_k": {j: statistics.fmean(pass_at_k(k, int(sum(row)), j) for row in correct) for j in ks},
        "majority_at_k": statistics.fmean(votes),
        "cut": statistics.fmean(not row["finished"] for row in rows),
        "no_answer": statistics.fmean(row["answer"] is None for row in rows),
        "length": statistics.fmean(row["tokens"] for row in rows),
        "thoughts": thought_summary(rows),
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation


def evaluate(model, tokenizer, problems, *, k, max_new_tokens, template="chat", max_prompt_tokens=None, grade_with=grade_all, **sampling):
    """Sample k responses for each problem, all in one `generate`, and grade them.

    sampling  goes on to `rollout.generate`: temperature, top_p, top_k, seed, progress, ...
    Returns   (summary, rows): see `summarize`; a row holds index, sample, response, answer, correct, finished, tokens, thoughts
    """
    if k < 1 or not problems:
        raise ValueError(f"k = {k} responses of {len(problems)} problems: both must be at least 1")
    prompts = [encode_prompt(tokenizer, problem, template, max_prompt_tokens) for problem in problems]
    rollout = generate(model, prompts, group_size=k, max_new_tokens=max_new_tokens, eos_ids=model.eos_ids, tokenizer=tokenizer, **sampling)
    texts = rollout.response_texts(tokenizer)
    grades = grade_with([problem for problem in problems for _ in range(k)], texts)
    tokens, finished = rollout.response_mask.sum(1).tolist(), rollout.finished.tolist()
    rows = []
    for i, (text, value) in enumerate(zip(texts, grades, strict=True)):
        problem = problems[i // k]
        rows.append({
            "index": problem["index"], "sample": i % k, "problem": problem["problem"], "ground_truth": problem["answer"],
            "response": text, "answer": answer_in(problem, text), "correct": value, "finished": finished[i],
            "tokens": tokens[i], **count_thoughts(text),
        })  # fmt: skip
    return summarize(problems, rows, k), rows


def report(name, summary, sampling):
    """One block of text per task."""
    passes = ", ".join(f"pass@{j} {value:.3f}" for j, value in summary["pass_at_k"].items())
    thoughts = "; ".join(f"{kind} {value['per_response']:.3f} per response, {value['per_1000_tokens']:.2f} per 1,000 tokens, "
                         f"{value['per_right']:.3f} when right, {value['per_wrong']:.3f} when wrong"
                         for kind, value in summary["thoughts"].items())
    return (f"{name}: Avg@{summary['k']} {summary['avg_at_k']:.4f} +- {summary['avg_at_k_se']:.4f} over {summary['problems']} problems\n"
            f"  {passes}, majority@{summary['k']} {summary['majority_at_k']:.3f}\n"
            f"  cut {summary['cut']:.3f}, without an answer {summary['no_answer']:.3f}, {summary['length']:.1f} tokens\n"
            f"  {thoughts}\n  sampling: {json.dumps(sampling)}")


def run_task(model, tokenizer, name, args, folder):
    """Evaluate one task; write its responses; return {task: summary}."""
    source = dict(item.split("=", 1) for item in args.data).get(name, name)
    problems = load_problems(source, limit=args.limit)
    task = TASKS.get(name.partition("/")[0])
    sampling = {
        "k": args.k or (task.k if task else 8),
        "temperature": args.temperature if args.temperature is not None else (task.temperature if task else 1.0),
        "max_new_tokens": args.max_new_tokens or (task.max_new_tokens if task else 1024),
        "top_p": args.top_p, "top_k": args.top_k, "seed": args.seed, "template": args.template,
    }  # fmt: skip
    start = time.perf_counter()
    summary, rows = evaluate(model, tokenizer, problems, progress=name, **sampling)
    seconds = time.perf_counter() - start
    with (folder / "responses.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps({"task": name, **row}, ensure_ascii=False) + "\n" for row in rows)
    print(report(name, summary, sampling))
    print(f"  {seconds:.1f} s, {sum(row['tokens'] for row in rows) / seconds:,.0f} tokens per second")
    return {"sampling": sampling, "seconds": seconds, **summary}


def main(argv=None):
    parser = argparse.ArgumentParser(description="Benchmarks, scored the standard way.")
    parser.add_argument("--model", default="tiny", help="tiny, a folder, a short name or a hub id")
    parser.add_argument("--tasks", required=True, help=f"comma-separated: {', '.join(TASKS)}, bbh/TASK, tiny, or a file")
    parser.add_argument("--data", action="append", default=[], metavar="TASK=FILE", help="a local copy of a task's data")
    parser.add_argument("--k", type=int, help="responses per problem (default: the task's)")
    parser.add_argument("--limit", type=int, help="problems, the first so many")
    parser.add_argument("--temperature", type=float, help="0 is greedy (default: the task's)")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--top-k", type=int, default=0)
    parser.add_argument("--max-new-tokens", type=int, help="tokens (default: the task's)")
    parser.add_argument("--template", choices=("chat", "base"), default="chat", help="base: plain text, for a base model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="out-eval", help="folder of results.json and responses.jsonl")
    args = parser.parse_args(argv)
    folder = Path(args.out)
    try:
        if (folder / "results.json").exists():
            raise ValueError(f"{folder} holds results already: give another --out")
        folder.mkdir(parents=True, exist_ok=True)
        model, tokenizer = load_model(args.model, **best_device())
        results = {name: run_task(model, tokenizer, name, args, folder) for name in args.tasks.split(",")}
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    (folder / "results.json").write_text(json.dumps({"model": args.model, "versions": versions, "tasks": results}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
