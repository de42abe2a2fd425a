"""The tiny world: right answers, an honest corpus, a lossless tokenizer, a build that repeats.

python -m pytest -q tests/test_tiny.py
"""

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny
from plumbing.benchmarks import encode_prompt, load_problems
from plumbing.checkpoints import load_model
from plumbing.evaluation import count_thoughts
from reward import score

# Seconds instead of minutes: one narrow layer, about a hundred documents.
SMALL = replace(
    tiny.OLD, tokens=8_000, width=32, layers=1, train_problems=50, test_problems=20
)
# Every fact slips with the same chance, so that shares can be compared with the settings.
EVEN = replace(SMALL, hard_slip=0.3, easy_slip=0.3, look_again=0.2, care=0.5, another_way=0.25)
FLAWLESS = replace(SMALL, hard_slip=0.0, easy_slip=0.0, look_again=0.0)
STEP = re.compile(
    r"(Wait, |Alternatively, )?Step (\d+): (\d+)([-+*])(\d+)=(?:(-?\d+)=)?(\d+)\.?"
)


def evaluate_question(text):
    """The answer, read from the text alone with Python's own integers; the remainder is taken once,
    at the end.
    """
    value = int(re.search(r"Start with (\d+)", text)[1])
    for operator, number in re.findall(r"([-+*])(\d+)", text):
        value = {"+": value + int(number), "-": value - int(number), "*": value * int(number)}[
            operator
        ]
    return value % int(re.search(r"modulo (\d+)", text)[1])


def steps_of(solution):
    """[(opening, a, operator, b, value)] of every piece but the last; fails on a piece of any other
    form.
    """
    *pieces, last = solution.split("\n\n")
    assert re.fullmatch(r"The answer is \\boxed\{\d+\}\.", last), last
    found = []
    for piece in pieces:
        match = STEP.fullmatch(piece)
        assert match, piece
        opening, _, a, operator, b, unreduced, value = match.groups()
        found.append((opening or "", int(a), operator, int(b), int(value)))
        assert bool(unreduced) == bool(opening), "only a second look writes the unreduced number"
        if unreduced:
            assert int(unreduced) == {"+": int(a) + int(b), "-": int(a) - int(b),
                                      "*": int(a) * int(b)}[operator]  # fmt: skip
    return found


def solutions(world, count, seed=0):
    """[(chain, solution)] as the corpus has them."""
    rng = random.Random(seed)
    facts = tiny.make_facts(world, rng)
    chains = [tiny.make_chain(world, world.steps, rng) for _ in range(count)]
    return [(chain, tiny.write_solution(chain, facts, world, rng)) for chain in chains]


def is_right(step, modulus):
    _, a, operator, b, value = step
    return value == {"+": a + b, "-": a - b, "*": a * b}[operator] % modulus


