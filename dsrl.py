"""Dual Space RL (arXiv 2604.14142): a few updates of NSR-PreRL on P(y), then GRPO on P(y | x).

    for step in 0 .. steps-1:
        y_1..G ~ P(. | x)      for P prompts x, G responses each                        rollout.py
        r      = 1 if the answer is right else 0                                        reward.py
        A      = r - mean(r)   per group; divided by the std in GRPO                    prerl.py
        step < prerl_steps:  push log P(y)     of responses with A < 0 down (NSR-PreRL) prerl.py
        else:                push log P(y | x) of all responses by A        (GRPO)      prerl.py
        clip the gradient to norm 1, one AdamW step
    At the switch only the loss changes: same weights, AdamW moments, learning rate, data order.

Differences from the authors' code: `prerl_steps = N` is exactly N updates; only the active
objective is computed; one token denominator serves the whole update; an on-policy update takes its
own log-probs as the old ones. The README lists them all. What is not the method (flags, records,
checkpoints, several processes) is in plumbing/.
Shapes: P prompts per step, G group size, B = P*G rows, R response tokens.

    python dsrl.py                          # tiny world: builds its base model, minutes on a laptop
    python dsrl.py --model Qwen2.5-1.5B     # MATH from the hub, one GPU
    python dsrl.py --model DIR --data FILE  # your checkpoint, your problems (.jsonl)
    python dsrl.py --variant grpo           # or nsr-prerl, twin, joint, ...: README
    torchrun --standalone --nproc-per-node 4 dsrl.py ...    # several GPUs; --shard: a part on each
"""

import math
import os
import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter

# Idle threads sleep: two that spin for each other on a busy machine run 20 to 70 times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch reads it when it is loaded

import torch
from tqdm import tqdm, trange

from plumbing import console, plan, processes, records, resume
from plumbing.alignment import gradient_alignment
from plumbing.benchmarks import load_data
from plumbing.dryrun import dry_run
from plumbing.evaluation import count_thoughts, evaluate, summarize
from plumbing.flags import VARIANTS, parse_args
from plumbing.grading import load_grader
from plumbing.prompts import response_ends, start_token_of
from plumbing.records import EVAL_K, Run
from prerl import OBJECTIVES, check_rewards, check_start_token, conditional_logprobs
from prerl import group_advantages, loss_mask, marginal_logprobs, policy_gradient
from rollout import generate

MAX_GRAD_NORM = 1.0
ADAM = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}  # authors' values; constant lr
DIAGNOSED_ROWS = 8  # rows of each update of which the log tells the log-probs in both spaces


def phase(step, prerl_steps):
    """The phase of update `step` (counted from 0): exactly `prerl_steps` updates are PreRL."""
    return "prerl" if step < prerl_steps else "rl"


def active_objectives(config, step):
    """The objectives of this update: one row of the variants table, or two for joint."""
    first, second = VARIANTS[config.variant]
    names = first if phase(step, config.prerl_steps) == "prerl" else second
    return [OBJECTIVES[name] for name in names]


def prompts_of(step, problems, config):
    """The P problems of one update, reshuffled each pass: a pure function of (seed, step)."""
    chosen, orders = [], {}
    for position in range(step * config.prompts_per_step, (step + 1) * config.prompts_per_step):
        epoch, index = divmod(position, len(problems))
        if epoch not in orders:
            generator = torch.Generator().manual_seed(config.seed * 100_003 + epoch)
            orders[epoch] = torch.randperm(len(problems), generator=generator).tolist()
        chosen.append(problems[orders[epoch][index]])
    return chosen


# --------------------------------------------------------------------------------------------------
# The loop


def train(run):
    """Both phases of a plumbing.records.Run. The loop's body is the algorithm of the header."""
    config = run.config
    tqdm.write("the loss tells nothing of progress, in GRPO it is near 0: watch the reward")
    tqdm.write(records.console_heading())
    no_bar = processes.rank() > 0  # With None below, tqdm draws a bar only where a terminal is.
    for step in trange(run.done, config.steps, desc="updates", disable=no_bar or None):
        if step % config.eval_every == 0 or step == config.prerl_steps:
            measure(run, step)
        clock = [perf_counter()]
        batch = processes.share(prompts_of(step, run.problems, config))  # this process's part
        rollout = sample(run, batch, step)
        clock.append(perf_counter())
        texts = rollout.response_texts(run.tokenizer)
        rewards, reasons = grade_groups(run, batch, texts)  # (P, G), {reason: share}
        clock.append(perf_counter())
        metrics = {"step": step, "phase": phase(step, config.prerl_steps)}
        metrics |= processes.average(describe(rollout, texts, rewards) | reasons)
        metrics |= diagnose(run, rollout, step)
        metrics |= update(run, rollout, rewards, step)
        clock.append(perf_counter())
        run.done = step + 1
        records.log_update(run, metrics, rollout, texts, clock)
        resume.save_when_due(run)
        if run.stop:
            return
    measure(run, config.steps)


