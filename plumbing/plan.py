"""Memory and time: what a run will need (--dry-run), and what it does when memory runs out."""

import json
import math
from dataclasses import asdict, replace
from time import perf_counter

import torch
from tqdm import tqdm

from logprobs import LOGITS_PER_CHUNK
from model import KVCache
from plumbing import lora
from plumbing.checkpoints import compute_dtype, load_model, shapes_of
from plumbing.processes import choose_threads, gather, world_size
from prerl import PACK_TOKENS

PROBE_SECONDS, PROBE_TOKENS = 10, 8  # of --dry-run


def load_weights(config, device):
    """(model, tokenizer): fp32 masters of what is trained; with --shard this process's part."""
    dtype = compute_dtype(device) if config.lora_rank else torch.float32
    model, tokenizer = load_model(config.model, dtype, device, config.shard)
    if config.lora_rank:
        lora.add_adapters(model, config.lora_rank, config.lora_alpha, config.seed)
    model.compute_dtype = compute_dtype(device)
    model.checkpoint_activations = config.checkpoint_activations or too_large(config, device)
    choose_threads(model)
    return model, tokenizer


def bytes_kept(model, tokens):
    """What autograd keeps of `tokens` tokens for backward; counted on a model on "meta"."""
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept = {}  # address -> storage; held here, so that no other takes its address

    def note(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(torch.zeros(1, tokens, dtype=torch.int64, device="meta"))
    return sum(storage.nbytes() for key, storage in kept.items() if key not in weights)


def memory_plan(config, model, device):
    """{item: bytes} on the device, of a model on "meta"; each at its largest."""
    parameters, size = sum(p.numel() for p in model.parameters()), model.compute_dtype.itemsize
    length = config.max_prompt_tokens + config.max_response_tokens
    tokens = max(config.micro_batch_tokens or PACK_TOKENS[device.type], length)
    # From one token and two: at those, attention that keeps T x T weights keeps next to nothing.
    a_token = bytes_kept(model, 2) - bytes_kept(model, 1)
    casts = bytes_kept(model, 1) - a_token  # of the weights to bf16
    layers = model.config.num_hidden_layers
    if config.checkpoint_activations:  # the input of every layer, and all of one layer
        a_token = layers * model.config.hidden_size * size + a_token // layers
        casts = casts // layers
    rows = config.prompts_per_step * config.group_size // world_size()
    cache = rows * length * KVCache.bytes_per_token(model.config, model.compute_dtype)
    logits = min(LOGITS_PER_CHUNK[device.type], tokens * model.config.vocab_size)
    parts = world_size() if config.shard else 1
    # whole for their turn: weights, gradients, and these once more as they are summed
    in_layers = sum(parameter.numel() for parameter in model.model.layers.parameters())
    gathered = 12 * (parameters - in_layers + 2 * in_layers // layers)
    return {
        "weights (float32)": 4 * parameters // parts,
        "gradients (float32)": 4 * parameters // parts,
        "AdamW moments (float32)": 0 if config.offload else 8 * parameters // parts,
        "head and 2 layers, gathered": gathered if config.shard else 0,
        f"activations, {tokens:,} tokens": tokens * a_token + casts,
        "logits chunk": logits * size,
        "weights laid out for sampling": size * parameters,
        f"KV cache, {rows:,} rows": min(cache, 1e9 * (config.kv_cache_gb or math.inf)),
    }


def too_large(config, device):
    """Whether an update needs more memory than the GPU has, unless layers are computed again."""
    if device.type != "cuda":
        return False
    model = shapes_of(config.model, compute_dtype(device))
    *update, _, _ = memory_plan(config, model, device).values()
    room = torch.cuda.get_device_properties(device).total_memory
    if sum(update) > room:
        needed = f"an update needs about {sum(update) / 1e9:.0f} GB of {room / 1e9:.0f}"
        print(f"{needed}: --checkpoint-activations is on")
    return sum(update) > room


def print_plan(config, device):
    """What a run would be: settings, dtypes, parameters, memory by item, tokens per update."""
    model = shapes_of(config.model, compute_dtype(device))
    items = memory_plan(config, model, device)
    *update, laid_out, cache = items.values()
    weights, _, moments, *_ = update
    parameters = sum(parameter.numel() for parameter in model.parameters())
    rows = config.prompts_per_step * config.group_size
    compute = str(model.compute_dtype).removeprefix("torch.")
    print(json.dumps(asdict(config), indent=2))
    print(f"{config.model}: {parameters:,} parameters on {device}, {world_size()} process(es)")
    print("dtypes: weights, gradients, moments, log-probs, advantages float32; "
          f"activations, logits, KV cache {compute}")
    print("memory, GB (10^9 bytes); what does not fit of the KV cache waits its turn:")
    totals = {
        "in an update": sum(update),
        "in sampling": weights + moments + laid_out + cache,  # gradients are gone
    }
    for name, size in (items | totals).items():
        if size:
            print(f"  {name:29} {size / 1e9:9.3f}")
    print(f"tokens per update: {rows:,} responses, {rows * config.max_response_tokens:,} at most")


def fit_memory(accumulate_gradients, run, rollout, *rest):
    """Call it, with micro-batches of half as many tokens each time memory runs out."""
    longest = int((rollout.prompt_mask.sum(1) + rollout.response_mask.sum(1)).max())
    while True:
        try:
            return accumulate_gradients(run, rollout, *rest)
        except torch.OutOfMemoryError as error:
            # Several processes would no longer meet in their sums.
            if run.micro_batch_tokens <= longest or world_size() > 1:
                raise ValueError(
                    f"out of memory at {run.micro_batch_tokens} tokens: lower --micro-batch-tokens "
                    "or --max-response-tokens, or give --checkpoint-activations or --offload"
                ) from error
        # Only here, past the except, has the traceback let go of the tensors that were too many.
        run.micro_batch_tokens //= 2
        torch.cuda.empty_cache()
        tqdm.write(f"out of memory: going on with micro-batches of {run.micro_batch_tokens} tokens")


def adam_step(optimizer, model, offload):
    """One step of AdamW. Offloaded, each parameter's moments visit the device for their turn."""
    if not offload:
        return optimizer.step()
    gradients = {parameter: parameter.grad for parameter in model.parameters()}
    for parameter in gradients:
        parameter.grad = None
    for parameter, parameter.grad in gradients.items():
        move_moments(optimizer.state[parameter], parameter.device)
        optimizer.step()  # sees one gradient, and so steps one parameter
        move_moments(optimizer.state[parameter], "cpu")
        parameter.grad = None


def move_moments(moments, device):
    for name, value in moments.items():
        moments[name] = value.to(device)


def probe(run, sample, update, prompts_of):
    """Print the seconds of an update, from ever larger ones that take about PROBE_SECONDS.

    sample, update, prompts_of  those of dsrl.py
    """
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
