r"""Problems and benchmarks: load, prompt, sample, grade, and the numbers that papers report.

A problem is a dict: `problem`, `answer` (texts), `kind`, `index`, and what its kind needs.

| kind       | the answer is                                | right when                        |
| math, tiny | the last box, else "####", "answer is"       | `reward.equal`, its unit dropped  |
| olympiad   | the same                                     | or within the problem's `error`   |
| minerva    | the same                                     | or numbers within 1 %             |
| choice     | "answer is (X)", a box, a lone letter        | that letter; none is no guess     |
| bbh        | what follows the last "answer is"            | the same text, see `same_text`    |

k responses to each of N problems are graded 1 or 0; with c of the k right,

    Avg@k       mean of all grades; its standard error is over problems: std(means) / sqrt(N)
    pass@j      1 - C(k - c, j) / C(k, j), unbiased for j <= k   (Chen et al., arXiv 2107.03374)
    majority@k  grade of the answer given most often, equal answers being one
    thoughts    reflections and transitions, by the keyword rule of SEAL (arXiv 2504.07986)

    python eval.py                                     # a made-up sampler: do the figures agree?
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
import sys
import time
import urllib.request
import zipfile
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import huggingface_hub
import torch
import transformers

from model import best_device, load_model, resolve_model
from reward import equal, extract_answer, parses, score_batch
from rollout import generate
from tiny import NAMED_WORLDS, OPERATORS


class Task(NamedTuple):
    """Where a benchmark is found, and how it is graded and sampled."""

    kind: str  # how it is prompted, extracted and graded: the table above
    hub: str  # data set on the hub, or the address of a zip archive
    files: str  # pattern of the files in it
    columns: str
    licence: str = "none stated"
    k: int = 1  # responses to each problem, unless --k says otherwise


# Read from the data sets' documentation and not tried: check hub ids and columns on the cards.
PARQUET = "*/{split}/*.parquet"  # the hub makes config/split/*.parquet of public data sets
TASKS = {
    "gsm8k": Task("math", "openai/gsm8k", "main/{split}/*.parquet", "question, answer", "MIT"),
    "math": Task("math", "DigitalLearningGmbH/MATH-lighteval", PARQUET, "problem, solution", "MIT"),
    "math500": Task("math", "HuggingFaceH4/MATH-500", PARQUET, "problem, answer", "MIT"),
    "aime24": Task("math", "math-ai/aime24", PARQUET, "problem, answer", k=32),
    "aime25": Task("math", "math-ai/aime25", PARQUET, "problem, answer", k=32),
    "amc23": Task("math", "math-ai/amc23", PARQUET, "problem, answer", k=32),
    "olympiadbench": Task("olympiad", "Hothan/OlympiadBench", "OE_TO_maths_en_COMP/train/*.parquet",
                          "question, final_answer, error", "Apache-2.0", k=32),
    "minerva": Task("minerva", "math-ai/minervamath", PARQUET, "problem, solution", k=32),
    "mmlu_pro": Task("choice", "TIGER-Lab/MMLU-Pro", PARQUET, "question, options, answer", "MIT"),
    "gpqa": Task("choice", "Idavidrein/gpqa", "gpqa_diamond.csv",
                 "Question, Correct Answer, Incorrect Answer 1 to 3", "CC-BY-4.0, gated"),
    "bbh": Task("bbh", "https://github.com/suzgunmirac/BIG-Bench-Hard/archive/refs/heads/main.zip",
                "*/bbh/*.json", "input, target", "MIT"),
}  # fmt: skip
OTHER = Task("math", "", PARQUET, "problem, answer", k=8)  # any other source
MAX_NEW_TOKENS = 8192  # the response limit of the paper's training
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
LETTERS = "ABCDEFGHIJ"  # of options: three to ten of them

# --------------------------------------------------------------------------------------------------
# Loading


def read_rows(path):
    """The rows, dicts, of one .jsonl, .json, .csv or .parquet file."""
    if path.suffix == ".parquet":
        import pyarrow.parquet  # slow to import, and the other formats do without

        return pyarrow.parquet.read_table(path).to_pylist()
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(text, newline="")))
    try:
        lines = [line for line in text.split("\n") if line.strip()]
        rows = json.loads(text) if path.suffix == ".json" else list(map(json.loads, lines))
        return [dict(row) for row in (rows["examples"] if "examples" in rows else rows)]  # BBH's
    except (TypeError, ValueError) as error:
        wanted = f'rows like {{"problem": ..., "answer": ...}} in {", ".join(SUFFIXES)}'
        raise ValueError(f"{path}: not readable ({error}); legal: {wanted}") from None


def download(name, task, split):
    """The files of a data set (MMLU-Pro's worked examples with it), from the network once."""
    folder = Path.home() / ".cache" / "dsrl" / "bbh"
    try:
        if not task.hub.startswith("https:"):
            wanted = [task.files.format(split=part) for part in (split, "validation")]
            revision = "refs/convert/parquet" if "parquet" in task.files else None
            how = dict(repo_type="dataset", revision=revision, allow_patterns=wanted)
            folder = Path(huggingface_hub.snapshot_download(task.hub, **how))
        elif not folder.exists():
            archive = urllib.request.urlopen(task.hub, timeout=60).read()  # seconds
            partial = folder.with_name("bbh.partial")  # half of it is never taken for the set
            zipfile.ZipFile(io.BytesIO(archive)).extractall(partial)
            partial.rename(folder)
    except OSError as error:  # all errors of both clients are: no network, no such set, gated
        terms = "accept its terms there and set HF_TOKEN, or " if "gated" in task.licence else ""
        reason = (str(error) or repr(error)).splitlines()[0]
        remedy = f"{terms}give a copy: --data {name}=FILE"
        raise ValueError(f"cannot load {name} from {task.hub} ({reason}); {remedy}") from None
    return sorted(folder.glob(task.files.format(split=split)))


def find_files(source, split, task):
    """(files, Task) of a benchmark, "bbh/TASK", a file, a folder, or a hub OWNER/NAME."""
    path = Path(resolve_model(source), f"{split}.jsonl") if source in NAMED_WORLDS else Path(source)
    source, (name, _, part) = str(source), str(source).partition("/")
    if path.exists():
        files = found = [path] if path.is_file() else sorted(path.glob("*.json"))  # BBH's folder
        name = Path(task or path).stem
        benchmark = next((TASKS[known] for known in TASKS if name.startswith(known)), OTHER)
    elif source in TASKS or name == "bbh" or source.count("/") == 1 and path.suffix not in SUFFIXES:
        benchmark = TASKS.get(name) or OTHER._replace(hub=source)
        found = download(source, benchmark, split)
        files = [file for file in found if file.stem == part] if name == "bbh" and part else found
    else:
        known = f"known tasks: {', '.join(TASKS)}; or a hub OWNER/NAME"
        raise ValueError(f"no file and no task {source!r}; {known}")
    if not files:
        known = f"{benchmark.files}, split {split}; known: {', '.join(file.stem for file in found)}"
        raise ValueError(f"{source}: no such file in {known}")
    return files, benchmark


def to_problem(row, file, task):
    """One row, in any column layout of the public sets, as a problem; its answer "" is no gold."""
    kind, more = task.kind, {}
    match row:
        case {"prompt": [*_, {"content": text}], "reward_model": {"ground_truth": gold}}:  # verl's
            gold = gold["target"] if isinstance(gold, dict) else gold
        case {"input": text, "target": gold}:
            kind, more = "bbh", {"group": file.stem}
        case {"Question": text, "Correct Answer": right}:  # GPQA
            options = [right, *(row[f"Incorrect Answer {i}"] for i in (1, 2, 3))]
            random.Random(text).shuffle(options)  # fixed for a question, but not always A
            gold, kind = LETTERS[options.index(right)], "choice"
            more = {"options": list(map(str.strip, options))}
        case {"question": text, "options": options, "answer": gold}:  # MMLU-Pro
            options = [option for option in options if option != "N/A"]
            kind, more = "choice", {"options": options, "group": row.get("category")}
        case {"question": text, "final_answer": golds}:  # OlympiadBench; `equal` takes any order
            gold = ", ".join([golds] if isinstance(golds, str) else golds or ())
            gold = gold.replace("$", "").strip().removesuffix(".")
            kind, more = "olympiad", {"error": float(row.get("error") or 0)}
        case {"problem": text, "answer": gold} | {"question": text, "answer": gold}:
            pass
        case {"problem": text, "solution": solution}:
            gold = extract_answer(solution)
        case _:
            found = f"columns {', '.join(map(str, row))}"
            raise ValueError(f"{file}: {found} are no known layout; expected {task.columns}")
    gold = "" if gold is None else str(gold).rpartition("####")[2].strip()  # GSM8K: text #### gold
    gold = re.sub(r"^(-?\d+)\.0+$", r"\1", gold)  # AMC: 27.0
    if kind == "minerva":  # partly Python: np.arcsin(10/13), -3./2
        gold = re.sub(r"(\d)\./", r"\1/", gold.replace("np.", "\\"))
    return {"problem": text, "answer": gold, "kind": row.get("kind") or kind, **more}


def worked_examples(file, task):
    """{group: examples before its questions}: BBH's 3 of each task, MMLU-Pro's 5 per category."""
    shots = {}
    for folder in file.parents[:2]:  # the repository of BBH keeps them beside its folder of tasks
        path = folder / "cot-prompts" / f"{file.stem}.txt"
        if path.exists():  # a canary, a line of dashes, the examples
            shots[file.stem] = path.read_text("utf-8").partition("-----\n")[2].strip() + "\n\n"
    examples = Path("validation".join(str(file).rsplit("test", 1)))  # the last "test" in its path
    for row in read_rows(examples) if examples != file and examples.exists() else ():
        question = question_text(to_problem(row, examples, task))
        answer = row["cot_content"].removeprefix("A: Let's think step by step.").strip()
        before = shots.get(row["category"], "")
        shots[row["category"]] = f"{before}{question} {answer}\n\n"
    return shots


def load_problems(name_or_path, split=None, limit=None, task=None):
    """The problems of a benchmark, hub data set or local file; prints what it drops.

    name_or_path  a key of TASKS, "bbh/navigate", a file, a folder, or a hub OWNER/NAME
    split, limit  str, default "test"; int, the first so many
    task          str, the benchmark that a file is a copy of; default: as the file's name begins
    Returns       dicts of `problem`, `answer`, `kind`, `index`; by kind `options`, `error`, `group`
                  and `shots`, its worked examples
    """
    files, benchmark = find_files(name_or_path, split or "test", task)
    problems, seen, shots, dropped = [], set(), {}, Counter()
    for file in files:
        for row in read_rows(file):
            problem = to_problem(row, file, benchmark)
            if not problem["answer"]:
                dropped["without a gold"] += 1
            elif "reward_model" in row and problem["problem"] in seen:
                dropped["repeated"] += 1  # AIME25 comes 32 times over: that is --k 32
            else:
                problems.append({**problem, "index": len(problems)})
            seen.add(problem["problem"])
        if problems and "group" in problems[0]:
            shots |= worked_examples(file, benchmark)
    if not problems:
        raise ValueError(f"{name_or_path} holds no problem with an answer")
    if shots:
        problems = [one | {"shots": shots.get(one["group"], "")} for one in problems]
    for reason, count in dropped.items():
        print(f"{name_or_path}: dropped {count} rows {reason}, {len(problems)} are left")
    golds = [problem["answer"] for problem in problems if problem["kind"] not in ("choice", "bbh")]
    if unread := [gold[:80] for gold in golds if not parses(gold)]:
        print(f"{name_or_path}: {len(unread)} golds match as text only: {unread[:20]}")
    return problems[:limit]


# --------------------------------------------------------------------------------------------------
# Prompts

BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
LETTER = 'Think step by step, then end with "the answer is (X)", where X is the right letter.'
PHRASE = 'Think step by step, then end with "So the answer is ...", in the form asked for.'
SYSTEM = {"choice": LETTER, "bbh": PHRASE, "tiny": None}  # the system turn, else BOXED


def question_text(problem):
    """The question as the benchmark's own few-shot prompt writes it, up to the answer's start."""
    text = problem["problem"]
    if problem["kind"] == "bbh":
        return f"Q: {text}\nA: Let's think step by step."
    if problem["kind"] == "choice":
        options = "\n".join(map("{}. {}".format, LETTERS, problem["options"]))
        return f"Question:\n{text.strip()}\nOptions:\n{options}\nAnswer: Let's think step by step."
    return text


def encode_prompt(tokenizer, problem, template="chat"):
    """Token ids of the prompt, a list of int: the one function that training and evaluation share.

    template  "chat": the tokenizer's own, if it has one, thinking off; "base": plain text
    """
    if template not in ("chat", "base"):
        raise ValueError(f"template {template!r} is unknown; legal: chat, base")
    shots, system = problem.get("shots", ""), SYSTEM.get(problem["kind"], BOXED)
    system = None if shots and system == PHRASE else system  # BBH's examples show the form
    question = shots + question_text(problem)
    if template == "chat" and tokenizer.chat_template:
        turns = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        how = dict(tokenize=False, add_generation_prompt=True, enable_thinking=False)
        text = tokenizer.apply_chat_template(turns if system else turns[1:], **how)
        return tokenizer(text, add_special_tokens=False).input_ids  # the template wrote them
    question = f"Question: {question}\nAnswer:" if system == BOXED else question
    return tokenizer(f"{system}\n\n{question}" if system else question).input_ids


# --------------------------------------------------------------------------------------------------
# Grading: response -> answer -> 1 or 0

NEXT_QUESTIONS = ("\nQ:", "\nQuestion:")  # where a base model begins a problem of its own
RESPONSE_END = re.compile(r"\n[ \t]*(?:Q|Question|Problem|User|Human):|</s>|<eos>|<\|\w+\|>")
MARKUP = re.compile(r"\\(?:boxed|text(?:bf)?|math(?:bf|rm))\{([^{}]*)\}|\*\*|\$|`|\\[()\[\]]")
CHOICE_CUE = re.compile(
    r"\b(?i:answer|option|choice)(?i:\W{0,4}is|\W{0,3}:)\W{0,8}(?i:option )?([A-J])\b")
LONE_LETTER = re.compile(  # not "A cat", "I am"
    r"\(([A-J])\)|(?<![\w'’])(?:([B-HJ])(?![\w'’])|([AI])(?=\W*$))", re.M)  # fmt: skip
BBH_LETTER = re.compile(r"\(([A-Z])\)|^(?:OPTION |CHOICE )?([A-Z])(?=$|[).:,])")
GSM8K_STYLE = [(re.compile(pattern, re.M), new) for pattern, new in [
    (r"(####\s*-?\$?\d[\d,]*(?:\.\d*)?[ a-z]*\n)[\s\S]*", r"\1"),  # then a problem of its own
    (r"<<[^<>\n]*>>", ""),  # the calculator: 2*3=<<2*3=6>>6
    (r"####(?=[ *]{0,4}(?:\d{1,3}[.)] )?[A-Z][a-z]{2})", ""),  # a heading
    (r"^A:", "Answer:"), (r"(?<=\d) ?[x×] ?(?=\$?\d)", " * ")]]  # fmt: skip
NUMBER = re.compile(  # -1/3, 1e-5, 6 \times 10^{-4}
    r"(?<!\S)([+-]?\d*\.?\d+)\.?(?:/(\d*\.?\d+))?"
    r"(?:e([+-]?\d+)|\s*(?:\\times|\\cdot|[*×])\s*10\s*\^\s*\{?([+-]?\d+)\}?)?")
UNIT_MARKUP = re.compile(  # kg \cdot m^{2}, \mathrm{~erg} / \mathrm{s}, ^\circ C, foot-pounds
    r"\^?\{?\\(?:circ|degree|%|AA|mu|Omega|text|mathrm|rm|cdot)|[{}°%¢~,/.·()]"
    r"|(?<=[A-Za-z}])\^\{?-?\d+\}?|(?<=[a-z])-(?=[a-z])")  # fmt: skip
HARMLESS_WORD = re.compile(  # beside a number; a: 5 m a day
    r"(?!(?i:or|and|to|not|mod|base|half|twice|dozen|hundred|thousand|million|billion|negative|"
    r"minus|times|less|more|than|least|most|over|under|between)$)"
    r"(?:[^\W\d_]{2,}|[mgsLhNJWVKCFTa])")


def without_markup(text):
    r"""The text without markup around words, two levels deep: \boxed{\text{(A)}} -> (A)."""
    for _ in range(2):
        text = MARKUP.sub(lambda match: match[1] or "", text)
    return text


def choice_answer(text, problem):
    """The letter that a response chooses, or None; an option's text in a box is its letter."""
    options, box = problem["options"], without_markup(extract_answer(text) or "").strip()
    if box in options:
        return LETTERS[options.index(box)]
    plain = without_markup(text)
    lone = ["".join(groups) for groups in LONE_LETTER.findall(box or plain)]
    found = CHOICE_CUE.findall(plain) or lone
    return next((one for one in reversed(found) if one in LETTERS[: len(options)]), None)


def bbh_answer(text, problem):
    """What follows the last "answer is", to the end of its sentence; else a box, "Answer:"; None.

    Where the task wants a letter, B, (B) and "(B) the second" all are (B); "(A) or (B)" is none.
    """
    parts = re.split("answer is", without_markup(text), flags=re.I)
    rest = parts[-1] if len(parts) > 1 else without_markup(extract_answer(text, loose=True) or "")
    answer = re.split(r"\n|\.\s", rest.lstrip(" :\t\n"))[0].strip(" .!\"'“”")
    letters = {"".join(groups) for groups in BBH_LETTER.findall(answer.upper())}
    is_letter = len(letters) == 1 and re.fullmatch(r"\([A-Z]\)", problem["answer"])
    return f"({letters.pop()})" if is_letter else answer


def math_answer(text, problem):
    """The last box, else what `extract_answer` finds in loose mode once the text is tidied."""
    for pattern, new in GSM8K_STYLE:
        text = pattern.sub(new, text)
    return extract_answer(text, loose=True)


def answer_in(problem, response, loose=True):
    """The final answer of a response, as text, or None; not `loose`: in mathematics a box only."""
    text, kind = response[-20_000:].rpartition("</think>")[2], problem["kind"]
    if kind not in ("choice", "bbh") and not loose:
        return extract_answer(text)
    find = {"choice": choice_answer, "bbh": bbh_answer}.get(kind, math_answer)
    own = RESPONSE_END.split(text)[0]  # all of it counts only if this has no answer
    return find(own, problem) or find(text, problem) or None


def same_text(predicted, answer):
    """BBH's rule: exactly the text, but for case, and for commas and spaces between parts."""
    is_compact = not re.search(r"\w", answer) or re.fullmatch(r"-?\d+", answer)  # ] ] >; -50
    texts = [re.sub(r"[\s,\\]+", "" if is_compact else " ", text) for text in (predicted, answer)]
    return texts[0].replace("−", "-").lower() == texts[1].lower()


def as_number(text, unit=True):
    r"""The float that an answer is, or None if it is none; `unit`: harmless words may be around it.

    6 \times 10^{-4} \text{ m} is 6e-4, "a total of $540 a week" is 540; 2x and 5 dozen are none.
    """
    text = re.sub(r"\\?\$|€|£|\\[,;! ]|(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"\\[dt]?frac\{(-?[\d.]+)\}\{([\d.]+)\}", r"\1/\2", text)
    text = re.sub(r"^10\s*\^", "1*10^", text)
    match = NUMBER.search(text)
    rest = NUMBER.sub(" ", text, count=1).strip()
    words = UNIT_MARKUP.sub(" ", rest).split()
    if not match or rest and not unit or not all(map(HARMLESS_WORD.fullmatch, words)):
        return None
    top, bottom, exponent, power = match.groups()
    return float(f"{top}e{exponent or power or 0}") / (float(bottom or 1) or math.nan)


def is_right(problem, predicted, loose=True, strict=False):
    """Is this extracted answer right by the rule of the problem's kind (table at the top)?"""
    kind, answer = problem["kind"], problem["answer"]
    if kind in ("choice", "bbh"):
        return predicted == answer if kind == "choice" else same_text(predicted, answer)
    if strict or equal(predicted, answer):
        return equal(predicted, answer, strict=strict)
    value, gold = as_number(predicted), as_number(answer, unit=False)
    if value is None or gold is None:
        return False
    tolerance = 0.01 * abs(gold) if kind == "minerva" else problem.get("error", 0)
    may_differ = tolerance or loose and abs(gold) < 2**53  # above it, floats skip integers
    return bool(may_differ) and abs(value - gold) <= tolerance * (1 + 1e-9)  # 4.2 - 4.1 > 0.1


def grade_all(problems, responses, loose=True, strict=False, counts=None):
    """1.0 for each response whose final answer is right, else 0.0; `loose` as in `answer_in`.

    strict  bool, compare mathematics as text, by the rules of the method's authors
    counts  dict, gets how often each reason for a grade occurred
    """
    counts, grades = {} if counts is None else counts, []
    if not loose and all(problem["kind"] in ("math", "tiny") for problem in problems):  # training
        golds = [problem["answer"] for problem in problems]
        return score_batch(responses, golds, counts, strict=strict)
    for problem, response in zip(problems, responses, strict=True):
        answer = answer_in(problem, response, loose)
        grades.append(float(answer is not None and is_right(problem, answer, loose, strict)))
        reason = "right" if grades[-1] else "no answer" if answer is None else "wrong"
        counts[reason] = counts.get(reason, 0) + 1
    return grades


def grade(problem, response, loose=True, strict=False):
    """The grade of one response, see `grade_all`."""
    return grade_all([problem], [response], loose, strict)[0]


# --------------------------------------------------------------------------------------------------
# Numbers

THOUGHTS = {  # the first that is found in a piece names it
    "reflection": r"\Await|verify|make sure|hold on|think again|'s correct|'s incorrect|"
                  r"let me check|seems right",
    "transition": r"\Aalternatively|think differently|"
                  r"another (?:way|approach|method|solution|strategy|technique)",
    "execution": r"\S"}  # fmt: skip


def count_thoughts(text):
    """{name of THOUGHTS: how many pieces of a response, cut at blank lines, are so}."""
    names = []
    for piece in re.split(r"\n\s*\n", text.lower().replace("’", "'")):
        found = (name for name, rule in THOUGHTS.items() if re.search(rule, piece.strip()))
        names.append(next(found, None))
    return {name: names.count(name) for name in THOUGHTS}


MODULUS = re.compile(r"modulo (\d+)")
# A step as a question states it: number, operator, b; and as a solution works it: opening, number,
# a, operator, b, value.
OPERATION = re.compile(r"Step (\d+): ([-+*])(\d+)")
STEP = re.compile(r"(Wait, |Alternatively, )?Step (\d+): (\d+)([-+*])(\d+)=(?:-?\d+=)?(\d+)\.")


def look_figures(rows):
    """What looking again does in responses to this world's problems; rows as `evaluate` gives.

    Shares in [0, 1], None where there is nothing to count: of first looks that read their operation
    rightly from the question, and that work it out rightly; of second looks that change the value,
    and that mend it (wrong before, right after); of responses with a second look, and right ones
    among those.
    """
    read, first, changed, mended, right_after_look = [], [], [], [], []
    for row in rows:
        modulus, asked = MODULUS.search(row["problem"]), OPERATION.findall(row["problem"])
        if not modulus:  # a user's own problem that calls itself tiny
            continue
        value = looked = None
        for opening, number, a, operator, b, result in STEP.findall(row["response"]):
            right = OPERATORS[operator](int(a), int(b)) % int(modulus[1])
            if opening:
                looked = True
                changed.append(int(result) != value)
                mended.append(value != right == int(result))
            else:
                read.append((number, operator, b) in asked)
                first.append(int(result) == right)
            value = int(result)
        if looked:
            right_after_look.append(row["correct"])
    figures = {
        "reads_right": read, "first_look_right": first, "look_changes": changed,
        "look_mends": mended, "right_after_look": right_after_look,
    }  # fmt: skip
    shares = {name: fmean(values) if values else None for name, values in figures.items()}
    return shares | {"looks_again": len(right_after_look) / len(rows)}


def avg_at_k(correct):
    """(N, k) grades -> their mean, a fraction in [0, 1]."""
    return torch.as_tensor(correct, dtype=torch.float64).mean().item()


def standard_error(correct):
    """(N, k) grades -> standard error of avg_at_k over problems; 0.0 for a single problem."""
    means = torch.as_tensor(correct, dtype=torch.float64).mean(1)  # (N,), the independent draws
    return (means.std() / math.sqrt(len(means))).item() if len(means) > 1 else 0.0


def pass_at_k(n, c, k):
    """Chance that k of n responses, c of them right, hold a right one: 1 - C(n-c, k) / C(n, k)."""
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(f"pass@{k} of {n} responses, {c} right: needs 1 <= k <= n, 0 <= c <= n")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def majority(problem, rows):
    """Grade of the answer given most often; no answer is no vote; the first seen wins a tie."""
    groups = []  # of rows with one answer
    for row in [row for row in rows if row["answer"] is not None]:
        same = (g for g in groups if is_right({**problem, "answer": g[0]["answer"]}, row["answer"]))
        if (group := next(same, None)) is None:
            groups.append(group := [])
        group.append(row)
    return max(groups, key=len)[0]["correct"] if groups else 0.0


def thought_rates(rows, name):
    """How often these responses reflect or change course; 0 for no responses."""
    total, tokens = sum(row[name] for row in rows), sum(row["tokens"] for row in rows)
    per_response, per_token = total / max(1, len(rows)), total / max(1, tokens)
    return {"per_response": per_response, "per_1000_tokens": 1000 * per_token}


def summarize(problems, rows, k):
    """All figures, shares in [0, 1] and tokens, from N*k rows, the k of a problem adjacent."""
    of_problem = [rows[start : start + k] for start in range(0, len(rows), k)]
    correct = [[row["correct"] for row in part] for part in of_problem]  # (N, k)
    counts = [int(sum(grades)) for grades in correct]
    sizes = sorted({2**i for i in range(k.bit_length())} | {k})  # 1, 2, 4, ... k
    summary = {
        "problems": len(problems), "k": k,
        "avg_at_k": avg_at_k(correct),  # over all problems: the micro mean
        "avg_at_k_se": standard_error(correct),
        "pass_at_k": {j: fmean(pass_at_k(k, c, j) for c in counts) for j in sizes},
        "majority_at_k": fmean(map(majority, problems, of_problem)),
        "cut": fmean(not row["finished"] for row in rows),
        "no_answer": fmean(row["answer"] is None for row in rows),
        "length": fmean(row["tokens"] for row in rows),
        "thoughts": {name: thought_rates(rows, name) for name in ("reflection", "transition")},
    }  # fmt: skip
    for name, rates in summary["thoughts"].items():
        rates["right"] = thought_rates([row for row in rows if row["correct"]], name)
        rates["wrong"] = thought_rates([row for row in rows if not row["correct"]], name)
    if all(problem.get("kind") == "tiny" for problem in problems):
        summary |= look_figures(rows)
    groups = {}
    for problem, grades in zip(problems, correct, strict=True):
        groups.setdefault(problem.get("group"), []).append(grades)
    if None not in groups:
        summary["groups"] = {name: avg_at_k(grades) for name, grades in groups.items()}
        summary["macro_avg"] = fmean(summary["groups"].values())
    return summary


# --------------------------------------------------------------------------------------------------
# Evaluation

ROWS_PER_CALL = 512  # responses sampled together, then saved


def stop_strings_of(tokenizer, problems, template="chat"):
    """What ends a response beside EOS: a further question, where the prompt is to be continued."""
    shown = any(problem.get("shots") for problem in problems)
    return NEXT_QUESTIONS if shown or template == "base" or not tokenizer.chat_template else ()


def evaluate(model, tokenizer, problems, *, k, max_new_tokens, template="chat", strict=False,
             grade_with=None, **sampling):  # fmt: skip
    """Sample k responses to each problem, all in one `generate`, and grade them.

    strict      bool, grade mathematics as the method's authors do: a box, compared as text
    grade_with  function (problems, responses) -> floats, such as that of training, for `grade`
    sampling    of `rollout.generate`: temperature, top_p, top_k, seed, progress, ...
    Returns     rows, a dict for each response, the k of a problem adjacent: `summarize` takes them
    """
    prompts = [encode_prompt(tokenizer, problem, template) for problem in problems]
    stops = stop_strings_of(tokenizer, problems, template)
    rollout = generate(
        model, prompts, group_size=k, max_new_tokens=max_new_tokens, eos_ids=model.eos_ids,
        tokenizer=tokenizer, stop_strings=stops, **sampling,
    )  # fmt: skip
    texts, of_row = rollout.response_texts(tokenizer), [one for one in problems for _ in range(k)]
    loose = not strict and grade_with is None
    grades = grade_with(of_row, texts) if grade_with else grade_all(of_row, texts, loose, strict)
    tokens, finished = rollout.response_mask.sum(1).tolist(), rollout.finished.tolist()
    return [
        {
            "index": problem.get("index", i // k), "sample": i % k, "problem": problem["problem"],
            "ground_truth": problem["answer"], "response": texts[i],
            "answer": answer_in(problem, texts[i], loose), "correct": grades[i],
            "finished": finished[i], "tokens": tokens[i], **count_thoughts(texts[i]),
        }
        for i, problem in enumerate(of_row)
    ]  # fmt: skip


def read_lines(path):
    """The records of a .jsonl file, if there; a last line that a kill cut short is removed."""
    text = path.read_text("utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, "utf-8")
    return [json.loads(line) for line in whole.split("\n")[:-1]]  # a text may hold other separators


def run_task(model, tokenizer, name, problems, args, path):
    """Sample what `path` lacks of a task, chunk by chunk; returns the task's summary."""
    how = {key: getattr(args, key) for key in ("top_p", "top_k", "seed", "template", "strict")}
    how["k"] = k = args.k or TASKS.get(name.partition("/")[0], OTHER).k
    # k greedy responses would be one
    how["temperature"] = float(k > 1) if args.temperature is None else args.temperature
    longest = max(len(encode_prompt(tokenizer, one, args.template)) for one in problems)
    how["max_new_tokens"] = args.max_new_tokens
    if args.max_new_tokens is None:
        how["max_new_tokens"] = max(1, min(MAX_NEW_TOKENS, model.max_positions - longest))
    rows = [row for row in read_lines(path) if row["task"] == name][: k * len(problems)]
    if any(row["problem"] != problems[i // k]["problem"] for i, row in enumerate(rows)):
        raise ValueError(f"{path} holds responses to other problems of {name}: give another --out")
    start, tokens, size = time.perf_counter(), 0, max(1, ROWS_PER_CALL // k)
    for first in range(len(rows) // k, len(problems), size):
        # Draws belong to (seed, number of the problem, sample): a resumed run repeats them.
        place = dict(first_prompt=first, progress=f"{name} from {first + 1} of {len(problems)}")
        new = evaluate(model, tokenizer, problems[first : first + size], **place, **how)
        new = new[len(rows) - first * k :]  # of the first problem some may be there
        tokens += sum(row["tokens"] for row in new)
        with path.open("a", encoding="utf-8") as file:
            for row in new:
                rows.append({"task": name, **row})
                file.write(json.dumps(rows[-1], ensure_ascii=False) + "\n")
    seconds = time.perf_counter() - start
    summary = summarize(problems, rows, k) | {"sampling": how}
    sampled = {"seconds": seconds, "tokens_per_second": tokens / seconds}
    return summary | sampled if tokens else summary


# --------------------------------------------------------------------------------------------------
# Command


def report(name, summary):
    """Print all figures of a task, rounded, a line each."""
    print(name)
    rounded = json.loads(json.dumps(summary), parse_float=lambda text: round(float(text), 4))
    thoughts = rounded.pop("thoughts")
    for key, value in (rounded | thoughts).items():
        print(f"  {key:18} {json.dumps(value)}")


def compare(folders, picture):
    """Print the Avg@k of finished runs side by side and draw their pass@k curves."""
    from matplotlib.figure import Figure  # slow to import

    curves = {}  # task -> [(folder, summary)]
    for folder in folders:
        path = Path(folder) / "results.json"
        if not path.exists():
            raise ValueError(f"{folder} has no results.json: give the --out folders of runs")
        for task, summary in json.loads(path.read_text())["tasks"].items():
            curves.setdefault(task, []).append((folder, summary))
    figure = Figure(figsize=(4 * len(curves), 3.5), layout="tight")
    axes = figure.subplots(1, len(curves), squeeze=False)[0]
    for axis, (task, runs) in zip(axes, curves.items(), strict=True):
        for folder, summary in runs:
            error = f"+- {summary['avg_at_k_se']:.4f} over {summary['problems']} problems"
            print(f"{task}: Avg@{summary['k']} {summary['avg_at_k']:.4f} {error}  {folder}")
            sizes, values = zip(*summary["pass_at_k"].items(), strict=True)
            axis.plot(list(map(int, sizes)), values, marker="o", label=str(folder))
        axis.set(title=task, xlabel="k", ylabel="pass@k", ylim=(0, 1))
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.legend(fontsize="small")
    figure.savefig(picture)
    print(f"wrote {picture}")


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
    for key in ("k", "limit", "max_new_tokens"):
        if (value := getattr(args, key)) is not None and value < 1:
            raise ValueError(f"--{key.replace('_', '-')} {value}: must be at least 1")
    if not args.tasks:
        raise ValueError("nothing to do: give --tasks or --compare, or --help")
    tasks, data = args.tasks.split(","), dict(item.partition("=")[::2] for item in args.data)
    for name, file in data.items():
        if not file or name not in tasks:
            raise ValueError(f"--data {name}: must read TASK=FILE, TASK of --tasks {args.tasks}")
    free = ("tasks", "data", "limit", "out", "compare")  # may differ in a run that goes on
    settings = {key: value for key, value in vars(args).items() if key not in free}
    folder, path = Path(args.out), Path(args.out, "results.json")
    results = json.loads(path.read_text()) if path.exists() else {"settings": settings, "tasks": {}}
    for key, value in settings.items():
        if (old := results["settings"].get(key)) != value:
            raise ValueError(f"{folder} was made with {key} {old}, not {value}: give another --out")
    problems = {name: load_problems(data.get(name, name), None, args.limit, name) for name in tasks}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    results["versions"] = {"python": sys.version.split()[0], **versions}
    print("settings:", json.dumps(settings | results["versions"]))
    model, tokenizer = load_model(args.model, **best_device())
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2))  # the settings of a run that is killed
    for name in tasks:
        made = run_task(model, tokenizer, name, problems[name], args, folder / "responses.jsonl")
        results["tasks"][name] = results["tasks"].get(name, {}) | made
        path.write_text(json.dumps(results, indent=2))
        report(name, results["tasks"][name])
    compare([folder], folder / "pass_at_k.png")


def main(argv=None):
    """Exit status: 0, or 2 after a mistake of the user, told in one line."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        if not argv:
            demo()
        elif (args := parse_args(argv)).compare:
            compare(args.compare, "compare.png")
        else:
            run(args)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
