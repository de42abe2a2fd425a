r"""The spelling of answers: one way to write what prints the same, before it is read.

    normalise(r"\left(1{,}250, \tfrac12\right)")  is  r"(1250, \frac12)"
"""

import re
import unicodedata
from collections import namedtuple
from functools import lru_cache

MAX_ANSWER = 2_000  # characters

GREEK = """alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi
    chi psi omega Gamma Delta Theta Lambda Sigma Phi Psi Omega""".split()
SIGNS = "sqrt infty le ge ne approx cup cap in emptyset pm mp setminus circ".split()
UNICODE = str.maketrans(
    {sign: rf"\{name} " for sign, name in zip(
        "αβγδεζηθκλμνξπρστφχψωΓΔΘΛΣΦΨΩ√∞≤≥≠≈∪∩∈∅±∓∖°", GREEK + SIGNS)}
    | dict(zip("−–—⁻⁺×·⋅÷∕⁄⟨⟩", "----+***///()"))
    | dict.fromkeys("。।۔٫", ".") | {"٬": ",", "、": ",", "∶": ":", "℃": r"\circ C"}
    | {"或": " or ", "且": " and ", "和": " and "}
    | {chr(ord("①") + i): f"{i + 1}," for i in range(20)}  # ②③④ is 2, 3, 4, and not 234
    | dict.fromkeys('"“”\u200b\u200c\u200d\u200e\u200f\ufeff')
    | dict.fromkeys(map(chr, [*range(0xA2, 0xA6), *range(0x20A0, 0x20D0)]))  # signs of currencies
    | {"½": r"\frac12", "⅓": r"\frac13", "⅔": r"\frac23", "¼": r"\frac14", "¾": r"\frac34"})
SUPERSCRIPT, SUBSCRIPT = re.compile("([⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿˣ]+)"), re.compile("([₀₁₂₃₄₅₆₇₈₉]+)")  # 10⁻¹²


def mixed_number(match):
    r"""1\frac12 and 1 1/2 are 3/2; an improper fraction is a factor."""
    whole, top, bottom = filter(None, match.groups())
    return f"({whole}+{top}/{bottom})" if 0 < int(top) < int(bottom) else match[0]


def repeating(match):
    r"""0.1\bar{6} is (16 - 1)/90."""
    whole, head, period = filter(lambda group: group is not None, match.groups())
    return f"(({whole}{head}{period}-0{whole}{head})/{'9' * len(period)}{'0' * len(head)})"


def combinations(match):
    r"""C_{10}^3 and {}_{10}C_3 are \binom{10}{3}."""
    return r"\binom{%s}{%s}" % tuple(filter(None, match.groups()))


def derivative(match):
    r"""\dot{x}_0 is x_0', \ddot{x} is x''."""
    is_second, long, short, index = match.groups()
    return (long or short) + (index or "") + "'" * (2 if is_second else 1)


def primes(match):
    r"""^{\prime\prime} is ''."""
    return "'" * match[1].count("prime")


def system(match):
    """The equations of a system, which stand below each other, as a list."""
    return re.sub(r",?\s*\\\\", ", ", match[1].strip().removesuffix(r"\\"))


BASES = "two three four five six seven eight nine ten".split()


def numeral_base(match):
    """The base eight is _8."""
    return f"_{BASES.index(match[1]) + 2}"


POWERS_OF_TEN = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12, "十万": 5, "百万": 6,
                 "千万": 7, "万亿": 12, "百": 2, "千": 3, "万": 4, "亿": 8}  # fmt: skip


def power_of_ten(match):
    r"""*10^{6} in place of a million; a \text{ that opened before the word stays."""
    return f"*10^{{{POWERS_OF_TEN[match[2]]}}}{match[1] or ''}"


def closing_brace(match):
    r"""Nothing in place of a remark; of 5 \text{ kg (when } x=2) the brace that it held."""
    kept = match.string[: match.start()]
    return "}" if kept.count("{") > kept.count("}") else ""


MODULUS = re.compile(
    r"\s*(?:\(?\\bmod\b[^()]*\)?|\\p?mod\s?(?:\{[^{}]*\}|\w+)"
    r"|(?:\\text\s?\{ ?)?\((?:\\text\s?\{ ?)?mod\b[^()]*\)\}?)$")


