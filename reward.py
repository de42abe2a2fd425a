r"""Is this final answer right?  Grades mathematical answers; model output is untrusted text.

Four steps: extract (the last \boxed{}), normalise, parse, compare.  The grammar, loosest first:

    answer   = relation {("," | ";" | "or" | "and") relation}   a bare list is unordered
    relation = ratio {("=" | "<" | "!=" | "in" ...) ratio}       x = 5 is 5; x < 3 is (-inf, 3)
    ratio    = set {":" set}
    set      = sum {("cup" | "cap" | "setminus") sum}
    sum      = product {("+" | "-" | "+-") product}              +- stands for both values
    product  = power {["*" | "/"] power}                         words after a number are units
    power    = ["-"] operand {"!" | "%" | degree | "'"} ["^" power]
    operand  = number | name | function | (answer) | [answer] | {answer} | |answer| | words

Expressions are equal if they are so at fixed points of both signs: in exact fractions while they
last, else with 50 digits.  Nothing is executed and nothing can grow: text, tokens, nesting and the
bits of a number are bounded before any work, so no timer is needed; threads and processes agree.
Of sympy only mpmath, its number library, is used: sympy's parsers execute text, its constructors
compute 9**9**9.  README has the policy; strict=True is the string grader of the method's authors.

    python reward.py "\frac{2}{4}" "0.5"     explains its verdict; no arguments: tricky answers
"""

import argparse
import re
import unicodedata
from functools import lru_cache
from itertools import product

from plumbing.answers import (DENIAL, GREEK, IN_WORDS, MAX_ITEMS, Unreadable, is_same, readings,
                              show)

MAX_RESPONSE, MAX_ANSWER = 20_000, 2_000


# --------------------------------------------------------------------------------------------------
# Extract: response -> answer

BOX = re.compile(r"\\f?box(?:ed)?\s*\{")
BRACES = re.compile(BOX.pattern + "|[{}]")
BRACES_AND_ESCAPES = re.compile(BOX.pattern + r"|\\[{}\\]|[{}]")
BETWEEN_BOXES = re.compile(
    r"(?:[\s,;$~&]|\\[,;! ()\[\]]|\\q?quad|and\b|or\b|\\text\s?\{\s?(?:and|or),?\s?\})*")
CUE = re.compile(r"(?:answer|correct (?:option|choice))(?:(?: (?:to|of|for) [^.\n]{1,60})? is\b|"
                 r"[\s*]*:|(?=\s*\\\[)|(?=\s\$?-?\d)|\*\*\n)[\s:*]*"
                 r"(?:the (?:final )?answer is:?\s*)?(?:(?:therefore|approximately|about) )?", re.I)
STOP = re.compile(r"\.(?=\s|$)|\n| \(?(?:because|since)\b|, (?=[a-z])")  # ends a stated answer
SPAN = re.compile(r"(?:, |,? (?:or|and) )?(?:\$\$?([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]|"
                  r"\*\*([^*]+)\*\*)", re.S)


def closing_braces(text, pattern):
    """{end of a box's start or of an opening brace: where it closes}; an escaped brace is none."""
    opened, closes = [], {}
    for match in pattern.finditer(text):
        if match[0] == "}" and opened:
            closes[opened.pop()] = match.start()
        elif match[0].endswith("{") and match[0] != "\\{":
            opened.append(match.end())
    return closes


def last_box(text):
    """The last box, or the last run of joined boxes as a comma list; or None; and the reason."""
    contents, later = [], 0
    closes = closing_braces(text, BRACES)  # \boxed{185\} closes too
    closes |= closing_braces(text, BRACES_AND_ESCAPES)
    for match in reversed(list(BOX.finditer(text))[-MAX_ITEMS:]):
        close = closes.get(match.end(), -1)
        if close < 0 and not contents:
            return None, "truncated"
        if contents and not (close >= 0 and BETWEEN_BOXES.fullmatch(text, close + 1, later)):
            break
        contents.insert(0, text[match.end() : close].strip())
        later = match.start()
    if not contents or not all(contents):
        return None, "empty box" if contents else "no answer"
    return ", ".join(dict.fromkeys(contents)), "box"


