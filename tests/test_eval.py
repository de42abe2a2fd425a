"""Benchmarks against hand-made cases, brute force and the bootstrap; nothing is downloaded.

With DSRL_DATA=FOLDER (copies of the public sets) every gold there must grade itself right.
"""

import csv
import io
import itertools
import json
import os
import time
import types
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch

import eval as benchmarks
from conftest import random_model
from eval import avg_at_k, count_thoughts, evaluate, grade, load_problems, pass_at_k
from plumbing import evaluation
from plumbing.benchmarks import BOXED, answer_in, encode_prompt, grade_all
from plumbing.evaluation import look_figures, majority, standard_error

MATH = {"kind": "math", "problem": "?", "answer": "18"}
BBH = {"kind": "bbh", "problem": "?"}
OPTIONS = {"kind": "choice", "problem": "?", "options": ["1", "2", "3", "4"], "answer": "B"}
TURN = ("{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
        "{% if enable_thinking %}<think>{% endif %}")  # fmt: skip


class Letters:
    """A tokenizer of single characters, ids 3..63; `chat_template` as given."""

    def __init__(self, chat_template=None):
        self.chat_template = chat_template

    def apply_chat_template(self, turns, tokenize, add_generation_prompt, **flags):
        from jinja2 import Template

        assert not tokenize and add_generation_prompt
        return Template(self.chat_template).render(messages=turns, **flags)

    def __call__(self, text, add_special_tokens=True):
        ids = [3 + ord(letter) % 61 for letter in text]
        return types.SimpleNamespace(input_ids=[2] * add_special_tokens + ids)

    def batch_decode(self, rows, skip_special_tokens=True):
        return ["".join(chr(ord("0") + i) for i in map(int, ids) if i > 2) for ids in rows]

    def decode(self, ids, skip_special_tokens=True):
        return self.batch_decode([ids])[0]


def write(folder, name, rows):
    path = folder / name
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        lines = "\n".join(map(json.dumps, rows))
        path.write_text(lines if path.suffix == ".jsonl" else json.dumps(rows))
    return path


# ---- loading -------------------------------------------------------------------------------------


def verl(gold, text="p"):
    prompt = [{"role": "system", "content": "s"}, {"role": "user", "content": text}]
    return {"prompt": prompt, "reward_model": {"ground_truth": gold}}


CHOICE = {"question": "p", "options": ["u", "v", "N/A"], "answer": "B", "category": "law"}
GSM8K = {"question": "2 + 2?", "answer": "2 + 2 = <<2+2=4>>4\n#### 1,004"}
OLYMPIAD = {"question": "p", "final_answer": ["$2$", "$-1$"], "error": None}
LAYOUTS = [  # file, row in the columns of the public set; problem, answer, kind as to be read
    ("gsm8k_test.jsonl", GSM8K, "2 + 2?", "1,004", "math"),
    ("math500.jsonl", {"problem": "p", "solution": "\\boxed{9}", "answer": "8"}, "p", "8", "math"),
    ("math.parquet", {"problem": "p", "solution": "so \\boxed{\\pi}."}, "p", "\\pi", "math"),
    ("train.parquet", verl("7"), "p", "7", "math"),
    ("test.parquet", verl({"question": "p", "target": "7"}), "p", "7", "math"),
    ("amc23.jsonl", {"problem": "p", "answer": 27.0, "question": "p"}, "p", "27", "math"),
    ("amc23.csv", {"problem": "p", "answer": "27.0"}, "p", "27", "math"),
    ("aime25.jsonl", {"problem": "p", "answer": 70}, "p", "70", "math"),
    ("olympiadbench.jsonl", OLYMPIAD, "p", "2, -1", "olympiad"),
    ("minerva.jsonl", {"problem": "p", "solution": "\\boxed{-3./2}"}, "p", "-3/2", "minerva"),
    ("navigate.json", {"input": "p", "target": "No"}, "p", "No", "bbh"),
    ("own.json", {"problem": "p", "answer": "5", "kind": "tiny"}, "p", "5", "tiny"),
    ("mmlu_pro.jsonl", CHOICE, "p", "B", "choice"),
]  # fmt: skip


