r"""Problems and benchmarks: load, prompt, sample, grade, and the numbers that papers report.

A problem is a dict: `problem`, `answer` (texts), `kind`, `index`, and what its kind needs.

| kind       | the answer is                               | right when                           |
| math, tiny | the last box, else "####", "answer is"      | `reward.equal`, its unit dropped     |
| olympiad   | the same                                    | or within the problem's own `error`  |
| minerva    | the same                                    | or numbers within 1 %                |
| choice     | "answer is (X)", "Answer: X", a box,        | that letter; none is wrong, not a    |
|            | a lone letter                               | guess                                |
| bbh        | what follows the last "answer is"           | the same text, see `same_text`       |

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
import statistics
import sys
import time
import urllib.request
import zipfile
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path

import torch
import transformers

from model import best_device, load_model, resolve_model
from reward import equal, extract_answer, parses, score_batch
from rollout import generate


@dataclass(frozen=True)
class Task:
    """A benchmark; the last two are how it is sampled unless flags say otherwise."""

    kind: str  # how it is prompted, extracted and graded: the table above
    hub: str  # data set on the hub, or the address of a zip archive
    files: str  # pattern of the files in it
    columns: str
    licence: str
    split: str = "test"
    k: int = 1
    max_new_tokens: int = 4096


PARQUET = "default/{split}/*.parquet"  # the hub makes config/split/*.parquet of public data sets
OLYMPIAD = "OE_TO_maths_en_COMP/{split}/*.parquet"
BBH_ZIP = "https://github.com/suzgunmirac/BIG-Bench-Hard/archive/refs/heads/main.zip"
AVG_32 = dict(k=32, max_new_tokens=8192)  # the paper's; the response limit of its training
# Read from the data sets' documentation and not tried: check hub ids and columns on the cards.
TASKS = {
    "gsm8k": Task("math", "openai/gsm8k", "main/{split}/*.parquet", "question, answer", "MIT"),
    "math": Task("math", "DigitalLearningGmbH/MATH-lighteval", PARQUET, "problem, solution", "MIT"),
    "math500": Task("math", "HuggingFaceH4/MATH-500", PARQUET, "problem, answer", "MIT"),
    "aime24": Task("math", "math-ai/aime24", PARQUET, "problem, answer", "none stated", **AVG_32),
    "aime25": Task("math", "math-ai/aime25", PARQUET, "problem, answer", "none stated", **AVG_32),
    "amc23": Task("math", "math-ai/amc23", PARQUET, "problem, answer", "none stated", **AVG_32),
    "olympiadbench": Task(
        "olympiad", "Hothan/OlympiadBench", OLYMPIAD, "question, final_answer, error",
        "Apache-2.0", split="train", **AVG_32),
    "minerva": Task(
        "minerva", "math-ai/minervamath", PARQUET, "problem, solution", "none stated", **AVG_32),
    "mmlu_pro": Task(
        "choice", "TIGER-Lab/MMLU-Pro", PARQUET, "question, options, answer, category", "MIT"),
    "gpqa": Task(
        "choice", "Idavidrein/gpqa", "gpqa_diamond.csv",
        "Question, Correct Answer, Incorrect Answer 1, ... 2, ... 3", "CC-BY-4.0, gated"),
    "bbh": Task("bbh", BBH_ZIP, "*/bbh/*.json", "input, target", "MIT"),
}  # fmt: skip
OTHER = Task("math", "", PARQUET, "problem, answer", "", k=8)  # any other source
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
LETTERS = "ABCDEFGHIJ"  # of options: three to ten of them

# --------------------------------------------------------------------------------------------------
# Loading


def read_rows(path):
    """The rows of one .jsonl, .json (a list, or a dict that holds one), .csv or .parquet file."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: cannot read {path.suffix!r}; legal: {', '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        import pyarrow.parquet  # slow to import, and the other formats do without

        return pyarrow.parquet.read_table(path).to_pylist()
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(text)))
    try:
        lines = [text] if path.suffix == ".json" else filter(str.strip, text.split("\n"))
        rows = [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid {path.suffix[1:]}: {error}") from None
    if path.suffix == ".json":  # BIG-Bench Hard keeps its list in a dict, beside a canary
        parts = rows[0].values() if isinstance(rows[0], dict) else rows
        rows = next((part for part in parts if isinstance(part, list)), rows)
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError(f'{path}: each row must be an object: {{"problem": ..., "answer": ...}}')
    return rows


def hub_files(name, task, split):
    """The files of a data set, downloaded or cached; MMLU-Pro's worked examples come with it."""
    pattern, examples = (task.files.format(split=part) for part in (split, "validation"))
    folder = Path.home() / ".cache" / "dsrl" / "bbh"
    try:
        if not task.hub.startswith("https:"):
            from huggingface_hub import snapshot_download

            converted = "refs/convert/parquet" if "parquet" in pattern else None
            wanted = dict(revision=converted, allow_patterns=[pattern, examples])
            folder = snapshot_download(task.hub, repo_type="dataset", **wanted)
        elif not folder.exists():
            with urllib.request.urlopen(task.hub, timeout=60) as response:  # seconds
                archive = zipfile.ZipFile(io.BytesIO(response.read()))
            partial = folder.with_name("bbh.partial")  # half of it is never taken for the set
            archive.extractall(partial)
            partial.rename(folder)
    except OSError as error:  # all errors of both clients are: no network, no such set, gated
        terms = f"accept the terms at huggingface.co/datasets/{task.hub} and set HF_TOKEN, or "
        remedy = f"{terms if 'gated' in task.licence else ''}give a copy: --data {name}=FILE"
        reason = (str(error) or repr(error)).splitlines()[0]
        raise ValueError(f"cannot load {name} from {task.hub} ({reason}); {remedy}") from None
    files = sorted(Path(folder).glob(pattern))
    if not files:
        raise ValueError(f"{task.hub} has no {pattern}: try another split, or OWNER/NAME:CONFIG")
    return files


def find_files(source, split=None, task=None):
    """(files, Task) of a benchmark, "bbh/TASK", a file, a folder, or a hub OWNER/NAME[:CONFIG]."""
    path, source = Path(resolve_model(source) if source == "tiny" else source), str(source)
    benchmark, _, part = source.partition("/")
    if path.exists():  # a file; a folder of splits; or BBH's folder of tasks
        of_split = [path / f"{split or 'test'}{suffix}" for suffix in SUFFIXES]
        of_split = [file for file in of_split if file.exists()]
        files = [path] if path.is_file() else of_split or sorted(path.glob("*.json"))
        if not files:
            raise ValueError(f"{path} holds no {split or 'test'}{'/'.join(SUFFIXES)} and no .json")
        name = task or files[0].stem
        return files, next((TASKS[known] for known in TASKS if name.startswith(known)), OTHER)
    if source in TASKS or benchmark == "bbh":
        files = hub_files(benchmark, TASKS[benchmark], split or TASKS[benchmark].split)
        if part and part not in [file.stem for file in files]:
            known = ", ".join(file.stem for file in files)
            raise ValueError(f"BBH has no task {part!r}; known: {known}")
        return [file for file in files if part in ("", file.stem)], TASKS[benchmark]
    if path.suffix in SUFFIXES or source.count("/") != 1:
        known = f"known tasks: {', '.join(TASKS)}; or a hub OWNER/NAME"
        raise ValueError(f"no file and no task {source!r}; {known}")
    hub, _, config = source.partition(":")
    other = replace(OTHER, hub=hub, files=PARQUET.replace("default", config or "default"))
    return hub_files(source, other, split or other.split), other


def to_problem(row, file, task):
    """One row, in any column layout of the public sets, as a problem; its answer "" is no gold."""
    columns, kind, more = set(row), task.kind, {}
    text, gold = row.get("problem") or row.get("question"), row.get("answer")
    if columns >= {"prompt", "reward_model"}:  # verl's layout, which the method's authors use
        text, gold = row["prompt"][-1]["content"], row["reward_model"]["ground_truth"]
        gold = gold["target"] if isinstance(gold, dict) else gold
    elif columns >= {"input", "target"}:
        text, gold, kind, more = row["input"], row["target"], "bbh", {"group": file.stem}
    elif columns >= {"Question", "Correct Answer", "Incorrect Answer 1"}:
        text, right, kind = row["Question"].strip(), row["Correct Answer"].strip(), "choice"
        options = [right, *(row[f"Incorrect Answer {i}"].strip() for i in (1, 2, 3))]
        random.Random(text).shuffle(options)  # fixed for a question, but not always A
        gold, more = LETTERS[options.index(right)], {"options": options}
    elif columns >= {"question", "options", "answer"}:
        options, kind = [option for option in row["options"] if option != "N/A"], "choice"
        more = {"options": options, "group": row.get("category")}
    elif columns >= {"question", "final_answer"}:
        golds, kind = row["final_answer"] or "", "olympiad"
        gold = golds if isinstance(golds, str) else ", ".join(golds)  # `equal` takes any order
        gold = gold.replace("$", "").strip().removesuffix(".")
        more = {"error": float(row.get("error") or 0)}
    elif text is not None and "answer" not in columns and "solution" in columns:
        gold = extract_answer(row["solution"])
    elif text is None or "answer" not in columns:
        found = ", ".join(map(str, row))
        raise ValueError(f"{file}: columns {found} are no known layout; expected {task.columns}")
    gold = "" if gold is None else str(gold).rpartition("####")[2].strip()  # GSM8K: text #### gold
    gold = re.sub(r"^(-?\d+)\.0+$", r"\1", gold)  # AMC: 27.0
    if kind == "minerva":  # partly Python: np.arcsin(10/13), -3./2
        gold = re.sub(r"(\d)\./", r"\1/", gold.replace("np.", "\\"))
    return {"problem": text, "answer": gold, "kind": row.get("kind") or kind, **more}


def worked_examples(file, kind):
    """{group: examples before its questions}: BBH's 3 of each task, MMLU-Pro's 5 per category."""
    shots = {}
    if kind == "bbh":
        for folder in (file.parent, file.parent.parent):
            path = folder / "cot-prompts" / f"{file.stem}.txt"
            if path.exists():  # a canary, a line of dashes, the examples
                text = path.read_text(encoding="utf-8").partition("-----\n")[2]
                shots[file.stem] = text.strip() + "\n\n"
        return shots
    folder = file.parent.with_name("validation") if file.parent.name == "test" else file.parent
    examples = folder / file.name.replace("test", "validation")
    for row in read_rows(examples) if examples != file and examples.exists() else ():
        question = question_text(to_problem(row, examples, TASKS["mmlu_pro"]))
        answer = row["cot_content"].removeprefix("A: Let's think step by step.").strip()
        before = shots.get(row["category"], "")
        shots[row["category"]] = f"{before}{question} {answer}\n\n"
    return shots


def load_problems(name_or_path, split=None, limit=None, task=None):
    """The problems of a benchmark, hub data set or local file; prints what it drops.

    name_or_path  a key of TASKS, "bbh/navigate", a file, a folder, or a hub OWNER/NAME[:CONFIG]
    split, limit  str, default the benchmark's own test split; int, the first so many
    task          str, the benchmark that a file is a copy of; default: as the file's name begins
    Returns       dicts of `problem`, `answer`, `kind`, `index`; by kind `options`, `error`, `group`
                  and `shots` (its worked examples); ValueError if there is nothing to be read
    """
    files, benchmark = find_files(name_or_path, split, task)
    problems, seen, shots, dropped = [], set(), {}, {"without a gold": 0, "repeated": 0}
    for file in files:
        for row in read_rows(file):
            problem = to_problem(row, file, benchmark)
            repeated = "reward_model" in row and problem["problem"] in seen
            seen.add(problem["problem"])
            if not problem["answer"]:
                dropped["without a gold"] += 1
            elif repeated:  # AIME25 comes 32 times over: that is --k 32
                dropped["repeated"] += 1
            else:
                problems.append({**problem, "index": len(problems)})
        if problems and problems[0].get("group"):
            shots |= worked_examples(file, problems[0]["kind"])
    if not problems:
        raise ValueError(f"{name_or_path} holds no problem with an answer")
    for problem in problems if shots else ():
        problem["shots"] = shots.get(problem["group"], "")
    for reason, count in dropped.items():
        if count:
            print(f"{name_or_path}: dropped {count} rows {reason}, {len(problems)} are left")
    mathematics = [problem for problem in problems if problem["kind"] not in ("choice", "bbh")]
    unread = [problem["answer"][:80] for problem in mathematics if not parses(problem["answer"])]
    if unread:
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
        pairs = zip(LETTERS, problem["options"], strict=False)
        options = "\n".join(f"{letter}. {option}" for letter, option in pairs)
        return f"Question:\n{text}\nOptions:\n{options}\nAnswer: Let's think step by step."
    return text


def encode_prompt(tokenizer, problem, template="chat"):
    """Token ids of the prompt, a list of int: the one function that training and evaluation share.

    template  "chat": the tokenizer's chat template, thinking off where it knows that;
              "base", or no chat template: plain text, for a model that only continues text
    """
    if template not in ("chat", "base"):
        raise ValueError(f"template {template!r} is unknown; legal: chat, base")
    shots, system = problem.get("shots", ""), SYSTEM.get(problem["kind"], BOXED)
    system = None if shots and system == PHRASE else system  # BBH's examples show the form
    question = shots + question_text(problem)
    if template == "chat" and tokenizer.chat_template:
        turns = [{"role": "system", "content": system}] if system else []
        turns.append({"role": "user", "content": question})
        text = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return tokenizer(text, add_special_tokens=False).input_ids  # the template wrote them
    question = f"Question: {question}\nAnswer:" if system == BOXED else question
    return tokenizer(f"{system}\n\n{question}" if system else question).input_ids


# --------------------------------------------------------------------------------------------------
# Extraction: response -> answer

NEXT_QUESTIONS = ("\nQ:", "\nQuestion:")  # where a base model begins a problem of its own
RESPONSE_END = re.compile(r"\n[ \t]*(?:Q|Question|Problem|User|Human):|</s>|<eos>|<\|\w+\|>")
GSM8K_LAST_LINE = re.compile(r"####\s*-?\$?\d[\d,]*(?:\.\d*)?[ a-z]*\n")
MARKUP = re.compile(r"\\(?:boxed|text(?:bf)?|math(?:bf|rm))\{([^{}]*)\}|\*\*|\$|`|\\[()\[\]]")
CHOICE_CUE = re.compile(
    r"\b(?i:answer|option|choice)(?i:\W{0,4}is|\W{0,3}:)\W{0,8}(?i:option )?([A-J])\b")
LONE_LETTER = re.compile(  # not "A cat", "I am"
    r"\(([A-J])\)|(?<![\w'’])(?:([B-HJ])(?![\w'’])|([AI])(?=\W*$))", re.M)  # fmt: skip


def without_markup(text):
    r"""The text without markup around words, two levels deep: \boxed{\text{(A)}} -> (A)."""
    for _ in range(2):
        text = MARKUP.sub(lambda match: match[1] or "", text)
    return text


def choice_answer(text, options):
    """The letter that a response chooses, or None; an option's text in a box is its letter."""
    plain, box = without_markup(text), without_markup(extract_answer(text) or "").strip()
    if box in options:
        return LETTERS[options.index(box)]
    lone = ["".join(groups) for groups in LONE_LETTER.findall(box or plain)]
    found = CHOICE_CUE.findall(plain) or lone
    return next((one for one in reversed(found) if one in LETTERS[: len(options)]), None)


def bbh_answer(text, gold):
    """What follows the last "answer is", to the end of its sentence; else a box, "Answer:"; None.

    Where the task wants a letter, as `gold` shows, B, (B) and "(B) the second" all are (B).
    """
    parts = re.split("answer is", without_markup(text), flags=re.I)
    rest = parts[-1] if len(parts) > 1 else without_markup(extract_answer(text, loose=True) or "")
    sentence = re.split(r"\n|\.\s", rest.lstrip(" :\t\n"))[0]
    answer = sentence.strip(" .!\"'“”")
    if re.fullmatch(r"\([A-Z]\)", gold):
        bare = re.match(r"(?:option |choice )?([A-Z])(?:$|[).:,])", answer, re.I)
        letters = set(re.findall(r"\([A-Z]\)", answer.upper()))
        if bare and not letters:
            return f"({bare[1].upper()})"
        if len(letters) == 1:  # "(A) or (B)" is no answer
            return letters.pop()
    return answer or None


def math_answer(text):
    """The last box, else what `extract_answer` finds in loose mode once the text is tidied."""
    text = re.sub(r"<<[^<>\n]*>>", "", text)  # GSM8K's calculator: 2*3=<<2*3=6>>6
    text = re.sub(r"^A:", "Answer:", text, flags=re.M)
    text = re.sub(r"####(?=[ *]{0,4}(?:\d{1,3}[.)] )?[A-Z][a-z]{2})", "", text)  # a heading
    text = re.sub(r"(?<=\d) ?[x×] ?(?=\$?\d)", " * ", text)
    return extract_answer(text, loose=True)


def answer_in(problem, response, loose=True):
    """The final answer of a response, as text, or None; majority@k votes with it too.

    loose   False counts only a box in mathematics, as training does; True, for evaluation, takes
            the other ways to state a final answer as well, never "the last number"
    """
    text, kind = response[-20_000:].rpartition("</think>")[2], problem["kind"]
    if kind not in ("choice", "bbh") and not loose:
        return extract_answer(text)
    own = RESPONSE_END.split(text)[0]
    last_line = GSM8K_LAST_LINE.search(own)
    if kind not in ("choice", "bbh") and last_line:
        own = own[: last_line.end()]  # what follows is a problem of the model's own
    for part in dict.fromkeys((own, text)):  # all of it only if its own part has no answer
        if kind == "choice":
            answer = choice_answer(part, problem["options"])
        else:
            answer = bbh_answer(part, problem["answer"]) if kind == "bbh" else math_answer(part)
        if answer is not None:
            return answer
    return None


# --------------------------------------------------------------------------------------------------
# Grading: answer -> 1 or 0

NUMBER = re.compile(r"([+-]?\d*\.?\d+\.?(?:e[+-]?\d+)?)(?:/(\d*\.?\d+))?(.*)", re.S)
POWER = re.compile(r"(?:(\d)\s*(?:\\times|\\cdot|[*×])\s*|(?<![\d.]))10\s*\^\s*\{?([+-]?\d+)\}?")
UNIT_MARKUP = re.compile(  # kg \cdot m^{2}, \mathrm{~erg} / \mathrm{s}, ^\circ C, foot-pounds
    r"\^?\{?\\(?:circ|degree|%|AA|mu|Omega)|\\(?:text|mathrm|rm|cdot)|[{}$°%¢~/.·()]"
    r"|(?<=[A-Za-z}])\^\{?-?\d+\}?|(?<=[a-z])-(?=[a-z])")  # fmt: skip
NOT_BESIDE_A_NUMBER = set(
    "or and to not mod base half twice dozen hundred thousand million billion negative minus times "
    "less more than least most over under between".split())  # fmt: skip


def same_text(predicted, answer):
    """BBH's rule: exactly the text, but for case, and for commas and spaces between parts."""
    if not re.search(r"\w", answer) or re.fullmatch(r"-?\d+", answer):  # brackets; numbers
        return re.sub(r"[\s,\\]", "", predicted).replace("−", "-") == re.sub(r"\s", "", answer)
    return re.split(r"[\s,]+", predicted.lower()) == re.split(r"[\s,]+", answer.lower())


def as_number(text, unit=True):
    r"""The float that an answer is, or None; `unit`: words may stand around it.

    6 \times 10^{-4} \text{ m} is 6e-4, "a total of $540 a week" is 540.
    """
    head = re.match(r"[A-Za-z', ]*", text)[0]
    if unit and head.endswith(" ") and are_harmless(head.replace(",", " ")):
        text = text[len(head) :]
    text = re.sub(r"^(?:\s|~|\\?\$|€|£)*", "", text)
    text = re.sub(r"\\[,;! ]|(?<=\d),(?=\d{3})", "", text)
    text = re.sub(r"\\[dt]?frac\{(-?[\d.]+)\}\{([\d.]+)\}", r"\1/\2", text)
    text = POWER.sub(lambda match: f"{match[1] or 1}e{match[2]}", text)
    match = NUMBER.match(text)
    if not match or float(match[2] or 1) == 0 or (match[3] and not unit):
        return None
    if not are_harmless(UNIT_MARKUP.sub(" ", match[3])):  # 540m is 540, 2x is no 2
        return None
    return float(match[1]) / float(match[2] or 1)


def are_harmless(text):
    """Only words, units or not, that leave a number beside them as it is?"""
    words, banned = text.split(), NOT_BESIDE_A_NUMBER & set(text.lower().split())
    letters = all(len(word) > 1 or word in "mgsLhNJWVKCFTa" for word in words)  # a: 5 m a day
    return letters and not banned and all(map(str.isalpha, words))


def is_right(problem, predicted, loose=True, strict=False):
    """Is this extracted answer right by the rule of the problem's kind (table at the top)?"""
    kind, answer = problem["kind"], problem["answer"]
    if kind in ("choice", "bbh"):
        return predicted == answer if kind == "choice" else same_text(predicted, answer)
    if strict or equal(predicted, answer):
        return equal(predicted, answer, strict=strict)
    value, gold = as_number(predicted), as_number(answer, unit=False)
    tolerance = 0.01 * abs(gold or 0) if kind == "minerva" else problem.get("error", 0)
    if value is None or gold is None or not (tolerance or loose and abs(gold) < 2**53):
        return False
    return abs(value - gold) <= tolerance * (1 + 1e-9)  # 4.2 - 4.1 > 0.1


def grade(problem, response, loose=True, strict=False):
    """1.0 if the response's final answer is right, else 0.0; `loose` as in `answer_in`.

    strict compares mathematics as text, by the rules of the method's authors.
    """
    answer = answer_in(problem, response, loose)
    return float(answer is not None and is_right(problem, answer, loose, strict))


def grade_all(problems, responses, loose=True, strict=False, counts=None):
    """The grade of each pair; `counts`, a dict, gets how often each reason for it occurred."""
    counts = {} if counts is None else counts
    if not loose and all(problem["kind"] in ("math", "tiny") for problem in problems):  # training
        golds = [problem["answer"] for problem in problems]
        return score_batch(responses, golds, counts, strict=strict)
    grades = []
    for problem, response in zip(problems, responses, strict=True):
        grades.append(grade(problem, response, loose, strict))
        answered = answer_in(problem, response, loose) is not None
        reason = "right" if grades[-1] else "wrong" if answered else "no answer"
        counts[reason] = counts.get(reason, 0) + 1
    return grades


# --------------------------------------------------------------------------------------------------
# Numbers

REFLECTION = re.compile(
    r"\Await|verify|make sure|hold on|think again|'s correct|'s incorrect|let me check|seems right")
TRANSITION = re.compile(
    r"\Aalternatively|think differently"
    r"|another (?:way|approach|method|solution|strategy|technique)")  # fmt: skip


def count_thoughts(text):
    """How many pieces of a response, cut at blank lines, reflect, change course, or just execute.

    Returns {"reflection": int, "transition": int, "execution": int}
    """
    counts = {"reflection": 0, "transition": 0, "execution": 0}
    for piece in re.split(r"\n\s*\n", text.lower().replace("’", "'")):
        piece = piece.strip()
        if REFLECTION.search(piece):
            counts["reflection"] += 1
        elif TRANSITION.search(piece):
            counts["transition"] += 1
        elif piece:
            counts["execution"] += 1
    return counts


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
        for group in groups:
            if is_right({**problem, "answer": group[0]["answer"]}, row["answer"]):
                group.append(row)
                break
        else:
            groups.append([row])
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
    right = [row for row in rows if row["correct"]]
    wrong = [row for row in rows if not row["correct"]]
    summary = {
        "problems": len(problems),
        "k": k,
        "avg_at_k": avg_at_k(correct),  # over all problems: the micro mean
        "avg_at_k_se": standard_error(correct),
        "pass_at_k": {j: statistics.fmean(pass_at_k(k, c, j) for c in counts) for j in sizes},
        "majority_at_k": statistics.fmean(map(majority, problems, of_problem)),
        "cut": statistics.fmean(not row["finished"] for row in rows),
        "no_answer": statistics.fmean(row["answer"] is None for row in rows),
        "length": statistics.fmean(row["tokens"] for row in rows),
        "thoughts": {},
    }
    for name in ("reflection", "transition"):
        sides = {"right": thought_rates(right, name), "wrong": thought_rates(wrong, name)}
        summary["thoughts"][name] = thought_rates(rows, name) | sides
    groups = {}
    for problem, grades in zip(problems, correct, strict=True):
        groups.setdefault(problem.get("group"), []).append(grades)
    if None not in groups:
        summary["groups"] = {name: avg_at_k(grades) for name, grades in groups.items()}
        summary["macro_avg"] = statistics.fmean(summary["groups"].values())
    return summary


# --------------------------------------------------------------------------------------------------
# Evaluation

ROWS_PER_CALL = 512  # responses sampled together, then saved


def evaluate(
    model, tokenizer, problems, *, k, max_new_tokens, template="chat", strict=False,
    grade_with=None, **sampling,
):  # fmt: skip
    """Sample k responses to each problem, all in one `generate`, and grade them.

    strict      bool, grade mathematics as the method's authors do: a box, compared as text
    grade_with  function (problems, responses) -> floats, such as that of training, for `grade`
    sampling    of `rollout.generate`: temperature, top_p, top_k, seed, progress, ...
    Returns     (summary, rows): see `summarize`; a dict for each response, a problem's k adjacent
    """
    if k < 1 or not problems:
        raise ValueError(f"k = {k} responses to {len(problems)} problems: both must be at least 1")
    prompts = [encode_prompt(tokenizer, problem, template) for problem in problems]
    shown = any(problem.get("shots") for problem in problems)  # what may be continued
    continues = shown or template == "base" or not tokenizer.chat_template
    rollout = generate(
        model, prompts, group_size=k, max_new_tokens=max_new_tokens, eos_ids=model.eos_ids,
        tokenizer=tokenizer, stop_strings=NEXT_QUESTIONS if continues else (), **sampling,
    )  # fmt: skip
    texts = rollout.response_texts(tokenizer)
    of_row = [problem for problem in problems for _ in range(k)]
    loose = not strict and grade_with is None
    grades = grade_with(of_row, texts) if grade_with else grade_all(of_row, texts, loose, strict)
    tokens, finished = rollout.response_mask.sum(1).tolist(), rollout.finished.tolist()
    rows = [
        {
            "index": problem.get("index", i // k), "sample": i % k, "problem": problem["problem"],
            "ground_truth": problem["answer"], "response": texts[i],
            "answer": answer_in(problem, texts[i], loose), "correct": grades[i],
            "finished": finished[i], "tokens": tokens[i], **count_thoughts(texts[i]),
        }
        for i, problem in enumerate(of_row)
    ]  # fmt: skip
    return summarize(problems, rows, k), rows


def read_saved(path):
    """The rows of a file of JSON lines; a last line that a kill cut short is removed."""
    text = path.read_text("utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, "utf-8")
    return [json.loads(line) for line in whole.split("\n")[:-1]]


def run_task(model, tokenizer, name, problems, args, path):
    """Sample what `path` lacks of a task, chunk by chunk; returns the task's summary."""
    how = {key: getattr(args, key) for key in ("top_p", "top_k", "template", "strict")}
    task = TASKS.get(name.partition("/")[0], OTHER)
    how["k"], how["temperature"] = args.k or task.k, args.temperature
    if args.temperature is None:  # k greedy responses would be one
        how["temperature"] = 1.0 if how["k"] > 1 else 0.0
    how["max_new_tokens"] = args.max_new_tokens
    if args.max_new_tokens is None:  # no more than the model has room for
        longest = max(len(encode_prompt(tokenizer, one, args.template)) for one in problems)
        how["max_new_tokens"] = max(1, min(task.max_new_tokens, model.max_positions - longest))
    # The text of the problem is part of the key: rows of other data do not count.
    key_of = itemgetter("task", "problem", "index", "sample")
    done = {key_of(row): row for row in read_saved(path)}
    wanted = [(name, one["problem"], one["index"], i) for one in problems for i in range(how["k"])]
    start, tokens, size = time.perf_counter(), 0, max(1, ROWS_PER_CALL // how["k"])
    for first in range(0, len(problems), size):
        part = problems[first : first + size]
        keys = wanted[first * how["k"] : (first + size) * how["k"]]
        if all(key in done for key in keys):
            continue
        # Draws belong to (seed, place in the chunk, sample): a resumed run repeats them.
        seed, label = args.seed * 1_000_003 + first, f"{name} {first + len(part)}/{len(problems)}"
        _, rows = evaluate(model, tokenizer, part, seed=seed, progress=label, **how)
        tokens += sum(row["tokens"] for row in rows)
        with path.open("a", encoding="utf-8") as file:
            for key, row in zip(keys, rows, strict=True):
                if key not in done:
                    done[key] = {"task": name, **row}
                    file.write(json.dumps(done[key], ensure_ascii=False) + "\n")
    seconds = time.perf_counter() - start
    summary = summarize(problems, [done[key] for key in wanted], how["k"])
    summary["sampling"] = how | {"seed": args.seed}
    if tokens:  # sampled now
        summary |= {"seconds": seconds, "tokens_per_second": tokens / seconds}
    return summary


def headline(name, summary):
    error = f"+- {summary['avg_at_k_se']:.4f} over {summary['problems']} problems"
    return f"{name}: Avg@{summary['k']} {summary['avg_at_k']:.4f} {error}"


def report(name, summary):
    """All figures of a task, rounded, a line each."""
    rounded = json.loads(json.dumps(summary), parse_float=lambda text: round(float(text), 4))
    print(headline(name, summary))
    thoughts = rounded.pop("thoughts")
    for key, value in (rounded | thoughts).items():
        if key not in ("problems", "k", "avg_at_k", "avg_at_k_se"):
            print(f"  {key:18} {json.dumps(value)}")


def compare(folders, picture):
    """Print the Avg@k of finished runs side by side and draw their pass@k curves."""
    import matplotlib

    matplotlib.use("Agg")  # a file, no window
    from matplotlib import pyplot

    curves = {}  # task -> [(folder, summary)]
    for folder in folders:
        path = Path(folder) / "results.json"
        if not path.exists():
            raise ValueError(f"{folder} has no results.json: give the --out folders of runs")
        for task, summary in json.loads(path.read_text())["tasks"].items():
            curves.setdefault(task, []).append((folder, summary))
    size = (4 * len(curves), 3.5)
    figure, axes = pyplot.subplots(1, len(curves), figsize=size, squeeze=False, layout="tight")
    for axis, (task, runs) in zip(axes[0], curves.items(), strict=True):
        for folder, summary in runs:
            print(f"{headline(task, summary)}  {folder}")
            sizes, values = zip(*summary["pass_at_k"].items(), strict=True)
            axis.plot(list(map(int, sizes)), values, marker="o", label=str(folder))
        axis.set(title=task, xlabel="k", ylabel="pass@k", xscale="log", ylim=(0, 1))
        axis.legend(fontsize="small")
    figure.savefig(picture)
    pyplot.close(figure)
    print(f"wrote {picture}")


def demo():
    """A made-up sampler, right with probability 0.3: Avg@8 and pass@8 come out as they must."""
    draw, rows = random.Random(0), []
    problems = [{"problem": f"{a} + {a}", "answer": str(2 * a), "kind": "math"} for a in range(400)]
    for problem in [problem for problem in problems for _ in range(8)]:
        slip = 0 if draw.random() < 0.3 else draw.randint(1, 3)
        text = f"Wait.\n\nSo it is \\boxed{{{int(problem['answer']) + slip}}}."
        row = {"answer": answer_in(problem, text), "correct": grade(problem, text)}
        rows.append({**row, "finished": True, "tokens": 9, **count_thoughts(text)})
    summary = summarize(problems, rows, 8)
    report("sums, right with probability 0.3", summary)
    assert abs(summary["avg_at_k"] - 0.3) < 0.03, summary["avg_at_k"]
    assert abs(summary["pass_at_k"][8] - (1 - 0.7**8)) < 0.03, summary["pass_at_k"]


def parse_args(argv):
    about = "Benchmarks, scored the standard way. No arguments: a demo."
    known = f"{', '.join(TASKS)}, bbh/TASK, tiny, a file, or a hub data set"
    parser = argparse.ArgumentParser(description=about)
    add = parser.add_argument
    add("--model", default="tiny", help="tiny (default), a folder, a short name or a hub id")
    add("--tasks", help=f"comma-separated: {known}")
    add("--data", action="append", default=[], metavar="TASK=FILE", help="your copy of a task")
    add("--k", type=int, help="responses per problem (default: the task's)")
    add("--limit", type=int, help="problems, the first so many (default: all)")
    add("--max-new-tokens", type=int, help="tokens (default: the task's)")
    add("--temperature", type=float, help="default 0 (greedy) for one response, else 1")
    add("--top-p", type=float, default=1.0, help="1 (default) is off")
    add("--top-k", type=int, default=0, help="0 (default) is off")
    add("--seed", type=int, default=0, help="default 0")
    add("--template", choices=("chat", "base"), default="chat", help="base: plain text")
    add("--strict", action="store_true", help="as the method's authors: a box, compared as text")
    add("--out", default="out-eval", help="folder of the results; if it exists, the run goes on")
    add("--compare", nargs="+", metavar="FOLDER", help="finished runs side by side")
    args = parser.parse_args(argv)
    if not (args.tasks or args.compare):
        parser.error(f"give --compare or --tasks: {known}")
    return args


def open_results(path, args):
    """The results so far, {settings, versions, tasks}; other settings need another folder."""
    free = ("tasks", "data", "limit", "out", "compare")  # may differ in a run that goes on
    settings = {key: value for key, value in vars(args).items() if key not in free}
    results = json.loads(path.read_text()) if path.exists() else {"settings": settings, "tasks": {}}
    for key, value in settings.items():
        if (old := results["settings"].get(key)) != value:
            made = f"was made with {key} {old}, not {value}"
            raise ValueError(f"{path.parent} {made}: give another --out")
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return results | {"versions": {"python": sys.version.split()[0], **versions}}


def run(args):
    """Evaluate the tasks one by one; results.json is whole after each."""
    for key in ("k", "limit", "max_new_tokens"):
        if (value := getattr(args, key)) is not None and value < 1:
            raise ValueError(f"--{key.replace('_', '-')} {value}: must be at least 1")
    tasks, data = args.tasks.split(","), dict(item.partition("=")[::2] for item in args.data)
    for name, file in data.items():
        if not file or name not in tasks:
            raise ValueError(f"--data {name}: must read TASK=FILE, TASK of --tasks {args.tasks}")
    folder = Path(args.out)
    results = open_results(folder / "results.json", args)
    problems = [
        load_problems(data.get(name, name), limit=args.limit, task=name if name in data else None)
        for name in tasks
    ]
    print("settings:", json.dumps(results["settings"] | results["versions"]))
    model, tokenizer = load_model(args.model, **best_device())
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in zip(tasks, problems, strict=True):
        summary = run_task(model, tokenizer, name, part, args, folder / "responses.jsonl")
        results["tasks"][name] = results["tasks"].get(name, {}) | summary
        (folder / "results.json").write_text(json.dumps(results, indent=2))
        report(name, results["tasks"][name])
    compare([folder], folder / "pass_at_k.png")


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    try:
        if not argv:
            demo()
            return 0
        args = parse_args(argv)
        compare(args.compare, "compare.png") if args.compare else run(args)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
