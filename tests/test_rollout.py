"""Sampling against plain loops and the softmax itself.    python -m pytest tests/test_rollout.py"""

import math

import pytest
import torch

import rollout as sampler
from conftest import random_model
from prerl import conditional_logprobs
from rollout import generate

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [14, 15]]
OPTIONS = dict(group_size=3, max_new_tokens=20, eos_ids=(1, 2), seed=11)


def plain_loop(model, prompt, uniforms, limit, eos_ids):
    """One response without cache, batch or inverse-CDF kernel: full forward each token, a Python loop over the CDF."""
    ids, response = list(prompt), []
    while len(response) < limit:
        with torch.no_grad():
            probabilities = model.lm_head(model(torch.tensor([ids])))[0, -1].double().softmax(-1).tolist()
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
    return [ids[mask].tolist() for ids, mask in zip(rollout.response_ids, rollout.response_mask, strict=True)]


def gb_for(model, rows, capacity):
    return (rows + 1.5) * sampler.KVCache.bytes_per_token(model.config) * capacity / 1e9


def test_equals_a_plain_loop(model):
    """Bug: stale cache, wrong position after prefill or compaction, a row fed another row's uniforms."""
    found = rows_of(generate(model, PROMPTS, **OPTIONS))
    for row, response in enumerate(found):
        uniforms = sampler.uniforms_of(11, row // 3, row % 3, 20)
        assert response == plain_loop(model, PROMPTS[row // 3], uniforms, 20, (1, 2)), row


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 11])
def test_refill_equals_all_at_once(model, slots):
    """Bug: a refilled slot reads its predecessor's keys; a group admitted in two parts loses its prompt."""
    expected = generate(model, PROMPTS, **OPTIONS)
    capacity = 5 + 20 + sampler.CUDA_CHECK_EVERY
    found = generate(model, PROMPTS, kv_cache_gb=gb_for(model, slots, capacity), **OPTIONS)
    assert torch.equal(found.response_ids, expected.response_ids) and torch.equal(found.finished, expected.finished)
    assert torch.allclose(found.logprobs, expected.logprobs, atol=1e-4)
    assert found.stats["prefill_tokens"] == expected.stats["prefill_tokens"] == sum(len(ids) - 1 for ids in PROMPTS)


def test_a_response_does_not_depend_on_the_batch(model):
    """Bug: one generator for the whole batch."""
    many = rows_of(generate(model, PROMPTS, **OPTIONS))
    alone = rows_of(generate(model, PROMPTS[:1], **{**OPTIONS, "group_size": 1}))
    assert alone[0] == many[0] and len({tuple(row) for row in many[:3]}) == 3  # and samples of a group differ


def test_seeds(model):
    first, again = generate(model, PROMPTS, **OPTIONS), generate(model, PROMPTS, **OPTIONS)
    assert torch.equal(first.response_ids, again.response_ids) and torch.equal(first.logprobs, again.logprobs)
    assert not torch.equal(first.response_ids[:, 0], generate(model, PROMPTS, **{**OPTIONS, "seed": 12}).response_ids[:, 0])


def test_masks_eos_and_padding(model):
    """Bug: EOS outside the mask, or tokens after it; a cut response called finished."""
    rollout = generate(model, PROMPTS, **OPTIONS)
    assert rollout.prompt_ids.shape == (12, 5) and rollout.response_ids.dtype == torch.int64
    for row, response in enumerate(rows_of(rollout)):
        assert rollout.prompt_ids[row][rollout.prompt_mask[row]].tolist() == PROMPTS[row // 3]
        assert bool(rollout.finished[row]) == (response[-1] in (1, 2)) and not {1, 2} & set(response[:-1])
        assert len(response) == 20 or rollout.finished[row]
    outside = ~rollout.response_mask
    assert bool((rollout.response_ids[outside] == 0).all() and (rollout.logprobs[outside] == 0).all())
    assert rollout.finished.any() and (~rollout.finished).any(), "the case must hold both kinds"


def test_logprobs_equal_the_trainers_scoring(model):
    """Bug: sampler and trainer disagree on the context of a token. Stated bound: 1e-4 nats in fp32."""
    rollout = generate(model, PROMPTS, **OPTIONS)
    with torch.no_grad():
        assert (conditional_logprobs(model, rollout) - rollout.logprobs).abs().max() < 1e-4
    warm = generate(model, PROMPTS, temperature=0.7, **OPTIONS)
    with torch.no_grad():
        assert (conditional_logprobs(model, warm, temperature=0.7) - warm.logprobs).abs().max() < 1e-4
        assert (conditional_logprobs(model, warm) - warm.model_logprobs).abs().max() < 1e-4


def test_distribution_of_the_draws():
    """Bug: a biased sampler. 200,000 draws from 50 tokens: their total variation from the softmax has mean at most
    sqrt(50 / (2 pi 200,000)) = 0.0063; by McDiarmid it exceeds that by 0.005 with probability below exp(-2*200000*0.005^2) = 5e-5."""
    torch.manual_seed(0)
    logits, draws = torch.randn(50) * 2, 200_000
    tokens, logprobs, _ = sampler.draw(logits.expand(draws, 50), torch.rand(draws), 1.0)
    expected = logits.double().softmax(0)
    variation = (torch.bincount(tokens, minlength=50) / draws - expected).abs().sum() / 2
    assert variation < 0.0063 + 0.005
    assert torch.allclose(logprobs.double(), expected.log()[tokens], atol=1e-5)


def test_extreme_uniforms_never_select_a_token_without_mass():
    """Bug: u = 0 picks a leading token of probability zero, u next to 1 runs off the end."""
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 1.0, -math.inf]]).expand(2, 5)
    tokens, logprobs, _ = sampler.draw(logits, torch.tensor([0.0, 1 - 2**-24]), 1.0)
    assert tokens.tolist() == [1, 3] and bool(logprobs.isfinite().all())


