r"""The grammar and arithmetic of answers: tokens -> tree -> values -> comparison.

A tree is (operator, children), a leaf (kind, value).  The grammar, loosest first:

    answer   = relation {("," | ";" | "or" | "and") relation}   a bare list is unordered
    relation = ratio {("=" | "<" | "!=" | "in" ...) ratio}       x = 5 is 5; x < 3 is (-inf, 3)
    ratio    = set {":" set}
    set      = sum {("cup" | "cap" | "setminus") sum}
    sum      = product {("+" | "-" | "+-") product}              +- stands for both values
    product  = power {["*" | "/"] power}                         words after a number are units
    power    = ["-"] operand {"!" | "%" | degree | "'"} ["^" power]
    operand  = number | name | function | (answer) | [answer] | {answer} | |answer| | words

The ladder of comparison, who calls whom, and a pair that each rung decides:

    same_tree                     remembers; a part without a value is the same as nothing
      same_parts
        without_names             x = 5, y = 6       (5, 6)          then same_tree again
        (ratios, tuples)          (1, 0.5)           (1, 1/2)        part by part
        same_items                1, 2               \{2, 1\}        each by same_tree
        same_relation             2x = 4y            x = 2y          by same_number
        same_set                  x < 3              (-oo, 3)        by contains
        same_value                \sqrt{8}           2\sqrt{2}       at points, by same_number
          same_number             0.333333           1/3             within the tolerance
"""

import math
import re
import unicodedata
from fractions import Fraction
from functools import lru_cache
from itertools import cycle, product
from operator import add, eq, ge, gt, le, lt, mul, ne

import mpmath

from plumbing.spelling import GREEK

MAX_TOKENS, MAX_DEPTH = 400, 40  # tokens, brackets
MAX_BITS = 20_000  # of an exact number: arithmetic well under 1 ms
MAX_ITEMS = 40  # of a list: comparing without order is quadratic
DECIMAL_TOLERANCE = Fraction(2, 10**6)  # relative, where a side has a decimal point

# --------------------------------------------------------------------------------------------------
# Tokens: text -> (kind, value); the kinds are number, based, name, function, word, op

TRIG = "sin cos tan sec csc cot".split()
ANALYTIC = [*TRIG, *(f"a{name}" for name in TRIG), *(f"{name}h" for name in TRIG[:3]), "ln"]
FUNCTIONS = [f"arc{name}" for name in TRIG] + ANALYTIC[::-1]
FUNCTIONS += "exp cis log lg sqrt frac over binom choose abs".split()
RELATIONS = {"<": lt, "<=": le, ">": gt, ">=": ge, "!=": ne, "=": eq, "~=": None, "in": None}
ALIASES = {name: name for name in "in cup cap setminus circ lfloor rfloor lceil rceil".split()} | {
    "leqslant": "<=", "leq": "<=", "le": "<=", "geqslant": ">=", "geq": ">=", "ge": ">=",
    "lt": "<", "gt": ">", "neq": "!=", "ne": "!=", "approx": "~=", "==": "=", ":=": "=",
    "times": "*", "cdot": "*", "div": "/", "**": "^", "pm": "+-", "+/-": "+-", "mp": "-+",
    "lor": "vee", "vee": "vee", "land": "wedge", "wedge": "wedge", "colon": ":",
    "backslash": "setminus", "\\%": "%", "percent": "%", "pct": "%", "mid": "|", "vert": "|",
    "lvert": "|", "rvert": "|",
    "langle": "(", "rangle": ")", "lbrace": "\\{", "rbrace": "\\}"}
NAMES = [*GREEK, *"varepsilon varphi ell hbar oo sum int prod max min".split()]
KNOWN = ({name: ("name", name) for name in NAMES}
         | {name: ("name", "oo") for name in ("infty", "infinity", "inf")}
         | {name: ("function", name) for name in FUNCTIONS}
         | {name: ("op", operator) for name, operator in ALIASES.items()})
KNOWN_WORD = re.compile("|".join(sorted(filter(str.isalpha, KNOWN), key=len, reverse=True)))
IN_WORDS = re.compile(
    rf"({'|'.join(FUNCTIONS)}|theta|infinity|pi(?![a-z]{{2}}|[egnt])|\b(?:oo|inf)\b)")

# Any word after a number is a unit: 4 furlongs is 4.  A new unit belongs here only if it would be
# read as a product of names, as 5 cm is 5 * c * m, and is none; one that may be, 5 kN, in UNIT.
SHORT_WORDS = set("no on up am pm is of in mph kph sq cm mm km kg mg ml ft mi hr".split())
DENIAL = re.compile(r"\b(?:no|not|wrong|opposite|half|twice)\b")  # twice x = 5 says nothing of x
UNIT_WORD = re.compile(  # of the words after a name those that are a unit
    r"\b(?:units?|degrees?|square|cubic|sq|[a-z]*met(?:er|re)s?|inch(?:es)?|feet|foot|yards?|miles?"
    r"|seconds?|minutes?|hours?|days?|weeks?|months?|years?|dollars?|cents?|pounds?|[a-z]*grams?"
    r"|[a-z]*lit(?:er|re)s?|watts?|joules?|newtons?|volts?|amperes?|[kcm]m|m|s|kg|g|ft|cm|km|mm)\b"
    r"|[^\x00-\x7f]")
