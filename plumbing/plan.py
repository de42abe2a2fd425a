"""Memory: what a run needs, what it chooses to fit its device, what it does when memory runs out.

1. `choose` takes the fastest of a few choices whose plan fits into what the device has free. What a
   flag says is kept; what cannot fit is refused, with the nearest flags that would.
2. Choices belong to the device, not to the run: they are not saved, and --resume chooses again.
"""

import math
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import torch
from tqdm import tqdm

from logprobs import LOGITS_PER_CHUNK
from model import KVCache
from plumbing import lora
from plumbing.checkpoints import base_of, compute_dtype, load_model, shapes_of
from plumbing.console import say
from plumbing.flags import flag_of
from plumbing.processes import choose_threads, gather, world_size
from plumbing.prompts import response_ends
from prerl import PACK_TOKENS
from rollout import CHECK_EVERY, free_bytes

CUDA = torch.device("cuda")
SPARE = 0.1  # of the memory: CUDA's own, and fragments
CACHE_SHARE = 0.75  # of what sampling leaves free; the rest is for prefill and for drawing
LEAST_ROWS = 4  # of the KV cache: a run that samples fewer at a time takes weeks


@dataclass
class Fit:
    """What a run does to fit its device."""

    micro_batch_tokens: int  # halved when memory runs out
    checkpoint_activations: bool
    offload: bool
    kv_cache_gb: float | None  # None: half of what is free


def shapes(config, device):
    """The model of a run without storage, on "meta"."""
    model = shapes_of(config.model, compute_dtype(device))
    if config.lora_rank:
        with torch.device("meta"):
            lora.add_adapters(model.to(model.compute_dtype), config.lora_rank, config.lora_alpha)
    return model


@cache
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


