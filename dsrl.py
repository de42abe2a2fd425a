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
update are its own. The README lists them all.
Letters: P prompts per step, G group size, B = P*G rows, R response tokens.

    python dsrl.py                          # tiny world: builds its base model, minutes on a laptop
    python dsrl.py --model Qwen2.5-1.5B     # MATH from the hub, one GPU
    python dsrl.py --model DIR --data FILE  # your checkpoint, your problems (.jsonl)
    python dsrl.py --variant grpo           # or nsr-rl psr-rl prerl nsr-prerl psr-prerl joint
"""

import importlib.util
import json
import math
import os
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
import transformers
from tqdm import tqdm

import run
from eval import count_thoughts, encode_prompt, evaluate, grade_all, load_problems
from model import load_model
from prerl import (
    OBJECTIVES,
    check_start_token,
    conditional_logprobs,
    group_advantages,
    loss_mask,
    marginal_logprobs,
    policy_gradient,
    start_token_of,
)
from rollout import generate
from run import VARIANTS, Config, parse_args

MAX_GRAD_NORM = 1.0
ADAM = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}  # as the authors; constant lr
DIAGNOSED_ROWS = 8  # rows of each update that are scored in both spaces, for the log
# small matrices gain nothing from a second thread and lose much on a busy machine
ONE_THREAD_BELOW = 50e6  # parameters


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
    chosen = []
    for position in range(step * config.prompts_per_step, (step + 1) * config.prompts_per_step):
        epoch, index = divmod(position, len(problems))
        generator = torch.Generator().manual_seed(config.seed * 100_003 + epoch)
        chosen.append((epoch, index, generator))
    orders = {epoch: torch.randperm(len(problems), generator=draw) for epoch, _, draw in chosen}
    return [problems[int(orders[epoch][index])] for epoch, index, _ in chosen]


# --------------------------------------------------------------------------------------------------
# One update


def advantages_for(objective, rewards, how):
    """(P, G) rewards -> (B,) advantages, normalised as the objective says or --advantage overrides.

    "sign" is +1 / -1 whatever the siblings did, all-wrong groups included
    (NSR as in RLVR-Decomposed, arXiv 2506.01347).
    """
    if how == "sign":
        return (2 * rewards - 1).reshape(-1)
    scale_std = objective.scale_std if how is None else how == "zscore"
    return group_advantages(rewards, scale_std).reshape(-1)


def update(model, optimizer, rollout, rewards, objectives, config, start_token):
    """Push the active objectives, clip, step. Returns metrics; "skipped": why it was not."""
    metrics = diagnose(model, rollout, config, start_token)
    old = {objective.space: None for objective in objectives}
    if config.updates_per_rollout > 1:  # off-policy from the second on: the ratio needs these
        old = {space: old_logprobs(model, rollout, space, config, start_token) for space in old}
    for _ in range(config.updates_per_rollout):
        optimizer.zero_grad(set_to_none=True)
        for objective in objectives:
            own_coef = config.prerl_coef is None or objective.space != "marginal"
            pushed = policy_gradient(
                model, rollout, advantages_for(objective, rewards, config.advantage),
                space=objective.space, samples=objective.samples, start_token_id=start_token,
                coef=objective.coef if own_coef else config.prerl_coef,
                micro_batch_tokens=config.micro_batch_tokens, temperature=config.temperature,
                old_logprobs=old[objective.space],
                clip_low=config.clip_low, clip_high=config.clip_high,
                token_mask=loss_mask(rollout, config.mask_eos, config.skip_first),
            )  # fmt: skip
            by_space = {f"{objective.space}_{key}": pushed[key] for key in pushed}
            metrics |= pushed if len(objectives) == 1 else by_space
        gradients = [parameter for parameter in model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(gradients, MAX_GRAD_NORM) if gradients else 0.0
        grad_norm = float(norm)
        metrics |= {"grad_norm": grad_norm, "skipped": None}
        if not gradients:
            metrics["skipped"] = "no group has both right and wrong responses"
        elif not math.isfinite(grad_norm):
            metrics["skipped"] = "the gradient is not finite"
        else:
            optimizer.step()
    return metrics


def old_logprobs(model, rollout, space, config, start_token):
    """(B, R) log-probs of the weights that sampled: the sampler's own, or for P(y) scored here."""
    if space == "conditional":
        return rollout.logprobs
    options = dict(temperature=config.temperature, micro_batch_tokens=config.micro_batch_tokens)
    with torch.no_grad():
        ids, mask = rollout.response_ids, rollout.response_mask
        return marginal_logprobs(model, ids, mask, start_token, **options)


