r"""Is this final answer right?  Grades mathematical answers; model output is untrusted text.

Four steps: extract (the last \boxed{}), normalise, parse, compare.  The grammar, loosest first:

    answer   = relation {("," | ";" | "or" | "and") relation}   a bare list is unordered
    relation = ratio {("=" | "<" | "!=" | "in" ...) ratio}       x = 5 is 5; x < 3 is (-inf, 3)
    ratio    = set {":" set}
    set      = sum {("cup" | "cap" | "setminus") sum}
    sum      = product {("+" | "-" | "+-") product}              +- stands for both values
    product  = operand {["*" | "/"] operand}                     words after a number are units
    operand  = ["-"] atom {"!" | "%" | degree} ["^" operand]
    atom     = number | name | function | (answer) | [answer] | {answer} | |sum| | matrix | words

Expressions are equal if they are so at fixed points of both signs: in exact fractions while they
last, else with 100 digits.  Nothing is executed and nothing can grow: text, tokens, nesting and the
bits of a power are bounded before any work, so no timer is needed and threads and processes agree.
Of sympy only mpmath, its number library, is used: sympy's parsers execute text, its constructors
compute 9**9**9.  README has the policy; strict=True is the string grader of the method's authors.

    python reward.py "\frac{2}{4}" "0.5"     explains its verdict; no arguments: tricky answers
"""
import argparse
import functools
import itertools
import json
import math
import os
import re
import select
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import mpmath

MAX_RESPONSE, MAX_ANSWER, MAX_TOKENS, MAX_DEPTH = 20_000, 2_000, 400, 40
MAX_BITS = 20_000                        # of an exact number: arithmetic well under 1 ms
MAX_ITEMS = 40                           # of a list: comparing without order is quadratic
DECIMAL_TOLERANCE = Fraction(2, 10**6)   # relative, where a side has a decimal point
SAME = Fraction(1, 10**70)               # relative, for values carried with 100 digits
START_SECONDS = 30                       # for a worker process to start, on a busy machine
MP = mpmath.MPContext()                  # our own: nothing changes its precision, threads may share
MP.dps = 100


class Unreadable(ValueError):
    """Not an answer of the grammar, beyond the limits, or without a value."""


# ---- extract: response -> answer -----------------------------------------------------------------

BOX = re.compile(r"\\f?box(?:ed)?\s*\{")
BOX_JOINT = re.compile(
    r"(?:[\s,;$~&]|\\[,;! ()\[\]]|\\q?quad|and\b|or\b|\\text\s?\{\s?(?:and|or),?\s?\})*")
CUE = re.compile(r"(?:answer|correct (?:option|choice))(?:\s+is\b|\s*:|(?=\s*\\\[))[\s:*]*"
                 r"(?:the (?:final )?answer is:?\s*)?|final answer(?=\s\$?-?\d)", re.I)
MATH_SPAN = re.compile(r"\$\$?([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]|\*\*([^*]+)\*\*", re.S)


def closing_brace(text: str, start: int, brace: str) -> int:
    """Index of the brace that closes the one before `start`, or -1; `brace` matches the braces."""
    depth = 1
    for match in re.compile(brace).finditer(text, start, start + 2 * MAX_ANSWER):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return -1


def last_box(text: str) -> tuple[str | None, str]:
    """The last box, or the last run of joined boxes as a comma list; or None; and the reason."""
    contents, later = [], 0
    for match in reversed(list(BOX.finditer(text))[-MAX_ITEMS:]):
        # An escaped brace is no brace, unless that leaves the box open: \boxed{185\}.
        close = closing_brace(text, match.end(), r"\\.|[{}]")
        close = close if close >= 0 else closing_brace(text, match.end(), r"[{}]")
        if close < 0 and not contents:
            return None, "truncated"
        if contents and not (close >= 0 and BOX_JOINT.fullmatch(text, close + 1, later)):
            break
        contents.insert(0, text[match.end():close].strip())
        later = match.start()
    if not all(contents or [""]):
        return None, "empty box" if contents else "no answer"
    return ", ".join(dict.fromkeys(contents)), "box"


def find_answer(response: str, loose: bool) -> tuple[str | None, str]:
    """The answer and the rule that found it, or None and the reason."""
    text = str(response)[-MAX_RESPONSE:].rpartition("</think>")[2]
    answer, rule = last_box(text)
    if not loose or rule != "no answer":
        return answer, rule
    text = text.partition("<|im_")[0]                        # a made-up next turn is no answer
    if "<answer>" in text:
        answer, closed, _ = text.rpartition("<answer>")[2].partition("</answer>")
        return (answer, "<answer>") if closed else (None, "truncated")
    if "####" in text:
        return text.rpartition("####")[2].strip().partition("\n")[0], "####"
    if not (cues := list(CUE.finditer(text))):
        return None, "no answer"
    rest = text[cues[-1].end():].lstrip()[:MAX_ANSWER]
    rest = re.sub(r"^(?:therefore|approximately|about|simply|just) ", "", rest)
    if not MATH_SPAN.match(rest):                            # the sentence, and what its "is" says
        rest = re.split(r"\.(?=\s|$)|\n| because |, (?=[a-z])", rest)[0]
        rest = re.split(r" (?:is|equals) ", rest)[-1]
    span = MATH_SPAN.match(rest)
    return (next(filter(None, span.groups())) if span else rest).strip(" *:`"), "answer is"


def extract_answer(response: str, loose: bool = False) -> str | None:
    r"""The last \boxed{} after the last </think>; None if there is none, or it is open or empty.

    Boxes joined by "and", "or", commas or space form one list.  `loose`, for evaluation, falls back
    to <answer>, then ####, then "answer is" / "Answer:"; never to the last number somewhere.
    """
    return find_answer(response, loose)[0]


# ---- normalise: one spelling for what prints the same --------------------------------------------

UNICODE = str.maketrans(
    dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹", (f"^{i}" for i in range(10))))
    | dict(zip("−–—×·⋅÷∕⁄⟨⟩", "---***///()"))
    | dict(zip("½⅓⅔¼¾", (rf"\frac{i}" for i in (12, 13, 23, 14, 34))))
    | dict.fromkeys("£€“”\u200b")
    | dict(zip("πθ√∞≤≥≠≈∪∩∈∅±∓∖°", (rf"\{name} " for name in (
        "pi theta sqrt infty le ge ne approx cup cap in emptyset pm mp setminus degree").split()))))


def mixed_number(match: re.Match) -> str:
    r"""1\frac12 and 1 1/2 are 3/2; an improper fraction is a factor."""
    whole, top, bottom = filter(None, match.groups())
    return f"({whole}+{top}/{bottom})" if 0 < int(top) < int(bottom) else match[0]


def repeating_decimal(match: re.Match) -> str:
    r"""0.1\overline{6} is 1/6."""
    whole, start, period = match.groups()
    top = int(whole + start + period) - int(whole + start or 0)
    return f"({top}/{10 ** len(start) * (10 ** len(period) - 1)})"


