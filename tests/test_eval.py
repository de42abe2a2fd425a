"""Benchmarks against hand-made cases, brute force and the bootstrap.    python -m pytest tests/test_eval.py

Nothing is downloaded. With DSRL_DATA=FOLDER (copies of the public sets) every gold there must grade itself right.
"""

import csv
import itertools
import json
import os
import random
import types
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch

import eval as benchmarks
from conftest import random_model
from eval import answer_in, avg_at_k, count_thoughts, encode_prompt, evaluate, grade, load_problems, pass_at_k, standard_error

MATH = {"kind": "math", "problem": "?", "answer": "18"}
TURN = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>{% if enable_thinking %}<think>{% endif %}"


class Letters:
    """A tokenizer of single characters, ids 3..63; `chat_template` as given."""

    def __init__(self, chat_template=None):
        self.chat_template = chat_template

    def apply_chat_template(self, turns, tokenize, add_generation_prompt, **flags):
        from jinja2 import Template

        assert not tokenize and add_generation_prompt
        return Template(self.chat_template).render(messages=turns, **flags)

    def __call__(self, text, add_special_tokens=True):
        return types.SimpleNamespace(input_ids=[2] * add_special_tokens + [3 + ord(letter) % 61 for letter in text])

    def decode(self, ids, skip_special_tokens=True):
        return "".join(chr(ord("0") + i) for i in map(int, ids) if i > 2)

    def batch_decode(self, rows, skip_special_tokens=True):
        return [self.decode(row) for row in rows]


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
        path.write_text("\n".join(map(json.dumps, rows)) if path.suffix == ".jsonl" else json.dumps(rows))
    return path


# ---- loading ---------------------------------------------------------------------------------------------------------

LAYOUTS = [  # file, row in the columns of the public set, then problem, answer, kind as they should be read
    ("gsm8k_test.jsonl", {"question": "2 + 2?", "answer": "2 + 2 = <<2+2=4>>4\n#### 1,004"}, "2 + 2?", "1,004", "math"),
    ("math500.jsonl", {"problem": "p", "solution": "\\boxed{9}", "answer": "\\frac12", "level": 2}, "p", "\\frac12", "math"),
    ("math.parquet", {"problem": "p", "level": "1", "solution": "so $\\boxed{\\frac{1}{2}}$."}, "p", "\\frac{1}{2}", "math"),
    ("train.parquet", {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}],
                       "reward_model": {"ground_truth": "7"}}, "p", "7", "math"),
    ("test.parquet", {"prompt": [{"role": "user", "content": "p"}], "reward_model": {"ground_truth": {"target": "7"}}},
     "p", "7", "math"),
    ("amc23.jsonl", {"problem": "p", "answer": 27.0}, "p", "27", "math"),
    ("amc23.csv", {"problem": "p", "answer": "27.0"}, "p", "27", "math"),
    ("olympiadbench.jsonl", {"question": "p", "final_answer": ["$2$", "$-1$"], "error": None}, "p", "2, -1", "olympiad"),
    ("minerva.jsonl", {"problem": "p", "solution": "\\boxed{-3./2}", "idx": 0}, "p", "-3/2", "minerva"),
    ("navigate.json", {"input": "p", "target": "No"}, "p", "No", "bbh"),
    ("own.json", {"problem": "p", "answer": "5", "kind": "tiny"}, "p", "5", "tiny"),
    ("mmlu_pro.jsonl", {"question": "p", "options": ["u", "v", "N/A"], "answer": "B", "category": "law"}, "p", "B", "choice"),
]  # fmt: skip


@pytest.mark.parametrize("name, row, problem, answer, kind", LAYOUTS)
def test_every_public_layout_is_read(tmp_path, name, row, problem, answer, kind):
    """Catches: a column misread, the solution taken for the gold, a gold left as 27.0, the wrong kind of grading."""
    rows = load_problems(write(tmp_path, name, [row]))
    assert [(r["problem"], r["answer"], r["kind"], r["index"]) for r in rows] == [(problem, answer, kind, 0)]


