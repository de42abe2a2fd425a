"""Data sets: where they are found, how their files are read, and their rows as problems.

A problem is a dict: `problem` and `answer` (texts), `alternatives` (a list, where any of several
answers is right), `kind` (how it is prompted and graded: prompts.py, grading.py), `index`, what its
kind needs (`options`, `error`, `group`, `shots`), every other column of the file, and `row`: the
row as it stands in the file, which a verifier gets. rows.py reads files, layouts.py their rows.

    --data NAME | FILE | NAME=FILE (a copy of that benchmark) | FOLDER | OWNER/NAME[/CONFIG][/SPLIT]

On the hub the config is the one named, else `default`, else the only one; the split is `train` for
training and `test` for evaluation, else the only one. What was taken is printed. A folder is a copy
of such a set, with train.jsonl or data/train-00000-of-00002.parquet, or BBH's with its .json files.
"""

import io
import math
import re
import unicodedata
import urllib.request
import zipfile
from collections import Counter
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError

from plumbing.console import say
from plumbing.hub import CLIENT_ERRORS, hub_errors, resolve_model
from plumbing.layouts import FAULTY, NO_GOLDS, PICTURE, clean, is_read, lowered, numbering_of
from plumbing.layouts import plain_name, roles_not_asked, to_problem
from plumbing.processes import world_size
from plumbing.prompts import check_embeddings, control_tokens_in, describe_template
from plumbing.prompts import encode_prompt, opens_thought, question_text
from plumbing.rows import SUFFIXES, columns_of, read_rows
from reward import parses
from tiny import NAMED_WORLDS


class Task(NamedTuple):
    """Where a benchmark is found, and how it is graded and sampled."""

    kind: str  # how it is prompted, extracted and graded
    hub: str  # data set on the hub, or the address of a zip archive
    columns: str
    licence: str = "none stated"
    k: int = 1  # responses to each problem, unless --k says otherwise
    config: str = "default"
    file: str | None = None  # its one file, where that is not among the parquet files of the hub


# From the data sets' documentation, and not tried: check hub ids and columns on the cards.
TASKS = {
    "gsm8k": Task("math", "openai/gsm8k", "question, answer", "MIT", config="main"),
    "math": Task("math", "DigitalLearningGmbH/MATH-lighteval", "problem, solution", "MIT"),
    "math500": Task("math", "HuggingFaceH4/MATH-500", "problem, answer"),
    "aime24": Task("math", "math-ai/aime24", "problem, solution", k=32),
    "aime25": Task("math", "math-ai/aime25", "problem, answer", k=32),
    "aime26": Task("math", "math-ai/aime26", "problem, answer", k=32),
    "amc23": Task("math", "math-ai/amc23", "question, answer", k=32),
    "olympiadbench": Task("olympiad", "Hothan/OlympiadBench", "question, final_answer, error",
                          "Apache-2.0", k=32, config="OE_TO_maths_en_COMP"),
    "minerva": Task("minerva", "math-ai/minervamath", "question, answer", k=32),
    "mmlu_pro": Task("choice", "TIGER-Lab/MMLU-Pro", "question, options, answer", "MIT"),
    "gpqa": Task("choice", "Idavidrein/gpqa", "Question, Correct Answer, Incorrect Answer 1 to 3",
                 "CC-BY-4.0, gated", file="gpqa_diamond.csv"),
    "bbh": Task("bbh", "https://github.com/suzgunmirac/BIG-Bench-Hard/archive/refs/heads/main.zip",
                "input, target", "MIT", file="*/bbh/*.json"),
}  # fmt: skip
OTHER = Task("math", "", "problem, answer", k=8)  # any other source
# The hub keeps a parquet copy of each data set: CONFIG/[partial-]SPLIT[-partN]/NNNN.parquet
REVISION = "refs/convert/parquet"
CONVERTED = re.compile(r"([^/]+)/(?:partial-)?([^/]+?)(?:-part\d+)?/\d+\.parquet")
RECORDS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
SPLITS = ("train", "test", "valid", "validation", "val", "dev")
HUB_NAME = re.compile(r"\w[\w.-]*(?:/[\w.-]+){1,3}")  # OWNER/NAME[/CONFIG][/SPLIT]


def task_of(name):
    """The Task of a benchmark's name, "bbh/TASK" included; of any other name OTHER."""
    return TASKS.get("bbh" if name.startswith("bbh/") else name, OTHER)

