r"""Is this final answer right?  A grader of mathematical answers that treats model output as untrusted text.

A response passes through four steps: extract (the last \boxed{}), normalise, parse, compare.  What is parsed:

    answer   = item {("," | ";" | "or" | "and") item}      a bare list: unordered, repeats count
    item     = ratio {("=" | "<" | "<=" | "in" | ...) ratio}   x = 5 reads as 5, x < 3 as (-inf, 3)
    ratio    = region {":" region}
    region   = sum {("cup" | "cap" | "setminus") sum}
    sum      = product {("+" | "-") product}               "+-" gives a list of both signs
    product  = power {["*" | "/"] power}                   a word after a number is a unit: dropped
    power    = atom {"!" | "%" | degree} ["^" power]
    atom     = number | name | function power | (answer) | [answer] | {answer} | |sum| | matrix | text

Two expressions are equal if they are equal at fixed points (exact fractions while they last, then 100 digits);
an equation or inequality may be scaled.  Nothing is executed and nothing can grow: text, tokens, nesting and
the bits of a power are limited before any work is done, so no timer or signal is needed, and threads, worker
processes and the main thread agree.  sympy itself is not used: its constructors compute (9**9**9 hangs) and its
parsers execute text; its number library, mpmath, is.  `strict=True` gives the string rules of Hendrycks et al.
(MATH, 2021), the grader of the method's authors, for comparing numbers with theirs.

    python reward.py "\frac{2}{4}" "0.5"
"""
import argparse
import functools
import json
import os
import re
import select
import subprocess
import sys
import unicodedata
from fractions import Fraction

import mpmath

# Limits, all checked before the work they bound.
MAX_RESPONSE, MAX_ANSWER, MAX_TOKENS, MAX_DEPTH = 20_000, 2_000, 400, 40
MAX_BITS = 20_000        # of an exact number; Python multiplies and reduces these in well under 1 ms
MAX_ITEMS = 64           # elements of a list; unordered comparison is quadratic
DECIMAL_TOLERANCE = Fraction(2, 10**6)   # relative, where one side is written with a decimal point
SAME = mpmath.mpf(10) ** -70             # relative, for values carried with 100 digits


class Unreadable(ValueError):
    """The text is not an answer of the grammar, or is larger than the limits."""


class Undefined(ArithmeticError):
    """No (real) value at this point: division by zero, root of a negative number, ..."""


# ---- 1. extract ----------------------------------------------------------------------------------

BOX = re.compile(r"\\f?box(?:ed)?\s*\{")
# What may stand between boxes that form one list.
BOX_JOINT = re.compile(r"(?:[\s,;$~&]|\\[,;! ]|\\q?quad\b|\\\[|\\\]|\\\(|\\\)|and\b|or\b|\\text\s?\{\s?(?:and|or),?\s?\})*")
CUE = re.compile(r"(?:final answer|answer)(?:\s+is|\s*:|(?=\s*\\\[)|(?=\s\$?-?\d))[\s:*]*(?:the (?:final )?answer is:?\s*)?", re.I)
MATH_SPAN = re.compile(r"\$\$?([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]|\*\*([^*]+)\*\*", re.S)


def closing_brace(text: str, start: int, escapes: bool) -> int:
    r"""Index after the brace that closes the one before `start`, or -1.  `escapes`: \{ and \} do not count."""
    depth, i = 1, start
    while i < len(text):
        if text[i] == "\\" and escapes:
            i += 1
        elif text[i] in "{}":
            depth += 1 if text[i] == "{" else -1
            if depth == 0:
                return i + 1
        i += 1
    return -1


def last_boxes(text: str) -> tuple[str | None, str]:
    """The content of the last box, or of the last run of joined boxes as one comma list; and what happened."""
    contents, end, i = [], -1, 0
    reason = "no answer"
    while match := BOX.search(text, i):
        # `185\` in a box ends in an escaped brace: the second count takes every brace for one.
        close = closing_brace(text, match.end(), True)
        if close < 0:
            close = closing_brace(text, match.end(), False)
        if close < 0:
            return None, "truncated"
        joined = end >= 0 and BOX_JOINT.fullmatch(text, end, match.start())
        content = text[match.end():close - 1].strip()
        contents = contents + [content] if joined else [content]
        i = end = close
    if not contents:
        return None, reason
    if not all(contents):
        return None, "empty box"
    return ", ".join(contents if len(set(contents)) > 1 else contents[:1]), "boxed"