def test_gpqa_options_are_shuffled_once_and_for_all(tmp_path):
    """Catches: the right option always A, a shuffle that differs between runs, a letter that points at another option."""
    wrong = {f"Incorrect Answer {i}": f"wrong {i}" for i in (1, 2, 3)}
    path = write(tmp_path, "gpqa.csv", [{"Question": f"q{i}", "Correct Answer": f"right {i}", **wrong} for i in range(40)])
    first, second = load_problems(path), load_problems(path)
    assert first == second and {p["answer"] for p in first} == set("ABCD")
    assert all(p["options"]["ABCD".index(p["answer"])] == f"right {i}" for i, p in enumerate(first))


def test_rows_without_gold_or_repeated_are_dropped_and_counted(tmp_path, capsys):
    """Catches: an empty gold that every empty box matches; AIME25's 32 copies of each problem; a silent drop."""
    row = {"prompt": [{"role": "user", "content": "p"}], "reward_model": {"ground_truth": "7"}}
    empty = {"prompt": [{"role": "user", "content": "q"}], "reward_model": {"ground_truth": ""}}
    assert len(load_problems(write(tmp_path, "aime25.parquet", [row, row, row, empty]))) == 1
    assert "dropped 1 without a gold and 2 repeated" in capsys.readouterr().out


def test_bbh_and_mmlu_pro_bring_their_worked_examples(tmp_path):
    """Catches: a task's examples before another task, the canary in the prompt, MMLU-Pro's examples of another category."""
    (tmp_path / "cot-prompts").mkdir()
    for task in ("navigate", "snarks"):
        write(tmp_path, f"{task}.json", [{"input": "p", "target": "No"}, {"input": "p", "target": "No"}])
        (tmp_path / "cot-prompts" / f"{task}.txt").write_text(f"canary\n-----\nshots of {task}\n")
    problems = load_problems(tmp_path)
    assert [(p["group"], p["shots"]) for p in problems[1:3]] == [(t, f"shots of {t}\n\n") for t in ("navigate", "snarks")]
    row = {"question": "p", "options": ["u", "v"], "answer": "A", "category": "law"}
    shots = [{**row, "cot_content": f"A: Let's think step by step. {c} is (A).", "category": c} for c in ("law", "math", "law")]
    write(tmp_path, "mmlu_pro_validation.jsonl", shots)
    (problem,) = load_problems(write(tmp_path, "mmlu_pro_test.jsonl", [row]))
    assert problem["shots"].count("law is (A).") == 2 and "math" not in problem["shots"]
    assert problem["shots"].startswith("Question:\np\nOptions:\nA. u\nB. v\nAnswer: Let's think step by step. law is (A).\n\n")


@pytest.mark.parametrize("name, rows, message", [
    ("nowhere", None, "known tasks: gsm8k"), ("a.jsonl", [{"apple": 1, "pear": 2}], "columns apple, pear"),
    ("a.txt", [], "legal: .jsonl"), ("a.json", [1, 2], "must be an object"), ("a.jsonl", None, "no file and no task"),
])  # fmt: skip
def test_what_cannot_be_loaded_says_why(tmp_path, name, rows, message):
    """Catches: a traceback, or a message without the value and the remedy."""
    path = write(tmp_path, name, rows) if rows is not None else name
    with pytest.raises(ValueError, match=message):
        load_problems(path)


@pytest.mark.parametrize("name", ["gpqa", "amc23", "bbh", "owner/name"])
def test_without_network_one_line_says_what_to_do(monkeypatch, tmp_path, name):
    """Catches: the hub client's traceback, the missing hint how to get a gated set, a half-made cache folder."""
    monkeypatch.setenv("HOME", str(tmp_path))

    def offline(*args, **kwargs):
        raise OSError("no network\nand much more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(ValueError, match=r"^cannot load .*no network\).*--data") as error:
        load_problems(name)
    assert ("HF_TOKEN" in str(error.value)) == (name == "gpqa") and "\n" not in str(error.value)


# ---- prompts ---------------------------------------------------------------------------------------------------------