def find_answer(response, loose):
    """The answer and the rule that found it, or None and the reason."""
    text = str(response)[-MAX_RESPONSE:].rpartition("</think>")[2]
    answer, rule = last_box(text)
    if not loose or rule != "no answer":
        return answer, rule
    text = re.split(r"<\|(?:im_|end|eot)|</s>", text)[0]  # a made-up next turn is no answer
    if "<answer>" in text:
        answer, closed, _ = text.rpartition("<answer>")[2].partition("</answer>")
        return (answer, "<answer>") if closed else (None, "truncated")
    if "####" in text:
        return text.rpartition("####")[2].strip().partition("\n")[0], "####"
    if not (cues := list(CUE.finditer(text))):
        return None, "no answer"
    rest, answers = text[cues[-1].end() :].lstrip()[:MAX_ANSWER], []
    while span := SPAN.match(rest):  # $2$ or $3$
        answers += filter(None, span.groups())
        rest = rest[span.end() :]
    sentence = re.split(r" (?:is|equals) ", STOP.split(rest)[0])[-1]  # what its "is" says
    return ", ".join(answers or [sentence]).strip(" *:`$"), "answer is"


def extract_answer(response, loose=False):
    r"""The last \boxed{} after the last </think>; None if there is none, or it is open or empty.

    Boxes joined by "and", "or", commas or space form one list.  `loose`, for evaluation, falls back
    to <answer>, then ####, then "answer is" / "Answer:"; never to the last number somewhere.
    """
    return find_answer(response, loose)[0]


# --------------------------------------------------------------------------------------------------
# Normalise: one spelling for what prints the same

SIGNS = "sqrt infty le ge ne approx cup cap in emptyset pm mp setminus circ".split()
UNICODE = str.maketrans(
    {sign: rf"\{name} " for sign, name in zip(
        "αβγδεζηθκλμνξπρστφχψωΓΔΘΛΣΦΨΩ√∞≤≥≠≈∪∩∈∅±∓∖°", GREEK + SIGNS)}
    | dict(zip("−–—⁻⁺×·⋅÷∕⁄⟨⟩", "----+***///()")) | dict.fromkeys('£€¢"“”\u200b')
    | dict(zip("½⅓⅔¼¾", (rf"\frac{digits}" for digits in (12, 13, 23, 14, 34)))))
SCRIPTS = re.compile("([⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿˣ]+)|[₀₁₂₃₄₅₆₇₈₉]+")  # 10⁻¹² and 101₂


def mixed_number(match):
    r"""1\frac12 and 1 1/2 are 3/2; an improper fraction is a factor."""
    whole, top, bottom = filter(None, match.groups())
    return f"({whole}+{top}/{bottom})" if 0 < int(top) < int(bottom) else match[0]


def repeating(match):
    r"""0.1\bar{6} is (16 - 1)/90."""
    whole, head, period = filter(lambda group: group is not None, match.groups())
    return f"(({whole}{head}{period}-0{whole}{head})/{'9' * len(period)}{'0' * len(head)})"


def derivative(match):
    r"""\ddot{x} is x''."""
    dots, *name = match.groups("")
    return "".join(name) + "'" * (1 + len(dots))


def matrix(match):
    """A matrix as a tuple of its rows; one row or one column as a tuple of its cells."""
    rows = [row.replace("&", ",") for row in re.split(r"\\\\|\\(?=[-\d.])", match[1])]
    return f"({','.join(f'[{row}]' if ',' in row else row for row in rows if row.strip())})"


