"""--dry-run: what a run would be, the memory it needs, and with its weights at hand the time."""

import json
from dataclasses import asdict, replace
from time import perf_counter

import torch

from plumbing.console import say
from plumbing.hub import fetch_folder
from plumbing.plan import choose, fit_device, shapes, show
from plumbing.processes import gather, join_processes, world_size

CARDS = (24e9, 48e9, 80e9)  # bytes, for --device cuda where there is none
PROBE_SECONDS, PROBE_TOKENS = 10, 8


def dry_run(config, load, sample, update, prompts_of):
    """Print what a run would be, and with weights at hand how long an update takes.

    load, sample, update, prompts_of  those of dsrl.py
    """
    elsewhere = config.device == "cuda" and not torch.cuda.is_available()
    device = join_processes(replace(config, device="cpu") if elsewhere else config)
    print_plan(config, torch.device("cuda") if elsewhere else device)
    has_weights = any(fetch_folder(config.model, ["config.json"]).glob("model*.safetensors"))
    if has_weights and not elsewhere:
        probe(load(config, device), sample, update, prompts_of)


def print_plan(config, device):
    """What a run would be: settings, dtypes, parameters, memory by item, tokens per update."""
    model, rows = shapes(config, device), config.prompts_per_step * config.group_size
    parameters = sum(parameter.numel() for parameter in model.parameters())
    compute = str(model.compute_dtype).removeprefix("torch.")
    print(json.dumps(asdict(config), indent=2))
    say(f"{config.model}: {parameters:,} parameters on {device}, {world_size()} process(es)")
    print("dtypes: what is trained, gradients, moments, log-probs, advantages float32; "
          f"the rest {compute}")  # fmt: skip
    print(f"tokens per update: {rows:,} responses, {rows * config.max_response_tokens:,} at most")
    fits = {}
    if device.type == "cpu" or torch.cuda.is_available():
        fits[f"on {device}"] = fit_device(config, model, device)
    for room in () if fits else CARDS:
        try:
            fits[f"{room / 1e9:.0f} GB"] = choose(config, model, room)
        except ValueError as error:
            say(error)
    show(config, model, device, fits)


def probe(run, sample, update, prompts_of):
    """Print the seconds of an update, from ever larger ones that take about PROBE_SECONDS."""
    config, prompts, tokens, timed = run.config, 1, PROBE_TOKENS, []
    started = perf_counter()
    # The first also warms up; the last takes about as long as all before it. Of several processes
    # one tells the time, as all must take as many turns.
    while len(timed) < 2 or gather([perf_counter() - started])[0] < PROBE_SECONDS / 2:
        limit = min(tokens, config.max_response_tokens)
        run.config = replace(config, prompts_per_step=prompts, max_response_tokens=limit)
        began = perf_counter()
        rollout = sample(run, prompts_of(0, run.problems, run.config), 0)
        sampled = perf_counter()
        rewards = torch.arange(len(rollout.finished), device=run.device) % 2
        rewards = rewards.float().view(-1, config.group_size)  # 0, 1, 0, 1: every row is trained
        update(run, rollout, rewards, config.steps)
        timed.append((sampled - began, perf_counter() - sampled))
        missing = (config.prompts_per_step / world_size() / prompts,
                   config.max_response_tokens / tokens)  # fmt: skip
        if max(missing) <= 1:
            break
        prompts, tokens = (2 * prompts, tokens) if missing[0] > 1 else (prompts, 2 * tokens)
    factor = max(1, missing[0]) * max(1, missing[1])
    sampling, training = (factor * seconds for seconds in timed[-1])
    about = f"a probe, times {factor:.0f}: about" if factor > 1 else "a probe of its size"
    print(f"time per update: sampling {sampling:.1f} s, training {training:.1f} s ({about})")