def test_prompts_are_the_template_or_plain_text():
    """Catches: special tokens twice, thinking left on, a system turn in the tiny world, a cut at the wrong end."""
    chat, plain = Letters(TURN), Letters()

    def text_of(tokenizer, problem, **how):
        return encode_prompt(tokenizer, problem, **how)

    ids = chat(f"<system>{benchmarks.BOXED}<user>?<assistant>", add_special_tokens=False).input_ids
    assert text_of(chat, MATH) == ids and text_of(chat, MATH, max_prompt_tokens=5) == ids[-5:]
    assert text_of(chat, {**MATH, "kind": "tiny"}) == chat("<user>?<assistant>", add_special_tokens=False).input_ids
    base = plain(f"{benchmarks.BOXED}\n\nQuestion: ?\nAnswer:").input_ids
    assert text_of(plain, MATH) == text_of(chat, MATH, template="base") == base
    bbh = {"kind": "bbh", "problem": "?", "answer": "No", "shots": "Q: 1\nA: 2\n\n"}
    assert text_of(plain, bbh) == plain("Q: 1\nA: 2\n\nQ: ?\nA: Let's think step by step.").input_ids
    with pytest.raises(ValueError, match="legal: chat, base"):
        encode_prompt(chat, MATH, template="qwen")


# ---- grading ---------------------------------------------------------------------------------------------------------

OPTIONS = {"kind": "choice", "problem": "?", "options": ["1", "2", "3", "4"], "answer": "B"}


@pytest.mark.parametrize("response, letter", [
    ("The answer is (B).", "B"), ("Answer: C", "C"), ("**Answer:** D", "D"), ("The answer is $\\boxed{\\text{(D)}}$", "D"),
    ("so \\boxed{\\text{B}}", "B"), ("\\boxed{3}", "C"), ("The correct option is **A**.", "A"), ("Answer:\nB", "B"),
    ("A cat. B is out. The best is (C)", "C"), ("A\n", "A"), ("Final Answer: (B) the second", "B"), ("no idea", None),
    ("answer is (A)... no wait, Answer: B", "B"), ("I am sure it is big", None), ("the answer is a number, so C.", "C"),
    ("The answer is (J)", None), ("<think>Answer: A</think>Hm. D", "D"), ("the answer is:\n\n(C)", "C"), ("", None),
    ("The answer is (C).\n\nQuestion:\nnext\nAnswer: the answer is (D).", "C"),
])  # fmt: skip
def test_choice_letters(response, letter):
    """Catches: the article "A" and the pronoun "I" as letters, markup in the way, a letter beyond the options, a guess."""
    assert answer_in(OPTIONS, response) == letter
    assert grade({**OPTIONS, "answer": "C"}, response) == float(letter == "C")


@pytest.mark.parametrize("response, answer, right", [
    ("So the answer is (A).", "(A)", 1), ("the answer is A", "(A)", 1), ("the answer is (A) blue.", "(A)", 1),
    ("the answer is (A) or (B).", "(A)", 0), ("the answer is A blue book", "(A)", 0), ("The answer is: **(B) x**", "(B)", 1),
    ("So the answer is ] ] >.", "] ] >", 1), ("the answer is ]]>.", "] ] >", 1), ("the answer is ] >", "] ] >", 0),
    ("the answer is { } ]", "{ } ]", 1), ("the answer is 11,520.", "11520", 1), ("the answer is -50.", "50", 0),
    ("The answer is yes.", "Yes", 1), ("answer is **No**.", "No", 1), ("the answer is Yes, because", "Yes", 0),
    ("the answer is a, b, c", "a b c", 1), ("the answer is b a c", "a b c", 0), ("the answer is valid", "invalid", 0),
    ("The answer is", "Yes", 0), ("Yes", "Yes", 0), ("\\boxed{Yes}", "Yes", 1), ("Answer: (B)", "(B)", 1),
    ("The answer is not clear. So the answer is False.", "False", 1), ("So the answer is Monsters, Inc.", "Monsters, Inc", 1),
    ("So the answer is No.\n\nQ: next\nA: So the answer is Yes.", "No", 1),
])  # fmt: skip
def test_bbh_answers(response, answer, right):
    """Catches: the first "answer is" taken, a hallucinated next question, two options at once, order or sign ignored."""
    assert grade({"kind": "bbh", "problem": "?", "answer": answer}, response) == right


