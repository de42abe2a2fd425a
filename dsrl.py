"""Dual Space RL (arXiv 2604.14142): a few updates of NSR-PreRL on P(y), then standard RL (GRPO) on P(y | x).

    for step in 0 .. steps-1:
        y_1..G ~ P(. | x)                for P prompts x, G responses each               rollout.py
        r      = 1 if the answer is right else 0                                         reward.py
        A      = r - mean(r)             per group; divided by the std in GRPO            prerl.py
        step < prerl_steps:  push log P(y)     of the wrong responses down   (NSR-PreRL)  prerl.py
        else:                push log P(y | x) of all responses by A         (GRPO)       prerl.py
        clip the gradient to norm 1, one AdamW step
    At the switch the loss changes and nothing else: same weights, AdamW moments, learning rate and data order.

Differences from the authors' code: `prerl_steps = N` is exactly N updates; only the active objective is computed; one token
denominator for the whole update; the old log-probs of an on-policy update are its own. The README lists them all.
Letters: P prompts per step, G group size, B = P*G rows, R response tokens.

    python dsrl.py                                          # the tiny world: builds its base model, minutes on a laptop
    python dsrl.py --model Qwen2.5-1.5B                     # MATH from the hub, one GPU
    python dsrl.py --model DIR --data problems.jsonl        # your checkpoint, your problems
    python dsrl.py --variant grpo                           # or nsr-rl psr-rl prerl nsr-prerl psr-prerl joint
"""

import argparse
import importlib.util
import json
import math
import os
import platform
import re
import sys
import time
import types
from dataclasses import asdict, dataclass, field, fields
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

MAX_GRAD_NORM = 1.0
ADAM = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}  # the authors' settings; constant learning rate
DIAGNOSED_ROWS = 8  # rows of each update that are scored in both spaces, for the log
ONE_THREAD_BELOW = 50e6  # parameters; small matrices gain nothing from a second thread and lose much on a busy machine
PRESETS = {  # defaults by name; every value can be overridden by its flag
    "tiny": {"lr": 2e-4, "steps": 80, "prerl_steps": 10, "prompts_per_step": 32, "max_response_tokens": 128, "eval_every": 20},
    "paper": {"lr": 1e-6, "steps": 348, "prerl_steps": 20, "prompts_per_step": 128, "max_response_tokens": 8192},
    "small": {"lr": 1e-6, "steps": 348, "prerl_steps": 20, "prompts_per_step": 64, "max_response_tokens": 2048},
}
VARIANTS = {  # objectives of the first `prerl_steps` updates, and of the others
    "dsrl": (("nsr-prerl",), ("grpo",)),
    "joint": (("grpo", "nsr-prerl"),) * 2,
    **{name: ((name,),) * 2 for name in OBJECTIVES},
}


def flag(default, help_text, least=None, **options):
    """A field of Config: its default, and what `--help` says of the flag that sets it."""
    return field(default=default, metadata={"help": help_text, "least": least, "options": options})