@torch.no_grad()
def diagnose(model, rollout, config, start_token):
    """Mean log-prob of a few rows in each space (nats per token); how far the sampler's are off."""
    few = slice(0, DIAGNOSED_ROWS)
    tensors = {name: value[few] for name, value in vars(rollout).items() if name != "stats"}
    part = type(rollout)(**tensors)
    ids, mask = part.response_ids, part.response_mask
    conditional = conditional_logprobs(model, part, temperature=config.temperature)
    marginal = marginal_logprobs(model, ids, mask, start_token, temperature=config.temperature)
    return {
        "logprob_conditional": float(conditional[mask].mean()),
        "logprob_marginal": float(marginal[mask].mean()),
        "sampler_gap": float((conditional - part.logprobs)[mask].abs().mean()),
    }


def describe(rollout, texts, rewards):
    """What the update saw: reward, share of groups with a signal, tokens, thoughts per response."""
    thoughts = [count_thoughts(text) for text in texts]
    return {
        "reward": float(rewards.mean()),
        "mixed": float(((rewards > 0).any(1) & (rewards < 1).any(1)).float().mean()),
        "length": float(rollout.response_mask.sum(1).float().mean()),
        "cut": float((~rollout.finished).float().mean()),
        "reflection": sum(count["reflection"] for count in thoughts) / len(texts),
        "transition": sum(count["transition"] for count in thoughts) / len(texts),
    }


# --------------------------------------------------------------------------------------------------
# The loop


