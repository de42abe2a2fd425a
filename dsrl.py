"""Dual Space RL (arXiv 2604.14142): a few updates of NSR-PreRL on P(y), then GRPO on P(y | x).

    for step in 0 .. steps-1:
        y_1..G ~ P(. | x)                for P prompts x, G responses each               rollout.py
        r      = 1 if the answer is right else 0                                         reward.py
        A      = r - mean(r)             per group; divided by the std in GRPO            prerl.py
        step < prerl_steps:  push log P(y)     of the wrong responses down   (NSR-PreRL)  prerl.py
        else:                push log P(y | x) of all responses by A         (GRPO)       prerl.py
        clip the gradient to norm 1, one AdamW step
    At the switch only the loss changes: same weights, AdamW moments, learning rate, data order.

Differences from the authors' code: `prerl_steps = N` is exactly N updates; only the active
objective is computed; one token denominator for the whole update; the old log-probs of an on-policy
update are its own. The README lists them all. What is not the method (flags, records, checkpoints,
several processes) is in run.py.
Letters: P prompts per step, G group size, B = P*G rows, R response tokens.

    python dsrl.py                          # tiny world: builds its base model, minutes on a laptop
    python dsrl.py --model Qwen2.5-1.5B     # MATH from the hub, one GPU
    python dsrl.py --model DIR --data FILE  # your checkpoint, your problems (.jsonl)
    python dsrl.py --variant grpo           # or nsr-rl psr-rl prerl nsr-prerl psr-prerl joint
    torchrun --standalone --nproc-per-node 4 dsrl.py ...    # several GPUs; --shard: a part on each
"""

import math
import os
import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter

# Idle threads sleep: two that spin for each other on a busy machine run 20 to 70 times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is loaded

import torch
from tqdm import tqdm, trange

import run
from eval import count_thoughts, evaluate, stop_strings_of, summarize
from model import fetch_folder, whole
from prerl import OBJECTIVES, PACK_TOKENS, check_rewards, check_start_token, conditional_logprobs
from prerl import gradient_alignment, group_advantages, loss_mask, marginal_logprobs
from prerl import policy_gradient, start_token_of
from rollout import generate
from run import EVAL_K, VARIANTS, Config, parse_args

MAX_GRAD_NORM = 1.0
ADAM = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}  # as the authors; constant lr
DIAGNOSED_ROWS = 8  # rows of each update that are scored in both spaces, for the log
PROBE_SECONDS, PROBE_TOKENS = 10, 8  # of --dry-run


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


def train(config: Config, state, model, sampler, tokenizer, optimizer, problems, held_out, grade):
    """Both phases. The body of the loop is the algorithm of the header.

    The sampler is the model, but with --shard a whole copy of its weights: it does all but learn.
    """
    tqdm.write("a loss near 0 is expected: advantages sum to 0 in each group; watch the reward")
    tqdm.write(run.console_heading())
    for step in trange(state.done, config.steps, desc="updates", disable=run.rank() > 0):
        if step % config.eval_every == 0 or step == config.prerl_steps:
            measure(config, step, sampler, tokenizer, held_out, grade, state)
        clock = [perf_counter()]
        batch = run.share(prompts_of(step, problems, config))  # P problems, over all processes
        rollout = sample(sampler, tokenizer, batch, config, step)
        clock.append(perf_counter())
        texts = rollout.response_texts(tokenizer)
        rewards, reasons = grade_groups(grade, batch, texts, rollout)  # (P, G), {reason: share}
        clock.append(perf_counter())
        metrics = {"step": step, "phase": phase(step, config.prerl_steps)}
        metrics |= run.average(describe(rollout, texts, rewards) | reasons)
        metrics |= diagnose(sampler, rollout, config, step)
        metrics |= update(model, sampler, optimizer, rollout, rewards, config, step, state)
        clock.append(perf_counter())
        state.done = step + 1
        run.log_update(state, config, metrics, rollout, texts, clock)
        run.save_when_due(config, state, model, tokenizer, optimizer)
        if state.stop:
            return
    measure(config, config.steps, sampler, tokenizer, held_out, grade, state)