DOUBT = re.compile(  # words after a number that make it no answer, another one, or one of two
    DENIAL.pattern + r"|(?<!\^)(?<!\^-)\d"
    r"|\b(?:one|two|three|thir|four|forty|fi[fv][et]|six|seven|eight|nin[et]|ten(?:th)?s?\b|eleven"
    r"|twel|twent|halves|hundred|thousand|dozen|[mbtr]+illion)"
    r"|\b(?:but|maybe|if|least|most|except|false|too|cannot|never|fails?|bound|guess|below|negative"
    r"|debt|score|gross|lakh|crore|grand|doubled|halved|tripled|inverse|reciprocal|root"
    r"|basis|mille)\b"
    r"|(?<![a-z] )\b(?:squared|cubed)\b"
    r"|\b(?:incorrect|invalid|reject|extraneous|exclu|impossible|factorial|recurring|repeating)"
    r"|以[上下内外]|左右|上下|开外|[不非负第打成半的折余多几舍错]|至[少多]|[大小]于|超过|最少|分之"
    r"|[平立]方(?![厘分毫千公英米单])|[倒反]数|阶乘|次[方幂]|进制|角形|除外|排除")

THOUSAND_OF = re.compile("千|百[分帕]")  # of a unit: kg, a hundredth

TOKEN = re.compile(r"""(?P<based>\d*\.?\d+_\s*(?:\{\s*\d+\s*\}|\d+))
    | (?P<number>(?:\d+\.\d*|\d+|\.\d+)(?:[eE][+-]?\d{1,3}(?![\w.]))?)(?![eE][+-]?\d{4})
    | \\text\s?\{(?P<text>[^{}]*)\} | \\(?P<command>[a-zA-Z]+)
    | (?P<letters>[a-zA-Z\u0080-\U0010ffff]+)
    | (?P<op><=|>=|!=|==|:=|\*\*|\+/-|\+-|\\?%|\\[{}]|[-+*/^_=<>()\[\]{}|!,;:']) | \s+""", re.X)


def tokenize(text):
    """The tokens of a normalised answer."""
    tokens, position = [], 0
    while position < len(text):
        match = TOKEN.match(text, position)
        if not match or len(tokens) > MAX_TOKENS:
            raise ValueError("too many tokens" if match else f"no meaning for {text[position]!r}")
        position, kind = match.end(), match.lastgroup
        value = match[kind or 0]
        if kind == "command":
            known = KNOWN_WORD.match(value)
            if not known:
                raise ValueError(f"unknown command \\{value}")
            position -= len(value) - known.end()  # \cotx, from data without spaces
            tokens.append(KNOWN[known[0]])
        elif kind in ("text", "letters"):
            below = tokens[-1:] == [("op", "/")] and tokens[-2:][0][0] == "word"  # m/s
            for part in filter(None, map(str.strip, re.split(r"(,|\bor\b|\band\b)", value))):
                tokens += word_tokens(part, kind == "text" or below)
        elif kind:
            tokens.append((kind, ALIASES.get(value, value)))
    return tokens


def word_tokens(words, is_text):
    """A separator, a unit or other word, or a product of names and functions: xcosx, 2pi, ab."""
    bare = words.lower()
    if bare in ("or", "and", ",", "percent", "pct"):
        return [("op", ALIASES.get(bare, bare))]
    for sign in filter(lambda sign: not sign.isascii(), words):
        is_number = unicodedata.numeric(sign, 0) and not THOUSAND_OF.search(words)
        if unicodedata.category(sign)[0] not in "LM" or is_number:
            raise ValueError(f"no meaning for {sign!r}")  # an arrow, or a second number: 5万
    parts = [part for part in IN_WORDS.split(words) if part]
    names = [part for part in parts if not IN_WORDS.fullmatch(part)]
    # abc and xyz are products, "two" and "yes" are words
    in_order = bare == "".join(sorted({*bare})) or not set(bare) & set("aeiou")
    is_product = len(names) <= 2 and all(len(part) <= (4 if in_order else 2) for part in names)
    if bare in SHORT_WORDS or not words.isascii() or not is_product:
        is_text = True
    if words in FUNCTIONS or words in ("e", "i", "d") or not is_text:
        if re.fullmatch("[A-Z]{3,}", words):  # HTH is not HHT
            return [("name", words)]
        return [token for part in parts for token in (
            [("name", letter) for letter in part] if part in names else [KNOWN[part]])]
    return [("word", bare)]


# --------------------------------------------------------------------------------------------------
# Tree: tokens -> (operator, children), or a leaf (kind, value)

