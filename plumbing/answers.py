r"""The grammar and arithmetic of answers: text -> tokens -> tree -> values -> comparison."""

import math
import re
from fractions import Fraction
from functools import lru_cache, partial
from itertools import cycle, product
from operator import add, eq, ge, gt, le, lt, mul, ne

import mpmath

MAX_TOKENS, MAX_DEPTH = 400, 40
MAX_BITS = 20_000  # of an exact number: arithmetic well under 1 ms
MAX_ITEMS = 40  # of a list: comparing without order is quadratic
DECIMAL_TOLERANCE = Fraction(2, 10**6)  # relative, where a side has a decimal point
SAME = Fraction(1, 10**40)  # relative, for values carried with 50 digits
MP = mpmath.MPContext()  # our own: nothing changes its precision, threads may share it
MP.dps = 50


class Unreadable(ValueError):
    """Not an answer of the grammar, beyond the limits, or without a value."""


# --------------------------------------------------------------------------------------------------
# Parse: text -> tokens (kind, value) -> tree: (operator, children), or a leaf (kind, value)

GREEK = """alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi
    chi psi omega Gamma Delta Theta Lambda Sigma Phi Psi Omega""".split()
TRIG = "sin cos tan sec csc cot".split()
ANALYTIC = [*TRIG, *(f"a{name}" for name in TRIG), *(f"{name}h" for name in TRIG[:3]), "ln"]
FUNCTIONS = [f"arc{name}" for name in TRIG] + ANALYTIC[::-1]
FUNCTIONS += "exp log lg sqrt frac over binom choose abs".split()
RELATIONS = {"<": lt, "<=": le, ">": gt, ">=": ge, "!=": ne, "=": eq, "~=": None, "in": None}
ALIASES = dict(zip(*[iter("""leqslant <= leq <= le <= geqslant >= geq >= ge >= lt < gt > neq !=
    ne != approx ~= times * cdot * div / pm +- mp -+ +/- +- backslash setminus colon : lor or vee or
    land and == = := = ** ^ percent % pct % langle ( rangle ) vert | lvert | rvert | mid | in in
    cup cup cap cap setminus setminus lfloor lfloor rfloor rfloor lceil lceil rceil rceil circ circ
    lbrace \\{ rbrace \\}""".split())] * 2))
NAMES = [*GREEK, *"varepsilon varphi ell hbar oo sum int prod max min".split()]
KNOWN = ({name: ("name", name) for name in NAMES}
         | {name: ("name", "oo") for name in ("infty", "infinity")}
         | {name: ("function", name) for name in FUNCTIONS}
         | {name: ("op", operator) for name, operator in ALIASES.items()})
KNOWN_WORD = re.compile("|".join(sorted(filter(str.isalpha, KNOWN), key=len, reverse=True)))
IN_WORDS = re.compile(f"({'|'.join(FUNCTIONS)}|theta|infinity|pi|oo)")
UNIT_WORDS = set("no on up am pm is of if in mph sq cm mm km kg mg ml ft mi hr".split())
DENIAL = re.compile(
    r"\b(?:no|not|never|neither|wrong|false|minus|negative|opposite|half|twice|outside)\b")
# A number with such words after it may be no answer, or a second one
DOUBT = re.compile(
    DENIAL.pattern + r"|(?<!\^)(?<!\^-)\d|\b(?:but|maybe|if|plus|times|one|two|three|four|five|"
    r"six|seven|eight|nine|ten|eleven|twelve|twenty|least|most|except|halves|thirds?)\b|"
    r"(?<![a-z] )\b(?:squared|cubed)\b|\b(?:dozen|hundred|thousand|[mbtr]+illion|fourth|fifth|"
    r"sixth|eighth|tenth|factorial|incorrect|invalid|reject|extraneous|exclu|impossible|cannot|"
    r"undefined|divided|recurring|repeating)")
