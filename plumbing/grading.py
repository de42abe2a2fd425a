r"""Grading by the kind of problem: response -> answer -> 1 or 0; and verifiers of one's own.

| kind       | the answer is                                | right when                        |
| math, tiny | the last box, else "####", "answer is"       | `reward.equal`, its unit dropped  |
| olympiad   | the same                                     | or within the problem's `error`   |
| minerva    | the same                                     | or numbers within 1 %             |
| choice     | a box, "answer is (X)", a lone letter        | that letter; none is no guess     |
| bbh        | what follows the last "answer is"            | the same text, see `same_text`    |
Where a problem has several golds (`alternatives`), an answer is right if any of them matches.
"""

import copy
import importlib.machinery
import importlib.util
import inspect
import math
import re
import sys
from contextlib import suppress
from fractions import Fraction
from functools import partial
from itertools import dropwhile
from pathlib import Path

from tqdm import tqdm

from plumbing.answers import DOUBT, END, Parser, arithmetics, tokenize
from plumbing.prompts import LETTERS
from plumbing.spelling import MAX_ANSWER, normalise
from reward import after_thoughts, equal, extract_answer, score_batch

RESPONSE_END = re.compile(r"\n[ \t]*(?:Q|Question|Problem|User|Human):|</s>|<eos>|<\|\w+\|>")
MARKUP = re.compile(r"\\(?:boxed|text(?:bf)?|math(?:bf|rm))\{([^{}]*)\}|\*\*|\$|`|\\[()\[\]]")
# A letter that stands for an option: (C), "C.", "C is right". "A cat", "I am", "I'll", "I = 3" and
# "5 A" are none, and by the same rule "C cat": what follows is a word, see `letters`.
# Chinese has no spaces: 选B is "choose B", so that its signs are no part of a word here.
IN_WORD = r"[^\W\u2e80-\u9fff]"
LETTER = (rf"(?:\(([A-Z])\)|(?<!{IN_WORD})(?<!['’])(?<!\d )([A-Z])"
          rf"(?!{IN_WORD}|[\^]|['’]\w|\s*[=+*/]))")  # fmt: skip
LONE_LETTER = re.compile(LETTER)
ANY_CASE = LETTER.replace("([A-Z])", "([A-Za-z])", 1)  # (b) too, behind a cue
CONTENT_WORD = re.compile(
    r"[^\S\n]+(?!(?:because|since|as|is|are|was|which|with|for|due|in|on|from|by|based|given|and|or"
    r"|so|but|rather|instead|not|cannot)\b)\w")  # fmt: skip
CHOICE_CUE = re.compile(  # "Answer: C", "the answer is option C"; "C is correct"
    r"(?<!wrong )(?<!incorrect )\b(?i:answer|option|choice|it(?= (?:should|must)))"
    r"(?i:\W{0,4}(?:is|(?:should|must|would|will|has to|can only) be)|\W{0,3}:)\W{0,8}?"
    rf"(?i:option )?{ANY_CASE}|{ANY_CASE}(?= is (?:the )?(?:correct|right|best|true|answer)\b)"
    rf"|(?i:answer)\W{{0,3}}\n\W{{0,8}}{ANY_CASE}(?=\W*(?:\n|$))"  # on a line of its own
    rf"|(?:答案|选(?!项))[是为择]?\W{{0,4}}{ANY_CASE}|{ANY_CASE}(?=项?(?:是)?(?:正确|对))")
FIRST_LETTER = re.compile(r"^[^\w\n(]{0,8}\(([a-z])\)", re.M)
DENIED = re.compile(  # "not (B)", "neither B nor C", "I would not choose B", "eliminate B"
    r"(?:(?:\b(?:not|neither|nor|never|rather than|instead of|except|other than|all but"
    r"|anything but|unlikely to be|eliminate|ruled? out"
    r"|(?:wrong|incorrect|least likely) (?:option|answer|choice) is)|n['’]t)\s+"
    r"(?:(?:be|choose|pick|select|option|choice)\s+)?|¬|\\neg ?|不(?:是|选|能选)?|非|排除|除)"
    r"\W{0,3}$", re.I)  # fmt: skip
DENIED_AFTER = re.compile(  # "B is wrong", "(B) cannot be right"
    r"\)?\s*(?:(?:is|was) |项)?\s*(?:not\b|n['’]t|wrong|incorrect|false|impossible|ruled out|cannot"
    r"|can['’]t|错|不(?:对|正确|成立|选)|除?外|以外)", re.I)  # fmt: skip