def sample(model, tokenizer, batch, config, step):
    """G responses to each problem of this process's share; each draw is the same in any share."""
    return generate(
        model, [problem["prompt_ids"] for problem in batch], group_size=config.group_size,
        max_new_tokens=config.max_response_tokens, kv_cache_gb=config.kv_cache_gb,
        eos_ids=model.eos_ids, stop_strings=stop_strings_of(tokenizer, batch),
        tokenizer=tokenizer, seed=config.seed * 1_000_003 + step,
        first_prompt=run.first_of_share(config.prompts_per_step),
        progress=None if run.rank() else f"sampling for update {step}",
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------
# One update


def update(model, sampler, optimizer, rollout, rewards, config, step, state):
    """Push the active objectives, clip, step. Returns metrics; "skipped": why it was not applied.

    "row", where an update is not finite: the one of the rollout that stands out.
    """
    objectives = active_objectives(config, step)
    old = {objective.space: None for objective in objectives}
    if config.updates_per_rollout > 1:  # off-policy from the second on: the ratio needs these
        old = {space: old_logprobs(sampler, rollout, space, config) for space in old}
    longest = int((rollout.prompt_mask.sum(1) + rollout.response_mask.sum(1)).max())
    for turn in range(config.updates_per_rollout):
        metrics = run.fit_memory(
            lambda budget: push(model, rollout, rewards, objectives, old, config, budget),
            state, longest,
        )  # fmt: skip
        run.sum_gradients(model)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        grad_norm = float(whole(norm))
        losses = [value for name, value in metrics.items() if name.endswith("loss")]
        metrics |= {"grad_norm": grad_norm, "skipped": None}
        if not all(map(math.isfinite, (grad_norm, *losses))):
            metrics["skipped"] = "the loss or the gradient is not finite"
            metrics["skipped"] += f", after {turn} updates on this rollout" if turn else ""
            metrics["row"] = offending_row(sampler, rollout, objectives[0].space, config)
            break
        if not any(value for name, value in metrics.items() if name.endswith("rows_trained")):
            metrics["skipped"] = "no row carries a signal"
            break
        run.adam_step(optimizer, model, config.offload)
        run.copy_weights(model, sampler)
    optimizer.zero_grad(set_to_none=True)  # the next sampling has their memory
    return metrics


def push(model, rollout, rewards, objectives, old, config, micro_batch_tokens):
    """Leave the objectives' gradient in .grad, and nothing else there; returns its metrics."""
    model.zero_grad(set_to_none=True)
    metrics = {}
    for objective in objectives:
        own_coef = config.prerl_coef is None or objective.space != "marginal"
        pushed = policy_gradient(
            model, rollout, advantages_for(objective, rewards, config.advantage),
            space=objective.space, samples=objective.samples, start_token_id=config.start_token,
            coef=objective.coef if own_coef else config.prerl_coef,
            micro_batch_tokens=micro_batch_tokens, old_logprobs=old[objective.space],
            token_mask=loss_mask(rollout, config.mask_eos, config.skip_first),
        )  # fmt: skip
        prefix = "" if objective is objectives[0] else f"{objective.space}_"
        metrics |= {prefix + name: value for name, value in pushed.items()}
    return metrics


def advantages_for(objective, rewards, how):
    """(P, G) rewards -> (B,) advantages, normalised as the objective says or --advantage overrides.

    "sign" is +1 / -1 whatever the siblings did, all-wrong groups included
    (NSR as in RLVR-Decomposed, arXiv 2506.01347).
    """
    if how == "sign":
        return (2 * check_rewards(rewards) - 1).reshape(-1)
    scale_std = objective.scale_std if how is None else how == "zscore"
    return group_advantages(rewards, scale_std).reshape(-1)


def old_logprobs(model, rollout, space, config):
    """(B, R) log-probs of the weights that sampled: the sampler's own; P(y) is scored here."""
    return rollout.logprobs if space == "conditional" else scores(model, rollout, space, config)


@torch.no_grad()
def scores(model, rollout, space, config):
    """(B, R) log-probs of the current weights in one space, without gradient."""
    if space == "conditional":
        return conditional_logprobs(model, rollout, micro_batch_tokens=config.micro_batch_tokens)
    return marginal_logprobs(
        model, rollout.response_ids, rollout.response_mask, config.start_token,
        micro_batch_tokens=config.micro_batch_tokens,
    )  # fmt: skip


def offending_row(model, rollout, space, config):
    """A row whose log-probs are not finite, else the least likely: it pulls hardest."""
    return int(scores(model, rollout, space, config).sum(1).argmin())  # NaN is the least to argmin


def grade_groups(grade, batch, texts, rollout):
    """(P, G) rewards in [0, 1] of a rollout's texts, and the shares of the grader's reasons."""
    group_size, counts = len(texts) // len(batch), {}
    rewards = grade([problem for problem in batch for _ in range(group_size)], texts, counts=counts)
    rewards = torch.tensor(rewards, device=rollout.response_ids.device).view(-1, group_size)
    shares = {f"share_{name.replace(' ', '_')}": counts[name] / len(texts) for name in counts}
    return rewards, shares


def describe(rollout, texts, rewards):
    """What the update sees: reward, share of groups with a signal, tokens, thoughts a response."""
    thoughts = [count_thoughts(text) for text in texts]
    return {
        "reward": float(rewards.mean()),
        "mixed": float((rewards != rewards[:, :1]).any(1).float().mean()),
        "length": float(rollout.response_mask.sum(1).float().mean()),
        "cut": float((~rollout.finished).float().mean()),
        "reflection": sum(count["reflection"] for count in thoughts) / len(texts),
        "transition": sum(count["transition"] for count in thoughts) / len(texts),
    }


def diagnose(model, rollout, config, step):
    """Log-probs of a few rows in each space (nats per token); how far the sampler's are off.

    Every --alignment-every updates also the cosine of the two spaces' gradients.
    """
    tensors = {name: value for name, value in vars(rollout).items() if name != "stats"}
    part = replace(rollout, **{name: rows[:DIAGNOSED_ROWS] for name, rows in tensors.items()})
    mask = part.response_mask
    conditional = scores(model, part, "conditional", config)
    marginal = scores(model, part, "marginal", config)
    metrics = {
        "logprob_conditional": float(conditional[mask].mean()),
        "logprob_marginal": float(marginal[mask].mean()),
        "sampler_gap": float((conditional - part.logprobs)[mask].abs().mean()),
    }
    if config.alignment_every and step % config.alignment_every == 0:
        options = (config.start_token, config.micro_batch_tokens)
        alignment = gradient_alignment(model, part, *options, by_position=False)
        metrics["alignment"] = alignment["whole_model"]
    return metrics


# --------------------------------------------------------------------------------------------------
# Evaluation


def measure(config, step, model, tokenizer, problems, grade, state):
    """Evaluate, each process its share; record, redraw the curves, print a few responses."""
    rows = evaluate(
        model, tokenizer, run.share(problems), k=EVAL_K, seed=config.seed,
        max_new_tokens=config.max_response_tokens, kv_cache_gb=config.kv_cache_gb,
        first_prompt=run.first_of_share(len(problems)),
        grade_with=grade,
        progress=None if run.rank() else f"evaluation at {step}",
    )  # fmt: skip
    rows = run.gather(rows)
    summary = summarize(problems, rows, EVAL_K)
    numbers = {name: value for name, value in summary.items() if isinstance(value, int | float)}
    thoughts = {name: rates["per_response"] for name, rates in summary["thoughts"].items()}
    record = {"step": step, **numbers, "pass_at_k": summary["pass_at_k"][EVAL_K], **thoughts}
    run.log_record(state, record)
    for row in rows[: EVAL_K * 4]:
        run.append_line(state.folder / "samples.jsonl", {"step": step, **row})
    if run.rank() == 0:
        run.draw_curves(state.folder)
    run.show_evaluation(f"evaluation at {step}", record, rows)


# --------------------------------------------------------------------------------------------------
# Start


def probe(config, model, sampler, tokenizer, optimizer, problems, state):
    """Print the seconds of an update, from ever larger ones that take about PROBE_SECONDS."""
    prompts, tokens, timed, started = 1, PROBE_TOKENS, [], perf_counter()
    # The first also warms up; the last takes about as long as all before it. Of several processes
    # one tells the time, as all must take as many turns.
    while len(timed) < 2 or run.gather([perf_counter() - started])[0] < PROBE_SECONDS / 2:
        smaller = replace(config, max_response_tokens=min(tokens, config.max_response_tokens))
        began = perf_counter()
        batch = prompts_of(0, problems, replace(config, prompts_per_step=prompts))
        rollout = sample(sampler, tokenizer, batch, smaller, 0)
        sampled = perf_counter()
        rewards = torch.arange(len(rollout.finished), device=rollout.finished.device) % 2
        rewards = rewards.float().view(-1, config.group_size)  # 0, 1, 0, 1: every row is trained
        update(model, sampler, optimizer, rollout, rewards, smaller, config.steps, state)
        timed.append((sampled - began, perf_counter() - sampled))
        share = config.prompts_per_step / run.world_size()
        missing = share / prompts, config.max_response_tokens / tokens
        if max(missing) <= 1:
            break
        prompts, tokens = (2 * prompts, tokens) if missing[0] > 1 else (prompts, 2 * tokens)
    factor = max(1, missing[0]) * max(1, missing[1])
    sampling, training = (factor * part for part in timed[-1])
    how = f"a probe, times {factor:.0f}: about" if factor > 1 else "a probe of its size"
    print(f"time per update: sampling {sampling:.1f} s, training {training:.1f} s ({how})")


def load(config, device):
    """(config with start token, model, sampler, tokenizer, optimizer, problems, held-out ones)."""
    model, sampler, tokenizer = run.load_weights(config, device)
    problems, held_out = run.load_data(config, tokenizer, model.max_positions)
    given, size = config.start_token, model.config.vocab_size
    token = start_token_of(tokenizer, size) if given is None else check_start_token(given, size)
    print(f"start token of P(y): {token} {tokenizer.convert_ids_to_tokens(token)!r}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, fused=True, **ADAM)
    config = replace(config, start_token=token)
    return config, model, sampler, tokenizer, optimizer, problems, held_out


def start(config):
    """A run from its flags to its summary; with --dry-run, what it would be."""
    elsewhere = config.dry_run and config.device == "cuda" and not torch.cuda.is_available()
    device = run.join_processes(replace(config, device="cpu") if elsewhere else config)
    budget = config.micro_batch_tokens or PACK_TOKENS[device.type]
    if config.dry_run:
        run.print_plan(config, torch.device("cuda") if elsewhere else device)
        has_weights = any(fetch_folder(config.model, ["config.json"]).glob("model*.safetensors"))
        if has_weights and not elsewhere:
            config, *parts, _ = load(config, device)
            probe(config, *parts, run.State(Path(config.out), None, budget))
        return
    with run.open_folder(config.out, config.resume) as folder:
        grade = run.load_grader(config.reward)
        config, model, sampler, tokenizer, optimizer, *data = load(config, device)
        state = run.State(folder, run.open_tracker(config.report_to, config), budget)
        if config.resume:
            run.resume(config, state, model, sampler, optimizer)
        run.start_records(folder, config, model, device)
        run.catch_signals(state)
        try:
            train(config, state, model, sampler, tokenizer, optimizer, *data, grade)
        except OSError as error:  # disk full, folder gone
            rescued = run.rescue(error, config, state, model, tokenizer, optimizer)
            raise ValueError(rescued) from error
        if state.tracker:
            state.tracker.finish()
    if not state.stop:
        run.summarize_run(config, folder)


def main(argv=None):
    return run.report_errors(lambda: start(parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