def memory_plan(config, model, device, fit):
    """{item: bytes} on the device, of a model on "meta"; each at its largest."""
    dtype, layers = model.compute_dtype, model.config.num_hidden_layers
    parameters, parts = list(model.parameters()), world_size() if config.shard else 1
    trained = [one.numel() for one in parameters if one.requires_grad]
    copied = [one.numel() for one in parameters if one.dtype != dtype or device.type == "cpu"]
    tokens = max(fit.micro_batch_tokens, config.max_prompt_tokens + config.max_response_tokens)
    # From one token and two: at those, attention that keeps T x T weights keeps next to nothing.
    a_token = bytes_kept(model, 2) - bytes_kept(model, 1)
    casts = bytes_kept(model, 1) - a_token  # of the weights to bf16
    if fit.checkpoint_activations:  # the input of every layer, and all of one layer
        a_token = layers * model.config.hidden_size * dtype.itemsize + a_token // layers
        casts = casts // layers
    head = model.lm_head.weight
    logits = min(LOGITS_PER_CHUNK[device.type], tokens * len(head))
    cast_head = head.numel() if head.dtype != dtype else 0
    # whole for their turn: weights, gradients, and these once more as they are summed
    in_layers = sum(parameter.numel() for parameter in model.model.layers.parameters())
    gathered = 12 * (sum(trained) - in_layers + 2 * in_layers // layers)
    rows, row = rows_of(config, model)
    return {
        "weights held": sum(one.nbytes for one in parameters) // parts,
        "gradients (float32)": 4 * sum(trained) // parts,
        "AdamW moments (float32)": 0 if fit.offload else 8 * sum(trained) // parts,
        "AdamW moments of one tensor": 8 * max(trained) if fit.offload else 0,
        "head and 2 layers, gathered": gathered if config.shard else 0,
        "activations": tokens * a_token + casts,
        "logits chunk, and the head": dtype.itemsize * (logits + cast_head),
        "weights laid out for sampling": dtype.itemsize * sum(copied),
        "KV cache": min(rows * row, 1e9 * (fit.kv_cache_gb or math.inf)),
    }


def rows_of(config, model):
    """Rows that the KV cache would hold, one of them for a prompt, and the bytes of each."""
    length = config.max_prompt_tokens + config.max_response_tokens + CHECK_EVERY["cuda"]
    rows = config.prompts_per_step * config.group_size // world_size() + 1
    return rows, length * KVCache.bytes_per_token(model.config, model.compute_dtype)


def totals(plan):
    """Bytes at once in an update, and in sampling, when the gradients are gone."""
    held = plan["weights held"] + plan["AdamW moments (float32)"]
    backward = plan["activations"] + plan["logits chunk, and the head"]
    gradients = plan["gradients (float32)"] + plan["head and 2 layers, gathered"]
    return {
        "in an update": held + gradients + max(backward, plan["AdamW moments of one tensor"]),
        "in sampling": held + plan["weights laid out for sampling"] + plan["KV cache"],
    }


def find(config, model, room, host=math.inf):
    """The fastest Fit within `room` bytes of a GPU, and `host` bytes beside it; None if none is."""
    room, (rows, row) = (1 - SPARE) * room, rows_of(config, model)
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    choices = {"checkpoint_activations": (False, True), "offload": (False, True),
               "micro_batch_tokens": [PACK_TOKENS["cuda"] // cut for cut in (1, 2, 4)]}  # fmt: skip
    for name in choices:
        if getattr(config, name) is not None:
            choices[name] = [getattr(config, name)]
    for again, offload, tokens in product(*choices.values()):
        fit = Fit(tokens, again, offload, config.kv_cache_gb)
        plan = memory_plan(config, model, CUDA, fit)
        update, sampling = totals(plan).values()
        left = room - sampling + plan["KV cache"]
        fit.kv_cache_gb = config.kv_cache_gb or min(rows * row, max(0, CACHE_SHARE * left)) / 1e9
        enough = min(rows, LEAST_ROWS + 1) * row <= 1e9 * fit.kv_cache_gb <= left
        elsewhere = not offload or not config.shard and 8 * trained <= host
        if update <= room and enough and elsewhere:
            return fit
    return None


def choose(config, model, room, host=math.inf):
    """As `find`. Raises ValueError that names the nearest flags with which it would fit."""
    if fit := find(config, model, room, host):
        return fit
    refused = f"{config.model} does not fit in {room / 1e9:.0f} GB"
    free = dict.fromkeys(("micro_batch_tokens", "checkpoint_activations", "offload", "kv_cache_gb"))
    short, lora_16 = {"max_response_tokens": 512}, {} if config.shard else {"lora_rank": 16}
    for flags in ({}, lora_16, short, lora_16 | short):
        other = replace(config, **free, **flags)
        if find(other, shapes(other, CUDA), room, host):
            words = [f"{flag_of(name)} {value}" for name, value in flags.items()]
            words = f"with {' '.join(words)}" if words else "without its flags for memory"
            raise ValueError(f"{refused}; {words} it does")
    raise ValueError(f"{refused}, whatever the flags: take a smaller model or a larger GPU")


def fit_device(config, model, device):
    """The Fit of a run and its model on "meta" on the device that is here. Raises ValueError."""
    if device.type == "cpu":
        tokens = config.micro_batch_tokens or PACK_TOKENS["cpu"]
        again, offload = bool(config.checkpoint_activations), bool(config.offload)
        return Fit(tokens, again, offload, config.kv_cache_gb)
    host = free_bytes(torch.device("cpu")) / world_size()
    return choose(config, model, min(gather([free_bytes(device)])), host)


def show(config, model, device, fits):
    """Print choices, with the flags that overrule them, and memory: a column for {heading: Fit}."""
    lines = {"planned, in GB (10^9 bytes)": list(fits)}
    for fit in fits.values():
        plan, (_, row) = memory_plan(config, model, device, fit), rows_of(config, model)
        cells = {
            "tokens of a micro-batch (--micro-batch-tokens)": f"{fit.micro_batch_tokens:,}",
            "layers computed again (--checkpoint-activations)": str(fit.checkpoint_activations),
            "AdamW's moments in host memory (--offload)": str(fit.offload),
            "rows sampled at a time (--kv-cache-gb)": f"{int(plan['KV cache'] / row) - 1:,}",
        }  # fmt: skip
        for name, size in (plan | totals(plan)).items():
            cells[name] = f"{size / 1e9:.3f}" if size else ""
        for label, text in cells.items():
            lines.setdefault(label, []).append(text)
    for label, texts in lines.items():
        if any(texts):
            print(f"  {label:48}" + "".join(f"{text:>9}" for text in texts))


def load_weights(config, device):
    """(model, tokenizer, Fit): fp32 masters of what is trained, with --shard in parts."""
    planned = shapes(config, device)
    fit = fit_device(config, planned, device)
    if device.type == "cuda":
        show(config, planned, device, {f"on {device}": fit})
    dtype = compute_dtype(device) if config.lora_rank else torch.float32
    model, tokenizer = load_model(config.model, dtype, device, config.shard)
    if config.lora_rank:
        model.base = base_of(config.model)
        lora.add_adapters(model, config.lora_rank, config.lora_alpha, config.seed)
    # What ends a response here is to end it wherever the checkpoints are used.
    model.eos_ids, stops = response_ends(model, tokenizer, [])
    if not model.eos_ids and not stops:
        say("warning: neither model nor tokenizer names a token that ends a text: no response ends "
            "before --max-response-tokens")  # fmt: skip
    model.compute_dtype = compute_dtype(device)
    model.checkpoint_activations = fit.checkpoint_activations
    choose_threads(model)
    return model, tokenizer, fit


def fit_memory(accumulate_gradients, run, rollout, *rest):
    """Call it, with micro-batches of half as many tokens each time memory runs out."""
    fit, longest = run.fit, int((rollout.prompt_mask.sum(1) + rollout.response_mask.sum(1)).max())
    while True:
        try:
            return accumulate_gradients(run, rollout, *rest)
        except torch.OutOfMemoryError as error:
            # Several processes would no longer meet in their sums.
            if fit.micro_batch_tokens <= longest or world_size() > 1:
                raise ValueError(
                    f"out of memory at {fit.micro_batch_tokens} tokens: lower --micro-batch-tokens "
                    "or --max-response-tokens, or give --checkpoint-activations or --offload"
                ) from error
        # Only here, past the except, has the traceback let go of the tensors that were too many.
        fit.micro_batch_tokens //= 2
        torch.cuda.empty_cache()
        tqdm.write(f"out of memory: going on with micro-batches of {fit.micro_batch_tokens} tokens")


def adam_step(optimizer, model, offload):
    """One step of AdamW. Offloaded, each parameter's moments visit the device for their turn."""
    if not offload:
        return optimizer.step()
    gradients = {one: one.grad for one in model.parameters() if one.requires_grad}
    optimizer.zero_grad(set_to_none=True)
    for parameter, gradient in gradients.items():
        parameter.grad, moments = gradient, optimizer.state[parameter]
        moments.update({name: value.to(gradient.device) for name, value in moments.items()})
        optimizer.step()  # sees one gradient, and so steps one parameter
        moments.update({name: value.cpu() for name, value in moments.items()})
        parameter.grad = None