@pytest.mark.parametrize("name, row, problem, answer, kind", LAYOUTS)
def test_every_public_layout_is_read(tmp_path, name, row, problem, answer, kind):
    """Catches: a column misread, a solution taken for the gold, 27.0 left so, the wrong kind."""
    (read,) = load_problems(write(tmp_path, name, [row]))
    found = (read["problem"], read["answer"], read["kind"], read["index"])
    assert found == (problem, answer, kind, 0)
    path = write(tmp_path, "mine.jsonl", [{"problem": "p", "answer": "4.5"}])
    assert load_problems(path, task="minerva")[0]["kind"] == "minerva"  # of --data minerva=...


def test_csv_cells_keep_their_separators(tmp_path):
    """Catches: a row torn at a line separator of Unicode, or at a line break within quotes."""
    rows = [{"problem": "p\u2028q\x0cr", "answer": "4"}, {"problem": 'two\nlines, "x"', "answer": "5"}]
    problems = load_problems(write(tmp_path, "mine.csv", rows))
    assert [problem["problem"] for problem in problems] == [row["problem"] for row in rows]


def test_gpqa_options_are_shuffled_once_and_for_all(tmp_path):
    """Catches: the right option always A, another shuffle each time, a letter of another option."""
    wrong = {f"Incorrect Answer {i}": f"wrong {i}" for i in (1, 2, 3)}
    rows = [{"Question": f"q{i}", "Correct Answer": f"right {i}", **wrong} for i in range(40)]
    path = write(tmp_path, "gpqa.csv", rows)
    first, second = load_problems(path), load_problems(path)
    assert first == second and {problem["answer"] for problem in first} == set("ABCD")
    for i, problem in enumerate(first):
        assert problem["options"]["ABCD".index(problem["answer"])] == f"right {i}"


def test_what_is_dropped_or_unreadable_is_said(tmp_path, capsys):
    """Catches: an empty gold that an empty box matches; AIME25's 32 copies; a silent drop."""
    rows = [verl("7"), verl("7"), verl("7"), verl("", "q"), verl("a, where a is \\mho(", "r")]
    assert len(load_problems(write(tmp_path, "aime25.parquet", rows))) == 2
    printed = capsys.readouterr().out
    assert "dropped 1 rows without a gold" in printed and "dropped 2 rows repeated" in printed
    assert "1 golds match as text only: [" in printed


def test_bbh_and_mmlu_pro_bring_their_worked_examples(tmp_path):
    """Catches: examples of another task or category, the canary in the prompt."""
    (tmp_path / "cot-prompts").mkdir()
    for task in ("navigate", "snarks"):
        write(tmp_path, f"{task}.json", [{"input": "p", "target": "No"}] * 2)
        prompt = f"canary\n-----\nshots of {task}\n"
        (tmp_path / "cot-prompts" / f"{task}.txt").write_text(prompt)
    read = [(problem["group"], problem["shots"]) for problem in load_problems(tmp_path)]
    assert read[1:3] == [(task, f"shots of {task}\n\n") for task in ("navigate", "snarks")]
    question = "Question:\np\nOptions:\nA. u\nB. v\nAnswer: Let's think step by step."
    for folder in (tmp_path / "flat", tmp_path / "hub" / "test", tmp_path / "hub" / "validation"):
        folder.mkdir(parents=True)
    for test, validation in (("flat/mmlu_pro_test.jsonl", "flat/mmlu_pro_validation.jsonl"),
                             ("hub/test/0000.parquet", "hub/validation/0000.parquet")):
        shots = [{**CHOICE, "cot_content": f"A: Let's think step by step. {category} is (A).",
                  "category": category} for category in ("law", "math", "law")]  # fmt: skip
        write(tmp_path, validation, shots)
        (problem,) = load_problems(write(tmp_path, test, [CHOICE]))
        assert problem["shots"] == f"{question} law is (A).\n\n" * 2