@pytest.mark.parametrize("kind, more, answer, response, right", [
    ("math", {}, "18", "#### 18", 1), ("math", {}, "18", "It takes 18 of them.", 0), ("math", {}, "18", "The answer is 18.", 1),
    ("math", {}, "1,004", "#### 1004", 1), ("math", {}, "27", "\\boxed{27.0}", 1), ("math", {}, "18", "\\boxed{18", 0),
    ("math", {}, "18", "#### 18\n\nQuestion: next\nAnswer: \\boxed{5}", 1), ("math", {}, "18", "\\boxed{18.1}", 0),
    ("olympiad", {"error": 0.1}, "4.2", "\\boxed{4.3}", 1), ("olympiad", {"error": 0.1}, "4.2", "\\boxed{4.31}", 0),
    ("olympiad", {"error": 0.0}, "4.2", "\\boxed{4.21}", 0), ("olympiad", {}, "2, -1", "\\boxed{-1, 2}", 1),
    ("olympiad", {}, "(2,1)", "\\boxed{(1,2)}", 0), ("olympiad", {}, "[1,2)", "\\boxed{(1,2]}", 0),
    ("minerva", {}, "4.5e33", "\\boxed{4.52 \\times 10^{33} \\text{ erg/s}}", 1), ("minerva", {}, "4.5e33", "\\boxed{4.6e33}", 0),
    ("minerva", {}, "-10", "\\boxed{10}", 0), ("minerva", {}, "0", "\\boxed{0.001}", 0), ("minerva", {}, "1e-5", "\\boxed{10^{-5}}", 1),
    ("minerva", {}, "\\frac{1}{s+a}", "\\boxed{\\frac{1}{a+s}}", 1), ("minerva", {}, "2", "\\boxed{2\\sqrt{3}}", 0),
    ("minerva", {}, "3", "\\boxed{3^2}", 0), ("minerva", {}, "10", "\\boxed{10^{5}}", 0), ("minerva", {}, "2 m", "\\boxed{2}", 0),
])  # fmt: skip
def test_mathematics_by_kind(kind, more, answer, response, right):
    """Catches: the last number taken, a tolerance where there is none or the wrong one, 10^{5} read as 10, 2 for 2 sqrt 3."""
    assert grade({"kind": kind, "problem": "?", "answer": answer, **more}, response) == right


def test_training_wants_a_box_and_strict_compares_text():
    """Catches: training rewarded for "####", or figures called strict that were made by the symbolic grader."""
    assert grade(MATH, "#### 18") == 1 and grade(MATH, "#### 18", loose=False) == 0 and grade(MATH, "\\boxed{18}", loose=False) == 1
    half = {**MATH, "answer": "\\frac{1}{4}"}
    assert grade(half, "\\boxed{0.25}") == 1 and grade(half, "\\boxed{0.25}", strict=True) == 0
    assert grade(half, "\\boxed{\\dfrac{1}{4}}", strict=True) == 1
    assert benchmarks.grade_all([MATH, MATH], ["\\boxed{18}", "#### 18"], loose=False) == [1.0, 0.0]


def test_no_response_can_hang_the_grader():
    """Catches: a pattern that takes quadratic time and more on text that a model can write."""
    import time

    start = time.perf_counter()
    for text in ("1" * 20_000, "10^" * 7000, "\\text{" * 4000, "(A" * 9000, "answer is " * 2000, "answer" + "-" * 19_000, "\n" * 20_000):
        for problem in (OPTIONS, MATH, {**MATH, "kind": "minerva"}, {**MATH, "kind": "bbh"}):
            grade(problem, text), grade(problem, f"\\boxed{{{text}}}")
    assert time.perf_counter() - start < 5  # seconds; 0.2 measured