def sample(run, batch, step):
    """G responses to each problem of this process's share; each draw is the same in any share."""
    config = run.config
    eos_ids, stop_strings = response_ends(run.model, run.tokenizer, batch)
    return generate(
        run.model, [problem["prompt_ids"] for problem in batch], group_size=config.group_size,
        max_new_tokens=config.max_response_tokens, kv_cache_gb=run.fit.kv_cache_gb,
        eos_ids=eos_ids, stop_strings=stop_strings,
        tokenizer=run.tokenizer, seed=config.seed * 1_000_003 + step,
        first_prompt=processes.first_of_share(config.prompts_per_step),
        progress=None if processes.rank() else f"sampling for update {step}",
    )  # fmt: skip


def measure(run, step):
    """Evaluate, each process its share; record, redraw the curves, print a few responses."""
    config, problems = run.config, run.held_out
    rows = evaluate(
        run.model, run.tokenizer, processes.share(problems), k=EVAL_K, seed=config.seed,
        max_new_tokens=config.max_response_tokens, kv_cache_gb=run.fit.kv_cache_gb,
        first_prompt=processes.first_of_share(len(problems)), grade_with=run.grade,
        progress=None if processes.rank() else f"evaluation at {step}",
    )  # fmt: skip
    rows = processes.gather(rows)
    records.log_evaluation(run, step, summarize(problems, rows, EVAL_K), rows)


# --------------------------------------------------------------------------------------------------
# One update


def update(run, rollout, rewards, step):
    """Push the active objectives, clip, step; returns the metrics of the last update made.

    "skipped" among them says why it was not applied, or is None; "row", only where it was not
    finite, is the row of the rollout that stands out. A second objective's begin with its space.
    """
    config, model, optimizer = run.config, run.model, run.optimizer
    objectives = active_objectives(config, step)
    old = {objective.space: None for objective in objectives}
    if config.updates_per_rollout > 1:  # From the second on the ratio is not 1.
        old = {space: old_logprobs(run, rollout, space) for space in old}
    for turn in range(config.updates_per_rollout):
        found = plan.fit_memory(accumulate_gradients, run, rollout, rewards, objectives, old)
        processes.sum_gradients(model)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        grad_norm = float(processes.whole(norm))
        losses = [one["loss"] for one in found]
        metrics = found[0] | {"grad_norm": grad_norm, "skipped": None}
        for objective, other in zip(objectives[1:], found[1:], strict=True):  # joint has two
            metrics |= {f"{objective.space}_{name}": value for name, value in other.items()}
        if not all(map(math.isfinite, (grad_norm, *losses))):
            applied = f", after {turn} updates on this rollout" if turn else ""
            metrics["skipped"] = f"the loss or the gradient is not finite{applied}"
            metrics["row"] = offending_row(run, rollout, objectives[0].space)
            break
        if not any(one["rows_trained"] for one in found):
            metrics["skipped"] = "no row carries a signal"
            break
        plan.adam_step(optimizer, model, run.fit.offload)
    optimizer.zero_grad(set_to_none=True)  # Sampling needs the gradients' memory.
    return metrics


def accumulate_gradients(run, rollout, rewards, objectives, old):
    """Replace .grad by the objectives' gradient; returns the metrics of each. After "out of memory"
    `plan.fit_memory` calls this again, with smaller micro-batches."""
    config, found = run.config, []
    run.model.zero_grad(set_to_none=True)
    for objective in objectives:
        overridden = config.prerl_coef is not None and objective.coef < 1  # P(y), and its twin
        found.append(policy_gradient(
            run.model, rollout, advantages_for(objective, rewards, config.advantage),
            space=objective.space, samples=objective.samples, start_token_id=config.start_token,
            coef=config.prerl_coef if overridden else objective.coef,
            micro_batch_tokens=run.fit.micro_batch_tokens, old_logprobs=old[objective.space],
            token_mask=loss_mask(rollout, config.mask_eos, config.skip_first),
        ))  # fmt: skip
    return found


def advantages_for(objective, rewards, override):
    """(P, G) rewards -> (B,) advantages, normalised as the objective says or --advantage overrides.

    "sign" is +1 / -1 whatever the siblings did, all-wrong groups included
    (NSR as in RLVR-Decomposed, arXiv 2506.01347).
    """
    if override == "sign":
        return (2 * check_rewards(rewards) - 1).reshape(-1)
    scale_std = objective.scale_std if override is None else override == "zscore"
    return group_advantages(rewards, scale_std).reshape(-1)


def old_logprobs(run, rollout, space):
    """(B, R) log-probs of the weights that sampled: the draws tell P(y|x), P(y) is computed."""
    return rollout.logprobs if space == "conditional" else logprobs_now(run, rollout, space)


