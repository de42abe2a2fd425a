r"""Is this final answer right?  Grades mathematical answers; model output is untrusted text.

Four steps: extract (the last \boxed{}), normalise, parse, compare.  The grammar, loosest first:

    answer   = relation {("," | ";" | "or" | "and") relation}   a bare list is unordered
    relation = ratio {("=" | "<" | "!=" | "in" ...) ratio}       x = 5 is 5; x < 3 is (-inf, 3)
    ratio    = set {":" set}
    set      = sum {("cup" | "cap" | "setminus") sum}
    sum      = product {("+" | "-" | "+-") product}              +- stands for both values
    product  = operand {["*" | "/"] operand}                     words after a number are units
    operand  = ["-"] atom {"!" | "%" | degree} ["^" operand]
    atom     = number | name | function | (answer) | [answer] | {answer} | |answer| | words

Expressions are equal if they are so at fixed points of both signs: in exact fractions while they
last, else with 50 digits.  Nothing is executed and nothing can grow: text, tokens, nesting and the
bits of a power are bounded before any work, so no timer is needed and threads and processes agree.
Of sympy only mpmath, its number library, is used: sympy's parsers execute text, its constructors
compute 9**9**9.  README has the policy; strict=True is the string grader of the method's authors.

    python reward.py "\frac{2}{4}" "0.5"     explains its verdict; no arguments: tricky answers
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import lru_cache
from itertools import product
from operator import ge, gt, le, lt, ne

import mpmath

MAX_RESPONSE, MAX_ANSWER, MAX_TOKENS, MAX_DEPTH = 20_000, 2_000, 400, 40
MAX_EXPONENT = 2_000  # of 1e99: with MAX_ANSWER digits still a number that Python can print
MAX_BITS = 20_000  # of an exact number: arithmetic well under 1 ms
MAX_ITEMS = 40  # of a list: comparing without order is quadratic
DECIMAL_TOLERANCE = Fraction(2, 10**6)  # relative, where a side has a decimal point
SAME = Fraction(1, 10**40)  # relative, for values carried with 50 digits
MP = mpmath.MPContext()  # our own: nothing changes its precision, threads may share it
MP.dps = 50


class Unreadable(ValueError):
    """Not an answer of the grammar, beyond the limits, or without a value."""


# --------------------------------------------------------------------------------------------------
# Extract: response -> answer

BOX = re.compile(r"\\f?box(?:ed)?\s*\{")
BETWEEN_BOXES = re.compile(
    r"(?:[\s,;$~&]|\\[,;! ()\[\]]|\\q?quad|and\b|or\b|\\text\s?\{\s?(?:and|or),?\s?\})*")
CUE = re.compile(
    r"(?:answer|correct (?:option|choice))(?:(?: (?:to|of|for) [^.\n]{1,60})? is\b|[\s*]*:|"
    r"(?=\s*\\\[))[\s:*]*(?:the (?:final )?answer is:?\s*)?(?:(?:therefore|approximately|about) )?|"
    r"final answer(?:(?=\s\$?-?\d)|\**\n)", re.I)
STOP = re.compile(r"\.(?=\s|$)|\n| \(?(?:because|since)\b|, (?=[a-z])")  # ends a stated answer
NEXT_SPAN = re.compile(r"(?:,| or| and|, or|, and) (?=\$|\\\()")
MATH_SPAN = re.compile(r"\$\$?([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]|\*\*([^*]+)\*\*", re.S)


def closing_brace(text, start, braces=r"\\.|[{}]"):
    r"""Index of the brace that closes the one before `start`, or -1; an escaped one is none."""
    depth = 1
    for match in re.compile(braces).finditer(text, start, start + 2 * MAX_ANSWER):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return closing_brace(text, start, "[{}]") if braces != "[{}]" else -1  # \boxed{185\}


def last_box(text):
    """The last box, or the last run of joined boxes as a comma list; or None; and the reason."""
    contents, later = [], 0
    for match in reversed(list(BOX.finditer(text))[-MAX_ITEMS:]):
        close = closing_brace(text, match.end())
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
    rest, spans = text[cues[-1].end() :].lstrip()[:MAX_ANSWER], []
    while span := MATH_SPAN.match(rest):  # $2$ or $3$
        spans += filter(None, span.groups())
        rest = rest[span.end() :]
        if not (joint := NEXT_SPAN.match(rest)):
            return ", ".join(spans).strip(" *:`"), "answer is"
        rest = rest[joint.end() :]
    # The sentence, and what its "is" says
    rest = re.split(r" (?:is|equals) ", STOP.split(rest)[0])[-1].lstrip()
    span = MATH_SPAN.match(rest)
    return (next(filter(None, span.groups())) if span else rest).strip(" *:`"), "answer is"


def extract_answer(response, loose=False):
    r"""The last \boxed{} after the last </think>; None if there is none, or it is open or empty.

    Boxes joined by "and", "or", commas or space form one list.  `loose`, for evaluation, falls back
    to <answer>, then ####, then "answer is" / "Answer:"; never to the last number somewhere.
    """
    return find_answer(response, loose)[0]


# --------------------------------------------------------------------------------------------------
# Normalise: one spelling for what prints the same

GREEK = """alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi
    chi psi omega Gamma Delta Theta Lambda Sigma Phi Psi Omega""".split()
SIGNS = "sqrt infty le ge ne approx cup cap in emptyset pm mp setminus circ".split()
UNICODE = str.maketrans(
    {sign: rf"\{name} " for sign, name in zip(
        "αβγδεζηθκλμνξπρστφχψωΓΔΘΛΣΦΨΩ√∞≤≥≠≈∪∩∈∅±∓∖°", GREEK + SIGNS)}
    | dict(zip("−–—×·⋅÷∕⁄⟨⟩", "---***///()")) | dict.fromkeys('£€¢"“”\u200b')
    | dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹", (f"^{digit}" for digit in range(10))))
    | dict(zip("½⅓⅔¼¾", (rf"\frac{digits}" for digits in (12, 13, 23, 14, 34)))))


def mixed_number(match):
    r"""1\frac12 and 1 1/2 are 3/2; an improper fraction is a factor."""
    whole, top, bottom = filter(None, match.groups())
    return f"({whole}+{top}/{bottom})" if 0 < int(top) < int(bottom) else match[0]


def bracketed(match):
    """A matrix as a tuple of its rows; one row or one column as a tuple of its cells."""
    rows = [row for row in re.split(r"\\\\|\\(?=[-\d.])", match[1]) if row.strip()]
    if len(rows) == 1 or "&" not in match[1]:
        return f"[{match[1].replace('&', ',')}]" if len(rows) == 1 else f"({','.join(rows)})"
    return "(" + ",".join(f"[{row.replace('&', ',')}]" for row in rows) + ")"


REWRITES = [(re.compile(pattern), new) for pattern, new in [
    # What does not show, or is style only
    (r"\\(?:left|right|displaystyle|limits|[bB]igg?[lrm]?)(?![a-zA-Z])\.?|\\!\s*", ""),
    (r"\\phantom\s*(?:\{[^{}]*\}|.)|\\color\s*\{[^{}]*\}|m?\\angle(?![a-zA-Z])", ""),
    (r"\{,\}", ","), (r"(?<=\d)(?:\\[, ]| )(?=\d{3}(?!\d))", ""),  # 1{,}000 and 1\,000
    (r"(?<!\\)\\(?:[$()\[\],;:> ]|q?quad)|[$~]|\*\*(?=\s*$)|^\s*\*\*", " "),
    (r"\\(?:math(?:bf|it|sf|cal)|bm|boldsymbol|vec|hat|bar|d?dot|overline(?=\s*\{\s*[a-zA-Z])|"
     r"underline|overrightarrow|boxed)(?![a-zA-Z])", ""),
    (r"\\begin\s*\{(?:[pbB]?matrix|smallmatrix|array\}\s*\{[^{}]*)\}(.*?)\\end\s*\{[a-zA-Z]*\}",
     bracketed),
    # Other names of the same
    (r"\\(?:[dtc]|nice|s)frac", r"\\frac"), (r"\\[dt]binom", r"\\binom"),
    (r"(^|\{)([^{}]*)\\over(?![a-zA-Z])([^{}]*)(\}|$)", r"\1(\2)/(\3)\4"),
    (r"(^|\{)([^{}]*)\\choose(?![a-zA-Z])([^{}]*)(\}|$)", r"\1\\binom{\2}{\3}\4"),
    (r"\\(?:text(?:bf|it|rm|tt)|[mh]box|operatorname|normal)\s*\*?\s*\{", r"\\text{"),
    (r"(?<=\d)\s*(?:\\text\s?\{)?\s*\(?base\s+(\w+)\)?\}?$", r"_{\1}"),
    (r"(?<![a-z^_])[({](\d\w*|[A-F]\d+)[)}]_", r"\1_"),
    (r"\\(?:text|mathrm)\s?\{\s*(-?\w?\d[^{}]*|[:=])\}", r"\1"),
    (r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree|\bdegrees?\b", r"\\circ "),
    (r"\^\s*\{?\s*\\prime\s*\}?", "'"), (r"\\[lr]?vert|\\mid", "|"), (r"\\langle", "("),
    (r"\\rangle", ")"), (r"(?<=\d)\s*x\s*(?=10\s*\^)", "*"),
    (r"(?<=\d)\s*(?:\\text\s?\{\s*to\s*\}|to)\s*(?=\d)", ":"),
    (r"(?<=[\])}])\s*U\s*(?=[\[({\\])", r"\\cup "), (r"(?<=\})-(?=\\\{)", r"\\setminus "),
    # {x : x > 3} is x > 3, and f(x) = ... is f = ...
    (r"(\\\{)\s*[a-zA-Z]\s*(?:\\in\s*\\mathbb\s*\{?R\}?)?\s*[|:]", r"\1"),
    (r"([a-zA-Z]'*)(?:\^\{-1\})?\s*\([a-zA-Z](?:,\s*[a-zA-Z])*\)\s*(?=[=<>]|\\[lg]e)", r"\1 "),
    (r"\bP\s*\([^()]*\)\s*(?==)", "P"),
    (r"(?<![\d.^_}/])(\d+)(?:\s*\\frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))"
     r"| +(\d+)/(\d+))(?![\d.])", mixed_number),
]]


@lru_cache(256)
def normalise(text):
    """The text without layout, with one spelling of each sign and style."""
    text = unicodedata.normalize("NFKC", text[:MAX_ANSWER].translate(UNICODE))[:MAX_ANSWER]
    text = re.sub(r"\s+", " ", text)  # a long run would make the patterns slow
    if r"\begin" not in text:
        text = re.sub(r"\\\\(?=[a-zA-Z])", r"\\", text)  # \\sqrt{5}: escaped once too often
    for pattern, new in REWRITES:
        text = pattern.sub(new, text)
    text = text.strip()
    return text if text.endswith("..") else text.rstrip(" .,;:\\")  # the sentence's end


# --------------------------------------------------------------------------------------------------
# Parse: text -> tokens (kind, value) -> tree of (kind, tuple of children or value, more)

ANALYTIC = """sin cos tan sec csc cot asin acos atan asec acsc acot sinh cosh tanh asinh acosh atanh
    exp ln""".split()  # functions of mpmath
FUNCTIONS = {*ANALYTIC, *(f"arc{name}" for name in ANALYTIC[:6])}
FUNCTIONS |= set("log lg sqrt frac binom floor ceil abs".split())
NAMES = {*GREEK, *"varepsilon varphi ell hbar odot infty infinity oo sum int prod".split()}
RELATIONS = ("=", "~=", "!=", "<=", ">=", "<", ">", "in")
OPERATORS = {
    "leqslant": "<=", "leq": "<=", "le": "<=", "geqslant": ">=", "geq": ">=", "ge": ">=", "lt": "<",
    "gt": ">", "neq": "!=", "ne": "!=", "approx": "~=", "times": "*", "cdot": "*", "div": "/",
    "pm": "+-", "mp": "-+", "backslash": "setminus", "colon": ":", "varnothing": "emptyset",
    "lor": "or", "vee": "or", "land": "and", "==": "=", ":=": "=", "**": "^",
    "+/-": "+-", "percent": "%", "pct": "%"} | {word: word for word in """in cup cap setminus lfloor
    rfloor lceil rceil mathbb circ emptyset""".split()}
KNOWN = ({name: ("name", "oo" if name[:3] == "inf" else name) for name in NAMES}
         | {name: ("function", name) for name in FUNCTIONS}
         | {name: ("op", operator) for name, operator in OPERATORS.items()})


def any_of(words):
    return "|".join(sorted(filter(str.isalpha, words), key=len, reverse=True))


KNOWN_WORD = re.compile(any_of(KNOWN))
IN_WORDS = re.compile(f"({any_of(FUNCTIONS | {'theta', 'infinity', 'pi', 'oo'})})")
SHORT_WORDS = set("no on up am pm is of if in mph sq cm mm km kg mg ml ft mi hr".split())
DOUBTS = """no not never but maybe wrong false if plus minus times half one two three four five six
    seven eight nine ten eleven twelve twenty dozen hundred thousand million billion""".split()
# A number with such words after it may be no answer, or a second one
DOUBT = re.compile(rf"(?<!\^)(?<!\^-)\d|\b(?:{'|'.join(DOUBTS)})\b")
TOKEN = re.compile(r"""(?P<number>(?:\d+\.\d*|\d+|\.\d+)(?:[eE][+-]?\d+(?![\w.]))?)
    | \\text\s?\{(?P<text>[^{}]*)\} | \\mathrm\s?\{(?P<roman>[^{}]*)\} | \\(?P<command>[a-zA-Z]+)
    | (?P<letters>[a-zA-Z]+) | \\?(?P<percent>%) | (?P<space>\s+)
    | (?P<op><=|>=|!=|==|:=|\*\*|\+/-|\+-|[-+*/^_=<>()\[\]{}|!,;:']|\\[{}])""", re.X)
CLOSING = {"(": (")", "]"), "[": (")", "]"), "{": ("}",), "\\{": ("\\}",), "lfloor": ("rfloor",),
           "lceil": ("rceil",), "lbar": ("rbar",)}
ENDS = {*"!%'", "circ", *(end for ends in CLOSING.values() for end in ends)}


def tokenize(text):
    """The tokens of a normalised answer; the kinds are number, name, function, word and op."""
    tokens, position = [], 0
    while position < len(text):
        match = TOKEN.match(text, position)
        if not match or len(tokens) > MAX_TOKENS:
            raise Unreadable("too many tokens" if match else f"cannot read {text[position:]:.20}")
        position, kind, value = match.end(), match.lastgroup, match[match.lastgroup]
        if kind == "command":
            if not (known := KNOWN_WORD.match(value)):
                raise Unreadable(f"unknown command \\{value}")
            position -= len(value) - known.end()  # \cotx, from data without spaces
            tokens.append(KNOWN[known[0]])
        elif kind in ("text", "roman", "letters"):
            *_, two_before, before = [("", ""), ("", ""), *tokens]
            is_unit = (kind == "text" or before == ("op", "/") and two_before[0] == "word"
                       or kind == "roman" and (before[0] in ("number", "word") or before[1] == "}"))
            for part in re.split(r"(,|\bor\b|\band\b)", value.replace("~", " ")):
                tokens += word_tokens(part.strip(), is_unit, kind == "roman")
        elif value == "|":  # 2|x|, |x||y| and ||x| - 1|
            bars = [token[1] for token in tokens if token[1] in ("lbar", "rbar")]
            is_left = not tokens or tokens[-1][0] == "op" and tokens[-1][1] not in ENDS
            is_left = is_left or bars.count("lbar") == bars.count("rbar")
            tokens.append(("op", "lbar" if is_left else "rbar"))
        elif kind != "space":
            tokens.append(("number" if kind == "number" else "op", OPERATORS.get(value, value)))
    return tokens


def word_tokens(words, is_unit, is_roman):
    """A separator, a unit or other word, or a product of names and functions: xcosx, 2pi, ab."""
    bare = words.lower()
    if bare in ("or", "and", ",", "percent", "pct"):
        return [("op", OPERATORS.get(bare, bare))]
    parts = [part for part in IN_WORDS.split(words) if part]
    rest = [part for part in parts if not IN_WORDS.fullmatch(part)]
    # abc and xyz are products, "two" and "yes" are words
    in_order = bare == "".join(sorted(bare)) or not set(bare) & set("aeiou")
    is_product = len(rest) <= 2 and all(len(part) <= (4 if in_order else 2) for part in rest)
    is_word = is_unit and words not in "eid" or is_roman and len(words) > 2 or not is_product
    if words not in FUNCTIONS and (is_word or bare in SHORT_WORDS):
        return [("word", bare)]
    return [token for part in parts for token in ([KNOWN[part]] if IN_WORDS.fullmatch(part)
                                                  else [("name", letter) for letter in part])]


LEVELS = ({op: 1 for op in (",", ";", "or", "and")} | dict.fromkeys(RELATIONS, 2) | {":": 3}
          | dict.fromkeys(("cup", "cap", "setminus"), 4)
          | {"+": 5, "-": 5, "*": 6, "/": 6})
ARGUMENT, FACTOR = 6.5, 7  # sin 2x cos x: an argument ends at the next function
CALLED = {"lfloor": "floor", "lceil": "ceil", "lbar": "abs"}
ONE, TWO, MINUS_ONE = (("number", Fraction(n), False) for n in (1, 2, -1))


def is_unit(node):
    """Words, perhaps with powers and quotients."""
    return is_unit(node[1][0]) if node[0] in ("multiply", "power") else node[0] == "text"


def combine(operator, left, right):
    """The node of a binary operator."""
    if operator in RELATIONS:
        sides, operators = left[1:] if left[0] == "relation" else ((left,), ())
        return "relation", (*sides, right), (*operators, operator)
    if operator == "and" and left[0] == right[0] == "relation" and "=" not in left[2] + right[2]:
        operator = "cap"  # x > 1 and x < 3
    if operator in ("cup", "cap", "setminus"):
        return operator, (left, right)
    if operator in "*/" and left[0] == "text":
        return "text", f"{left[1]} {right[1]}"
    if operator in "*/" and is_unit(right):
        if right[0] == "text" and DOUBT.search(right[1]):
            raise Unreadable("words that may be a second answer")
        return left
    if operator == "/":
        return combine("*", left, ("power", (right, MINUS_ONE)))
    if operator == "-":
        return combine("+", left, combine("*", MINUS_ONE, right))
    for grid, factor in ((left, right), (right, left)) if operator == "*" else ():
        if grid[0] == "tuple" and factor[0] != "tuple":  # 2 (1, 3) is (2, 6)
            return "tuple", tuple(combine("*", factor, cell) for cell in grid[1]), grid[2]
    kind = {1: "list", 3: "ratio", 5: "add", 6: "multiply"}[LEVELS[operator]]
    parts = [node[1] if node[0] == kind else (node,) for node in (left, right)]
    return kind, parts[0] + parts[1]  # (a + b) + c is a + b + c


def peek(tokens):
    """The operator that comes next; the tokens are a stack, the next one last."""
    return tokens[-1][1] if tokens and tokens[-1][0] == "op" else None


def take(tokens, *wanted):
    """The next token's value, which is then gone; an operator among `wanted`, if there are any."""
    if not tokens or wanted and peek(tokens) not in wanted:
        raise Unreadable(f"expected {' or '.join(wanted) or 'an operand'}")
    return tokens.pop()[1]


def parse(tokens, depth, level=0):
    """The expression ahead whose operators all bind tighter than `level`."""
    node = parse_operand(tokens, depth)
    while tokens:
        kind, value = tokens[-1]
        implicit = kind != "op" or value in CLOSING or value in ("mathbb", "emptyset")
        binding = LEVELS["*"] if implicit else LEVELS.get(value, 0)
        if level == ARGUMENT and implicit and kind != "function":
            binding = FACTOR
        if binding <= level:
            break
        if implicit and kind == node[0] == "number":
            raise Unreadable("two numbers side by side")
        operator = "*" if implicit else tokens.pop()[1]
        while binding == 1 and LEVELS.get(peek(tokens)) == 1:  # "1, 2, and 3"
            tokens.pop()
        node = combine(operator, node, parse(tokens, depth, binding))
    return node


def parse_operand(tokens, depth):
    """A signed atom with its postfix marks and power."""
    if depth > MAX_DEPTH:
        raise Unreadable("nested too deeply")
    operator = peek(tokens)
    if operator in RELATIONS and operator != "~=":  # ">5" is x > 5 of a nameless x
        return "name", "?"
    if operator in ("+", "-", "~="):  # "\approx 8.24" is 8.24
        take(tokens)
        operand = parse_operand(tokens, depth + 1)
        return combine("*", MINUS_ONE, operand) if operator == "-" else operand
    node = parse_atom(tokens, depth + 1)
    while (mark := peek(tokens)) in ("!", "%", "circ", "'"):
        take(tokens)
        if mark == "!" and node[0] != "call" or mark == "!" != node[2]:
            node = "call", (node,), "!"
        elif mark == "'" and node[0] == "name":
            node = "name", node[1] + mark
        elif mark in ("%", "circ"):
            node = combine("*", node, ("name", mark))
        else:
            raise Unreadable(f"misplaced {mark}")
    if mark == "^":
        take(tokens)
        return "power", (node, parse_operand(tokens, depth + 1))
    return node


def parse_atom(tokens, depth):
    """A number, name, function, bracket, matrix or word."""
    if depth > MAX_DEPTH:
        raise Unreadable("nested too deeply")
    kind, value = tokens.pop() if tokens else ("op", "nothing")
    if kind == "word":
        return "text", value
    if kind == "number":
        return parse_number(value, tokens)
    if kind == "name":
        while peek(tokens) == "_" or value[:3] in ("sum", "int", "pro") and peek(tokens) == "^":
            value += take(tokens) + raw_script(tokens)  # a sum's sign is a name in a product
        if value == "f" and peek(tokens) == "(":  # f(x + 1) is no product
            value += repr(parse_atom(tokens, depth + 1))
        return "name", value
    if kind == "function":
        return parse_function(value, tokens, depth + 1)
    if value in CLOSING:
        return parse_bracket(value, tokens, depth + 1)
    if value in ("emptyset", "mathbb"):
        return ("set", ()) if value == "emptyset" else ("name", "set " + raw_script(tokens))
    raise Unreadable(f"unexpected {value}")


def parse_number(text, tokens):
    """An exact number, and whether it is a decimal.  101_2 equals only numbers of base 2."""
    if peek(tokens) == "_" and tokens.pop() and (base := raw_script(tokens)) not in ("10", "ten"):
        words = {"two": "2", "three": "3", "eight": "8", "sixteen": "16"}
        return "based", text.lstrip("0"), re.sub(r"\D", "", base) or words.get(base, base)
    mantissa, _, exponent = text.lower().partition("e")
    if len(exponent) > 5 or abs(int(exponent or 0)) > MAX_EXPONENT:
        raise Unreadable("exponent too large")
    value = Fraction(mantissa) * Fraction(10) ** int(exponent or 0)
    return "number", value, value.denominator > 1


def raw_script(tokens):
    """The text of a sub- or superscript: one token or a group."""
    if (value := take(tokens)) != "{":
        return value
    return "".join(iter(lambda: take(tokens), "}"))


def parse_function(name, tokens, depth):
    r"""sin x, sin^2 x, sin^{-1} x, log_2 8, \sqrt[3]{x}, \frac12."""
    if name in ("frac", "binom"):
        top, bottom = parse_digit(tokens, depth), parse_digit(tokens, depth)
        return ("call", (top, bottom), name) if name == "binom" else combine("/", top, bottom)
    if name == "sqrt":
        index = parse_bracket(take(tokens), tokens, depth) if peek(tokens) == "[" else TWO
        return "power", (parse_atom(tokens, depth), ("power", (index, MINUS_ONE)))
    power = base = None
    while peek(tokens) in ("^", "_"):
        if take(tokens) == "^":
            power = parse_operand(tokens, depth)
        else:
            base = parse_digit(tokens, depth)
    if power == combine("*", MINUS_ONE, ONE) and f"a{name}" in ANALYTIC:
        name, power = "a" + name, None
    bracketed = peek(tokens) in ("(", "{", "\\{")
    argument = parse_atom(tokens, depth) if bracketed else parse(tokens, depth, ARGUMENT)
    node = "call", (argument, base) if base else (argument,), name.replace("arc", "a")
    return ("power", (node, power)) if power else node


def parse_digit(tokens, depth):
    r"""An argument of \frac: a group or one character, so \frac12 is 1/2."""
    if tokens and tokens[-1][1].isdigit() and len(tokens[-1][1]) > 1:
        digits = tokens.pop()[1]
        tokens += [("number", digits[1:]), ("number", digits[0])]
    return parse_atom(tokens, depth)


def parse_bracket(opening, tokens, depth):
    """A group, set, tuple or interval, an absolute value or a rounding."""
    is_empty = "{" in opening and peek(tokens) in CLOSING[opening]
    node = ("list", ()) if is_empty else parse(tokens, depth)
    brackets = opening + take(tokens, *CLOSING[opening])
    if opening in CALLED:
        return "call", (node,), CALLED[opening]
    if opening == "\\{" and node[0] not in ("list", "relation"):
        return "set", (node,)
    if node[0] != "list":
        return node
    return ("set", node[1]) if "{" in opening else ("tuple", node[1], brackets)


def walk(*nodes):
    """The nodes and all below them."""
    for node in nodes:
        yield node
        if isinstance(node[1], tuple):
            yield from walk(*node[1])


def read(text):
    """The tree of a normalised answer; one with +- becomes the list of its values."""
    tokens = tokenize(text)[::-1]
    places = [i for i, token in enumerate(tokens) if token in (("op", "+-"), ("op", "-+"))]
    # The signs go together next to -+ and in tuples, elsewhere each is free
    together = ("op", "-+") in tokens or {("op", "("), ("op", ",")} <= {*tokens} or len(places) > 4
    free = product("+-", repeat=len(places))
    items, kind = [], "list"
    for signs in ("+" * len(places), "-" * len(places)) if together else free:
        stack = list(tokens)
        for i, sign in zip(places, signs):
            stack[i] = "op", sign if tokens[i][1] == "+-" else {"+": "-", "-": "+"}[sign]
        node = parse(stack, 0)
        if stack:
            raise Unreadable(f"unexpected {stack[-1][1]}")
        kind = node[0] if node[0] in ("list", "set") else kind
        more = node[1] if node[0] == kind else (node,)
        items += [item for item in more if item not in items] if items else more
    if len(items) > MAX_ITEMS:
        raise Unreadable("too many items")
    return items[0] if len(items) == 1 and kind == "list" else (kind, tuple(items))


THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)")


@lru_cache(256)
def readings(text):
    """The trees of a normalised answer, at least one: "100,200" is a number and a list."""
    match = THOUSANDS.search(text)
    if not match or re.search(r"[(\[]|\\\{", text[: match.start()]):
        return [read(text)]
    joined = read(THOUSANDS.sub(lambda thousands: thousands[0].replace(",", ""), text))
    return [joined] if ",0" in match[0] else [joined, read(text)]


# --------------------------------------------------------------------------------------------------
# Values: tree -> Fraction while exact, else a number with 50 digits

CONSTANTS = {"pi": MP.pi, "e": MP.e, "i": MP.j, "oo": MP.inf}
MARKS = {"circ": Fraction(1), "%": Fraction(1, 100), "log": MP.e}  # what the marks stand for
# From 1/100 to 6 and of both signs, so that no root, absolute value or small term can hide
COORDINATES = [Fraction(n, 1000) for n in (
    1237, 2871, 413, 3319, 1709, 523, 5011, 2203, 811, 4157, 1453, 3701)]
TRIALS = [  # first coordinate, scale, signs
    (0, 1, (1,)), (3, 1, (1,)), (5, Fraction(1, 40), (1,)), (7, 1, (-1,)), (2, 1, (1, -1)),
    (9, 1, (-1, 1))]


def raise_power(base, exponent):
    """base ** exponent: exact for an integer exponent, the real odd root of a negative number."""
    root = exponent.denominator if isinstance(exponent, Fraction) else 0  # 0: irrational
    bits = abs(MP.mag(base)) + 1 if base else 1
    if isinstance(base, Fraction):
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent) * bits > MAX_BITS or not base and not MP.convert(exponent).real > 0:
        raise Unreadable("a power is too large" if base else "zero to the power of zero or less")
    if root == 1:
        return base ** int(exponent)
    if root % 2 and not isinstance(base, MP.mpc) and base < 0:
        return (-1) ** (exponent.numerator % 2) * MP.power(-base, exponent)
    return MP.power(base, exponent) if base else Fraction(0)


