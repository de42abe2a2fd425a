"""A look into one model: how far both spaces agree, and one response token by token.

    question     log P(y_t | x, y_<t) - log P(y_t | s, y_<t)   above 0: the question asks for it
    NSR-PreRL    change of log P(y_t | x, y_<t) by a small step along its update, which is on P(y)
    GRPO         the same by a step along its update, which is on P(y | x)

The first is in nats, the others as shares of their largest change. Both updates are made of one
group of responses to one problem; both steps have one length. `python study.py --look MODEL`.
"""

from dataclasses import dataclass

import torch

from plumbing.alignment import gradient_alignment
from plumbing.benchmarks import load_problems
from plumbing.checkpoints import load_model
from plumbing.grading import grade_all
from plumbing.prompts import encode_prompt, start_token_of
from prerl import OBJECTIVES, conditional_logprobs, group_advantages, marginal_logprobs
from prerl import policy_gradient
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
    start = start_token_of(tokenizer)
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


def sampled(name, data=None, prompts=16):
    """(model, Rollout of 4 responses each, start token) for the first problems of a data set."""
    model, tokenizer = load_model(name)
    problems = load_problems(data or f"{name}/test.jsonl", limit=prompts)
    ids = [encode_prompt(tokenizer, problem) for problem in problems]
    rollout = generate(model, ids, group_size=4, max_new_tokens=128, eos_ids=model.eos_ids)
    return model, rollout, start_token_of(tokenizer)


def look(name, data, text):
    """Print the cosines of both spaces' gradients; draw a response to a problem in tokens.png."""
    found = gradient_alignment(*sampled(name, data))
    print(f"cos(grad log P(y), grad log P(y|x)): whole model {found['whole_model']:.4f}")
    for part in ("layers", "positions"):
        for place, value in found[part].items():
            print(f"  {part:9} {place:>14} {value:8.4f}")
    model, tokenizer = load_model(name)
    problems = load_problems(data)
    if text:
        problems = [one for one in problems if one["problem"] == text]
    for problem in problems:
        try:
            draw_tokens(measure_tokens(model, tokenizer, problem), "tokens.png")
        except ValueError:  # It pushes nothing: all of its responses are right, or all wrong.
            continue
        return print(f"tokens.png: one response to {problem['problem']!r}")
    raise ValueError(f"{data}: no such problem is solved in some samples and not in others")
