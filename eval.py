r"""Problems and benchmarks: load, prompt, sample, grade, and the numbers that papers report.

A problem is a dict: `problem`, `answer` (texts), `kind`, `index`, and what its kind needs. For each of N problems,
k responses are sampled and graded 1 or 0; with c of k right,

    Avg@k       mean of all grades; its standard error is over problems     std(problem means) / sqrt(N)
    pass@j      1 - C(k - c, j) / C(k, j), unbiased for j <= k              (Chen et al., arXiv 2107.03374)
    majority@k  the grade of the answer given most often, equal answers counted as one, the first seen on a tie
    thoughts    reflections and transitions, by the keyword rule of SEAL    (arXiv 2504.07986)

| kind       | the answer is                                          | right when                                    |
| math, tiny | the last box, else after `####`, "answer is"           | `reward.equal`                                |
| olympiad   | the same                                               | the same, or within the problem's own `error` |
| minerva    | the same                                               | the same, or numbers within 1 %               |
| choice     | "answer is (X)", "Answer: X", a box, a lone letter     | that letter; no letter is wrong, not a guess  |
| bbh        | after the last "answer is", to the end of the sentence | the same text, see `same_text`                |

    python eval.py --model Qwen2.5-1.5B --tasks amc23,olympiadbench --k 32
    python eval.py --compare out-eval/a out-eval/b     # side by side, and their pass@k curves
"""

import argparse
import csv
import io
import json
import math
import random
import re
import statistics
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import torch
import transformers

from model import best_device, load_model, resolve_model
from reward import equal, extract_answer, parses
from rollout import generate

PARQUET = "default/{split}/*.parquet"  # the hub itself makes config/split/*.parquet of every public data set
AVG_32 = dict(k=32, temperature=1.0, max_new_tokens=8192)  # the paper's Avg@32; the response limit of its training
# kind, hub data set, files, licence; then how it is sampled unless flags say otherwise (k 1, greedy, 4,096 tokens).
# Hub ids, files and columns were read from the data sets' documentation and not tried: check them against the cards.
TASKS = {
    "gsm8k": ("math", "openai/gsm8k", "main/{split}/*.parquet", "MIT", dict(max_new_tokens=1024)),
    "math": ("math", "DigitalLearningGmbH/MATH-lighteval", PARQUET, "MIT", {}),
    "math500": ("math", "HuggingFaceH4/MATH-500", PARQUET, "MIT", {}),
    "aime24": ("math", "math-ai/aime24", PARQUET, "none stated", AVG_32),
    "aime25": ("math", "math-ai/aime25", PARQUET, "none stated", AVG_32),
    "amc23": ("math", "math-ai/amc23", PARQUET, "none stated", AVG_32),
    "olympiadbench": ("olympiad", "Hothan/OlympiadBench", "OE_TO_maths_en_COMP/train/*.parquet", "Apache-2.0", AVG_32),
    "minerva": ("minerva", "math-ai/minervamath", PARQUET, "none stated", AVG_32),
    "mmlu_pro": ("choice", "TIGER-Lab/MMLU-Pro", PARQUET, "MIT", {}),
    "gpqa": ("choice", "Idavidrein/gpqa", "gpqa_diamond.csv", "CC-BY-4.0, gated", {}),
    "bbh": ("bbh", "https://github.com/suzgunmirac/BIG-Bench-Hard/archive/refs/heads/main.zip", "*/bbh/*.json", "MIT", {}),
}
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
LETTERS = "ABCDEFGHIJ"  # of options: three to ten of them
BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
SYSTEM = {  # the system turn of each kind; the embedded small world ("tiny") is trained on bare problems
    **dict.fromkeys(("math", "olympiad", "minerva"), BOXED), "tiny": None,
    "choice": 'Think step by step, then end with "the answer is (X)", where X is the letter of the right option.',
    "bbh": 'Think step by step, then end with "So the answer is ...", giving only the answer in the form asked for.',
}  # fmt: skip

# ---------------------------------------------------------------------------------------------------------------------
# Loading


