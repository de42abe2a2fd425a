r"""Is this final answer right?  Grades mathematical answers; model output is untrusted text.

The steps, in this order below, for a response that ends in \boxed{x\in(-\infty,3)\cup\{5\}}:

    find_answer  x\in(-\infty,3)\cup\{5\}, the last box after the last </think>
    compare      both sides in one spelling (RULES in plumbing/spelling.py): equal as texts, as
                 letters (B is "(B) five") or as words?  If not, both are read as trees, here
                 (x in (((-1 * oo), 3) cup set(5))), and compared by kind: x<3 \text{ or } x=5 has
                 the same members at 3, at 5, between and beyond (`same_set`), and scores 1.0

A word after a number is a unit, which does not count: 5 parsecs is 5.  Only an abbreviation that
reads as names, 5 cm or 5 kN, needs an entry: SHORT_WORDS in plumbing/answers.py, UNIT in units.py.
No text is executed, none raises an error: the grammar is our own, and of sympy only mpmath, its
number library, is used (sympy's parsers run text, its constructors compute 9**9**9).  All sizes
are bounded before any work, so no timer is needed and processes agree.  README has the policy.

    python reward.py "\frac{2}{4}" "0.5"     explains its verdict; no arguments: tricky answers
"""

import argparse
import re
import signal
import sys
from itertools import product

from plumbing.answers import DOUBT, IN_WORDS, MAX_ITEMS, readings, same_tree, show
from plumbing.choices import LAYOUT, choice, compare_letters
from plumbing.spelling import DOMAIN, MAX_ANSWER, MODULUS, normalise, residues
from plumbing.text import printable
from plumbing.units import without_units

MAX_RESPONSE = 20_000  # characters, from the end

# --------------------------------------------------------------------------------------------------
# Extract: response -> answer

BOX = re.compile(r"\\(?:f?box(?:ed)?|framebox)\s*\{")
BRACES = re.compile(BOX.pattern + "|[{}]")
BRACES_AND_ESCAPES = re.compile(BOX.pattern + r"|\\[{}\\]|[{}]")
BETWEEN_BOXES = re.compile(
    r"(?:[\s,;$~&/、，和或者]|\\[,;! ()\[\]]|\\q?quad|and\b|or\b|maybe\b|perhaps\b"
    r"|\\text\s?\{\s?(?:and|or),?\s?\})*")
THOUGHT = re.compile("(</?)(?:thinking|thought|reasoning)>")
NOT_THIS = re.compile(r"\bnot[\s$:*(]*$")  # "it is not \boxed{9}"
IS_WRONG = re.compile(r"[\s$.*)]*(?:\\text\s?\{ ?)?(?:is|was) "
                      r"(?:wrong|incorrect|not (?:right|correct|the answer))\b")
CUE = re.compile(r"""
    (?:答案|故选)[是为：】:\s]+                       # "The answer is", in Chinese
    | (?<!this\ )(?<!that\ )(?:answers?|correct\ (?:option|choice))  # not "this answer"
    (?:(?:\ (?:to|of|for)\ [^.\n]{1,60})?\ (?:is|are)\b   # " is", " to the second part is"
    | [\s*]*: | \*\*\n | (?<=inal\ answer)\n      # "Answer:", "**Answer**:", "Final Answer"
    | (?=\s*\\\[) | (?=\s\$?-?\d))                # "answer 7", "answer \[7\]"
    [\s:*]*(?:the\ (?:final\ )?answer\ is:?\s*)?  # "Answer: The final answer is"
    (?:(?:therefore|approximately|about)\ )?""", re.I | re.X)
STOP = re.compile(r"\.(?=\s|$)|[\n。，]| \(?(?:because|since)\b|, (?!or\b)(?=[a-z])")  # its end
SPAN = re.compile(r"(?:, |,? (?:or|and) )?(?:\$\$?([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]|"
                  r"\*\*([^*]+)\*\*)", re.S)
REMARK = re.compile(r"(?:an? )?[a-z]{3,}[a-z ]*[.!?)]*")  # "reasonable", "an integer", "correct!"