MULTIPLES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
REWRITES = [(re.compile(pattern), new) for pattern, new in [
    (r"\\(?:left|right|displaystyle|limits|[bB]igg?[lrm]?)(?![a-zA-Z])\.?", ""),
    (r"\{,\}|,\\!\s*", ","), (r"(?<=\d)(?:\\[, ]| )(?=\d{3}(?!\d))", ""),     # 1{,}000 and 1\,000
    (r"(?<!\\)\\(?:[$()\[\],;:!> ]|q?quad)|[$~]|\*\*(?=\s*$)|^\s*\*\*", " "),  # layout, dollars
    (r"(\d{0,99})\.(\d{0,99})\\(?:overline|bar|dot)\s*\{(\d{1,99})\}", repeating_decimal),
    (r"\\(?:[dtc]|nice|s)frac", r"\\frac"), (r"\\[dt]binom", r"\\binom"),
    (r"\{([^{}]*)\\over(?![a-zA-Z])([^{}]*)\}", r"\\frac{\1}{\2}"),
    (r"\{([^{}]*)\\choose(?![a-zA-Z])([^{}]*)\}", r"\\binom{\1}{\2}"),
    (r"(?<![a-z])\{(or|and)\}", r" \1 "), (r"\((\d+)\)_|(?<=\d) +base +(?=\d+$)", r"\1_"),
    (rf"(?<=\d)\s*(?:\\text\s?\{{)?\s*({'|'.join(MULTIPLES)})\b\}}?",
     lambda match: f"*{MULTIPLES[match[1]]}"),
    (r"\\(?:math(?:bf|it|sf|cal)|bm|boldsymbol|vec|hat|bar|d?dot|overline|"
     r"overrightarrow|angle|phantom|boxed)(?![a-zA-Z])", ""),
    (r"\\(?:textbf|textit|textrm|mbox|hbox|operatorname)\s*\*?\s*\{", r"\\text{"),
    (r"\\text\s?\{\s*(-?\d[^{}]*)\}", r"\1"),
    (r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree|\bdegrees?\b", r"\\circ "),
    (r"\^\s*\{?\s*\\prime\s*\}?", "'"), (r"\\[lr]?vert|\\mid", "|"), (r"\\langle", "("),
    (r"\\rangle", ")"), (r"(?<=\d)\s*x\s*(?=10\s*\^)", "*"),
    (r"(?<=\d)\s*(?:\\text\s?\{\s*to\s*\}|to)\s*(?=\d)", ":"),
    (r"(?<=[\])}])\s*U\s*(?=[\[({\\])", r"\\cup "),
    (r"(\\\{)\s*[a-zA-Z]\s*(?:\\in\s*\\mathbb\s*\{?R\}?)?\s*[|:]", r"\1"),    # {x : x > 3} is x > 3
    # f(x) = ... is f = ...
    (r"([a-zA-Z])(?:\^\{-1\})?\s*\([a-zA-Z](?:,\s*[a-zA-Z])*\)\s*(?=[=<>]|\\[lg]e)", r"\1 "),
    (r"(?<![\d.^_}/])(\d+)(?:\s*\\frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))"
     r"| +(\d+)/(\d+))(?![\d.])", mixed_number),
]]


@functools.lru_cache(4096)
def normalise(text: str) -> str:
    text = unicodedata.normalize("NFKC", text[:MAX_ANSWER].translate(UNICODE))[:MAX_ANSWER]
    text = re.sub(r"\s+", " ", text)     # a long run would make the patterns below slow
    if r"\begin" not in text:
        text = re.sub(r"\\\\(?=[a-zA-Z])", r"\\", text)      # \\sqrt{5}: escaped once too often
    for pattern, new in REWRITES:
        text = pattern.sub(new, text)
    return text.strip().rstrip(" .,;:\\")                    # the sentence's end, a lone backslash


def text_key(text: str) -> str:
    """The letters and digits of words."""
    return re.sub(r"\\(?:text|mathrm)(?![a-zA-Z])|[^a-zA-Z0-9]", "", text).lower()


# ---- tokens --------------------------------------------------------------------------------------

FUNCTIONS = set("""arcsin arccos arctan asin acos atan asinh acosh atanh sinh cosh tanh sin cos tan
    sec csc cot ln lg log exp sqrt frac binom gcd lcm max min floor ceil abs""".split())
NAMES = set("""alpha beta gamma delta epsilon varepsilon zeta eta theta kappa lambda mu nu xi rho
    sigma tau phi varphi chi psi omega Gamma Delta Theta Lambda Sigma Phi Psi Omega ell hbar odot pi
    infty infinity oo sum int prod""".split())
OPERATORS = {
    "leqslant": "<=", "leq": "<=", "le": "<=", "geqslant": ">=", "geq": ">=", "ge": ">=", "lt": "<",
    "gt": ">", "neq": "!=", "ne": "!=", "approx": "~=", "times": "*", "cdot": "*", "div": "/",
    "pm": "+-", "mp": "-+", "backslash": "setminus", "colon": ":", "varnothing": "emptyset",
    "cr": "\\\\", "\\": "\\\\", "lor": "or", "land": "and", "==": "=", ":=": "=", "**": "^",
    "+/-": "+-", "percent": "%", "pct": "%"} | {word: word for word in """in cup cap setminus lfloor
    rfloor lceil rceil begin end mathbb circ emptyset""".split()}
RELATIONS = ("=", "~=", "!=", "<=", ">=", "<", ">", "in")


def any_of(words) -> str:
    return "|".join(sorted((word for word in words if word.isalpha()), key=len, reverse=True))


KNOWN = re.compile(any_of(FUNCTIONS | NAMES | set(OPERATORS)))
IN_WORDS = re.compile(f"({any_of(FUNCTIONS | {'theta', 'infinity', 'pi', 'oo'})})")
SHORT_WORDS = set("no on up am pm is of if in mph cm mm km kg mg ml ft mi hr".split())
TOKEN = re.compile(r"""(?P<number>(?:\d+\.\d*|\d+|\.\d+)(?:[eE][+-]?\d+(?![\w.]))?)
    | \\text\s?\{(?P<text>[^{}]*)\} | \\mathrm\s?\{(?P<roman>[^{}]*)\} | \\(?P<command>[a-zA-Z]+)
    | (?P<letters>[a-zA-Z]+) | \\?(?P<percent>%) | (?P<row>\\\\|\\(?=[-\d.])) | (?P<space>\s+)
    | (?P<symbol><=|>=|!=|==|:=|\*\*|\+/-|\+-|[-+*/^_=<>()\[\]{}|!,;:&']|\\[{}])""", re.X)


def tokenize(text: str) -> list[tuple[str, str]]:
    """(kind, value) of each token; the kinds are number, name, function, word and op."""
    tokens, position = [], 0
    while position < len(text):
        match = TOKEN.match(text, position)
        if not match or len(tokens) > MAX_TOKENS:
            raise Unreadable("too many tokens" if match else f"cannot read {text[position:]:.20}")
        position, kind, value = match.end(), match.lastgroup, match[match.lastgroup]
        if kind == "command":
            if not (known := KNOWN.match(value)):
                raise Unreadable(f"unknown command \\{value}")
            position -= len(value) - known.end()             # \cotx, from data without spaces
            tokens.append(known_token(known[0]))
        elif kind in ("text", "roman", "letters"):
            value, after_number = value.strip(" ~"), bool(tokens) and (
                tokens[-1][0] == "number" or tokens[-1][1] == "}")
            is_unit = kind == "text" or kind == "roman" and after_number and value not in "eid"
            tokens += word_tokens(value, is_unit, kind == "letters")
        elif kind != "space":
            tokens.append(("number" if kind == "number" else "op", OPERATORS.get(value, value)))
    return tokens


def known_token(word: str) -> tuple[str, str]:
    if word in OPERATORS:
        return "op", OPERATORS[word]
    if word in FUNCTIONS:
        return "function", word
    return "name", "oo" if word[:3] == "inf" else word


def word_tokens(words: str, is_unit: bool, is_bare: bool) -> list[tuple[str, str]]:
    """A separator, a unit or other word, or a product of names and functions: xcosx, 2pi, ab."""
    bare = words.lower().strip(" ,")
    if bare in ("or", "and", "percent", "pct", ""):
        return [("op", OPERATORS.get(bare, bare) or ",")] if words else []
    parts = [part for part in IN_WORDS.split(words) if part]
    rest = [part for part in parts if not IN_WORDS.fullmatch(part)]
    # abc and xyz are products, "two" and "yes" are words.
    in_order = bare == "".join(sorted(bare)) or not set(bare) & set("aeiou")
    is_product = len(rest) <= 2 and all(len(part) <= (4 if in_order else 2) for part in rest)
    if words not in FUNCTIONS and (bare in SHORT_WORDS or not is_product or is_unit
                                   or not is_bare and len(bare) > 2):
        return [("word", words)]
    return [token for part in parts for token in ([known_token(part)] if IN_WORDS.fullmatch(part)
                                                  else [("name", letter) for letter in part])]


# ---- parse: tokens -> tree of (kind, ...) --------------------------------------------------------

LEVELS = ({op: 1 for op in (",", ";", "or", "and")} | dict.fromkeys(RELATIONS, 2) | {":": 3}
          | dict.fromkeys(("cup", "cap", "setminus"), 4) | {"+": 5, "-": 5, "*": 6, "/": 6})
ARGUMENT, FACTOR = 6.5, 7                # sin 2x cos x: an argument ends at the next function
CLOSING = {"(": (")", "]"), "[": (")", "]"), "{": ("}",), "\\{": ("\\}",), "lfloor": ("rfloor",),
           "lceil": ("rceil",)}
ONE, TWO, MINUS_ONE = (("number", Fraction(n), False) for n in (1, 2, -1))


def multiply(*factors: tuple) -> tuple:
    """A product; what multiplies a matrix goes into its cells."""
    for i, factor in enumerate(factors):
        if factor[0] == "matrix":
            rest = factors[:i] + factors[i + 1:]
            return "matrix", [[multiply(*rest, cell) for cell in row] for row in factor[1]]
    return "multiply", [f for factor in factors for f in (
        factor[1] if factor[0] == "multiply" else [factor])]


def combine(operator: str, left: tuple, right: tuple) -> tuple:
    """The node of a binary operator; a chain of one operator is one node."""
    if operator == "*":
        return left if right[0] == "text" else multiply(left, right)     # a text factor is a unit
    if operator == "/":
        return multiply(left, ("power", right, MINUS_ONE))
    if operator in ("cup", "cap", "setminus"):
        return operator, [left, right]
    if operator in RELATIONS:
        operators, sides = left[1:] if left[0] == "relation" else ([], [left])
        return "relation", [*operators, operator], [*sides, right]
    if operator == "and" and left[0] == right[0] == "relation" and "=" not in left[1] + right[1]:
        return "cap", [left, right]                          # x > 1 and x < 3
    kind = {1: "list", 3: "ratio", 5: "add"}[LEVELS[operator]]
    right = multiply(MINUS_ONE, right) if operator == "-" else right
    return kind, [*(left[1] if left[0] == kind else [left]), right]


def peek(tokens: list) -> str | None:
    """The operator that comes next; the tokens are a stack, the next one last."""
    return tokens[-1][1] if tokens and tokens[-1][0] == "op" else None


def take(tokens: list, *wanted: str) -> str:
    if not tokens or wanted and peek(tokens) not in wanted:
        raise Unreadable(f"expected {' or '.join(wanted) or 'an operand'}")
    return tokens.pop()[1]


def parse(tokens: list, depth: int, level: float = 0) -> tuple:
    """The expression ahead whose operators all bind tighter than `level`."""
    node = parse_operand(tokens, depth)
    while tokens:
        kind, value = tokens[-1]
        if kind == "word":
            skip_unit(tokens)
            continue
        implicit = kind != "op" or value in CLOSING or value in ("begin", "mathbb", "emptyset")
        power = LEVELS["*"] if implicit else LEVELS.get(value, 0)
        if level == ARGUMENT and implicit and kind != "function":
            power = FACTOR
        if power <= level:
            break
        if implicit and kind == node[0] == "number":
            raise Unreadable("two numbers side by side")
        operator = "*" if implicit else tokens.pop()[1]
        while power == 1 and LEVELS.get(peek(tokens)) == 1:  # "1, 2, and 3"
            tokens.pop()
        node = combine(operator, node, parse(tokens, depth, power))
    return node


def skip_unit(tokens: list) -> None:
    """Drop a word after a number, with its power and its "per": 5 cm^2, 60 km/h."""
    if re.search(r"\d|\b(?:or|and|not)\b", tokens.pop()[1]):
        raise Unreadable("words that may be a second answer")
    if peek(tokens) == "^":
        tokens.pop()
        parse_operand(tokens, 0)
    if peek(tokens) in ("/", "*") and len(tokens) > 1 and tokens[-2][0] in ("word", "name"):
        tokens.pop()
        skip_unit(tokens)


def parse_operand(tokens: list, depth: int) -> tuple:
    """A signed atom with its postfix marks and power."""
    if depth > MAX_DEPTH:
        raise Unreadable("nested too deeply")
    operator = peek(tokens)
    if operator in ("+", "-"):
        return multiply(ONE if take(tokens) == "+" else MINUS_ONE, parse_operand(tokens, depth + 1))
    if operator == "~=":                                     # "\approx 8.24"
        tokens.pop()
    elif operator in RELATIONS:                              # ">5" is x > 5 of a nameless x
        return "name", "?"
    node = parse_atom(tokens, depth)
    while (mark := peek(tokens)) in ("!", "%", "circ", "'"):
        tokens.pop()
        if mark == "!" and node[:2] == ("call", "!") or mark == "'" and node[0] != "name":
            raise Unreadable(f"misplaced {mark}")
        node = (("call", mark, [node]) if mark == "!" else ("name", node[1] + mark) if mark == "'"
                else multiply(node, ("name", mark)))
    if mark == "^":
        take(tokens)
        return "power", node, parse_operand(tokens, depth + 1)
    return node


def parse_atom(tokens: list, depth: int) -> tuple:
    kind, value = tokens.pop() if tokens else ("op", "nothing")
    if kind == "word":                                       # words first: text up to a relation
        while tokens and tokens[-1][1] not in (*LEVELS, ")", "]", "}", "\\}", "&", "end"):
            value += tokens.pop()[1]
        return "text", text_key(value)
    if kind == "number":
        return parse_number(value, tokens)
    if kind == "name":
        while peek(tokens) == "_" or value[:3] in ("sum", "int", "pro") and peek(tokens) == "^":
            value += take(tokens) + raw_script(tokens)       # a sum's sign is a name in a product
        if value == "f" and peek(tokens) == "(":             # f(x + 1) is no product
            value += repr(parse_atom(tokens, depth + 1))
        return "name", value
    if kind == "function":
        return parse_function(value, tokens, depth + 1)
    if value == "|":
        node = parse(tokens, depth + 1, level=LEVELS["cup"])
        take(tokens, "|")
        return "call", "abs", [node]
    if value in CLOSING:
        return parse_bracket(value, tokens, depth + 1)
    if value == "begin":
        return parse_matrix(tokens, depth + 1)
    if value in ("emptyset", "mathbb"):
        return ("set", []) if value == "emptyset" else ("name", "set " + raw_script(tokens))
    raise Unreadable(f"unexpected {value}")


def parse_number(text: str, tokens: list) -> tuple:
    """An exact number, and whether it is a decimal.  101_2 equals only numbers of base 2."""
    if peek(tokens) == "_" and tokens.pop() and (base := raw_script(tokens)) not in ("10", "ten"):
        words = {"two": "2", "three": "3", "eight": "8", "sixteen": "16"}
        return "based", text.lstrip("0"), re.sub(r"\D", "", base) or words.get(base, base)
    mantissa, _, exponent = text.lower().partition("e")
    if len(exponent) > 4:
        raise Unreadable("exponent too large")
    value = Fraction(mantissa) * Fraction(10) ** int(exponent or 0)
    return "number", value, value.denominator > 1


def raw_script(tokens: list) -> str:
    """The text of a sub- or superscript: one token or a group."""
    if (value := take(tokens)) != "{":
        return value
    return "".join(iter(lambda: take(tokens), "}"))


def parse_function(name: str, tokens: list, depth: int) -> tuple:
    r"""sin x, sin^2 x, sin^{-1} x, log_2 8, \sqrt[3]{x}, \frac12, max(1, 2)."""
    if name in ("frac", "binom"):
        top, bottom = parse_digit(tokens, depth), parse_digit(tokens, depth)
        return ("call", name, [top, bottom]) if name == "binom" else combine("/", top, bottom)
    if name == "sqrt":
        index = TWO
        if peek(tokens) == "[":
            index = parse_bracket(take(tokens), tokens, depth)
        return "power", parse_atom(tokens, depth), ("power", index, MINUS_ONE)
    power = base = None
    while peek(tokens) in ("^", "_"):
        if take(tokens) == "^":
            power = parse_operand(tokens, depth)
        else:
            base = parse_digit(tokens, depth)
    if power == multiply(MINUS_ONE, ONE) and name in ("sin", "cos", "tan", *INVERSE):
        name, power = "a" + name, None
    bracketed = peek(tokens) in ("(", "{", "\\{")
    argument = parse_atom(tokens, depth) if bracketed else parse(tokens, depth, ARGUMENT)
    arguments = argument[-1] if argument[0] in ("tuple", "set") else [argument]
    if not arguments:
        raise Unreadable(f"{name} of nothing")
    node = ("call", name.replace("arc", "a"), arguments + ([base] if base else []))
    return ("power", node, power) if power else node


def parse_digit(tokens: list, depth: int) -> tuple:
    r"""An argument of \frac: a group or one character, so \frac12 is 1/2."""
    if tokens and tokens[-1][1].isdigit() and len(tokens[-1][1]) > 1:
        digits = tokens.pop()[1]
        tokens.append(("number", digits[1:]))
        return "number", Fraction(digits[0]), False
    return parse_atom(tokens, depth)


def parse_bracket(opening: str, tokens: list, depth: int) -> tuple:
    closed = peek(tokens) in CLOSING[opening]
    node = ("list", []) if closed else parse(tokens, depth)
    brackets = opening + take(tokens, *CLOSING[opening])
    if opening in ("lfloor", "lceil"):
        return "call", opening[1:], [node]
    if opening == "\\{" and node[0] not in ("list", "relation"):
        return "set", [node]
    if node[0] != "list":
        return node
    return ("set", node[1]) if "{" in opening else ("tuple", brackets, node[1])


def parse_matrix(tokens: list, depth: int) -> tuple:
    r"""\begin{pmatrix} a & b \\ c & d \end{pmatrix}."""
    environment, rows = raw_script(tokens), [[]]
    if environment == "array":
        raw_script(tokens)                                   # the column layout
    while peek(tokens) != "end":
        rows[-1].append(parse(tokens, depth))
        if peek(tokens) != "end" and take(tokens, "&", "\\\\") != "&":
            rows.append([])
    take(tokens)
    raw_script(tokens)
    rows = [row for row in rows if row]
    if len({len(row) for row in rows}) != 1 or environment not in (
            "matrix", "pmatrix", "bmatrix", "Bmatrix", "array", "smallmatrix"):
        raise Unreadable("not a matrix")
    return "matrix", rows


# ---- values: tree -> Fraction while exact, else a number with 100 digits -------------------------

INVERSE = {"sec": "cos", "csc": "sin", "cot": "tan"}
CONSTANTS = {"pi": "pi", "e": "e", "i": "j", "oo": "inf"}
MARKS = {"circ": Fraction(1), "%": Fraction(1, 100), "log": MP.e}        # what the marks stand for
# From 1/100 to 6 and of both signs, so that no root, absolute value or small term can hide.
COORDINATES = [Fraction(n, 1000) for n in (
    1237, 2871, 413, 3319, 1709, 523, 5011, 2203, 811, 4157, 1453, 3701)]
TRIALS = [(0, 1, (1,)), (3, 1, (1,)), (5, Fraction(1, 40), (1,)), (7, 1, (-1,)), (2, 1, (1, -1)),
          (9, 1, (-1, 1))]               # first coordinate, scale, signs


def raise_power(base, exponent):
    """base ** exponent: exact for an integer exponent, the real odd root of a negative number."""
    root = exponent.denominator if isinstance(exponent, Fraction) else 0          # 0: irrational
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
    if abs(n) > 1_500:                                       # 1500! has 13,700 bits
        raise Unreadable("factorial too large")
    is_whole = isinstance(n, Fraction) and n.denominator == 1 and n >= 0
    return Fraction(math.factorial(int(n))) if is_whole else MP.factorial(n)


def floor(x):
    """The floor; sqrt(16), carried with 100 digits, may lie just below 4."""
    if isinstance(x, MP.mpc):
        raise Unreadable("the floor of a complex number")
    return Fraction(math.floor(x) if isinstance(x, Fraction) else int(MP.floor(x + SAME)))


def apply(name: str, values: list, point: dict):
    """A function of the whitelist."""
    x = values[0]
    exact = {"abs": abs, "floor": floor, "ceil": lambda x: -floor(-x), "!": factorial}
    if name in exact:
        return exact[name](x)
    if name in ("gcd", "lcm", "max", "min"):
        if not all(isinstance(value, Fraction) and (name[0] == "m" or value.denominator == 1)
                   for value in values):
            raise Unreadable(f"{name} is for exact numbers")
        return max(values) if name == "max" else min(values) if name == "min" else \
            Fraction(getattr(math, name)(*map(int, values)))
    if name == "binom":
        return factorial(x) * raise_power(
            factorial(values[1]) * factorial(x - values[1]), Fraction(-1))
    if abs(MP.mag(x) if x else 0) > 300:                     # bits that a sine has to reduce
        raise Unreadable("an argument is too large")
    if name in ("ln", "log", "lg"):
        bases = {"ln": MP.e, "lg": 10, "log": point["log"]}
        return MP.ln(x) / MP.ln(values[1] if len(values) > 1 else bases[name])
    if name == "exp":
        return raise_power(+MP.e, x)
    if name[1:] in INVERSE:                                  # asec, acsc, acot
        name, x = "a" + INVERSE[name[1:]], 1 / MP.convert(x)
    value = getattr(MP, INVERSE.get(name, name))(x)
    return 1 / value if name in INVERSE else value


def evaluate(node: tuple, point: dict, is_real: bool):
    """The value at a point (name -> value); with `is_real` no step may leave the real numbers."""
    kind, content = node[0], node[1]
    if kind == "number":
        return content
    if kind == "name" and (content in point or content in CONSTANTS):
        return point[content] if content in point else +getattr(MP, CONSTANTS[content])
    if kind in ("add", "multiply"):
        value, *rest = (evaluate(child, point, is_real) for child in content)
        for other in rest:
            value = value + other if kind == "add" else value * other
            if isinstance(value, Fraction) and value.numerator.bit_length() > 2 * MAX_BITS:
                raise Unreadable("a number is too large")
        return value
    if kind == "ratio" and len(content) == 2:
        return evaluate(combine("/", *content), point, is_real)
    if kind == "power":
        value = raise_power(evaluate(content, point, is_real), evaluate(node[2], point, is_real))
    elif kind == "call":
        if content in ("sin", "cos", "tan", *INVERSE):
            point = point | {"circ": MP.pi / 180}
        value = apply(content, [evaluate(child, point, is_real) for child in node[2]], point)
    else:
        raise Unreadable(f"a {kind} has no value")
    if is_real and isinstance(value, MP.mpc):
        raise Unreadable("not real")
    return value


# ---- compare -------------------------------------------------------------------------------------

def walk(root) -> list[tuple]:
    """All nodes of a tree, or of a list of trees."""
    nodes, stack = [], [root]
    while stack:
        node = stack.pop()
        if isinstance(node, (tuple, list)):
            stack.extend(node)
            if node and isinstance(node[0], str):
                nodes.append(node)
    return nodes


def variables(*nodes: tuple) -> list[str]:
    found = {n[1] for n in walk(nodes) if n[0] == "name"}
    return sorted(found - CONSTANTS.keys() - MARKS.keys() - {"set R"})


def is_decimal(*nodes: tuple) -> bool:
    """May a difference be due to rounding?  Next to a name 2.000001 is not 2 rounded."""
    decimals = [n[1] for n in walk(nodes) if n[0] == "number" and n[2]]
    near = any(abs(value - round(value)) <= DECIMAL_TOLERANCE * abs(value) for value in decimals)
    return bool(decimals) and not (near and variables(*nodes))


def values_at_points(nodes: list, marks: dict):
    """The nodes' values at each point where all are defined, over the reals if that leaves two."""
    unknowns, found = variables(*nodes), 0
    for is_real in ([True, False] if unknowns and ("name", "i") not in walk(nodes) else [False]):
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


def same_value(a, b, decimal: bool = False) -> bool:
    """Equality; within the tolerance if a side is a decimal and none is an integer."""
    fractions = [value for value in (a, b) if isinstance(value, Fraction)]
    exact = len(fractions) == 2
    if exact and (a == b or not decimal):
        return a == b
    integer = any(value.denominator == 1 for value in fractions)
    a, b = MP.convert(a), MP.convert(b)
    size = max(abs(a), abs(b))
    if a == b or size == MP.inf:
        return a == b
    tolerance = DECIMAL_TOLERANCE if decimal and not integer else SAME
    return bool(abs(a - b) <= tolerance * size or size < MP.convert(SAME) and not exact)


def same_expression(a: tuple, b: tuple) -> bool:
    """Equal at all points.  % next to none is 1/100 or nothing; log is of base e or 10."""
    percents = [("name", "%") in walk(side) for side in (a, b)]
    meanings = [MARKS] + [MARKS | {"%": Fraction(1)}] * (percents[0] != percents[1])
    if any(n[:2] == ("call", "log") and len(n[2]) == 1 for n in walk([a, b])):
        meanings.append(MARKS | {"log": 10})
    decimal = is_decimal(a, b)
    return any(all(same_value(x, y, decimal) for x, y in values_at_points([a, b], marks))
               for marks in meanings)


def same_relation(a: tuple, b: tuple) -> bool:
    """The same equation or inequality, scaled or turned around; or the same chain."""
    if len(a[1]) > 1 or len(b[1]) > 1 or "in" in a[1] + b[1]:
        return a[1] == b[1] and all(map(is_same, a[2], b[2]))
    turned = a[1][0].translate(str.maketrans("<>", "><"))
    for operator, sides in ((a[1][0], b[2]), (turned, b[2][::-1])):
        left, right = combine("-", *a[2]), combine("-", *sides)
        if operator != b[1][0] or not variables(left) or variables(left) != variables(right):
            continue
        decimal = is_decimal(a, b)
        (x, y), *rest = values_at_points([left, right], MARKS)
        # left = c * right for one c, which is positive for an inequality.
        if x and y and (operator in ("=", "!=") or MP.convert(x * y).real > 0) and all(
                same_value(x * v, y * u, decimal) for u, v in rest):
            return True
    return False


def title(node: tuple) -> str:
    """What the left side of an assignment names: x, AB, A:B, |AB|, (p, q), speed; or ""."""
    if node[0] in ("name", "text"):
        return node[1] if node[1] not in CONSTANTS and node[1][:4] != "set " else ""
    if node[0] == "call":                # cos C and |AB|, but |x| = 5 is to be solved for x
        inner = title(node[2][0]) if node[1] in ("sin", "cos", "tan", "abs") else ""
        return inner and inner not in "xyz" and f"{node[1]} {inner}" or ""
    if node[0] == "power" and node[2] == MINUS_ONE:
        return title(node[1])
    parts = [title(n) for n in node[-1]] if node[0] in ("tuple", "ratio", "multiply") else [""]
    is_name = all(parts) and (node[0] != "multiply" or "".join(parts).isupper())
    return ",".join(parts) if is_name else ""


def assigned(node: tuple) -> tuple[str, tuple] | None:
    """(name, value) of x = 5, y = f = 2x or 1/2 = 0.5; None for what assigns nothing: 42 = 43."""
    if node[0] != "relation" or not set(node[1]) <= {"=", "~="}:
        return None
    sides, name = list(node[2]), ""
    if len(sides) == 2 and not variables(sides[0]) and title(sides[1]):
        sides.reverse()                                      # 5 = x
    while len(sides) > 1 and title(sides[0]) and not set(variables(sides[0])) & set(
            variables(*sides[1:])):
        name = title(sides.pop(0))
    for other in sides[1:]:                                  # a value may be followed by a rounding
        if variables(*sides):
            return None
        x, y = (MP.convert(evaluate(side, MARKS, False)) for side in (sides[0], other))
        if not (same_expression(sides[0], other) or "~=" in node[1] and abs(x - y) < abs(x) / 100):
            return None
    return name, sides[0]


def same_assigned(a: tuple, b: tuple) -> bool:
    """Assignments and bare values: x = 5, 5; x = 2, y = 1 and (2, 1); x_1 = 2, x_2 = 3, a list."""
    pairs = [assigned(item) or ("", item) for item in (a[1] if a[0] == "list" else [a])]
    values = [value for _, value in pairs]
    if any(node[0] == "relation" for node in walk(values)):
        return False
    names = {name for name, _ in pairs if name}
    if len({re.split(r"[_\d']", name)[0] for name in names}) <= 1:
        return same(values[0] if len(pairs) == 1 else ("list", values), b)
    groups = [n[2] if n[0] == "tuple" else [n] for n in (b[1] if b[0] == "list" else [b])]
    others = [item for group in groups for item in group]
    return len(others) == len(values) and {len(group) for group in groups} <= {1, len(names)} and \
        all(map(same, values, others))


def constant(node: tuple):
    """A real number, rounded so that ends of intervals that are equal are identical."""
    value = MP.j if variables(node) else MP.convert(evaluate(node, MARKS, False))
    if isinstance(value, MP.mpc):
        raise Unreadable("not a number")
    return MP.make_mpf(mpmath.libmp.mpf_pos(value._mpf_, 300, "n"))          # of 332 bits


def is_in(node: tuple, x) -> bool:
    """Is x in this set of real numbers: an interval, {1, 2}, x < 3, a union ...?"""
    kind, content = node[0], node[1]
    if node == ("name", "set R"):
        return True
    if kind in ("cup", "cap", "setminus", "list"):
        first, *rest = [is_in(child, x) for child in content]
        return {"cap": all([first, *rest]), "setminus": first and not any(rest)}.get(
            kind, any([first, *rest]))
    if kind == "set":
        return x in map(constant, content)
    if kind == "tuple" and len(node[2]) == 2:
        low, high = map(constant, node[2])
        if low < high:
            return (low < x < high or content[0] == "[" and x == low
                    or content[1] == "]" and x == high)
    if kind == "relation" and [bool(title(side)) for side in node[2]].count(True) == 1:
        if content == ["in"]:
            return is_in(node[2][1], x)
        sides = [x if title(side) else constant(side) for side in node[2]]
        holds = {"<": MP.mpf.__lt__, "<=": MP.mpf.__le__, ">": MP.mpf.__gt__, ">=": MP.mpf.__ge__,
                 "!=": MP.mpf.__ne__}
        if set(content) <= holds.keys():
            return all(holds[op](u, v) for op, u, v in zip(content, sides, sides[1:]))
    raise Unreadable("not a set of numbers")


def ends(node: tuple) -> list:
    """All numbers at which membership may change."""
    if node[0] in ("cup", "cap", "setminus", "list"):
        return [end for child in node[1] for end in ends(child)]
    if node[0] in ("set", "tuple"):
        return [constant(child) for child in node[-1]]
    if node[0] == "relation":
        return [end for side in node[2] for end in ends(side)]
    return [] if title(node) or node[0] == "name" and node[1] == "set R" else [constant(node)]


def same_set(a: tuple, b: tuple) -> bool:
    """Equal membership at, between and beyond all ends, which decides for unions of intervals."""
    names = [set(variables(side)) - {"?"} for side in (a, b)]
    if all(names) and names[0] != names[1]:
        return False
    marks = sorted({end for end in ends(a) + ends(b) if abs(end) < MP.inf}) or [MP.zero]
    tests = [marks[0] - 1, *marks, *((x + y) / 2 for x, y in zip(marks, marks[1:])), marks[-1] + 1]
    return all([is_in(a, x) == is_in(b, x) for x in tests])


def same_items(a: list, b: list) -> bool:
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


def is_same(a: tuple, b: tuple) -> bool:
    """same, where what has no value is not the same."""
    try:
        return same(a, b)
    except (ValueError, ArithmeticError):
        return False


def rows_of(node: tuple, is_vector: bool) -> list:
    """The rows of a matrix or of a tuple of tuples; a tuple, and a row next to one, is a column."""
    if node[0] not in ("matrix", "tuple"):
        raise Unreadable("not a matrix")
    rows = node[1] if node[0] == "matrix" else [n[2] if n[0] == "tuple" else [n] for n in node[2]]
    return [[cell] for cell in rows[0]] if len(rows) == 1 and is_vector else rows


def same(a: tuple, b: tuple) -> bool:
    """Do two parsed answers mean the same?"""
    kinds = {a[0], b[0]}
    if a == b:
        return a[1] != ""
    relations = [any(n[0] == "relation" for n in walk(node)) for node in (a, b)]
    if relations[0] != relations[1] and same_assigned(*((a, b) if relations[0] else (b, a))):
        return True
    if "text" in kinds or "based" in kinds:
        return False
    if "matrix" in kinds:
        rows, others = (rows_of(node, "tuple" in kinds) for node in (a, b))
        return [*map(len, rows)] == [*map(len, others)] and all(
            same(x, y) for row, other in zip(rows, others) for x, y in zip(row, other))
    if kinds == {"tuple"} and (len(a[2]) > 2 or a[1] == b[1]):
        return len(a[2]) == len(b[2]) and all(map(same, a[2], b[2]))
    if kinds == {"ratio"} and len(a[1]) == len(b[1]):
        return all(same_expression(combine("/", x, a[1][0]), combine("/", y, b[1][0]))
                   for x, y in zip(a[1], b[1]))
    if kinds <= {"list", "set"} and (same_items(a[1], b[1]) or not any(relations)):
        return same_items(a[1], b[1])
    if kinds == {"list", "tuple"}:       # 1, 2, 3 may stand for (1, 2, 3), but not 0, 1 for (0, 1)
        return len(a[-1]) == len(b[-1]) > 2 and all(map(same, a[-1], b[-1]))
    if kinds == {"relation"}:
        pairs = assigned(a), assigned(b)
        if all(pairs) and pairs[0][0] == pairs[1][0]:
            return same(pairs[0][1], pairs[1][1])
        if same_relation(a, b):
            return True
    for node, other in ((a, b), (b, a)):
        if node[0] == "set" and len(node[1]) == 1 and is_same(node[1][0], other):
            return True
    if kinds & {"tuple", "set", "cup", "cap", "setminus", "list", "relation"} or \
            ("name", "set R") in (a, b):
        return same_set(a, b)
    return same_expression(a, b)


# ---- verdict -------------------------------------------------------------------------------------

CHOICE = re.compile(r"\W*(?:option|choice|answer)?\W*([A-J])\W*", re.I)
CHOICE_TEXT = re.compile(           # C. the third one
    r"\s*(?:\(([A-Ja-j])\)|([A-J])[.:)])\s*(?!.*\([A-J]\))\S.*", re.S)
LAYOUT = re.compile(r"\\(?:text|mathrm|rm|bf)(?![a-zA-Z])|[{}$\s~*]|\\[,;! ]")
THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)")
UNIT = re.compile(r"(?<=\d) +[mgsLhNJWVKC](?:/[smhL])?(?:\^\{?\d\}?)?$|\\circ\s*[CFK]$")