@dataclass(frozen=True)
class Config:
    """Every flag of the command line, in one place; checked on creation, written to config.json."""

    model: str = flag("tiny", "tiny, a folder, a short name (Qwen2.5-1.5B) or a hub id")
    preset: str | None = flag(None, "defaults by name (default: tiny for the tiny model, else small)", choices=PRESETS)
    data: str | None = flag(None, "problems: a benchmark's name or a file (default: the tiny world's own, else math)")
    eval_data: str | None = flag(None, "problems to evaluate on (default: the world's test set, math500, or held out of --data)")
    reward: str | None = flag(None, "your own verifier, file.py:function, (problem, response) -> float in [0, 1]")

    variant: str = flag("dsrl", "which objectives, see the table in the README", choices=VARIANTS)
    prerl_steps: int = flag(20, "updates of phase 1; 0 is plain GRPO", 0)
    advantage: str | None = flag(None, "override the normalisation of the objective", choices=("mean", "zscore", "sign"))
    prerl_coef: float | None = flag(None, "coefficient of a P(y) loss (default: 0.01)")
    start_token: int | None = flag(None, "id of the token that stands in for the prompt (default: looked up)")
    mask_eos: bool = flag(False, "leave EOS out of the loss")
    skip_first: int = flag(0, "response tokens left out of the loss at its start", 0)
    clip_low: float = flag(0.2, "the ratio is clipped at 1 - this", 0)
    clip_high: float = flag(0.2, "the ratio is clipped at 1 + this", 0)
    updates_per_rollout: int = flag(1, "optimizer steps on one rollout; 1 is strictly on-policy", 1)

    prompts_per_step: int = flag(64, "P, prompts per update", 1)
    group_size: int = flag(8, "G, responses per prompt", 2)
    max_prompt_tokens: int = flag(1024, "problems with a longer prompt are left out", 1)
    max_response_tokens: int = flag(2048, "tokens; a longer response is cut", 1)
    temperature: float = flag(1.0, "of sampling and of scoring, above 0", 1e-3)
    kv_cache_gb: float | None = flag(None, "GB for the KV cache (default: half of what is free)")

    steps: int = flag(348, "updates in all, both phases", 1)
    lr: float = flag(1e-6, "learning rate of AdamW, constant", 0)
    micro_batch_tokens: int | None = flag(None, "tokens of one forward and backward (default: 4096 on CPU, 16384 on CUDA)", 1)
    checkpoint_activations: bool = flag(False, "recompute layers in backward: less memory, a third more work")

    eval_every: int = flag(25, "updates between evaluations", 1)
    eval_problems: int = flag(128, "problems of an evaluation", 1)
    eval_k: int = flag(8, "responses per problem of an evaluation", 1)
    save_every: int = flag(20, "updates between checkpoints", 1)
    keep: int = flag(2, "checkpoints kept", 1)
    seed: int = flag(0, "of data order, sampling and evaluation", 0)
    threads: int | None = flag(None, "CPU threads (default: 1 for a small model, else all cores)", 1)
    out: str = flag("out", "folder of the run")
    resume: bool = flag(False, "go on from the newest checkpoint in --out")

    def __post_init__(self):
        for item in fields(self):
            value, least = getattr(self, item.name), item.metadata["least"]
            if value is not None and least is not None and not value >= least:  # NaN fails too
                raise ValueError(f"--{item.name.replace('_', '-')} is {value}: it must be at least {least}")


def phase(step, prerl_steps):
    """Which of the two phases update `step` (counted from 0) belongs to: exactly `prerl_steps` updates are PreRL."""
    return "prerl" if step < prerl_steps else "rl"


def active_objectives(config, step):
    """The objectives of this update: one row of the variants table, or two for joint."""
    first, second = VARIANTS[config.variant]
    return [OBJECTIVES[name] for name in (first if phase(step, config.prerl_steps) == "prerl" else second)]


def prompts_of(step, problems, config):
    """The P problems of one update: a shuffled pass over the data, reshuffled each pass; a pure function of (seed, step)."""
    chosen = []
    for position in range(step * config.prompts_per_step, (step + 1) * config.prompts_per_step):
        epoch, index = divmod(position, len(problems))
        generator = torch.Generator().manual_seed(config.seed * 100_003 + epoch)
        chosen.append((epoch, index, generator))
    orders = {epoch: torch.randperm(len(problems), generator=generator) for epoch, _, generator in chosen}
    return [problems[int(orders[epoch][index])] for epoch, index, _ in chosen]


# ---------------------------------------------------------------------------------------------------------------------
# One update


def advantages_for(objective, rewards, how):
    """(P, G) rewards -> (B,) advantages, normalised as the objective says or as --advantage overrides it.

    "sign" is +1 / -1 whatever the siblings did, all-wrong groups included (NSR as in RLVR-Decomposed, arXiv 2506.01347).
    """
    if how == "sign":
        return (2 * rewards - 1).reshape(-1)
    scale_std = objective.scale_std if how is None else how == "zscore"
    return group_advantages(rewards, scale_std).reshape(-1)


def update(model, optimizer, rollout, rewards, objectives, config, start_token):
    """Push the active objectives, clip, step. Returns metrics; "skipped" is why an update was not applied, or None."""
    metrics = diagnose(model, rollout, config, start_token)
    old = {objective.space: None for objective in objectives}
    if config.updates_per_rollout > 1:  # off-policy from the second one on: the ratio needs the sampler's log-probs
        old = {space: old_logprobs(model, rollout, space, config, start_token) for space in old}
    for _ in range(config.updates_per_rollout):
        optimizer.zero_grad(set_to_none=True)
        for objective in objectives:
            pushed = policy_gradient(
                model, rollout, advantages_for(objective, rewards, config.advantage),
                space=objective.space, samples=objective.samples, start_token_id=start_token,
                coef=config.prerl_coef if config.prerl_coef is not None and objective.space == "marginal" else objective.coef,
                micro_batch_tokens=config.micro_batch_tokens, temperature=config.temperature, old_logprobs=old[objective.space],
                clip_low=config.clip_low, clip_high=config.clip_high,
                token_mask=loss_mask(rollout, config.mask_eos, config.skip_first),
            )  # fmt: skip
            metrics |= pushed if len(objectives) == 1 else {f"{objective.space}_{key}": pushed[key] for key in pushed}
        gradients = [parameter for parameter in model.parameters() if parameter.grad is not None]
        grad_norm = float(torch.nn.utils.clip_grad_norm_(gradients, MAX_GRAD_NORM)) if gradients else 0.0
        metrics |= {"grad_norm": grad_norm, "skipped": None}
        if not gradients:
            metrics["skipped"] = "no group has both right and wrong responses"
        elif not math.isfinite(grad_norm):
            metrics["skipped"] = "the gradient is not finite"
        else:
            optimizer.step()
    return metrics