def find_answer(response: str, loose: bool) -> tuple[str | None, str]:
    """The answer, or None, and the rule that found it or the reason why there is none."""
    text = response[-MAX_RESPONSE:].rpartition("</think>")[2]
    answer, reason = last_boxes(text)
    if answer is not None or not loose or reason != "no answer":
        return answer, reason
    text = text.partition("<|im_")[0]      # a hallucinated next turn is not part of the answer
    if "<answer>" in text:
        inside, closed, _ = text.rpartition("<answer>")[2].partition("</answer>")
        return (inside.strip(), "<answer>") if closed else (None, "truncated")
    if "####" in text:
        return text.rpartition("####")[2].strip().partition("\n")[0].strip() or None, "####"
    cues = list(CUE.finditer(text))
    return (cue_answer(text[cues[-1].end():]), "answer is") if cues else (None, "no answer")


def cue_answer(rest: str) -> str | None:
    """The answer at the start of the text after "answer is": a math span, or the words up to the sentence's end."""
    rest = rest.lstrip()[:MAX_ANSWER]
    if span := MATH_SPAN.match(rest):
        return next(group for group in span.groups() if group).strip()
    sentence = re.split(r"\.(?=\s|$)|\n| because |, (?=[a-z])|\. ", rest)[0]
    sentence = re.split(r" (?:is|equals) ", sentence)[-1]
    if span := MATH_SPAN.match(sentence):
        return next(group for group in span.groups() if group).strip()
    return sentence.strip(" *:") or None


def extract_answer(response: str, loose: bool = False) -> str | None:
    r"""The content of the last balanced \boxed{} after the last </think>; None if there is none, or it is open or empty.

    Boxes joined by "and", "or", commas or space form one comma list.  `loose`, for evaluation only, falls back to
    <answer>, then ####, then "answer is" / "Answer:"; never to the last number somewhere.
    """
    return find_answer(str(response), loose)[0]


# ---- 2. normalise --------------------------------------------------------------------------------