def factorial(n):
    if abs(n) > 1_500:  # 1500! has 13,700 bits
        raise Unreadable("factorial too large")
    is_whole = isinstance(n, Fraction) and n.denominator == 1 and n >= 0
    return Fraction(math.factorial(int(n))) if is_whole else MP.factorial(n)


def apply(name, values, point):
    """A function of the whitelist."""
    x = values[0]
    if name in ("abs", "!"):
        return abs(x) if name == "abs" else factorial(x)
    if name == "binom":
        rest = x + -values[1]  # mpmath adds to a Fraction, but does not subtract from one
        below = factorial(values[1]) * factorial(rest)
        return factorial(x) * raise_power(below, Fraction(-1))
    if isinstance(x, MP.mpc) and name in ("floor", "ceil") or x and abs(MP.mag(x)) > 300:
        raise Unreadable("an argument is too large")  # the bits that a sine has to reduce
    if name in ("floor", "ceil"):  # sqrt(16), carried with 50 digits, may lie just below 4
        sign = 1 if name == "floor" else -1
        return sign * Fraction(int(MP.floor(sign * MP.convert(x) + MP.convert(SAME))))
    if name in ("log", "lg"):
        base = values[1] if len(values) > 1 else 10 if name == "lg" else point["log"]
        return MP.ln(x) / MP.ln(base)
    return getattr(MP, name)(x)