@pytest.mark.skipif("DSRL_DATA" not in os.environ, reason="DSRL_DATA does not name a folder with copies of the public sets")
@pytest.mark.parametrize("name, size", [
    ("gsm8k_test.jsonl", 1319), ("gsm8k_train.jsonl", 7473), ("math_train.parquet", 7496), ("math_test.parquet", 4999),
    ("math500.parquet", 500), ("aime24.jsonl", 30), ("aime25.parquet", 30), ("amc23.jsonl", 40), ("olympiadbench.jsonl", 675),
    ("minerva.jsonl", 272), ("bbh", 6511),
])  # fmt: skip
def test_real_golds_grade_themselves_right(name, size):
    """Catches: a loader that mangles golds, rows lost without need; 99.5 % of the golds must be right against themselves."""
    problems = load_problems(Path(os.environ["DSRL_DATA"]) / name)
    right = [grade(p, f"So the answer is {p['answer']}." if p["kind"] == "bbh" else f"\\boxed{{{p['answer']}}}") for p in problems]
    print([p["answer"] for p, value in zip(problems, right, strict=True) if not value])
    assert len(problems) == size and sum(right) >= 0.995 * size
    assert sum(grade(p, "\\boxed{-987654}") for p in problems) == 0


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_pass_at_k_is_the_share_of_subsets_with_a_right_one():
    """Catches: the biased 1 - (1 - c/n)^k."""
    for n, c in itertools.product(range(1, 7), range(7)):
        if c <= n:
            for k in range(1, n + 1):
                subsets = list(itertools.combinations([1] * c + [0] * (n - c), k))
                assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)
    with pytest.raises(ValueError, match="1 <= k <= n"):
        pass_at_k(4, 2, 5)


def test_standard_error_is_that_of_the_bootstrap_over_problems():
    """Catches: samples of one problem taken for independent draws (the error would come out 3 times too small)."""
    generator = torch.Generator().manual_seed(0)
    correct = (torch.rand(200, 16, generator=generator) < torch.rand(200, 1, generator=generator)).double()
    draws = torch.randint(200, (4000, 200), generator=generator)
    bootstrap = correct.mean(1)[draws].mean(1).std()
    assert standard_error(correct) == pytest.approx(float(bootstrap), rel=0.05)
    assert avg_at_k(correct.tolist()) == pytest.approx(float(correct.mean()))


def test_thoughts_on_text_labelled_by_hand():
    """Catches: transition tested before reflection, "wait" counted inside a piece, case or blank lines with spaces ignored."""
    text = ("First, 2 + 2 = 5.\n\nWAIT, that is wrong.\n \nAlternatively, let me check it.\n\n\n\nAlternatively, count.\n"
            "One waits, then.\n\nThere is another approach: add.\n\nI wait here.\n\nThat’s correct, so \\boxed{4}.")  # fmt: skip
    assert count_thoughts(text) == {"reflection": 3, "transition": 2, "execution": 2}
    assert count_thoughts(" \n\n") == {"reflection": 0, "transition": 0, "execution": 0}


def rows_for(answers, grades):
    return [{"answer": a, "correct": g, "finished": True, "tokens": 10 * (1 + i), "reflection": i, "transition": 0, "execution": 1}
            for i, (a, g) in enumerate(zip(answers, grades, strict=True))]  # fmt: skip


def test_summary_by_hand():
    """Catches: equal answers that split the vote, no answer that votes, pass@k over the wrong k, rates per wrong tokens."""
    problems = [{**MATH, "group": "a"}, {**MATH, "group": "b"}]
    rows = rows_for(["0.5", None, None, "7", "1/2"], [1.0, 0.0, 0.0, 0.0, 1.0]) + rows_for(["7", "7", "18", None, None], [0, 0, 1, 0, 0])
    summary = benchmarks.summarize(problems, rows, 5)
    assert (summary["avg_at_k"], summary["majority_at_k"], summary["macro_avg"]) == (0.3, 0.5, pytest.approx(0.3))
    assert list(summary["pass_at_k"]) == [1, 2, 4, 5] and summary["pass_at_k"][2] == pytest.approx((0.7 + 0.4) / 2)
    assert (summary["no_answer"], summary["length"], summary["cut"]) == (0.4, 30.0, 0.0)
    right = summary["thoughts"]["reflection"]["right"]  # the rows of 0, 4 and 2 reflections in 10, 50 and 30 tokens
    assert right == {"per_response": 2.0, "share": pytest.approx(2 / 3), "per_1000_tokens": pytest.approx(6000 / 90)}
    assert summary["thoughts"]["reflection"]["per_response"] == 2.0


# ---- whole runs ------------------------------------------------------------------------------------------------------