IS = re.compile(r"\)?\s+is\b")
LINK = (  # between letters
    r"\W{0,3}(?:\b(?:or|and|nor|as well as|alternatively)\b|(,)|[/&、，和或与及])\W{0,3}"
    r"(?:(?:possibly|perhaps|maybe) )?(?i:option )?\(?")
NEXT_LETTER, LETTER_BEFORE = (re.compile(part) for part in (
    rf"{LINK}([A-Z])(?![\w'’])(?!\)?\s+(?:is|are|was|has)\b)", rf"(?<!\w)([A-Z]){LINK}$"))
BBH_LETTER = re.compile(r"\(([A-Z])\)|^(?:OPTION |CHOICE )?([A-Z])(?=$|[).:,])")
REASON = re.compile(r",? (?:since|because|as|while|not|rather)\b")
REMARK = re.compile(  # "This answer is correct.", after the answer
    r"\W*(?:\w+ly |indeed |also )?(?:in)?(?:correct|right|reasonable|consistent|plausible|accurate|"
    r"confirmed|verified|sensible|wrong)\b", re.I)  # fmt: skip
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


def letters(pattern, text, options):
    """The letters of options that a pattern with LETTER finds in a text.

    What reads on as a sentence is none ("A cat"), unless the option's own text follows; nor is one
    that is denied ("not B"). One of several ("A or B", A/B) is "".
    """
    found = []
    for match in pattern.finditer(text):
        letter, end = match[match.lastindex].upper(), match.end()
        start = match.start(match.lastindex)
        before = text[max(0, start - 40) : start]
        known = LETTERS[: len(options)]
        if letter not in known or DENIED.search(before) or DENIED_AFTER.match(text, end):
            continue
        is_bare = text[end - 1] == letter  # not (C)
        option = options[LETTERS.index(letter)]
        follows = text[end : end + len(option) + 8].lstrip()  # a few spaces
        is_option = option and follows.startswith(option)
        if is_option or not is_bare or not CONTENT_WORD.match(text, end):
            others = letters_beside(text, before, end)
            found.append("" if others & {*known} - {letter} else letter)
    return found


def letters_beside(text, before, end):
    """The letters that are linked with the one that ends at `end`: by "or", "and", a comma, /."""
    after, earlier = NEXT_LETTER.match(text, end), LETTER_BEFORE.search(before)
    if after and CONTENT_WORD.match(text, after.end()):
        after = None  # (B), A train ...
    if earlier and earlier[2] and IS.match(text, end):
        earlier = None  # given A, B is better; but "A or B is right" is none
    return {one for one in (after and after[2], earlier and earlier[1]) if one}


def bare(option):
    """The text of an option, to be compared."""
    return without_markup(option).strip().casefold()


def boxed_letter(box, options):
    r"""The letter of what a box holds: (A), A. red clay, red clay. "": several, None: none."""
    box, plain = without_markup(box).strip(), list(map(bare, options))
    if box.casefold() in plain:
        return LETTERS[plain.index(box.casefold())]
    first = re.match(r"\(?([A-Za-z])(?:\)?\.?$|[).:] )", box)
    if first and first[1].upper() in LETTERS[: len(options)]:
        return first[1].upper()
    alike = [letter for letter, option in zip(LETTERS, options, strict=False) if equal(box, option)]
    if len(alike) == 1:  # \dfrac{1}{2} where the option is 0.5
        return alike[0]
    found = {*letters(LONE_LETTER, box, options)}
    return "" if len(found) > 1 else next(iter(found), None)


def choice_answer(text, problem):
    """The letter that a response chooses, or None: the last box, the last cue, a lone letter."""
    options = problem["options"]
    box = extract_answer(text, loose="<answer>" in text)
    letter = boxed_letter(box, options) if box else None
    if letter is not None:
        return letter or None
    plain = without_markup(text)
    found = letters(CHOICE_CUE, plain, options) or letters(LONE_LETTER, plain, options)
    first = {letter.upper() for letter in FIRST_LETTER.findall(plain)}  # (b) blue sand
    if not found and len(first) == 1 and first <= set(LETTERS[: len(options)]):
        return first.pop()
    if not found and (stated := extract_answer(text, loose=True)):  # "The answer is red clay."
        found = [letter for letter, option in zip(LETTERS, options, strict=False)
                 if bare(option) == stated.casefold()]  # fmt: skip
    return (found[-1] or None) if found else None