def train(config: Config, model, tokenizer, problems, eval_problems, grade, folder, device):
    """Both phases. The body of the loop is the algorithm of the header."""
    start_token, vocab_size = config.start_token, model.config.vocab_size
    start_token = start_token_of(tokenizer, vocab_size) if start_token is None else start_token
    check_start_token(start_token, vocab_size)
    print(f"start token of P(y): {start_token} {tokenizer.convert_ids_to_tokens(start_token)!r}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, fused=True, **ADAM)
    first = run.resume(config, folder, model, optimizer) if config.resume else 0
    asked, failures, evaluations = run.catch_signals(), 0, {}
    measured = (model, tokenizer, eval_problems, grade, folder)
    bar = tqdm(total=config.steps, initial=first, desc="updates", unit="update")
    tqdm.write("a loss near 0 is expected: advantages sum to 0 in each group; watch the reward")
    tqdm.write(run.console_heading())
    for step in range(first, config.steps):
        if step % config.eval_every == 0 or step == config.prerl_steps:
            evaluations[step] = measure(config, step, *measured)
        clock = [time.perf_counter()]
        batch = prompts_of(step, problems, config)
        prompt_ids = [problem["prompt_ids"] for problem in batch]
        rollout = generate(
            model, prompt_ids, group_size=config.group_size, temperature=config.temperature,
            max_new_tokens=config.max_response_tokens, kv_cache_gb=config.kv_cache_gb,
            eos_ids=model.eos_ids, tokenizer=tokenizer, seed=config.seed * 1_000_003 + step,
            progress=f"sampling for update {step}",
        )  # fmt: skip
        clock.append(time.perf_counter())
        texts = rollout.response_texts(tokenizer)
        rewards = grade([problem for problem in batch for _ in range(config.group_size)], texts)
        rewards = torch.tensor(rewards, device=device).view(len(batch), config.group_size)  # (P, G)
        clock.append(time.perf_counter())
        metrics = {"step": step, "phase": phase(step, config.prerl_steps)}
        metrics |= describe(rollout, texts, rewards)
        objectives = active_objectives(config, step)
        metrics |= update(model, optimizer, rollout, rewards, objectives, config, start_token)
        clock.append(time.perf_counter())
        log_update(folder, metrics, rollout, clock, bar)
        failures = failures + 1 if metrics["skipped"] == "the gradient is not finite" else 0
        stopping = asked["stop"] or failures == 3 or step + 1 == config.steps
        if stopping or (step + 1) % config.save_every == 0:
            saved = run.save_checkpoint(
                folder, step + 1, model, tokenizer, optimizer, asdict(config), config.keep
            )
        if failures == 3:
            advice = "lower --lr, look at samples.jsonl"
            raise ValueError(
                f"three updates in a row had no finite gradient; saved {saved}: {advice}"
            )
        if asked["stop"]:
            command = f"python dsrl.py --out {config.out} --resume"
            tqdm.write(f"saved {saved}; go on with: {command} and the same flags")
            return None
    bar.close()
    evaluations[config.steps] = measure(config, config.steps, *measured)
    return evaluations


def log_update(folder, metrics, rollout, clock, bar):
    seconds = [later - earlier for earlier, later in zip(clock, clock[1:], strict=False)]
    names = ("seconds_sample", "seconds_grade", "seconds_update")
    metrics |= dict(zip(names, seconds, strict=True))
    metrics["tokens_per_second"] = rollout.stats["response_tokens"] / seconds[0]
    run.append_line(folder / "metrics.jsonl", metrics)
    skipped = f"  skipped: {metrics['skipped']}" if metrics["skipped"] else ""
    tqdm.write(run.console_line(metrics) + skipped)
    bar.update()


def measure(config, step, model, tokenizer, problems, grade, folder):
    """Evaluate, record, redraw the curves; print a few responses. Returns (summary, rows)."""
    summary, rows = evaluate(
        model, tokenizer, problems, k=config.eval_k, max_new_tokens=config.max_response_tokens,
        temperature=config.temperature, seed=config.seed, grade_with=grade,
        progress=f"evaluation at {step}",
    )  # fmt: skip
    flat = {key: value for key, value in summary.items() if isinstance(value, int | float | str)}
    record = {"step": step, **flat, "pass_at_k": summary["pass_at_k"][config.eval_k]}
    record |= per_response(summary)
    run.append_line(folder / "metrics.jsonl", record)
    for row in rows[: config.eval_k * 4]:
        run.append_line(folder / "samples.jsonl", {"step": step, **row})
    run.draw_curves(folder)
    tqdm.write(f"evaluation at {step}: {result_line(record, config.eval_k)}")
    return record, rows


def per_response(summary):
    """Thoughts per response of an evaluation, flat for the log."""
    thoughts = summary["thoughts"]
    return {name: thoughts[name]["per_response"] for name in ("reflection", "transition")}


def result_line(record, k):
    return (
        f"Avg@{k} {record['avg_at_k']:.3f} +- {record['avg_at_k_se']:.3f}, "
        f"pass@{k} {record['pass_at_k']:.3f}, reflection {record['reflection']:.3f} and "
        f"transition {record['transition']:.3f} per response, {record['length']:.1f} tokens"
    )


# --------------------------------------------------------------------------------------------------
# Start and end


def load_data(config, tokenizer, max_positions):
    """(training problems with "prompt_ids", evaluation problems); says what is left, held out."""
    splits = config.data in ("tiny", "math")  # those that come with a training and a test set
    problems = load_problems(config.data, split="train" if splits else None)
    if config.eval_data or splits:
        standard = {"tiny": "tiny", "math": "math500"}
        held_out = load_problems(config.eval_data or standard[config.data])
    else:
        held_out, problems = problems[-config.eval_problems :], problems[: -config.eval_problems]
        last = f"the last {len(held_out)} problems of {config.data}"
        print(f"{last} are held out for evaluation (--eval-data gives others)")
    held_out = held_out[: config.eval_problems]
    problems = [problem | {"prompt_ids": encode_prompt(tokenizer, problem)} for problem in problems]
    limit, total = config.max_prompt_tokens, len(problems)
    short = [problem for problem in problems if len(problem["prompt_ids"]) <= limit]
    if dropped := total - len(short):
        print(f"{dropped} of {total} prompts are longer than --max-prompt-tokens {limit}: left out")
    if not short or not held_out:
        left = f"{len(short)} problems to train on and {len(held_out)} to evaluate on"
        raise ValueError(f"{config.data} leaves {left}: give more data")
    longest = max(len(problem["prompt_ids"]) for problem in short) + config.max_response_tokens
    if longest > max_positions:
        lengths = f"may reach {longest} tokens, the model has {max_positions} positions"
        raise ValueError(f"prompt and response {lengths}: lower --max-response-tokens")
    return short, held_out


def load_grader(spec):
    """grade(problems, responses) -> floats in [0, 1]: standard, or a user's file.py:function."""
    if spec is None:
        return lambda problems, responses: grade_all(problems, responses, loose=False)
    path, _, name = spec.rpartition(":")
    if not Path(path).is_file():
        raise ValueError(f"--reward {spec!r}: no such file; give file.py:function")
    module_spec = importlib.util.spec_from_file_location("user_reward", path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    if not callable(getattr(module, name, None)):
        raise ValueError(f"--reward {spec!r}: {path} has no function {name}")
    function = getattr(module, name)
    return lambda problems, responses: [
        float(function(problem, text)) for problem, text in zip(problems, responses, strict=True)
    ]


def choose_threads(model, asked):
    small = sum(parameter.numel() for parameter in model.parameters()) < ONE_THREAD_BELOW
    threads = asked or (1 if small else os.cpu_count())
    torch.set_num_threads(threads)
    return threads


def summarize(config, evaluations):
    """Before, at the switch, after: figures, and one problem's responses before and after."""
    moments = {"before": 0, "at the switch": config.prerl_steps, "after": config.steps}
    updates = f"{config.steps} updates ({config.prerl_steps} PreRL)"
    print(f"\n{config.variant} on {config.data}, {updates}:")
    for name, step in moments.items():
        if step in evaluations:
            print(f"  {name:>13}: {result_line(evaluations[step][0], config.eval_k)}")
    for name, step in (("before", 0), ("after", config.steps)):
        for row in evaluations.get(step, (None, []))[1][:2]:
            print(f"\n--- {name}, {'right' if row['correct'] else 'wrong'} ---\n{row['response']}")
    print(f"\n{config.out}/: curves.png, metrics.jsonl, samples.jsonl, checkpoint-{config.steps}/")


def main(argv=None):
    try:
        config = parse_args(argv)
        folder, lock = run.open_folder(config.out, config.resume)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, tokenizer = load_model(config.model, device=device)  # fp32 master weights, always
        model.compute_dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        model.checkpoint_activations = config.checkpoint_activations
        problems, held_out = load_data(config, tokenizer, model.max_positions)
        resolved = asdict(config) | {
            "python": platform.python_version(), "torch": torch.__version__,
            "transformers": transformers.__version__,
            "device": str(device), "compute_dtype": str(model.compute_dtype),
            "threads": choose_threads(model, config.threads),
        }  # fmt: skip
        run.write_json(folder / "config.json", resolved)
        print(json.dumps(resolved))
        with lock:
            grade = load_grader(config.reward)
            evaluations = train(config, model, tokenizer, problems, held_out, grade, folder, device)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if evaluations:
        summarize(config, evaluations)
    return 0


if __name__ == "__main__":
    sys.exit(main())