@pytest.mark.parametrize("name, rows, message", [
    ("nowhere", None, "known tasks: gsm8k"), ("a.jsonl", None, "no file and no task"),
    ("a.jsonl", [{"apple": 1, "pear": 2}], "columns apple, pear .* expected problem, answer"),
    ("gsm8k.jsonl", [{"question": 1, "pear": 2}], "columns question, pear .* question, answer"),
    ("a.txt", [1], "not readable .* in .jsonl"), ("a.json", [1, 2], "not readable .* rows like"),
    ("a.json", [{"problem": "p", "answer": ""}], "a.json holds no problem with an answer"),
])  # fmt: skip
def test_what_cannot_be_loaded_says_why(tmp_path, name, rows, message):
    """Catches: a traceback, or a message without the value and the remedy."""
    path = write(tmp_path, name, rows) if rows is not None else name
    with pytest.raises(ValueError, match=message):
        load_problems(path)


@pytest.mark.parametrize("name", ["gpqa", "amc23", "bbh", "owner/name"])
def test_without_network_one_line_says_what_to_do(monkeypatch, tmp_path, name):
    """Catches: the hub client's traceback, no hint for a gated set, a half-made cache folder."""
    monkeypatch.setenv("HOME", str(tmp_path))

    def offline(*args, **kwargs):
        raise OSError("no network\nand much more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(ValueError, match=r"^cannot load .*no network\).*--data") as error:
        load_problems(name)
    assert "\n" not in str(error.value)
    assert ("HF_TOKEN" in str(error.value)) == (name == "gpqa")


def test_hub_and_archive_files_are_found(monkeypatch, tmp_path):
    """Catches: the wrong revision or split asked for; the archive's prompts not found."""
    asked = []

    def download(hub, revision, allow_patterns, **_):
        asked.append((hub, revision, allow_patterns[0]))
        folder = (tmp_path / allow_patterns[0]).parent
        folder.mkdir(parents=True)
        write(folder, "0000.parquet", [GSM8K])
        return tmp_path

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert len(load_problems("gsm8k")) == len(load_problems("me/set", split="train")) == 1
    converted = "refs/convert/parquet"
    assert asked == [("openai/gsm8k", converted, "main/test/*.parquet"),
                     ("me/set", converted, "*/train/*.parquet")]  # fmt: skip
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("main/bbh/navigate.json", json.dumps([{"input": "p", "target": "No"}]))
        archive.writestr("main/cot-prompts/navigate.txt", "canary\n-----\nshots")
    packed.seek(0)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **how: packed)
    (problem,) = load_problems("bbh/navigate")
    assert problem["shots"] == "shots\n\n"
    with pytest.raises(ValueError, match="bbh/nowhere: no such file .* known: navigate"):
        load_problems("bbh/nowhere")


# ---- prompts -------------------------------------------------------------------------------------


def test_prompts_are_the_template_or_plain_text():
    """Catches: special tokens twice, thinking left on, a system turn in the tiny world."""
    chat, plain = Letters(TURN), Letters()

    def chat_ids(text):
        return chat(text, add_special_tokens=False).input_ids

    assert encode_prompt(chat, MATH) == chat_ids(f"<system>{BOXED}<user>?<assistant>")
    assert encode_prompt(chat, {**MATH, "kind": "tiny"}) == chat_ids("<user>?<assistant>")
    base = plain(f"{BOXED}\n\nQuestion: ?\nAnswer:").input_ids
    assert encode_prompt(plain, MATH) == encode_prompt(chat, MATH, template="base") == base
    shown = {**BBH, "answer": "No", "shots": "Q: 1\nA: 2\n\n"}
    text = "Q: 1\nA: 2\n\nQ: ?\nA: Let's think step by step."
    assert encode_prompt(plain, shown) == plain(text).input_ids
    assert encode_prompt(chat, shown) == chat_ids(f"<user>{text}<assistant>")
    with pytest.raises(ValueError, match="legal: chat, base"):
        encode_prompt(chat, MATH, template="qwen")


