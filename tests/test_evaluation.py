"""The numbers of an evaluation, and its sampling.    python -m pytest tests/test_evaluation.py"""

import itertools

import pytest
import torch
from conftest import random_model
from test_prompts import CHATML, make_tokenizer

from plumbing import evaluation
from plumbing.evaluation import (
    avg_at_k,
    count_thoughts,
    evaluate,
    look_figures,
    majority,
    pass_at_k,  # fmt: skip
    standard_error,
    summarize,
)
from plumbing.grading import load_grader
from rollout import Rollout

MATH = {"kind": "math", "problem": "?", "answer": "18"}


def test_pass_at_k_is_the_share_of_subsets_with_a_right_one():
    """Bug: the biased 1 - (1 - c/n)^k."""
    for n in range(1, 7):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            subsets = list(itertools.combinations([1] * c + [0] * (n - c), k))
            share = sum(map(any, subsets)) / len(subsets)
            assert pass_at_k(n, c, k) == pytest.approx(share, abs=1e-12)
    with pytest.raises(ValueError, match="1 <= k <= n"):
        pass_at_k(4, 2, 5)


def test_standard_error_is_that_of_the_bootstrap_over_problems():
    """Bug: samples of one problem taken for independent draws (3 times too small)."""
    generator = torch.Generator().manual_seed(0)
    difficulty = torch.rand(200, 1, generator=generator)
    correct = (torch.rand(200, 16, generator=generator) < difficulty).double()  # (N, k)
    draws = torch.randint(200, (4000, 200), generator=generator)
    bootstrap = correct.mean(1)[draws].mean(1).std()
    assert standard_error(correct) == pytest.approx(float(bootstrap), rel=0.05)
    assert avg_at_k(correct.tolist()) == pytest.approx(float(correct.mean()))


def test_thoughts_on_text_labelled_by_hand():
    """Bug: transition before reflection, "wait" inside a piece, case, lines of spaces."""
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
    """Bug: pass@k over the wrong k, means over the wrong rows, rates per wrong tokens."""
    problems = [{**MATH, "group": "a"}, {**MATH, "group": "b"}]
    rows = rows_for(["0.5", None, None, "7", "1/2"], [1.0, 0.0, 0.0, 0.0, 1.0])
    rows += rows_for(["7", "7 m", "18", None, None], [0.0, 0.0, 1.0, 0.0, 0.0])
    summary = summarize(problems, rows, 5)
    assert (summary["avg_at_k"], summary["majority_at_k"]) == (0.3, 0.5)
    assert summary["groups"] == {"a": 0.4, "b": 0.2}
    assert summary["macro_avg"] == pytest.approx(0.3)
    assert list(summary["pass_at_k"]) == [1, 2, 4, 5]
    assert summary["pass_at_k"][2] == pytest.approx((0.7 + 0.4) / 2)
    assert (summary["no_answer"], summary["length"], summary["cut"]) == (0.4, 30.0, 0.2)
    rates = summary["thoughts"]["reflection"]
    # The right rows have 0, 4 and 2 reflections in 10, 50 and 30 tokens.
    expected = {"per_response": 2.0, "share": 2 / 3, "per_1000_tokens": 6000 / 90}
    assert rates["right"] == pytest.approx(expected)
    assert rates["wrong"]["per_response"] == 2.0 and rates["per_response"] == 2.0
    # Equal answers are one, no answer is no vote, a tie is for the first.
    for answers, grades, expected in (
        (["7", "1/2", None, None, None, "0.5"], [0, 1, 0, 0, 0, 1], 1), ([None], [0], 0),
        (["7", "18"], [0, 1], 0), (["18", "7", "7 m"], [1, 0, 0], 0),
    ):  # fmt: skip
        assert majority(MATH, rows_for(answers, grades)) == expected


def test_partial_credit_counts_in_the_mean_alone():
    """Bug: pass@8 of a verifier of 0.5 each is 1.0, of 0.1 and 0.9 it is 0.0 and 1.0."""
    for grade in (0.1, 0.5, 0.9, 0.999):
        rows = rows_for(["18"] * 8, [grade] * 8)
        summary = summarize([MATH], rows, 8)
        assert summary["avg_at_k"] == pytest.approx(grade)
        assert set(summary["pass_at_k"].values()) == {0.0} and summary["majority_at_k"] == 0.0
        assert summary["thoughts"]["reflection"]["right"]["per_response"] == 0
    mixed = summarize([MATH], rows_for(["18", "18", "7"], [1.0, 1.0, 0.9]), 3)
    assert mixed["pass_at_k"][1] == pytest.approx(2 / 3) and mixed["majority_at_k"] == 1.0