# --------------------------------------------------------------------------------------------------
# Finding files


def fetch(hub, revision, patterns, local=False):
    """The local folder with those files of a data set of the hub, downloaded once."""
    folder = huggingface_hub.snapshot_download(
        hub, repo_type="dataset", revision=revision, allow_patterns=patterns, local_files_only=local
    )
    return Path(folder)


def list_parts(hub):
    """{(config, split): its files} of a data set on the hub; without network of those at hand."""
    try:
        info = huggingface_hub.dataset_info(hub, revision=REVISION)
        names = [file.rfilename for file in info.siblings]
    except HfHubHTTPError:
        raise
    except CLIENT_ERRORS:
        folder = fetch(hub, REVISION, ["*/*/*.parquet"], local=True)
        names = [path.relative_to(folder).as_posix() for path in folder.glob("*/*/*.parquet")]
    parts = {}
    for name in sorted(names):
        if found := CONVERTED.fullmatch(name):
            parts.setdefault(found.groups(), []).append(name)
    return parts


def choose_part(source, parts, config, splits):
    """The (config, split) that a source names, see the header; `splits`: which to take first.

    Raises ValueError that lists what there is.
    """
    left = [part for part in parts if set(source.split("/")[2:]) <= set(part)]
    if len({name for name, _ in left}) > 1:
        left = [part for part in left if part[0] == config]
    for split in splits:
        left = [part for part in left if part[1] == split] or left
    if len(left) != 1:
        known = ", ".join("/".join(part) for part in parts)
        raise ValueError(f"{source}: name one of its parts, {source}/CONFIG/SPLIT: it has {known}")
    return left[0]


def download_archive(address):
    """The folder of BBH's archive, from the network once."""
    folder = Path.home() / ".cache" / "dsrl" / "bbh"
    if not folder.exists():
        archive = urllib.request.urlopen(address, timeout=60).read()  # seconds
        partial = folder.with_name("bbh.partial")  # half of it is never taken for the set
        zipfile.ZipFile(io.BytesIO(archive)).extractall(partial)
        partial.rename(folder)
    return folder


def download(source, task, split):
    """(files, what was taken) of a named task or of OWNER/NAME[/CONFIG][/SPLIT] on the hub."""
    is_named, hub = task is not OTHER, task.hub or "/".join(source.split("/")[:2])
    advice = f"give a copy, --data {source}=FILE" if is_named else "give a copy, --data FILE"
    page = f"https://huggingface.co/datasets/{hub}"
    with hub_errors(hub, page, advice, is_gated="gated" in task.licence):
        if task.file:
            is_archive = hub.startswith("https:")
            folder = download_archive(hub) if is_archive else fetch(hub, None, [task.file])
            return sorted(folder.glob(task.file)), ""
        parts = list_parts(hub)
        if not parts:
            raise ValueError(f"{hub} has no parquet copy on the hub: {advice}")
        splits = (split, "test") if is_named else (split,)
        config, split = choose_part(hub if is_named else source, parts, task.config, splits)
        examples = parts.get((config, "validation"), []) if task.kind == "choice" else []
        names = parts[config, split]
        folder = fetch(hub, REVISION, names + examples)
        return [folder / name for name in names], f" ({hub}, config {config}, split {split})"


def is_hub_name(source):
    """Whether a source reads OWNER/NAME[/CONFIG][/SPLIT], and no such path is here."""
    is_path = Path(source).exists() or Path(source).suffix.lower() in SUFFIXES
    return bool(HUB_NAME.fullmatch(source)) and not is_path


def files_of_split(folder, split):
    """Those of a split in a folder, as a copy of a data set of the hub has them."""
    of_split = re.compile(rf"{split}(?:-\d+-of-\d+)?")
    found = [file for place in (folder, folder / "data") for file in sorted(place.glob(f"{split}*"))
             if of_split.fullmatch(file.stem) and file.suffix in SUFFIXES]  # fmt: skip
    inner = sorted((folder / split).glob("*"))
    found = found or [file for file in inner if file.suffix in SUFFIXES]
    for file in found:
        shards = re.search(r"-of-(\d+)$", file.stem)
        if shards and len(found) < int(shards[1]):
            parts = f"{len(found)} of the {int(shards[1])} parts of {split}"
            raise ValueError(f"{file.parent} has {parts}: fetch the others")
    return found