# ---- grading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("response, letter", [
    ("The answer is (B).", "B"), ("Answer: C", "C"), ("**Answer:** D", "D"),
    ("The answer is $\\boxed{\\text{(D)}}$", "D"), ("so \\boxed{\\text{B}}", "B"),
    ("\\boxed{3}", "C"), ("The correct option is **A**.", "A"), ("Answer:\nB", "B"),
    ("A cat. B is out. The best is (C)", "C"), ("A\n", "A"), ("no idea", None), ("", None),
    ("Final Answer: (B) the second", "B"), ("answer is (A)... no wait, Answer: B", "B"),
    ("I am sure it is big", None), ("the answer is a number, so C.", "C"),
    ("The answer is (J)", None), ("<think>Answer: A</think>Hm. D", "D"),
    ("the answer is:\n\n(C)", "C"), ("The answer is \\(C\\).", "C"),
    ("The answer is (C).\n\nQuestion:\nnext\nAnswer: the answer is (D).", "C"),
])  # fmt: skip
def test_choice_letters(response, letter):
    """Catches: the words "A" and "I" as letters, markup in the way, an illegal letter, a guess."""
    assert answer_in(OPTIONS, response) == letter
    assert grade({**OPTIONS, "answer": "C"}, response) == float(letter == "C")


@pytest.mark.parametrize("answer, response, right", [
    # letters
    ("(A)", "So the answer is (A).", 1), ("(A)", "the answer is A", 1),
    ("(B)", "So the answer is (B) 11/11/2018.", 1), ("(B)", "The answer is **B) kite**", 1),
    ("(B)", "The answer is: **(B) x**", 1), ("(B)", "The correct answer is option (B).", 1),
    ("(B)", "Answer: (B)", 1), ("(B)", "The answer is \\boxed{\\text{(B)}}.", 1),
    ("(R)", "So the answer is (R).", 1), ("(B)", "So the answer is (b).", 1),
    ("(B)", "The answer is (A). Wait. The answer is (B).", 1), ("(B)", "It is (B).", 0),
    ("(A)", "the answer is (A) or (B).", 0), ("(A)", "the answer is A blue book", 0),
    ("(B)", "So the answer is 11/11/2018.", 0),
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
    """Catches: the first "answer is" taken, a made-up next question, two options, order, sign."""
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
])  # fmt: skip
def test_gsm8k_answers(answer, response, right):
    """Catches: the last number taken, a unit in the way, a made-up next question, 5 dozen as 5."""
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
    """Catches: a tolerance where there is none, 10^{5} read as 10, 2 for 2 sqrt 3, order lost."""
    problem = {"kind": kind, "problem": "?", "answer": answer, "error": error}
    assert grade(problem, response) == right


def test_training_wants_a_box_and_strict_compares_text():
    """Catches: training rewarded for "####" or words; figures called strict that are symbolic."""
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


def test_no_response_can_hang_the_grader():
    """Catches: a pattern that takes quadratic time and more on text that a model can write."""
    start = time.perf_counter()
    attacks = ["1" * 20_000, "10^" * 7000, "\\text{" * 4000, "(A" * 9000, "answer is " * 2000,
               "answer" + "-" * 19_000, "\n" * 20_000, "1 x " * 5000, "<<" * 9000, "####" * 5000,
               "#### 1" + "," * 19_000, "1 " + "a-" * 9000, "~" * 20_000]  # fmt: skip
    for text in attacks:
        for problem in (OPTIONS, MATH, {**MATH, "kind": "minerva"}, {**BBH, "answer": "(A)"}):
            grade(problem, text)
            grade(problem, f"\\boxed{{{text}}}")
    assert time.perf_counter() - start < 5  # seconds


REAL = [
    ("gsm8k_test.jsonl", 1319), ("gsm8k_train.jsonl", 7473), ("math_train.parquet", 7496),
    ("math_test.parquet", 4999), ("math500.parquet", 500), ("aime24.jsonl", 30),
    ("aime25.parquet", 30), ("amc23.jsonl", 40), ("olympiadbench.jsonl", 675),
    ("minerva.jsonl", 272), ("bbh", 6511),
]  # fmt: skip


