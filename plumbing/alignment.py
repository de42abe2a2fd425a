"""Claim 1 of the paper: do both spaces pull the weights the same way? cos(grad log P(y), grad log P(y | x))."""

from statistics import mean

import torch

from prerl import policy_gradient

POSITION_BINS = (0, 1, 4, 16, 64, 256)  # first response token of each bin in `gradient_alignment`


def logprob_gradient(model, rollout, space, start_token_id, token_mask, micro_batch_tokens):
    """Gradient of the mean log-prob over token_mask, {parameter name: tensor}; .grad stays."""
    parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}
    before = {name: parameter.grad for name, parameter in parameters.items()}
    for parameter in parameters.values():
        parameter.grad = None
    ones = torch.ones(len(rollout.response_ids), device=rollout.response_ids.device)
    options = dict(space=space, start_token_id=start_token_id, token_mask=token_mask)
    options |= dict(samples="all", coef=-1.0, micro_batch_tokens=micro_batch_tokens)
    policy_gradient(model, rollout, ones, **options)
    gradient = {name: parameter.grad for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        parameter.grad = before[name]
    return gradient


def cosine(first, second, names):
    """Cosine of the angle between two gradients, over the named parameters together."""

    def dot(a, b):
        return sum((a[name] * b[name]).sum(dtype=torch.float64) for name in names)

    lengths = (dot(first, first) * dot(second, second)).sqrt()
    return float(dot(first, second) / lengths.clamp_min(1e-30))


def gradient_alignment(model, rollout, start_token_id, micro_batch_tokens=None, by_position=True):
    """cos(grad log P(y), grad log P(y | x)) of each response, averaged (claim 1 of 2604.14142).

    Response by response, as the mean of grad log P(y | x) over many sampled responses tends to 0
    (the score identity) and has no direction.
    Returns {"whole_model": float, "layers": {name: float}, "positions": {"4-15": float, ...}}: over
    all weights, per layer (embedding, head and last norm by name), and with only the response
    tokens of one range of positions in both gradients; `by_position=False` leaves that out, and
    with it most of the cost: two forwards and backwards of each row remain.
    """
    trained = [name for name, one in model.named_parameters() if one.requires_grad]
    groups = {"whole_model": trained}
    for name in groups["whole_model"]:
        part, index = name.removeprefix("model.").split(".")[:2]
        groups.setdefault(f"layer {index}" if part == "layers" else part, []).append(name)
    ranges = position_ranges(rollout.response_mask) if by_position else {}

    def cosines(token_mask, names_of):
        options = (start_token_id, token_mask, micro_batch_tokens)
        spaces = ("marginal", "conditional")
        pair = [logprob_gradient(model, rollout, space, *options) for space in spaces]
        return {group: cosine(*pair, names) for group, names in names_of.items()}

    found = {"layers": {}, "positions": {}}
    for row in range(len(rollout.response_ids)):
        own = torch.zeros_like(rollout.response_mask)
        own[row] = rollout.response_mask[row]
        for group, value in cosines(own, groups).items():
            found["layers"].setdefault(group, []).append(value)
        for name, columns in ranges.items():
            if (own & columns).any():
                value = cosines(own & columns, {name: groups["whole_model"]})[name]
                found["positions"].setdefault(name, []).append(value)
    means = {part: {name: mean(v) for name, v in found[part].items()} for part in found}
    return {"whole_model": means["layers"].pop("whole_model"), **means}


def position_ranges(response_mask):
    """{"4-15": (R,) bool, ...}: the columns of each bin of POSITION_BINS."""
    width = response_mask.shape[1]
    columns, ranges = torch.arange(width, device=response_mask.device), {}
    for first, end in zip(POSITION_BINS, (*POSITION_BINS[1:], width), strict=True):
        last = min(end, width) - 1
        if first <= last:
            name = str(first) if first == last else f"{first}-{last}"
            ranges[name] = (columns >= first) & (columns <= last)
    return ranges