TOKEN = re.compile(r"""(?P<based>\d*\.?\d+_\s*(?:\{\s*(?:\d+|two|three|eight)\s*\}|\d+))
    | (?P<number>(?:\d+\.\d*|\d+|\.\d+)(?:[eE][+-]?\d{1,3}(?![\w.]))?)(?![eE][+-]?\d{4})
    | \\text\s?\{(?P<text>[^{}]*)\} | \\(?P<command>[a-zA-Z]+) | (?P<letters>[a-zA-Z]+)
    | (?P<op><=|>=|!=|==|:=|\*\*|\+/-|\+-|\\?%|\\[{}]|[-+*/^_=<>()\[\]{}|!,;:']) | \s+""", re.X)
CLOSING = {"(": (")", "]"), "[": (")", "]"), "{": ("}",), "\\{": ("\\}",), "|": ("|",),
           "lfloor": ("rfloor",), "lceil": ("rceil",)}
CALLED = {"|": "abs", "lfloor": "floor", "lceil": "ceil"}
LEVELS = ({op: 1 for op in (",", ";", "or", "and")} | dict.fromkeys(RELATIONS, 2) | {":": 3}
          | {"cup": 4, "cap": 4, "setminus": 4, "+": 5, "-": 5, "*": 6, "/": 6, "^": 8}
          | {mark: 9 for mark in ("!", "%", "circ", "'")})
ARGUMENT, FACTOR, ATOM = 6.5, 7, 9  # sin 2x cos x: an argument ends at the next function
END = ("op", "end")


def tokenize(text):
    """The tokens of a normalised answer; the kinds are number, based, name, function, word, op."""
    tokens, position = [], 0
    while position < len(text):
        match = TOKEN.match(text, position)
        if not match or len(tokens) > MAX_TOKENS:
            raise Unreadable("too many tokens" if match else f"no meaning for {text[position]!r}")
        position, kind = match.end(), match.lastgroup
        value = match[kind or 0]
        if kind == "command":
            if not (known := KNOWN_WORD.match(value)):
                raise Unreadable(f"unknown command \\{value}")
            position -= len(value) - known.end()  # \cotx, from data without spaces
            tokens.append(KNOWN[known[0]])
        elif kind in ("text", "letters"):
            is_unit = kind == "text" or tokens[-1:] == [("op", "/")] and tokens[-2:][0][0] == "word"
            for part in re.split(r"(,|\bor\b|\band\b)", value):
                tokens += word_tokens(part.strip(), is_unit)
        elif kind:
            tokens.append((kind, ALIASES.get(value, value.replace("\\%", "%"))))
    return tokens


def word_tokens(words, is_unit):
    """A separator, a unit or other word, or a product of names and functions: xcosx, 2pi, ab."""
    bare = words.lower()
    if bare in ("or", "and", ",", "percent", "pct"):
        return [("op", ALIASES.get(bare, bare))]
    parts = [part for part in IN_WORDS.split(words) if part]
    rest = [part for part in parts if not IN_WORDS.fullmatch(part)]
    # abc and xyz are products, "two" and "yes" are words
    in_order = bare == "".join(sorted(bare)) or not set(bare) & set("aeiou")
    is_product = len(rest) <= 2 and all(len(part) <= (4 if in_order else 2) for part in rest)
    is_word = is_unit and words not in "eid" or not is_product or bare in UNIT_WORDS
    if is_word and words not in FUNCTIONS:
        return [("word", bare)]
    return [token for part in parts for token in (
        [("name", letter) for letter in part] if part in rest else [KNOWN[part]])]


def walk(*nodes):
    """The nodes and all below them."""
    for node in nodes:
        yield node
        if isinstance(node[1], tuple):
            yield from walk(*(child for child in node[1] if isinstance(child, tuple)))


def is_tuple(node):
    return node[0][0] in "(["


def is_unit(node):
    """Words, perhaps with powers and quotients."""
    return is_unit(node[1][0]) if node[0] in ("*", "^") else node[0] == "text"


def negative(node):
    return "*", (("number", Fraction(-1)), node)