UNICODE = str.maketrans({
    "−": "-", "–": "-", "—": "-", "‐": "-", "×": r"\times ", "·": "*", "⋅": "*", "÷": "/", "∕": "/", "⁄": "/",
    "π": r"\pi ", "θ": r"\theta ", "√": r"\sqrt ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
    "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "±": r"\pm ", "∓": r"\mp ",
    "°": r"^\circ ", "ℝ": r"\mathbb{R}", "∖": r"\setminus ", "“": "", "”": "", "⟨": "(", "⟩": ")",
    "£": "", "€": "", "\u200b": "", "\u00a0": " "} | {c: f"^{i}" for i, c in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")})

REWRITES = [(re.compile(pattern), new) for pattern, new in [
    (r"\\(?:left|right|displaystyle|textstyle|limits|[bB]igg?[lrm]?)(?![a-zA-Z])\.?", ""),
    (r"\{,\}|,\\!\s*", ","),                                       # 1{,}000 and 1,\! 000
    (r"(?<=\d)\\[, ](?=\d{3}(?!\d))", ""),                         # 1\,000
    (r"\\[$]|\\[()\[\]](?![0-9]+(?:pt|em))|\$|\*\*(?=\s*$)|^\s*\*\*", " "),   # dollars, math delimiters, bold
    (r"\\(?:[,;:!> ]|q?quad(?![a-zA-Z]))|~|&nbsp;", " "),
    (r"\\(?:dfrac|tfrac|cfrac)", r"\\frac"),
    (r"\\(?:mathbf|boldsymbol|mathit|bm|mathsf|ensuremath|vec|hat|bar|overline|overrightarrow)(?![a-zA-Z])", ""),
    (r"\\(?:text|textbf|textit|textrm|mbox|hbox|operatorname)\s*\*?\s*\{", r"\\text{"),
    (r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree|\bdegrees?\b", r"\\circ "),
    (r"\\lvert|\\rvert|\\vert", "|"), (r"\\l?angle\s*(?=[-\d(])|\\langle", "("), (r"\\rangle", ")"),
    (r"(?<=[\])}])\s*U\s*(?=[\[({\\])", r"\\cup "),
    (r"\s*[.,;:]*\s*\\?\s*$", ""),                                 # what ends a sentence, and a lone backslash
]]


def normalise(text: str) -> str:
    """Plain ASCII LaTeX without layout: one spelling for what prints the same."""
    text = unicodedata.normalize("NFKC", str(text)[:MAX_ANSWER].translate(UNICODE))[:2 * MAX_ANSWER]
    if r"\begin" not in text:
        text = re.sub(r"\\\\(?=[a-zA-Z])", r"\\", text)           # \\sqrt{5}, escaped once too often
    for pattern, new in REWRITES:
        text = pattern.sub(new, text)
    return text.strip()


def text_key(text: str) -> str:
    """The letters and digits of a text, for comparing words."""
    text = re.sub(r"\\(?:text|mathrm|circ)(?![a-zA-Z])", "", text)
    return re.sub(r"[^a-z0-9]", "", text.lower())


# ---- 3. tokens and grammar -----------------------------------------------------------------------

FUNCTIONS = ("arcsin arccos arctan arcsec arccsc arccot asin acos atan sinh cosh tanh sin cos tan sec csc cot "
             "ln lg log exp sqrt frac gcd lcm max min floor ceil abs binom").split()
GREEK = ("alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau "
         "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell hbar").split()
CONSTANTS = {"pi": "pi", "infty": "oo", "infinity": "oo", "oo": "oo"}
SPELLINGS = {
    "le": "<=", "leq": "<=", "leqslant": "<=", "ge": ">=", "geq": ">=", "geqslant": ">=", "lt": "<", "gt": ">",
    "ne": "!=", "neq": "!=", "approx": "~=", "sim": "~=", "simeq": "~=", "in": "in", "times": "*", "cdot": "*",
    "ast": "*", "div": "/", "pm": "+-", "mp": "-+", "cup": "cup", "cap": "cap", "setminus": "setminus",
    "backslash": "setminus", "mid": "|", "colon": ":", "lfloor": "lfloor", "rfloor": "rfloor", "lceil": "lceil",
    "rceil": "rceil", "begin": "begin", "end": "end", "text": "text", "mathrm": "text", "mathbb": "mathbb",
    "prime": "'", "circ": "circ", "emptyset": "emptyset", "varnothing": "emptyset", "land": "and", "lor": "or",
    "mathcal": "mathcal", "sum": "sum", "int": "int", "prod": "prod", "ldots": "...", "dots": "...", "cdots": "..."}
COMMANDS = sorted([*FUNCTIONS, *GREEK, *CONSTANTS, *SPELLINGS], key=len, reverse=True)
COMMAND_PREFIX = re.compile("|".join(COMMANDS))
NAME_PARTS = re.compile("|".join(sorted([*FUNCTIONS, "theta", "alpha", "beta", "lambda", "infty", "infinity", "pi",
                                         "oo"], key=len, reverse=True)))
SHORT_WORDS = {"no", "on", "up", "am", "pm", "is", "of", "if", "cm", "mm", "km", "kg", "mg", "ml", "ft", "mi", "hr"}
TOKEN = re.compile(r"""(?P<number>(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+\.\d*|\d+|\.\d+)(?:[eE][+-]?\d+(?![\w.]))?)
    |\\text\s?\{(?P<words>[^{}\\]*)\} |\\mathrm\s?\{(?P<roman>[^{}\\]*)\} |\\(?P<command>[a-zA-Z]+) |(?P<letters>[a-zA-Z]+)
    |(?P<brace>\\[{}]) |(?P<percent>\\?%) |(?P<row>\\\\|\\cr|\\(?=[-\d.]))
    |(?P<symbol><=|>=|!=|==|:=|\*\*|\+/-|\+-|[-+*/^_=<>()\[\]{}|!,;:&']) |(?P<space>\s+) |(?P<other>.)""", re.X | re.S)
SYMBOLS = {"==": "=", ":=": "=", "**": "^", "+/-": "+-"}
