r"""Problems and benchmarks: where they are found, how they are prompted and graded.

A problem is a dict: `problem`, `answer` (texts), `kind`, `index`, and what its kind needs.

| kind       | the answer is                                | right when                        |
| math, tiny | the last box, else "####", "answer is"       | `reward.equal`, its unit dropped  |
| olympiad   | the same                                     | or within the problem's `error`   |
| minerva    | the same                                     | or numbers within 1 %             |
| choice     | "answer is (X)", a box, a lone letter        | that letter; none is no guess     |
| bbh        | what follows the last "answer is"            | the same text, see `same_text`    |
"""

import csv
import importlib.util
import io
import json
import math
import random
import re
import urllib.request
import zipfile
from collections import Counter
from functools import partial
from itertools import dropwhile
from pathlib import Path
from typing import NamedTuple

import huggingface_hub

from plumbing.answers import DOUBT, END, REAL, Parser, evaluate, normalise, tokenize
from plumbing.checkpoints import resolve_model
from plumbing.processes import world_size
from reward import equal, extract_answer, parses, score_batch
from tiny import NAMED_WORLDS


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


def load_data(config, tokenizer, max_positions):
    """(training problems with "prompt_ids", evaluation problems); says what is left, held out."""
    # those that come with a training and a test set
    splits = {**{world: world for world in NAMED_WORLDS}, "math": "math500", "gsm8k": "gsm8k"}
    problems = load_problems(config.data, split="train" if config.data in splits else None)
    if config.eval_data or config.data in splits:
        held_out = load_problems(config.eval_data or splits[config.data])
    else:
        count = min(config.eval_problems, len(problems) // 5)
        held_out, problems = problems[len(problems) - count :], problems[: len(problems) - count]
        last = f"the last {count} problems of {config.data}"
        print(f"{last} are held out for evaluation (--eval-data gives others)")
    if not tokenizer.chat_template:
        print("the tokenizer has no chat template: prompts are plain text, Question: ... Answer:")
    held_out = held_out[: config.eval_problems]
    problems = [problem | {"prompt_ids": encode_prompt(tokenizer, problem)} for problem in problems]
    limit, total = config.max_prompt_tokens, len(problems)
    short = [problem for problem in problems if len(problem["prompt_ids"]) <= limit]
    if dropped := total - len(short):
        print(f"{dropped} of {total} prompts are longer than --max-prompt-tokens {limit}: left out")
    if not short or len(held_out) < world_size():
        left = f"{len(short)} problems to train on and {len(held_out)} to evaluate on"
        raise ValueError(f"{config.data} leaves {left}: give more data, or --eval-data")
    longest = max(len(problem["prompt_ids"]) for problem in short) + config.max_response_tokens
    if longest > max_positions:
        lengths = f"may reach {longest} tokens, the model has {max_positions} positions"
        raise ValueError(f"prompt and response {lengths}: lower --max-response-tokens")
    return short, held_out

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
WORD = re.compile(r"(?<![\\A-Za-z])(?!pi\b)(?:[^\W\d_]{2,}|[mgsLhNJWVKCFTa](?!\w))")  # a: 5 m a day
ANOTHER_NUMBER = re.compile(  # what words before a number may make of it
    DOUBT.pattern + r"|\b(?:or|to|mod|base|negative|minus|less|more|than|over|under|between)\b")


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
    text = re.sub(r"\\text\s?\{([^{}]*)\}", r" \1 ", normalise(text))
    text = re.sub(r"(?<=[A-Za-z])[.-](?=[ A-Za-z]|$)", " ", text)  # sq. ft., a.m., foot-pounds
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    if not unit and WORD.search(text):
        return None
    try:
        tokens = tokenize(WORD.sub(r"\\text{\g<0>}", text))
        number = list(dropwhile(lambda token: token[0] == "word", tokens))
        before = " ".join(word for _, word in tokens[: len(tokens) - len(number)])
        parser = Parser(number)
        tree = parser.expression()
        if parser.tokens != [END] or ANOTHER_NUMBER.search(before):
            return None
        value = float(evaluate(tree, REAL | {"%": 1}))
        return value if math.isfinite(value) else None
    except (ValueError, ArithmeticError):
        return None


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


def load_grader(spec):
    """grade(problems, responses, counts) -> floats in [0, 1]: standard, or a file.py:function.

    counts  dict | None  the standard one adds up its reasons there: right, wrong, unparsable, ...
    """
    if spec is None:
        return partial(grade_all, loose=False)
    path, _, name = spec.rpartition(":")
    if not Path(path).is_file():
        raise ValueError(f"--reward {spec!r}: no such file; give file.py:function")
    module_spec = importlib.util.spec_from_file_location("user_reward", path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    if not callable(getattr(module, name, None)):
        raise ValueError(f"--reward {spec!r}: {path} has no function {name}")
    function = getattr(module, name)

    def grade(problems, responses, counts=None):
        pairs = zip(problems, responses, strict=True)
        rewards = [float(function(problem, text)) for problem, text in pairs]
        if not all(0 <= reward <= 1 for reward in rewards):  # NaN fails too
            found = f"gives {min(rewards)} to {max(rewards)}"
            raise ValueError(f"--reward {spec!r}: {name} {found}: it must lie in [0, 1]")
        return rewards

    return grade