def combine(operator, left, right):
    """The node of a binary operator; a + b + c has three children."""
    if operator in RELATIONS:  # the sides with the signs between them
        return "relation", (*(left[1] if left[0] == "relation" else (left,)), operator, right)
    if operator == "and" and left[0] == right[0] == "relation" and "=" not in left[1] + right[1]:
        operator = "cap"  # x > 1 and x < 3
    for node, words in ((left, DENIAL), (right, DOUBT)) if operator in "*/" else ():
        if node[0] == "text" and words.search(node[1]):
            raise Unreadable("words that may be another answer")
    if operator in "*/" and left[0] == "text":
        return "text", f"{left[1]} {right[1]}"
    if operator in "*/" and is_unit(right):
        return left
    if operator == "-":
        return combine("+", left, negative(right))
    if operator == "/":
        return combine("*", left, ("^", (right, ("number", Fraction(-1)))))
    for grid, factor in ((left, right), (right, left)) if operator == "*" else ():
        if is_tuple(grid) and not any(map(is_tuple, walk(factor))):  # 2 (1, 3) is (2, 6)
            return grid[0], tuple(combine("*", factor, cell) for cell in grid[1])
    if operator == "^":
        return operator, (left, right)
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
        raise Unreadable(f"misplaced {mark}")  # 5!! is no factorial of a factorial
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
            raise Unreadable("nested too deeply")
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
                raise Unreadable("a number after a number or a name")
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
            return negative(node) if value == "-" else node
        if kind == "op" and value not in CLOSING:
            raise Unreadable(f"unexpected {value}")
        if kind in ("op", "function"):
            return self.bracket(value) if kind == "op" else self.function(value)
        if kind == "based":  # 101_2 equals only numbers of base 2
            value = re.sub(r"^0+(?=\d)|[\s{}]", "", value)
            for digit, word in (("2", "two"), ("3", "three"), ("8", "eight")):
                value = value.replace(word, digit)
            if value.endswith("_10"):
                kind, value = "number", value[:-3]
        while kind == "name" and self.peek() == "_":
            self.tokens.pop()
            index = self.expression(ATOM)
            value += f"_{index if isinstance(index[1], tuple) else index[1]}"
        inside = self.tokens[-2:-5:-1]
        is_call = value == "f" or inside[:2] == [("number", "0"), ("op", ")")] or (  # I(0), g(2)=
            inside[0:1] and inside[0][0] == "number" and inside[1:] == [("op", ")"), ("op", "=")])
        if kind == "name" and value not in REAL and self.peek() == "(" and is_call:
            value += str(self.expression(ATOM))  # no product
        return "text" if kind == "word" else kind, Fraction(value) if kind == "number" else value

    def bracket(self, opening):
        """A group, set, tuple or interval, an absolute value or a rounding."""
        is_empty = "{" in opening and self.peek() in CLOSING[opening]
        self.bars += opening == "|"
        node = ("list", ()) if is_empty else self.expression()
        self.bars -= opening == "|"
        kind, closing = self.tokens.pop()
        if kind != "op" or closing not in CLOSING[opening]:
            raise Unreadable(f"expected {CLOSING[opening][0]} before {closing}")
        if opening in CALLED:
            return CALLED[opening], (node,)
        if opening == "\\{" and node[0] not in ("list", "relation"):
            return "set", (node,)
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
            return "^", (self.expression(ATOM), ("^", (index, ("number", Fraction(-1)))))
        power, base = None, ("number", Fraction(10)) if name == "lg" else ("name", "log")
        while self.peek() in ("^", "_"):
            if self.tokens.pop()[1] == "^":
                power = self.expression(FACTOR)
            else:
                base = self.argument()
        if f"a{name}" in ANALYTIC and power == negative(("number", 1)):
            name, power = f"a{name}", None
        argument = self.expression(ATOM if self.peek() in ("(", "{") else ARGUMENT)
        node = name.replace("arc", "a"), (argument,)
        if name in ("log", "lg"):
            node = combine("/", ("ln", (argument,)), ("ln", (base,)))
        if name == "exp":
            node = "^", (("name", "e"), argument)
        return ("^", (node, power)) if power else node