def files_in(folder, split):
    """The files of a folder: of a split, or BBH's tasks."""
    if not folder.is_dir():
        raise ValueError(f"{folder} can be read once only: save it as a file, .jsonl ...")
    # Of a folder with splits no other is taken: train.json is not BBH's.
    splits = [name for name in SPLITS if files_of_split(folder, name)]
    if len(splits) == 1 and split not in splits:  # as on the hub
        say(f"{folder} has no split {split}: {splits[0]} is taken, the only one")
        split = splits[0]
    found = files_of_split(folder, split) or [
        file for file in sorted(folder.glob("*.json"))
        if file.name not in RECORDS and file.stem not in SPLITS]  # fmt: skip
    if not found:
        is_arrow = any([*folder.glob("*.arrow"), *folder.glob("*/*.arrow")])
        within = {file.parent.name for file in folder.glob("[!.]*/*") if file.suffix in SUFFIXES}
        remedy = f"one of its folders, {', '.join(sorted(within))}" if within else "a file"
        remedy = "its Arrow files as .parquet or .jsonl" if is_arrow else remedy
        if packed := [file.name for file in folder.glob(f"{split}*.gz")]:
            remedy = f"it unpacked, {packed[0]}"
        raise ValueError(f"the folder {folder} has no {split}.jsonl, .json ...: give {remedy}")
    return found


def find_files(source, split, copy_of):
    """(files, Task, what was taken) of a benchmark, "bbh/TASK", a file, a folder or a hub name."""
    name, _, copy = source.partition("=")
    if copy and task_of(name) is not OTHER and not Path(source).exists():
        if not Path(copy).exists():
            raise ValueError(f"no file {copy!r}, which {source} names as a copy of {name}")
        source, copy_of = copy, name
    path = Path(resolve_model(source), f"{split}.jsonl") if source in NAMED_WORLDS else Path(source)
    if source and path.exists():
        files = [path] if path.is_file() else files_in(path, split)
        taken = f", {', '.join(file.name for file in files[:3])}" if path.is_dir() else ""
        return files, task_of(copy_of or ""), taken  # The file's own name decides nothing.
    part = source.removeprefix("bbh/") if source.startswith("bbh/") else None
    if source not in TASKS and part is None and not is_hub_name(source):
        known = f"known tasks: {', '.join(TASKS)}; or OWNER/NAME of the hub"
        raise ValueError(f"no file and no task {source!r}; {known}")
    task = task_of(source)
    found, taken = download(source, task, split)
    files = [file for file in found if part in (None, file.stem)]
    if not files:
        known = ", ".join(file.stem for file in found)
        raise ValueError(f"{source}: no such file in {task.hub}; known: {known}")
    return files, task, taken

# --------------------------------------------------------------------------------------------------
# Loading


def worked_examples(file, task):
    """{group: examples before its questions}: BBH's 3 of each task, MMLU-Pro's 5 per category."""
    shots = {}
    for folder in file.parents[:2]:  # the repository of BBH keeps them beside its folder of tasks
        path = folder / "cot-prompts" / f"{file.stem}.txt"
        if path.exists():  # a canary, a line of dashes, the examples
            shots[file.stem] = path.read_text("utf-8").partition("-----\n")[2].strip() + "\n\n"
    examples = Path("validation".join(str(file).rsplit("test", 1)))  # the last "test" in its path
    if task is not TASKS["mmlu_pro"] or examples == file or not examples.exists():
        return shots
    for _, row in read_rows(examples):
        question = question_text(to_problem(row, task))
        answer = row["cot_content"].removeprefix("A: Let's think step by step.").strip()
        before = shots.get(row["category"], "")
        shots[row["category"]] = f"{before}{question} {answer}\n\n"
    return shots


def reason_against(row):
    """Why a row cannot be used whatever it asks, or ""."""
    low = lowered(row)
    pictures = [low[name] for name in low if PICTURE.fullmatch(name)]
    if any(one and clean(one).casefold() not in NO_GOLDS for one in pictures):
        return "with a picture"
    is_faulty = any(low.get(name) in values for name, values in FAULTY.items())
    return "marked as faulty" if is_faulty else ""