def old_logprobs(model, rollout, space, config, start_token):
    """(B, R) log-probs of the weights that sampled. The sampler knows them in the conditional space; P(y) must be scored."""
    if space == "conditional":
        return rollout.logprobs
    options = dict(temperature=config.temperature, micro_batch_tokens=config.micro_batch_tokens)
    with torch.no_grad():
        return marginal_logprobs(model, rollout.response_ids, rollout.response_mask, start_token, **options)


@torch.no_grad()
def diagnose(model, rollout, config, start_token):
    """Mean log-prob of a few rows in both spaces (nats per token), and how far the sampler's own log-probs are off."""
    few = slice(0, DIAGNOSED_ROWS)
    part = type(rollout)(**{name: value[few] for name, value in vars(rollout).items() if name != "stats"})
    conditional = conditional_logprobs(model, part, temperature=config.temperature)
    marginal = marginal_logprobs(model, part.response_ids, part.response_mask, start_token, temperature=config.temperature)
    mask = part.response_mask
    return {
        "logprob_conditional": float(conditional[mask].mean()),
        "logprob_marginal": float(marginal[mask].mean()),
        "sampler_gap": float((conditional - part.logprobs)[mask].abs().mean()),
    }


def describe(rollout, texts, rewards):
    """What the update saw: reward, share of groups that carry a signal, lengths in tokens, thoughts per response."""
    thoughts = [count_thoughts(text) for text in texts]
    return {
        "reward": float(rewards.mean()),
        "mixed": float(((rewards > 0).any(1) & (rewards < 1).any(1)).float().mean()),
        "length": float(rollout.response_mask.sum(1).float().mean()),
        "cut": float((~rollout.finished).float().mean()),
        "reflection": sum(count["reflection"] for count in thoughts) / len(texts),
        "transition": sum(count["transition"] for count in thoughts) / len(texts),
    }


# ---------------------------------------------------------------------------------------------------------------------
# The loop