def choice_letter(text: str) -> tuple[str, bool]:
    r"""The letter of a multiple-choice answer and whether it is alone: B, (b), B. five."""
    if len(text) > 200:                  # the pattern takes quadratic time
        return "", False
    plain = LAYOUT.sub(" ", text)
    alone = CHOICE.fullmatch(plain)
    match = alone or CHOICE_TEXT.match(plain)
    return next(filter(None, match.groups())).upper() if match else "", bool(alone)


def parse_signs(tokens: list) -> tuple:
    """The tree of all tokens; each item with +- becomes its values."""
    places = [i for i, token in enumerate(tokens) if token in (("op", "+-"), ("op", "-+"))]
    # The signs go together next to -+ and in tuples; elsewhere each is free.
    in_tuple = ("op", "(") in tokens and ("op", ",") in tokens
    if ("op", "-+") in tokens or len(places) > 4 or in_tuple:
        signs = [(sign,) * len(places) for sign in "+-"]
    else:
        signs = itertools.product("+-", repeat=len(places))
    variants = []
    for choice in signs if places else [()]:
        stack = list(tokens)
        for i, sign in zip(places, choice):
            stack[i] = ("op", sign if tokens[i][1] == "+-" else "-+"["-+".index(sign) - 1])
        stack.reverse()
        node = parse(stack, 0)
        if stack:
            raise Unreadable(f"unexpected {stack[-1][1]}")
        variants.append(node[1] if node[0] == "list" else [node])
    values = [node for i, _ in enumerate(variants[0]) for k, node in enumerate(
        variant[i] for variant in variants) if node not in [other[i] for other in variants[:k]]]
    if not 0 < len(values) <= MAX_ITEMS:
        raise Unreadable("too many items" if values else "nothing in it")
    return values[0] if len(values) == 1 else ("list", values)