def read_problems(files, task, keep_rows, need_answer, counts):
    """Yield the problems of files, each once; `counts` gets the rows read and those dropped."""
    seen = {}  # hash of a question and its options -> hash of its answer
    unread = ""  # of the first gold that is no answer

    @cache
    def numbering():  # It takes all rows, which are read once more if a gold is a number.
        rows = chain.from_iterable(read_rows(file, is_read) for file in files)
        found = numbering_of(one for one in rows if not reason_against(one[1]))
        told = "the texts of options" if found == "text" else f"options counted from {found}"
        if found is not None:
            say(f"{files[0]}: golds that are numbers are {told}")
        return found

    for file in files:
        for place, row in read_rows(file, None if keep_rows else is_read):
            counts["rows"] += 1
            if unfit := reason_against(row):
                counts[unfit] += 1
                continue
            try:
                problem = to_problem(row, task, numbering)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{file}{place}: {error}") from error
            roles = sorted({*roles_not_asked(row)})
            counts.update(f"turn of the {role}" for role in roles)
            question, is_bbh = problem["problem"].strip(), problem["kind"] == "bbh"
            category = row.get("category") if task is TASKS["mmlu_pro"] else None
            problem["group"] = file.stem if is_bbh else category
            key, answer = hash((question, str(problem["options"]))), hash(problem["answer"])
            if not question:
                counts["without a question"] += 1
            elif need_answer and problem["fault"]:  # code, among mathematics
                first = f"{file.name}{place}: {problem['fault']}"
                unread = unread or f"whose gold is no answer ({first})"
                counts[unread] += 1
            elif need_answer and not problem["answer"]:
                counts["without an answer"] += 1
            elif key in seen and not is_bbh:  # BBH is graded with its 4 repeats.
                other = "" if seen[key] == answer else " with another answer"
                counts[f"repeated{other}"] += 1
            else:
                seen[key] = answer
                del problem["fault"]
                yield {**row, **problem, "row": row} if keep_rows else problem


def load_problems(
    name_or_path, split=None, limit=None, task=None, keep_rows=True, need_answer=True
):
    """The problems of a benchmark, hub data set or local file, each once; prints what was taken.

    name_or_path  as --data above; NAME is a key of TASKS, "bbh/navigate" or a tiny world
    split, limit  str, default "test"; int, the first so many
    task          str, the benchmark that a file is a copy of; without it a file is of none
    keep_rows     bool, keep every column: False takes far less memory of a large set
    need_answer   bool, drop rows without an answer: a verifier of one's own may need none
    Returns       dicts, see the header. Raises ValueError that names the file and the row.
    """
    files, benchmark, taken = find_files(str(name_or_path), split or "test", task)
    counts = Counter()
    found = read_problems(files, benchmark, keep_rows, need_answer, counts)
    problems = list(islice(found, limit))
    turns = {name: counts.pop(name) for name in list(counts) if name.startswith("turn")}
    told = f"{name_or_path}{taken}: {counts.pop('rows', 0):,} rows, {len(problems):,} problems"
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
    kinds = sorted({problem["kind"] for problem in problems} - {"math", "tiny"})
    told += f", graded as {' and '.join(kinds)}" if kinds else ""
    columns = [str(name) for name in columns_of(files[0]) if str(name).strip()]
    if others := [name for name in columns if not is_read(plain_name(name))]:
        told += f"; columns not read: {', '.join(others)}"
    say(f"{told}; dropped {dropped}" if dropped else told)
    if turns:
        found = ", ".join(f"a {name} in {count:,} rows" for name, count in turns.items())
        say(f"warning: {name_or_path} has conversations, of which the last turn of a user alone "
            f"is asked; before it there is {found}")  # fmt: skip
    if not problems:
        raise ValueError(
            f"{name_or_path} holds no problem with an answer: expected {benchmark.columns}; its "
            f"columns are {', '.join(columns) or 'none'}; dropped {dropped or 'none'}"
        )
    shots = {}
    if any(problem["group"] for problem in problems):
        for file in files:
            shots |= worked_examples(file, benchmark)
    for index, problem in enumerate(problems):
        problem |= {"index": index, "shots": shots.get(problem["group"], "")}
    golds = {one["answer"] for one in problems if one["kind"] not in ("choice", "bbh")} - {""}
    if letters := [one["problem"] for one in problems if re.fullmatch("[A-Ea-e]", one["answer"])
                   and one["kind"] == "math" and not re.search(r"\b[Bb]\b", one["problem"])]:
        say(f"warning: {len(letters)} golds of {name_or_path} are a letter, and neither a column "
            f"nor the question has options, as in {letters[0][:80]!r}")  # fmt: skip
    if unread := [gold[:80] for gold in sorted(golds) if not parses(gold)]:
        say(f"{name_or_path}: {len(unread)} golds match as text only: {unread[:20]}")
    return problems