def bbh_answer(text, problem):
    """A box behind the last "answer is", else what follows that, to the end of its sentence; else
    a box, "Answer:"; None.

    Where the task wants a letter, B, (B), "(B) the second" and "(B), as (A) is wrong" all are (B);
    "(A) or (B)" is none.
    """
    parts = re.split("answer is", without_markup(text), flags=re.I)
    while len(parts) > 2 and REMARK.match(parts[-1]):
        parts.pop()
    rest = parts[-1] if len(parts) > 1 else without_markup(extract_answer(text, loose=True) or "")
    if text.rfind("\\boxed") > text.lower().rfind("answer is"):
        rest = without_markup(extract_answer(text) or "")
    answer = re.split(r"\n|\.\s", rest.lstrip(" :\t\n"))[0].strip(" .!\"'“”")
    stated = REASON.split(answer)[0].upper()
    letters = {"".join(groups) for groups in BBH_LETTER.findall(stated)}
    is_denied = re.search(r"\b(?:not|but|except|false)\b|n't|¬", stated.lower())
    is_letter = len(letters) == 1 and re.fullmatch(r"\([A-Z]\)", problem["answer"])
    return f"({letters.pop()})" if is_letter and not is_denied else answer


def math_answer(text, problem):
    """The last box, else what `extract_answer` finds in loose mode once the text is tidied."""
    for pattern, new in GSM8K_STYLE:
        text = pattern.sub(new, text)
    return extract_answer(text, loose=True)


def with_thought(problem, response):
    """The response with the tag of the thought that its prompt opened: see `opens_thought`."""
    return ("<think>" if problem.get("opens_thought") else "") + response


def answer_in(problem, response, loose=True):
    """The final answer of a response, as text, or None; not `loose`: in mathematics a box only."""
    text, kind = after_thoughts(with_thought(problem, response)), problem["kind"]
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


def number_tree(text, unit=True):
    r"""The number that an answer is, as a tree; `unit`: harmless words may be around it.

    Raises ValueError for any other text.
    6 \times 10^{-4} \text{ m} is 6e-4, "a total of $540 a week" is 540; 2x and 5 dozen are none.
    """
    if len(text) > MAX_ANSWER:  # A cut could hide "or 43".
        raise ValueError("too long")
    text = re.sub(r"\\text\s?\{([^{}]*)\}", r" \1 ", normalise(text))
    text = re.sub(r"(?<=[A-Za-z])[.-](?=[ A-Za-z]|$)", " ", text)  # sq. ft., a.m., foot-pounds
    text = re.sub(r"(?<=[a-z])['’](?=s\b| |$)", " ", text)  # Jo's
    text = re.sub(r"(?<![\d)])\*\*|\*\*(?![\d(])", " ", text)  # **5**, but not 2**3
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    if not unit and WORD.search(text):
        raise ValueError("words")
    tokens = tokenize(WORD.sub(r"\\text{\g<0>}", text))
    number = list(dropwhile(lambda token: token[0] == "word", tokens))
    before = " ".join(word for _, word in tokens[: len(tokens) - len(number)])
    parser = Parser(number)
    tree = parser.expression()
    if parser.tokens != [END] or ANOTHER_NUMBER.search(before):
        raise ValueError("more than a number")
    return tree


def numbers_agree(predicted, answer, error=0.0, share=0.0):
    """Whether both are numbers, the first perhaps among words, that are equal; or that differ by no
    more than an error, or than a share of the answer.
    """
    try:
        trees = number_tree(predicted), number_tree(answer, unit=False)
        pairs = ((one, [one.evaluate(tree, one.constants | {"%": Fraction(1)}) for tree in trees])
                 for one in arithmetics(*trees))  # fmt: skip
        if not (error or share):
            return all(one.same_number(*values) for one, values in pairs)
        value, gold = map(float, next(pairs)[1])
    except (ValueError, ArithmeticError):
        return False
    if math.isinf(gold):
        return value == gold
    allowed = max(error, share * abs(gold))
    return abs(value - gold) <= allowed * (1 + 1e-9)  # as floats, 4.2 - 4.1 is above 0.1


def is_right(problem, predicted, loose=True, strict=False):
    """Is this extracted answer right by the rule of the problem's kind (table at the top)?"""
    if problem.get("alternatives"):
        golds = [{**problem, "answer": x, "alternatives": None} for x in problem["alternatives"]]
        return any(is_right(one, predicted, loose, strict) for one in golds)
    kind, answer = problem["kind"], problem["answer"]
    if kind == "choice":
        texts = dict(zip(LETTERS, problem.get("options") or (), strict=False))
        alike = answer in texts and texts.get(predicted) == texts[answer]  # two equal options
        return predicted == answer or alike
    if kind == "bbh":
        return same_text(predicted, answer)
    if strict or equal(predicted, answer):
        return equal(predicted, answer, strict=strict)
    error, share = problem.get("error") or 0, 0.01 if kind == "minerva" else 0
    may_differ = loose or error or share
    return bool(may_differ) and numbers_agree(predicted, answer, error, share)