@pytest.fixture
def stub(monkeypatch, tmp_path):
    """main() with a random model of one-letter tokens and six problems in a file; returns (run, calls of generate)."""
    model, calls, generate = random_model(max_position_embeddings=256), [], benchmarks.generate
    model.eos_ids = (1, 2)

    def counted(model, prompts, **how):
        calls.append((len(prompts), how))
        return generate(model, prompts, **how)

    monkeypatch.setattr(benchmarks, "generate", counted)
    monkeypatch.setattr(benchmarks, "load_model", lambda *args, **kwargs: (model, Letters(TURN)))
    path = write(tmp_path, "own.jsonl", [{"problem": f"{i}?", "answer": str(i), "kind": "tiny"} for i in range(6)])

    def run(*flags, out="out"):
        standard = ["--tasks", "own", "--data", f"own={path}", "--k", "2", "--max-new-tokens", "8", "--rows-per-call", "4"]
        return benchmarks.main([*standard, "--out", str(tmp_path / out), *flags])

    return run, calls


def test_a_run_that_was_killed_goes_on_to_the_same_result(stub, tmp_path):
    """Catches: responses sampled twice or otherwise after a resume, a torn last line, results that depend on the stop."""
    run, calls = stub
    assert run(out="whole") == 0 and [count for count, _ in calls] == [2, 2, 2]
    assert run(out="killed") == 0
    path = tmp_path / "killed" / "responses.jsonl"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])  # in the middle of a line
    calls.clear()
    assert run(out="killed") == 0 and len(calls) == 2
    assert sorted(path.read_text().splitlines()) == sorted(whole.splitlines())
    figures = [json.loads((tmp_path / out / "results.json").read_text())["tasks"]["own"] for out in ("whole", "killed")]
    assert all(a.pop("seconds") and a.pop("tokens_per_second") for a in figures) and figures[0] == figures[1]
    assert (tmp_path / "killed" / "pass_at_k.png").stat().st_size > 1000


def test_compare_draws_several_runs(stub, tmp_path, capsys, monkeypatch):
    """Catches: a comparison that shows one run only, or needs the runs to hold the same tasks."""
    run, _ = stub
    monkeypatch.chdir(tmp_path)
    run(out="a")
    run("--seed", "1", out="b")
    capsys.readouterr()
    assert benchmarks.main(["--compare", "a", "b"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("Avg@2") == 2 and printed.strip().endswith("b") and (tmp_path / "compare.png").exists()


@pytest.mark.parametrize("flags, message", [
    (["--k", "0"], "--k 0: must be at least 1"), (["--tasks", "nowhere"], "must read TASK=FILE"),
    (["--temperature", "0.5"], "made with temperature None, not 0.5: give another --out"),
    (["--compare", "nowhere"], "nowhere has no results.json"), (["--data", "x"], "--data x: must read TASK=FILE"),
])  # fmt: skip
def test_user_mistakes_get_one_line(stub, capsys, flags, message):
    """Catches: a traceback, responses of other settings mixed into one result, an ignored --data."""
    run, _ = stub
    run()
    capsys.readouterr()
    assert run(*flags) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_evaluate_hands_settings_to_the_sampler(stub, tmp_path):
    """Catches: a sampling setting that gets lost, a base model without stop strings, rows in another order than problems."""
    _, calls = stub
    model, tokenizer = benchmarks.load_model()
    problems = load_problems(tmp_path / "own.jsonl")
    _, rows = evaluate(model, tokenizer, problems, k=2, max_new_tokens=4, temperature=0.7, top_p=0.9, top_k=5, seed=3, template="base")
    _, how = calls[-1]
    assert {key: how[key] for key in ("temperature", "top_p", "top_k", "seed", "group_size")} == dict(
        temperature=0.7, top_p=0.9, top_k=5, seed=3, group_size=2)
    assert "\nQuestion:" in how["stop_strings"]
    assert [(row["index"], row["sample"]) for row in rows] == [(i, j) for i in range(6) for j in range(2)]
    _, rows = evaluate(model, tokenizer, problems, k=1, max_new_tokens=4, grade_with=lambda problems, texts: [0.5] * len(texts))
    assert calls[-1][1]["stop_strings"] == () and {row["correct"] for row in rows} == {0.5}


def test_demo_runs():
    """Catches: a demo that no longer agrees with the formulas."""
    random.seed(0)
    assert benchmarks.main(["--demo"]) == 0
