"""Claim 1 of the paper: do the gradients of log P(y) and log P(y | x) point the same way?"""

from collections import defaultdict
from itertools import pairwise
from statistics import mean

import torch

from prerl import conditional_logprobs, contexts_of, marginal_logprobs, response_logprobs

POSITION_BINS = (0, 1, 4, 16, 64, 256)  # first response token of each bin in `gradient_alignment`
PROBABILITY_BINS = (0.0, 0.1, 0.5, 0.9, 1.01)  # of a token


def cosine(first, second, names):
    """Cosine of the angle between two gradients, over the named parameters together."""

    def dot(a, b):
        return sum((a[name] * b[name]).sum(dtype=torch.float64) for name in names)

    lengths = (dot(first, first) * dot(second, second)).sqrt()
    return float(dot(first, second) / lengths.clamp_min(1e-30))


def row_gradients(model, rollout, start_token_id, token_mask):
    """Yield (grad log P(y), grad log P(y | x)) of each response, {parameter name: tensor}: of the
    mean over its tokens in token_mask; .grad stays."""
    parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}
    for row in token_mask.any(1).nonzero()[:, 0].tolist():
        ids, mask, pair = rollout.response_ids[[row]], rollout.response_mask[[row]], []
        for space in ("marginal", "conditional"):
            context = contexts_of(rollout, space, start_token_id, model.config.vocab_size)[row]
            logprobs = response_logprobs(model, [context], ids, mask, None)  # (1, R)
            chosen = logprobs[token_mask[[row]]].mean()
            gradients = torch.autograd.grad(chosen, parameters.values())
            pair.append(dict(zip(parameters, gradients, strict=True)))
        yield pair


def mean_cosine(model, rollout, start_token_id, token_mask):
    """The cosine over the tokens in token_mask, averaged over responses; None without tokens."""
    pairs = row_gradients(model, rollout, start_token_id, token_mask)
    cosines = [cosine(*pair, pair[0]) for pair in pairs]
    return mean(cosines) if cosines else None


def gradient_alignment(model, rollout, start_token_id, by_position=True):
    """cos(grad log P(y), grad log P(y | x)) of each response, averaged (claim 1 of 2604.14142).

    Response by response, as the mean of grad log P(y | x) over many sampled responses tends to 0
    (the score identity) and has no direction.
    Returns {"whole_model": float, "layers": {name: float}, "positions": {"4-15": float, ...}}: over
    all weights, per layer (embedding, head and last norm by name), and with only the response
    tokens of one range of positions in both gradients; `by_position=False` leaves that out, and
    with it most of the cost: two forwards and backwards of each row remain.
    """
    layers = defaultdict(list)  # names of its parameters
    for name in [name for name, one in model.named_parameters() if one.requires_grad]:
        part, index = name.removeprefix("model.").split(".")[:2]
        layers[f"layer {index}" if part == "layers" else part].append(name)
    mask, whole, by_layer, positions = rollout.response_mask, [], defaultdict(list), {}
    for pair in row_gradients(model, rollout, start_token_id, mask):
        whole.append(cosine(*pair, pair[0]))
        for layer, names in layers.items():
            by_layer[layer].append(cosine(*pair, names))
    starts = [first for first in POSITION_BINS if by_position and first < mask.shape[1]]
    for first, end in pairwise((*starts, mask.shape[1])):
        chosen = torch.zeros_like(mask)
        chosen[:, first:end] = mask[:, first:end]
        if chosen.any():
            name = str(first) if end == first + 1 else f"{first}-{end - 1}"
            positions[name] = mean_cosine(model, rollout, start_token_id, chosen)
    layers = {layer: mean(values) for layer, values in by_layer.items()}
    return {"whole_model": mean(whole), "layers": layers, "positions": positions}


def alignment_by_probability(model, rollout, start_token_id):
    """{"P(y_t) 0.1 to 0.5": {"tokens": int, "cosine": float | None}, ...}: the cosine with only the
    tokens of one range of probability, in one space, in both gradients; averaged over responses.
    """
    ids, mask = rollout.response_ids, rollout.response_mask
    with torch.no_grad():
        logprobs = {
            "P(y_t given x)": conditional_logprobs(model, rollout),
            "P(y_t)": marginal_logprobs(model, ids, mask, start_token_id),
        }
    found = {}
    for space, values in logprobs.items():
        for low, high in pairwise(PROBABILITY_BINS):
            chosen = mask & (values.exp() >= low) & (values.exp() < high)
            found[f"{space} {low} to {min(high, 1)}"] = {
                "tokens": int(chosen.sum()),
                "cosine": mean_cosine(model, rollout, start_token_id, chosen),
            }
    return found