def train(config, model, tokenizer, problems, eval_problems, grade, folder, device):
    """Both phases. The body of the loop is the algorithm of the header."""
    start_token = start_token_of(tokenizer, model.config.vocab_size) if config.start_token is None else config.start_token
    check_start_token(start_token, model.config.vocab_size)
    print(f"start token of P(y): {start_token} {tokenizer.convert_ids_to_tokens(start_token)!r}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, fused=True, **ADAM)
    first = resume(config, folder, model, optimizer) if config.resume else 0
    asked, failures, evaluations = run.catch_signals(), 0, {}
    bar = tqdm(total=config.steps, initial=first, desc="updates", unit="update")
    tqdm.write("a loss near 0 is expected: advantages sum to 0 in each group; watch the reward\n" + run.console_heading())
    for step in range(first, config.steps):
        if step % config.eval_every == 0 or step == config.prerl_steps:
            evaluations[step] = measure(config, step, model, tokenizer, eval_problems, grade, folder)
        clock = [time.perf_counter()]
        batch = prompts_of(step, problems, config)
        prompt_ids = [problem["prompt_ids"] for problem in batch]
        rollout = generate(
            model, prompt_ids, group_size=config.group_size, max_new_tokens=config.max_response_tokens,
            temperature=config.temperature, eos_ids=model.eos_ids, seed=config.seed * 1_000_003 + step,
            kv_cache_gb=config.kv_cache_gb, tokenizer=tokenizer, progress=f"sampling for update {step}",
        )  # fmt: skip
        clock.append(time.perf_counter())
        texts = rollout.response_texts(tokenizer)
        rewards = grade([problem for problem in batch for _ in range(config.group_size)], texts)
        rewards = torch.tensor(rewards, device=device).view(len(batch), config.group_size)  # (P, G)
        clock.append(time.perf_counter())
        metrics = {"step": step, "phase": phase(step, config.prerl_steps), **describe(rollout, texts, rewards)}
        metrics |= update(model, optimizer, rollout, rewards, active_objectives(config, step), config, start_token)
        clock.append(time.perf_counter())
        log_update(folder, metrics, rollout, clock, bar)
        failures = failures + 1 if metrics["skipped"] == "the gradient is not finite" else 0
        stopping = asked["stop"] or failures == 3 or step + 1 == config.steps
        if stopping or (step + 1) % config.save_every == 0:
            saved = run.save_checkpoint(folder, step + 1, model, tokenizer, optimizer, asdict(config), config.keep)
        if failures == 3:
            raise ValueError(f"three updates in a row had no finite gradient; saved {saved}: lower --lr, look at samples.jsonl")
        if asked["stop"]:
            tqdm.write(f"saved {saved}; go on with: python dsrl.py --out {config.out} --resume and the same flags")
            return None
    bar.close()
    evaluations[config.steps] = measure(config, config.steps, model, tokenizer, eval_problems, grade, folder)
    return evaluations


def log_update(folder, metrics, rollout, clock, bar):
    seconds = [later - earlier for earlier, later in zip(clock, clock[1:], strict=False)]
    metrics |= dict(zip(("seconds_sample", "seconds_grade", "seconds_update"), seconds, strict=True))
    metrics["tokens_per_second"] = rollout.stats["response_tokens"] / seconds[0]
    run.append_line(folder / "metrics.jsonl", metrics)
    tqdm.write(run.console_line(metrics) + (f"  skipped: {metrics['skipped']}" if metrics["skipped"] else ""))
    bar.update()


def measure(config, step, model, tokenizer, problems, grade, folder):
    """Evaluate, record, redraw the curves; print a few responses. Returns (summary, rows)."""
    options = dict(max_new_tokens=config.max_response_tokens, temperature=config.temperature, seed=config.seed)
    summary, rows = evaluate(model, tokenizer, problems, k=config.eval_k, grade_with=grade, progress=f"evaluation at {step}", **options)
    flat = {key: value for key, value in summary.items() if isinstance(value, int | float | str)}
    record = {"step": step, **flat, "pass_at_k": summary["pass_at_k"][config.eval_k], **per_response(summary)}
    run.append_line(folder / "metrics.jsonl", record)
    for row in rows[: config.eval_k * 4]:
        run.append_line(folder / "samples.jsonl", {"step": step, **row})
    run.draw_curves(folder)
    tqdm.write(f"evaluation at {step}: {result_line(record, config.eval_k)}")
    return record, rows


def per_response(summary):
    """Thoughts per response of an evaluation, flat for the log."""
    return {name: summary["thoughts"][name]["per_response"] for name in ("reflection", "transition")}


def result_line(record, k):
    return (
        f"Avg@{k} {record['avg_at_k']:.3f} +- {record['avg_at_k_se']:.3f}, pass@{k} {record['pass_at_k']:.3f}, "
        f"reflection {record['reflection']:.3f} and transition {record['transition']:.3f} per response, {record['length']:.1f} tokens"
    )


def resume(config, folder, model, optimizer):
    """Put the newest whole checkpoint into model and optimizer; returns the number of updates already made."""
    found = run.newest_whole(folder)
    if found is None:
        raise ValueError(f"--resume: {folder} has no whole checkpoint: start without --resume in another folder")
    step, path, trainer = found
    now, free = asdict(config), ("steps", "resume", "out", "keep", "save_every", "eval_every", "eval_k", "eval_problems", "kv_cache_gb")
    changed = {name: (old, now[name]) for name, old in trainer["config"].items() if now[name] != old and name != "resume"}
    fixed = [name for name in changed if name in ("model", "data", "prompts_per_step", "seed")]
    if fixed:
        flags = ", ".join("--" + name.replace("_", "-") for name in fixed)
        raise ValueError(f"--resume: {flags} cannot change within a run: {changed}")
    for name, (old, new) in changed.items():
        tqdm.write(f"--resume: {name} was {old}, is now {new}" + ("" if name in free else " (this changes the result)"))
    run.load_checkpoint(path, model, optimizer)
    run.cut_back(folder, step)
    tqdm.write(f"going on from {path}: {step} updates done")
    return step


# ---------------------------------------------------------------------------------------------------------------------
# Start and end


def parse_args(argv):
    """The Config of a command line: its flags over the preset's values over the defaults."""
    parser = argparse.ArgumentParser(description="Dual Space RL: NSR-PreRL on P(y), then GRPO on P(y|x).")
    group = None
    for item in fields(Config):
        group = parser.add_argument_group(GROUPS[item.name]) if item.name in GROUPS else group
        names = ["--" + name.replace("_", "-") for name in (item.name, *ALIASES.get(item.name, ()))]
        kind = item.type.__args__[0] if isinstance(item.type, types.UnionType) else item.type
        how = {"action": "store_true"} if kind is bool else {"type": kind, "metavar": kind.__name__.upper()}
        how |= {"choices": tuple(choices), "metavar": None} if (choices := item.metadata["options"].get("choices")) else {}
        shown = "" if item.default is None or kind is bool else f" (default: {item.default})"
        group.add_argument(*names, dest=item.name, default=argparse.SUPPRESS, help=item.metadata["help"] + shown, **how)
    argv = sys.argv[1:] if argv is None else argv
    hyphens = [re.sub("^--[^=]+", lambda match: match[0].replace("_", "-"), word) for word in argv]  # --group_size is right too
    given = vars(parser.parse_args(hyphens))
    tiny = given.get("model", "tiny") == "tiny"
    preset = given.get("preset") or ("tiny" if tiny else "small")
    return Config(**{"data": "tiny" if tiny else "math", "preset": preset} | PRESETS[preset] | given)


GROUPS = {  # the field that opens each group of --help
    "model": "model and data", "variant": "phase 1 (PreRL) and phase 2 (RL)", "prompts_per_step": "sampling",
    "steps": "optimizer", "eval_every": "evaluation and output",
}  # fmt: skip
ALIASES = {  # spellings people type from habit
    "model": ("model_name_or_path",), "lr": ("learning_rate",), "group_size": ("num_generations",),
    "max_response_tokens": ("max_completion_length",), "out": ("output_dir",),
}  # fmt: skip


def load_data(config, tokenizer, max_positions):
    """(training problems, evaluation problems), each with its "prompt_ids"; says what was left out and held out."""
    splits = config.data in ("tiny", "math")  # those that come with a training and a test set
    problems = load_problems(config.data, split="train" if splits else None)
    if config.eval_data or splits:
        held_out = load_problems(config.eval_data or {"tiny": "tiny", "math": "math500"}[config.data])
    else:
        held_out, problems = problems[-config.eval_problems :], problems[: -config.eval_problems]
        print(f"the last {len(held_out)} problems of {config.data} are held out for evaluation (--eval-data gives others)")
    held_out = held_out[: config.eval_problems]
    problems = [{**problem, "prompt_ids": encode_prompt(tokenizer, problem)} for problem in problems]
    short = [problem for problem in problems if len(problem["prompt_ids"]) <= config.max_prompt_tokens]
    if len(short) < len(problems):
        print(f"{len(problems) - len(short)} of {len(problems)} prompts are longer than --max-prompt-tokens {config.max_prompt_tokens}: left out")
    if not short or not held_out:
        raise ValueError(f"{config.data} leaves {len(short)} problems to train on and {len(held_out)} to evaluate on: give more data")
    longest = max(len(problem["prompt_ids"]) for problem in short) + config.max_response_tokens
    if longest > max_positions:
        raise ValueError(f"prompt and response may reach {longest} tokens, the model has {max_positions} positions: lower --max-response-tokens")
    return short, held_out


def load_grader(spec):
    """grade(problems, responses) -> list of floats in [0, 1]: the standard one, or a user's file.py:function."""
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
    return lambda problems, responses: [float(function(problem, text)) for problem, text in zip(problems, responses, strict=True)]


def choose_threads(model, asked):
    small = sum(parameter.numel() for parameter in model.parameters()) < ONE_THREAD_BELOW
    threads = asked or (1 if small else os.cpu_count())
    torch.set_num_threads(threads)
    return threads


def summarize(config, evaluations):
    """Before, at the switch, after: figures, and one problem's responses before and after."""
    moments = {"before": 0, "at the switch": config.prerl_steps, "after": config.steps}
    print(f"\n{config.variant} on {config.data}, {config.steps} updates ({config.prerl_steps} PreRL):")
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
        problems, eval_problems = load_data(config, tokenizer, model.max_positions)
        versions = {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}
        machine = {"device": str(device), "compute_dtype": str(model.compute_dtype), "threads": choose_threads(model, config.threads)}
        run.write_json(folder / "config.json", asdict(config) | versions | machine)
        print(json.dumps(asdict(config) | versions | machine))
        with lock:
            evaluations = train(config, model, tokenizer, problems, eval_problems, load_grader(config.reward), folder, device)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if evaluations:
        summarize(config, evaluations)
    return 0


if __name__ == "__main__":
    sys.exit(main())
