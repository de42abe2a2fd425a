"""Sampling with the KV cache: prompts in, groups of responses out.

    admit     prefill each new prompt once (packed, no padding), copy its cache to its G samples
    step      one token for every live row: model -> logits -> draw -> append
    compact   ended rows leave the batch: the last live rows take their slots, waiting rows the rest
    repeat until nobody waits and nobody lives

1. The draw is the inverse of the cumulative distribution at a uniform number that belongs to (seed,
   prompt, sample, token): so a response does not depend on what else is in the batch, on its order,
   or on how many slots there are. It is also an order of magnitude cheaper on a CPU than
   torch.multinomial, which draws V random numbers for one token.
2. Prefill stops one token short: the last prompt token is the first one decoded, so step one needs
   no code of its own.
3. The cache holds as many rows as memory allows (`kv_cache_gb`, or what is free); the rest wait and
   refill the slots.
4. Finished rows cost nothing: after each look at the stop flags the batch holds live rows only.

Shapes: P prompts, G group size, B = P*G rows, L prompt tokens, R response tokens, V vocabulary;
n live rows now.

    python rollout.py --model tiny "2 + 3 * 4 mod 7"       # prints as it samples; Ctrl-C ends it
    python rollout.py                                      # self-check on a tiny random model
"""

import argparse
import hashlib
import os
import sys
import time
from collections import deque
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

from model import KVCache

PREFILL_TOKENS = 8192  # tokens of one packed prefill: bounds activations, yet saturates a device
CUDA_CHECK_EVERY = 16  # decode steps between two looks at the stop flags: each waits for the device
BAR_DELAY = 2  # seconds: what is done sooner shows no bar
FREE_MEMORY_SHARE = 0.5  # of what the device has free, for the cache, when no limit is given


@dataclass
class Rollout:
    """B sampled rows, the G responses of one prompt adjacent."""

    prompt_ids: torch.Tensor  # (B, L) int64, left-padded
    prompt_mask: torch.Tensor  # (B, L) bool
    response_ids: torch.Tensor  # (B, R) int64, right-padded
    response_mask: torch.Tensor  # (B, R) bool, True on sampled tokens, EOS included
    logprobs: torch.Tensor  # (B, R) float32, nats, under the sampled distribution; 0 where masked
    model_logprobs: torch.Tensor  # (B, R) float32, the same at temperature 1 without truncation
    finished: torch.Tensor  # (B,) bool, ended by EOS or a stop string within its limit
    stats: dict = field(default_factory=dict)  # prefill_tokens, row_steps, response_tokens, seconds

    def response_texts(self, tokenizer):
        """The B responses as text, special tokens removed."""
        pairs = zip(self.response_ids, self.response_mask, strict=True)
        rows = [ids[mask].tolist() for ids, mask in pairs]
        return tokenizer.batch_decode(rows, skip_special_tokens=True)


@dataclass
class Slots:
    """What the device knows of each cache row, 0..n-1 live: (slots,) int64, the last two bool."""

    row: torch.Tensor  # which of the B rows sits here
    token: torch.Tensor  # its last token, to be decoded next
    count: torch.Tensor  # response tokens so far
    stopped: torch.Tensor  # reached EOS or its limit
    broken: torch.Tensor  # its logits were not finite


# --------------------------------------------------------------------------------------------------
# Drawing one token


def truncate(logits, top_k, top_p):
    """-inf outside the k largest and the smallest set of probability >= top_p; one always stays."""
    if 0 < top_k < logits.shape[-1]:
        smallest_kept = logits.topk(top_k, dim=-1).values[:, -1:]  # ties with the k-th stay
        logits = logits.masked_fill(logits < smallest_kept, float("-inf"))
    if top_p < 1.0:
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        probabilities = ordered.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities  # mass of the tokens ahead of this one
        dropped = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, order, before >= top_p)
        logits = logits.masked_fill(dropped, float("-inf"))
    return logits


