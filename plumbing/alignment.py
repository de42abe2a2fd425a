"""Claim 1 of the paper: do the gradients of log P(y) and log P(y | x) point the same way?"""

from collections import defaultdict
from itertools import pairwise
from statistics import mean

import torch

from prerl import conditional_logprobs, contexts_of, marginal_logprobs, response_logprobs

POSITION_BINS = (0, 1, 4, 16, 64, 256)  # first response token of each bin in `gradient_alignment`
PROBABILITY_BINS = (0.0, 0.1, 0.5, 0.9, 1.01)  # of a token


def logprob_gradient(model, rollout, space, start_token_id, token_mask):
    """Gradient of the mean log-prob over token_mask, {parameter name: tensor}; .grad stays."""
    rows = token_mask.any(1).nonzero()[:, 0].tolist()
    contexts = contexts_of(rollout, space, start_token_id, model.config.vocab_size)
    contexts, ids = [contexts[row] for row in rows], rollout.response_ids[rows]
    logprobs = response_logprobs(model, contexts, ids, rollout.response_mask[rows], None)
    parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}
    gradients = torch.autograd.grad(logprobs[token_mask[rows]].mean(), parameters.values())
    return dict(zip(parameters, gradients, strict=True))


def cosine(first, second, names):
    """Cosine of the angle between two gradients, over the named parameters together."""

    def dot(a, b):
        return sum((a[name] * b[name]).sum(dtype=torch.float64) for name in names)

    lengths = (dot(first, first) * dot(second, second)).sqrt()
    return float(dot(first, second) / lengths.clamp_min(1e-30))


def gradient_alignment(model, rollout, start_token_id, by_position=True):
    """cos(grad log P(y), grad log P(y | x)) of each response, averaged (claim 1 of 2604.14142).

    Response by response, as the mean of grad log P(y | x) over many sampled responses tends to 0
    (the score identity) and has no direction.
    Returns {"whole_model": float, "layers": {name: float}, "positions": {"4-15": float, ...}}: over
    all weights, per layer (embedding, head and last norm by name), and with only the response
    tokens of one range of positions in both gradients; `by_position=False` leaves that out, and
    with it most of the cost: two forwards and backwards of each row remain.
    """
    trained = [name for name, one in model.named_parameters() if one.requires_grad]
    groups = {}
    for name in trained:
        part, index = name.removeprefix("model.").split(".")[:2]
        groups.setdefault(f"layer {index}" if part == "layers" else part, []).append(name)
    ranges = position_ranges(rollout.response_mask) if by_position else {}

    def gradients(token_mask):
        return [logprob_gradient(model, rollout, space, start_token_id, token_mask)
                for space in ("marginal", "conditional")]  # fmt: skip

    whole, layers, positions = [], defaultdict(list), defaultdict(list)
    for row in range(len(rollout.response_ids)):
        own = torch.zeros_like(rollout.response_mask)
        own[row] = rollout.response_mask[row]
        pair = gradients(own)
        whole.append(cosine(*pair, trained))
        for group, names in groups.items():
            layers[group].append(cosine(*pair, names))
        for name, columns in ranges.items():
            if (own & columns).any():
                positions[name].append(cosine(*gradients(own & columns), trained))
    return {
        "whole_model": mean(whole),
        "layers": {group: mean(values) for group, values in layers.items()},
        "positions": {name: mean(values) for name, values in positions.items()},
    }


def position_ranges(response_mask):
    """{"4-15": (R,) bool, ...}: the columns of each bin of POSITION_BINS."""
    width = response_mask.shape[1]
    columns, ranges = torch.arange(width, device=response_mask.device), {}
    for first, end in pairwise((*[first for first in POSITION_BINS if first < width], width)):
        name = str(first) if end == first + 1 else f"{first}-{end - 1}"
        ranges[name] = (columns >= first) & (columns < end)
    return ranges


@torch.no_grad()
def probabilities(model, rollout, start_token_id):
    """{"P(y_t given x)": (B, R), "P(y_t)": (B, R)} of the sampled tokens."""
    conditional = conditional_logprobs(model, rollout)
    ids, mask = rollout.response_ids, rollout.response_mask
    marginal = marginal_logprobs(model, ids, mask, start_token_id)
    return {"P(y_t given x)": conditional.exp(), "P(y_t)": marginal.exp()}


def alignment_by_probability(model, rollout, start_token_id):
    """{"P(y_t) 0.1 to 0.5": {"tokens": int, "cosine": float | None}, ...}: the cosine with only the
    tokens of one range of probability, in one space, in both gradients; averaged over responses.
    """
    trained = [name for name, one in model.named_parameters() if one.requires_grad]
    found = {}
    for space, values in probabilities(model, rollout, start_token_id).items():
        for low, high in pairwise(PROBABILITY_BINS):
            chosen, cosines = rollout.response_mask & (values >= low) & (values < high), []
            for row in chosen.any(1).nonzero()[:, 0].tolist():
                own = torch.zeros_like(chosen)
                own[row] = chosen[row]
                pair = [logprob_gradient(model, rollout, one, start_token_id, own)
                        for one in ("marginal", "conditional")]  # fmt: skip
                cosines.append(cosine(*pair, trained))
            found[f"{space} {low} to {min(high, 1)}"] = {
                "tokens": int(chosen.sum()), "cosine": mean(cosines) if cosines else None
            }  # fmt: skip
    return found