def read(text):
    """The tree of a normalised answer; one with +- becomes the list of its values."""
    tokens = tokenize(text)
    if any(a[0] == "word" and b[0] == "number" for a, b in zip(tokens[1:], tokens[2:])):
        raise Unreadable("a number after words")  # 3 out of 4
    signs = [i for i, token in enumerate(tokens) if token in (("op", "+-"), ("op", "-+"))]
    # They go together next to -+ and in tuples, elsewhere each is free
    together = ("op", "-+") in tokens or {("op", "("), ("op", ",")} <= {*tokens} or len(signs) > 4
    items, kind = [], "list"
    n = len(signs)
    for flips in {(0,) * n, (1,) * n} if together else product((0, 1), repeat=n):
        signed = list(tokens)
        for i, flip in zip(signs, flips):
            signed[i] = "op", tokens[i][1][flip]
        parser = Parser(signed)
        node = parser.expression()
        if parser.tokens != [END]:
            raise Unreadable(f"unexpected {parser.tokens[-1][1]}")
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

# What names and marks stand for over the real numbers
REAL = {"pi": +MP.pi, "e": +MP.e, "oo": MP.inf, "log": +MP.e, "circ": Fraction(1),
        "%": Fraction(1, 100)}
# From 1/100 to 6 and of both signs, so that no root, absolute value or small term can hide
COORDINATES = [Fraction(n, 1000) for n in (
    1237, 2871, 413, 3319, 1709, 523, 5011, 2203, 811, 4157, 1453, 3701)]
TRIALS = [
    [scale * sign * x for x, sign in zip(COORDINATES[i:] + COORDINATES[:i], cycle(signs))]
    for i, scale, signs in ((0, 1, (1,)), (3, 1, (1,)), (5, Fraction(1, 40), (1,)), (7, 1, (-1,)),
                            (2, 1, (1, -1)), (9, 1, (1, 1, -1)))]
WHOLE = [[Fraction(n + n % 5 * i) for i in range(12)] for n in range(1, 21)]  # for floors


def power(base, exponent):
    """base ** exponent: exact for an integer exponent, the real odd root of a negative number."""
    root = exponent.denominator if isinstance(exponent, Fraction) else 0  # 0: irrational
    bits = abs(MP.mag(base)) + 1 if base else 1
    if isinstance(base, Fraction):
        bits = max(map(int.bit_length, base.as_integer_ratio()))
    if abs(exponent) * bits > MAX_BITS or not base and not MP.convert(exponent).real > 0:
        raise Unreadable("a power is too large" if base else "zero to the power of zero or less")
    if root == 1:
        return base ** int(exponent)
    if root % 2 and not isinstance(base, MP.mpc) and base < 0:
        return (-1) ** (exponent.numerator % 2) * MP.power(-base, exponent)
    return MP.power(base, exponent) if base else Fraction(0)


def floor(x):
    """sqrt(16), carried with 50 digits, may lie just below 4."""
    if isinstance(x, MP.mpc):
        raise Unreadable("not real")
    return Fraction(int(MP.floor(MP.convert(x) + MP.convert(SAME))))


def factorial(x):
    if x and abs(MP.mag(x)) > 11:  # 1500! has 13,700 bits
        raise Unreadable("a factorial is too large")
    is_whole = isinstance(x, Fraction) and x.denominator == 1 and x >= 0
    return Fraction(math.factorial(int(x))) if is_whole else MP.factorial(x)


def binomial(n, k):
    # n + -k: mpmath adds to a Fraction, but does not subtract from one
    return factorial(n) * power(factorial(k) * factorial(n + -k), Fraction(-1))


CALLS = {name: getattr(MP, name) for name in ANALYTIC}
for name, other in zip(TRIG[3:], ("cos", "sin", "tan")):  # mpmath's own are not safe in threads
    CALLS[name] = lambda x, call=CALLS[other]: 1 / call(x)
    CALLS[f"a{name}"] = lambda x, call=CALLS[f"a{other}"]: call(1 / MP.convert(x))
