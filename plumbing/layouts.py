"""Files of problems, row by row, and a row in any layout of the public sets as a problem.

| question                                  | gold                                                |
| problem, question, query, input: a text   | answer, solution (its last box), final_answer, ...  |
| prompt, messages: a text, or turns of a   | ground_truth, reward_model.ground_truth: a text,    |
| conversation, of which the last user's    | a list of which any is right, an object with either |
| with options, choices, or columns A B C D | a letter, "(a)", an index from 0, an option's text  |
Names of columns may be in capitals. A row without a question or a gold has "" there. A text beside
the question (MATERIAL) belongs to it: both are shown, in the order of the file.
"""

import ast
import csv
import json
import math
import random
import re
from collections import Counter
from contextlib import suppress

from plumbing.console import say
from plumbing.files import POINTER, is_pointer
from plumbing.prompts import LETTERS
from reward import extract_answer, parses

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
QUESTIONS = ("problem", "question", "question_stem", "prompt", "messages", "conversations", "query",
             "input")  # fmt: skip
PASSAGES = ("title", "text", "content", "contexts", "sentences")  # of an object beside a question
MATERIAL = ("instruction", "context", "passage", "paragraph", "article", "story", "narrative",
            "dialogue", "premise", "puzzle", "table", "body", "input")  # fmt: skip
GOLDS = ("ground_truth", "final_answer", "expected_answer", "gt_answer", "answer_number", "answer",
         "target", "gold")  # fmt: skip
SOLUTIONS = ("solution", "response", "output")  # that end in the gold
CHOICE_GOLDS = ("answerkey", "answer_key", "answer_letter", "answer_idx", "answer_index", "answer",
                "correct", "correct_answer", "correct_option", "correct_choice", "label", "cop",
                *GOLDS)  # fmt: skip
WRONG_OPTION = re.compile(r"(?:incorrect_answer|distractor)_?\d")  # of GPQA, SciQ
PICTURE = re.compile(r"(?:decoded_)?(?:image|picture)s?(?:_?\d+)?")  # no model here sees it
FAULTY = {  # columns in which public sets mark rows: MMLU-Redux, GSM8K-Platinum, NuminaMath-1.5
    "error_type": ("wrong_groundtruth", "no_correct_answer", "multiple_correct_answers",
                   "bad_question_clarity", "bad_options_clarity"),
    "cleaning_status": ("rejected",), "problem_is_valid": ("Incomplete", "No")}  # fmt: skip
OPTIONS = {start + mark.lower(): mark for mark in LETTERS[:10] + "123456789"
           for start in ("", "option", "option_", "choice", "choice_")}  # fmt: skip
OPTIONS |= {f"{start}{letter.lower()}": letter for letter in LETTERS[:10]
            for start in ("answer", "op")}  # MedMCQA's opa; but answer1 is an answer  # fmt: skip
NUMBERED = {f"answer{digit}": digit for digit in "0123456789"}  # Cosmos QA's, where 0 is there
COLUMNS = {*QUESTIONS, *MATERIAL, *CHOICE_GOLDS, *OPTIONS, *NUMBERED, *SOLUTIONS, *FAULTY,
           "reward_model", "options", "choices", "choice", "answers", "kind", "error", "category",
           "cot_content"}  # fmt: skip
GOLD_KEYS = ("ground_truth", "target", "answer", "final_answer", "value", "solution")  # of a dict
# NuminaMath's, where there is no answer, and what programs write for none
NO_GOLDS = ("", "proof", "notfound", "not found", "none", "null", "nan", "n/a")
SHORT_SOLUTION = 10  # words: without a box, such a solution is itself the answer
WRAPPER = re.compile(  # of BytedTsinghua's sets: asks for "Answer: 34", which no grader here wants
    r"\A\s*Solve the following math problem step by step\. The last line of your response should "
    r"be of the form Answer:.*\n+([\s\S]*?)\s*Remember to put your answer on its own "
    r"line after.*\s*\Z")
# Of verl's GSM8K, for the same reason
TAIL = re.compile(r"\s*Let's think step by step and output the final answer after \"####\"\.\s*\Z")
# 2,5 and 1.000,50; but 1,000 is read as it is everywhere else
TOLD = set()  # files of which it was said
DECIMAL = re.compile(r"^-?(?![1-9]\d{0,2},\d{3}$)(?:\d+|\d{1,3}(?:\.\d{3})+),\d+$")
NESTED = re.compile(r"""\s*(?:\{\s*["']|\[\s*["'{]|\[[^,\[\]]*\]\s*$)""")  # ["3", "5"], not [3, 5)