@pytest.mark.skipif("DSRL_DATA" not in os.environ, reason="DSRL_DATA names no folder of real sets")
@pytest.mark.parametrize("name, size", REAL)
def test_real_golds_grade_themselves_right(name, size):
    """Catches: a loader that mangles golds or loses rows; 99.5 % must be right as answers."""
    problems = load_problems(Path(os.environ["DSRL_DATA"]) / name)
    form = "So the answer is {}." if name == "bbh" else "\\boxed{{{}}}"
    texts = [form.format(problem["answer"]) for problem in problems]
    grades = grade_all(problems, texts)
    print([p["answer"][:80] for p, value in zip(problems, grades, strict=True) if not value][:40])
    assert len(problems) == size and sum(grades) >= 0.995 * size
    assert sum(grade_all(problems, ["\\boxed{-987654}"] * size)) == 0
    if name.startswith("gsm8k"):
        texts = [f"#### {problem['answer']}" for problem in problems]
        assert sum(grade_all(problems, texts)) == size


# ---- numbers -------------------------------------------------------------------------------------


def test_pass_at_k_is_the_share_of_subsets_with_a_right_one():
    """Catches: the biased 1 - (1 - c/n)^k."""
    for n in range(1, 7):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            subsets = list(itertools.combinations([1] * c + [0] * (n - c), k))
            share = sum(map(any, subsets)) / len(subsets)
            assert pass_at_k(n, c, k) == pytest.approx(share, abs=1e-12)
    with pytest.raises(ValueError, match="1 <= k <= n"):
        pass_at_k(4, 2, 5)


def test_standard_error_is_that_of_the_bootstrap_over_problems():
    """Catches: samples of one problem taken for independent draws (3 times too small)."""
    generator = torch.Generator().manual_seed(0)
    difficulty = torch.rand(200, 1, generator=generator)
    correct = (torch.rand(200, 16, generator=generator) < difficulty).double()  # (N, k)
    draws = torch.randint(200, (4000, 200), generator=generator)
    bootstrap = correct.mean(1)[draws].mean(1).std()
    assert standard_error(correct) == pytest.approx(float(bootstrap), rel=0.05)
    assert avg_at_k(correct.tolist()) == pytest.approx(float(correct.mean()))


def test_thoughts_on_text_labelled_by_hand():
    """Catches: transition before reflection, "wait" inside a piece, case, lines of spaces."""
    text = (
        "First, 2 + 2 = 5.\n\nWAIT, that is wrong.\n \nAlternatively, let me check it.\n\n\n\n"
        "Alternatively, count.\nOne waits, then.\n\nThere is another approach: add.\n\n"
        "I wait here.\n\nThat’s correct, so \\boxed{4}."
    )
    assert count_thoughts(text) == {"reflection": 3, "transition": 2, "execution": 2}
    assert count_thoughts(" \n\n") == {"reflection": 0, "transition": 0, "execution": 0}


def rows_for(answers, grades):
    return [
        {"answer": answer, "correct": grade, "finished": i > 0, "tokens": 10 * (1 + i),
         "reflection": i, "transition": 0, "execution": 1}
        for i, (answer, grade) in enumerate(zip(answers, grades, strict=True))
    ]  # fmt: skip