CALLS |= {"+": add, "*": mul, "^": power, ":": lambda x, y: x * power(y, Fraction(-1)), "abs": abs,
          "!": factorial, "binom": binomial, "floor": floor, "ceil": lambda x: -floor(-x)}


def evaluate(node, point):
    """The value at a point (name -> value); it leaves the real numbers only if "i" is there."""
    kind, content = node
    if kind == "number" or kind == "name" and content in point:
        return content if kind == "number" else point[content]
    if kind not in CALLS or kind == ":" and content[2:]:
        raise Unreadable(f"a {kind} has no value")
    if kind in TRIG:
        point = point | {"circ": point.get("degree", MP.pi / 180)}
    value, *others = [evaluate(child, point) for child in content]
    if not others and kind != "abs" and value and abs(MP.mag(value)) > 300:
        raise Unreadable("an argument is too large")
    for other in others:
        value = CALLS[kind](value, other)
        if isinstance(value, Fraction) and value.numerator.bit_length() > 2 * MAX_BITS:
            raise Unreadable("a number is too large")
    value = value if others else CALLS[kind](value)
    if isinstance(value, MP.mpc) and "i" not in point:
        raise Unreadable("not real")
    return value


def variables(*nodes):
    return sorted({node[1] for node in walk(*nodes) if node[0] == "name"} - REAL.keys() - {"i"})


def values_at_points(nodes, point=REAL):
    """The nodes' values at each point where all are defined; over the reals where names are < 0."""
    names, found = variables(*nodes), 0
    trials = TRIALS if names else TRIALS[:1]
    if names and any(node[0] in ("floor", "ceil") for node in walk(*nodes)):
        trials = WHOLE if {*names} <= {*"ijkmnN"} else TRIALS + WHOLE
    for coordinates in trials:
        here = point | dict(zip(names, cycle(coordinates)))
        if min(coordinates) > 0 or ("name", "i") in walk(*nodes):
            here["i"] = MP.j
        try:
            values = [evaluate(node, here) for node in nodes]
        except (ValueError, ArithmeticError):
            continue
        found += 1
        yield values
    if found < min(2, 1 + len(names)):
        raise Unreadable("no value")


def same_number(a, b, tolerance):
    """Equality; within the tolerance if neither is an integer."""
    fractions = [value for value in (a, b) if isinstance(value, Fraction)]
    if any(value.denominator == 1 for value in fractions):
        tolerance = SAME
    if len(fractions) == 2 and tolerance == SAME:
        return a == b
    a, b = MP.convert(a), MP.convert(b)
    size = max(abs(a), abs(b))
    if a == b or size == MP.inf:
        return a == b
    return abs(a - b) <= MP.convert(tolerance) * size or size < MP.convert(SAME) and not fractions


def tolerance(*nodes):
    """DECIMAL_TOLERANCE where there is a decimal."""
    has_decimal = any(kind == "number" and n.denominator > 1 for kind, n in walk(*nodes))
    return DECIMAL_TOLERANCE if has_decimal else SAME


def same_value(a, b, rounding=0):
    """Equal at all points.  % or degrees next to none may mean nothing; log has base e or 10."""
    points = [REAL]
    for mark, factor in (("%", "%"), ("circ", "degree")):
        if (("name", mark) in walk(a)) != (("name", mark) in walk(b)):
            points.append(REAL | {factor: Fraction(1)})
    if ("name", "log") in walk(a, b):
        points.append(REAL | {"log": Fraction(10)})
    return any(all(same_number(x, y, rounding or tolerance(a, b))
                   for x, y in values_at_points([a, b], point)) for point in points)


# --------------------------------------------------------------------------------------------------
# Compare