def read_rows(path):
    """The rows of one .jsonl, .json (a list, or a dict that holds one), .csv or .parquet file, as dicts."""
    if path.suffix == ".parquet":
        import pyarrow.parquet  # slow to import, and the other formats do without

        return pyarrow.parquet.read_table(path).to_pylist()
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: cannot read {path.suffix or 'a file without suffix'}; legal: {', '.join(SUFFIXES)}")
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(text)))
    try:
        lines = [text] if path.suffix == ".json" else filter(str.strip, text.split("\n"))
        rows = [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid {path.suffix[1:]}: {error}") from None
    if path.suffix == ".json":  # a list, or a dict that holds one beside a canary or a version
        rows = next((part for part in [rows[0], *getattr(rows[0], "values", list)()] if isinstance(part, list)), rows)
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError(f'{path}: each row must be an object such as {{"problem": ..., "answer": ...}}')
    return rows


def hub_files(name, split, repo, pattern):
    """The files of a data set, downloaded or cached: from the hub, or BIG-Bench Hard's repository, with its prompts."""
    folder, revision = Path.home() / ".cache" / "dsrl" / "bbh", "refs/convert/parquet" if "parquet" in pattern else None
    try:
        if repo.startswith("https:") and not folder.exists():
            archive = zipfile.ZipFile(io.BytesIO(urllib.request.urlopen(repo, timeout=60).read()))  # seconds
            partial = folder.with_name("bbh.partial")  # renamed when whole: half a download is never taken for the set
            archive.extractall(partial, [part for part in archive.namelist() if re.search("/(bbh|cot-prompts)/", part)])
            partial.rename(folder)
        elif not repo.startswith("https:"):
            from huggingface_hub import snapshot_download

            pattern = pattern.format(split=split or "test")
            folder = Path(snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=[pattern]))
    except OSError as error:  # all errors of both clients are: no network, no such data set, gated
        gated = f"it is gated: accept its terms at huggingface.co/datasets/{repo} and set HF_TOKEN; or " * (name == "gpqa")
        reason = f"cannot load {name} from {repo} ({str(error).splitlines()[0]})"
        raise ValueError(f"{reason}; {gated}give your own copy: --data {name}=FILE") from None
    files = sorted(folder.glob(pattern))
    if not files:
        raise ValueError(f"{repo} has no {pattern}: try another split, or OWNER/NAME:CONFIG")
    return files


def find_files(name, split):
    """name (file, folder, benchmark, "bbh/TASK", hub OWNER/NAME[:CONFIG]) -> (files, kind of problem)."""
    path, (short, _, part) = Path(resolve_model(name) if name == "tiny" else name), str(name).partition("/")
    if path.exists():  # a file, a folder of splits as the tiny world's, or BBH's folder of tasks
        of_split = [path / f"{split or 'test'}{suffix}" for suffix in SUFFIXES]
        files = [path] if path.is_file() else [file for file in of_split if file.exists()] or sorted(path.glob("*.json"))
        if not files:
            raise ValueError(f"{path} holds neither {split or 'test'}.jsonl (or .csv, .parquet) nor any .json files")
        return files, next((TASKS[task][0] for task in TASKS if files[0].stem.startswith(task)), "math")
    if name in TASKS or short == "bbh":
        kind, repo, pattern, *_ = TASKS[short]
        files = hub_files(short, split, repo, pattern)
        if part and part not in [file.stem for file in files]:
            raise ValueError(f"BBH has no task {part!r}; known: {', '.join(file.stem for file in files)}")
        return [file for file in files if part in ("", file.stem)], kind
    if path.suffix in SUFFIXES or str(name).count("/") != 1:
        raise ValueError(f"no file and no task {str(name)!r}; known tasks: {', '.join(TASKS)}; or a hub OWNER/NAME")
    repo, _, config = str(name).partition(":")
    return hub_files(name, split, repo, PARQUET.replace("default", config or "default")), "math"


