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
TOKEN = re.compile(r"""(?P<number>(?:\d+\.\d*|\d+|\.\d+)(?:[eE][+-]?\d+(?![\w.]))?)
    | \\text\s?\{(?P<words>[^{}]*)\} | \\mathrm\s?\{(?P<roman>[^{}\\]*)\} | \\(?P<command>[a-zA-Z]+) | (?P<letters>[a-zA-Z]+)
    | (?P<brace>\\[{}]) | \\?(?P<percent>%) | (?P<row>\\\\|\\cr|\\(?=[-\d.]))
    | (?P<symbol><=|>=|!=|==|:=|\*\*|\+/-|\+-|[-+*/^_=<>()\[\]{}|!,;:&']) | (?P<space>\s+|\#)""", re.X)
SYMBOLS = {"==": "=", ":=": "=", "**": "^", "+/-": "+-"}
RELATIONS = ("=", "~=", "!=", "<=", ">=", "<", ">", "in")


def tokenize(text: str) -> list[tuple[str, str, bool]]:
    """(kind, value, preceded by space) of each token; kinds: number, name, function, word, op."""
    tokens, position, spaced = [], 0, False
    while position < len(text):
        match = TOKEN.match(text, position)
        if not match or len(tokens) > MAX_TOKENS:
            raise Unreadable(f"cannot read {text[position:position + 20]!r}" if not match else "too many tokens")
        position, kind, value = match.end(), match.lastgroup, match[match.lastgroup]
        if kind == "space":
            spaced = True
            continue
        after_number = bool(tokens) and tokens[-1][0] == "number"
        if kind == "command":
            # Some data sets lost their spaces: \cotx is \cot x.
            if not (prefix := COMMAND_PREFIX.match(value)):
                raise Unreadable(f"unknown command \\{value}")
            position -= len(value) - prefix.end()
            new = [name_token(prefix[0])]
        elif kind in ("words", "roman"):
            new = word_tokens(value.strip(" ~"), after_number or kind == "words")
        elif kind == "letters":
            new = letter_tokens(value)
        else:
            new = [(kind if kind == "number" else "op", SYMBOLS.get(value, value))]
        for kind, value in new:
            tokens.append((kind, value, spaced))
            spaced = False
    return tokens


def name_token(name: str) -> tuple[str, str]:
    if name in SPELLINGS:
        return "op", SPELLINGS[name]
    return ("function", name) if name in FUNCTIONS else ("name", CONSTANTS.get(name, name))


def word_tokens(content: str, is_text: bool) -> list[tuple[str, str]]:
    r"""Tokens of \text{content} or \mathrm{content}; "and", "or" and commas stay separators."""
    words = re.sub(r"\\[a-zA-Z]*", " ", content).strip()
    if words.lower().strip(" ,") in ("and", "or", ",", "percent", "pm"):
        return letter_tokens(words.lower().strip(" ,")) if words.strip(" ,") else [("op", ",")]
    if words in FUNCTIONS or (not is_text and len(words) == 1):
        return [name_token(words)]
    return [("word", words)] if text_key(words) else []


def letter_tokens(run: str) -> list[tuple[str, str]]:
    """A run of letters is a word, or a product of names: xcosx, pi, ab."""
    if run in ("or", "and"):
        return [("op", run)]
    if run.lower() in ("percent", "pct"):
        return [("op", "%")]
    parts = [part for part in re.split(f"({NAME_PARTS.pattern})", run) if part]
    singles = [part for part in parts if not NAME_PARTS.fullmatch(part)]
    longest = max((len(part) for part in singles), default=0)
    product = longest <= 2 or (longest <= 4 and (run == "".join(sorted(run)) or not set(run.lower()) & set("aeiou")))
    if run.lower() in SHORT_WORDS or not product or len(singles) > 2:
        return [("word", run)]
    return [token for part in parts for token in
            ([name_token(part)] if NAME_PARTS.fullmatch(part) else [("name", letter) for letter in part])]


def peek(tokens: list) -> str:
    """The next token's value if it is an operator; the token list is a stack, next token last."""
    return tokens[-1][1] if tokens and tokens[-1][0] == "op" else ""


def expect(tokens: list, *values: str) -> None:
    if peek(tokens) not in values:
        raise Unreadable(f"expected {' or '.join(values)}, found {tokens[-1][1] if tokens else 'the end'!r}")
    tokens.pop()


def split_items(tokens: list) -> list[list]:
    """Cut a token list (in reading order) at the separators outside all brackets."""
    items, depth = [[]], 0
    for token in tokens:
        is_op = token[0] == "op"
        if is_op and token[1] in ("(", "[", "{", "\\{", "begin", "lfloor", "lceil"):
            depth += 1
        elif is_op and token[1] in (")", "]", "}", "\\}", "end", "rfloor", "rceil"):
            depth -= 1
        if is_op and depth <= 0 and token[1] in (",", ";", "or", "and"):
            items.append([])
        else:
            items[-1].append(token)
    if len(items) > MAX_ITEMS:
        raise Unreadable("too many items")
    return [item for item in items if item]


def parse_items(tokens: list, depth: int) -> list:
    """The nodes of a comma list given in reading order; an item with +- gives one node per sign."""
    if depth > MAX_DEPTH:
        raise Unreadable("nested too deeply")
    nodes = []
    for item in split_items(tokens):
        nodes += [parse_item(signed[::-1], depth) for signed in choose_signs(item)]
    return nodes


def choose_signs(item: list) -> list[list]:
    """Item with each +- replaced by + and by -; signs go together when -+ occurs or several stand in one tuple."""
    places = [i for i, token in enumerate(item) if token[0] == "op" and token[1] in ("+-", "-+")]
    if not places:
        return [item]
    together = any(item[i][1] == "-+" for i in places) or any(token[1] == "," for token in item) or len(places) > 3
    variants = []
    for number in range(2 if together else 2 ** len(places)):
        variant = list(item)
        for bit, i in enumerate(places):
            minus = bool(number if together else number >> bit & 1) != (item[i][1] == "-+")
            variant[i] = ("op", "-" if minus else "+", item[i][2])
        variants.append(variant)
    return variants


