"""One response, token by token: what its question decides, and which update pushes where.

    question     log P(y_t | x, y_<t) - log P(y_t | s, y_<t)   above 0: the question asks for it
    NSR-PreRL    change of log P(y_t | x, y_<t) by a small step along its update, which is on P(y)
    GRPO         the same by a step along its update, which is on P(y | x)

The first is in nats, the others as shares of their largest change. Both updates are made of one
group of responses to one problem; both steps have one length. `python study.py --tokens` draws it.
"""

from dataclasses import dataclass

import torch

from plumbing.grading import grade_all
from plumbing.prompts import encode_prompt
from prerl import OBJECTIVES, conditional_logprobs, group_advantages, marginal_logprobs
from prerl import policy_gradient, start_token_of
from rollout import generate

STEP = 0.002  # length of a step, as a share of the length of all weights
PER_LINE, CELL = 14, 10  # of the picture: tokens of a line, characters of a token


@dataclass
class TokenPicture:
    problem: str
    tokens: list[str]  # of one wrong response
    bands: dict[str, list[float]]  # name: a value for each token


def measure_tokens(model, tokenizer, problem, group_size=32, max_new_tokens=128, seed=0):
    """The TokenPicture of a wrong response to a problem, a dict as `load_problems` gives.

    Raises ValueError where all responses are right or all are wrong, which pushes nothing.
    """
    start = start_token_of(tokenizer, model.config.vocab_size)
    rollout = generate(
        model, [encode_prompt(tokenizer, problem)], group_size=group_size, seed=seed,
        max_new_tokens=max_new_tokens, eos_ids=model.eos_ids,
    )  # fmt: skip
    texts = rollout.response_texts(tokenizer)
    rewards = torch.tensor([grade_all([problem] * group_size, texts)])  # (1, G)
    if not 0 < rewards.mean() < 1:
        raise ValueError(
            f"all {group_size} responses are {'right' if rewards[0, 0] else 'wrong'}: give a problem "
            "that the model sometimes solves"
        )
    row = int(rewards[0].argmin())
    mask = rollout.response_mask[row]  # (R,)
    with torch.no_grad():
        before = conditional_logprobs(model, rollout)[row]  # (R,)
        alone = marginal_logprobs(model, rollout.response_ids, rollout.response_mask, start)[row]
    bands = {"question": before - alone}
    for name, label in (("nsr-prerl", "NSR-PreRL"), ("grpo", "GRPO")):
        objective = OBJECTIVES[name]
        model.zero_grad(set_to_none=True)
        policy_gradient(
            model, rollout, group_advantages(rewards, objective.scale_std).view(-1),
            space=objective.space, samples=objective.samples, start_token_id=start,
        )  # fmt: skip
        change = logprobs_after_step(model, rollout)[row] - before  # (R,)
        bands[label] = change / change.abs().max()
    tokens = [tokenizer.decode([token]) for token in rollout.response_ids[row][mask].tolist()]
    values = {name: band[mask].tolist() for name, band in bands.items()}
    return TokenPicture(problem["problem"], tokens, values)


@torch.no_grad()
def logprobs_after_step(model, rollout):
    """(B, R) log P(y_t | x, y_<t) after a step against .grad; the weights come back unchanged."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    weights = [parameter.clone() for parameter in parameters]
    length = torch.stack([weight.norm() for weight in weights]).norm()
    slope = torch.stack([parameter.grad.norm() for parameter in parameters]).norm()
    for parameter in parameters:
        parameter -= STEP * length / slope * parameter.grad
    logprobs = conditional_logprobs(model, rollout)
    for parameter, weight in zip(parameters, weights, strict=True):
        parameter.copy_(weight)
    return logprobs


def draw_tokens(picture, path):
    """Cells of tokens, three bands a line: blue above 0, red below, as deep as the band's largest."""
    from matplotlib.figure import Figure  # slow to import

    lines = -(-len(picture.tokens) // PER_LINE)
    figure = Figure(figsize=(13, 0.6 + 1.5 * lines), facecolor="white")
    axis = figure.add_axes((0.09, 0.02, 0.9, 0.9))
    for height, (name, values) in enumerate(picture.bands.items()):
        largest = max(map(abs, values)) or 1.0
        for index, value in enumerate(values):
            line, column = divmod(index, PER_LINE)
            top = 4 * line + height
            color = (0.13, 0.4, 0.67) if value > 0 else (0.7, 0.09, 0.17)
            alpha = 0.85 * abs(value) / largest
            axis.fill_between((column + 0.02, column + 0.98), top, top + 0.94, color=color,
                              alpha=alpha, linewidth=0)  # fmt: skip
            token = picture.tokens[index].replace("\n", "¶").strip()
            token = token if len(token) <= CELL else token[: CELL - 1] + "…"
            text = token if height == 0 else f"{value:+.2f}"
            axis.text(column + 0.5, top + 0.47, text, ha="center", va="center", fontsize=9,
                      color="white" if alpha > 0.5 else "black", family="monospace")  # fmt: skip
        for line in range(lines):
            axis.text(-0.1, 4 * line + height + 0.47, name, ha="right", va="center", fontsize=9)
    axis.set(xlim=(0, PER_LINE), ylim=(4 * lines - 1, 0))
    axis.axis("off")
    figure.suptitle(picture.problem[:120], fontsize=11)
    figure.savefig(path, dpi=110)