def evaluate(node, point, is_real):
    """The value at a point (name -> value); with `is_real` no step may leave the real numbers."""
    kind, content = node[0], node[1]
    if kind == "number":
        return content
    if kind == "name" and (content in point or content in CONSTANTS):
        return point[content] if content in point else +CONSTANTS[content]
    if kind not in ("add", "multiply", "power", "ratio", "call") or content[2:] and kind == "ratio":
        raise Unreadable(f"a {kind} has no value")
    if kind == "call" and node[2] in ANALYTIC[:6]:
        point = point | {"circ": MP.pi / 180}
    value, *others = values = [evaluate(child, point, is_real) for child in content]
    if kind == "call":
        value = apply(node[2], values, point)
    elif kind == "power":
        value = raise_power(*values)
    elif kind == "ratio":
        value = value * raise_power(others[0], Fraction(-1))
    for other in others if kind in ("add", "multiply") else ():
        value = value + other if kind == "add" else value * other
        if isinstance(value, Fraction) and value.numerator.bit_length() > 2 * MAX_BITS:
            raise Unreadable("a number is too large")
    if is_real and isinstance(value, MP.mpc):
        raise Unreadable("not real")
    return value


def variables(*nodes):
    found = {n[1] for n in walk(*nodes) if n[0] == "name"}
    return sorted(found - CONSTANTS.keys() - MARKS.keys() - {"set R"})