def draw(logits, uniforms, temperature, top_k=0, top_p=1.0):
    """One token per row by inverse CDF. logits (n, V) float32, uniforms (n,) in [0, 1).

    Returns (n,) tokens, their logprobs as sampled, and their logprobs at temperature 1 untruncated.
    """
    plain = temperature == 1.0 and top_k == 0 and top_p == 1.0
    logsumexp = logits.logsumexp(-1)
    if temperature == 0:  # greedy: the sampled distribution puts all its mass on one token
        tokens = logits.argmax(-1)
        logprobs = torch.where(logsumexp.isfinite(), 0.0, float("nan"))
        return tokens, logprobs, pick(logits, tokens) - logsumexp
    scaled, norm = logits, logsumexp
    if not plain:
        scaled = truncate(logits / temperature, top_k, top_p)
        norm = scaled.logsumexp(-1)
    cumulative = (scaled - norm[:, None]).exp_().cumsum(-1)  # (n, V)
    total = cumulative[:, -1]
    # strictly below the total, so that rounding never selects a token of probability zero
    point = torch.minimum(uniforms * total, torch.nextafter(total, torch.zeros_like(total)))
    found = torch.searchsorted(cumulative, point[:, None], right=True)[:, 0]
    tokens = found.clamp_(max=logits.shape[-1] - 1)
    logprobs = pick(scaled, tokens) - norm
    return tokens, logprobs, logprobs if plain else pick(logits, tokens) - logsumexp


def pick(values, tokens):
    return values.gather(1, tokens[:, None])[:, 0]