@functools.lru_cache(4096)
def readings(text: str) -> list[tuple]:
    """The trees of a normalised answer, at least one: "100,200" is a number and a list."""
    texts, match = [text], THOUSANDS.search(text)
    if match and not re.search(r"[(\[]|\\\{", text[:match.start()]):
        joined = THOUSANDS.sub(lambda thousands: thousands[0].replace(",", ""), text)
        texts = [joined, text] if ",0" not in match[0] else [joined]
    return [parse_signs(tokenize(reading)) for reading in texts]


def judge(predicted: str, ground_truth: str) -> tuple[bool, str]:
    """(right?, the rule that decided) for two bare answers."""
    predicted, ground_truth = str(predicted), str(ground_truth)
    if max(len(predicted), len(ground_truth)) > MAX_ANSWER:  # a cut could hide "or 43"
        return False, "unparsable: too long"
    a, b = normalise(predicted), normalise(ground_truth)
    if not a or not b:
        return False, "empty"
    if re.sub(r"(?<!\d) | (?!\d)", "", a) == re.sub(r"(?<!\d) | (?!\d)", "", b):
        return True, "same text"
    (letter, alone), (gold_letter, gold_alone) = choice_letter(a), choice_letter(b)
    if letter and gold_letter and (alone or gold_alone):
        return letter == gold_letter, "multiple choice"
    if text_key(a) == text_key(b) and re.fullmatch(r"[a-z]{2,}", text_key(a)) and not re.search(
            r"[-+*/^_=<>(),]|\\(?!text)", a + b):
        return True, "same words"
    if not re.search("[a-zA-Z]", b):
        a = UNIT.sub("", a)                                  # "5 m" where the gold has no names
    try:
        pairs = list(itertools.product(readings(a), readings(b)))
    except (Unreadable, RecursionError) as error:
        return False, f"unparsable: {error}"
    return (True, "same value") if any(is_same(x, y) for x, y in pairs) else (False, "wrong")