@torch.no_grad()
def logprobs_now(run, rollout, space):
    """(B, R) log-probs of the current weights in one space, without gradient."""
    model, budget = run.model, run.fit.micro_batch_tokens
    if space == "conditional":
        logprobs = conditional_logprobs(model, rollout, micro_batch_tokens=budget)
    else:
        logprobs = marginal_logprobs(
            model, rollout.response_ids, rollout.response_mask, run.config.start_token,
            micro_batch_tokens=budget,
        )  # fmt: skip
    if model.is_sharded:
        model.reshard()  # FSDP2 leaves the head gathered until a backward pass
    return logprobs


def offending_row(run, rollout, space):
    """A row whose log-probs are not finite, else the least likely: it pulls hardest."""
    return int(logprobs_now(run, rollout, space).sum(1).argmin())  # NaN is the least to argmin


def grade_groups(run, batch, texts):
    """(P, G) rewards in [0, 1] of a rollout's texts, and the shares of the grader's reasons."""
    group_size, counts = run.config.group_size, {}
    problems = [problem for problem in batch for _ in range(group_size)]
    rewards = torch.tensor(run.grade(problems, texts, counts=counts), device=run.device)
    shares = {f"share_{name.replace(' ', '_')}": counts[name] / len(texts) for name in counts}
    return rewards.view(-1, group_size), shares


def describe(rollout, texts, rewards):
    """Means of the rollout that the update sees; "mixed": the share of groups with a signal."""
    thoughts = [count_thoughts(text) for text in texts]
    return {
        "reward": float(rewards.mean()),
        "mixed": float((rewards != rewards[:, :1]).any(1).float().mean()),
        "length": float(rollout.response_mask.sum(1).float().mean()),
        "cut": float((~rollout.finished).float().mean()),
        "reflection": sum(count["reflection"] for count in thoughts) / len(texts),
        "transition": sum(count["transition"] for count in thoughts) / len(texts),
    }


def diagnose(run, rollout, step):
    """Of a few rows: log-probs in each space (nats per token), how far the sampler's are off, and
    every --alignment-every updates the cosine of the two spaces' gradients.
    """
    config, part = run.config, rollout.first_rows(DIAGNOSED_ROWS)
    mask = part.response_mask
    conditional = logprobs_now(run, part, "conditional")
    marginal = logprobs_now(run, part, "marginal")
    metrics = {
        "logprob_conditional": float(conditional[mask].mean()),
        "logprob_marginal": float(marginal[mask].mean()),
        "sampler_gap": float((conditional - part.logprobs)[mask].abs().mean()),
    }
    if config.alignment_every and step % config.alignment_every == 0:
        alignment = gradient_alignment(run.model, part, config.start_token, by_position=False)
        metrics["alignment"] = alignment["whole_model"]
    return metrics


# --------------------------------------------------------------------------------------------------
# Start


def load(config, device):
    """The Run of a config, with its start token looked up; no folder and no grader yet."""
    model, tokenizer, fit = plan.load_weights(config, device)
    problems, held_out = load_data(config, tokenizer, model.max_positions, model.config.vocab_size)
    token = start_token_of(tokenizer) if config.start_token is None else config.start_token
    check_start_token(token, model.config.vocab_size)
    print(f"start token of P(y): {token} {tokenizer.convert_ids_to_tokens(token)!r}")
    return Run(
        config=replace(config, start_token=token), device=device,
        model=model, tokenizer=tokenizer,
        optimizer=torch.optim.AdamW(model.parameters(), lr=config.lr, fused=True, **ADAM),
        problems=problems, held_out=held_out, fit=fit,
    )  # fmt: skip


def start(config):
    """A run from its flags to its summary."""
    if config.dry_run:
        saved = resume.where_to_go_on(Path(config.out)) if config.resume else None
        planned = replace(config, model=saved.model_for(config)) if saved else config
        return dry_run(planned, load, sample, update, prompts_of)
    if config.export:
        return resume.export(config.out, config.export)
    device = processes.join_processes(config)
    with resume.open_folder(config.out, config.resume) as folder:
        saved = resume.where_to_go_on(folder) if config.resume else None
        grade = load_grader(config.reward)
        run = load(replace(config, model=saved.model_for(config)) if saved else config, device)
        run.config = replace(run.config, model=config.model)  # still named after its base
        run.folder, run.grade = folder, grade
        run.tracker = records.open_tracker(run, saved.run if saved else run.name)
        if saved:
            resume.go_on(run, saved)
        records.start_records(run)
        records.catch_signals(run)
        try:
            train(run)
        except OSError as error:  # disk full, folder gone
            raise ValueError(resume.rescue(error, run)) from error
        if run.tracker:
            run.tracker.finish()
    if not run.stop:
        records.summarize_run(run.config, folder)


def main(argv=None):
    return console.report_errors(lambda: start(parse_args(argv, resume.saved_settings)))


if __name__ == "__main__":
    sys.exit(main())