def closing_braces(text, pattern):
    """{position behind each opening brace or \\boxed{: position of the brace that closes it}."""
    opened, closes = [], {}
    for match in pattern.finditer(text):
        if match[0] == "}" and opened:
            closes[opened.pop()] = match.start()
        elif match[0].endswith("{") and match[0] != "\\{":
            opened.append(match.end())
    return closes


def last_box(text):
    """(the last box, or the last run of joined boxes as a comma list; "box"), or (None, why)."""
    contents, later = [], 0  # later: where the box behind the one in hand starts
    closes = closing_braces(text, BRACES)  # Where no other brace does, \} closes: \boxed{185\}.
    closes |= closing_braces(text, BRACES_AND_ESCAPES)
    for match in reversed(list(BOX.finditer(text))[-MAX_ITEMS:]):
        close = closes.get(match.end(), -1)
        if close < 0 and not contents:
            return None, "truncated"
        if contents and not (close >= 0 and BETWEEN_BOXES.fullmatch(text, close + 1, later)):
            break
        before = text[max(0, match.start() - 20) : match.start()]
        if not contents and (NOT_THIS.search(before) or IS_WRONG.match(text, close + 1)):
            return None, "no answer"
        contents.insert(0, text[match.end() : close].strip())
        later = match.start()
    if not contents:
        return None, "no answer"
    return (", ".join(dict.fromkeys(contents)), "box") if all(contents) else (None, "empty box")


def stated_answer(text):
    """What follows a cue: the formulas that come first, else its sentence; "" if nothing does."""
    rest, formulas = text.lstrip()[:MAX_ANSWER], []
    while span := SPAN.match(rest):  # $2$ or $3$
        formulas += filter(None, span.groups())
        rest = rest[span.end() :]
    sentence = re.split(r" (?:is|equals) ", STOP.split(rest)[0])[-1]  # what stands after its "is"
    return ", ".join(formulas or [sentence]).strip(" *:`$")


def after_thoughts(response):
    """What follows the last </think>, and of it what stands before a <think> that is not closed."""
    text = THOUGHT.sub(r"\1think>", str(response)[-MAX_RESPONSE:])
    return text.rpartition("</think>")[2].partition("<think>")[0]


def find_answer(response, loose):
    """(answer, the rule that found it), or (None, why there is none)."""
    text = after_thoughts(response)
    answer, rule = last_box(text)
    if not loose or rule != "no answer":
        return answer, rule
    text = re.split(r"<\|(?:im_|end|eot)|</s>", text)[0]  # A made-up next turn is no answer.
    if "<answer>" in text:
        answer, closed, _ = text.rpartition("<answer>")[2].partition("</answer>")
        return (answer, "<answer>") if closed else (None, "truncated")
    if "####" in text:
        return text.rpartition("####")[2].strip().partition("\n")[0], "####"
    answers = [stated_answer(text[cue.end() :]) for cue in list(CUE.finditer(text))[-MAX_ITEMS:]]
    if not answers:
        return None, "no answer"
    # "The answer is 7.  The answer is reasonable." is 7, but "the answer is wrong" takes it back
    no_remarks = [one for one in answers if DOUBT.search(one) or not REMARK.fullmatch(one)]
    return (no_remarks or answers)[-1], "answer is"


def extract_answer(response, loose=False):
    r"""The last \boxed{} after the last </think>; None if there is none, or it is open or empty.

    Boxes joined by "and", "or", commas or space form one list.  `loose`, for evaluation, falls back
    to <answer>, then ####, then "answer is" / "Answer:"; never to the last number somewhere.
    """
    return find_answer(response, loose)[0]


# --------------------------------------------------------------------------------------------------
# Equal: two answers -> right or not, and the rule that decided

SPACE = re.compile(r"(?<![\d.]) | (?![\d.])")  # A space between digits stays.
UNIT_AS_TEXT = re.compile(r"(?<=\d) ?\\text\s?\{ ?([a-zA-Z][^{}]*)\}(?!_)")
# Signs that make a formula of a text: a-b is not ab, north-east is northeast
FORMULA = re.compile(r"[+*/^_=<>()|%',;[\]\\]|(?<![a-zA-Z]{4})!|\d \d|:(?!\d)|(?<![a-zA-Z])-")
NOT_SPOKEN = re.compile(  # 10:00 a.m. is 10 am, north-east northeast
    rf":00(?= *[ap]\.?m)|[ \"?!]|\.(?!\d)|-(?!{IN_WORDS.pattern})(?=[a-zA-Z]{{4}})")