def parses(ground_truth: str) -> bool:
    """Can this gold be graded by more than its text?  Data loaders report those that cannot."""
    text = normalise(str(ground_truth)[:MAX_ANSWER])
    try:
        return bool(choice_letter(text)[0] or readings(text))
    except (Unreadable, RecursionError):
        return False


STRICT_REWRITES = [(re.compile(pattern), new) for pattern, new in [
    (r"\n|\\!", ""), (r"\\\\", r"\\"), (r"[td]frac", "frac"), (r"\\text\{ .*", ""), (r"\\?%", ""),
    (r"\\left|\\right|\^\{\\circ\}|\^\\circ|\\\$", ""), (r"([ {]|^)\.", r"\g<1>0."),
    (r"^[^=]{0,2}=([^=]*)$", r"\1"), (r"\\sqrt([^{])", r"\\sqrt{\1}"), (r" ", ""),
    (r"\\frac([^{])([^{])", r"\\frac{\1}{\2}"), (r"\\frac([^{])\{", r"\\frac{\1}{"),
    (r"^0\.5$", r"\\frac{1}{2}"), (r"^(-?\d+)/(-?\d+)$", r"\\frac{\1}{\2}")]]


def equal_strict(predicted: str, ground_truth: str) -> bool:
    """Equal strings after the rewrites of the MATH grader (Hendrycks et al., arXiv 2103.03874)."""
    forms = [str(predicted), str(ground_truth)]
    if max(map(len, forms)) > MAX_ANSWER:
        return False
    for pattern, new in STRICT_REWRITES:
        forms = [pattern.sub(new, form) for form in forms]
    return forms[0] == forms[1]