def title(node):
    """What the left side of an assignment names: x, AB, A:B, (p, q), |AB|, speed; or ""."""
    kind, content = node
    if kind == "text":
        return "" if DENIAL.search(content) else content
    if kind == "name":
        return "" if content in [*REAL, "i", "sum", "int", "prod"] else content
    names = [*map(title, content)] if kind in ("()", ":", "*", "abs", *TRIG) else [""]
    letters = {"abs": "[A-Z]", "*": "^[A-Z,]+$"}.get(kind, "[A-Z]|[a-z]{2}|,")  # not |x|, sin x
    return ",".join(names) if all(names) and re.search(letters, ",".join(names)) else ""


@lru_cache(256)  # a long chain is compared with each item of a list
def assigned(node):
    """(name, value) of x = 5, y = f = 2x or 1/2 = 0.5; ("", node) if nothing is: 42 = 43."""
    sides, signs = (node[1][::2], node[1][1::2]) if node[0] == "relation" else ((node,), "")
    names = [side for side in sides[:-1] if title(side)]
    value, *others = sides = sides[len(names) :]
    if not {*signs} <= {"=", "~=", "in"} or {*variables(*names)} & {*variables(*sides)}:
        return "", node  # x = x + 1
    rounding = Fraction("~=" in signs, 100)  # 7/12 ~= 0.58
    equal_to = is_same if is_tuple(value) else partial(same_value, rounding=rounding)
    if value[0] == "text" or not all(equal_to(value, other) for other in others):
        return "", node  # yes = no
    return title(names[-1]) if names else "", value