def parse_item(tokens: list, depth: int) -> tuple:
    """item: a chain of relations; one side only is the side itself."""
    while tokens and peek(tokens) == "~=":       # "\approx 8.24"
        tokens.pop()
    sides, relations = [], []
    if peek(tokens) in RELATIONS:                # ">5" says something of a nameless x, and is not 5
        sides.append(("name", "?"))
    else:
        sides.append(parse_ratio(tokens, depth))
    while peek(tokens) in RELATIONS:
        relations.append(tokens.pop()[1])
        sides.append(parse_ratio(tokens, depth))
    if tokens:
        raise Unreadable(f"unexpected {tokens[-1][1]!r}")
    return ("relation", relations, sides) if relations else sides[0]


def parse_ratio(tokens: list, depth: int) -> tuple:
    parts = [parse_region(tokens, depth)]
    while peek(tokens) == ":":
        tokens.pop()
        parts.append(parse_region(tokens, depth))
    return ("ratio", parts) if len(parts) > 1 else parts[0]


def parse_region(tokens: list, depth: int) -> tuple:
    node = parse_sum(tokens, depth)
    while peek(tokens) in ("cup", "cap", "setminus"):
        node = (tokens.pop()[1], node, parse_sum(tokens, depth))
    return node


def parse_sum(tokens: list, depth: int) -> tuple:
    terms = []
    while not terms or peek(tokens) in ("+", "-"):
        negative = False
        while peek(tokens) in ("+", "-"):
            negative ^= tokens.pop()[1] == "-"
        term = parse_product(tokens, depth)
        terms.append(multiply([NUMBER(-1), term]) if negative else term)
    return ("add", terms) if len(terms) > 1 else terms[0]


def NUMBER(value) -> tuple:
    return "number", Fraction(value), False


def multiply(factors: list) -> tuple:
    """A product; a scalar times a matrix or tuple goes inside."""
    holders = [f for f in factors if f[0] in ("matrix", "oriented")]
    if len(holders) == 1 and len(factors) > 1:
        scalars = [f for f in factors if f is not holders[0]]
        return holders[0][0], [[multiply([*scalars, cell]) for cell in row] for row in holders[0][1]]
    return ("multiply", factors) if len(factors) > 1 else factors[0]


def starts_atom(tokens: list) -> bool:
    return bool(tokens) and (tokens[-1][0] != "op" or tokens[-1][1] in (
        "(", "[", "{", "\\{", "begin", "lfloor", "lceil", "mathbb", "mathcal", "emptyset", "sum", "int", "prod"))


def parse_product(tokens: list, depth: int, argument: bool = False) -> tuple:
    """product; as a function's `argument` it stops at "*", "/" and the next function: sin 2x cos x."""
    if tokens and tokens[-1][0] == "word":
        return parse_text(tokens)
    factors = [parse_power(tokens, depth)]
    while tokens:
        if tokens[-1][0] == "word":              # a unit: dropped with its power and its "per"
            tokens.pop()
            skip_unit(tokens)
        elif peek(tokens) in ("*", "/") and not argument:
            divide = tokens.pop()[1] == "/"
            sign = 1
            while peek(tokens) in ("-", "+"):
                sign = -sign if tokens.pop()[1] == "-" else sign
            factor = multiply([NUMBER(-1), parse_power(tokens, depth)]) if sign < 0 else parse_power(tokens, depth)
            factors.append(("power", factor, NUMBER(-1)) if divide else factor)
        elif starts_atom(tokens) and not (argument and tokens[-1][0] == "function"):
            if tokens[-1][0] == "number" and len(factors) == 1 and factors[0][0] == "number" and is_mixed(tokens):
                factors = [("add", [factors[0], parse_fraction_of(tokens)])]
                continue
            factor = parse_power(tokens, depth)
            # 1\frac12 is a mixed number; 2\frac{a}{2b} and 2\frac32 are products.
            if len(factors) == 1 and is_whole(factors[0]) and is_proper(factor):
                factors = [("add", [factors[0], factor])]
            else:
                factors.append(factor)
        else:
            break
    return multiply(factors)


def parse_text(tokens: list) -> tuple:
    """text: a word at the start makes everything up to the next relation a text."""
    words = []
    while tokens and peek(tokens) not in RELATIONS:
        words.append(tokens.pop()[1])
    return "text", text_key(" ".join(words))


def skip_unit(tokens: list) -> None:
    if peek(tokens) == "^" and len(tokens) > 1:
        tokens.pop()
        parse_power(tokens, 0)
    if peek(tokens) in ("/", "*") and len(tokens) > 1 and tokens[-2][0] in ("word", "name"):
        del tokens[-2:]
        skip_unit(tokens)


def is_whole(node: tuple) -> bool:
    return node[0] == "number" and node[1].denominator == 1 and not node[2]


def is_proper(node: tuple) -> bool:
    return node[0] == "fraction" and is_whole(node[1]) and is_whole(node[2]) and 0 < node[1][1] < node[2][1]


def is_mixed(tokens: list) -> bool:
    """Next is "1/2" after a whole number and a space."""
    return tokens[-1][2] and len(tokens) > 2 and tokens[-2][:2] == ("op", "/") and tokens[-3][0] == "number"


def parse_fraction_of(tokens: list) -> tuple:
    top, _, bottom = tokens.pop(), tokens.pop(), tokens.pop()
    return "fraction", number_node(top[1]), number_node(bottom[1])


