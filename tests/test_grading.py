"""Grading by kind, and verifiers of one's own.    python -m pytest tests/test_grading.py"""

import time

import pytest

from plumbing.grading import answer_in, grade, grade_all, load_grader

MATH = {"kind": "math", "problem": "?", "answer": "18"}
BBH = {"kind": "bbh", "problem": "?"}
OPTIONS = {"kind": "choice", "problem": "?", "options": ["1", "2", "3", "4"], "answer": "B"}
CLAYS = ["red clay", "blue sand", "grey mud", "white chalk", "black soil", "brown peat",
         "pink salt",
         "gold dust", "iron ore", "tin ash"]  # fmt: skip


@pytest.mark.parametrize("response, letter", [
    ("The answer is (B).", "B"), ("Answer: C", "C"), ("**Answer:** D", "D"),
    ("The answer is $\\boxed{\\text{(D)}}$", "D"), ("so \\boxed{\\text{B}}", "B"),
    ("\\boxed{3}", "C"), ("The correct option is **A**.", "A"), ("Answer:\nB", "B"),
    ("A cat. B is out. The best is (C)", "C"), ("A\n", "A"), ("no idea", None), ("", None),
    ("Final Answer: (B) the second", "B"), ("answer is (A)... no wait, Answer: B", "B"),
    ("I am sure it is big", None), ("the answer is a number, so C.", "C"),
    ("The answer is (J)", None), ("<think>Answer: A</think>Hm. D", "D"),
    ("the answer is:\n\n(C)", "C"), ("The answer is \\(C\\).", "C"),
    ("A common wrong answer is B. Here it is \\boxed{C}.", "C"),
    ("A common wrong answer is B. It is C.", "C"), ("The answer is not (B). It is (C).", "C"),
    ("Answer: I'll go step by step. 3 + 4 = 7, so (C).", "C"), ("Answer: A or B", None),
    ("Answer: A train moves at 3 m/s for 2 s: \\boxed{D}", "D"),
    ("The answer is (A) or (B).", None),
    ("The answer is I don't know.", None), ("The answer is A mystery to me.", None),
    ("A train leaves. I think that it is hard.", None), ("so I = 5 A.", None),
    ("F = m a = 3 C", None),
    ("The answer is (B). This answer is correct.", "B"), ("A is correct. B is wrong.", "A"),
    ("\\boxed{A, B}", None), ("\\boxed{b}", "B"), ("\\boxed{(d)}", "D"), ("\\boxed{2}", "B"),
    ("\\boxed{7} so the answer is (B)", "B"), ("<answer>(C)</answer>", "C"),
    ("\\boxed{A} is tempting, but it is \\boxed{C}", "C"), ("Answer: A\\\\\\boxed{B}", "B"),
    ("The answer is (C).\n\nQuestion:\nnext\nAnswer: the answer is (D).", "C"),
    ("Therefore, the answer should be (B), since (A) dissolves in water.", "B"),
    ("Hence the answer would be B, as A is too soft.", "B"),
    ("So the correct choice has to be (B) and not (A).", "B"),
    ("The answer is (b).", "B"), ("Therefore, option (b) is correct.", "B"), ("**(b)**", "B"),
    ("(b) blue sand", "B"), ("(a) is small and\n(b) is large", None),
    ("所以答案是B。", "B"), ("综上，选B。", "B"), ("答案为B", "B"),
    ("选项A正确，选项B错误。", "A"), ("【答案】C\n【解析】A项和B项不对", "C"), ("答案是A，不是B。", "A"),
    ("只有A正确，B、C、D都不对。", "A"), ("选B, 不选A", "B"),
    # what stands on the next line is no part of "A cat"
    ("Answer: C\n\nExplanation: green is a mix.", "C"), ("The answer is C\n\nHope it helps!", "C"),
    ("**Answer: C**\n\nExplanation: B is blue.", "C"),
    ("### Answer\nC\n\nGrass is green, A is red.", "C"),
    # denied, or one of several
    ("I would not choose B.", None), ("The answer is 15, not (B).", None), ("\\boxed{A/B}", None),
    ("\\boxed{\\text{not B}}", None), ("Answer: B & A", None), ("Answer: B, D", None),
    ("The answer is (B)/(A).", None), ("The answer is (B), (D).", None), ("(A)/(B)", None),
    ("B and D are correct.", None), ("It is either B or D.", None), ("Neither B nor C", None),
    ("The answer is B, and C is wrong.", "B"), ("Between A and B, B is better.", "B"),
    ("Given A, B is better.", "B"), ("A or B is correct.", None), ("A or B is the answer", None),
    ("Eliminating A, C and D leaves B.", "B"), ("The answer is B, A train.", "B"),
    *((f"\\boxed{{{text}}}", None) for text in (
        r"B\text{ is not right}", r"B\text{ is false}", r"\text{All but B}", r"\neg B", "排除B",
        "非B", "除B外", "B错误", "B和C", "B、C")),
    *((text, None) for text in (
        r"\boxed{B}\text{ is wrong}", r"It is not \boxed{B}.", "B is incorrect.", "I ruled out B.",
        "Option (B) cannot be correct.", "I would eliminate B.", "The wrong option is B.",
        "Answer: B is wrong", "The answer is other than B.", "The answer is anything but B.",
        "The least likely answer is B.", "The answer is B, or possibly C.", "答案是B、C。",
        "The answer is B as well as C.", "答案是B和C。", "故选B、C", "选项B错误", "选项B不正确", "B项错误",
        "故B错", "答案是非B", "答案是除B以外的")),
    ("The answer is B rather than C.", "B"), ("can't be A or C, so (B)", "B"),
    ("选B，因为A错误", "B"), ("A错误，B正确", "B"), ("排除A，故选B", "B"), ("答案：B。A、C错。", "B"),
    ("The answer is not A but B.", "B"), ("B is right; A is wrong.", "B"),
    ("Answer: B. Wait, that's wrong. It should be C.", "C"),
    ("\\boxed{B \\text{ is incorrect}}", None),
    ("So B, not A.", "B"), ("The answer is 2.", "B"), ("Answer: three", None),
])  # fmt: skip
def test_choice_letters(response, letter):
    """Bug: the words "A" and "I" as letters, markup in the way, an illegal letter, a guess."""
    assert answer_in(OPTIONS, response) == letter
    assert grade({**OPTIONS, "answer": "C"}, response) == float(letter == "C")