def assert_share(hits, total, expected):
    """A binomial share within 4 standard errors: a right world fails once in 16,000 seeds, and the
    seed is fixed.
    """
    error = (expected * (1 - expected) / total) ** 0.5
    assert abs(hits / total - expected) < 4 * error, (
        f"{hits}/{total}, expected {expected} +- {error:.4f}"
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return Path(tiny.build(tmp_path_factory.mktemp("cache"), quiet=True, world=SMALL))


# --------------------------------------------------------------------------------------------------
# Problems


def test_answers_are_right_and_a_clean_solution_is_graded_1(folder):
    """Bug: remainder of a negative number, operators applied in another order, an answer that the
    grader cannot read.
    """
    for name in ("train", "test", "test_long", "test_mix"):
        for problem in map(json.loads, (folder / f"{name}.jsonl").read_text().splitlines()):
            assert problem["kind"] == "tiny"
            assert int(problem["answer"]) == evaluate_question(problem["problem"])
    for chain, solution in solutions(FLAWLESS, 200):
        question = tiny.question(chain, FLAWLESS.modulus)
        right = evaluate_question(question)
        assert score(solution, str(right)) == 1.0
        assert score(solution, str((right + 1) % FLAWLESS.modulus)) == 0.0
        assert count_thoughts(solution) == {
            "reflection": 0,
            "transition": 0,
            "execution": len(chain[1]) + 1,
        }


def test_files_share_no_problem_with_each_other_or_with_the_corpus():
    """Bug: test problems among those trained on."""
    # Two steps only: with so few chains the corpus would meet the reserved ones hundreds of times
    # by chance.
    world = replace(
        SMALL, steps=(1, 2), long_steps=(2, 3), train_problems=400, test_problems=100, tokens=40_000
    )
    rng, tokenizer = random.Random(0), tiny.make_tokenizer(world.modulus, world.long_steps[1])
    files, reserved = tiny.make_problems(world, rng)
    questions = [problem["problem"] for problems in files.values() for problem in problems]
    assert {name: len(problems) for name, problems in files.items()} == {
        "train": 400,
        "test": 100,
        "test_long": 100,
        "test_mix": 100,
    }
    assert len(set(questions)) == len(questions)
    corpus = [tokenizer.decode(row) for row in tiny.make_corpus(world, rng, tokenizer, reserved)]
    asked = {
        text.split(tiny.USER)[1].split(tiny.ASSISTANT)[0] for text in corpus if tiny.USER in text
    }
    assert len(asked) > 300
    assert not asked & set(questions)


def test_long_problems_are_longer_than_those_trained_on(folder):
    """Bug: test_long drawn from the same range, which would measure nothing."""
    longest = {}
    for name in ("train", "test", "test_long", "test_mix"):
        rows = (folder / f"{name}.jsonl").read_text().splitlines()
        counts = [len(re.findall(r"[-+*]\d", json.loads(row)["problem"])) for row in rows]
        longest[name] = min(counts), max(counts)
    assert longest["train"] == longest["test"] == longest["test_mix"] == SMALL.steps
    assert longest["test_long"] == SMALL.long_steps
    assert SMALL.long_steps[0] > SMALL.steps[1]


# --------------------------------------------------------------------------------------------------
# The corpus


def test_slips_and_second_looks_come_as_often_as_the_settings_say():
    """Bug: a chance applied twice, to the wrong case, or not at all."""
    slips, steps = {False: 0, True: 0}, {False: 0, True: 0}  # of first and of second looks
    again = {"Wait, ": 0, "Alternatively, ": 0}
    for _, solution in solutions(EVEN, 3000):
        for piece in steps_of(solution):
            second = piece[0] != ""
            steps[second] += 1
            slips[second] += not is_right(piece, EVEN.modulus)
            if second:
                again[piece[0]] += 1
    assert_share(slips[False], steps[False], EVEN.easy_slip)
    assert_share(slips[True], steps[True], EVEN.easy_slip * EVEN.care)
    assert_share(steps[True], steps[True] + steps[False], EVEN.look_again)
    assert_share(again["Alternatively, "], steps[True], EVEN.another_way)


def test_hard_facts_are_as_many_as_stated_and_every_slip_is_wrong():
    """Bug: a 'wrong' value that is right, which makes a hard fact easy."""
    facts = tiny.make_facts(tiny.World(modulus=31), random.Random(0))
    world = tiny.World()
    assert all(right != wrong and 0 <= wrong < 31 for right, wrong, _ in facts.values())
    assert_share(
        sum(slip == world.hard_slip for *_, slip in facts.values()), len(facts), world.hard_share
    )


def test_a_second_look_is_at_the_same_step_and_the_last_value_counts():
    """Bug: "Alternatively" works out something else, or the chain goes on from the value that was
    taken back.
    """
    seen = 0
    for chain, solution in solutions(EVEN, 500):
        value, previous, operations = chain[0], None, iter(chain[1])
        for opening, a, operator, b, result in steps_of(solution):
            right = {"+": a + b, "-": a - b, "*": a * b}[operator] % EVEN.modulus
            if opening:
                assert right == previous  # the same step: the same right value
                seen += opening == "Alternatively, "
            else:
                assert (a, (operator, b)) == (value, next(operations))
            value, previous = result, right
        assert solution.endswith(f"\\boxed{{{value}}}.")
    assert seen > 50


def test_thoughts_are_counted_as_the_world_means_them():
    """Bug: an opening that the SEAL rule does not see, or counts as the other kind."""
    for _, solution in solutions(EVEN, 300):
        openings = [step[0] for step in steps_of(solution)]
        counts = count_thoughts(solution)
        assert counts["reflection"] == openings.count("Wait, ")
        assert counts["transition"] == openings.count("Alternatively, ")


def test_a_restated_chain_comes_first_and_looks_depend_on_the_question():
    """Bug: restate read and not used; the chance of one kind of document used for the other."""
    world = replace(EVEN, restate=True, look_again=0.1, look_again_unprompted=0.4)
    for prompted, expected in ((True, 0.1), (False, 0.4)):
        rng, looks, pieces = random.Random(0), 0, 0
        facts = tiny.make_facts(world, rng)
        for _ in range(1000):
            chain = tiny.make_chain(world, world.steps, rng)
            first, rest = tiny.write_solution(chain, facts, world, rng, prompted).split("\n\n", 1)
            assert tiny.question(chain, 7) == f"{first} What is the result modulo 7?"
            looks += sum(step[0] != "" for step in steps_of(rest))
            pieces += len(steps_of(rest))
        assert_share(looks, pieces, expected)


def test_three_in_ten_documents_have_no_question():
    """Bug: P(y) never trained, or a document without BOS, which is the start token of P(y)."""
    tokenizer = tiny.make_tokenizer(SMALL.modulus, SMALL.long_steps[1])
    rows = tiny.make_corpus(replace(SMALL, tokens=60_000), random.Random(0), tokenizer, set())
    user, lengths = tokenizer.convert_tokens_to_ids(tiny.USER), sum(map(len, rows))
    assert 60_000 <= lengths < 60_000 + 200
    assert all(
        row[0] == tokenizer.bos_token_id and row[-1] == tokenizer.eos_token_id for row in rows
    )
    assert_share(sum(row[1] != user for row in rows), len(rows), SMALL.unprompted)


# --------------------------------------------------------------------------------------------------
# Tokenizer


def test_tokenizer_gives_every_text_back(folder):
    """Bug: blank lines or spaces lost in decoding, "10" read as "1", "0", a word that is missing
    from the vocabulary.
    """
    wide = tiny.World(modulus=113)  # numbers of one, two and three digits
    saved = AutoTokenizer.from_pretrained(folder)
    made = tiny.make_tokenizer(113, wide.long_steps[1])
    for world, tokenizer in ((EVEN, saved), (wide, made)):
        for chain, solution in solutions(world, 200):
            question = tiny.question(chain, world.modulus)
            for text in (
                tiny.make_document(question, solution),
                tiny.make_document(None, solution),
            ):
                ids = tokenizer(text, add_special_tokens=False).input_ids
                assert tokenizer.decode(ids) == text
                assert tokenizer.pad_token_id not in ids
            ids = tokenizer(tiny.make_document(None, solution), add_special_tokens=False).input_ids
            assert tokenizer.decode(ids, skip_special_tokens=True) == solution
            tokens = [token for token in tokenizer.convert_ids_to_tokens(ids)
                      if re.fullmatch(r"[-+*=]?-?\d+", token)]  # fmt: skip
            written = re.findall(r"=-\d+|[-+*=]?\d+", re.sub(r"Step \d+", "", solution))
            assert tokens == written  # one token per number, operation or value


def test_a_prompt_is_the_beginning_of_a_document(folder):
    """Bug: a template that differs from the corpus, so that RL starts from prompts the base never
    saw.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for problem in load_problems(str(folder / "test.jsonl"), limit=5):
        ids = encode_prompt(tokenizer, problem)
        text = tiny.make_document(problem["problem"], "")
        assert tokenizer.decode(ids) + tiny.EOS == text
        assert ids[0] == tokenizer.bos_token_id


# --------------------------------------------------------------------------------------------------
# The folder


def test_transformers_loads_the_folder_and_agrees(folder):
    """Bug: a config that does not describe the weights, a tied head saved apart, a missing EOS."""
    model, tokenizer = load_model(str(folder))
    reference = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.randint(5, len(tokenizer), (3, 17), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(
            model.lm_head(model(ids)), reference(ids).logits, rtol=1e-4, atol=1e-5
        )
    assert model.eos_ids == (tokenizer.eos_token_id,)


def test_the_build_repeats_to_the_bit_and_is_kept(folder, tmp_path, monkeypatch):
    """Bug: a draw from the global generator, a setting that is not part of the folder's name, a
    rebuild on each call.
    """
    torch.manual_seed(5)
    random.seed(5)
    state = random.getstate()
    again = Path(tiny.build(tmp_path, quiet=True, world=SMALL))
    assert random.getstate() == state, "the caller's generator was moved"
    assert again.name == folder.name and [path.name for path in tmp_path.iterdir()] == [again.name]
    for path in folder.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes(), path.name
    monkeypatch.setattr(tiny, "pretrain", lambda *_: pytest.fail("trained again"))
    assert tiny.build(tmp_path, quiet=True, world=SMALL) == str(again)
    names = {
        tiny.cache_folder(replace(SMALL, care=0.5), 0, None).name,
        tiny.cache_folder(SMALL, 1, None).name,
        again.name,
    }
    assert len(names) == 3


def test_an_interrupted_build_leaves_nothing(tmp_path, monkeypatch):
    """Bug: a half-written folder that the next run takes for a world; a thread count that stays
    changed.
    """

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tiny, "save", interrupt)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyboardInterrupt):
            tiny.build(tmp_path, quiet=True, world=SMALL)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_one_clear_error(tmp_path):
    """Bug: a traceback of pathlib for a user's wrong path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="XDG_CACHE_HOME"):
        tiny.build(tmp_path / "file" / "cache", quiet=True, world=SMALL)


def test_a_cache_that_fills_up_is_one_clear_error(tmp_path, monkeypatch):
    """Bug: a traceback of safetensors after a minute of training."""

    def full(*_, **__):
        raise tiny.SafetensorError("No space left on device")

    monkeypatch.setattr(tiny, "save_file", full)
    monkeypatch.setattr(tiny, "pretrain", lambda *_: None)
    with pytest.raises(ValueError, match="No space left.*XDG_CACHE_HOME"):
        tiny.build(cache_dir=tmp_path / "c", world=replace(tiny.OLD, tokens=3000), quiet=True)
    assert not list((tmp_path / "c").iterdir())


def test_batches_hold_every_document_once_and_keep_to_their_size():
    """Bug: the last batch dropped, a row twice, a batch far over its token budget."""
    rng = random.Random(0)
    rows = [[index] * rng.randint(5, 60) for index in range(500)]
    batches = tiny.make_batches(rows, 256, rng)
    assert sorted(row for batch in batches for row in batch) == sorted(rows)
    assert max(len(batch) * max(map(len, batch)) for batch in batches) <= 256