def number_node(text: str) -> tuple:
    """An exact number.  Decimals may be rounded, unless they are all but an integer: 5.000001 is not 5."""
    mantissa, _, exponent = text.lower().partition("e")
    if len(exponent) > 4:
        raise Unreadable("exponent too large")
    value = Fraction(mantissa) * Fraction(10) ** int(exponent or 0)
    return "number", value, value.denominator > 1 and abs(value - round(value)) > DECIMAL_TOLERANCE * abs(value)


def parse_power(tokens: list, depth: int) -> tuple:
    node = parse_atom(tokens, depth + 1)
    while peek(tokens) in ("!", "%", "circ", "'"):
        mark = tokens.pop()[1]
        if mark == "!":
            if node[0] == "call" and node[1] == "factorial":
                raise Unreadable("double factorial")
            node = ("call", "factorial", [node])
        elif mark == "'" and node[0] == "name":
            node = ("name", node[1] + "'")
        else:
            node = ({"%": "percent", "circ": "degree"}.get(mark, "prime"), node)
    if peek(tokens) == "^":
        tokens.pop()
        if [t[1] for t in tokens[:-4:-1]] == ["{", "'", "}"] and node[0] == "name":
            del tokens[-3:]
            return "name", node[1] + "'"
        negative = False
        while peek(tokens) in ("-", "+"):
            negative ^= tokens.pop()[1] == "-"
        exponent = parse_power(tokens, depth + 1)
        node = ("power", node, multiply([NUMBER(-1), exponent]) if negative else exponent)
        return ("degree", node) if peek(tokens) == "circ" and tokens.pop() else node
    return node


def parse_group(tokens: list, depth: int, close: str, open_: str) -> list:
    """The nodes up to the closing bracket; `tokens` stands after the opening one."""
    inside, level = [], 1
    while tokens:
        token = tokens.pop()
        if token[0] == "op" and token[1] in close:
            level -= 1
            if level == 0:
                tokens.append(token)
                break
        if token[0] == "op" and token[1] in open_:
            level += 1
        inside.append(token)
    else:
        raise Unreadable("bracket not closed")
    return inside


BRACKETS = {"(": ((")", "]"), ("(", "[")), "[": ((")", "]"), ("(", "[")), "{": (("}",), ("{",)),
            "\\{": (("\\}",), ("\\{",)), "lfloor": (("rfloor",), ("lfloor",)), "lceil": (("rceil",), ("lceil",))}


def parse_atom(tokens: list, depth: int) -> tuple:
    if depth > MAX_DEPTH or not tokens:
        raise Unreadable("nested too deeply" if tokens else "an operand is missing")
    kind, value, _ = tokens.pop()
    if kind == "number":
        return parse_based(value, tokens) if peek(tokens) == "_" else number_node(value)
    if kind == "name":
        return parse_name(value, tokens, depth)
    if kind == "function":
        return parse_function(value, tokens, depth)
    if kind == "word":
        return "text", text_key(value)
    if value == "|":
        node = parse_sum(tokens, depth + 1)
        expect(tokens, "|")
        return "call", "abs", [node]
    if value in BRACKETS:
        return parse_bracket(value, tokens, depth)
    if value == "begin":
        return parse_matrix(tokens, depth)
    if value in ("mathbb", "mathcal"):
        return "name", "set " + flat(parse_script(tokens))
    if value == "emptyset":
        return "set", []
    if value in ("sum", "int", "prod"):
        return parse_name(value, tokens, depth, bounds=True)
    raise Unreadable(f"unexpected {value!r}")


def parse_script(tokens: list) -> list:
    """The raw tokens of a sub- or superscript: one token or a group."""
    if not tokens:
        raise Unreadable("an operand is missing")
    token = tokens.pop()
    if token[1] != "{":
        return [token]
    inside = parse_group(tokens, 0, *BRACKETS["{"])
    tokens.pop()
    return inside


def flat(tokens: list) -> str:
    return "".join(token[1] for token in tokens)


def parse_based(digits: str, tokens: list) -> tuple:
    """101_2: a number in base 2 equals only a number in base 2; base 10 is the plain number."""
    tokens.pop()
    base = flat(parse_script(tokens))
    base = {"two": "2", "three": "3", "eight": "8", "ten": "10", "sixteen": "16"}.get(base, base)
    return number_node(digits) if base == "10" else ("based", digits.lstrip("0"), base)


def parse_name(name: str, tokens: list, depth: int, bounds: bool = False) -> tuple:
    """A name with its subscript.  A sum or integral sign with its bounds is one more name in a product."""
    while peek(tokens) == "_" or (bounds and peek(tokens) == "^"):
        mark = tokens.pop()[1]
        name += mark + flat(parse_script(tokens))
    if name[0] in "fghFGHPNpqryuTS" and peek(tokens) == "(" and not bounds:
        inside = parse_group(tokens[:-1], depth, *BRACKETS["("])
        if len(inside) == 1 and inside[0][0] in ("name", "number"):
            del tokens[-3:]
            return "applied", name, ("name", inside[0][1]) if inside[0][0] == "name" else number_node(inside[0][1])
    return "name", name


def parse_function(name: str, tokens: list, depth: int) -> tuple:
    """sin x, sin^2 x, sin^{-1} x, log_2 8, \\sqrt[3]{x}, \\frac12, max(1, 2)."""
    if name == "frac":
        top, bottom = parse_digit(tokens, depth), parse_digit(tokens, depth)
        return "fraction", top, bottom
    if name == "binom":
        return "call", name, [parse_digit(tokens, depth), parse_digit(tokens, depth)]
    if name == "sqrt":
        index = NUMBER(2)
        if peek(tokens) == "[":
            tokens.pop()
            index = parse_sum(tokens, depth + 1)
            expect(tokens, "]")
        inside = parse_atom(tokens, depth + 1)
        return "power", inside, ("power", index, NUMBER(-1))
    exponent = base = None
    while peek(tokens) in ("^", "_"):
        if tokens.pop()[1] == "^":
            exponent = parse_signed(tokens, depth)
        else:
            base = parse_atom(tokens, depth + 1)
    if exponent == NUMBER(-1) and name in ("sin", "cos", "tan", "sec", "csc", "cot"):
        name, exponent = "arc" + name, None
    if peek(tokens) in ("(", "{"):
        node = parse_atom(tokens, depth + 1)
        arguments = node[3] if node[0] == "tuple" else [node]
    else:
        arguments = [parse_product(tokens, depth + 1, argument=True)]
    if base is not None:
        arguments = [*arguments, base]
    node = ("call", name.replace("arc", "a"), arguments)
    return ("power", node, exponent) if exponent is not None else node