# The grader of MATH (Hendrycks et al., arXiv 2103.03874): equal strings after these, with examples
STRICT_RULES = [(re.compile(pattern), *row) for pattern, *row in [
    (r"\n|\\!", "", r"1\!2", "12"), (r"\\\\", r"\\", r"\\pi", r"\pi"),
    (r"[td]frac", "frac", r"\dfrac{1}{3}", r"\frac{1}{3}"), (r"\\text\{ .*", "", r"5\text{ m", "5"),
    (r"\\%", "", r"5\%", "5"), (r"\\left|\\right", "", r"\left(1,2\right)", "(1,2)"),
    (r"\^\{\\circ\}|\^\\circ", "", r"5^\circ", "5"), (r"\\\$", "", r"\$5", "5"),
    (r"([ {]|^)\.", r"\g<1>0.", ".7", "0.7"), (r"^[^=]{0,2}=([^=]*)$", r"\1", "x=5", "5"),
    (r"\\sqrt([^{])", r"\\sqrt{\1}", r"\sqrt2", r"\sqrt{2}"), (r" ", "", "1 + x", "1+x"),
    (r"\\frac([^{])([^{])", r"\\frac{\1}{\2}", r"\frac13", r"\frac{1}{3}"),
    (r"\\frac([^{])\{", r"\\frac{\1}{", r"\frac1{3}", r"\frac{1}{3}"),
    (r"^0\.5$", r"\\frac{1}{2}", "0.5", r"\frac{1}{2}"),
    (r"^(-?\d+)/(-?\d+)$", r"\\frac{\1}{\2}", "1/3", r"\frac{1}{3}")]]


def plain_words(text):
    """The letters and digits of a text, in any script; "" if it has signs of a formula."""
    text = LAYOUT.sub("", text).strip()
    words = NOT_SPOKEN.sub("", text.lower())
    has_word = re.search(r"[a-z]{2}|[^\W\d_a-z]", words)  # two letters, or one of another script
    return words if has_word and not FORMULA.search(text) else ""


def compare(predicted, ground_truth, strict=False):
    """(right?, the rule that decided) for two bare answers; strict compares by STRICT_RULES."""
    predicted, ground_truth = str(predicted), str(ground_truth)
    if max(len(predicted), len(ground_truth)) > MAX_ANSWER:  # A cut could hide "or 43".
        return False, "unparsable: too long"
    if strict:
        for pattern, replacement, *_ in STRICT_RULES:
            predicted = pattern.sub(replacement, predicted)
            ground_truth = pattern.sub(replacement, ground_truth)
        return predicted == ground_truth, "strict"
    domains, gold_domains = ({*DOMAIN.findall(one)} for one in (predicted, ground_truth))
    if domains and gold_domains and domains != gold_domains:  # k in N, and k in Z
        return False, "another domain"
    predicted, ground_truth = normalise(predicted), normalise(ground_truth)
    if not predicted or not ground_truth:
        return False, "empty"
    texts = {SPACE.sub("", UNIT_AS_TEXT.sub(r"\1", one)) for one in (predicted, ground_truth)}
    if len(texts) == 1:
        return True, "same text"
    right, predicted, ground_truth = compare_letters(predicted, ground_truth)
    if right is not None:
        return right, "multiple choice"
    words, gold_words = plain_words(predicted), plain_words(ground_truth)
    if words and words == gold_words:
        return True, "same words"
    if {words[-2:], gold_words[-2:]} == {"am", "pm"}:
        return False, "another time"
    if residues(predicted) and residues(predicted) == residues(ground_truth):
        return True, "same residues"
    if not MODULUS.search(predicted) or not MODULUS.search(ground_truth):  # 7 \pmod{11} is 7
        predicted, ground_truth = MODULUS.sub("", predicted), MODULUS.sub("", ground_truth)
    try:
        predicted, ground_truth = without_units(predicted, ground_truth)
        trees = product(readings(predicted), readings(ground_truth))
        right = any(same_tree(tree, gold_tree) for tree, gold_tree in trees)
    except ValueError as error:
        return False, f"unparsable: {error}"
    return right, "same value" if right else "wrong"