def residues(text):
    r"""(7, {3, 5}) of x = 3, 12 \pmod{7}; None of a text that is no such."""
    modulus = MODULUS.search(text)
    size = int((re.findall(r"\d{1,9}", modulus[0]) or [0])[0]) if modulus else 0
    listed = text[: modulus.start()].split("=")[-1] if size else ""
    numbers = re.split(r",|(?:\\text\s?\{)?\s*\b(?:or|and)\b\s*\}?", listed)
    is_whole = all(re.fullmatch(r"\s*-?\d{1,99}\s*", number) for number in numbers)
    return (size, {int(number) % size for number in numbers}) if is_whole else None


def without_domain(match):
    """Nothing: 2k, k in Z is 2k; but whole numbers between bounds are no interval."""
    return match[0] if BOUND.search(match.string, 0, match.start()) else ""


INTEGER = re.compile(r"\b([a-z])\s*\\in\s*(?:\\mathbb\s*)?\{?\s*Z\b")
BOUND = re.compile(r"[<>]|\\(?:[lg]eq?|neq?|[lg]t)(?![a-z])|\\[lg]eqslant")
DOMAIN = re.compile(r"(?:\\in|∈)\s*(?:\\mathbb\s*)?\{?\s*([ZNQRC])(?![a-zA-Z])")


def matrix(match):
    """A matrix as a tuple of its rows; one row or one column as a tuple of its cells."""
    rows = [row.replace("&", ",") for row in re.split(r"\\\\|\\(?=[-\d.])", match[1])]
    return f"({','.join(f'[{row}]' if ',' in row else row for row in rows if row.strip())})"