def uniforms_of(seed, prompt, sample, count):
    """(count,) uniforms of this response alone: token t uses number t, whatever else is sampled."""
    digest = hashlib.blake2b(f"{seed} {prompt} {sample}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
    return torch.rand(count, generator=generator)


# --------------------------------------------------------------------------------------------------
# The batch: who sits in which cache row


def choose_slots(model, num_rows, capacity, kv_cache_gb, device):
    """Rows the cache can hold: all, or what memory allows. Raises ValueError if not one fits."""
    if kv_cache_gb is not None:
        budget = kv_cache_gb * 1e9
    elif device.type == "cuda":
        budget = torch.cuda.mem_get_info(device)[0] * FREE_MEMORY_SHARE
    else:
        budget = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * FREE_MEMORY_SHARE
    row_bytes = KVCache.bytes_per_token(model.config, model.compute_dtype) * capacity
    # one more row keeps the prompt of a group not yet fully admitted
    slots = min(num_rows, int(budget // row_bytes) - 1)
    if slots < 1:
        raise ValueError(
            f"a KV cache of {budget / 1e9:.2f} GB holds no row of {capacity} tokens "
            f"({row_bytes / 1e9:.3f} GB each): lower max_new_tokens or raise --kv-cache-gb"
        )
    return slots


def admit(model, cache, slots, live, waiting, prompts, group_size, spare, stats):
    """Fill free slots with waiting rows; prefill each prompt once, copy its cache to its samples.

    spare  {"prompt": the prompt kept in the last cache row, or None}: for a group admitted in parts
    Returns the number of live rows. Writes into cache, slots, waiting, spare, stats: the caller's.
    """
    spare_row = len(slots.row)
    members = {}  # prompt -> its new slots
    while waiting and live < spare_row:
        row = waiting.popleft()
        members.setdefault(row // group_size, []).append(live)
        slots.row[live], slots.token[live] = row, prompts[row // group_size][-1]
        slots.count[live] = 0
        slots.stopped[live] = slots.broken[live] = False
        live += 1
    fresh = []  # (slot, ids) still to be prefilled
    for prompt, targets in members.items():
        if prompt == spare["prompt"]:
            cache.copy_rows([spare_row] * len(targets), targets, len(prompts[prompt]) - 1)
        else:
            fresh.append((targets[0], prompts[prompt][:-1]))
    stats["prefill_tokens"] += prefill(model, cache, fresh)
    for prompt, targets in members.items():
        length = len(prompts[prompt]) - 1
        if prompt != spare["prompt"] and len(targets) > 1:
            cache.copy_rows([targets[0]] * (len(targets) - 1), targets[1:], length)
    if members and waiting and waiting[0] // group_size == prompt:
        cache.copy_rows([targets[0]], [spare_row], length)
        spare["prompt"] = prompt
    return live


def prefill(model, cache, fresh):
    """Run (cache row, ids) pairs through the model, packed end to end; returns how many tokens."""
    device = cache.lengths.device
    pack, tokens = [], 0
    for index, (slot, ids) in enumerate(fresh):
        if not ids:  # a prompt of one token has nothing to prefill
            cache.lengths[slot] = 0
            continue
        pack.append((slot, ids))
        tokens += len(ids)
        last = index == len(fresh) - 1
        if last or sum(len(ids) for _, ids in pack) + len(fresh[index + 1][1]) > PREFILL_TOKENS:
            run_prefill(model, cache, pack, device)
            pack = []
    if pack:
        run_prefill(model, cache, pack, device)
    return tokens


def run_prefill(model, cache, pack, device):
    ids = torch.tensor([[token for _, row in pack for token in row]], device=device)  # (1, N)
    rows = torch.tensor([slot for slot, _ in pack], device=device)
    model(ids, row_lengths=[len(row) for _, row in pack], kv_cache=cache, cache_rows=rows)


def compact(cache, slots, live):
    """Drop the stopped rows: the last live rows fill the holes. Returns the number of live rows."""
    stopped = slots.stopped[:live].tolist()
    alive = live - sum(stopped)
    holes = [slot for slot in range(alive) if stopped[slot]]
    movers = [slot for slot in range(alive, live) if not stopped[slot]]
    if holes:
        cache.copy_rows(movers, holes, cache.limit)
        for values in (slots.row, slots.token, slots.count, slots.stopped, slots.broken):
            values[holes] = values[movers]
    return alive


# --------------------------------------------------------------------------------------------------
# Generate


@torch.no_grad()
def generate(
    model, prompt_ids, *, max_new_tokens, eos_ids, group_size=1, temperature=1.0, top_p=1.0,
    top_k=0, seed=0, first_prompt=0, stop_strings=(), tokenizer=None, kv_cache_gb=None,
    progress=None, on_tokens=None,
) -> Rollout:  # fmt: skip
    """Sample `group_size` responses for each prompt.

    prompt_ids      P lists of token ids        eos_ids  ids that end a response (may be empty)
    max_new_tokens  int, or a list of B ints: the limit of each row, in tokens
    temperature     0 is greedy; top_k 0 and top_p 1 are off
    first_prompt    number of prompt_ids[0] in its draws, where this is one share of a larger batch
    stop_strings    end a row whose text contains one of them (needs tokenizer)
    kv_cache_gb     GB of the cache, default half of what is free; out of memory halves the slots
    progress        label of a bar, or None;  on_tokens(rows, tokens) is called after each step
    Raises ValueError for bad arguments, FloatingPointError when logits are not finite.
    """
    limits = check_arguments(
        model, prompt_ids, group_size, max_new_tokens, temperature, top_p, top_k, eos_ids,
        stop_strings, tokenizer,
    )  # fmt: skip
    device = next(model.parameters()).device
    num_rows, longest = len(limits), max(limits)
    out = {
        "ids": torch.zeros(num_rows, longest, dtype=torch.int64, device=device),
        "logprobs": torch.zeros(num_rows, longest, device=device),
        "model_logprobs": torch.zeros(num_rows, longest, device=device),
        "count": torch.zeros(num_rows, dtype=torch.int64, device=device),
        "finished": torch.zeros(num_rows, dtype=torch.bool, device=device),
    }
    numbers = [(first_prompt + row // group_size, row % group_size) for row in range(num_rows)]
    draws = [uniforms_of(seed, prompt, sample, longest) for prompt, sample in numbers]
    sampling = {
        "uniforms": torch.stack(draws).to(device),
        "limits": torch.tensor(limits, device=device),
        "eos": torch.tensor(sorted(eos_ids), dtype=torch.int64, device=device),
        "how": (temperature, top_k, top_p),
    }
    stats = {"prefill_tokens": 0, "row_steps": 0, "response_tokens": 0}
    capacity = max(len(ids) for ids in prompt_ids) + longest + CUDA_CHECK_EVERY
    num_slots = choose_slots(model, num_rows, capacity, kv_cache_gb, device)
    start, waiting = time.perf_counter(), deque(range(num_rows))
    stop = (stop_strings, tokenizer)
    bar_options = dict(desc=progress, disable=progress is None, leave=False, delay=BAR_DELAY)
    with tqdm(total=num_rows, unit="row", **bar_options) as bar:
        while waiting:
            try:
                run_slots(
                    model, prompt_ids, group_size, num_slots, capacity, waiting, sampling, out,
                    stop, stats, bar, on_tokens,
                )  # fmt: skip
            except torch.OutOfMemoryError:
                if num_slots == 1:
                    raise
                num_slots //= 2
                # Unfinished rows start again and come out the same: their draws are their own.
                waiting = deque(row for row in range(num_rows) if not done(out, limits, row))
                tqdm.write(f"out of memory: sampling goes on with {num_slots} cache rows at a time")
    stats |= {"seconds": time.perf_counter() - start, "response_tokens": int(out["count"].sum())}
    return collect(prompt_ids, group_size, out, stats)


def run_slots(
    model, prompts, group_size, num_slots, capacity, waiting, sampling, out, stop, stats, bar,
    on_tokens,
):  # fmt: skip
    """Sample until no row waits or lives. Writes the B rows of `out`."""
    device = sampling["limits"].device
    cache = KVCache(model.config, num_slots + 1, capacity, model.compute_dtype, device)
    dtypes = [torch.int64] * 3 + [torch.bool] * 2
    slots = Slots(*(torch.zeros(num_slots, dtype=dtype, device=device) for dtype in dtypes))
    unwatched = device.type == "cuda" and not stop[0] and on_tokens is None
    check_every = CUDA_CHECK_EVERY if unwatched else 1
    live, spare = 0, {"prompt": None}
    while waiting or live:
        live = admit(model, cache, slots, live, waiting, prompts, group_size, spare, stats)
        cache.limit = min(capacity, int(cache.lengths[:live].max()) + check_every)
        for _ in range(check_every):
            step(model, cache, slots, live, sampling, out)
        stats["row_steps"] += live * check_every
        if slots.broken[:live].any():
            raise FloatingPointError(describe_broken(slots, live, out, stop[1]))
        if stop[0]:
            stop_at_strings(slots, live, out, *stop)
        rows = slots.row[:live]
        out["count"][rows] = slots.count[:live]
        if on_tokens is not None:
            on_tokens(rows.tolist(), slots.token[:live].tolist())
        before, live = live, compact(cache, slots, live)
        bar.update(before - live)
        seconds = bar.format_dict["elapsed"]
        bar.set_postfix_str(f"{stats['row_steps'] / max(seconds, 1e-9):,.0f} tok/s", refresh=False)


def step(model, cache, slots, live, sampling, out):
    """One token for each live row, without a word to the host, as a CUDA graph may record it."""
    row, count = slots.row[:live], slots.count[:live]
    hidden = model(slots.token[:live, None], kv_cache=cache)[:, 0]  # (n, D)
    logits = model.lm_head(hidden).float()  # (n, V)
    at = count.clamp(max=sampling["uniforms"].shape[1] - 1)
    tokens, logprobs, model_logprobs = draw(logits, sampling["uniforms"][row, at], *sampling["how"])
    running = ~slots.stopped[:live]  # a stopped row runs on until the next look, without a trace
    drawn = {"ids": tokens, "logprobs": logprobs, "model_logprobs": model_logprobs}
    for name, values in drawn.items():
        out[name][row, at] = torch.where(running, values, out[name][row, at])
    ended = torch.isin(tokens, sampling["eos"]) & running
    slots.broken[:live] |= ~logprobs.isfinite() & running
    out["finished"][row] |= ended
    slots.count[:live] += running
    slots.token[:live] = tokens
    slots.stopped[:live] |= ended | (slots.count[:live] >= sampling["limits"][row])


def stop_at_strings(slots, live, out, stop_strings, tokenizer):
    rows, counts = slots.row[:live].tolist(), slots.count[:live].tolist()
    for slot, (row, count) in enumerate(zip(rows, counts, strict=True)):
        text = tokenizer.decode(out["ids"][row, :count], skip_special_tokens=True)
        if any(string in text for string in stop_strings):
            slots.stopped[slot] = out["finished"][row] = True


def describe_broken(slots, live, out, tokenizer):
    slot = int(slots.broken[:live].nonzero()[0])
    row, count = int(slots.row[slot]), int(slots.count[slot])
    so_far = out["ids"][row, : max(0, count - 1)].tolist()
    text = so_far if tokenizer is None else tokenizer.decode(so_far)
    return f"logits are not finite at token {count - 1} of row {row}; the response so far: {text!r}"


def done(out, limits, row):
    return bool(out["finished"][row]) or int(out["count"][row]) >= limits[row]


def collect(prompt_ids, group_size, out, stats):
    """The Rollout: prompts left-padded, everything past a row's end zeroed and masked."""
    device, width = out["ids"].device, max(1, int(out["count"].max()))
    length = max(len(ids) for ids in prompt_ids)
    padded = [[0] * (length - len(ids)) + list(ids) for ids in prompt_ids]
    mask = [[False] * (length - len(ids)) + [True] * len(ids) for ids in prompt_ids]
    response_mask = torch.arange(width, device=device) < out["count"][:, None]  # (B, R)
    return Rollout(
        prompt_ids=torch.tensor(padded, device=device).repeat_interleave(group_size, 0),
        prompt_mask=torch.tensor(mask, device=device).repeat_interleave(group_size, 0),
        response_ids=out["ids"][:, :width] * response_mask,
        response_mask=response_mask,
        logprobs=out["logprobs"][:, :width].masked_fill(~response_mask, 0.0),
        model_logprobs=out["model_logprobs"][:, :width].masked_fill(~response_mask, 0.0),
        finished=out["finished"],
        stats=stats,
    )


def check_arguments(
    model, prompt_ids, group_size, max_new_tokens, temperature, top_p, top_k, eos_ids,
    stop_strings, tokenizer,
):  # fmt: skip
    """Raise ValueError for what cannot be sampled; return the limit of each of the B rows."""
    if not prompt_ids or not all(len(ids) for ids in prompt_ids):
        raise ValueError("no prompts, or a prompt without tokens: each needs at least one token id")
    if group_size < 1:
        raise ValueError(f"group_size is {group_size}: at least one response per prompt")
    num_rows = len(prompt_ids) * group_size
    same = isinstance(max_new_tokens, int)
    limits = [max_new_tokens] * num_rows if same else list(max_new_tokens)
    if len(limits) != num_rows or min(limits) < 1:
        legal = f"a number of at least 1, or one for each of {num_rows} rows"
        raise ValueError(f"max_new_tokens is {max_new_tokens}: {legal}")
    if not 0 <= temperature < float("inf") or not 0 < top_p <= 1 or top_k < 0:
        given = f"temperature {temperature} must be >= 0, top_p {top_p} in (0, 1]"
        raise ValueError(f"{given}, top_k {top_k} >= 0 (0: off)")
    if eos_ids is None:
        advice = "give the ids that end a response, or () to sample up to the limit"
        raise ValueError(f"eos_ids is None: {advice}")
    longest = max(len(prompt_ids[row // group_size]) + n for row, n in enumerate(limits))
    if longest > model.max_positions:
        positions = f"the model has {model.max_positions} positions"
        raise ValueError(f"prompt and response may reach {longest} tokens, {positions}")
    if stop_strings and tokenizer is None:
        raise ValueError("stop_strings need the tokenizer")
    return limits


# --------------------------------------------------------------------------------------------------
# Use from the shell


def print_stream(tokenizer):
    """A callback for `generate` that prints row 0 as it grows: text that can change no more."""
    ids, shown = [], ""

    def show(rows, tokens):
        nonlocal shown
        ids.append(tokens[0])
        text = tokenizer.decode(ids, skip_special_tokens=True)
        if not text.endswith("\ufffd"):  # half of a multi-byte character
            print(text[len(shown) :], end="", flush=True)
            shown = text

    return show


def self_check():
    """Four samples of a random model: the masks as a picture; few slots and many agree."""
    from transformers import LlamaConfig

    from model import CausalLM

    torch.manual_seed(0)
    sizes = dict(vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    sizes |= dict(num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)
    config = LlamaConfig(**sizes)
    model = CausalLM(config).requires_grad_(False)
    options = dict(group_size=2, max_new_tokens=24, eos_ids=(1, 2), seed=3)
    rollout = generate(model, [[3, 4, 5], [6]], **options)
    rows = zip(rollout.response_ids, rollout.response_mask, rollout.finished, strict=True)
    for ids, mask, finished in rows:
        pairs = zip(ids.tolist(), mask, strict=True)
        cells = "".join("." if not on else "E" if id in (1, 2) else "#" for id, on in pairs)
        end = "finished" if finished else "cut at the limit"
        print(f"{cells}  {int(mask.sum()):2} tokens, {end}")
    row_gb = KVCache.bytes_per_token(config) * (3 + 24 + CUDA_CHECK_EVERY) / 1e9
    few = generate(model, [[3, 4, 5], [6]], kv_cache_gb=2.5 * row_gb, **options)
    same = torch.equal(few.response_ids, rollout.response_ids)
    assert same, "the number of cache rows changed a response"
    print("the same tokens with one cache row as with four")


def main(argv=None):
    parser = argparse.ArgumentParser(description="Sample a response and print it as it comes.")
    parser.add_argument("prompt", nargs="?", help="the question; without it the self-check runs")
    parser.add_argument("--model", default="tiny", help="tiny, a folder, a short name or a hub id")
    parser.add_argument("--max-new-tokens", type=int, default=512, help="tokens")
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.prompt is None:
        return self_check()
    try:
        from eval import encode_prompt  # the same prompt function that training uses
        from model import best_device, load_model

        model, tokenizer = load_model(args.model, **best_device())
        kind = "tiny" if args.model == "tiny" else "math"
        ids = encode_prompt(tokenizer, {"problem": args.prompt, "answer": "", "kind": kind})
        generate(
            model, [ids], max_new_tokens=args.max_new_tokens, temperature=args.temperature,
            eos_ids=model.eos_ids, seed=args.seed, tokenizer=tokenizer,
            on_tokens=print_stream(tokenizer),
        )  # fmt: skip
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    print()


if __name__ == "__main__":
    sys.exit(main())