REWRITES = [(re.compile(pattern), new) for pattern, new in [
    # What does not show, or is style only
    (r"\\(?:left|right|displaystyle|limits|[bB]igg?[lrm]?)(?![a-zA-Z])\.?|\\!\s*", ""),
    (r"\\color\s*\{[^{}]*\}|m?\\angle(?![a-zA-Z])", ""),
    (r"(?<=\d)(?:\{,\}|\\[, ]| )(?=\d{3}(?!\d))", ""),  # 1{,}000 and 1\,000
    (r"\{,\}|(?<=\d),?\{\}(?=-?\d)", ","),
    (r"(?<!\d)(\d*)\.(\d*)(?:\\(?:overline|bar|dot)\s*\{?(\d+)\}?|(?<=\.)\((\d+)\))", repeating),
    (r"\\(d?)dot\s*(?:\{\s*(\\?[a-zA-Z]+)\s*\}|(\\[a-zA-Z]+|[a-zA-Z]))", derivative),
    (r"\^\{(-?\d)\}(?=[^{}]*\})", r"^\1"), (r"\\\\\s?\[-?[\d.]+[a-z]{2}\]", r"\\\\"),
    (r"(?<!\\)\\(?:[$()\[\],;:> ]|q?quad)|[$~]|\*\*(?=\s*$)|^\s*\*\*", " "),
    (r"\\(?:math(?:bf|it|sf|cal|tt)|bf|rm|it|bm|boldsymbol|vec|hat|bar|underline|overrightarrow|"
     r"boxed|overline(?=\s*\{\s*[a-zA-Z]))(?![a-zA-Z])", ""),
    (r"\\begin\s*\{(?:[pbB]?matrix|smallmatrix|array\}\s*\{[^{}]*)\}(.*?)\\end\s*\{[a-zA-Z]*\}",
     matrix),
    # Other names of the same
    (r"\\[dtc](?=frac|binom)", r"\\"),
    (r"(^|\{)([^{}]*)\\(over|choose)(?![a-zA-Z])([^{}]*)(\}|$)", r"\1\\\3{\2}{\4}\5"),
    (r"\\(?:text(?:bf|it|rm|tt|sf)|emph|mathrm|[mh]box|operatorname|normal)\s*\*?\s*\{",
     r"\\text{"),
    (r"(?<=\d)\s*(?:\\text\s?\{)?\s*\(?(?:in )?base[ }]{1,3}(\w+)\)?\}?(?: ?\\text\s?\{\)\})?$",
     r"_{\1}"),
    (r"(?<![a-z^_])[({](\d\w*|[A-F]\d+)[)}]_", r"\1_"),
    (r"(?<=\d)\\text\s?\{([A-F]+)\}(?=\d*_)", r"\1"),
    (r"(?<=\d)_\{?\s*(?:\\text\s?\{|\()\s*(\w+)\s*[)}]+", r"_{\1}"),
    (r"\\text\s?\{\s*(-?\w?\d[^{}]*|[:=])\}", r"\1"),
    (r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree|\bdegrees?\b", r"\\circ "),
    (r"\^\s*\{?\s*\\prime\s*\}?", "'"), (r"(?<=\d)\s*x\s*(?=10\s*\^)", "*"),
    (r"(?<=\d)\s*(?:\\text\s?\{\s*to\s*\}|to)\s*(?=\d)", ":"),
    (r"(?<=[\])}])\s*U\s*(?=[\[({\\])", r"\\cup "), (r"(?<=\})\s*-\s*(?=\\\{)", r"\\setminus "),
    (r"\\emptyset|\\varnothing", r"\\{\\}"),
    (r"(?<=\d)\^?\{?(?:\\text\s?\{)?(?:st|nd|rd|th)\b\}{0,2}$", ""),
    # 2x for all x, and 3+2k, k in Z; {x : x > 3} is x > 3, and f(x) = ... is f = ...
    (r"(?:\\text\s?\{\s*)?\bfor (?:all|any|every)\b[^,;=\d]{0,60}$", ""),
    (r",\s*[a-z]\s*\\in\s*\\mathbb\s*\{?[ZN]\}?$", ""),
    (r"(\\\{)\s*[a-zA-Z]\s*(?:\\in\s*\\mathbb\s*\{?R\}?)?\s*(?:[|:]|\\mid)", r"\1"),
    (r"\\mathbb\s*\{?R\}?", r"(-\\infty,\\infty)"),
    (r"(^|= ?)\{?([a-zA-Z])\}?\s*\^\s*\{?-1\}?\s*(?==|\([a-z]\)\s*=)", r"\1\2' "),
    (r"(?<![-+*/)a-zA-Z])(?<![-+*/)] )(?<!\b[a-zA-Z] )"
     r"([a-zA-Z]'*)\s*\([a-zA-Z](?:,\s*[a-zA-Z])*\)\s*(?=[=<>]|\\[lg]e)", r"\1 "),
    (r"\bP\s*\([^()]*\)\s*(?==)", "P"),
    (r"(?<![\d.^_}/])(\d+)(?:\s*\\frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))"
     r"| +(\d+)/(\d+))(?!\.?\d)", mixed_number),
]]


@lru_cache(256)
def normalise(text):
    """The text without layout, with one spelling of each sign and style."""
    text = SCRIPTS.sub(lambda run: "_^"[bool(run[1])] + f"{{{run[0]}}}", text[:MAX_ANSWER])
    text = unicodedata.normalize("NFKC", text.translate(UNICODE))[:MAX_ANSWER]
    text = re.sub(r"\s+", " ", text)  # a long run would make the patterns slow
    if r"\begin" not in text:
        text = re.sub(r"\\\\(?=[a-zA-Z])", r"\\", text)  # \\sqrt{5}: escaped once too often
    for pattern, new in REWRITES:
        text = pattern.sub(new, text)
    text = text.strip()
    return text if text.endswith("..") else text.rstrip(" .,;:\\")  # the sentence's end


# --------------------------------------------------------------------------------------------------
# Verdict

CHOICE = re.compile(  # B, (b), option B, B. five; but no second letter: C. or D
    r"\s*(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer):? )?[(\[]?([A-Ja-j])(?:[)\].:\s]*|[).:]+"
    r"(?:\s+|(?<=\))(?=\w))(?!(?:or|and|not|false|incorrect|is|no wait)\b|"
    r".*\b(?:[B-J]|A(?! [a-z]))\b|\(?[a-j](?:\)| is\b)|(?:.*[a-z]{2} )?[b-j]\b\W*$)(.+))")
LAYOUT = re.compile(r"\\text(?![a-zA-Z])|[{}$~]|\\[,;! ]")
# Signs that make a formula of a text: a-b is not ab, north-east is northeast
FORMULA = re.compile(r"[+*/^_=<>()|%',;[\]\\]|(?<![a-zA-Z]{4})!|\d \d|:(?!\d)|(?<![a-zA-Z])-")
UNIT = re.compile(r"(?<=\d) +[mgsLhNJWVKC](?:/[smhL])?(?:\^\{?\d\}?)?$|\\circ\s*[CFK]$")
STRICT_REWRITES = [(re.compile(pattern), new) for pattern, new in [
    (r"\n|\\!", ""), (r"\\\\", r"\\"), (r"[td]frac", "frac"), (r"\\text\{ .*", ""), (r"\\?%", ""),
    (r"\\left|\\right|\^\{\\circ\}|\^\\circ|\\\$", ""), (r"([ {]|^)\.", r"\g<1>0."),
    (r"^[^=]{0,2}=([^=]*)$", r"\1"), (r"\\sqrt([^{])", r"\\sqrt{\1}"), (r" ", ""),
    (r"\\frac([^{])([^{])", r"\\frac{\1}{\2}"), (r"\\frac([^{])\{", r"\\frac{\1}{"),
    (r"^0\.5$", r"\\frac{1}{2}"), (r"^(-?\d+)/(-?\d+)$", r"\\frac{\1}{\2}")]]


def choice(text):
    """The letter of a multiple-choice answer and what stands behind it: ("B", "five")."""
    match = CHOICE.fullmatch(LAYOUT.sub("", text)) if len(text) < 200 else None
    return (match[1].upper(), match[2]) if match else ("", None)


def plain_words(text):
    """A text without signs of a formula, as its letters and digits; else ""."""
    text = LAYOUT.sub("", text).strip()
    words = re.sub(rf"[ \"?!]|\.(?!\d)|-(?!{IN_WORDS.pattern})(?=[a-zA-Z]{{4}})", "", text).lower()
    return words if re.search("[a-z]{2}", words) and not FORMULA.search(text) else ""


def judge(predicted, ground_truth, strict=False):
    """(right?, the rule that decided) for two bare answers.

    strict: equal strings after MATH's rewrites (Hendrycks et al., arXiv 2103.03874).
    """
    a, b = str(predicted), str(ground_truth)
    if max(len(a), len(b)) > MAX_ANSWER:  # a cut could hide "or 43"
        return False, "unparsable: too long"
    if strict:
        for pattern, new in STRICT_REWRITES:
            a, b = pattern.sub(new, a), pattern.sub(new, b)
        return a == b, "strict"
    a, b = normalise(a), normalise(b)
    if not a or not b:
        return False, "empty"
    if len({re.sub(r"(?<![\d.]) | (?![\d.])", "", side) for side in (a, b)}) == 1:
        return True, "same text"
    (letter, more), (gold_letter, gold_more) = choice(a), choice(b)
    if gold_letter and (letter or gold_letter in b) and not (more and gold_more):
        return letter == gold_letter, "multiple choice"
    words, gold_words = plain_words(a), plain_words(b)
    if words and words == gold_words:
        return True, "same words"
    if {words[-2:], gold_words[-2:]} == {"am", "pm"}:
        return False, "another time"
    if not re.search("[a-zA-Z]", b):
        a = UNIT.sub("", a)  # "5 m" where the gold has no names
    try:
        right = any(is_same(x, y) for x, y in product(readings(a), readings(b)))
    except Unreadable as error:
        return False, f"unparsable: {error}"
    return right, "same value" if right else "wrong"


def parses(ground_truth):
    """Can this gold be graded by more than its text?  Data loaders report those that cannot."""
    text = normalise(str(ground_truth)[:MAX_ANSWER])
    try:
        return bool(choice(text)[0] or readings(text))
    except Unreadable:
        return False


def equal(predicted, ground_truth, strict=False):
    """Do two bare answers mean the same?  False, never an error, for any text."""
    return judge(predicted, ground_truth, strict)[0]


def verdict(response, ground_truth, loose=False, strict=False):
    """score, and "right", "wrong", "unparsable", "no answer", "truncated" or "empty box"."""
    answer, reason = find_answer(response, loose)
    if answer is None:
        return 0.0, reason
    right, rule = judge(answer, ground_truth, strict)
    return (1.0, "right") if right else (0.0, "wrong" if rule[:3] != "unp" else "unparsable")


def score(response, ground_truth, loose=False, strict=False):
    """1.0 if the response's final answer is right, else 0.0; never an error, for any text."""
    return verdict(response, ground_truth, loose, strict)[0]


def score_batch(responses, ground_truths, counts=None, loose=False, strict=False):
    """score of each pair, a list of floats; `counts` gets how often each reason occurred."""
    if len(responses) != len(ground_truths):
        raise ValueError(f"{len(responses)} responses but {len(ground_truths)} ground truths: "
                         "give one ground truth for each response")
    verdicts = [verdict(*pair, loose, strict) for pair in zip(responses, ground_truths)]
    if counts is not None:
        for _, reason in verdicts:
            counts[reason] = counts.get(reason, 0) + 1
    return [value for value, _ in verdicts]


# --------------------------------------------------------------------------------------------------
# Explanation

TRICKY = r"""\frac{2}{4} == 0.5   0.333333 == 1/3   5.001 != 5   50% == 0.5   50 != 0.5   x=5 == 5
    1\frac12 == 1.5   x+3=42 != 42   >5 != 5   101_2 != 101   3+2x == 2x+3   \sqrt{x^2} != x
    (0,1) != [0,1)   x<3 == (-\infty,3)   1\pm2 == -1,3   9^{9^{9^9}} != 1   (((( != (((((("""


def explain(text, ground_truth, loose, strict):
    """Print what was extracted, how both sides read, and which rule decided."""
    answer, rule = find_answer(text, loose)
    if rule == "no answer" and not loose:
        answer, rule = text, "bare answer"
    print(f"extracted     {answer or 'nothing'} ({rule})")
    right = False
    if answer:
        for label, side in (("predicted", answer), ("ground truth", ground_truth)):
            try:
                trees = " or ".join(map(show, readings(normalise(side))))
                print(f"{label:13} {normalise(side)} reads as {trees}")
            except Unreadable as error:
                print(f"{label:13} {normalise(side)} cannot be read: {error}")
        right, rule = judge(answer, ground_truth, strict)
    print(f"verdict       {'right' if right else 'not right'} ({rule})")


def main():
    parser = argparse.ArgumentParser(description="Explain a verdict; no arguments: tricky answers. "
                                     "Put -- before an answer that begins with a minus.")
    parser.add_argument("predicted", nargs="?", help="a bare answer, or a response with a box")
    parser.add_argument("ground_truth", nargs="?", help="the right answer")
    parser.add_argument("--loose", action="store_true", help="accept <answer>, ####, 'answer is'")
    parser.add_argument("--strict", action="store_true", help="the string rules of MATH's grader")
    args = parser.parse_args()
    if args.ground_truth is not None:
        explain(args.predicted, args.ground_truth, args.loose, args.strict)
    else:
        for predicted, sign, gold in map(str.split, re.split(r"   |\n +", TRICKY)):
            right, rule = judge(predicted, gold)
            print(f"{predicted:17} {sign} {gold:12} {rule}")
            assert right == (sign == "=="), "the wrong verdict"


if __name__ == "__main__":
    main()