def equal(predicted, ground_truth, strict=False):
    """Do two bare answers mean the same?  False, never an error, for any text."""
    return compare(predicted, ground_truth, strict)[0]


def parses(ground_truth):
    """Can this gold be graded by more than its text?  Data loaders report those that cannot."""
    text = normalise(str(ground_truth)[:MAX_ANSWER])
    try:
        return bool(choice(text)[0] or readings(text))
    except ValueError:
        return False


# --------------------------------------------------------------------------------------------------
# Verdict: response -> 1.0 or 0.0, and its explanation


def verdict(response, ground_truth, loose=False, strict=False):
    """(1.0, "right"), or 0.0 and "wrong", "unparsable", "no answer", "truncated" or "empty box"."""
    answer, reason = find_answer(response, loose)
    if answer is None:
        return 0.0, reason
    right, rule = compare(answer, ground_truth, strict)
    if right:
        return 1.0, "right"
    return 0.0, "unparsable" if rule.startswith("unparsable") else "wrong"


def score(response, ground_truth, loose=False, strict=False):
    """1.0 if the response's final answer is right, else 0.0; never an error, for any text."""
    return verdict(response, ground_truth, loose, strict)[0]


def score_batch(responses, ground_truths, counts=None, loose=False, strict=False):
    """The score of each pair, a list of floats; `counts` gets how often each reason occurred."""
    if len(responses) != len(ground_truths):
        raise ValueError(f"{len(responses)} responses but {len(ground_truths)} ground truths: "
                         "give one ground truth for each response")
    verdicts = [verdict(*pair, loose, strict) for pair in zip(responses, ground_truths)]
    if counts is not None:
        for _, reason in verdicts:
            counts[reason] = counts.get(reason, 0) + 1
    return [value for value, _ in verdicts]


TRICKY = r"""\frac{2}{4} == 0.5   0.333333 == 1/3   5.001 != 5   50% == 0.5   50 != 0.5   x=5 == 5
    1\frac12 == 1.5   x+3=42 != 42   >5 != 5   101_2 != 101   3+2x == 2x+3   \sqrt{x^2} != x
    (0,1) != [0,1)   x<3 == (-\infty,3)   1\pm2 == -1,3   9^{9^{9^9}} != 1   (((( != (((((("""


def explain(text, ground_truth, loose, strict):
    """Print what was extracted, how both sides read, and which rule decided."""
    answer, rule = find_answer(text, loose)
    if rule == "no answer" and not loose and "think>" not in text:
        answer, rule = text, "bare answer"
    print(printable(f"extracted     {answer or 'nothing'} ({rule})"))
    right = is_read = False
    if answer:
        for label, side in (("predicted", answer), ("ground truth", ground_truth)):
            try:
                trees = " or ".join(map(show, readings(normalise(side))))
                print(printable(f"{label:13} {normalise(side)} reads as {trees}"))
                is_read = True
            except ValueError as error:
                print(printable(f"{label:13} {normalise(side)} cannot be read: {error}"))
        right, rule = compare(answer, ground_truth, strict)
        rule = rule if is_read or rule != "same text" else "equal as text only"
    print(f"verdict       {'right' if right else 'not right'} ({rule})")


def main():
    parser = argparse.ArgumentParser(description="Explain a verdict; no arguments: tricky answers. "
                                     "Put -- before an answer that begins with a minus.")
    parser.add_argument("predicted", nargs="?", help="a bare answer, or a response with a box")
    parser.add_argument("ground_truth", nargs="?", help="the right answer")
    parser.add_argument("--loose", action="store_true", help="accept <answer>, ####, 'answer is'")
    parser.add_argument("--strict", action="store_true", help="the string rules of MATH's grader")
    args = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack a text's characters
    if args.ground_truth is not None:
        explain(args.predicted, args.ground_truth, args.loose, args.strict)
        return
    for predicted, sign, ground_truth in map(str.split, re.split(r"   |\n +", TRICKY)):
        right, rule = compare(predicted, ground_truth)
        print(f"{predicted:17} {sign} {ground_truth:12} {rule}")
        assert right == (sign == "=="), "the wrong verdict"


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # of reward.py | head; Windows has none
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    main()
