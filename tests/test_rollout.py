"""Sampling against plain loops and the softmax itself.    python -m pytest tests/test_rollout.py"""

import math
import re

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import rollout as sampling
from conftest import random_model
from plumbing import ask
from prerl import conditional_logprobs
from rollout import generate

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [14, 15]]
OPTIONS = dict(group_size=3, max_new_tokens=20, eos_ids=(1, 2), seed=11)


def plain_loop(model, prompt, uniforms, limit, eos_ids):
    """One response without cache or batch: a forward of all for each token, a loop over the CDF."""
    ids, response = list(prompt), []
    while len(response) < limit:
        with torch.no_grad():
            logits = model.lm_head(model(torch.tensor([ids])))[0, -1]
        probabilities = logits.double().softmax(-1).tolist()
        point, total = float(uniforms[len(response)]), 0.0
        for token, probability in enumerate(probabilities):
            total += probability
            if point < total:
                break
        ids.append(token)
        response.append(token)
        if token in eos_ids:
            break
    return response


def rows_of(rollout):
    pairs = zip(rollout.response_ids, rollout.response_mask, strict=True)
    return [ids[mask].tolist() for ids, mask in pairs]


def gb_for(model, rows, capacity):
    return (rows + 1.5) * sampling.KVCache.bytes_per_token(model.config) * capacity / 1e9


@pytest.fixture
def prefilled(monkeypatch):
    """The token ids that were prefilled."""
    real, seen = sampling.prefill, []

    def prefill(model, cache, prefixes):
        seen.extend(ids for _, ids in prefixes if ids)
        real(model, cache, prefixes)

    monkeypatch.setattr(sampling, "prefill", prefill)
    return seen


@pytest.fixture
def row_steps(monkeypatch):
    """The live rows of each step."""
    real, seen = sampling.step, []

    def step(model, request, rows, slots):
        seen.append(slots.live)
        real(model, request, rows, slots)

    monkeypatch.setattr(sampling, "step", step)
    return seen