def parse_signed(tokens: list, depth: int) -> tuple:
    if peek(tokens) == "-":
        tokens.pop()
        return NUMBER(-parse_atom(tokens, depth + 1)[1])
    node = parse_atom(tokens, depth + 1)
    if node[0] == "multiply" and node[1][0] == NUMBER(-1) and is_whole(node[1][1]):
        return NUMBER(-node[1][1][1])
    return node


def parse_digit(tokens: list, depth: int) -> tuple:
    r"""An argument of \frac: a group or one character, so \frac12 is 1/2."""
    if tokens and tokens[-1][0] == "number" and len(tokens[-1][1]) > 1:
        kind, digits, spaced = tokens.pop()
        tokens.append((kind, digits[1:], False))
        return number_node(digits[0])
    return parse_atom(tokens, depth + 1)


def parse_bracket(open_: str, tokens: list, depth: int) -> tuple:
    inside = parse_group(tokens, depth, *BRACKETS[open_])
    close = tokens.pop()[1]
    if open_ == "\\{":
        return parse_set(inside, depth)
    nodes = parse_items(inside, depth + 1)
    if len(nodes) == 1:
        if nodes[0][0] == "relation" and open_ != "{":
            raise Unreadable("a relation in brackets")
        if open_ in ("lfloor", "lceil"):
            return "call", "floor" if open_ == "lfloor" else "ceil", nodes
        return nodes[0] if nodes[0][0] != "fraction" else ("multiply", [nodes[0]])
    if not nodes and open_ == "{":
        return "text", ""
    return ("set", nodes) if open_ == "{" else ("tuple", open_, close, nodes)


def parse_set(inside: list, depth: int) -> tuple:
    r"""\{1, 2\}, or \{x : x > 3\}, which is its condition."""
    for i, token in enumerate(inside):
        if token[0] == "op" and token[1] in ("|", ":") and inside[0][0] == "name" and 1 <= i:
            conditions = [n for n in parse_items(inside[i + 1:], depth + 1)
                          if not (n[0] == "relation" and n[2][-1] == ("name", "set R"))]
            if len(conditions) == 1 and conditions[0][0] == "relation":
                return conditions[0]
            break
    return "set", parse_items(inside, depth + 1)


def parse_matrix(tokens: list, depth: int) -> tuple:
    r"""\begin{pmatrix} a & b \\ c & d \end{pmatrix}."""
    environment = flat(parse_script(tokens))
    if "matrix" not in environment and environment != "array":
        raise Unreadable(f"unknown environment {environment}")
    if environment == "array":
        parse_script(tokens)                     # column layout
    rows, cell = [[]], []
    while peek(tokens) != "end":
        if not tokens:
            raise Unreadable("matrix not closed")
        token = tokens.pop()
        if token[0] == "op" and token[1] in ("&", "\\\\", "\\", "\\cr"):
            rows[-1].append(cell)
            cell = []
            if token[1] != "&":
                rows.append([])
        else:
            cell.append(token)
    tokens.pop()
    parse_script(tokens)
    if cell:
        rows[-1].append(cell)
    rows = [row for row in rows if row]
    if not rows or len({len(row) for row in rows}) > 1:
        raise Unreadable("ragged matrix")
    kind = "determinant" if environment.startswith("v") else "matrix"
    return kind, [[parse_item(cell[::-1], depth + 1) for cell in row] for row in rows]


# ---- 4. compare ----------------------------------------------------------------------------------

@functools.cache
def context():
    """mpmath with 100 digits in a context of its own, whose precision nothing changes: safe in threads."""
    numbers = mpmath.MPContext()
    numbers.dps = 100
    return numbers


def real(value):
    """A Fraction as a 100-digit number; anything else as it is."""
    return context().mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def power(base, exponent, is_real: bool):
    """base ** exponent; exact while small, the real root of a negative base if there is one."""
    if isinstance(exponent, Fraction) and exponent.denominator == 1 and isinstance(base, Fraction):
        if base == 0 and exponent < 0:
            raise Undefined("division by zero")
        if abs(exponent) * max(base.numerator.bit_length(), base.denominator.bit_length()) > MAX_BITS and abs(base) != 1:
            raise Unreadable("a power is too large")
        return base ** int(exponent)
    numbers, exact, base, exponent = context(), exponent, real(base), real(exponent)
    if base == 0:
        if not exponent.real > 0:
            raise Undefined("zero to the power of zero or less")
        return Fraction(0)
    if abs(exponent) * (abs(numbers.mag(base)) + 1) > 10 * MAX_BITS:
        raise Unreadable("a power is too large")
    if isinstance(base, numbers.mpf) and base < 0 and isinstance(exact, Fraction) and exact.denominator > 1:
        if exact.denominator % 2:
            return (-1) ** (exact.numerator % 2) * numbers.power(-base, exponent)
    if is_real and isinstance(base, numbers.mpf) and base < 0 and not (
            isinstance(exact, Fraction) and exact.denominator == 1):
        raise Undefined("power of a negative number")
    return numbers.power(base, exponent)


def whole(value) -> int:
    """The integer that the value is, for factorials and the like."""
    if not isinstance(value, Fraction) or value.denominator > 1:
        raise Undefined("not an integer")
    return int(value)