# --------------------------------------------------------------------------------------------------
# Reading: a large file is never held whole


def read_rows(path, is_needed=None):
    """Yield (place, row) of a .jsonl, .json, .csv or .parquet file; place reads " line 17".

    is_needed  function of a column's `plain_name`: others may be left out; None for all
    Raises ValueError that names the file and the line.
    """
    readers = {".parquet": read_parquet, ".csv": read_csv, ".jsonl": read_jsonl, ".json": read_json}
    place = ""
    try:
        if is_pointer(path):
            raise ValueError(f"it {POINTER}")
        if path.suffix.lower() not in readers:
            raise ValueError(f"its name does not end in {', '.join(SUFFIXES)}")
        for place, row in readers[path.suffix.lower()](path, is_needed):
            if isinstance(row, bytes):
                row = json.loads(row.decode("utf-8-sig"), object_pairs_hook=object_of)
            if not isinstance(row, dict):
                shown = str(row) if len(str(row)) < 40 else f"{str(row)[:40]} ..."
                raise ValueError(f"{shown} is no object such as {{'problem': 'p'}}")
            yield place, row
            place = f" after{place}"
    except Exception as error:  # a stranger's file: pyarrow may raise anything
        reason = str(error).partition("\n")[0]
        raise ValueError(f"cannot be read: {path}{place}: {reason}") from error


def columns_of(path):
    """The names of the columns of a file, by its first row."""
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet  # slow to import

        return pyarrow.parquet.read_schema(path).names
    return next((list(row) for _, row in read_rows(path)), [])


def plain_name(column):
    """The name of a column as the tables above have it: "Correct Answer" is correct_answer."""
    return str(column).strip().lower().replace(" ", "_")


def is_read(name):
    """Whether a column of this plain name decides what a problem is."""
    return any((name in COLUMNS, WRONG_OPTION.fullmatch(name), PICTURE.fullmatch(name)))


def check_names(names):
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise ValueError(f"two columns {', '.join(twice)}: one would hide the other")


def object_of(pairs):
    """A JSON object; of two fields of one name, json would keep the last in silence."""
    row = dict(pairs)
    if len(row) < len(pairs):
        check_names(name for name, _ in pairs)
    return row


def shortest(value, narrow):
    """Numbers of the type `narrow` as they were written: 0.1, not 0.10000000149011612."""
    if isinstance(value, list):
        return [shortest(one, narrow) for one in value]
    if isinstance(value, dict):
        return {name: shortest(one, narrow) for name, one in value.items()}
    is_narrow = isinstance(value, float) and narrow(value) == value
    return float(str(narrow(value))) if is_narrow else value


def read_parquet(path, is_needed):
    import numpy  # these two are slow to import, and the other formats do without
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        check_names(names)
        narrow = {}  # column -> its type of floats, where that is not Python's own
        for field in file.schema_arrow:
            if found := re.search(r"\b(half)?float\b", str(field.type)):
                narrow[field.name] = numpy.float16 if found[1] else numpy.float32
        needed = [name for name in names if not is_needed or is_needed(plain_name(name))]
        batches = file.iter_batches(batch_size=1024, columns=needed or names)
        rows = (row for batch in batches for row in batch.to_pylist(maps_as_pydicts="strict"))
        for number, row in enumerate(rows, 1):
            short = {name: shortest(row[name], narrow[name]) for name in narrow.keys() & row}
            yield f" row {number}", row | short