def equal(predicted: str, ground_truth: str, strict: bool = False) -> bool:
    """Do two bare answers mean the same?  False, never an error, for any text."""
    return equal_strict(predicted, ground_truth) if strict else judge(predicted, ground_truth)[0]


def grade_answer(answer: str, ground_truth: str, strict: bool) -> tuple[float, str]:
    judged = (equal_strict(answer, ground_truth), "") if strict else judge(answer, ground_truth)
    right, rule = judged
    return float(right), "right" if right else "wrong" if rule[:3] != "unp" else "unparsable"


def verdict(response: str, ground_truth: str, loose: bool = False,
            strict: bool = False) -> tuple[float, str]:
    """score, and "right", "wrong", "unparsable", "no answer", "truncated" or "empty box"."""
    answer, reason = find_answer(response, loose)
    return (0.0, reason) if answer is None else grade_answer(answer, ground_truth, strict)


def score(response: str, ground_truth: str, loose: bool = False, strict: bool = False) -> float:
    """1.0 if the response's final answer is right, else 0.0; never an error, for any text."""
    return verdict(response, ground_truth, loose, strict)[0]


# ---- many at once --------------------------------------------------------------------------------

def score_batch(responses: list[str], ground_truths: list[str], counts: dict | None = None,
                loose: bool = False, strict: bool = False, workers: int | None = None,
                seconds: float = 5.0) -> list[float]:
    """score of each pair.  `counts` gets how often each reason of `verdict` occurred.

    The limits make grading here safe and fast, so small batches stay in this process.  From 256
    answers on, or with `workers`, processes grade: an answer that takes its worker longer than
    `seconds`, or whose worker is killed, scores 0 as "timed out" or "crashed", and no other does.
    """
    if len(responses) != len(ground_truths):
        raise ValueError(f"{len(responses)} responses but {len(ground_truths)} ground truths: "
                         "give one ground truth for each response")
    if workers is None:
        workers = min(4, os.cpu_count() or 1) if len(responses) >= 256 else 0
    found = [find_answer(response, loose) for response in responses]
    jobs = [(answer[:MAX_ANSWER + 1], str(gold)[:MAX_ANSWER + 1], strict)
            for (answer, _), gold in zip(found, ground_truths) if answer is not None]
    if workers:
        with ThreadPoolExecutor(workers) as pool:
            shares = pool.map(grade_in_worker, [jobs[i::workers] for i in range(workers)],
                              [seconds] * workers)
            rounds = itertools.zip_longest(*shares)
            graded = iter([job for one_round in rounds for job in one_round if job])
    else:
        graded = itertools.starmap(grade_answer, jobs)
    verdicts = [(0.0, reason) if answer is None else next(graded) for answer, reason in found]
    for _, reason in verdicts if counts is not None else ():
        counts[reason] = counts.get(reason, 0) + 1
    return [value for value, _ in verdicts]