def to_problem(row, kind, source):
    """One row, in any of the column layouts of the public sets, as a problem; its answer is "" if it has no gold."""
    text, more = row.get("problem") or row.get("question"), {}
    if {"prompt", "reward_model"} <= row.keys():  # verl's layout, which the method's authors use
        text, gold = row["prompt"][-1]["content"], row["reward_model"]["ground_truth"]
        gold = gold["target"] if isinstance(gold, dict) else gold
    elif {"input", "target"} <= row.keys():
        text, gold, kind, more = row["input"], row["target"], "bbh", {"group": source.stem}
    elif {"Question", "Correct Answer", "Incorrect Answer 1"} <= row.keys():
        right, text, kind = row["Correct Answer"].strip(), row["Question"].strip(), "choice"
        more = {"options": [right, *(row[f"Incorrect Answer {i}"].strip() for i in (1, 2, 3))]}
        random.Random(text).shuffle(more["options"])  # fixed for a question, but the right one is not always A
        gold = LETTERS[more["options"].index(right)]
    elif {"question", "options", "answer"} <= row.keys():
        gold, kind = row["answer"], "choice"
        more = {"options": [option for option in row["options"] if option != "N/A"], "group": row.get("category")}
    elif {"question", "final_answer"} <= row.keys():
        golds, error, kind = row["final_answer"] or "", row.get("error"), "olympiad"
        gold = golds if isinstance(golds, str) else ", ".join(golds)  # several answers: `equal` takes any order
        gold, more = gold.replace("$", "").strip().removesuffix("."), {"error": float(error) if error else 0.0}
    elif text is not None and "answer" in row:
        gold = "" if row["answer"] is None else str(row["answer"]).rpartition("####")[2]  # GSM8K: solution #### gold
    elif text is not None and "solution" in row:
        gold = extract_answer(row["solution"])
    else:
        raise ValueError(f"{source}: columns {', '.join(map(str, row))} are no known layout; simplest: problem, answer")
    gold = re.sub(r"^(-?\d+)\.0+$", r"\1", str("" if gold is None else gold).strip())  # AMC golds are floats: 27.0
    if kind == "minerva":  # golds written as Python: np.arcsin(10/13), -3./2
        gold = re.sub(r"(\d)\./", r"\1/", gold.replace("np.", "\\"))
    return {"problem": text, "answer": gold, "kind": row.get("kind") or kind, **more}


def shots_of(files, kind):
    """{group: worked examples to put before the question}: BBH's 3 of each task, MMLU-Pro's 5 of each category."""
    shots = {}
    for file in files:
        for folder in (file.parent, file.parent.parent):
            if kind == "bbh" and (prompt := folder / "cot-prompts" / f"{file.stem}.txt").exists():
                shots[file.stem] = prompt.read_text(encoding="utf-8").partition("-----\n")[2].strip() + "\n\n"
        examples = file.with_name(file.name.replace("test", "validation"))
        if "TIGER-Lab--MMLU-Pro" in str(file):  # in the hub's cache, where each split has a folder
            examples = hub_files("mmlu_pro", "validation", *TASKS["mmlu_pro"][1:3])[0]
        for row in read_rows(examples) if kind == "choice" and examples != file and examples.exists() else ():
            worked = row["cot_content"].removeprefix("A: Let's think step by step.").strip()
            question = question_text(to_problem(row, kind, examples))
            shots[row["category"]] = f"{shots.get(row['category'], '')}{question} {worked}\n\n"
    return shots


def load_problems(name_or_path, split=None, limit=None):
    """The problems of a benchmark, hub data set or local file; prints what it drops and which golds only match as text.

    name_or_path  a key of TASKS, "bbh/navigate", a file (.jsonl .json .csv .parquet), a folder, or OWNER/NAME[:CONFIG]
    split         str   "train", "test", ...; None is the benchmark's own test split
    limit         int   the first so many; None is all
    Returns       list of dicts: `problem`, `answer`, `kind`, `index` (and `options`, `group`, `shots`, `error`)
    Raises        ValueError  for an unknown name, an unreadable file, unknown columns, no network
    """
    files, kind = find_files(name_or_path, split)
    rows = [(row, to_problem(row, kind, file)) for file in files for row in read_rows(file)]
    problems, seen = [], set()
    for row, problem in rows:
        repeated = "reward_model" in row and problem["problem"] in seen  # AIME25 comes 32 times over: that is --k 32
        seen.add(problem["problem"])
        if problem["answer"] and not repeated:
            problems.append({**problem, "index": len(problems)})
    if any(problem.get("group") for problem in problems):
        shots = shots_of(files, problems[0]["kind"])
        problems = [{**problem, "shots": shots.get(problem["group"], "")} for problem in problems]
    no_gold = sum(not problem["answer"] for _, problem in rows)
    unread = [p["answer"] for p in problems if p["kind"] not in ("choice", "bbh") and not parses(p["answer"])]
    if len(problems) < len(rows) or unread:
        dropped = f"dropped {no_gold} without a gold and {len(rows) - len(problems) - no_gold} repeated"
        print(f"{name_or_path}: {len(problems):,} problems; {dropped}; {len(unread)} golds match as text only {unread[:3] or ''}")
    return problems[:limit]


# ---------------------------------------------------------------------------------------------------------------------
# Prompts


def question_text(problem):
    """The question as the benchmark's own few-shot prompt writes it, up to where the answer starts."""
    if problem["kind"] == "choice":
        options = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, problem["options"]))
        return f"Question:\n{problem['problem']}\nOptions:\n{options}\nAnswer: Let's think step by step."
    return f"Q: {problem['problem']}\nA: Let's think step by step." if problem["kind"] == "bbh" else problem["problem"]