def has_test_split(source):
    """Whether --data is a data set of the hub, or a copy, with a training and a test split."""
    if Path(source).is_dir():
        return all(files_of_split(Path(source), split) for split in ("train", "test"))
    if not is_hub_name(source):
        return False
    parts = list_parts("/".join(source.split("/")[:2]))
    splits = [choose_part(source, parts, OTHER.config, first)[1]
              for first in (["train"], ["test", "train"])]  # fmt: skip
    return splits == ["train", "test"]


def encode_prompts(tokenizer, problems, limit, vocab_size):
    """The problems with "prompt_ids", without those whose prompt passes `limit` tokens; told."""
    shared = {}  # id -> itself: the prompts of a large set hold each number once, not a copy each
    thought = {"opens_thought": True} if opens_thought(tokenizer) else {}
    for problem in problems:
        problem |= thought
        ids = encode_prompt(tokenizer, problem)
        problem["prompt_ids"] = [shared.setdefault(id, id) for id in ids]
        check_embeddings(tokenizer, problem, ids, vocab_size)
    held = control_tokens_in(tokenizer, problems)
    if tokens := sorted({*held} - {None}):
        say(f"{len(held) - held.count(None)} of {len(held)} questions hold control tokens of the "
            f"model, {' '.join(tokens)}, which it would obey: left out")  # fmt: skip
    problems = [problem for problem, token in zip(problems, held, strict=True) if token is None]
    short = [problem for problem in problems if len(problem["prompt_ids"]) <= limit]
    if long := len(problems) - len(short):
        say(f"{long} of {len(problems)} prompts are longer than {limit} tokens, which "
            "--max-prompt-tokens and --max-response-tokens allow: left out")  # fmt: skip
    return short


def words_of(problem):
    """What two copies of a question share, however they are laid out."""
    return " ".join(unicodedata.normalize("NFC", problem["problem"]).split())


def load_data(config, tokenizer, max_positions, vocab_size=math.inf):
    """(training problems, evaluation problems) with "prompt_ids"; says what is left, held out."""
    is_own = config.reward is not None  # a verifier gets whole rows, and may need no answer
    options = {"keep_rows": is_own, "need_answer": not is_own}
    problems = load_problems(config.data, split="train", **options)
    test_of = {**{world: world for world in NAMED_WORLDS}, "math": "math500", "gsm8k": "gsm8k"}
    test = config.eval_data or test_of.get(config.data)
    if test is None and has_test_split(config.data):
        test = config.data
    if test:
        held_out = load_problems(test, **options)[: config.eval_problems]
        trained = set(map(words_of, problems))
        if both := sum(words_of(problem) in trained for problem in held_out):
            # To evaluate on them is a person's choice, so none is taken out.
            say(f"warning: {both:,} of {len(held_out):,} evaluation problems of {test} are in "
                f"{config.data} too")  # fmt: skip
    else:
        most = max(len(problems) // 5, world_size())  # 20 %, but one for each process
        count = min(config.eval_problems, most, len(problems))
        held_out, problems = problems[len(problems) - count :], problems[: len(problems) - count]
        say(f"the last {count} problems of {config.data} are held out for evaluation "
            "(--eval-data gives others)")  # fmt: skip
    if description := describe_template(tokenizer):
        say(description)
    room = max_positions - config.max_response_tokens  # tokens of a prompt
    if room < 1:
        raise ValueError(
            f"the model has {max_positions} positions: lower --max-response-tokens "
            f"{config.max_response_tokens}"
        )
    most = min(room, config.max_prompt_tokens)
    problems = encode_prompts(tokenizer, problems, most, vocab_size)
    held_out = encode_prompts(tokenizer, held_out, room, vocab_size)
    if not problems or len(held_out) < world_size():
        raise ValueError(
            f"{config.data} leaves {len(problems)} problems to train on and {len(held_out)} to "
            "evaluate on: give more data or --eval-data, or leave more room, by "
            "--max-prompt-tokens and --max-response-tokens (above is told what was left out)"
        )
    return problems, held_out