def gold_for(problem, response):
    """The gold to compare a response with: of several the one that it matches, if any."""
    answer, golds = extract_answer(response) or "", problem.get("alternatives") or ()
    return next((gold for gold in golds if equal(answer, gold)), problem["answer"])


def grade_all(problems, responses, loose=True, strict=False, counts=None):
    """1.0 for each response whose final answer is right, else 0.0; `loose` as in `answer_in`.

    strict  bool, compare mathematics as text, by the rules of the method's authors
    counts  dict, gets how often each reason for a grade occurred
    """
    counts, grades = {} if counts is None else counts, []
    if not loose and all(problem["kind"] in ("math", "tiny") for problem in problems):  # training
        responses = list(map(with_thought, problems, responses))
        golds = list(map(gold_for, problems, responses))
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
# A verifier of one's own

FAILED_SHARE = 0.1  # of the responses graded at once: as many may fail, beyond is an error
SHOWN = 300  # characters of a problem, a response, an error


def load_function(spec):
    """The function of "file.py:function". Its folder stays importable, behind all others."""
    path, _, name = spec.rpartition(":")
    if not Path(path).is_file():
        raise ValueError(f"--reward {spec!r}: no such file; give file.py:function")
    loader = importlib.machinery.SourceFileLoader("user_reward", path)  # whatever its ending
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    sys.modules[loader.name] = module  # dataclasses look their module up there
    folder = str(Path(path).resolve().parent)
    sys.path.insert(0, folder)  # for its neighbours
    try:
        loader.exec_module(module)
    except BaseException as error:  # other people's code: it may raise any
        raise ValueError(f"--reward {spec!r}: {path} does not load: {told(error)}") from error
    finally:
        sys.path.remove(folder)
        sys.path.append(folder)
    if not callable(function := getattr(module, name, None)):
        raise ValueError(f"--reward {spec!r}: {path} has no function {name}")
    try:
        arguments = inspect.signature(function)
    except ValueError:  # one written in C may not tell what it takes
        return function
    try:
        arguments.bind({}, "")
    except TypeError as error:
        raise ValueError(f"--reward {spec!r}: {name}{arguments} is to take (problem, response): "
                         f"{error}") from error
    return function


def told(error):
    """An error of a verifier in one line. Ctrl-C is none, and is raised again."""
    if type(error) is KeyboardInterrupt:
        raise error
    text = "it has no text"
    with suppress(Exception):
        text = str(error)
    return " ".join(f"{type(error).__name__}: {text}".split())[:SHOWN]


def reward_of(value):
    """A verifier's value, a number or a bool (numpy's and torch's too), as a float in [0, 1]."""
    reward = math.nan
    with suppress(TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several
        plain = value.item() if hasattr(value, "item") else value
        if not isinstance(plain, str | bytes | bytearray):
            reward = round(float(plain), 9)  # 0.7 + 0.2 + 0.1 is 0.9999999999999999
    if not 0 <= reward <= 1:  # NaN fails too
        raise ValueError(f"it gives {value!r:.80}: it must lie in [0, 1]")
    return reward


def load_grader(spec):
    """grade(problems, responses, counts) -> floats in [0, 1]: standard, or a file.py:function.

    counts  dict | None  the standard one adds up its reasons there: right, wrong, unparsable, ...;
            a verifier of one's own "verifier failed", which scores 0 and is told once
    """
    if spec is None:
        return partial(grade_all, loose=False)
    function, told_once = load_function(spec), []

    def grade(problems, responses, counts=None):
        rewards, failures, counts = [], [], {} if counts is None else counts
        for problem, response in zip(problems, responses, strict=True):
            try:  # it gets the row as it stands in the file, each time, whatever it does to it
                row = copy.deepcopy(problem.get("row") or problem)
                rewards.append(reward_of(function(row, response)))
            except BaseException as error:
                rewards.append(0.0)
                asked = str(problem.get("problem"))[:SHOWN]
                failures.append(f"--reward {spec!r} failed ({told(error)}) on the problem "
                                f"{asked!r} and the response {response[-SHOWN:]!r}")  # fmt: skip
        if len(failures) > FAILED_SHARE * len(rewards):
            count = f"{len(failures)} of {len(rewards)} responses"
            raise ValueError(f"{failures[-1]}; it failed on {count}; it is to take "
                             "(problem, response) and give a number from 0 to 1")
        if failures:
            counts["verifier failed"] = counts.get("verifier failed", 0) + len(failures)
        if failures and not told_once:
            told_once.append(failures[-1])
            tqdm.write(f"warning: {failures[-1]}: it scores 0, here and later (told once)")
        return rewards

    return grade