FORMS = [
    "The answer is ({L}).", "Answer: {L}", "\\boxed{{{L}}}", "\\boxed{{{T}}}", "{L}", "({L})",
    "{L})", "{L}.",
    "The answer is {L}. {T}", "the correct option is **{L}**.", "Final Answer: ({L}) {T}",
    "{L}. {T}",
    "So {L} because it is.", "{L}: {T}", "\\boxed{{{L}: {T}}}", "\\boxed{{\\text{{{L}. {T}}}}}",
    "<answer>{L}</answer>", "<answer>{L}. {T}</answer>", "Option {L}: {T}", "{L} is correct.",
    "{L} is the right answer, as it is red.", "The answer is {L} because of its iron.",
    "I choose {L}.",
    "The answer is {L} {T}", "The best choice is {L}, since it fits.", "Option {L}",
    "Answer: {L}) {T}",
    "**{L}**", "**Answer: {L}**", "Answer is \\text{{{L}}}", "$\\boxed{{\\mathrm{{{L}}}}}$",
    "It must be {L}!",
    "\\boxed{{({L}) {T}}}", "\\boxed{{{L}) {T}}}", "the answer is option {L}",
    "The answer: {L} - {T}",
    "\\boxed{{{L} {T}}}", "({L}) {T}", "{L} {T}", "Answer:\n\n{L}\n", "My answer is `{L}`.",
    "{L}, I think.",
    "The correct answer is: $\\boxed{{\\textbf{{({L})}}}}$", "So the answer is {L}.<|im_end|>",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_letter_gets_the_same_verdict(form):
    """Bug: "A. red clay" is right for B, C, D and no answer for A and I: 12 of 31 forms."""
    for letter, text in zip("ABCDEFGHIJ", CLAYS, strict=True):
        problem = {"kind": "choice", "problem": "?", "options": CLAYS, "answer": letter}
        assert answer_in(problem, form.format(L=letter, T=text)) == letter


def test_an_option_is_its_value():
    """Bug: the right option's text in another spelling is no answer."""
    problem = {**OPTIONS, "options": ["\\frac{1}{2}", "\\frac{1}{3}", "2", "2.0"], "answer": "A"}
    for box in ("\\frac{1}{2}", "\\dfrac{1}{2}", "\\frac12", "0.5"):
        assert answer_in(problem, f"\\boxed{{{box}}}") == "A"
    assert answer_in(problem, "\\boxed{\\frac42}") is None  # two options have this value


def test_more_than_ten_options_are_letters_too():
    """Bug: K to Z are no letters."""
    problem = {"kind": "choice", "problem": "?", "options": [f"o{i}" for i in range(26)],
               "answer": "Z"}
    assert [answer_in(problem, text) for text in ("Answer: Z", "\\boxed{o25}", "(K)")] == ["Z", "Z",
                                                                                           "K"]


@pytest.mark.parametrize("answer, response, right", [
    # letters
    ("(A)", "So the answer is (A).", 1), ("(A)", "the answer is A", 1),
    ("(B)", "So the answer is (B) 11/11/2018.", 1), ("(B)", "The answer is **B) kite**", 1),
    ("(B)", "The answer is: **(B) x**", 1), ("(B)", "The correct answer is option (B).", 1),
    ("(B)", "Answer: (B)", 1), ("(B)", "The answer is \\boxed{\\text{(B)}}.", 1),
    ("(R)", "So the answer is (R).", 1), ("(B)", "So the answer is (b).", 1),
    ("(B)", "The answer is (A). Wait. The answer is (B).", 1), ("(B)", "It is (B).", 0),
    ("(E)", "The answer is (E), since (A) and (B) are wrong.", 1),
    ("(B)", "The answer is not (A). \\boxed{(B)}", 1),
    *(("(A)", f"So the answer is {text}.", 0) for text in (
        "not (A)", "anything but (A)", "all except (A)", "(A) is false", "¬(A)", r"\boxed{not (A)}")),
    ("(A)", "So the answer is (A), not (B).", 1),
    ("No", "The answer is as follows:\n\n\\boxed{No}", 1), ("(A)", "The answer is (A), (B).", 0),
    ("(A)", "the answer is (A) or (B).", 0), ("(A)", "the answer is A blue book", 0),
    ("(B)", "So the answer is 11/11/2018.", 0),
    # a closing remark is no answer
    ("(A)", "So the answer is (A). This answer is correct.", 1),
    ("Yes", "So the answer is Yes. The answer is clearly right.", 1),
    ("valid", "The answer is valid. This answer is consistent with the premises.", 1),
    ("invalid", "So the answer is valid. Wait. So the answer is invalid.", 1),
    ("24", "the answer is 24. My answer is verified.", 1), ("(A)", "The answer is correct.", 0),
    # yes / no, true / false, valid / invalid
    ("Yes", "The answer is yes.", 1), ("No", "answer is **No**.", 1), ("no", "answer is No", 1),
    ("No", "So the answer is No. We are 2 steps away.", 1), ("No", "The answer is “No.”", 1),
    ("Yes", "the answer is Yes, because", 0), ("Yes", "The answer is", 0), ("Yes", "Yes", 0),
    ("Yes", "\\boxed{Yes}", 1), ("True", "the answer is not False.", 0),
    ("valid", "the answer is invalid.", 0), ("invalid", "the answer is Invalid.", 1),
    # a further question of the model's own
    ("Yes", "So the answer is No.\n\nQ: next\nA: So the answer is Yes.", 0),
    ("No", "So the answer is No.<|im_end|>\nSo the answer is Yes.", 1),
    # brackets, numbers, word lists
    ("] ] >", "So the answer is ] ] >.", 1), ("] ] >", "the answer is ]]>.", 1),
    ("] ] >", "the answer is ] >", 0), ("> )", 'So the answer is "> )".', 1),
    ("} )", "\\boxed{\\} )}", 1), ("11520", "the answer is 11,520.", 1),
    ("50", "the answer is -50.", 0), ("-50", "the answer is −50.", 1),
    ("24", "So the answer is\n24.", 1), ("8", "So the answer is 8 flutes.", 0),
    ("ant bee cow", "the answer is ant, bee, cow", 1), ("ant bee", "the answer is bee ant", 0),
    ("Monsters, Inc", "So the answer is Monsters, Inc.", 1),
])  # fmt: skip
def test_bbh_answers(answer, response, right):
    """Bug: the first "answer is" taken, a made-up next question, two options, order, sign."""
    assert grade({**BBH, "answer": answer}, response) == right


@pytest.mark.parametrize("answer, response, right", [
    ("18", "#### 18", 1), ("18", "#### $18.00", 1), ("18", "#### 18.5", 0), ("18", "#### -18", 0),
    ("18", "####", 0), ("70000", "#### $70,000.00", 1),
    ("3", "A: 3", 1), ("3", "Answer: 3", 1), ("3", "The answer is 3 bolts.", 1),
    ("3", "The answer is three.", 0), ("3", "The total is 2 + 1 = 3 bolts.", 0),
    ("5", "The answer is 3.\n\nQ: next?\nA: The answer is 5.", 0),
    ("18", "#### 18\n\nQuestion: next\nAnswer: \\boxed{5}", 1),
    ("3", "#### 3\n\nTom has 5 apples. How many?\n#### 5", 1),
    ("3", "#### 3 bolts\n\nTom has 5 apples. How many?\n#### 5", 1),
    ("25", "#### 25<|endoftext|>", 1), ("25", "#### Conclusion\nThe answer is 25.", 1),
    ("540", "The answer is 540 meters a week.", 1), ("104", "#### 104 pounds of food", 1),
    ("104", "The answer is $104/week.", 1), ("104", "#### 104, 105", 0),
    ("540", "The answer is 3 x 3 x 60 = 540 meters.", 1), ("1450", "The answer is USD 1,450.", 1),
    ("18", "The answer is 9*2=$<<9*2=18>>18.", 1), ("20", "The answer is 20%.", 1),
    ("20", "The answer is 0.2.", 0), ("10", "The answer is 10 or 12.", 0), ("5", "#### 5 dozen", 0),
    ("6", "#### 6 feet 3 inches", 0), ("10", "#### 10-12", 0), ("10", "The answer is 10:30.", 0),
    ("540", "The answer is 540m.", 1), ("2", "The answer is 2x.", 0),
    ("25", "The answer is that Bo has 25 apples.", 1), ("25", "The answer is not 25.", 0),
    ("540", "The answer is a total of 540 meters.", 1), ("3", "The answer is at least 3.", 0),
    ("2", "The answer is n 2.", 0), ("3", "The answer is negative 3.", 0),
    ("27", "\\boxed{27.0}", 1), ("18", "\\boxed{18", 0),
    ("18", "**Final Answer:** Jo makes **$18** every day at the farmers' market.", 1),
    ("18", "#### Step 2: compute\n9*2=18\n#### Final Answer\n**$18**", 1),
    ("9", "<thinking>\\boxed{9}</thinking> I could not do it.", 0), ("9", "\\boxed{9} is wrong.", 0),
    ("9", "It is not \\boxed{9}.", 0), ("9", "So not 8. \\boxed{9}", 1), ("9", "\\boxed{9} is right", 1),
    ("9", "\\boxed{5} 或 \\boxed{9}", 0), ("9", "The answer is 9, or maybe 10.", 0),
    ("42", "\\boxed{42" + " apples" * 300 + " or 43}", 0),
    ("8", "The answer is 2**3.", 1), ("3", "答案是不是3", 0), ("3", "答案是3个。", 1),
])  # fmt: skip
def test_gsm8k_answers(answer, response, right):
    """Bug: the last number taken, a unit in the way, a made-up next question, 5 dozen as 5."""
    assert grade({**MATH, "answer": answer}, response) == right

@pytest.mark.parametrize("kind, error, answer, response, right", [
    ("olympiad", 0.1, "4.2", "\\boxed{4.1}", 1), ("olympiad", 0.1, "4.2", "\\boxed{4.31}", 0),
    ("olympiad", 0, "4.2", "\\boxed{4.21}", 0), ("olympiad", 0, "2, -1", "\\boxed{-1, 2}", 1),
    ("olympiad", 0, "(2,1)", "\\boxed{(1,2)}", 0), ("olympiad", 0, "[1,2)", "\\boxed{(1,2]}", 0),
    ("olympiad", 0, "6", "\\boxed{6 \\text{ square inches}}", 1),
    ("minerva", 0, "4.5e33", "\\boxed{4.52 \\times 10^{33} \\text{ erg/s}}", 1),
    ("minerva", 0, "4.5e33", "\\boxed{4.6e33}", 0), ("minerva", 0, "-10", "\\boxed{10}", 0),
    ("minerva", 0, "0", "\\boxed{0.001}", 0), ("minerva", 0, "1e-5", "\\boxed{10^{-5}}", 1),
    ("minerva", 0, "9.8", "\\boxed{9.81 \\mathrm{~m} \\cdot \\mathrm{s}^{-2}}", 1),
    ("minerva", 0, "20", "\\boxed{20.1^\\circ}", 1), ("minerva", 0, "3", "\\boxed{3^2}", 0),
    ("minerva", 0, "\\frac{1}{s+a}", "\\boxed{\\frac{1}{a+s}}", 1),
    ("minerva", 0, "2", "\\boxed{2\\sqrt{3}}", 0), ("minerva", 0, "2", "\\boxed{2\\pi}", 0),
    ("minerva", 0, "10", "\\boxed{10^{5}}", 0), ("minerva", 0, "2 m", "\\boxed{2}", 0),
])  # fmt: skip
def test_tolerances_by_kind(kind, error, answer, response, right):
    """Bug: a tolerance where there is none, 10^{5} read as 10, 2 for 2 sqrt 3, order lost."""
    problem = {"kind": kind, "problem": "?", "answer": answer, "error": error}
    assert grade(problem, response) == right


@pytest.mark.parametrize("answer, gold", [
    (r"2-\frac{1}{2^{100}}", r"2-\frac{1}{2^{99}}"), ("1", r"1-\frac{1}{2^{100}}"),
    (r"1-\frac{1}{2018!}", r"1-\frac{1}{2019!}"), (r"\frac{1}{2^{2018}}", "0"),
    (r"\log_2(2^{100}-1)", "100"), ("1-e^{-50}", "1"), ("5.00000000000000001", "5"),
    (r"\sqrt{10^{20}+1}", "10^{10}"), (r"-\infty", r"\infty"),
    (r"1-e^{-100}", "1"), (r"\tanh 100", "1"),
])  # fmt: skip
def test_what_floats_cannot_tell_apart_is_not_equal(answer, gold):
    """Bug: off-by-one sums are right in evaluation, since both are one float."""
    for kind in ("math", "olympiad"):
        assert grade({**MATH, "kind": kind, "answer": gold}, rf"\boxed{{{answer}}}") == 0
    assert grade({**MATH, "kind": "minerva", "answer": r"\infty"}, r"\boxed{-\infty}") == 0


def test_training_wants_a_box_and_strict_compares_text():
    """Bug: training rewarded for "####" or words; figures called strict that are symbolic."""
    for text, boxed in (("#### 18", 0), ("\\boxed{a total of 18}", 0), ("\\boxed{18}", 1)):
        assert grade(MATH, text) == 1 and grade(MATH, text, loose=False) == boxed
    quarter = {**MATH, "answer": "\\frac{1}{4}"}
    assert grade(quarter, "\\boxed{0.25}") == 1
    assert grade(quarter, "\\boxed{0.25}", strict=True) == 0
    assert grade(quarter, "\\boxed{\\dfrac{1}{4}}", strict=True) == 1
    counts = {}  # of the reasons, which the log of a training shows
    texts = ["\\boxed{18}", "#### 18", "\\boxed{", "\\boxed{7}", "\\boxed{18}"]
    assert grade_all([MATH] * 5, texts, loose=False, counts=counts) == [1.0, 0.0, 0.0, 0.0, 1.0]
    answers = ["The answer is (B).", "(C)", "hm"]
    assert grade_all([OPTIONS] * 3, answers, loose=False, counts=counts) == [1.0, 0.0, 0.0]
    assert counts == {"right": 3, "no answer": 2, "truncated": 1, "wrong": 2}


def test_a_thought_that_the_prompt_opened_ends_before_the_answer():
    """Bug: a response cut within its thought is right by a box that it only tried."""
    problem = {**MATH, "answer": "4", "opens_thought": True}
    for text, right in (("maybe \\boxed{4} ... wait", 0), ("hm</think> \\boxed{4}", 1),
                        ("\\boxed{4}</think> no", 0)):  # fmt: skip
        for loose in (True, False):
            assert grade(problem, text, loose) == right


def test_any_of_several_golds_is_right():
    """Bug: two alternatives graded as one answer of two parts; training and evaluation differ."""
    half = {**MATH, "answer": "\\frac{1}{2}", "alternatives": ["\\frac{1}{2}", "\\text{half}"]}
    texts, counts = ["\\boxed{0.5}", "\\boxed{half}", "\\boxed{\\frac{1}{2}, half}", "\\boxed{2}",
                     ""], {}
    assert grade_all([half] * 5, texts, loose=False, counts=counts) == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert grade_all([half] * 5, texts) == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert counts["right"] == 2 and sum(counts.values()) == 5
    minerva = {"kind": "minerva", "problem": "?", "answer": "9.8", "alternatives": ["9.8", "32"]}
    assert grade(minerva, "\\boxed{32.1}") == 1 and grade(minerva, "\\boxed{34}") == 0


def test_no_response_can_hang_the_grader():
    """Bug: a pattern that takes quadratic time and more on text that a model can write."""
    start = time.perf_counter()
    attacks = ["1" * 20_000, "10^" * 7000, "\\text{" * 4000, "(A" * 9000, "answer is " * 2000,
               "answer" + "-" * 19_000, "\n" * 20_000, "1 x " * 5000, "<<" * 9000, "####" * 5000,
               "#### 1" + "," * 19_000, "1 " + "a-" * 9000, "~" * 20_000]  # fmt: skip
    for text in attacks:
        for problem in (OPTIONS, MATH, {**MATH, "kind": "minerva"}, {**BBH, "answer": "(A)"}):
            grade(problem, text)
            grade(problem, f"\\boxed{{{text}}}")
    assert time.perf_counter() - start < 5  # seconds


# ---- verifiers -----------------------------------------------------------------------------------


def grader(tmp_path, code, name="mine.py"):
    path = tmp_path / name
    path.write_text(code)
    return load_grader(f"{path}:check")


CHECK = "def check(problem, response):\n    "
NOTES = """from __future__ import annotations
from dataclasses import dataclass
import neighbour_of_mine

@dataclass
class Note:
    value: float | None = None

def check(problem, response):
    import late_neighbour
    return Note(neighbour_of_mine.VALUE * late_neighbour.ONE).value
"""


def test_a_verifier_may_be_any_file(tmp_path):
    """Bug: a neighbour that is not found, a dataclass with postponed annotations, no .py ending, a
    bool or a number of numpy: tracebacks.
    """
    (tmp_path / "neighbour_of_mine.py").write_text("VALUE = 0.25\n")
    (tmp_path / "late_neighbour.py").write_text("ONE = 1\n")
    assert grader(tmp_path, NOTES)([MATH], ["x"]) == [0.25]
    for value, reward in (("True", 1.0), ("0", 0.0), ("0.7 + 0.2 + 0.1", 1.0), ("1.1 - 0.1", 1.0), ("__import__('numpy').float32(0.5)", 0.5),
                          ("__import__('numpy').bool_(True)", 1.0),
                          ("__import__('torch').tensor(1)", 1.0)):  # fmt: skip
        assert grader(tmp_path, f"{CHECK}return {value}\n", "mine")([MATH], ["x"]) == [reward]


def test_a_verifier_gets_the_row_of_the_file(tmp_path):
    """Bug: KeyError for a column of the file, an answer that was changed; a row that it changed."""
    check = grader(tmp_path,
                   f"{CHECK}return problem.pop('answer') == 'work #### 6' and len(problem) == 2\n")
    row = {"problem": "p", "answer": "work #### 6", "numbers": [3, 3]}
    assert check([{**row, "answer": "6", "kind": "math", "row": row}] * 2, ["x"] * 2) == [1.0, 1.0]
    check = grader(tmp_path, f"{CHECK}return problem['numbers'].pop() == 3 == len(problem)\n")
    assert check([{"row": row}] * 2, ["x"] * 2) == [1.0, 1.0]


def test_ctrl_c_in_a_verifier_stops(tmp_path):
    """Bug: a Ctrl-C that comes while a verifier runs is taken for its failure."""
    with pytest.raises(KeyboardInterrupt):
        grader(tmp_path, f"{CHECK}raise KeyboardInterrupt\n")([MATH], ["x"])


def test_two_equal_options_are_one_answer():
    """Bug: the gold is B, A has the same text, and A is wrong."""
    problem = {**OPTIONS, "options": ["clay", "clay", "sand"], "answer": "B"}
    texts = ["\\boxed{A}", "\\boxed{clay}", "\\boxed{B}", "\\boxed{C}", "none"]
    assert [grade(problem, text) for text in texts] == [1, 1, 1, 0, 0]


@pytest.mark.parametrize("code, message", [
    ("def check(problem, response)\n    return 1\n", "does not load: SyntaxError: .*line 1"),
    ("import nowhere_at_all\n", "does not load: ModuleNotFoundError"),
    ("exit()\n", "does not load: SystemExit"),
    ("def check(response):\n    return 1\n", r"check\(response\) is to take \(problem, response\)"),
    ("def check(problem, response, gold):\n    return 1\n", "missing a required argument: 'gold'"),
    ("check = 1\n", "has no function check"), ("\x00", "does not load: "),
    ("1/0\n", "ZeroDivisionError"),
])  # fmt: skip
def test_a_verifier_that_does_not_load_says_why(tmp_path, code, message):
    """Bug: a traceback, or "invalid literal for int()" as if a flag were wrong."""
    with pytest.raises(ValueError, match=f"mine.py.*{message}") as error:
        grader(tmp_path, code)
    assert "\n" not in str(error.value)
    for spec in ("mine.py", "nowhere.py:check", ":check", f"{tmp_path}:check"):
        with pytest.raises(ValueError, match="no such file; give file.py:function"):
            load_grader(spec)


@pytest.mark.parametrize("code, message", [
    ("return None", "gives None: it must lie in"), ("return 'right'", "gives 'right'"),
    ("return 2", "gives 2"),
    ("return float('nan')", "gives nan"), ("return [1.0]", r"gives \[1.0\]"),
    ("return {'score': 1.0}", "gives {'score'"),
    ("return int(response)", "ValueError: invalid literal for int"),
    ("return problem['x']", "KeyError: 'x'"),
    ("raise SystemExit(3)", "SystemExit: 3"),
    ("raise type('Slow', (BaseException,), {})(3)", "Slow: 3"),
    ("raise type('Slow', (KeyboardInterrupt,), {})(3)", "Slow: 3"),
    ("raise type('Odd', (Exception,), {'__str__': None})", "Odd: it has no text"),
    ("return check(problem, response)", "RecursionError"),
])  # fmt: skip
def test_a_verifier_that_fails_says_on_what(tmp_path, code, message):
    """Bug: a traceback that names neither the verifier nor the problem."""
    check = grader(tmp_path, f"{CHECK}{code}\n")
    with pytest.raises(ValueError,
                       match=f"mine.py:check' failed .*{message}.* '[?]' .* 'it is 7'") as error:
        check([MATH], ["it is 7"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ['bytearray(b"1")', 'numpy.array("1")', 'numpy.str_("1")'])
def test_a_text_is_no_reward(tmp_path, value):
    """Bug: a text that is not a str counts as the number that it reads."""
    file = tmp_path / "own.py"
    file.write_text(f"import numpy\ndef f(problem, response):\n    return {value}\n")
    with pytest.raises(ValueError, match="it must lie in"):
        load_grader(f"{file}:f")([{"problem": "p"}], ["r"])


def test_a_verifier_that_fails_now_and_then_is_told_once(tmp_path, capsys):
    """Bug: one response in ten thousand ends the run, and the resumed run ends there again."""
    check, counts = grader(tmp_path, f"{CHECK}return int(response)\n"), {}
    texts = ["1", "0"] * 9 + ["1", "x\x1b[2J"]
    for _ in range(2):
        assert check([MATH] * 20, texts, counts) == [1.0, 0.0] * 9 + [1.0, 0.0]
    printed = capsys.readouterr().out
    assert counts == {"verifier failed": 2} and printed.count("warning: ") == 1
    assert "ValueError: invalid literal" in printed and "the response 'x\\x1b[2J'" in printed
    assert "\x1b" not in printed
    with pytest.raises(ValueError, match="it failed on 3 of 20 responses"):
        check([MATH] * 20, ["1"] * 17 + ["x"] * 3)