CLOSING = {"(": (")", "]"), "[": (")", "]"), "{": ("}",), "\\{": ("\\}",), "|": ("|",),
           "lfloor": ("rfloor",), "lceil": ("rceil",)}
CALLED = {"|": "abs", "lfloor": "floor", "lceil": "ceil"}
LEVELS = ({op: 1 for op in (",", ";", "or", "and")} | dict.fromkeys(RELATIONS, 2) | {":": 3}
          | {"vee": 1.5, "wedge": 1.6, "cup": 4, "cap": 4, "setminus": 4}
          | {"+": 5, "-": 5, "*": 6, "/": 6, "^": 8}
          | {mark: 9 for mark in ("!", "%", "circ", "'")})
ARGUMENT, FACTOR, ATOM = 6.5, 7, 9  # sin 2x cos x: an argument ends at the next function
END = ("op", "end")
MINUS_ONE = ("number", Fraction(-1))


def walk(*nodes):
    """The nodes and all below them."""
    for node in nodes:
        yield node
        if isinstance(node[1], tuple):
            yield from walk(*(child for child in node[1] if isinstance(child, tuple)))


def is_tuple(node):
    """(1, 2), an interval, or a matrix."""
    return node[0][0] in "(["


def combine(operator, left, right):
    """The node of a binary operator; a + b + c has three children."""
    if operator in RELATIONS:  # the sides with the signs between them
        return "relation", (*(left[1] if left[0] == "relation" else (left,)), operator, right)
    if operator in ("vee", "wedge") and left[0] == right[0] == "relation":
        operator = "or" if operator == "vee" else "and"
    if operator == "and" and left[0] == right[0] == "relation" and "=" not in left[1] + right[1]:
        operator = "cap"  # x > 1 and x < 3
    if operator == "-":
        operator, right = "+", ("*", (MINUS_ONE, right))
    if operator in ("*", "/"):
        for node, words in ((left, DENIAL), (right, DOUBT)):
            if node[0] == "text" and words.search(node[1]):
                raise ValueError("words that may be another answer")
        if left[0] == "text":
            return "text", f"{left[1]} {right[1]}"
        if right[0] == "text":  # 5 cm and 5 m/s, but n even is not n odd
            if variables(left) and not UNIT_WORD.search(right[1]):
                raise ValueError("words that say something of a name")
            return left
    if operator == "/":
        operator, right = "*", ("^", (right, MINUS_ONE))
    if operator == "*":
        for grid, factor in ((left, right), (right, left)):
            if is_tuple(grid) and not any(map(is_tuple, walk(factor))):  # 2 (1, 3) is (2, 6)
                return grid[0], tuple(combine("*", factor, cell) for cell in grid[1])
    if operator == "^":
        return left if left[0] == "text" else (operator, (left, right))  # cm^2
    kind = operator if LEVELS[operator] > 1 else "list"
    children = left[1] if left[0] == kind else (left,)
    return kind, children + (right[1] if right[0] == kind != "setminus" else (right,))


def marked(node, mark):
    """5!, x', 50% or 30 degrees."""
    if mark in ("%", "circ"):
        return combine("*", node, ("name", mark))
    if mark == "'" and node[0] == "name":
        return "name", node[1] + mark
    if mark == "'" or node[0] == "!":
        raise ValueError(f"misplaced {mark}")  # 5!! is no factorial of a factorial
    return mark, (node,)