# One spelling instead of several.  The replacement is a text or a function of the match; before and
# after are examples, three spaces apart, and the tests; data is where such answers are found.
Rule = namedtuple("Rule", "pattern replacement before after data", defaults=["MATH"])
MARKS = "✅✓✔☑■□🎉🎊👍💯✨\ufe0f"
# Each changes only how the v of \bf v looks
STYLES = "displaystyle bf rm it bm boldsymbol vec hat underline overrightarrow boxed".split()
# In the order in which they are applied: a rule sees what those before it have made
RULES = [Rule(re.compile(pattern), *row) for pattern, *row in [
    # A complement, a mean, a conjugate is not the letter; the line over AB is the segment
    (r"\\(?:bar|overline)\s*(?:\{\s*([a-zA-Z])\s*\}|([a-zA-Z])(?![a-zA-Z]))", r"\1\2'''",
     r"\bar{z}   \overline z", "z'''   z'''", "OlympiadBench"),
    # What does not show, or is style only
    (r"\\(?:left|right)(?![a-zA-Z])\.?|\\!\s*|\\(?:[bB]igg?[lrm]?|math(?!bb|rm|ring)[a-z]+|"
     rf"{'|'.join(STYLES)}|(?:bar|overline)(?=\s*\{{?\s*[a-zA-Z]))(?![a-zA-Z])", "",
     r"\left(1\right)   1\! 2   \bigl(1)   \mathbf v   \bf v   \overline{AB}",
     "(1)   12   (1)   v   v   {AB}"),
    (r"\\(?:text)?color\s*\{[^{}]*\}", "", r"\color{red}{4}   {\color{red}4}   \textcolor{red}{4}",
     "{4}   {4}   {4}"),
    (rf"(?<=\S)(?<![{MARKS}])\s*(?:(?:[{MARKS}]|\\(?:checkmark|blacksquare|square)\b)[$\s]*)+$"
     r"|\\(?:pounds|yen|euro)(?![a-z])\s*", "",
     r"7 ✅   7 \checkmark   7 $\blacksquare$   \pounds 5", "7   7   7 $   5", "responses"),
    (r"(?:m?\\angle|(?<=_\{)\\triangle)(?![a-zA-Z])", "", r"m\angle A=60   S_{\triangle ABC}",
     "A=60   S_{ ABC}", "OlympiadBench"),
    (r"\\AA(?![a-zA-Z])|\\mathring\s*\{A\}", "Å", r"5 \AA", "5 Å", "Minerva"),
    (r"(?<=\d)(?:\{,\}|\\[,;: ]|[ '’~])(?=\d{3}(?!\d))", "",
     r"(1{,}250, 3)   1\,250   1\;250   1 250   1'250   1~250",
     "(1250, 3)   1250   1250   1250   1250   1250"),
    (r"\{,\}|(?<=\d),?\{\}(?=-?\d)", ",",
     "6,8{,}10   7,-2,{}-5   12{}13", "6,8,10   7,-2,-5   12,13"),
    (r"\\dot\s*\{?(\d)\}?(\d*)\\dot\s*\{?(\d)\}?", r"\\overline{\1\2\3}", r"0.\dot{3}\dot{6}",
     r"0.\overline{36}", "responses"),
    (r"(?<!\d)(\d*)\.(\d*)(?:\\(?:overline|bar|dot)\s*\{?(\d+)\}?|(?<=\.)\((\d+)\))", repeating,
     r"0.\overline{3}   0.1\bar6   0.\dot{6}   1.(6)",
     "((03-00)/9)   ((016-001)/90)   ((06-00)/9)   ((16-01)/9)"),
    (r"(?<!\d)(\d*)\.(\d{0,6}?)(\d{1,6}?)\3+(?:\.{3}|\\[lc]?dots)$", repeating,
     r"0.1666...   1.2323\ldots", "((016-001)/90)   ((123-01)/99)", "responses"),
    (r"(?:\{\}\s*_\{?(\w+)\}?\s*C_\{?(\w+)\}?|C_\{(\w+)\}\^\{?(\w+)\}?)",
     combinations,
     r"C_{10}^3   {}_{10}C_3", r"\binom{10}{3}   \binom{10}{3}", "responses"),
    (r"\\(d)?dot\s*(?:\{\s*(\\?[a-zA-Z]+)\s*\}|(\\[a-zA-Z]+|[a-zA-Z]))(_(?:\{[^{}]*\}|\w))?",
     derivative,
     r"m\ddot{x}   \dot\theta   \dot{x}_0 t", r"mx''   \theta'   x_0' t", "Minerva"),
    (r"\^\{(-?\d)\}(?=(?:[^{}^]|\^(?:\{-?\d\})?)*\})", r"^\1", r"9\text{ m^{2} s^{-2}}",
     r"9\text{ m^2 s^-2}", "Minerva"),
    (r"\\\\\s?\[-?[\d.]+[a-z]{2}\]", r"\\\\",
     r"\begin{pmatrix}1\\[6pt]2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    (r"(?:(?<!\\)\\(?:[$()\[\],;:> ]|q?quad)|[$~ ])+|\*\*(?= ?$)|^ ?\*\*", " ",  # runs are slow
     r"\(1\)   \[1\]   $1$   \$1   1~\,\;\:\> n   1\quad n   **1**",
     "1   1   1   1   1 n   1 n   1", "responses"),
    (r"\\begin\s*\{(?:[pbB]?matrix|smallmatrix|array\}\s*\{[^{}]*)\}(.*?)\\end\s*\{[a-zA-Z]*\}",
     matrix, r"\begin{pmatrix}1&2\\3&4\end{pmatrix}   \begin{smallmatrix}1\\2\end{smallmatrix}   "
     r"\begin{array}{cc}1&2\end{array}", "([1,2],[3,4])   (1,2)   ([1,2])"),
    # Other names of the same
    (r"\\begin\s*\{(?:cases|aligned)\}([^&]*?)\\end\s*\{[a-z]*\}",
     system,
     r"\begin{cases} x=3 \\ y=4 \end{cases}", "x=3, y=4", "responses"),
    (r"\\[dtc](?=frac|binom)", r"\\",
     r"\dfrac{1}{2}   \cfrac12   \tbinom42", r"\frac{1}{2}   \frac12   \binom42"),
    (r"(^|\{)([^{}]*)\\(over|choose)(?![a-zA-Z])([^{}]*)(\}|$)", r"\1\\\3{\2}{\4}\5",
     r"3 \over 6   {4 \choose 2}", r"\over{3 }{ 6}   {\choose{4 }{ 2}}"),
    (r"\\(?:text[a-z]+|mathrm|mbox|operatorname)\s*\*?\s*\{", r"\\text{",
     r"\textbf{a}   \mathrm{m}   \mbox{cm}   \operatorname{no}",
     r"\text{a}   \text{m}   \text{cm}   \text{no}"),
    (r"(?<=\d)\s*(?:\\text\s?\{)?\s*\(?(?:in )?base[ }]{1,3}(\w+)\)?\}?(?: ?\\text\s?\{\)\})?$",
     r"_{\1}", r"11 \text{ (base 2)}   11 in base 2   56 \text{ (base } 7 \text{)}",
     "11_{2}   11_{2}   56_{7}"),
    (r"(?<![a-z^_])[({](\d\w*|[A-F]\d+)[)}]_", r"\1_", "{A5}_{11}", "A5_{11}"),
    (r"(?<=\d)\\text\s?\{([A-F]+)\}(?=\d*_)", r"\1", r"1\text{AF}_{16}", "1AF_{16}"),
    (r"(?<=\d)_\{?\s*(?:\\text\s?\{|\()\s*(\w+)\s*[)}]+", r"_{\1}",
     r"11_{(2)}   11_\text{two}", "11_{2}   11_{two}"),
    (rf"(?<=\d)_\{{({'|'.join(BASES)})\}}", numeral_base,
     "11_{two}   2516_{eight}", "11_2   2516_8"),
    (r"\\text\s?\{\s*(-?\w?\d[^{}]*|[^{}a-zA-Z]*)\}", r"\1",
     r"\text{12}   2\text{:}3   \text{(1,2)}", "12   2:3   (1,2)"),
    (r"(?<=\d)\{:\}|(?<=\d) ?(?:to|\\text\s?\{ ?to ?\}) ?(?=\d+$)", ":",
     r"3{:}4   3 to 4   3 \text{ to } 4", "3:4   3:4   3:4", "responses"),
    (r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree", r"\\circ ",
     r"9^\circ   9^{\circ}   9\degree", r"9\circ   9\circ   9\circ"),
    (r"\\equiv(?![a-zA-Z])", "=", r"f(x) \equiv 0", "f(x) = 0", "OlympiadBench"),
    (r"\^\s*\{?\s*((?:\\prime\s*){1,3})\}?", primes,
     r"y^{\prime}   y^{\prime\prime}", "y'   y''", "OlympiadBench"),
    (r"(?<![\w.}])(\d+(?:\.\d+)?)'{1,2}$", r"\1", "5'   0.49''", "5   0.49", "Minerva"),
    (r"\\text\s?\{ ?(?:arc)?sec ?\}$", r"\\text{seconds}",
     r"5 m/\text{sec}", r"5 m/\text{seconds}", "Minerva"),
    (r",? ?(?:\\text\s?\{ ?)?\(?(?:since|because)\b(?:(?!\b(?:or|no|not)\b)[^,;]){0,80}$"
     r"| ?(?:\\text\s?\{ ?)?\((?:when|where|at|attained|achieved|occurs)\b[^(),;]*\)\}?$",
     closing_brace,
     r"k = 7 \text{ (since } k>0)   7 because 3 + 4 is 7   4 \text{ (when } x=2\text{)}",
     "k = 7   7   4", "responses"),
    (r"(?<=\d)\s*x\s*(?=10\s*\^)", "*", "3.2x10^5", "3.2*10^5", "responses"),
    (r"(?<=[\])}])\s*U\s*(?=[\[({\\])", r"\\cup ", "(0,1)U(2,3)", r"(0,1)\cup (2,3)", "responses"),
    (r"(?<=\})\s*-\s*(?=\\\{)", r"\\setminus ",
     r"\mathbb{R}-\{0\}", r"\mathbb{R}\setminus \{0\}", "responses"),
    (r"(?:^|(?<=in)|(?<=cup)) ?\]", "(", r"]2,5)   x\in]2,5)   (0,1)\cup]2,5)",
     r"(2,5)   x\in(2,5)   (0,1)\cup(2,5)", "responses"),  # as in France
    (r"(?<=[\da-z}])\[(?= ?(?:\\cup|$))", ")", r"(2,5[   (2,\infty[\cup (0,1)",
     r"(2,5)   (2,\infty)\cup (0,1)", "responses"),
    (r"\\emptyset|\\varnothing", r"\\{\\}", r"\emptyset   \varnothing", r"\{\}   \{\}"),
    (r"(?<=\d)\^?\{?(?:\\text\s?\{)?(?:st|nd|rd|th)\b\}{0,2}$", "",
     r"21st   22nd   23rd   30th   7^{\text{th}}", "21   22   23   30   7"),
    # Numbers in words are numbers, not units
    (rf"(?<=[\d}}]) ?(\\text\s?\{{ ?)?({'|'.join(POWERS_OF_TEN)})(?![a-z克米瓦帕焦卡伏赫分]| ?\d)",
     power_of_ten, r"1.5 million   3 \text{ billion dollars}   5万",
     r"1.5*10^{6}   3*10^{9}\text{ dollars}   5*10^{4}", "responses"),
    (r"^(?:\\text\s?\{ ?)?(?!NOT)[A-Z]{3}[ }]+(?=\d)", "",
     r"USD 18.90   \text{EUR }5", "18.90   5", "responses"),
    (r"(?<=\d) ?sec\b\.?$", "", "30 sec", "30", "GSM8K"),
    # 2x for all x, and 3+2k, k in Z; {x : x > 3} is x > 3, and f(x) = ... is f = ...
    (r"(?:,\s*)?(?:\\forall(?![a-zA-Z])|(?:\\text\s?\{\s*)?\bfor (?:all|any|every)\b)"
     r"[^,;=\d]{0,60}$", "", r"2x \text{ for all }x   2x for any x   2x, \forall x \in \mathbb{R}",
     "2x   2x   2x", "OlympiadBench"),
    (r"(?:,| ?\(|,? ?(?:\\text\s?\{ ?)?(?:for|where) ?\}?)\s*[a-z]\s*\\in\s*(?:\\mathbb\s*)?"
     r"\{?[ZN]\}?(?:[_^]\{?[*+]\}?)?\s*\)?$", without_domain,
     r"2k, k\in\mathbb{Z}   2n-1 (n \in \mathbb{N}^*)", "2k   2n-1", "responses"),
    (r"(\\\{|^\{(?=.*(?:[<>=]|\\[lg]e|\\ne|\\in)))\s*[a-zA-Z]\s*"
     r"(?:\\in\s*\\mathbb\s*\{?R\}?)?\s*(?:[|:]|\\mid)", r"\1",
     r"\{x : x>3\}   \{x\in\mathbb{R} \mid x>3\}", r"\{ x>3\}   \{ x>3\}", "responses"),
    (r"\\mathbb\s*\{?R\}?", r"(-\\infty,\\infty)", r"\mathbb{R}", r"(-\infty,\infty)"),
    (r"(^|= ?)\{?([a-zA-Z])\}?\s*\^\s*\{?-1\}?\s*(?==|\([a-z]\)\s*=)", r"\1\2' ",
     r"f^{-1}(x)=2x   A^{-1}=(1,2)", "f' (x)=2x   A' =(1,2)"),
    (r"(?<![-+*/)a-zA-Z])(?<![-+*/)] )(?<!\b[a-zA-Z] )"
     r"([a-zA-Z]'*)\s*\([a-zA-Z](?:,\s*[a-zA-Z])*\)\s*(?=[=<>]|\\[lg]e)", r"\1 ",
     "f(x)=2x   u(x, t)=x", "f =2x   u =x", "OlympiadBench"),
    (r"\bP\s*\([^()]*\)\s*(?==)", "P", "P(X = 2) = 3/8", "P= 3/8"),
    (r"(?<![\d.^_}/])(\d+)(?:\s*\\frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))"
     r"| +(\d+)/(\d+))(?!\.?\d)", mixed_number,
     r"1\frac12   1\frac{1}{2}   1 1/2", "(1+1/2)   (1+1/2)   (1+1/2)"),
]]


@lru_cache(256)
def normalise(text):
    """The text without layout, with one spelling of each sign and style."""
    text = SUBSCRIPT.sub(r"_{\1}", SUPERSCRIPT.sub(r"^{\1}", text[:MAX_ANSWER]))
    text = unicodedata.normalize("NFKC", text.translate(UNICODE))[:MAX_ANSWER]
    text = re.sub(r"\s+", " ", text)  # a long run would make the patterns slow
    if r"\begin" not in text:
        text = re.sub(r"\\\\(?=[a-zA-Z])", r"\\", text)  # \\sqrt{5}: escaped once too often
    dummy = INTEGER.search(text)
    if dummy and dummy[1] != "k":  # n pi, n in Z, is k pi, k in Z
        text = re.sub(rf"(?<![a-zA-Z\\]){dummy[1]}(?![a-zA-Z])", "k", text)
    for rule in RULES:
        text = rule.pattern.sub(rule.replacement, text)
    text = text.strip()
    return text if text.endswith("..") else text.rstrip(" .,;:\\")  # the sentence's end