def without_names(node):
    """(names, bare value) of assignments: x = 2, y = 1 is (2, 1); x_1 = 2, x_2 = 3 is 2, 3."""
    pairs = [assigned(item) for item in (node[1] if node[0] == "list" else (node,))]
    values = tuple(value for _, value in pairs)
    names = [re.split(r"[_\d]", name)[0] for name, _ in pairs]
    width = len({*names})
    if width == 1:
        return names[0], values[0] if len(values) == 1 else ("list", values)
    if "" in names or names != names[:width] * (len(names) // width):
        return "", node
    rows = tuple(("(=)", values[i : i + width]) for i in range(0, len(values), width))
    return ",".join(names[:width]), rows[0] if len(rows) == 1 else ("list", rows)


def same_relation(a, b):
    """The same equation or inequality, scaled or turned around."""
    if len(a[1] + b[1]) > 6 or "in" in a[1] + b[1]:
        return False
    (low, sign, high), (first, other, second) = a[1], b[1]
    left, right = combine("-", low, high), combine("-", first, second)
    if not variables(left) or variables(left) != variables(right):
        return False
    (x, y), *rest = values_at_points([left, right])
    # left = c * right for one c, which is negative if an inequality is turned
    if not x or not y or not all(same_number(x * v, y * u, tolerance(a, b)) for u, v in rest):
        return False
    turned = sign.translate(str.maketrans("<>", "><")) if MP.convert(x * y).real < 0 else sign
    return other == turned


@lru_cache(1024)
def constant(node):
    """A real number, rounded so that ends of intervals that are equal are identical."""
    return MP.mpf(MP.nstr(MP.convert(evaluate(node, REAL)), 40))


# In a list of sets none may lie in another: (1,9), (2,3) are points, and x<2, x<1 two answers
UNITED = {"cup": any, "list": lambda row: row.count(True) == 1, "cap": all,
          "setminus": lambda row: row[0] and not any(row[1:])}


def contains(node, x):
    """Is the number x in a set of real numbers: an interval, {1, 2}, x < 3, a union ...?"""
    kind, children = node
    if kind in UNITED:
        return UNITED[kind]([contains(child, x) for child in children])
    if kind == "set":
        return x in map(constant, children)
    if is_tuple(node) and len(children) == len(kind) == 2:
        low, high = map(constant, children)
        if low < high:
            return low < x < high or x == low and kind[0] == "[" or x == high and kind[1] == "]"
    sides, signs = (children[::2], children[1::2]) if kind == "relation" else ((), ())
    if signs == ("in",) and title(sides[0]):
        return contains(sides[1], x)
    is_chain = all(map(RELATIONS.get, signs)) and (
        "=" not in signs or len(signs) == 1 and sides[0][0] == "name")
    if not is_chain or [*map(bool, map(title, sides))].count(True) != 1:
        raise Unreadable("not a set of numbers")
    values = [x if title(side) else constant(side) for side in sides]
    return all(RELATIONS[sign](low, high) for sign, low, high in zip(signs, values, values[1:]))


def same_set(a, b):
    """Equal membership at, between and beyond all ends, which decides for unions of intervals."""
    names = [{*variables(side)} - {"?"} for side in (a, b)]
    if all(names) and names[0] != names[1]:
        return False
    values = [constant(node) for node in walk(a, b)
              if node[0] in ("number", *CALLS) or node[0] == "name" and node[1] in REAL]
    ends = sorted({value for value in values if abs(value) < MP.inf}) or [MP.zero]
    between = [(x + y) / 2 for x, y in zip(ends, ends[1:])]
    points = [ends[0] - 1, *ends, *between, ends[-1] + 1]
    return all(contains(a, x) == contains(b, x) for x in points)


def same_items(a, b):
    """Equal as multisets; a solution tuple listed twice is forgiven."""
    if all(map(is_tuple, a + b)):
        return all(any(is_same(x, y) for y in b) for x in a) and all(
            any(is_same(x, y) for x in a) for y in b)
    rest = list(b)
    for item in a:
        match = next((other for other in rest if is_same(item, other)), None)
        if match is None:
            return False
        rest.remove(match)
    return not rest


@lru_cache(1024)  # the parts of nested sets are compared again and again
def is_same(a, b):
    """Do two parsed answers mean the same?  What has no value is not the same."""
    try:
        return a == b or same(a, b)
    except (ValueError, ArithmeticError):
        return False


def same(a, b):
    """is_same, but an error where a part has no value."""
    kinds = {a[0], b[0]}
    if any(node[0] == "relation" for node in walk(a, b)):
        (name, x), (other, y) = without_names(a), without_names(b)
        if (x, y) != (a, b) and (name == other or not (name and other)):
            if is_same(x, y) or {"(=)", "list"} == {x[0], y[0]}:
                return is_same(x, y)  # 2, 1 is not x = 1, y = 2
    if kinds == {":"}:
        return len(a[1]) == len(b[1]) and all(
            same_value((":", (x, a[1][0])), (":", (y, b[1][0]))) for x, y in zip(a[1], b[1]))
    if kinds == {"name", "text"}:
        return a[1].lower() == b[1].lower()  # B is \text{B}
    for node, other in ((a, b), (b, a)):
        if node[0] == "set" != other[0] and len(node[1]) == 1:
            return is_same(node[1][0], other)
    if kinds <= {"list", "set"}:
        return same_items(a[1], b[1])
    if all(is_tuple(node) or node[0] == "list" for node in (a, b)) and len(a[1]) == len(b[1]):
        # 0, 1 and [0, 1] are not (0, 1), but 1, 2, 3 may be (1, 2, 3)
        free = len(kinds) == 1 or "(=)" in kinds or len(a[1]) > 2 or is_tuple(a[1][0])
        if free and all(map(is_same, a[1], b[1])):
            return True
    if kinds == {"relation"} and same_relation(a, b):
        return True
    if is_tuple(a) or is_tuple(b) or kinds & {"set", "list", "relation", *UNITED}:
        return same_set(a, b)
    return same_value(a, b)


def show(node):
    """A tree as text in which brackets show what belongs together: (2 * (x ^ 3))."""
    kind, content = node
    if not isinstance(content, tuple):
        return str(content)
    parts = [part if isinstance(part, str) else show(part) for part in content]
    if kind == "relation" or kind in LEVELS and parts[1:]:
        return f"({(' ' if kind == 'relation' else f' {kind} ').join(parts)})"
    left, right = (kind[0], kind[-1]) if is_tuple(node) else (f"{kind}(", ")")
    return left + ", ".join(parts) + right