def rounded(value, up: bool) -> Fraction:
    if not isinstance(value, Fraction):
        near = context().nint(real(value).real)
        # sqrt(16) carried with 100 digits may lie just below 4.
        value = near if abs(value - near) < SAME else value
        return Fraction(int(context().ceil(value) if up else context().floor(value)))
    return Fraction(-(-value.numerator // value.denominator) if up else value.numerator // value.denominator)


def factorial(n):
    if isinstance(n, Fraction) and n.denominator == 1:
        if not 0 <= n <= 1500:                   # 1500! has 13,700 bits
            raise Unreadable("factorial too large")
        return Fraction(mpmath.libmp.ifac(int(n)))
    if abs(n) > 1000:
        raise Unreadable("factorial too large")
    return context().factorial(real(n))


def call(name: str, values: list, is_real: bool):
    """A function of the whitelist."""
    numbers = context()
    if name == "abs":
        return abs(values[0])
    if name in ("floor", "ceil"):
        return rounded(values[0], name == "ceil")
    if name == "factorial":
        return factorial(values[0])
    if name == "binom":
        n, k = values
        return factorial(n) / (real(factorial(k)) * factorial(n - k)) if not isinstance(n, Fraction) or not \
            isinstance(k, Fraction) or n.denominator > 1 or k.denominator > 1 else Fraction(factorial(n), factorial(k) * factorial(n - k))
    if name in ("gcd", "lcm"):
        return Fraction(getattr(__import__("math"), name)(*map(whole, values)))
    if name in ("max", "min"):
        return (max if name == "max" else min)(values, key=real)
    x = real(values[0])
    if abs(numbers.mag(x) if x else 0) > 200:
        raise Unreadable("argument too large")
    if name == "exp":
        return power(numbers.e, values[0], is_real)
    if name in ("ln", "log", "lg"):
        if x == 0 or (is_real and isinstance(x, numbers.mpf) and x < 0):
            raise Undefined("logarithm of zero or less")
        base = real(values[1]) if len(values) > 1 else numbers.mpf(10) if name == "lg" else numbers.e
        if base in (0, 1):
            raise Undefined("logarithm base")
        return numbers.ln(x) / numbers.ln(base)
    inverse = {"asec": "acos", "acsc": "asin", "acot": "atan"}
    if name in inverse:
        name, x = inverse[name], 1 / x
    if name in ("asin", "acos") and is_real and abs(x) > 1:
        raise Undefined("arc function")
    if name in ("sec", "csc", "cot"):
        name = {"sec": "cos", "csc": "sin", "cot": "tan"}[name]
        value = getattr(numbers, name)(x)
        if abs(value) < SAME:
            raise Undefined("pole")
        return 1 / value
    return getattr(numbers, name)(x)


def evaluate(node: tuple, point: dict, is_real: bool):
    """The value of an expression with names replaced by `point`: a Fraction while exact, else a 100-digit number."""
    kind = node[0]
    if kind == "number":
        return node[1]
    if kind == "name":
        constants = {"pi": context().pi, "e": context().e, "i": context().j, "oo": context().inf}
        return +constants[node[1]] if node[1] in constants else point[node[1]]
    if kind in ("add", "multiply"):
        values = [evaluate(child, point, is_real) for child in node[1]]
        result = values[0]
        for value in values[1:]:
            if not (isinstance(result, Fraction) and isinstance(value, Fraction)):
                result, value = real(result), real(value)
            result = result + value if kind == "add" else result * value
            if isinstance(result, Fraction) and result.numerator.bit_length() + result.denominator.bit_length() > 2 * MAX_BITS:
                raise Unreadable("a number is too large")
        return result
    if kind == "fraction":
        return evaluate(("multiply", [node[1], ("power", node[2], NUMBER(-1))]), point, is_real)
    if kind == "applied":
        return evaluate(("multiply", [("name", node[1]), node[2]]), point, is_real)
    if kind == "power":
        return power(evaluate(node[1], point, is_real), evaluate(node[2], point, is_real), is_real)
    if kind == "degree":
        return evaluate(node[1], point, is_real)
    if kind == "percent":
        return evaluate(node[1], point, is_real) / 100
    if kind == "ratio" and len(node[1]) == 2:
        return evaluate(("fraction", *node[1]), point, is_real)
    if kind == "call":
        values = [evaluate(child, point, is_real) for child in node[2]]
        if node[1] in ("sin", "cos", "tan", "sec", "csc", "cot") and "degree" in str(node[2]):
            values[0] = real(values[0]) * context().pi / 180
        return call(node[1], values, is_real)
    raise Unreadable(f"no value: {kind}")


def walk(node):
    """All nodes below and including this one."""
    if isinstance(node, tuple):
        if node and isinstance(node[0], str):
            yield node
        for child in node[1:]:
            yield from walk(child)
    elif isinstance(node, list):
        for child in node:
            yield from walk(child)


def names(*nodes) -> list[str]:
    found = {n[1] for node in nodes for n in walk(node) if n[0] in ("name", "applied")}
    return sorted(found - {"pi", "e", "i", "oo"})


def is_decimal(*nodes) -> bool:
    return any(n[0] == "number" and n[2] for node in nodes for n in walk(node))


# Both signs and sizes from 1/1000 to 10: a root, an absolute value or a small term cannot hide.
COORDINATES = [Fraction(n, 1000) for n in (1237, 2871, 413, 3319, 1709, 523, 5011, 2203, 811, 4157, 1453, 3701)]
TRIALS = [(0, 1, "+"), (3, 1, "+"), (5, Fraction(1, 40), "+"), (7, 1, "-"), (2, 1, "+-"), (9, 1, "-+")]


def points(variables: list[str]):
    for shift, scale, signs in TRIALS if variables else TRIALS[:1]:
        yield {name: COORDINATES[(i + shift) % len(COORDINATES)] * scale * (1 if signs[i % len(signs)] == "+" else -1)
               for i, name in enumerate(variables)}


def values_at_points(nodes: list) -> list[list]:
    """The nodes' values at each point where all are defined, first over the reals, else over the complex numbers."""
    variables = names(*nodes)
    is_complex = not variables or any(n == ("name", "i") for node in nodes for n in walk(node))
    for is_real in ([False] if is_complex else [True, False]):
        rows = []
        for point in points(variables):
            try:
                rows.append([evaluate(node, point, is_real) for node in nodes])
            except (Undefined, ZeroDivisionError):
                continue
        if len(rows) >= (2 if variables else 1):
            return rows
    raise Unreadable("no value")


def same_value(a, b, decimal: bool) -> bool:
    """Exact equality; within the tolerance if one side is a decimal and neither is an integer."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        if a == b:
            return True
    else:
        x, y = real(a), real(b)
        if x == y or abs(x - y) <= SAME * max(abs(x), abs(y)) or max(abs(x), abs(y)) < SAME:
            return True
    if not decimal or any(isinstance(v, Fraction) and v.denominator == 1 for v in (a, b)):
        return False
    return bool(abs(real(a) - real(b)) <= real(DECIMAL_TOLERANCE) * max(abs(real(a)), abs(real(b))))


def same_expression(a: tuple, b: tuple) -> bool:
    if a == b:
        return True
    decimal = is_decimal(a, b)
    return all(same_value(x, y, decimal) for x, y in values_at_points([a, b]))


def same_up_to_factor(a: tuple, b: tuple, positive: bool) -> bool:
    """Is a = c * b for one constant c, not 0 (and above 0 if `positive`)?"""
    if names(a) != names(b):
        return False
    decimal, factor = is_decimal(a, b), None
    for x, y in values_at_points([a, b]):
        if not x or not y:
            if x or y:
                return False
            continue
        ratio = x / y if isinstance(x, Fraction) and isinstance(y, Fraction) else real(x) / real(y)
        if factor is not None and not same_value(ratio, factor, decimal):
            return False
        factor = ratio
    return factor is not None and (not positive or real(factor).real > 0)


def difference(sides: list) -> tuple:
    return "add", [sides[0], multiply([NUMBER(-1), sides[1]])]


def named(node: tuple) -> str | None:
    """The name on the left of an assignment: x, f(x), AB, A:B, (p, q)."""
    if node[0] == "name" and node[1] not in ("pi", "e", "i", "oo"):
        return node[1]
    if node[0] == "applied" and node[2][0] == "name":
        return f"{node[1]}({node[2][1]})"
    if node[0] == "call" and node[1] == "abs":
        return named(node[2][0])
    if node[0] == "text":
        return node[1]
    children = node[3] if node[0] == "tuple" else node[1] if node[0] in ("ratio", "multiply") else ()
    parts = [named(child) for child in children]
    if not parts or None in parts or (node[0] == "multiply" and not "".join(parts).isupper()):
        return None
    return ":".join(parts) if node[0] == "ratio" else ",".join(parts)


def assignment(node: tuple) -> tuple[str, tuple] | None:
    """(name, value) of x = 5 or f(x) = y = 2x; None for an equation.  A chain of values must agree."""
    if node[0] != "relation" or set(node[1]) - {"=", "~="}:
        return None
    sides = list(node[2])
    name = ""
    while len(sides) > 1 and (head := named(sides[0])) and head not in names(*sides[1:]):
        name, sides = head, sides[1:]
    if not name and len(sides) == 2 and (tail := named(sides[1])) and not names(sides[0]):
        name, sides = tail, sides[:1]
    about = "~=" in node[1]
    for other in sides[1:]:
        if names(*sides):
            return None
        a, b = (real(evaluate(s, {}, False)) for s in (sides[0], other))
        if not (same_expression(sides[0], other) or (about and abs(a - b) < abs(a) / 100)):
            return None
    return (name, sides[0]) if name or len(node[2]) > 1 and len(sides) > 1 else None


def region(node: tuple) -> tuple[str, list] | None:
    """(variable, parts) of a set of real numbers; each part is (low, high, low closed, high closed)."""
    everything = [(real(Fraction(0)) - context().inf, context().inf, False, False)]
    if node == ("name", "set R"):
        return "", everything
    if node[0] == "tuple" and len(node[3]) == 2:
        low, high = (constant(end) for end in node[3])
        return ("", [(low, high, node[1] == "[", node[2] == "]")]) if real(low) < real(high) else None
    if node[0] == "set":
        return "", [(value, value, True, True) for value in map(constant, node[1])]
    if node[0] in ("cup", "cap", "setminus", "list"):
        operands = [region(child) for child in (node[1] if node[0] == "list" else node[1:])]
        if None in operands:
            return None
        parts = operands[0][1]
        for _, other in operands[1:]:
            other = complement(other) if node[0] == "setminus" else other
            parts = merge(parts + other) if node[0] in ("cup", "list") else \
                complement(merge(complement(parts) + complement(other)))
        return max(name for name, _ in operands), parts
    if node[0] == "relation":
        return relation_region(node[1], node[2], everything)
    return None


def constant(node: tuple):
    """The real number that a node is."""
    if names(node):
        raise Unreadable("not a number")
    value = evaluate(node, {}, False)
    if isinstance(value, context().mpc):
        raise Unreadable("not a real number")
    return value


def relation_region(relations: list, sides: list, everything: list) -> tuple[str, list] | None:
    """x < 3, 3 > x, -2 <= x < 7, x != 3, x in [0, 1]."""
    places = [i for i, side in enumerate(sides) if named(side)]
    if len(places) != 1 or any(names(side) and relations != ["in"] for i, side in enumerate(sides) if i not in places):
        return None
    place, parts = places[0], everything
    if relations == ["in"] and place == 0:
        inner = region(sides[1])
        return inner and (named(sides[0]), inner[1])
    for i, relation in enumerate(relations):
        if place not in (i, i + 1) or relation not in ("<", ">", "<=", ">=", "!="):
            return None
        value = constant(sides[i + 1 if place == i else i])
        closed, below = "=" in relation and relation != "!=", ("<" in relation) == (place == i)
        half = (everything[0][0], value, False, closed) if below else (value, everything[0][1], closed, False)
        new = complement([(value, value, True, True)]) if relation == "!=" else [half]
        parts = complement(merge(complement(parts) + complement(new)))
    return named(sides[place]).replace("?", ""), parts


def merge(parts: list) -> list:
    """The union of intervals as sorted intervals that do not touch."""
    merged = []
    for part in sorted(parts, key=lambda p: (real(p[0]), not p[2])):
        if merged:
            low, high, low_closed, high_closed = merged[-1]
            touch = same_value(high, part[0], False)
            if real(part[0]) < real(high) or (touch and (high_closed or part[2])):
                further = real(part[1]) > real(high) and not same_value(part[1], high, False)
                end = (part[1], part[3]) if further else (
                    high, high_closed or (part[3] and same_value(part[1], high, False)))
                merged[-1] = (low, end[0], low_closed, end[1])
                continue
        merged.append(part)
    return merged


def complement(parts: list) -> list:
    result, low, closed = [], real(Fraction(0)) - context().inf, False
    for part in merge(parts):
        if real(low) < real(part[0]) or (closed and part[2] is False and same_value(low, part[0], False)):
            result.append((low, part[0], closed, not part[2]))
        low, closed = part[1], not part[3]
    if real(low) < context().inf:
        result.append((low, context().inf, closed, False))
    return result


def same_region(a: tuple, b: tuple) -> bool:
    if a[0] and b[0] and a[0] != b[0]:
        return False
    a, b = merge(a[1]), merge(b[1])
    return len(a) == len(b) and all(
        x[2:] == y[2:] and same_value(x[0], y[0], False) and same_value(x[1], y[1], False) for x, y in zip(a, b))


def same_items(a: list, b: list) -> bool:
    """Equal as multisets."""
    rest = list(b)
    for item in a:
        match = next((i for i, other in enumerate(rest) if quietly_same(item, other)), None)
        if match is None:
            return False
        del rest[match]
    return not rest


def quietly_same(a: tuple, b: tuple) -> bool:
    """same, where an item without a value is just not this one."""
    try:
        return same(a, b)
    except (Unreadable, Undefined, ZeroDivisionError):
        return False


def rows_of(node: tuple) -> list | None:
    """A matrix, a vector or a nested tuple as rows of cells; a vector is one column."""
    if node[0] == "matrix":
        return node[1] if len(node[1]) > 1 else [[cell] for cell in node[1][0]]
    if node[0] == "tuple":
        if all(item[0] == "tuple" and len(item[3]) == len(node[3][0][3]) for item in node[3]):
            return [item[3] for item in node[3]]
        return [[cell] for cell in node[3]]
    return None


def same(a: tuple, b: tuple) -> bool:
    """Do two parsed answers mean the same?"""
    if a == b:
        return True
    if "text" in (a[0], b[0]):
        return a[0] == b[0] and a[1] == b[1] and bool(a[1])
    if "matrix" in (a[0], b[0]) and {a[0], b[0]} <= {"matrix", "tuple"}:
        rows, others = rows_of(a), rows_of(b)
        return [len(row) for row in rows] == [len(row) for row in others] and all(
            same(x, y) for row, other in zip(rows, others) for x, y in zip(row, other))
    if "based" in (a[0], b[0]) or "determinant" in (a[0], b[0]):
        return False
    for first, second in ((a, b), (b, a)):
        if (result := same_assigned(first, second)) is not None:
            return result
    if a[0] == b[0] == "tuple":
        brackets = len(a[3]) > 2 or a[1:3] == b[1:3]
        return brackets and len(a[3]) == len(b[3]) and all(map(same, a[3], b[3]))
    if a[0] == b[0] == "ratio" and max(len(a[1]), len(b[1])) > 2:
        return len(a[1]) == len(b[1]) and all(
            same_expression(("fraction", x, a[1][0]), ("fraction", y, b[1][0])) for x, y in zip(a[1], b[1]))
    if a[0] in ("list", "set") and b[0] in ("list", "set"):
        if same_items(a[1], b[1]):
            return True
        if not any(n[0] == "relation" for n in walk([a, b])):
            return False
    if {a[0], b[0]} == {"list", "tuple"}:
        items, other = (a[1], b[3]) if a[0] == "list" else (b[1], a[3])
        return len(items) == len(other) > 2 and all(map(same, items, other))
    if a[0] == b[0] == "relation" and len(a[1]) == len(b[1]) == 1:
        (x, y), (u, v), flip = a[2], b[2], {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
        if a[1] == b[1] and a[1][0] != "in" and same_up_to_factor(
                difference([x, y]), difference([u, v]), a[1][0] not in ("=", "!=")):
            return True
        if flip.get(a[1][0]) == b[1][0] and same_up_to_factor(difference([x, y]), difference([v, u]), True):
            return True
    kinds = ("tuple", "set", "cup", "cap", "setminus", "list", "relation")
    if any(node[0] in kinds or node == ("name", "set R") for node in (a, b)):
        regions = region(a), region(b)
        return None not in regions and same_region(*regions)
    return same_percent(a, b) or same_expression(a, b)


def same_percent(a: tuple, b: tuple) -> bool:
    """50% is 50 and 0.5; without a sign there is no factor of 100."""
    if (a[0] == "percent") == (b[0] == "percent"):
        return False
    return same_expression(a[1], b) if a[0] == "percent" else same_expression(a, b[1])


def same_assigned(a: tuple, b: tuple) -> bool | None:
    """x = 5 against 5, or x = 2, y = 1 against (2, 1); None if `a` assigns nothing that matters here."""
    if a[0] == "list" and a[1] and a[1][0][0] == "relation":
        pairs = [assignment(item) for item in a[1]]
        if pairs[0] and all(pair or item[0] != "relation" for pair, item in zip(pairs, a[1])):
            values = [pair[1] if pair else item for pair, item in zip(pairs, a[1])]
            titles = [pair[0] if pair else "" for pair in pairs]
            if any(item[0] == "relation" for item in (b[1] if b[0] in ("list", "set") else [b])):
                return None
            letters = {re.sub(r"[^a-zA-Z].*", "", title) for title in titles if title}
            if len(letters) == 1:                # x_1 = 1, x_2 = 3: the values of one unknown
                return same(("list", values), b)
            items = b[3] if b[0] == "tuple" else b[1] if b[0] == "list" else []
            groups = [items] if b[0] == "tuple" else [i[3] for i in items if i[0] == "tuple"] or [items]
            flat_items = [item for group in groups for item in group]
            ordered = len(set(titles)) == len(groups[0]) if groups else False
            return ordered and len(flat_items) == len(values) and all(map(same, values, flat_items))
        return None
    pair = assignment(a)
    if pair is None or b[0] == "relation" and assignment(b) and assignment(b)[0] and pair[0]:
        if pair and assignment(b)[0] == pair[0]:
            return same(pair[1], assignment(b)[1])
        return None
    if b[0] == "relation" and not assignment(b):
        return None
    return same(pair[1], b)


# ---- the verdict ---------------------------------------------------------------------------------

CHOICE = re.compile(r"\W*(?:option|choice|answer)?\W*([A-Ja-j])\W*", re.I)
CHOICE_TEXT = re.compile(r"\s*(?:\(([A-Ja-j])\)|([A-J])[.:)])\s*\S.*", re.S)
PLAIN = re.compile(r"\\(?:text|textbf|mathrm|mathbf|rm|bf)(?![a-zA-Z])|[{}$\s~]|\\[,;! ]")
THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")


def choice_letter(text: str) -> str | None:
    """The letter of a multiple-choice answer: B, (b), \\text{(B)}, "B. the second"."""
    plain = PLAIN.sub(" ", text)
    match = CHOICE.fullmatch(plain) or CHOICE_TEXT.match(plain)
    return next(group for group in match.groups() if group).upper() if match else None


@functools.lru_cache(4096)
def readings(text: str) -> list[tuple]:
    """The parsed meanings of a normalised answer; "100,200" is a number and a list.  Unreadable if there is none."""
    texts = [text]
    for match in THOUSANDS.finditer(text):
        before = text[:match.start()]
        if sum(map(before.count, "([")) == sum(map(before.count, ")]")) and "\\{" not in before:
            joined = THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)
            texts = [joined] if re.search(r",0\d\d", match[0]) or before.strip() else [joined, text]
            break
    nodes = []
    for candidate in texts:
        tokens = tokenize(candidate)
        items = parse_items(tokens, 0)
        if not items:
            raise Unreadable("no answer in it")
        nodes.append(items[0] if len(items) == 1 else ("list", items))
    return nodes


def judge(predicted: str, ground_truth: str) -> tuple[bool, str]:
    """(right, the rule that decided)."""
    a, b = normalise(predicted), normalise(ground_truth)
    if not a or not b:
        return False, "empty"
    if a.replace(" ", "") == b.replace(" ", ""):
        return True, "same text"
    letters = choice_letter(a), choice_letter(b)
    if letters[1] and letters[0]:
        if CHOICE.fullmatch(PLAIN.sub(" ", a)) or CHOICE.fullmatch(PLAIN.sub(" ", b)):
            return letters[0] == letters[1], "multiple choice"
    words = text_key(a)
    if words == text_key(b) and re.fullmatch(r"[a-z]{3,}", words) and not re.search(r"[-+*/^_=<>\\]", a + b):
        return True, "same words"
    try:
        pairs = [(x, y) for x in readings(a) for y in readings(b)]
    except (Unreadable, Undefined, ArithmeticError, ValueError, RecursionError) as error:
        return False, f"unparsable: {error}"
    for x, y in pairs:
        try:
            if same(x, y):
                return True, "same value"
        except (Unreadable, Undefined, ArithmeticError, ValueError, TypeError, RecursionError):
            continue
    return False, "different"


def equal(predicted: str, ground_truth: str, strict: bool = False) -> bool:
    return equal_strict(predicted, ground_truth) if strict else judge(predicted, ground_truth)[0]


def verdict(response: str, ground_truth: str, loose: bool = False, strict: bool = False) -> tuple[float, str]:
    answer, reason = find_answer(str(response), loose)
    if answer is None:
        return 0.0, reason
    if strict:
        return float(equal_strict(answer, ground_truth)), "strict"
    right, rule = judge(answer, ground_truth)
    return float(right), "right" if right else rule.partition(":")[0].replace("different", "wrong")


def score(response: str, ground_truth: str, loose: bool = False, strict: bool = False) -> float:
    return verdict(response, ground_truth, loose, strict)[0]


def score_batch(responses, ground_truths, counts=None, loose=False, strict=False) -> list[float]:
    results = [verdict(r, g, loose, strict) for r, g in zip(responses, ground_truths, strict=True)]
    for _, reason in results:
        if counts is not None:
            counts[reason] = counts.get(reason, 0) + 1
    return [value for value, _ in results]


def parses(ground_truth: str) -> bool:
    text = normalise(ground_truth)
    try:
        return bool(text) and (choice_letter(text) is not None or bool(readings(text)))
    except (Unreadable, ArithmeticError, ValueError, RecursionError):
        return False


def equal_strict(predicted: str, ground_truth: str) -> bool:
    return predicted.replace(" ", "") == ground_truth.replace(" ", "")