def test_majority_of_a_problem_with_several_golds():
    """Bug: two answers that are right in different ways counted as one."""
    problem = {**MATH, "alternatives": ["18", "eighteen"]}
    assert majority(problem, rows_for(["18", "eighteen", "7", "7"], [1, 1, 0, 0])) == 0


# ---- sampling ------------------------------------------------------------------------------------


def say(monkeypatch, tokenizer, text, asked=None):
    """`generate` gives this text, as its tokens up to the first that ends a response."""

    def generate(model, prompts, *, group_size, max_new_tokens, eos_ids, **how):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        end = next((i + 1 for i, id in enumerate(ids) if id in eos_ids), len(ids))
        rows = len(prompts) * group_size
        response_ids, zeros = torch.tensor([ids[:end]] * rows), torch.zeros(rows, end)
        if asked is not None:
            asked.append((prompts, max_new_tokens))
        return Rollout(response_ids, response_ids > 0, response_ids,
                       torch.ones(rows, end, dtype=torch.bool),
                       zeros, zeros, torch.ones(rows, dtype=torch.bool),
                       eos_ids=tuple(eos_ids))  # fmt: skip

    monkeypatch.setattr(evaluation, "generate", generate)


@pytest.fixture
def model():
    model = random_model(vocab_size=300, max_position_embeddings=256)
    model.eos_ids = (256,)
    return model


@pytest.mark.parametrize("text, answer, correct", [
    ("\\boxed{18}<|im_end|>\n<|im_start|>user\nand?<|im_end|>\nIt is \\boxed{6}", "18", 1),
    ("\\boxed{6}<|im_end|>\n<|im_start|>assistant\nIt is \\boxed{18}", "6", 0),
    ("\\boxed{18}<|endoftext|>\\boxed{6}", "18", 1),
    ("<think>\\boxed{18}</think> I cannot say.", None, 0),
    ("<think>\\boxed{6}</think>\\boxed{18}<|im_end|>", "18", 1),
])  # fmt: skip
@pytest.mark.parametrize("spec", [None, "mine.py:check"])
def test_what_is_graded_ends_with_the_turn(monkeypatch, tmp_path, model, text, answer, correct,
                                           spec):
    """Bug: the answer of a turn that the model made up is graded (Qwen2.5 base with its template);
    <think> tags that are special tokens are gone before grading, and a thought's box counts.
    """
    tokenizer = make_tokenizer(CHATML)
    say(monkeypatch, tokenizer, text)
    (tmp_path / "mine.py").write_text(
        "from reward import score\ndef check(problem, response):\n    assert '<|' not in response\n"
        "    return score(response, problem['answer'])\n")
    grade_with = load_grader(spec and f"{tmp_path}/{spec}")
    for how in ({}, {"grade_with": grade_with}, {"strict": True}):
        (row,) = evaluate(model, tokenizer, [MATH], k=1, max_new_tokens=99, **how)
        assert (row["answer"], row["correct"]) == (answer, correct)
        assert "<|" not in row["response"] and row["response"].startswith(text[:6])


def test_each_row_has_the_room_of_its_own_prompt(monkeypatch, model):
    """Bug: one long problem takes the room of all (459 -> 167 tokens), and a longer one ends the
    evaluation.
    """
    tokenizer, asked = make_tokenizer(CHATML), []
    say(monkeypatch, tokenizer, "\\boxed{18}", asked)
    problems = [MATH, {**MATH, "problem": "x" * 300}, {**MATH, "problem": "y" * 60}]
    rows = evaluate(model, tokenizer, problems, k=2, max_new_tokens=120)
    (prompts, limits), = asked
    lengths = list(map(len, prompts))
    assert lengths[1] == 1 and lengths[2] > 136 > lengths[0]  # of 256 positions
    assert limits == [120, 120, 1, 1, 256 - lengths[2], 256 - lengths[2]]
    assert [row["correct"] for row in rows] == [1, 1, 0, 0, 1, 1]
    assert [(row["answer"], row["tokens"], row["finished"]) for row in rows[2:4]] == [(None, 0,
                                                                                       False)] * 2


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