def test_summary_by_hand():
    """Catches: pass@k over the wrong k, means over the wrong rows, rates per wrong tokens."""
    problems = [{**MATH, "group": "a"}, {**MATH, "group": "b"}]
    rows = rows_for(["0.5", None, None, "7", "1/2"], [1.0, 0.0, 0.0, 0.0, 1.0])
    rows += rows_for(["7", "7 m", "18", None, None], [0.0, 0.0, 1.0, 0.0, 0.0])
    summary = benchmarks.summarize(problems, rows, 5)
    assert (summary["avg_at_k"], summary["majority_at_k"]) == (0.3, 0.5)
    assert summary["groups"] == {"a": 0.4, "b": 0.2}
    assert summary["macro_avg"] == pytest.approx(0.3)
    assert list(summary["pass_at_k"]) == [1, 2, 4, 5]
    assert summary["pass_at_k"][2] == pytest.approx((0.7 + 0.4) / 2)
    assert (summary["no_answer"], summary["length"], summary["cut"]) == (0.4, 30.0, 0.2)
    rates = summary["thoughts"]["reflection"]
    # The right rows have 0, 4 and 2 reflections in 10, 50 and 30 tokens.
    assert rates["right"] == {"per_response": 2.0, "per_1000_tokens": pytest.approx(6000 / 90)}
    assert rates["wrong"]["per_response"] == 2.0 and rates["per_response"] == 2.0
    # Equal answers are one, no answer is no vote, a tie is for the first.
    for answers, grades, expected in (
        (["7", "1/2", None, None, None, "0.5"], [0, 1, 0, 0, 0, 1], 1), ([None], [0], 0),
        (["7", "18"], [0, 1], 0), (["18", "7", "7 m"], [1, 0, 0], 0),
    ):  # fmt: skip
        assert majority(MATH, rows_for(answers, grades)) == expected


# ---- whole runs ----------------------------------------------------------------------------------


@pytest.fixture
def stub(monkeypatch, tmp_path):
    """main() with a random model and six problems in a file, and the calls of `generate`."""
    model, calls, generate = random_model(max_position_embeddings=256), [], evaluation.generate
    model.eos_ids = (1, 2)

    def counted(model, prompts, **how):
        calls.append((len(prompts), how))
        return generate(model, prompts, **how)

    monkeypatch.setattr(benchmarks, "ROWS_PER_CALL", 4)
    monkeypatch.setattr("plumbing.evaluation.generate", counted)
    monkeypatch.setattr(benchmarks, "load_model", lambda *args, **how: (model, Letters(TURN)))
    rows = [{"problem": f"{i}?", "answer": str(i), "kind": "tiny"} for i in range(6)]
    path = write(tmp_path, "own.jsonl", rows)

    def run(*flags, out="out"):
        standard = f"--tasks own --data own={path} --k 2 --max-new-tokens 8".split()
        return benchmarks.main([*standard, "--out", str(tmp_path / out), *flags])

    return run, calls


def test_a_run_that_was_killed_goes_on_to_the_same_result(stub, tmp_path):
    """Catches: responses sampled twice or otherwise after a resume, a torn last line."""
    run, calls = stub
    assert run(out="whole") == 0 and [count for count, _ in calls] == [2, 2, 2]
    assert run(out="killed") == 0
    path = tmp_path / "killed" / "responses.jsonl"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])  # in the middle of a line
    calls.clear()
    assert run(out="killed") == 0 and len(calls) == 2
    assert sorted(path.read_text().splitlines()) == sorted(whole.splitlines())
    files = [tmp_path / out / "results.json" for out in ("whole", "killed")]
    results = [json.loads(file.read_text()) for file in files]
    assert set(results[0]["versions"]) == {"python", "torch", "transformers"}
    whole, killed = (result["tasks"]["own"] for result in results)
    assert all(one.pop("seconds") and one.pop("tokens_per_second") for one in (whole, killed))
    assert whole == killed and whole["sampling"]["temperature"] == 1.0  # not 2 greedy ones
    assert (tmp_path / "killed" / "pass_at_k.png").stat().st_size > 1000
    assert run("--k", "1", out="greedy") == 0 and calls[-1][1]["temperature"] == 0.0


def test_responses_to_other_problems_do_not_count(stub, tmp_path, capsys):
    """Catches: a resume that takes the responses to other problems of the same number."""
    run, calls = stub
    assert run("--limit", "4") == run("--limit", "2") == run() == 0 and len(calls) == 3
    write(tmp_path, "own.jsonl", [{"problem": "0!", "answer": "0", "kind": "tiny"}])
    assert run() == 2
    assert "holds responses to other problems of own" in capsys.readouterr().err