def values_at_points(nodes, marks=MARKS):
    """The nodes' values at each point where all are defined, over the reals if that leaves two."""
    unknowns, found = variables(*nodes), 0
    for is_real in [True, False] if unknowns and ("name", "i") not in walk(*nodes) else [False]:
        for shift, scale, signs in TRIALS if unknowns else TRIALS[:1]:
            point = marks | {
                name: COORDINATES[(shift + i) % len(COORDINATES)] * scale * signs[i % len(signs)]
                for i, name in enumerate(unknowns)}
            try:
                values = [evaluate(node, point, is_real) for node in nodes]
            except (ValueError, ArithmeticError):
                continue
            found += 1
            yield values
        if found >= min(2, 1 + len(unknowns)):
            return
    raise Unreadable("no value")


def is_decimal(*nodes):
    """May a difference be due to rounding?  Next to a name 2.000001 is not 2 rounded."""
    decimals = [n[1] for n in walk(*nodes) if n[0] == "number" and n[2]]
    near = any(abs(value - round(value)) <= DECIMAL_TOLERANCE * abs(value) for value in decimals)
    return bool(decimals) and not (near and variables(*nodes))


def same_number(a, b, decimal):
    """Equality; within the tolerance if a side is a decimal and none is an integer."""
    fractions = [value for value in (a, b) if isinstance(value, Fraction)]
    if len(fractions) == 2 and (a == b or not decimal):
        return a == b
    integer = any(value.denominator == 1 for value in fractions)
    a, b = MP.convert(a), MP.convert(b)
    size = max(abs(a), abs(b))
    if a == b or size == MP.inf:
        return a == b
    tolerance = MP.convert(DECIMAL_TOLERANCE if decimal and not integer else SAME)
    return abs(a - b) <= tolerance * size or size < MP.convert(SAME) and len(fractions) < 2


