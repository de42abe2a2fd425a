"""A look into one model: how far both spaces agree, and one response token by token.

    question     log P(y_t | x, y_<t) - log P(y_t | s, y_<t)   above 0: the question asks for it
    NSR-PreRL    change of log P(y_t | x, y_<t) by a small step along its update, which is on P(y)
    GRPO         the same by a step along its update, which is on P(y | x)

The first is in nats, the others as shares of their largest change. Both updates are made of one
group of responses to one problem; both steps have one length. `python study.py --look MODEL`.
"""

from copy import deepcopy
from statistics import fmean

import torch
from torch.nn.utils import get_total_norm

from plumbing.alignment import gradient_alignment
from plumbing.benchmarks import load_problems
from plumbing.checkpoints import load_model
from plumbing.evaluation import count_thoughts
from plumbing.grading import grade_all
from plumbing.prompts import encode_prompt, start_token_of
from prerl import OBJECTIVES, conditional_logprobs, group_advantages, marginal_logprobs
from prerl import policy_gradient
from rollout import generate

STEP = 0.002  # length of a step, as a share of the length of all weights
GROUP_SIZE = 32  # responses to the problem of the picture
PER_LINE, CELL = 10, 10  # of the picture: tokens of a line, characters of a token
SMALL = 0.05  # share of a row's largest change that the picture leaves blank
LEGEND = (
    "question: the response; blue tokens are likelier with the question than without it.\n"
    "NSR-PreRL, GRPO: how an update changes log P(token | question); 1 is the row's largest change"
)


def measure_tokens(model, tokenizer, problem, max_new_tokens=128):
    """(tokens of a wrong response to a problem, {name of a band: a value for each token}).

    None where more than nine in ten responses are right or wrong: such a group says little.
    """
    start = start_token_of(tokenizer)
    rollout = generate(
        model, [encode_prompt(tokenizer, problem)], group_size=GROUP_SIZE,
        max_new_tokens=max_new_tokens, eos_ids=model.eos_ids,
    )  # fmt: skip
    texts = rollout.response_texts(tokenizer)
    rewards = torch.tensor([grade_all([problem] * GROUP_SIZE, texts)])  # (1, G)
    if not 0.1 < rewards.mean() < 0.9:
        return None
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
    return tokens, {name: band[mask].tolist() for name, band in bands.items()}


@torch.no_grad()
def logprobs_after_step(model, rollout):
    """(B, R) log P(y_t | x, y_<t) of a copy of the model, one step against its .grad."""
    stepped, gradients = deepcopy(model), [one.grad for one in model.parameters()]
    rate = STEP * get_total_norm(list(model.parameters())) / get_total_norm(gradients)
    for parameter, gradient in zip(stepped.parameters(), gradients, strict=True):
        parameter -= rate * gradient
    return conditional_logprobs(stepped, rollout)


def draw_tokens(title, tokens, bands, path):
    """Cells of tokens, three bands a line: blue above 0, red below, deepest at the largest."""
    from matplotlib.figure import Figure  # slow to import

    lines = -(-len(tokens) // PER_LINE)
    height = 1.2 + 1.5 * lines  # inches
    figure = Figure(figsize=(9, height), facecolor="white")
    axis = figure.add_axes((0.11, 0.02, 0.88, 1 - 1.1 / height))
    for place, (name, values) in enumerate(bands.items()):
        largest = max(map(abs, values)) or 1.0
        for index, (token, value) in enumerate(zip(tokens, values, strict=True)):
            line, column = divmod(index, PER_LINE)
            top, depth = 4 * line + place, 0.85 * abs(value) / largest
            color = (0.13, 0.4, 0.67) if value > 0 else (0.7, 0.09, 0.17)
            axis.fill_between((column + 0.02, column + 0.98), top, top + 0.94, color=color,
                              alpha=depth, linewidth=0)  # fmt: skip
            token = token.replace("\n", "¶").strip()
            token = token if len(token) <= CELL else token[: CELL - 1] + "…"
            number = f"{value:+.2f}" if depth > 0.85 * SMALL else ""
            axis.text(column + 0.5, top + 0.47, number if place else token, ha="center",
                      va="center", fontsize=9,
                      color="white" if depth > 0.5 else "black", family="monospace",
                      parse_math=False)  # fmt: skip
        for line in range(lines):
            axis.text(-0.1, 4 * line + place + 0.47, name, ha="right", va="center", fontsize=10)
    axis.set(xlim=(0, PER_LINE), ylim=(4 * lines - 1, 0))
    axis.axis("off")
    figure.text(0.11, 1 - 0.1 / height, f"{title[:90]}\n{LEGEND}", va="top", fontsize=10,
                parse_math=False)  # a lone $, or LaTeX that matplotlib lacks  # fmt: skip
    figure.savefig(path, dpi=110)


def sampled(model, tokenizer, problems):
    """(Rollout of 4 responses to each problem, start token)."""
    ids = [encode_prompt(tokenizer, problem) for problem in problems]
    rollout = generate(model, ids, group_size=4, max_new_tokens=128, eos_ids=model.eos_ids)
    return rollout, start_token_of(tokenizer)


def print_habits(model, tokenizer, rollout, start):
    """Does the model look again in text without a question more often than after one?"""
    size = len(rollout.response_ids)
    options = dict(max_new_tokens=128, eos_ids=model.eos_ids, seed=1)
    alone = generate(model, [[start]], group_size=size, **options)
    print(f"thoughts a response, {size} samples of at most 128 tokens:")
    for name, samples in (("after a question", rollout), ("start token alone", alone)):
        counts = [count_thoughts(text) for text in samples.response_texts(tokenizer)]
        means = {thought: fmean(count[thought] for count in counts) for thought in counts[0]}
        print(f"  {name:18}", ", ".join(f"{thought} {mean:.3f}" for thought, mean in means.items()))


def look(name, data, text):
    """Print the cosines of both spaces' gradients and the habits in both; draw tokens.png."""
    model, tokenizer = load_model(name)
    problems = load_problems(data)
    rollout, start = sampled(model, tokenizer, problems[:16])
    found = gradient_alignment(model, rollout, start)
    print(f"cos(grad log P(y), grad log P(y|x)): whole model {found['whole_model']:.4f}")
    for part in ("layers", "positions"):
        for place, value in found[part].items():
            print(f"  {part:9} {place:>14} {value:8.4f}")
    print_habits(model, tokenizer, rollout, start)
    if text:
        problems = [one for one in problems if one["problem"] == text]
    for problem in problems:
        if measured := measure_tokens(model, tokenizer, problem):
            draw_tokens(problem["problem"], *measured, "tokens.png")
            return print(f"tokens.png: one response to {problem['problem']!r}")
    raise ValueError(f"{data}: no such problem is solved in a tenth to nine tenths of samples")