def encode_prompt(tokenizer, problem, template="chat", max_prompt_tokens=None):
    """Token ids of the prompt, a list of int: the one function that training and evaluation share.

    template           "chat": the tokenizer's chat template, thinking off where the template knows it; a tokenizer
                       without one gets "base": plain text, for a model that only continues text
    max_prompt_tokens  int, of a longer prompt the end is kept
    """
    if template not in ("chat", "base"):
        raise ValueError(f"template {template!r} is unknown; legal: chat, base")
    kind, shots = problem["kind"], problem.get("shots", "")
    system = None if kind == "bbh" and shots else SYSTEM.get(kind, BOXED)  # BBH's worked examples show the form
    question = shots + question_text(problem)
    if template == "chat" and tokenizer.chat_template:
        turns = [{"role": "system", "content": system}] if system else []
        turns.append({"role": "user", "content": question})
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        ids = tokenizer(text, add_special_tokens=False).input_ids  # the template wrote them already
    else:
        question = f"Question: {question}\nAnswer:" if SYSTEM.get(kind, BOXED) == BOXED else question
        ids = tokenizer(f"{system}\n\n{question}" if system else question).input_ids
    return ids[-max_prompt_tokens:] if max_prompt_tokens else ids


# ---------------------------------------------------------------------------------------------------------------------
# Grading

NEXT_QUESTIONS = ("\nQ:", "\nQuestion:")  # where a model that only continues text begins a problem of its own
WRAPPED = re.compile(r"\\(?:boxed|text(?:bf)?|math(?:bf|rm))\{([^{}]*)\}|\*\*|\$|`")  # markup around an answer
CHOICE_CUE = re.compile(r"\b(?i:answer|option|choice)(?i:\W{0,4}is|\W{0,3}:)\W{0,8}(?i:option )?([A-J])\b")
LONE_LETTER = re.compile(r"\(([A-J])\)|(?<![\w'’])(?:([B-HJ])(?![\w'’])|([AI])(?=\W*$))", re.M)  # not "A cat", "I am"


def unwrap(text):
    """The text without markup around words, two levels deep: \\boxed{\\text{(A)}} -> (A)."""
    for _ in range(2):
        text = WRAPPED.sub(lambda match: match[1] or "", text)
    return text


def choice_answer(text, options):
    """The letter that a response chooses, or None; an option's own text in a box counts as its letter."""
    legal, plain, box = LETTERS[: len(options)], unwrap(text), unwrap(extract_answer(text) or "").strip()
    if box in options:
        return LETTERS[options.index(box)]
    lone = ["".join(groups) for groups in LONE_LETTER.findall(box or plain)]
    found = CHOICE_CUE.findall(plain) or lone
    return next((letter for letter in reversed(found) if letter in legal), None)


def bbh_answer(text):
    """What follows the last "answer is", to the end of its sentence; else a box, "Answer:" and the like; or None."""
    parts = re.split("answer is", unwrap(text), flags=re.I)
    rest = parts[-1] if len(parts) > 1 else unwrap(extract_answer(text, loose=True) or "")
    sentence = re.split(r"\n|\.\s", rest.lstrip(" :\t\n"))[0]
    return sentence.strip().removesuffix(".").strip(" \"'“”") or None


def same_text(predicted, answer):
    """BBH's rule: the text itself, but for case, commas and spacing; A, (A) and "(A) the first option" are one."""
    if re.fullmatch(r"\([A-Z]\)", answer):
        bare = re.match(r"(?:option |choice )?([A-Z])(?:$|[).:,])", predicted, re.I)
        letters = re.findall(r"\(([A-Z])\)", predicted.upper()) or (bare and bare[1].upper())
        return set(letters or "") == {answer[1]}  # "(A) or (B)" is no answer
    if not re.search(r"\w", answer) or re.fullmatch(r"-?\d+", answer):  # brackets; numbers
        return re.sub(r"[\s,]", "", predicted) == re.sub(r"\s", "", answer)
    return re.split(r"[\s,]+", predicted.lower()) == re.split(r"[\s,]+", answer.lower())


