"""A row in any layout of the public sets as a problem.

| question                                  | gold                                                |
| problem, question, query, input: a text   | answer, solution (its last box), final_answer, ...  |
| prompt, messages: a text, or turns of a   | ground_truth, reward_model.ground_truth: a text,    |
| conversation, of which the last user's    | a list of which any is right, an object with either |
| with options, choices, or columns A B C D | a letter, "(a)", an index from 0, an option's text  |
Names of columns may be in capitals. A row without a question or a gold has "" there. A text beside
the question (MATERIAL) belongs to it: both are shown, in the order of the file.
"""

import ast
import json
import math
import random
import re
import string
from collections import Counter
from contextlib import suppress
from functools import lru_cache

from plumbing.prompts import LETTERS
from reward import extract_answer, parses

QUESTIONS = ("problem", "question", "question_stem", "prompt", "messages", "conversations", "query",
             "input")  # fmt: skip
PASSAGES = ("title", "text", "content", "contexts", "sentences")  # of an object beside a question
MATERIAL = ("instruction", "context", "passage", "paragraph", "article", "story", "narrative",
            "dialogue", "premise", "puzzle", "table", "body", "input")  # fmt: skip
GOLDS = ("ground_truth", "final_answer", "expected_answer", "gt_answer", "answer_number", "answer",
         "target_text", "target", "gold")  # fmt: skip
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
OPTIONS = {start + mark.lower(): mark for mark in LETTERS[:10] + string.digits
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
TAIL = re.compile(
    r"(?<!\s)\s*Let's think step by step and output the final answer after \"####\"\.\s*\Z")
NESTED = re.compile(r"""\s*(?:\{\s*["']|\[\s*["'{]|\[[^,\[\]]*\]\s*$)""")  # ["3", "5"], not [3, 5)

# --------------------------------------------------------------------------------------------------
# Questions and golds


@lru_cache(1024)  # each row asks again
def plain_name(column):
    """The name of a column as the tables above have it: "Correct Answer" is correct_answer."""
    return str(column).strip().lower().replace(" ", "_")


def is_read(name):
    """Whether a column of this plain name decides what a problem is."""
    return bool(name in COLUMNS or WRONG_OPTION.fullmatch(name) or PICTURE.fullmatch(name))


def check_names(names):
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise ValueError(f"two columns {', '.join(twice)}: one would hide the other")


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
    keys = {"role", "from", "content", "value"}
    turns = value if isinstance(value, list) else []
    return [one for one in turns if isinstance(one, dict) and keys & set(one)]


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
    if turns := turns_of(value):
        users = [turn for turn in turns if role_of(turn) == "user"]
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
        if given and all(isinstance(one, dict) and len(one) == 1 for one in given):
            given = {label: text for one in given for label, text in one.items()}  # {"A": "red"}
        else:
            given = [one.get("text", one) if isinstance(one, dict) else one for one in given]
            given = dict(zip(LETTERS, given, strict=False))
    if not isinstance(given, dict) or any(isinstance(x, list | dict) for x in given.values()):
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
            if options and (number := text_of(gold)).isdecimal():
                texts = [text.strip() for text in options.values()]
                seen.append((int(number), len(options), number in options, number in texts))
    if all(is_label for *_, is_label, _ in seen):
        return None
    fits = {0: all(number < size for number, size, *_ in seen),
            1: all(0 < number <= size for number, size, *_ in seen),
            "text": all(is_text for *_, is_text in seen)}  # fmt: skip
    if fits["text"]:
        return None if fits[0] or fits[1] else "text"
    if fits[0]:  # Both counts may fit, and from 0 is the usual one.
        return 0
    return 1 if fits[1] else None


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


def whole_question(low, asked):
    """The text of the column `asked`, and what stands beside it, in the order of the file."""
    question = question_of(low[asked])
    texts = {name: question if name == asked else passage(value) for name, value in low.items()
             if name == asked or name in MATERIAL and isinstance(value, str | list | dict)}
    return "\n\n".join(text for name, text in texts.items() if name == asked
                       or text not in question and question not in text)  # fmt: skip


def among_wrong_options(right, wrong, question):
    """Answer and options where a row has the right text and wrong ones: in an order that its
    question always gets. Without a right one there is neither.
    """
    options = [option for option in (right, *wrong) if option is not None]
    random.Random(question).shuffle(options)
    if not right:
        return {"kind": "choice"}
    texts = [clean(option).strip() for option in options]
    return {"kind": "choice", "options": texts, "answer": LETTERS[options.index(right)]}


def among_options(low, gold, options, numbering):
    """Answer and options where a row has options, {label: text}, and a gold that names one."""
    counted = numbering() if text_of(gold).isdecimal() else None
    values = unpacked(low.get("options") or low.get("choices"))
    if isinstance(values, list) and {type(gold), *map(type, values)} <= {int, float}:
        # A number among numbers is one of them, not an index.
        is_one = counted is None and gold in values
        gold = LETTERS[values.index(gold)] if is_one else gold
    letter = "" if gold is None else choice_of(gold, options, counted)
    return {"kind": "choice", "options": list(options.values()), "answer": letter}


def without_options(row, low, task):
    """Answer, alternatives, kind and tolerance of a row without options."""
    (gold, error), golds, fault = gold_of(low, task), [], ""
    try:
        golds = golds_of(gold)
    except ValueError as reason:
        fault = str(reason)
    kind = task.kind if error is None else "olympiad"
    # Those of the embedded world say so, and BBH has two columns that no other set has alone.
    if set(row) == {"input", "target"} or low.get("kind") == "tiny":
        kind = "bbh" if set(row) == {"input", "target"} else "tiny"
    several = golds if len(golds) > 1 else None
    return {"answer": (golds or [""])[0], "alternatives": several, "kind": kind, "error": error,
            "fault": fault}  # fmt: skip


def to_problem(row, task, numbering=lambda: None):
    """A row as a dict of problem, answer, alternatives, kind, options, error; see the header; and
    of "fault": why its gold cannot be read, or "".

    task       the benchmarks.Task that the row is from: its kind, and its columns for messages
    numbering  function that gives `numbering_of` its file
    Raises ValueError for a layout that is not known.
    """
    columns = f"columns {', '.join(map(str, row))}"
    low = flattened(row)
    if not (asked := asked_column(low)):
        raise ValueError(f"{columns} are no known layout; expected {task.columns}")
    check_names(name for name in map(plain_name, row) if name in QUESTIONS + GOLDS)
    question = whole_question(low, asked)
    if (turns := turns_of(low[asked])) and role_of(turns[-1]) == "assistant":  # a solution
        low.setdefault("solution", turns[-1].get("content", turns[-1].get("value")))
    wrong = [low[name] for name in sorted(low) if WRONG_OPTION.fullmatch(name)]
    gold, options = gold_and_options(low)
    if wrong and "correct_answer" in low:  # GPQA, SciQ
        answer = among_wrong_options(low["correct_answer"], wrong, question)
    elif options:
        answer = among_options(low, gold, options, numbering)
    elif task.kind == "choice":
        raise ValueError(f"{columns} hold no options; expected {task.columns}")
    else:
        answer = without_options(row, low, task)
    empty = {"answer": "", "alternatives": None, "options": None, "error": None, "fault": ""}
    return {"problem": question} | empty | answer