def test_compare_draws_several_runs(stub, tmp_path, capsys, monkeypatch):
    """Catches: a comparison that shows one run only, or needs the runs to hold the same tasks."""
    run, _ = stub
    monkeypatch.chdir(tmp_path)
    run(out="a")
    run("--seed", "1", "--tasks", f"own,{tmp_path}/own.jsonl", out="b")
    capsys.readouterr()
    assert benchmarks.main(["--compare", "a", "b"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines] == ["a", "b", "b", "compare.png"]
    assert (tmp_path / "compare.png").stat().st_size > 1000


@pytest.mark.parametrize("flags, message", [
    (["--k", "0"], "--k 0: must be at least 1"), (["--limit", "-1"], "--limit -1: must be"),
    (["--tasks", "nowhere"], "must read TASK=FILE"), (["--data", "x"], "--data x: must read"),
    (["--tasks", "own,nowhere"], "no file and no task 'nowhere'; known tasks: gsm8k"),
    (["--temperature", "0.5"], "made with temperature None, not 0.5: give another --out"),
    (["--compare", "nowhere"], "nowhere has no results.json"),
])  # fmt: skip
def test_user_mistakes_get_one_line(stub, capsys, flags, message):
    """Catches: a traceback, responses of other settings in one result, an ignored --data."""
    run, _ = stub
    run()
    capsys.readouterr()
    assert run(*flags) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_evaluate_hands_settings_to_the_sampler(stub, tmp_path):
    """Catches: a sampling setting that gets lost, a base model without stop strings, row order."""
    _, calls = stub
    (model, tokenizer), problems = benchmarks.load_model(), load_problems(tmp_path / "own.jsonl")
    how = dict(temperature=0.7, top_p=0.9, top_k=5, seed=3)
    options = dict(max_new_tokens=4, template="base", **how)
    rows = evaluate(model, tokenizer, problems, k=2, **options)
    asked = calls[-1][1]
    assert {key: asked[key] for key in how} == how and asked["group_size"] == 2
    assert "\nQuestion:" in asked["stop_strings"]
    order = [(i, j) for i in range(6) for j in range(2)]
    assert [(row["index"], row["sample"]) for row in rows] == order
    options = dict(max_new_tokens=4, grade_with=lambda problems, texts: [0.5] * len(texts))
    rows = evaluate(model, tokenizer, problems, k=1, **options)
    assert calls[-1][1]["stop_strings"] == () and {row["correct"] for row in rows} == {0.5}


def test_demo_runs(capsys):
    """Catches: a demo that no longer agrees with the formulas, or that needs a flag."""
    assert benchmarks.main([]) == 0
    assert "avg_at_k           0.2" in capsys.readouterr().out


def test_what_looking_again_does_is_counted():
    """Bug: a mended slip counted as a change only, a look at a right step as a mend, a second look
    compared with the first one of another step, a miscopied operation as well read.
    """
    problem = "Start with 3. Step 1: *5. Step 2: +6. Step 3: -1. What is the result modulo 7?"
    texts = [
        "Start with 3. Step 1: *5.\n\nStep 1: 3*5=2.\n\nWait, Step 1: 3*5=15=1.\n\n"
        "Step 2: 1+6=0.",
        "Step 1: 3*5=1.\n\nAlternatively, Step 1: 5*3=15=1.\n\nWait, Step 1: 5*3=15=4.",
        "Step 1: 3*4=5.",
    ]  # fmt: skip
    rows = [{"problem": problem, "response": text, "correct": right}
            for text, right in zip(texts, (1.0, 0.0, 0.0), strict=True)]  # fmt: skip
    figures = look_figures([*rows, {"problem": "2?", "response": texts[0], "correct": 1.0}])
    assert figures == pytest.approx({
        "reads_right": 3 / 4, "first_look_right": 3 / 4, "look_changes": 2 / 3,
        "look_mends": 1 / 3, "right_after_look": 1 / 2, "looks_again": 2 / 4,
    })  # fmt: skip
    assert look_figures(rows[2:])["look_mends"] is None