def answer_in(problem, response, loose=True):
    """The final answer in the last 20,000 characters of a response, as text, or None; also what majority@k votes with."""
    text, kind = response[-20_000:].rpartition("</think>")[2], problem["kind"]
    if not loose and kind not in ("choice", "bbh"):
        return extract_answer(text)
    own = re.split("|".join(NEXT_QUESTIONS), text)[0]
    for part in dict.fromkeys((own, text)):  # all of it only if no answer stands before a further "Question:"
        if kind == "choice":
            answer = choice_answer(part, problem["options"])
        else:
            answer = bbh_answer(part) if kind == "bbh" else extract_answer(part, loose=True)
        if answer is not None:
            return answer
    return None


def as_number(text, unit=False):
    """The float that an answer is, or None: 1.2e-3, 6 \\times 10^{-4}, \\frac{1}{2}, 3/4; `unit` lets words follow it."""
    text = re.sub(r"\\[,;! ]|[$~]|(?<=\d),(?=\d{3})", "", text.strip())
    text = re.sub(r"\\[dt]?frac\{(-?[\d.]+)\}\{([\d.]+)\}", r"\1/\2", text)
    power = r"(?:(\d)\s*(?:\\times|\\cdot|[*×])\s*|(?<![\d.]))10\s*\^\s*\{?([+-]?\d+)\}?"
    text = re.sub(power, lambda match: f"{match[1] or 1}e{match[2]}", text)
    match = re.match(r"([+-]?\d*\.?\d+\.?(?:e[+-]?\d+)?)(?:/(\d*\.?\d+))?\s*(.*)", text)
    if not match or float(match[2] or 1) == 0:
        return None
    words = r"|(?:\^\{?\\circ|\\(?:text|math|%|AA)|[a-zA-Z%°{])[\w\s{}^/°%.\\-]*" if unit else ""
    formula = re.search(r"\\(?:pi|sqrt|pm|[dt]?frac|log|ln|sin|cos)|\b(?:or|and)\b", match[3])
    return float(match[1]) / float(match[2] or 1) if re.fullmatch(words, match[3]) and not formula else None


def grade(problem, response, loose=True, strict=False):
    """1.0 if the response's final answer is right by the rule of its kind (table at the top), else 0.0.

    For mathematics, loose=False counts only a box, as training does; strict=True compares as text by the rules of the
    method's authors, for figures to set beside theirs.
    """
    predicted, answer, kind = answer_in(problem, response, loose), problem["answer"], problem["kind"]
    if predicted is None:
        return 0.0
    if kind in ("choice", "bbh"):
        return float(predicted == answer if kind == "choice" else same_text(predicted, answer))
    if strict or equal(predicted, answer):
        return float(equal(predicted, answer, strict=strict))
    gold, value = as_number(answer), as_number(predicted, unit=True)
    tolerance = 0.01 * abs(gold) if kind == "minerva" and gold is not None else problem.get("error")
    return float(bool(tolerance) and value is not None and abs(value - gold) <= tolerance * (1 + 1e-9))  # 4.3 - 4.2 > 0.1


def grade_all(problems, responses, loose=True, strict=False):
    """The grade of each pair."""
    return [grade(problem, response, loose, strict) for problem, response in zip(problems, responses, strict=True)]


# ---------------------------------------------------------------------------------------------------------------------
# Numbers

REFLECTION = re.compile(r"\Await|verify|make sure|hold on|think again|'s correct|'s incorrect|let me check|seems right")
TRANSITION = re.compile(r"\Aalternatively|think differently|another (?:way|approach|method|solution|strategy|technique)")


def count_thoughts(text):
    """How many pieces of a response, cut at blank lines, reflect, change course, or just execute: {name: count}."""
    counts = {"reflection": 0, "transition": 0, "execution": 0}
    for piece in filter(None, (piece.strip() for piece in re.split(r"\n\s*\n", text.lower().replace("’", "'")))):
        name = "reflection" if REFLECTION.search(piece) else "transition" if TRANSITION.search(piece) else "execution"
        counts[name] += 1
    return counts


def avg_at_k(correct):
    """(N, k) grades -> their mean, a fraction in [0, 1]."""
    return torch.as_tensor(correct, dtype=torch.float64).mean().item()


def standard_error(correct):
    """(N, k) grades -> standard error of avg_at_k, problems being the independent draws; 0.0 for a single problem."""
    means = torch.as_tensor(correct, dtype=torch.float64).mean(1)
    return (means.std() / math.sqrt(len(means))).item() if len(means) > 1 else 0.0