def same_value(a, b):
    """Equal at all points.  % next to none is 1/100 or nothing; log is of base e or 10."""
    meanings, percents = [MARKS], [("name", "%") in walk(side) for side in (a, b)]
    if percents[0] != percents[1]:
        meanings.append(MARKS | {"%": Fraction(1)})
    if any(n[0] == "call" and n[2] == "log" and len(n[1]) == 1 for n in walk(a, b)):
        meanings.append(MARKS | {"log": 10})
    decimal = is_decimal(a, b)
    return any(all(same_number(x, y, decimal) for x, y in values_at_points([a, b], marks))
               for marks in meanings)


# --------------------------------------------------------------------------------------------------
# Compare


def title(node):
    """What the left side of an assignment names: x, AB, A:B, (p, q), speed; or ""."""
    if node[0] in ("name", "text"):
        return "" if node[1] in CONSTANTS or node[1][:3] in ("set", "sum", "int") else node[1]
    if node[0] == "call":  # cos C and |AB|, but |x| = 5 is to be solved for x
        inner = title(node[1][0]) if node[2] in ("sin", "cos", "tan", "abs") else ""
        return f"{node[2]} {inner}" if inner not in ("", "x", "y", "z") else ""
    parts = [title(n) for n in node[1]] if node[0] in ("tuple", "ratio", "multiply") else [""]
    is_name = all(parts) and (node[0] != "multiply" or "".join(parts).isupper())
    return ",".join(parts) if is_name else ""