def test_equals_a_plain_loop(model):
    """Bug: stale cache, wrong position after prefill or compaction, another row's uniforms."""
    found = rows_of(generate(model, PROMPTS, **OPTIONS))
    for row, response in enumerate(found):
        uniforms = sampling.uniforms_of(11, row // 3, row % 3, 20)
        assert response == plain_loop(model, PROMPTS[row // 3], uniforms, 20, (1, 2)), row


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 11])
def test_refill_equals_all_at_once(model, slots, prefilled):
    """Bug: a refilled slot reads its predecessor's keys; a group admitted in two parts loses its
    prompt or is prefilled twice."""
    expected = generate(model, PROMPTS, **OPTIONS)
    gb = gb_for(model, slots, 5 + 20 + sampling.CHECK_EVERY["cpu"])
    found = generate(model, PROMPTS, kv_cache_gb=gb, **OPTIONS)
    assert found.stats["cache_rows"] == slots and expected.stats["cache_rows"] == 12
    assert torch.equal(found.response_ids, expected.response_ids)
    assert torch.equal(found.finished, expected.finished)
    assert torch.allclose(found.logprobs, expected.logprobs, atol=1e-4)
    # the last token of a prompt is decoded, not prefilled; each prompt once
    assert prefilled == 2 * [ids[:-1] for ids in PROMPTS if ids[1:]]


def test_checking_seldom_changes_nothing(model, monkeypatch, row_steps):
    """Bug: what a row draws between its end and the next check (as on CUDA) leaves a trace."""
    options = {**OPTIONS, "max_new_tokens": [1, 2, 3, 20] * 3}
    expected, needed = generate(model, PROMPTS, **options), sum(row_steps)
    monkeypatch.setitem(sampling.CHECK_EVERY, "cpu", 16)
    found = generate(model, PROMPTS, **options)
    assert needed == expected.response_mask.sum() and sum(row_steps) - needed > needed
    for name in ("response_ids", "response_mask", "finished"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert torch.allclose(found.logprobs, expected.logprobs, atol=1e-4)


class Recording(TorchDispatchMode):
    """What a CUDA graph is, on a CPU: every kernel, repeated on the memory it had.

    No Python runs in a replay. While it records, nothing must happen (what did is undone), and
    nothing may wait for a value.
    """

    waits = ("_local_scalar_dense", "nonzero", "item", "equal", "is_nonzero", "lift_fresh")

    def __init__(self):
        super().__init__()
        self.kernels, self.before, self.replays = [], {}, 0

    def __torch_dispatch__(self, kernel, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, kernel.overloadpacket.__name__
        assert name not in self.waits, f"{name} waits for the device"
        if name in ("index", "index_put_"):  # a bool index counts its True values first
            assert not any(i is not None and i.dtype == torch.bool for i in args[1]), name
        if kernel._schema.is_mutable:
            memory = args[0].untyped_storage()
            self.before.setdefault(memory.data_ptr(), (memory, memory.clone()))
        result = kernel(*args, **kwargs)
        self.kernels.append((kernel, args, kwargs, result))
        return result

    def replay(self):
        self.replays += 1
        for kernel, args, kwargs, result in self.kernels:
            pairs = zip(tree_leaves(result), tree_leaves(kernel(*args, **kwargs)), strict=True)
            for there, fresh in pairs:
                if isinstance(there, torch.Tensor) and there.data_ptr() != fresh.data_ptr():
                    there.copy_(fresh)

    def pool(self):
        return None


TRUNCATED = dict(temperature=0.7, top_k=20, top_p=0.9)
TO_THE_END = dict(eos_ids=(), max_new_tokens=20)  # 7 slots, then 5 rows: a long idle slot


@pytest.mark.parametrize(("slots", "how"), [(2, {}), (5, {}), (12, TRUNCATED), (7, TO_THE_END)])
def test_recorded_steps(model, monkeypatch, slots, how):
    """Bug: a step that keeps a number or a tensor of the time it was recorded; an idle slot that
    draws into somebody's row or grows past the cache; a wait for the device."""
    options = {**OPTIONS, "max_new_tokens": [20, 3, 11] * 4, **how}
    expected, recordings = generate(model, PROMPTS, **options), []

    def record(take_step, pool):
        with Recording() as recording:
            take_step()
        for memory, copy in recording.before.values():
            memory.copy_(copy)
        recordings.append(recording)
        return recording

    monkeypatch.setattr(sampling, "GRAPHS_ON", ("cpu",))
    monkeypatch.setattr(sampling, "record", record)
    monkeypatch.setitem(sampling.CHECK_EVERY, "cpu", 4)
    monkeypatch.setitem(sampling.BOUND_STEP, "cpu", 16)
    gb = gb_for(model, slots, 5 + 20 + 4)
    found = generate(model, PROMPTS, kv_cache_gb=gb, **options)
    assert found.stats["cache_rows"] == slots
    assert sum(recording.replays for recording in recordings) > 2 * len(recordings) > 2
    for name in ("response_ids", "response_mask", "finished"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert torch.allclose(found.logprobs, expected.logprobs, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_graphs(model, monkeypatch, dtype):
    """Bug: a replayed step that differs from a launched one, or waits for the device."""
    on_cpu, real = generate(model, PROMPTS, **OPTIONS), sampling.advance
    model.to("cuda").compute_dtype = dtype
    monkeypatch.setattr(sampling, "GRAPHS_ON", ())
    launched = generate(model, PROMPTS, **OPTIONS)
    monkeypatch.setattr(sampling, "GRAPHS_ON", ("cuda",))

    def without_waits(*arguments):
        torch.cuda.set_sync_debug_mode("error")
        try:
            real(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(sampling, "advance", without_waits)
    replayed = generate(model, PROMPTS, **OPTIONS)
    assert rows_of(replayed) == rows_of(launched)
    if dtype == torch.float32:
        assert rows_of(replayed) == rows_of(on_cpu)


@pytest.mark.parametrize("blocked_from", [0, 2**40])  # with and without oneDNN's products
def test_a_response_does_not_depend_on_the_batch(model, monkeypatch, blocked_from):
    """Bug: one generator for the whole batch, or draws that follow the slot instead of the row."""
    monkeypatch.setattr("model.BLOCKED_WEIGHTS", blocked_from)
    generator = torch.Generator().manual_seed(1)
    others = [torch.randint(3, 64, (1 + i % 9,), generator=generator).tolist() for i in range(63)]
    options = {**OPTIONS, "group_size": 1}
    alone = rows_of(generate(model, PROMPTS[:1], **options))[0]
    crowd = rows_of(generate(model, PROMPTS[:1] + others, **options))
    assert crowd[0] == alone
    assert rows_of(generate(model, PROMPTS[:1] + others[::-1], **options))[0] == alone
    gb = gb_for(model, 7, 9 + 20 + sampling.CHECK_EVERY["cpu"])
    assert rows_of(generate(model, PROMPTS[:1] + others, kv_cache_gb=gb, **options)) == crowd
    share = generate(model, (PROMPTS[:1] + others)[40:], first_prompt=40, **options)
    assert rows_of(share) == crowd[40:]
    group = rows_of(generate(model, PROMPTS[:1], **OPTIONS))
    assert group[0] == alone and len(set(map(tuple, group))) == 3  # samples of a group differ


def test_seeds(model):
    """Bug: draws that ignore the seed, or that two prompts of a batch share."""
    first, again = generate(model, PROMPTS, **OPTIONS), generate(model, PROMPTS, **OPTIONS)
    assert torch.equal(first.response_ids, again.response_ids)
    assert torch.equal(first.logprobs, again.logprobs)
    assert rows_of(first) != rows_of(generate(model, PROMPTS, **{**OPTIONS, "seed": 12}))
    twice = rows_of(generate(model, PROMPTS[:1] * 2, **OPTIONS))
    assert twice[:3] != twice[3:]


def test_masks_eos_and_padding(model):
    """Bug: EOS outside the mask, or tokens after it; a cut response called finished."""
    rollout = generate(model, PROMPTS, **OPTIONS)
    assert rollout.prompt_ids.shape == (12, 5) and rollout.response_ids.dtype == torch.int64
    for row, response in enumerate(rows_of(rollout)):
        prompt = rollout.prompt_ids[row][rollout.prompt_mask[row]].tolist()
        assert prompt == PROMPTS[row // 3]
        assert bool(rollout.finished[row]) == (response[-1] in (1, 2))
        assert not {1, 2} & set(response[:-1])
        assert len(response) == 20 or rollout.finished[row]
    outside = ~rollout.response_mask
    for values in (rollout.response_ids, rollout.logprobs):
        assert bool((values[outside] == 0).all())
    assert rollout.finished.any() and (~rollout.finished).any(), "the case must hold both kinds"


def test_logprobs_equal_the_trainers_scoring(model):
    """Bug: sampler and trainer disagree on a token's context. Stated bound: 1e-4 nats in fp32."""
    rollout = generate(model, PROMPTS, **OPTIONS)
    with torch.no_grad():
        assert (conditional_logprobs(model, rollout) - rollout.logprobs).abs().max() < 1e-4
    warm = generate(model, PROMPTS, temperature=0.7, **OPTIONS)
    with torch.no_grad():
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight / 0.7)  # the same, as logits
        assert (conditional_logprobs(model, warm) - warm.logprobs).abs().max() < 1e-4


def total_variation(tokens, expected):
    found = torch.bincount(tokens, minlength=len(expected)) / len(tokens)
    return (found - expected).abs().sum() / 2


def test_distribution_of_the_draws():
    """Bug: a biased draw. n = 200,000 draws of V = 50 tokens: the total variation from the softmax
    has mean at most sqrt(V / (2 pi n)) = 0.0063, and passes that by 0.005 with probability below
    exp(-2 n 0.005^2) = 5e-5 (McDiarmid)."""
    torch.manual_seed(0)
    logits, draws = torch.randn(50) * 2, 200_000
    tokens, logprobs = sampling.draw(logits.expand(draws, 50), torch.rand(draws), 1.0)
    expected = logits.double().softmax(0)
    assert total_variation(tokens, expected) < 0.0063 + 0.005
    assert torch.allclose(logprobs.double(), expected.log()[tokens], atol=1e-5)


def test_distribution_over_the_samples_of_a_group(model):
    """Bug: the uniforms of a group's samples are not independent. The same bound with n = 4096,
    V = 64: mean at most 0.050, passed by 0.04 with probability below 3e-6."""
    options = dict(group_size=4096, max_new_tokens=1, eos_ids=())
    tokens = generate(model, PROMPTS[:1], **options).response_ids[:, 0]
    with torch.no_grad():
        expected = model.lm_head(model(torch.tensor(PROMPTS[:1])))[0, -1].double().softmax(0)
    assert total_variation(tokens, expected) < 0.050 + 0.04


def test_extreme_uniforms_never_select_a_token_without_mass():
    """Bug: u = 0 picks a leading token of probability zero, u next to 1 runs off the end."""
    logits = torch.full((2, 1000, 300), -math.inf)  # the sums of 1000 softmaxes are 1 but rounded
    logits[:, :, 1:-1] = 3 * torch.randn(1000, 298, generator=torch.Generator().manual_seed(0))
    for uniform, edge in ((0.0, 1), (1 - 2**-24, 298)):  # the least and the largest torch.rand
        tokens, logprobs = sampling.draw(logits[0], torch.full((1000,), uniform), 1.0)
        assert bool(((tokens - edge).abs() < 10).all() and logprobs.isfinite().all())
        assert bool(((tokens > 0) & (tokens < 299)).all())


def kept(logits, **options):
    options = {"top_k": 0, "top_p": 1.0, **options}
    return (sampling.truncate(torch.tensor([logits]), **options)[0] > -math.inf).tolist()


def test_top_k_and_top_p_edges():
    """Bug: top-p drops the token that crosses the threshold; k above V, ties, nothing left."""
    log = [math.log(p) for p in (0.5, 0.3, 0.15, 0.05)]
    assert kept(log, top_k=2) == [True, True, False, False]
    assert kept(log, top_k=9) == kept(log, top_p=1.0) == [True] * 4
    assert kept([0.0, 0.0, 0.0, -1.0], top_k=2) == [True, True, True, False]  # ties stay
    assert kept(log, top_p=0.6) == [True, True, False, False]  # 0.5 is not enough
    assert kept([log[3], *log[:3]], top_p=0.6) == [False, True, True, False]  # any order
    assert kept(log, top_p=1e-9) == [True, False, False, False]
    assert kept([0.0] * 4, top_p=0.5) == [True, True, False, False]  # ties: the first ids stay
    assert kept([50.0, 0.0, 0.0, 0.0], top_p=0.9) == [True, False, False, False]
    one = [-math.inf, 0.0, -math.inf, -math.inf]  # all the mass on one token
    assert kept(one, top_k=2) == kept(one, top_p=0.5) == [False, True, False, False]
    assert kept(log, top_k=3, top_p=0.6) == [True, True, False, False]  # of what top-k left


def test_truncated_logprobs_are_renormalised(model):
    """Bug: log-probs of the full distribution reported for a truncated one. With top_k = 1 the
    draw is certain."""
    one = generate(model, PROMPTS, top_k=1, **OPTIONS)
    greedy = generate(model, PROMPTS, temperature=0, **OPTIONS)
    assert torch.equal(one.response_ids, greedy.response_ids)
    assert bool((one.logprobs == 0).all()) and bool((greedy.logprobs == 0).all())


def test_a_draw_that_the_plain_softmax_cannot_hold():
    """Bug: log(0) for a token that only the temperature makes likely; exp(-200) is 0 in float32."""
    logits = torch.tensor([[0.0, -200.0]])
    tokens, logprobs = sampling.draw(logits, torch.tensor([0.9]), 1000.0)
    assert tokens.item() == 1
    assert logprobs.item() == pytest.approx(math.log(1 / (1 + math.exp(0.2))), abs=1e-6)


def test_row_steps_on_the_long_tail(monkeypatch, prefilled, row_steps):
    """Bug: finished rows stay in the batch. W-tiny: 16 prompts x 8, lengths lognormal (median 60,
    sigma 0.7, at most 256). No step too many on a CPU; few where the host checks seldom."""
    model = random_model(max_position_embeddings=300)
    generator = torch.Generator().manual_seed(0)
    lengths = (60 * (0.7 * torch.randn(128, generator=generator)).exp()).round().clamp(1, 256)
    limits = lengths.int().tolist()
    options = dict(group_size=8, max_new_tokens=limits, eos_ids=())
    prompts = torch.randint(64, (16, 32), generator=generator).tolist()
    rollout = generate(model, prompts, **options)
    assert rollout.response_mask.sum(1).tolist() == limits
    assert prefilled == [ids[:-1] for ids in prompts] and sum(row_steps) == sum(limits)
    row_steps.clear()
    monkeypatch.setitem(sampling.CHECK_EVERY, "cpu", sampling.CHECK_EVERY["cuda"])
    generate(model, prompts, **options)
    assert sum(row_steps) / sum(limits) <= 1.25


def test_stop_strings(model):
    """Bug: a stop string that spans two tokens is missed; the row is not marked finished."""

    class Letters:
        def decode(self, ids, skip_special_tokens=True):
            return "".join(chr(97 + int(id) % 26) for id in ids)

        def batch_decode(self, rows, skip_special_tokens=True):
            return [self.decode(ids) for ids in rows]

    options = {**OPTIONS, "eos_ids": (), "group_size": 1}
    free = rows_of(generate(model, PROMPTS, **options))[0]
    stop = Letters().decode(free[14:16])  # past the reach of the tail that is decoded
    stopped = generate(model, PROMPTS[:1], stop_strings=(stop,), tokenizer=Letters(), **options)
    text = Letters().decode(rows_of(stopped)[0])
    assert text.endswith(stop) and text.count(stop) == 1 and bool(stopped.finished[0])


def test_out_of_memory_halves_the_slots_and_loses_nothing(model, monkeypatch, capsys):
    """Bug: a run that dies, or whose responses change, when memory runs out half-way."""
    expected = generate(model, PROMPTS, **OPTIONS)
    real, calls = sampling.step, []

    def failing(*args):
        calls.append(1)
        if len(calls) in (4, 9):
            raise torch.OutOfMemoryError
        real(*args)

    monkeypatch.setattr(sampling, "step", failing)
    assert torch.equal(generate(model, PROMPTS, **OPTIONS).response_ids, expected.response_ids)
    assert "6 cache rows" in (text := capsys.readouterr().out) and "3 cache rows" in text


def test_nan_stops_with_the_row_and_its_text(model, monkeypatch):
    """Bug: NaN logits end in garbage, or in an error that does not say where."""
    expected, real, calls = rows_of(generate(model, PROMPTS, **OPTIONS)), sampling.draw, []

    def poisoned(logits, *options):
        calls.append(1)
        if len(calls) == 3:
            logits[1, 7] = float("nan")
        return real(logits, *options)

    monkeypatch.setattr(sampling, "draw", poisoned)
    text = re.escape(str(expected[1][:2]))
    with pytest.raises(FloatingPointError, match=f"token 2 of row 1; .* so far: {text}"):
        generate(model, PROMPTS, **OPTIONS)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("logits", [[math.nan, 0.0], [math.inf, 0.0], [-math.inf, -math.inf]])
def test_logits_that_are_no_distribution_give_nan(logits, temperature):
    """Bug: +inf or a row of -inf is drawn from as if it were a distribution."""
    _, logprobs = sampling.draw(torch.tensor([logits]), torch.tensor([0.5]), temperature)
    assert not logprobs.isfinite()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt_ids": [[]]}, "prompt without tokens"),
        ({"prompt_ids": []}, "no prompts"),
        ({"prompt_ids": [[5, 64]]}, "token ids .64."),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": [5, 5]}, "each of 12 rows"),
        ({"max_new_tokens": 200}, "128 positions"),
        ({"temperature": -1.0}, "temperature -1.0"),
        ({"temperature": math.nan}, "temperature nan"),
        ({"top_p": 0.0}, "top_p 0.0"),
        ({"top_p": 1.5}, "top_p 1.5"),
        ({"top_k": -1}, "top_k -1"),
        ({"eos_ids": None}, "eos_ids is None"),
        ({"group_size": 0}, "group_size is 0"),
        ({"kv_cache_gb": 1e-9}, "holds no row"),
        ({"stop_strings": ("x",)}, "need the tokenizer"),
    ],
)
def test_bad_input_is_one_clear_error(model, change, message):
    with pytest.raises(ValueError, match=message):
        generate(model, **{"prompt_ids": PROMPTS, **OPTIONS, **change})


class Utf8:
    """One byte a token, as a byte-level tokenizer decodes it."""

    def decode(self, ids, skip_special_tokens=True):
        return bytes(ids).decode("utf-8", "replace")


@pytest.mark.parametrize("interrupt", [False, True])
def test_an_answer_is_printed_as_it_comes(capsys, interrupt):
    """Bug: half a character is printed, the end is lost, Ctrl-C ends in a traceback."""
    text = "¼ of 8 = 2 €"

    def typed(model, prompt_ids, on_tokens, **options):
        for byte in text.encode()[: 13 if interrupt else None]:  # the € is cut in its middle
            on_tokens([0], [byte])
        if interrupt:
            raise KeyboardInterrupt
        return type("Ended", (), {"finished": torch.tensor([True])})

    ask.answer(typed, random_model(), Utf8(), [5], ((1,), ()), 20, 1.0, 0)
    out, line = capsys.readouterr()
    assert out == (text[:-1] + "\ufffd\n" if interrupt else text + "\n")
    assert line.endswith("interrupted\n" if interrupt else "ended by itself\n")
    assert line.startswith("13 tokens" if interrupt else "15 tokens")


def test_an_answer_ends_as_in_training(world, capsys, monkeypatch):
    """Bug: Qwen2.5 base, whose EOS does not end a turn, writes on into turns of its own making."""
    asked = {}

    def asks(*_, **how):
        asked.update(how)
        raise KeyboardInterrupt

    monkeypatch.setattr(ask, "response_ends", lambda *_: ((7,), ("User:",)))
    assert ask.ask(asks, ["--model", str(world), "2 + 3?"]) == 0
    assert (asked["eos_ids"], asked["stop_strings"]) == ((7,), ("User:",))


def test_an_error_of_the_command_is_one_line(capsys):
    assert sampling.main(["--model", "no-such-model", "x"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("error", [FloatingPointError("not finite"), torch.OutOfMemoryError()])
def test_an_answer_that_fails_is_one_line(world, capsys, error):
    """Bug: a traceback where the model's logits are not finite, or memory runs out."""

    def fails(*_, **__):
        raise error

    assert ask.ask(fails, ["--model", str(world), "2 + 3?"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