def kept(logits, **options):
    return (sampler.truncate(torch.tensor([logits]), **{"top_k": 0, "top_p": 1.0, **options})[0] > -math.inf).tolist()


def test_top_k_and_top_p_edges():
    """Bug: top-p that drops the token that crosses the threshold, k above V, ties, everything dropped."""
    log = [math.log(p) for p in (0.5, 0.3, 0.15, 0.05)]
    assert kept(log, top_k=2) == [True, True, False, False]
    assert kept(log, top_k=9) == kept(log, top_p=1.0) == [True] * 4
    assert kept([0.0, 0.0, 0.0, -1.0], top_k=2) == [True, True, True, False]  # ties with the k-th stay
    assert kept(log, top_p=0.6) == [True, True, False, False]  # 0.5 is not enough: the token that crosses 0.6 stays
    assert kept(log, top_p=1e-9) == [True, False, False, False]
    assert kept([50.0, 0.0, 0.0, 0.0], top_p=0.9) == [True, False, False, False]


def test_truncated_logprobs_are_renormalised(model):
    """Bug: log-probs of the full distribution reported for a truncated one. With top_k = 1 the draw is certain."""
    one = generate(model, PROMPTS, top_k=1, **OPTIONS)
    greedy = generate(model, PROMPTS, temperature=0, **OPTIONS)
    assert torch.equal(one.response_ids, greedy.response_ids)
    assert bool((one.logprobs == 0).all()) and bool((greedy.logprobs == 0).all())
    assert torch.allclose(one.model_logprobs, greedy.model_logprobs, atol=1e-6) and bool((one.model_logprobs[one.response_mask] < 0).all())


def test_no_row_is_computed_after_its_end(model):
    """Bug: finished rows stay in the batch. Long-tailed limits (lognormal, median 12): one row-step per useful token."""
    generator = torch.Generator().manual_seed(0)
    limits = (12 * (0.7 * torch.randn(32, generator=generator)).exp()).clamp(1, 60).int().tolist()
    rollout = generate(model, [[5, 6]] * 4, group_size=8, max_new_tokens=limits, eos_ids=())
    assert rollout.response_mask.sum(1).tolist() == limits
    assert rollout.stats["row_steps"] == rollout.stats["response_tokens"] == sum(limits)


def test_stop_strings(model):
    """Bug: a stop string that spans two tokens is missed; the row is not marked finished."""

    class Letters:
        def decode(self, ids, skip_special_tokens=True):
            return "".join(chr(97 + int(id) % 26) for id in ids)

    options = {**OPTIONS, "eos_ids": (), "group_size": 1}
    free = rows_of(generate(model, PROMPTS, **options))[0]
    stop = Letters().decode(free[4:6])
    stopped = generate(model, PROMPTS[:1], stop_strings=(stop,), tokenizer=Letters(), **options)
    text = Letters().decode(rows_of(stopped)[0])
    assert text.endswith(stop) and text.count(stop) == 1 and bool(stopped.finished[0])


def test_out_of_memory_halves_the_slots_and_loses_nothing(model, monkeypatch, capsys):
    """Bug: a run that dies, or whose responses change, when memory runs out half-way."""
    expected = generate(model, PROMPTS, **OPTIONS)
    real, calls = sampler.step, []

    def failing(*args):
        calls.append(1)
        if len(calls) in (4, 9):
            raise torch.OutOfMemoryError
        real(*args)

    monkeypatch.setattr(sampler, "step", failing)
    assert torch.equal(generate(model, PROMPTS, **OPTIONS).response_ids, expected.response_ids)
    assert "6 cache rows" in (text := capsys.readouterr().out) and "3 cache rows" in text


def test_nan_stops_with_the_row_and_its_text():
    model = random_model()
    model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(FloatingPointError, match="token 0 of row 0"):
        generate(model, PROMPTS, **OPTIONS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt_ids": [[]]}, "prompt without tokens"),
        ({"prompt_ids": []}, "no prompts"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 200}, "128 positions"),
        ({"temperature": -1.0}, "temperature -1.0"),
        ({"top_p": 0.0}, "top_p 0.0"),
        ({"eos_ids": None}, "eos_ids is None"),
        ({"group_size": 0}, "group_size is 0"),
        ({"kv_cache_gb": 1e-9}, "holds no row"),
        ({"stop_strings": ("x",)}, "need the tokenizer"),
    ],
)
def test_bad_input_is_one_clear_error(model, change, message):
    with pytest.raises(ValueError, match=message):
        generate(model, **{"prompt_ids": PROMPTS, **OPTIONS, **change})