def read_csv(path, is_needed):
    csv.field_size_limit(2**31 - 1)  # characters; a long solution passes the default
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            mark = next((mark for mark in ";\t" if mark in first and "," not in first), ",")
            file.seek(0)
            # Not strict, an open quote would take in the rest.
            reader = csv.DictReader(file, delimiter=mark, strict=True)
            check_names(filter(None, reader.fieldnames or ()))
            asked = {*QUESTIONS, *MATERIAL}
            if not asked & set(map(plain_name, reader.fieldnames or asked)):
                wanted = "its first line must name columns, such as problem and answer"
                raise ValueError(f"{wanted}, not {first.strip()[:60]}")
            for row in reader:
                if None in row:  # a separator that is not quoted moves all that follows it
                    raise ValueError(f"line {reader.line_num} has more cells than the first line")
                if mark == ";":  # where it separates cells, a comma is that of decimals
                    for name in [name for name in row if DECIMAL.match(row[name] or "")]:
                        cell = row[name]
                        row[name] = cell.replace(".", "").replace(",", ".")
                        tell_decimals(path, f"{cell} is {row[name]}")
                yield f" line {reader.line_num}", row
    except UnicodeDecodeError as error:  # its own position is that in a block of the file
        with path.open("rb") as file:
            line = next(i for i, line in enumerate(file, 1)
                        if line.decode("utf-8", "ignore").encode() != line)  # fmt: skip
        raise ValueError(f"line {line} is not utf-8: save the file as utf-8") from error


def tell_decimals(path, example):
    if path not in TOLD:
        say(f"{path}: as ; separates its cells, a comma is that of decimals: {example}")
    TOLD.add(path)


def lines_of(path):
    with path.open("rb") as file:  # as text, a line separator of Unicode would end a line
        yield from ((f" line {i}", line) for i, line in enumerate(file, 1) if line.strip())


def read_jsonl(path, is_needed):
    """A row in each line; or really a .json, a list over several lines."""
    with path.open("rb") as file:
        first = file.readline(2**20).decode("utf-8-sig", "ignore").strip()
    yield from read_json(path, is_needed) if first[:1] == "[" else lines_of(path)