class Parser:
    """Precedence climbing; the next token is the last one, and below all lies an end that stays."""

    def __init__(self, tokens):
        self.tokens, self.depth, self.bars = [END, *tokens[::-1]], 0, 0

    def peek(self):
        """The operator that comes next."""
        return self.tokens[-1][1] if self.tokens[-1][0] == "op" else None

    def expression(self, level=0):
        """The expression ahead whose operators all bind tighter than `level`."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        node = self.operand()
        while True:
            kind, value = self.tokens[-1]
            implicit = kind != "op" or value in CLOSING and not (value == "|" and self.bars)
            binding = LEVELS["*"] if implicit else LEVELS.get(value, 0)
            if level == ARGUMENT and implicit and kind != "function":
                binding = FACTOR
            if binding <= level:
                self.depth -= 1
                return node
            last = node[1][-1] if node[0] == "*" else node
            slip = last[0] == "name" and self.tokens[-2:][0] != ("op", "^")  # x2, but not n 2^n
            if implicit and kind == "number" and (slip or last[0] == "number"):
                raise ValueError("a number after a number or a name")
            operator = "*" if implicit else self.tokens.pop()[1]
            while binding == 1 and LEVELS.get(self.peek()) == 1:  # "1, 2, and 3"
                self.tokens.pop()
            if binding == ATOM:
                node = marked(node, operator)
            else:  # 2^3^4 is 2^(3^4)
                node = combine(operator, node, self.expression(binding - (operator == "^")))

    def operand(self):
        """A number, name, function, bracket or word, perhaps signed."""
        kind, value = self.tokens[-1]
        if kind == "op" and value in RELATIONS and value != "~=":
            return "name", "?"  # >5 is x > 5 of a nameless x
        self.tokens.pop()
        if kind == "op" and value in ("+", "-", "~="):  # "\approx 8.24" is 8.24
            node = self.expression(FACTOR)
            return ("*", (MINUS_ONE, node)) if value == "-" else node
        if kind == "op" and value not in CLOSING:
            raise ValueError(f"unexpected {value}")
        if kind in ("op", "function"):
            return self.bracket(value) if kind == "op" else self.function(value)
        if kind == "name":
            return "name", self.full_name(value)
        if kind == "based":  # 101_2 equals only numbers of base 2
            value = re.sub(r"^0+(?=\d)|[\s{}]", "", value)
            if not value.endswith("_10"):
                return kind, value
            value = value[:-3]
        return ("text", value) if kind == "word" else ("number", Fraction(value))

    def full_name(self, name):
        """The name with its indices, a_1, and with its argument where it is called, f(3)."""
        while self.peek() == "_":
            self.tokens.pop()
            index = self.expression(ATOM)
            name += f"_{index if isinstance(index[1], tuple) else index[1]}"
        argument, closing, after = [*self.tokens[-2:-5:-1], END, END, END][:3]
        is_number = argument[0] == "number" and closing == ("op", ")")
        is_call = name == "f" or is_number and (argument[1] == "0" or after == ("op", "="))
        if self.peek() == "(" and is_call and name not in CONSTANTS:  # f(3), I(0), g(2) =
            name += str(self.expression(ATOM))
        return name

    def bracket(self, opening):
        """A group, set, tuple or interval, an absolute value or a rounding."""
        is_empty = "{" in opening and self.peek() in CLOSING[opening]
        self.bars += opening == "|"
        node = ("list", ()) if is_empty else self.expression()
        self.bars -= opening == "|"
        kind, closing = self.tokens.pop()
        if kind != "op" or closing not in CLOSING[opening]:
            raise ValueError(f"expected {CLOSING[opening][0]} before {closing}")
        if opening in CALLED:
            return CALLED[opening], (node,)
        if opening == "\\{" and node[0] not in ("list", "relation"):
            return "set", (node,)
        if "{" in opening and node[0] == "list" and {one[0] for one in node[1]} == {"relation"}:
            return node  # {x < 1 or x > 3}, of {x : x < 1 or x > 3}
        brackets = "set" if "{" in opening else opening + closing
        return (brackets, node[1]) if node[0] == "list" else node

    def argument(self):
        r"""An argument of \frac: a group or one character, so \frac12 is 1/2."""
        kind, value = self.tokens.pop()
        parts = [value[1:], value[0]] if value.isdigit() and value[1:] else [value]
        self.tokens += [(kind, part) for part in parts]
        return self.expression(ATOM)

    def function(self, name):
        r"""sin x, sin^2 x, sin^{-1} x, log_2 8, \sqrt[3]{x}, \frac12."""
        if name in ("frac", "over"):
            return combine("/", self.argument(), self.argument())
        if name in ("binom", "choose"):
            return "binom", (self.argument(), self.argument())
        if name == "sqrt":
            has_index = self.peek() == "["
            index = self.bracket(self.tokens.pop()[1]) if has_index else ("number", Fraction(2))
            return "^", (self.expression(ATOM), ("^", (index, MINUS_ONE)))
        power, base = None, ("number", Fraction(10)) if name == "lg" else ("name", "log")
        while self.peek() in ("^", "_"):
            if self.tokens.pop()[1] == "^":
                power = self.expression(FACTOR)
            else:
                base = self.argument()
        if f"a{name}" in ANALYTIC and power == ("*", (MINUS_ONE, ("number", 1))):
            name, power = f"a{name}", None
        argument = self.expression(ATOM if self.peek() in ("(", "{") else ARGUMENT)
        node = name.replace("arc", "a"), (argument,)
        if name in ("log", "lg"):
            node = combine("/", ("ln", (argument,)), ("ln", (base,)))
        if name == "exp":
            node = "^", (("name", "e"), argument)
        if name == "cis":
            node = "+", (("cos", (argument,)), combine("*", ("name", "i"), ("sin", (argument,))))
        return ("^", (node, power)) if power else node


def sign_choices(tokens):
    """The tokens with each +- as one sign: 1 +- 2 gives 1 + 2 and 1 - 2."""
    places = [i for i, token in enumerate(tokens) if token in (("op", "+-"), ("op", "-+"))]
    # Next to -+ and in tuples the signs change together, elsewhere each is free.
    is_together = ("op", "-+") in tokens or {("op", "("), ("op", ",")} <= {*tokens}
    both = [(0,) * len(places), (1,) * len(places)] if places else [()]
    choices = both if is_together or len(places) > 4 else product((0, 1), repeat=len(places))
    for choice in choices:
        signs = {place: ("op", tokens[place][1][which]) for place, which in zip(places, choice)}
        yield [signs.get(i, token) for i, token in enumerate(tokens)]


def read(text):
    """The tree of a normalised answer; one with +- becomes the list of its values."""
    tokens, items, kind = tokenize(text), [], "list"
    for token, following in zip(tokens[1:], tokens[2:]):
        if token[0] == "word" and following[0] == "number":
            raise ValueError("a number after words")  # 3 out of 4
    for signed in sign_choices(tokens):
        parser = Parser(signed)
        node = parser.expression()
        if parser.tokens != [END]:
            raise ValueError(f"unexpected {parser.tokens[-1][1]}")
        kind = node[0] if node[0] in ("list", "set") else kind
        items += [item for item in (node[1] if node[0] == kind else (node,)) if item not in items]
    if len(items) > MAX_ITEMS:
        raise ValueError("too many items")
    return items[0] if len(items) == 1 and kind == "list" else (kind, tuple(items))


# 1,234,567 and, in India, 12,34,567
THOUSANDS = re.compile(r"(?<![\d.,])(?:\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d\d)+,\d{3})(?!\d|,\d)")


@lru_cache(256)
def readings(text):
    """The trees of a normalised answer, at least one: "100,200" is a number and a list."""
    match = THOUSANDS.search(text)
    if not match or re.search(r"[(\[]|\\\{", text[: match.start()]):
        return [read(text)]
    joined_up = read(THOUSANDS.sub(lambda thousands: thousands[0].replace(",", ""), text))
    return [joined_up] if ",0" in match[0] else [joined_up, read(text)]


# --------------------------------------------------------------------------------------------------
# Values: tree -> a Fraction while exact, else a number with many digits

# From 1/100 to 6 and of both signs: no root, absolute value or small term can hide
COORDINATES = [Fraction(n, 1000) for n in (
    1237, 2871, 413, 3319, 1709, 523, 5011, 2203, 811, 4157, 1453, 3701)]
TRIALS = [
    [scale * x for x, scale in zip(COORDINATES[i:] + COORDINATES[:i], cycle(scales))]
    for i, scales in (
        (0, [1]), (3, [1]), (5, [Fraction(1, 40)]), (7, [-1]), (2, [1, -1]), (9, [1, 1, -1]))]
WHOLE = [[Fraction(n + n % 5 * i) for i in range(12)] for n in range(1, 21)]  # for floors


class Arithmetic:
    """Values: Fractions while exact, else mpmath's numbers with `digits` decimal digits."""

    def __init__(self, digits):
        self.mp = mp = mpmath.MPContext()  # our own: nothing changes it, threads may share it
        mp.dps = digits
        self.epsilon = Fraction(1, 10 ** (digits - 10))  # relative
        self.constants = {"pi": +mp.pi, "e": +mp.e, "oo": mp.inf, "log": +mp.e,
                          "circ": Fraction(1), "%": Fraction(1, 100)}  # fmt: skip
        calls = {name: getattr(mp, name) for name in ANALYTIC}
        for name, other in zip(TRIG[3:], ("cos", "sin", "tan")):  # mpmath's are not safe in threads
            calls[name] = lambda x, call=calls[other]: 1 / call(x)
            calls[f"a{name}"] = lambda x, call=calls[f"a{other}"]: call(1 / mp.convert(x))
        self.calls = calls | {
            "+": add, "*": mul, "^": self.power, "abs": abs, "!": self.factorial,
            ":": lambda x, y: x * self.power(y, Fraction(-1)),
            "floor": self.floor, "ceil": lambda x: -self.floor(-x), "binom": self.binomial}

    def power(self, base, exponent):
        """Exact for an integer exponent; of a negative number the real odd root."""
        mp, root = self.mp, exponent.denominator if isinstance(exponent, Fraction) else 0
        bits = abs(mp.mag(base)) + 1 if base else 1
        if isinstance(base, Fraction):
            bits = max(map(int.bit_length, base.as_integer_ratio()))
        if abs(exponent) * bits > MAX_BITS or not base and not mp.convert(exponent).real > 0:
            raise ValueError("a power is too large" if base else "zero to a power of 0 or less")
        if root == 1:
            return base ** int(exponent)
        if root % 2 and not isinstance(base, mp.mpc) and base < 0:
            return (-1) ** (exponent.numerator % 2) * mp.power(-base, exponent)
        return mp.power(base, exponent) if base else Fraction(0)

    def floor(self, x):
        """The integer below x; a root that is 4 may lie as little below it as the digits err."""
        if isinstance(x, self.mp.mpc):
            raise ValueError("not real")
        return Fraction(int(self.mp.floor(self.mp.convert(x) + self.mp.convert(self.epsilon))))

    def factorial(self, x):
        """x!, by the gamma function where x is not whole, which takes long with 1000 digits."""
        if x and abs(self.mp.mag(x)) > 11:  # 1500! has 13,700 bits
            raise ValueError("a factorial is too large")
        is_whole = isinstance(x, Fraction) and x.denominator == 1 and x >= 0
        if not is_whole and self.mp.dps > 100:
            raise ValueError("a factorial that takes long")
        return Fraction(math.factorial(int(x))) if is_whole else self.mp.factorial(x)

    def binomial(self, n, k):
        """n over k."""
        below = self.factorial(k) * self.factorial(n + -k)  # mpmath does not subtract a Fraction
        return self.calls[":"](self.factorial(n), below)

    def evaluate(self, node, point):
        """The value at a point (name -> value); it leaves the reals only if "i" is there."""
        kind, content = node
        if kind == "number" or kind == "name" and content in point:
            return content if kind == "number" else point[content]
        if kind not in self.calls or kind == ":" and len(content) > 2:
            raise ValueError(f"a {kind} has no value")
        if kind in TRIG:
            point = point | {"circ": point.get("degree", self.mp.pi / 180)}
        value, *others = [self.evaluate(child, point) for child in content]
        if not others:
            if kind != "abs" and value and abs(self.mp.mag(value)) > 300:
                raise ValueError("an argument is too large")
            value = self.calls[kind](value)
        for other in others:
            value = self.calls[kind](value, other)
            if isinstance(value, Fraction) and value.numerator.bit_length() > 2 * MAX_BITS:
                raise ValueError("a number is too large")
        if isinstance(value, self.mp.mpc) and "i" not in point:
            raise ValueError("not real")
        return value

    def values_at_points(self, nodes, point=()):
        """The nodes' values wherever all are defined; over the reals where names are < 0.

        point  {name: value} beside the `constants`
        """
        names, found, point = variables(*nodes), 0, self.constants | dict(point)
        trials = TRIALS if names else TRIALS[:1]
        if names and any(node[0] in ("floor", "ceil") for node in walk(*nodes)):
            trials = WHOLE if {*names} <= {*"ijkmnN"} else TRIALS + WHOLE
        for coordinates in trials:
            here = point | dict(zip(names, cycle(coordinates)))
            if min(coordinates) > 0 or ("name", "i") in walk(*nodes):
                here["i"] = self.mp.j
            try:
                values = [self.evaluate(node, here) for node in nodes]
            except (ValueError, ArithmeticError):
                continue
            found += 1
            yield values
        if found < min(2, 1 + len(names)):
            raise ValueError("no value")

    def same_number(self, predicted, ground_truth, tolerance=None):
        """Equality; within the tolerance, if there is one and neither is an integer."""
        mp = self.mp
        fractions = [value for value in (predicted, ground_truth) if isinstance(value, Fraction)]
        if tolerance is None or any(value.denominator == 1 for value in fractions):
            if len(fractions) == 2:
                return predicted == ground_truth
            tolerance = self.epsilon
        predicted, ground_truth = mp.convert(predicted), mp.convert(ground_truth)
        size = max(abs(predicted), abs(ground_truth))
        if predicted == ground_truth or size == mp.inf:
            return predicted == ground_truth
        difference = abs(predicted - ground_truth)
        is_zero = size < mp.convert(self.epsilon) and not fractions  # as far as the digits tell
        return is_zero or difference <= mp.convert(tolerance) * size