def grade_in_worker(jobs: list[tuple], seconds: float) -> list[tuple[float, str]]:
    """grade_answer of each job in a child process, which is replaced when it hangs or dies.

    A plain child instead of multiprocessing: it imports this file only, not the caller's main
    module (with torch), and forks no threads.  A job fits into a pipe's buffer: no write blocks.
    """
    results, failures = [], 0
    while len(results) < len(jobs):
        with subprocess.Popen([sys.executable, os.path.abspath(__file__), "--worker"], bufsize=0,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            started = select.select([child.stdout], [], [], START_SECONDS)[0]
            ready = started and child.stdout.readline()      # it says when it is
            failures = 0 if ready else failures + 1
            if failures == 3:            # not the fault of an answer
                raise RuntimeError("three workers did not start: grade with workers=0")
            for job in jobs[len(results):] if ready else ():
                try:
                    child.stdin.write(json.dumps(job).encode() + b"\n")
                    in_time = select.select([child.stdout], [], [], seconds)[0]
                    line = child.stdout.readline() if in_time else b""
                except BrokenPipeError:
                    in_time, line = True, b""
                reason = "crashed" if in_time else "timed out"
                results.append(tuple(json.loads(line)) if line else (0.0, reason))
                if not line:
                    break
            child.kill()
    return results


TRICKY = [  # predicted, ground truth, right?
    (r"\frac{2}{4}", "0.5", True), ("0.333333", "1/3", True), ("5.001", "5", False),
    ("50%", "0.5", True), ("50", "0.5", False), (r"1\frac12", "1.5", True), ("1,234", "1234", True),
    ("x=5", "5", True), ("x+3=42", "42", False), (">5", "5", False), ("101_2", "101", False),
    ("3+2x", "2x+3", True), (r"\sqrt{x^2}", "x", False), ("(0,1)", "[0,1]", False),
    ("x<3", r"(-\infty,3)", True), (r"1\pm2", "-1,3", True), (r"9^{9^{9^9}}", "1", False),
    ("__import__('os')", "1", False), ("((((", "((((((", False)]


def explain(text: str, ground_truth: str, loose: bool, strict: bool) -> None:
    """Print what was extracted, how both sides read, and which rule decided."""
    answer, rule = find_answer(text, loose)
    if rule == "no answer" and not loose:
        answer, rule = text, "bare answer"
    print(f"extracted     {answer!r} ({rule})")
    if answer is None:
        return print(f"verdict       not right ({rule})")
    for label, side in (("predicted", answer), ("ground truth", ground_truth)):
        try:
            print(f"{label:13} {normalise(side)!r} reads as {readings(normalise(side))}")
        except (Unreadable, RecursionError) as error:
            print(f"{label:13} {normalise(side)!r} cannot be read: {error}")
    right, rule = judge(answer, ground_truth)
    if strict:
        right, rule = equal_strict(answer, ground_truth), "strict"
    print(f"verdict       {'right' if right else 'not right'} ({rule})")


def main() -> None:
    parser = argparse.ArgumentParser(description="Explain a verdict; no arguments: tricky answers. "
                                     "Put -- before an answer that begins with a minus.")
    parser.add_argument("predicted", nargs="?", help="a bare answer, or a response with a box")
    parser.add_argument("ground_truth", nargs="?", help="the right answer")
    parser.add_argument("--loose", action="store_true", help="accept <answer>, ####, 'answer is'")
    parser.add_argument("--strict", action="store_true", help="the string rules of MATH's grader")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:                      # a job per line in, a verdict per line out
        print("ready", flush=True)
        for line in sys.stdin:
            print(json.dumps(grade_answer(*json.loads(line))), flush=True)
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