def read_json(path, is_needed):
    """A list of rows, or an object with one in it (BBH's "examples"); or really a .jsonl."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=object_of)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        yield from lines_of(path)
        return
    if isinstance(rows, dict) and asked_column(lowered(rows)) is None:
        lists = {name: value for name, value in rows.items()
                 if isinstance(value, list) and value and isinstance(value[0], dict)}  # fmt: skip
        if len(lists) > 1:
            raise ValueError(f"it holds the lists {', '.join(lists)}: give a file of one")
        rows = next(iter(lists.values()), rows)
    elif isinstance(rows, dict):
        rows = table_of(rows) or rows
    rows = rows if isinstance(rows, list) else [rows]
    yield from ((f" row {number}", row) for number, row in enumerate(rows, 1))


def is_index(column):
    return bool(column) and all(key.isdecimal() for key in column)


def table_of(columns):
    """The rows of {name: column}, as pandas and datasets write a table; [] where it is one row."""
    lists = [list(column.values()) if isinstance(column, dict) and is_index(column) else column
             for column in columns.values()]  # fmt: skip
    low = lowered(columns)
    asked = low[asked_column(low)]
    is_row = isinstance(asked, list) and asked and isinstance(asked[0], dict)  # the turns of one
    if is_row or any(not isinstance(one, list) or not one for one in lists):
        return []
    if len(set(map(len, lists))) > 1:
        raise ValueError(f"its columns {', '.join(columns)} have {[*map(len, lists)]} rows")
    return [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]

# --------------------------------------------------------------------------------------------------
# Questions and golds


def clean(value):
    """A value as a text that every tokenizer takes: None, NaN, inf "", a lone surrogate "?"."""
    value = value.decode("utf-8") if isinstance(value, bytes) else value  # of a parquet file
    is_none = value is None or isinstance(value, float) and not math.isfinite(value)
    text = "" if is_none else str(value)
    return text.encode("utf-8", "replace").decode("utf-8")


def unpacked(value):
    """What a text holds that is a JSON (or Python) object or list of texts; else the value."""
    if isinstance(value, str) and NESTED.match(value):
        # numpy prints no commas: Python would join 'clay' 'sand' to one text
        with_commas = re.sub(r"""(?<=['"])\s+(?=['"])""", ", ", value)
        for read, text in ((json.loads, value), (ast.literal_eval, with_commas)):
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                return read(text.strip())
    return value


def turns_of(value):
    """The turns of a conversation; [] where it is none."""
    value = unpacked(value)
    value = [value] if isinstance(value, dict) else value
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def role_of(turn):
    role = str(turn.get("role", turn.get("from", "user")))
    return {"human": "user", "gpt": "assistant"}.get(role, role)


def roles_not_asked(row):
    """The roles of the turns before the user's last one, which `question_of` leaves out."""
    low = lowered(row)
    roles = [role_of(turn) for turn in turns_of(low[asked_column(low)])]
    return roles[: -1 - roles[::-1].index("user")] if "user" in roles else []


def question_of(value):
    """The text of a question: as it is, or of the last turn that a user has in a conversation."""
    if isinstance(found := unpacked(value), list | dict):
        users = [turn for turn in turns_of(found) if role_of(turn) == "user"]
        value = users[-1].get("content", users[-1].get("value")) if users else None
    value = [value] if isinstance(value, dict) else value
    if isinstance(value, list):  # the parts of a turn
        value = "".join(part.get("text") or "" for part in value if isinstance(part, dict))
    return TAIL.sub("", WRAPPER.sub(r"\1", clean(value)))


def passage(value):
    """What stands beside a question as one text: of a list its items, of a table its rows."""
    if isinstance(value, dict):
        named = [value[name] for name in PASSAGES if name in value]
        columns = named or list(value.values())
        is_table = all(isinstance(one, list) and len(one) == len(columns[0]) for one in columns)
        value = list(map(list, zip(*columns, strict=True))) if is_table else columns
    if isinstance(value, list):
        return "\n".join(filter(None, map(passage, value)))
    return clean(value).strip()


def golds_of(value):
    """The right answers, texts: [] for none, several where any of them is right."""
    value = unpacked(value)
    if isinstance(value, dict):
        keys = [key for key in GOLD_KEYS if key in value]
        if not value:
            return []
        if not keys and len(value) > 1 or {"numbers", "nums"} & set(value):  # a countdown's
            raise ValueError(f"a gold with {', '.join(value)}; expected one of {GOLD_KEYS}")
        others = value.get("aliases")  # TriviaQA's
        return golds_of([value[(keys or list(value))[0]], *(others or ())])
    if isinstance(value, list):
        if len(value) > 1 and all(type(item) in (int, float) for item in value):
            return [", ".join(map(clean, value))]  # TheoremQA's [1, 4]: both are the answer
        return list(dict.fromkeys(gold for item in value for gold in golds_of(item)))
    if isinstance(value, bool):
        return [str(value), "yes" if value else "no"]
    text = clean(value).rpartition("####")[2].strip()  # GSM8K: text #### gold
    if "\\boxed" in text:
        text = extract_answer(text) or ""
    text = re.sub(r"^(-?\d+)\.0+$", r"\1", text)  # AMC: 27.0
    return [] if text.casefold() in NO_GOLDS else [text]


def option_columns(row, gold):
    """{label: text} of options in columns of their own: A, Option B, choice_3. Else {}.

    Columns a, b, c may be numbers of the question: they are options where the gold is a letter, or
    the text of one.
    """
    names = OPTIONS | NUMBERED if "answer0" in row else OPTIONS
    found = {names[name]: (name, value) for name, value in row.items() if name in names}
    is_named = any(len(name) > 1 for name, _ in found.values()) or {"A", "B", "C"} <= set(row)
    texts = [clean(value).strip() for _, value in found.values()]
    is_text = str(gold).strip() in texts and re.search(r"[^\W\d_]{2}", str(gold))
    if not is_named and not is_text and not re.fullmatch(r"\W*[A-Ja-j]\W*", str(gold)):
        return {}
    is_whole = any({*pair} <= set(found) for pair in ("AB", "12", "01"))
    return {label: found[label][1] for label in sorted(found)} if is_whole else {}


def options_of(row, gold):
    """{label: text} of the options of a row: a list, an object, ARC's texts and labels, columns."""
    is_label = gold is not None and gold is row.get("label")
    keys = ("options", "choices", *(("answers",) if is_label else ()))  # ReClor: answers, label
    keys += ("choice",) if isinstance(row.get("choice"), list) else ()  # DREAM's
    given = next((unpacked(row[key]) for key in keys if row.get(key)), option_columns(row, gold))
    if isinstance(given, dict) and isinstance(given.get("text"), list):
        labels, texts = given.get("label") or LETTERS[: len(given["text"])], given["text"]
        if len(labels) != len(texts):
            raise ValueError(f"{len(texts)} options with {len(labels)} labels")
        given = dict(zip(labels, texts, strict=True))
    elif isinstance(given, list) and len(given) <= len(LETTERS):
        given = [one.get("text") if isinstance(one, dict) else one for one in given]
        given = dict(zip(LETTERS, given, strict=False))
    if not isinstance(given, dict):
        raise ValueError(f"options {str(given)[:60]!r}: expected a list or an object, up to Z")
    there = {key: text for key, text in given.items() if text not in (None, "", "N/A")}
    options = {str(key): clean(text) for key, text in there.items()}
    starts = {key: re.match(rf"\(?{re.escape(key)} ?[).:]\s*", options[key]) for key in options}
    if all(starts.values()):  # AQuA's "A)21"
        options = {key: text[starts[key].end() :] for key, text in options.items()}
    return options


def text_of(gold):
    """The gold of a row with options as a text; that of a list with one, and 2 for 2.0."""
    gold = gold[0] if isinstance(gold, list) and len(gold) == 1 else gold
    return str(int(gold) if isinstance(gold, float) and gold.is_integer() else gold).strip()


def gold_and_options(low):
    """(gold, {label: text}) of a row with options; (gold, {}) of one without."""
    gold = next((low[name] for name in CHOICE_GOLDS if low.get(name) not in (None, "")), None)
    return gold, options_of(low, gold)


def numbering_of(rows):
    """How the golds of a file that are numbers name an option: 0 or 1, as an index counted from
    there; "text", as its text; or None, where its rows leave that open.
    """
    seen = []  # (number, options, whether it is a label, whether it is a text) of each row
    for _, row in rows:
        with suppress(ValueError):
            gold, options = gold_and_options(flattened(row))
            if options and text_of(gold).isdecimal():
                texts = [text.strip() for text in options.values()]
                number = text_of(gold)
                seen.append((int(number), len(options), number in options, number in texts))
    if all(is_label for *_, is_label, _ in seen):
        return None
    fits = {0: all(number < size for number, size, *_ in seen),
            1: all(0 < number <= size for number, size, *_ in seen),
            "text": all(is_text for *_, is_text in seen)}  # fmt: skip
    fitting = [numbering for numbering, does_fit in fits.items() if does_fit]
    is_open = not fitting or len(fitting) > 1 and fits["text"]  # 1 is likelier from 0 than from 1
    return None if is_open else fitting[0]


def choice_of(gold, options, numbering=None):
    """The letter of an option that a gold means: its label or text, A, (a), "A. ...", an index.

    numbering  of the file, see `numbering_of`
    """
    labels, texts = list(options), [text.strip().casefold() for text in options.values()]
    text, place = text_of(gold), -1
    if text.isdecimal() and numbering == "text":
        place = texts.index(text)
    elif text.isdecimal() and numbering is not None:
        place = int(text) - numbering
    elif text in labels:
        place = labels.index(text)
    elif text.casefold() in texts and not isinstance(gold, int | float):
        place = texts.index(text.casefold())
    else:
        # "A. clay", but not "A. and B." or "(A), (C)"
        letter = re.match(r"\(?([A-Za-z])(?:\W*$|[).:](?!\W*(?:(?:and|or)\b|[A-Za-z]\))))", text)
        if letter:
            place = LETTERS.index(letter[1].upper())
        elif text.isdecimal() and "1" not in labels:  # labels 1, 2, 3 are not counted from 0
            place = int(text)
    if 0 <= place < len(LETTERS) and LETTERS[place] in labels:  # one before may be missing
        place = labels.index(LETTERS[place])
    if not 0 <= place < len(options):
        counted = ", counted from 0" if text.isdecimal() and "1" not in labels else ""
        raise ValueError(f"the answer {text[:60]!r} is none of its {len(options)} options{counted}")
    return LETTERS[place]


def gold_of(low, task):
    """(gold, error) of a question without options, from the columns of its row."""
    gold, error = next((low[name] for name in GOLDS if low.get(name) not in (None, "")), ""), None
    if not set(GOLDS) & set(low):
        gold = low.get("label")
        gold = None if isinstance(gold, bool) else gold  # whether an answer is right is no gold
        if solution := next((str(low[name]) for name in SOLUTIONS if low.get(name)), ""):
            words = len(solution.split())
            is_gold = words < SHORT_SOLUTION and (words < 4 or re.search(r"\d|\\", solution))
            is_gold = is_gold and parses(solution)
            gold = extract_answer(solution, loose=True) or (solution if is_gold else "")
    elif isinstance(low.get("final_answer"), list):  # OlympiadBench: all of them
        gold = ", ".join(map(str, low["final_answer"])).replace("$", "").strip().removesuffix(".")
        with suppress(ValueError, TypeError, KeyError):  # an error of "none" is no tolerance
            error = float(low["error"] or 0)
            error = error if 0 <= error < math.inf else None
    if task.kind == "minerva":  # partly Python: np.arcsin(10/13), -3./2
        gold = re.sub(r"(\d)\./", r"\1/", str(gold or "").replace("np.", "\\"))
    return gold, error


def lowered(row):
    return {plain_name(name): value for name, value in row.items()} | row


def flattened(row):
    """A row by plain names too, and what stands within a column of some sets as columns."""
    low = lowered(row)
    if isinstance(low.get("question"), dict) and "stem" in low["question"]:  # as ARC is published
        low |= low["question"] | {"question": low["question"]["stem"]}
    if isinstance(verl := unpacked(low.get("reward_model")), dict):
        low["ground_truth"] = verl.get("ground_truth")
    return low


def asked_column(low):
    """The name of the column that is the question; None where there is none."""
    there = [name for name in (*QUESTIONS, "instruction") if name in low]
    return next((name for name in there if low[name]), there[0] if there else None)


def to_problem(row, task, numbering=lambda: None):
    """A row as a dict of problem, answer, alternatives, kind, options, error; see the header.

    task       the benchmarks.Task that the row is from: its kind, and its columns for messages
    numbering  function that gives `numbering_of` its file
    Raises ValueError for a layout that is not known.
    """
    columns = f"columns {', '.join(map(str, row))}"
    low = flattened(row)
    if not (asked := asked_column(low)):
        raise ValueError(f"{columns} are no known layout; expected {task.columns}")
    check_names(name for name in map(plain_name, row) if name in QUESTIONS + GOLDS)
    question = question_of(low[asked])
    texts = {name: question if name == asked else passage(value) for name, value in low.items()
             if name == asked or name in MATERIAL and isinstance(value, str | list | dict)}
    question = "\n\n".join(text for name, text in texts.items() if name == asked
                           or text not in question and question not in text)  # fmt: skip
    problem = {"problem": question, "answer": "", "alternatives": None, "kind": task.kind,
               "options": None, "error": None}  # fmt: skip
    if (turns := turns_of(low[asked])) and role_of(turns[-1]) == "assistant":  # a solution
        low.setdefault("solution", turns[-1].get("content", turns[-1].get("value")))
    wrong = [low[name] for name in sorted(low) if WRONG_OPTION.fullmatch(name)]
    if wrong and "correct_answer" in low:  # GPQA, SciQ
        problem["kind"], right = "choice", low["correct_answer"]
        options = [option for option in (right, *wrong) if option is not None]
        random.Random(question).shuffle(options)  # in an order that a question always gets
        if right:
            problem["options"] = [clean(option).strip() for option in options]
            problem["answer"] = LETTERS[options.index(right)]
    elif (found := gold_and_options(low))[1]:
        gold, options = found
        problem |= {"kind": "choice", "options": list(options.values())}
        counted = numbering() if text_of(gold).isdecimal() else None
        values = unpacked(low.get("options") or low.get("choices"))
        if isinstance(values, list) and {type(gold), *map(type, values)} <= {int, float}:
            # A number among numbers is one of them, not an index.
            is_one = counted is None and gold in values
            gold = LETTERS[values.index(gold)] if is_one else gold
        problem["answer"] = "" if gold is None else choice_of(gold, options, counted)
    elif task.kind == "choice":
        raise ValueError(f"{columns} hold no options; expected {task.columns}")
    else:
        gold, problem["error"] = gold_of(low, task)
        golds = golds_of(gold)
        problem["answer"] = golds[0] if golds else ""
        problem["alternatives"] = golds if len(golds) > 1 else None
        # Those of the embedded world say so, and BBH has two columns that no other set has alone.
        if set(row) == {"input", "target"}:
            problem["kind"] = "bbh"
        elif low.get("kind") == "tiny":
            problem["kind"] = "tiny"
        elif problem["error"] is not None:
            problem["kind"] = "olympiad"
    return problem