def pass_at_k(n, c, k):
    """Chance that k of n responses, c of them right, hold a right one: 1 - C(n-c, k) / C(n, k)."""
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(f"pass@{k} of {n} responses with {c} right: needs 1 <= k <= n and 0 <= c <= n")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def majority(problem, rows):
    """Grade of the answer that most responses give; without an answer no vote; the first seen wins a tie."""
    same, groups = same_text if problem["kind"] in ("choice", "bbh") else equal, []  # groups of rows with one answer
    for row in (row for row in rows if row["answer"] is not None):
        group = next((group for group in groups if same(row["answer"], group[0]["answer"])), None)
        groups.append([row]) if group is None else group.append(row)
    return max(groups, key=len)[0]["correct"] if groups else 0.0


def thought_rates(rows, name):
    """How often these responses reflect or change course; all 0 for no responses."""
    total, count = sum(row[name] for row in rows), max(1, len(rows))
    return {"per_response": total / count, "share": sum(row[name] > 0 for row in rows) / count,
            "per_1000_tokens": 1000 * total / max(1, sum(row["tokens"] for row in rows))}  # fmt: skip


def summarize(problems, rows, k):
    """All figures of N problems from N*k rows, the k of a problem adjacent: fractions in [0, 1], lengths in tokens."""
    of_problem = [rows[start : start + k] for start in range(0, len(rows), k)]
    correct = [[row["correct"] for row in part] for part in of_problem]  # (N, k)
    sides = {"right": [row for row in rows if row["correct"]], "wrong": [row for row in rows if not row["correct"]]}
    groups = {}
    for problem, grades in zip(problems, correct, strict=True):
        groups.setdefault(problem.get("group"), []).append(grades)
    groups = {name: avg_at_k(grades) for name, grades in groups.items() if name}
    return {
        "problems": len(problems), "k": k,
        "avg_at_k": avg_at_k(correct), "avg_at_k_se": standard_error(correct),  # over all problems: the micro mean
        **({"macro_avg": statistics.fmean(groups.values()), "groups": groups} if groups else {}),
        "pass_at_k": {j: statistics.fmean(pass_at_k(k, int(sum(grades)), j) for grades in correct)
                      for j in sorted({2**i for i in range(k.bit_length())} | {k})},
        "majority_at_k": statistics.fmean(majority(*pair) for pair in zip(problems, of_problem, strict=True)),
        "cut": statistics.fmean(not row["finished"] for row in rows),
        "no_answer": statistics.fmean(row["answer"] is None for row in rows),
        "length": statistics.fmean(row["tokens"] for row in rows),
        "thoughts": {name: thought_rates(rows, name) | {side: thought_rates(part, name) for side, part in sides.items()}
                     for name in ("reflection", "transition")},
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation


def evaluate(
    model, tokenizer, problems, *, k, max_new_tokens, template="chat", strict=False, grade_with=None, **sampling
):  # fmt: skip
    """Sample k responses to each problem, all in one `generate`, and grade them.

    strict          bool, grade as the method's authors do: a box, compared as text
    grade_with      function (problems, responses) -> floats that takes the place of `grade`
    sampling        of `rollout.generate`: temperature, top_p, top_k, seed, progress, ...
    Returns         (summary, rows): see `summarize`; one row (dict) for each response, the k of a problem adjacent
    """
    if k < 1 or not problems:
        raise ValueError(f"k = {k} responses to each of {len(problems)} problems: both must be at least 1")
    prompts = [encode_prompt(tokenizer, problem, template) for problem in problems]
    continues = template == "base" or not tokenizer.chat_template or any(problem.get("shots") for problem in problems)
    rollout = generate(
        model, prompts, group_size=k, max_new_tokens=max_new_tokens, eos_ids=model.eos_ids, tokenizer=tokenizer,
        stop_strings=NEXT_QUESTIONS if continues else (), **sampling,
    )  # fmt: skip
    texts, of_row = rollout.response_texts(tokenizer), [problem for problem in problems for _ in range(k)]
    grades = grade_with(of_row, texts) if grade_with else grade_all(of_row, texts, not strict, strict)
    tokens, finished = rollout.response_mask.sum(1).tolist(), rollout.finished.tolist()
    rows = [
        {"index": problem.get("index", i // k), "sample": i % k, "problem": problem["problem"], "ground_truth": problem["answer"],
         "response": texts[i], "answer": answer_in(problem, texts[i], not strict), "correct": grades[i],
         "finished": finished[i], "tokens": tokens[i], **count_thoughts(texts[i])}
        for i, problem in enumerate(of_row)
    ]  # fmt: skip
    return summarize(problems, rows, k), rows


def run_task(model, tokenizer, name, source, args, path):
    """Sample what `path` lacks of one task, chunk by chunk, so that a stopped run goes on; returns the task's summary."""
    problems, how = load_problems(source, limit=args.limit), dict(k=1, temperature=0.0, max_new_tokens=4096)
    how |= TASKS[name.partition("/")[0]][4] if name.partition("/")[0] in TASKS else dict(k=8, temperature=1.0)
    asked = {key: getattr(args, key) for key in (*how, "top_p", "top_k", "template", "strict")}
    how |= {key: value for key, value in asked.items() if value is not None}
    if args.max_new_tokens is None:  # the task's own limit, or what the model has room for
        longest = max(len(encode_prompt(tokenizer, problem, args.template)) for problem in problems)
        how["max_new_tokens"] = max(1, min(how["max_new_tokens"], model.max_positions - longest))
    text = path.read_text("utf-8") if path.exists() else ""
    if not text.endswith("\n"):  # a last line that a kill cut short
        path.write_text(text := text[: text.rfind("\n") + 1], "utf-8")
    done = {(row["task"], row["index"], row["sample"]): row for row in map(json.loads, text.split("\n")[:-1])}
    start, tokens, size = time.perf_counter(), 0, max(1, args.rows_per_call // max(1, how["k"]))
    for first in range(0, len(problems), size):
        part = problems[first : first + size]
        if all((name, problem["index"], sample) in done for problem in part for sample in range(how["k"])):
            continue
        # Draws belong to (seed, place in the chunk, sample): a resumed run samples what it would have sampled.
        label = f"{name} {first + len(part)}/{len(problems)}"
        _, rows = evaluate(model, tokenizer, part, progress=label, seed=args.seed * 1_000_003 + first, **how)
        new = {(name, row["index"], row["sample"]): {"task": name, **row} for row in rows}
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for key, row in new.items() if key not in done)
        done, tokens = new | done, tokens + sum(row["tokens"] for row in rows)
    seconds = time.perf_counter() - start
    rows = [done[name, problem["index"], sample] for problem in problems for sample in range(how["k"])]
    speed = {"seconds": seconds, "tokens_per_second": tokens / seconds} if tokens else {}  # of what was sampled now
    return {**summarize(problems, rows, how["k"]), "sampling": how | {"seed": args.seed}, **speed}


HEAD = "{avg_at_k:.4f} +- {avg_at_k_se:.4f} over {problems} problems"


def report(name, summary):
    """All figures of a task, rounded, one line each."""
    figures = json.loads(json.dumps(summary), parse_float=lambda text: round(float(text), 4))
    rest = [f"  {key}: {json.dumps(value)}" for key, value in figures.items() if f"{{{key}" not in HEAD and key != "k"]
    return "\n".join([f"{name}: Avg@{summary['k']} {HEAD.format(**summary)}", *rest])


def compare(folders, picture):
    """Print the Avg@k of finished runs side by side and draw their pass@k curves into the file `picture`."""
    import matplotlib

    matplotlib.use("Agg")  # a file, no window
    from matplotlib import pyplot

    missing = [folder for folder in folders if not (Path(folder) / "results.json").exists()]
    if missing:
        raise ValueError(f"{missing[0]} has no results.json: give the --out folders of finished runs")
    runs = {str(folder): json.loads((Path(folder) / "results.json").read_text())["tasks"] for folder in folders}
    tasks = list(dict.fromkeys(task for results in runs.values() for task in results))
    figure, axes = pyplot.subplots(1, len(tasks), figsize=(4 * len(tasks), 3.5), squeeze=False, layout="tight")
    for task, axis in zip(tasks, axes[0], strict=True):
        for name, summary in ((name, results[task]) for name, results in runs.items() if task in results):
            print(f"{task:<20} Avg@{summary['k']:<4} {summary['avg_at_k']:.4f} +- {summary['avg_at_k_se']:.4f}  {name}")
            axis.plot(list(map(int, summary["pass_at_k"])), list(summary["pass_at_k"].values()), marker="o", label=name)
        axis.set(title=task, xlabel="k", ylabel="pass@k", xscale="log", ylim=(0, 1))
        axis.legend(fontsize="small")
    figure.savefig(picture)
    pyplot.close(figure)


def demo():
    """A made-up sampler that is right with probability 0.3: Avg@8 and pass@8 come out as they must."""
    draw, rows = random.Random(0), []
    problems = [{"problem": f"{a} + {a}", "answer": str(2 * a), "kind": "math"} for a in range(400)]
    for problem in (problem for problem in problems for _ in range(8)):
        text = f"So it is \\boxed{{{int(problem['answer']) + (draw.random() > 0.3)}}}."
        graded = {"answer": answer_in(problem, text), "correct": grade(problem, text), **count_thoughts(text)}
        rows.append({**graded, "finished": True, "tokens": 9})
    summary = summarize(problems, rows, 8)
    print(report("demo", summary))
    assert abs(summary["avg_at_k"] - 0.3) < 0.03 and abs(summary["pass_at_k"][8] - (1 - 0.7**8)) < 0.03, summary


def parse_args(argv):
    parser = argparse.ArgumentParser(usage="eval.py --tasks T,T [--help]", description="Benchmarks, scored the standard way.")
    add = parser.add_argument
    add("--model", default="tiny", help="tiny (default), a folder, a short name or a hub id")
    add("--tasks", help=f"comma-separated: {', '.join(TASKS)}, bbh/TASK, tiny, a file or a hub data set")
    add("--data", action="append", default=[], metavar="TASK=FILE", help="your own copy of a task's data (file or folder)")
    add("--k", type=int, help="responses per problem (default: the task's)")
    add("--limit", type=int, help="problems, the first so many (default: all)")
    add("--max-new-tokens", type=int, help="tokens (default: the task's)")
    add("--temperature", type=float, help="0 is greedy (default: the task's)")
    add("--top-p", type=float, default=1.0, help="1 (default) is off")
    add("--top-k", type=int, default=0, help="0 (default) is off")
    add("--seed", type=int, default=0, help="default 0")
    add("--template", choices=("chat", "base"), default="chat", help="base: plain text, for a base model (default chat)")
    add("--strict", action="store_true", help="grade mathematics as the method's authors do: a box, compared as text")
    add("--rows-per-call", type=int, default=512, help="responses sampled together, then saved (default 512)")
    add("--out", default="out-eval", help="folder of results.json, responses.jsonl, pass_at_k.png; goes on if it exists")
    add("--compare", nargs="+", metavar="FOLDER", help="print and draw the results of finished runs side by side")
    add("--demo", action="store_true", help="a check on made-up responses, in a second")
    args = parser.parse_args(argv)
    if not (args.tasks or args.compare or args.demo):
        parser.error(f"give --tasks (known: {', '.join(TASKS)}, bbh/TASK, tiny, or a file), --compare or --demo")
    return args


def run(args):
    """Evaluate the tasks one by one; results.json is whole after each."""
    data = dict(item.partition("=")[::2] for item in args.data)
    sources = {name: data.get(name, name) for name in args.tasks.split(",")}
    for flag in ("k", "limit", "max_new_tokens", "rows_per_call"):
        if (value := getattr(args, flag)) is not None and value < 1:
            raise ValueError(f"--{flag.replace('_', '-')} {value}: must be at least 1")
    if unused := [item for item in args.data if item.partition("=")[0] not in sources]:
        raise ValueError(f"--data {unused[0]}: must read TASK=FILE, with TASK one of --tasks: {', '.join(sources)}")
    folder, path = Path(args.out), Path(args.out) / "results.json"
    free = ("tasks", "data", "limit", "out", "compare", "demo")  # may differ in a run that goes on
    settings = {key: value for key, value in vars(args).items() if key not in free}
    results = json.loads(path.read_text()) if path.exists() else {"settings": settings, "tasks": {}}
    for key, old in results["settings"].items():
        if old != settings.get(key):
            raise ValueError(f"{folder} was made with {key} {old}, not {settings.get(key)}: give another --out")
    for source in sources.values():
        find_files(source, None)  # a misspelt task should not cost the loading of a model
    print("settings:", json.dumps(settings))
    model, tokenizer = load_model(args.model, **best_device())
    folder.mkdir(parents=True, exist_ok=True)
    versions = {"python": sys.version.split()[0], "torch": torch.__version__, "transformers": transformers.__version__}
    results["versions"] = versions
    for name, source in sources.items():
        path.write_text(json.dumps(results, indent=2))
        summary = run_task(model, tokenizer, name, source, args, folder / "responses.jsonl")
        results["tasks"][name] = results["tasks"].get(name, {}) | summary
        print(report(name, results["tasks"][name]))
    path.write_text(json.dumps(results, indent=2))
    compare([folder], folder / "pass_at_k.png")


def main(argv=None):
    args = parse_args(argv)
    try:
        demo() if args.demo else compare(args.compare, "compare.png") if args.compare else run(args)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