def assigned(node):
    """(name, value) of x = 5, y = f = 2x or 1/2 = 0.5; None for what assigns nothing: 42 = 43."""
    if node[0] != "relation" or not {*node[2]} <= {"=", "~=", "in"}:
        return None
    sides, name = list(node[1]), ""
    if len(sides) == 2 and not variables(sides[0]) and title(sides[1]):
        sides.reverse()  # 5 = x
    while len(sides) > 1 and title(sides[0]):
        if {*variables(sides[0])} & {*variables(*sides[1:])}:
            return None  # x = x + 1
        name = title(sides.pop(0))
    if sides[0][0] == "text":
        return None  # yes = no
    for other in sides[1:]:  # equal, or a rounding
        if not same_value(sides[0], other):
            if "~=" not in node[2] or variables(*sides):
                return None
            x, y = (MP.convert(evaluate(side, MARKS, True)) for side in (sides[0], other))
            if abs(x - y) > abs(x) / 100:
                return None
    return name, sides[0]


def without_names(node):
    """(names, bare value) of assignments: x = 2, y = 1 is (2, 1); x_1 = 2, x_2 = 3 is 2, 3."""
    items = node[1] if node[0] == "list" else (node,)
    pairs = [assigned(item) or ("", item) for item in items]
    names, values = [name for name, _ in pairs], tuple(value for _, value in pairs)
    families = list(dict.fromkeys(re.split(r"[_\d']", name)[0] for name in names if name))
    width = len(families)
    if width <= 1:
        return "".join(families), values[0] if len(values) == 1 else ("list", values)
    if names != names[:width] * (len(names) // width):
        return "", node
    rows = [("tuple", values[i : i + width], "=") for i in range(0, len(values), width)]
    return ",".join(families), rows[0] if len(rows) == 1 else ("list", tuple(rows))


def same_relation(a, b):
    """The same equation or inequality, scaled or turned around; or the same chain."""
    if len(a[2]) > 1 or len(b[2]) > 1 or "in" in a[2] + b[2]:
        return a[2] == b[2] and all(map(is_same, a[1], b[1]))
    turned = a[2][0].translate(str.maketrans("<>", "><"))
    for operator, sides in ((a[2][0], b[1]), (turned, b[1][::-1])):
        left, right = combine("-", *a[1]), combine("-", *sides)
        if operator != b[2][0] or not variables(left) or variables(left) != variables(right):
            continue
        decimal = is_decimal(a, b)
        (x, y), *rest = values_at_points([left, right])
        # left = c * right for one c, which is positive for an inequality
        if x and y and (operator in ("=", "!=") or MP.convert(x * y).real > 0) and all(
                same_number(x * v, y * u, decimal) for u, v in rest):
            return True
    return False


def constant(node):
    """A real number, rounded so that ends of intervals that are equal are identical."""
    value = MP.j if variables(node) else MP.convert(evaluate(node, MARKS, False))
    if isinstance(value, MP.mpc):
        raise Unreadable("not a number")
    return MP.make_mpf(mpmath.libmp.mpf_pos(value._mpf_, 140, "n"))  # of 169 bits


HOLDS = {"<": lt, "<=": le, ">": gt, ">=": ge, "!=": ne}
UNITED = {"cup": any, "list": any, "cap": all, "setminus": lambda row: row[0] and not any(row[1:])}


def as_set(node):
    """(ends, contains) of a set of real numbers: an interval, {1, 2}, x < 3, a union ...

    contains(x) tells membership, which changes at the ends only.
    """
    kind, children = node[0], node[1]
    if node == ("name", "set R"):
        return [], lambda x: True
    if kind in UNITED:
        ends, tests = zip(*map(as_set, children))
        return sum(ends, []), lambda x: UNITED[kind]([test(x) for test in tests])
    if kind == "set":
        members = [*map(constant, children)]
        return members, members.__contains__
    if kind == "tuple" and len(children) == len(node[2]) == 2:
        low, high = ends = [*map(constant, children)]
        closed = [end for end, bracket in zip(ends, node[2]) if bracket in "[]"]
        if low < high:
            return ends, lambda x: low < x < high or x in closed
    if kind == "relation" and [bool(title(side)) for side in children].count(True) == 1:
        if node[2] == ("in",):
            return as_set(children[1])
        sides = [None if title(side) else constant(side) for side in children]
        if {*node[2]} <= HOLDS.keys():
            return [side for side in sides if side is not None], lambda x: all(
                HOLDS[op](x if u is None else u, x if v is None else v)
                for op, u, v in zip(node[2], sides, sides[1:]))
    raise Unreadable("not a set of numbers")


def same_set(a, b):
    """Equal membership at, between and beyond all ends, which decides for unions of intervals."""
    names = [{*variables(side)} - {"?"} for side in (a, b)]
    if all(names) and names[0] != names[1]:
        return False
    (ends, in_a), (more, in_b) = as_set(a), as_set(b)
    ends = sorted({end for end in ends + more if abs(end) < MP.inf}) or [MP.zero]
    between = [(x + y) / 2 for x, y in zip(ends, ends[1:])]
    return all(in_a(x) == in_b(x) for x in [ends[0] - 1, *ends, *between, ends[-1] + 1])


def same_items(a, b):
    """Equal as multisets; a solution tuple listed twice is forgiven."""
    if all(item[0] == "tuple" for item in a + b):
        a, b = ([x for i, x in enumerate(items) if not any(is_same(x, y) for y in items[:i])]
                for items in (a, b))
    rest = list(b)
    for item in a:
        match = next((i for i, other in enumerate(rest) if is_same(item, other)), None)
        if match is None:
            return False
        del rest[match]
    return not rest


def is_same(a, b):
    """same, where what has no value is not the same."""
    try:
        return same(a, b)
    except (ValueError, ArithmeticError):
        return False


def same(a, b):
    """Do two parsed answers mean the same?"""
    if a == b:
        return True
    kinds = {a[0], b[0]}
    relations = any(n[0] == "relation" for n in walk(a, b))
    if relations:
        (name, x), (other, y) = without_names(a), without_names(b)
        if (x, y) != (a, b) and (name == other or not (name and other)) and is_same(x, y):
            return True
    if kinds & {"text", "based"}:
        return False
    if kinds == {"ratio"} and len(a[1]) == len(b[1]):
        return all(same_value(combine("/", x, a[1][0]), combine("/", y, b[1][0]))
                   for x, y in zip(a[1], b[1]))
    if kinds <= {"list", "set"} and (same_items(a[1], b[1]) or not relations):
        return same_items(a[1], b[1])
    if "tuple" in kinds and kinds <= {"list", "tuple"} and len(a[1]) == len(b[1]):
        # 0, 1 and [0, 1] are not (0, 1), but 1, 2, 3 may be (1, 2, 3)
        forms = {a[0] + str(a[2:]), b[0] + str(b[2:])}
        free = len(forms) == 1 or len(a[1]) > 2 or "=" in a[2:] + b[2:] or a[1][0][0] == "tuple"
        if free and all(map(is_same, a[1], b[1])):
            return True
    if kinds == {"relation"} and same_relation(a, b):
        return True
    for node, other in ((a, b), (b, a)):
        if node[0] == "set" and len(node[1]) == 1 and is_same(node[1][0], other):
            return True
    if kinds & {"tuple", "set", "list", "relation", *UNITED} or ("name", "set R") in (a, b):
        return same_set(a, b)
    return same_value(a, b)


# --------------------------------------------------------------------------------------------------
# Verdict

CHOICE = re.compile(
    r"[\s(\[.:*]*(?:(?:option|choice|answer)[\s(\[.:*]*)?([A-J])[\s)\].,:;*]*", re.I)
CHOICE_TEXT = re.compile(  # C. the third one; but no second letter: C. or D
    r"\s*(?:\(([A-Ja-j])\)|([A-J])[.:)])\s*"
    r"(?!(?:or|and|not)\b|.*\b(?:[B-J]|A(?! [a-z]))\b)\S.*", re.S)
LAYOUT = re.compile(r"\\(?:text|mathrm|rm|bf)(?![a-zA-Z])|[{}$\s~*]|\\[,;! ]")
NO_WORDS = re.compile(  # signs that make a formula: a-b is not ab, north-east is northeast
    r"[+*/^_=<>()|%',;[\]]|(?<![a-zA-Z]{4})!|(?<![a-zA-Z}])(?<!\\text\{)-|-(?![a-z]{4})|"
    r":(?!\d)|\\(?!text)|\d \d")
UNIT = re.compile(r"(?<=\d) +[mgsLhNJWVKC](?:/[smhL])?(?:\^\{?\d\}?)?$|\\circ\s*[CFK]$")
STRICT_REWRITES = [(re.compile(pattern), new) for pattern, new in [
    (r"\n|\\!", ""), (r"\\\\", r"\\"), (r"[td]frac", "frac"), (r"\\text\{ .*", ""), (r"\\?%", ""),
    (r"\\left|\\right|\^\{\\circ\}|\^\\circ|\\\$", ""), (r"([ {]|^)\.", r"\g<1>0."),
    (r"^[^=]{0,2}=([^=]*)$", r"\1"), (r"\\sqrt([^{])", r"\\sqrt{\1}"), (r" ", ""),
    (r"\\frac([^{])([^{])", r"\\frac{\1}{\2}"), (r"\\frac([^{])\{", r"\\frac{\1}{"),
    (r"^0\.5$", r"\\frac{1}{2}"), (r"^(-?\d+)/(-?\d+)$", r"\\frac{\1}{\2}")]]


def choice_letter(text):
    r"""The letter of a multiple-choice answer and whether it is alone: B, (b), B. five."""
    if len(text) > 200:  # the pattern takes quadratic time
        return "", False
    plain = LAYOUT.sub(" ", text)
    alone = CHOICE.fullmatch(plain)
    match = alone or CHOICE_TEXT.match(plain)
    return next(filter(None, match.groups())).upper() if match else "", bool(alone)


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
    (letter, alone), (gold_letter, gold_alone) = choice_letter(a), choice_letter(b)
    if gold_letter and (gold_alone and gold_letter in b or letter and (alone or gold_alone)):
        return letter == gold_letter, "multiple choice"
    marks = r"\\text|[^a-zA-Z0-9.:,-]|[.:,-](?!\d)"  # 1.5 and -5 are no words
    words, gold_words = (re.sub(marks, "", side).lower() for side in (a, b))
    if words == gold_words and re.search("[a-z]{2}", words) and not NO_WORDS.search(f"{a}\n{b}"):
        return True, "same words"
    if not re.search("[a-zA-Z]", b):
        a = UNIT.sub("", a)  # "5 m" where the gold has no names
    try:
        pairs = list(product(readings(a), readings(b)))
    except Unreadable as error:
        return False, f"unparsable: {error}"
    return (True, "same value") if any(is_same(x, y) for x, y in pairs) else (False, "wrong")


def parses(ground_truth):
    """Can this gold be graded by more than its text?  Data loaders report those that cannot."""
    text = normalise(str(ground_truth)[:MAX_ANSWER])
    try:
        return bool(choice_letter(text)[0] or readings(text))
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


# --------------------------------------------------------------------------------------------------
# Many at once

WORKER = [sys.executable, os.path.abspath(__file__), "--worker"]
START_SECONDS = 30  # for a worker to start, on a busy machine


def score_batch(responses, ground_truths, counts=None, loose=False, strict=False, workers=None,
                seconds=0.1):
    """score of each pair, a list of floats.

    counts   dict   gets how often each reason of `verdict` occurred, added to what it holds
    workers  int    processes; None is up to 4 from 2,000 answers on, else none: the
                    limits make grading here safe, and a process takes 0.2 s to start
    seconds  float  that a worker's answers may take on average (and START_SECONDS to start): one
                    on which it hangs or dies scores 0, "timed out" or "crashed", and no other does
    """
    if len(responses) != len(ground_truths):
        raise ValueError(f"{len(responses)} responses but {len(ground_truths)} ground truths: "
                         "give one ground truth for each response")
    if workers is None:
        workers = min(4, os.cpu_count() or 1) if len(responses) >= 2_000 else 0
    jobs = [(str(response)[-MAX_RESPONSE:], str(gold)[: MAX_ANSWER + 1], loose, strict)
            for response, gold in zip(responses, ground_truths)]
    verdicts = [verdict(*job) for job in jobs] if not workers else [None] * len(jobs)
    with ThreadPoolExecutor(workers or 1) as pool:
        shares = [jobs[i::workers] for i in range(workers)]
        for i, share in enumerate(pool.map(grade_in_worker, shares, [seconds] * workers)):
            verdicts[i::workers] = share
    for _, reason in verdicts if counts is not None else ():
        counts[reason] = counts.get(reason, 0) + 1
    return [value for value, _ in verdicts]


def grade_in_worker(jobs, seconds):
    """verdict of each job in a child process, which is replaced when it hangs or dies.

    A plain child instead of multiprocessing: it imports this file only, not the caller's main
    module (with torch), and forks no threads.
    """
    results = []
    while len(results) < len(jobs):
        rest, errors, reason = json.dumps(jobs[len(results) :]).encode(), b"", "crashed"
        limit = START_SECONDS + seconds * (len(jobs) - len(results))
        try:
            done = subprocess.run(WORKER, input=rest, capture_output=True, timeout=limit)
            output, errors = done.stdout, done.stderr
        except subprocess.TimeoutExpired as late:
            output, reason = late.stdout or b"", "timed out"
        ready, *lines = output.split(b"\n")[:-1] or [b""]
        if not ready:  # it says when it starts: this is not the fault of an answer
            raise RuntimeError(f"no worker starts, grade with workers=0: {errors.decode()}")
        results += [tuple(json.loads(line)) for line in lines]
        if len(results) < len(jobs):
            results.append((0.0, reason))
    return results


TRICKY = [  # predicted, ground truth, right?
    (r"\frac{2}{4}", "0.5", True), ("0.333333", "1/3", True), ("5.001", "5", False),
    ("50%", "0.5", True), ("50", "0.5", False), (r"1\frac12", "1.5", True), ("1,234", "1234", True),
    ("x=5", "5", True), ("x+3=42", "42", False), (">5", "5", False), ("101_2", "101", False),
    ("3+2x", "2x+3", True), (r"\sqrt{x^2}", "x", False), ("(0,1)", "[0,1)", False),
    ("x<3", r"(-\infty,3)", True), (r"1\pm2", "-1,3", True), (r"9^{9^{9^9}}", "1", False),
    ("__import__('os')", "1", False), ("((((", "((((((", False)]


def show(node):
    """A tree as text: multiply(2, x)."""
    if not isinstance(node[1], tuple):
        return f"{node[1]} in base {node[2]}" if node[0] == "based" else str(node[1])
    name = " ".join((node[0], *map("".join, node[2:]))) if node[0] != "call" else node[2]
    return f"{name}({', '.join(map(show, node[1]))})"


def explain(text, ground_truth, loose, strict):
    """Print what was extracted, how both sides read, and which rule decided."""
    answer, rule = find_answer(text, loose)
    if rule == "no answer" and not loose:
        answer, rule = text, "bare answer"
    print(f"extracted     {answer!r} ({rule})")
    if answer is None:
        return print(f"verdict       not right ({rule})")
    for label, side in (("predicted", answer), ("ground truth", ground_truth)):
        try:
            trees = " or ".join(map(show, readings(normalise(side))))
            print(f"{label:13} {normalise(side)!r} reads as {trees}")
        except Unreadable as error:
            print(f"{label:13} {normalise(side)!r} cannot be read: {error}")
    right, rule = judge(answer, ground_truth, strict)
    print(f"verdict       {'right' if right else 'not right'} ({rule})")


def main():
    parser = argparse.ArgumentParser(description="Explain a verdict; no arguments: tricky answers. "
                                     "Put -- before an answer that begins with a minus.")
    parser.add_argument("predicted", nargs="?", help="a bare answer, or a response with a box")
    parser.add_argument("ground_truth", nargs="?", help="the right answer")
    parser.add_argument("--loose", action="store_true", help="accept <answer>, ####, 'answer is'")
    parser.add_argument("--strict", action="store_true", help="the string rules of MATH's grader")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:  # jobs in, a verdict per line out
        print("ready", flush=True)
        for job in json.load(sys.stdin):
            print(json.dumps(verdict(*job)), flush=True)
    elif args.ground_truth is not None:
        explain(args.predicted, args.ground_truth, args.loose, args.strict)
    else:
        for predicted, gold, right in TRICKY:
            got, rule = judge(predicted, gold)
            mark = "pass" if got == right else "FAIL"
            print(f"{mark}  {predicted:17} {gold:12} {got!s:6} {rule}")
        assert all(equal(predicted, gold) == right for predicted, gold, right in TRICKY)


if __name__ == "__main__":
    main()