USUAL = Arithmetic(50)
FINE = Arithmetic(1000)  # tells \sqrt{10^{60}+1} from 10^{30}
CONSTANTS = USUAL.constants.keys()  # The names and marks that have one value.


def variables(*nodes):
    """The sorted names that stand for any number."""
    return sorted({node[1] for node in walk(*nodes) if node[0] == "name"} - {*CONSTANTS, "i"})


# --------------------------------------------------------------------------------------------------
# Comparison: the ladder, from the lowest rung up


def tolerance(*nodes):
    """DECIMAL_TOLERANCE where there is a decimal, else None."""
    has_decimal = any(kind == "number" and n.denominator > 1 for kind, n in walk(*nodes))
    return DECIMAL_TOLERANCE if has_decimal else None


def same_value(predicted, ground_truth, rounding=0):
    """Equal at all points.  % or degrees next to none may mean nothing; log has base e or 10."""
    nodes, points = (predicted, ground_truth), [{}]
    for mark, factor in (("%", "%"), ("circ", "degree")):
        if (("name", mark) in walk(predicted)) != (("name", mark) in walk(ground_truth)):
            points.append({factor: Fraction(1)})
    if ("name", "log") in walk(*nodes):
        points.append({"log": Fraction(10)})
    allowed = rounding or tolerance(*nodes)
    return any(
        all(one.same_number(*values, allowed) for one in arithmetics(*nodes)
            for values in one.values_at_points(nodes, point))
        for point in points)


def arithmetics(*nodes):
    """Those in which numbers must agree: what does to 40 digits may still be tanh 100 and 1."""
    is_slow = any(kind in ("!", "binom") for kind, _ in walk(*nodes))  # see `factorial`
    return (USUAL,) if is_slow or variables(*nodes) else (USUAL, FINE)


def assigned_name(node):
    """What the left side of an assignment names: x, AB, A:B, (p, q), |AB|, speed; or ""."""
    kind, content = node
    if kind == "text":
        return "" if DENIAL.search(content) else content
    if kind == "name":
        return "" if content in [*CONSTANTS, "i", "sum", "int", "prod"] else content
    if kind == "*" and content[0] == ("name", "Delta"):
        content = content[1:]  # a difference
    names = [*map(assigned_name, content)] if kind in ("()", ":", "*", "abs", *TRIG) else [""]
    letters = {"abs": "[A-Z]", "*": "^[A-Z,]+$"}.get(kind, "[A-Z]|[a-z]{2}|,")  # not |x|, sin x
    return ",".join(names) if all(names) and re.search(letters, ",".join(names)) else ""


@lru_cache(256)  # a long chain is compared with each item of a list
def assignment(node):
    """(name, value) of x = 5, y = f = 2x or 1/2 = 0.5; ("", node) if nothing is: 42 = 43."""
    if node[0] != "relation":
        return "", node
    sides, signs = node[1][::2], {*node[1][1::2]}
    names = [side for side in sides[:-1] if assigned_name(side)]
    values = sides[len(names) :]
    is_circular = {*variables(*names)} & {*variables(*values)}  # x = x + 1
    if not signs <= {"=", "~=", "in"} or is_circular or values[0][0] == "text":  # yes = no
        return "", node
    rounding = Fraction(1, 100) if "~=" in signs else 0  # 7/12 ~= 0.58
    for other in values[1:]:
        both = values[0], other
        if not (same_tree(*both) if is_tuple(values[0]) else same_value(*both, rounding)):
            return "", node
    return assigned_name(names[-1]) if names else "", values[0]


def without_names(node):
    """(names, bare value) of assignments: x = 2, y = 1 is (2, 1); x_1 = 2, x_2 = 3 is 2, 3."""
    pairs = [assignment(item) for item in (node[1] if node[0] == "list" else (node,))]
    values = tuple(value for _, value in pairs)
    names = [re.split(r"[_\d]", name)[0] for name, _ in pairs]
    width = len({*names})
    if width == 1:
        return names[0], values[0] if len(values) == 1 else ("list", values)
    if "" in names or names != names[:width] * (len(names) // width):
        return "", node
    rows = tuple(("(=)", values[i : i + width]) for i in range(0, len(values), width))
    return ",".join(names[:width]), rows[0] if len(rows) == 1 else ("list", rows)


def same_relation(predicted, ground_truth):
    """The same equation or inequality, scaled or turned around."""
    if len(predicted[1] + ground_truth[1]) > 6 or "in" in predicted[1] + ground_truth[1]:
        return False
    (left, sign, right), (gold_left, gold_sign, gold_right) = predicted[1], ground_truth[1]
    side, gold_side = combine("-", left, right), combine("-", gold_left, gold_right)
    if not variables(side) or variables(side) != variables(gold_side):
        return False
    (x, gold_x), *rest = USUAL.values_at_points([side, gold_side])
    if USUAL.mp.convert(x * gold_x).real < 0:  # side = c * gold_side: a negative c turns the sign
        sign = sign.translate(str.maketrans("<>", "><"))
    allowed = tolerance(predicted, ground_truth)
    return bool(x and gold_x) and sign == gold_sign and all(
        USUAL.same_number(x * gold_y, gold_x * y, allowed) for y, gold_y in rest)


@lru_cache(1024)
def constant(node):
    """A real number, rounded so that ends of intervals that are equal are identical."""
    value = FINE.mp.convert(FINE.evaluate(node, FINE.constants))
    return FINE.mp.mpf(FINE.mp.nstr(value, 990))


def contains(node, x):
    """Is the number x in a set of real numbers: an interval, {1, 2}, x < 3, a union ...?"""
    kind, children = node
    if kind in ("cup", "cap", "list", "setminus"):
        inside = [contains(child, x) for child in children]
        if kind in ("cup", "cap"):  # (0, 1) \cup (2, 3); x > 0 and x < 1
            return any(inside) if kind == "cup" else all(inside)
        if kind == "setminus":
            return inside[0] and not any(inside[1:])  # R \setminus \{0\}
        return inside.count(True) == 1  # (1, 9), (2, 3) are points, and x < 2, x < 1 two answers
    if kind == "set":
        return x in map(constant, children)
    if is_tuple(node) and len(children) == len(kind) == 2:
        low, high = map(constant, children)
        if low < high:
            return low < x < high or x == low and kind[0] == "[" or x == high and kind[1] == "]"
    sides, signs = (children[::2], children[1::2]) if kind == "relation" else ((), ())
    if signs == ("in",) and assigned_name(sides[0]):
        return contains(sides[1], x)
    is_chain = all(map(RELATIONS.get, signs)) and (
        "=" not in signs or len(signs) == 1 and sides[0][0] == "name")
    named = [bool(assigned_name(side)) for side in sides]
    if not is_chain or named.count(True) != 1:
        raise ValueError("not a set of numbers")
    values = [x if is_name else constant(side) for side, is_name in zip(sides, named)]
    return all(RELATIONS[sign](low, high) for sign, low, high in zip(signs, values, values[1:]))


def same_set(predicted, ground_truth):
    """Equal membership at, between and beyond all ends, which decides for unions of intervals."""
    names = [{*variables(side)} - {"?"} for side in (predicted, ground_truth)]
    if all(names) and names[0] != names[1]:
        return False
    values = [constant(node) for node in walk(predicted, ground_truth)
              if node[0] in ("number", *USUAL.calls) or node[0] == "name" and node[1] in CONSTANTS]
    ends = sorted({value for value in values if abs(value) < FINE.mp.inf}) or [FINE.mp.zero]
    between = [(x + y) / 2 for x, y in zip(ends, ends[1:])]
    points = [ends[0] - 1, *ends, *between, ends[-1] + 1]
    return all(contains(predicted, x) == contains(ground_truth, x) for x in points)


def same_items(predicted, ground_truth):
    """Equal as multisets; a solution tuple listed twice is forgiven."""
    if all(map(is_tuple, predicted + ground_truth)):
        return all(any(same_tree(item, gold) for gold in ground_truth) for item in predicted) and (
            all(any(same_tree(item, gold) for item in predicted) for gold in ground_truth))
    rest = list(ground_truth)
    for item in predicted:
        matches = [gold for gold in rest if same_tree(item, gold)]
        if not matches:
            return False
        rest.remove(matches[0])
    return not rest


SETS = {"set", "list", "relation", "cup", "cap", "setminus"}


@lru_cache(1024)  # the parts of nested sets are compared again and again
def same_tree(predicted, ground_truth):
    """Do two parsed answers mean the same?  What has no value is not the same."""
    try:
        return predicted == ground_truth or same_parts(predicted, ground_truth)
    except (ValueError, ArithmeticError):
        return False


def same_parts(predicted, ground_truth):
    """same_tree by what both sides are, but an error where a part has no value."""
    kinds = {predicted[0], ground_truth[0]}
    if any(node[0] == "relation" for node in walk(predicted, ground_truth)):
        name, value = without_names(predicted)
        gold_name, gold_value = without_names(ground_truth)
        is_changed = (value, gold_value) != (predicted, ground_truth)
        if is_changed and (name == gold_name or not (name and gold_name)):
            if same_tree(value, gold_value):
                return True
            if {"(=)", "list"} == {value[0], gold_value[0]}:
                return False  # 2, 1 is not x = 1, y = 2
    if kinds == {":"}:
        (first, *rest), (gold_first, *gold_rest) = predicted[1], ground_truth[1]
        return len(rest) == len(gold_rest) and all(  # the ratio of each part to the first
            same_value((":", (part, first)), (":", (gold_part, gold_first)))
            for part, gold_part in zip(rest, gold_rest))
    if kinds == {"name", "text"}:
        return predicted[1].lower() == ground_truth[1].lower()  # B is \text{B}
    for node, other in ((predicted, ground_truth), (ground_truth, predicted)):
        if node[0] == "set" != other[0] and len(node[1]) == 1:
            return same_tree(node[1][0], other)  # \{5\} is 5
        if node[0] == "list" and not is_tuple(other) and other[0] not in SETS:
            forms = {*node[1]}  # 1/2 or 0.5; but 3, 3 is not 3
            is_one = 1 < len(forms) == len(node[1])
            return is_one and all(same_tree(form, other) for form in forms)
    if kinds <= {"list", "set"} or kinds in ({"vee"}, {"wedge"}):
        return same_items(predicted[1], ground_truth[1])
    is_row = all(is_tuple(node) or node[0] == "list" for node in (predicted, ground_truth))
    if is_row and len(predicted[1]) == len(ground_truth[1]):
        # 0, 1 and [0, 1] are not (0, 1), but 1, 2, 3 may be (1, 2, 3)
        width, first = len(predicted[1]), predicted[1][0]
        if len(kinds) == 1 or "(=)" in kinds or width > 2 or is_tuple(first):
            if all(map(same_tree, predicted[1], ground_truth[1])):
                return True
    if kinds == {"relation"} and same_relation(predicted, ground_truth):
        return True
    if kinds & SETS or is_tuple(predicted) or is_tuple(ground_truth):
        return same_set(predicted, ground_truth)
    return same_value(predicted, ground_truth)


def show(node):
    """A tree as text in which brackets show what belongs together: (2 * (x ^ 3))."""
    kind, content = node
    if not isinstance(content, tuple):
        return str(content)
    parts = [part if isinstance(part, str) else show(part) for part in content]
    if kind == "relation" or kind in LEVELS and len(parts) > 1:
        return f"({(' ' if kind == 'relation' else f' {kind} ').join(parts)})"
    left, right = (kind[0], kind[-1]) if is_tuple(node) else (f"{kind}(", ")")
    return left + ", ".join(parts) + right
