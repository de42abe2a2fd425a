"""Sampling with the KV cache: prompts in, groups of responses out.

    admit     prefill each new prompt once (packed, no padding), copy its cache to its G samples
    step      one token for every live row: model -> logits -> draw -> append
    compact   ended rows leave the batch: the last live rows take their slots, waiting rows the rest
    repeat until nobody waits and nobody lives

Prompts a and b, three samples each, four slots; a0 ends after 2 tokens, a2 after 4, b1 after 3:

    step       1   2  |  3   4  |  5  |  6
    slot 0    a0  a0  | b0  b0  | b0  | b0     b0, the last live row, fills the hole of a0
    slot 1    a1  a1  | a1  a1  | a1  | b2
    slot 2    a2  a2  | a2  a2  | b1  |  .     nobody waits any more: the batch shrinks
    slot 3    b0  b0  | b1  b1  | b2  |  .     b1, and later b2, waited for a free slot
    spare      b   b  |  b   b  |  .  |  .     keeps the prompt of a group admitted in parts

1. The draw is the inverse of the cumulative distribution at a uniform number that belongs to (seed,
   prompt, sample, token): so a response does not depend on what else is in the batch, on its order,
   or on how many slots there are. It is also an order of magnitude cheaper on a CPU than
   torch.multinomial, which draws V random numbers for one token.
2. Prefill stops one token short: the last prompt token is the first one decoded.
3. The cache holds as many rows as memory allows (`kv_cache_gb`, or what is free); the rest wait.
4. After each check of the stop flags the batch holds live rows only (on CUDA filled up to the next
   size that is recorded), so ended rows cost at most CHECK_EVERY steps.
5. `model.sampling_copy` makes the weights ready once a call. On CUDA a step is one graph, recorded
   after the first step of its shape (`advance`).

Shapes: P prompts, G group size, B = P*G rows, L prompt tokens, R response tokens, V vocabulary;
n live rows now.

    python rollout.py --model tiny "Start with 5. Step 1: *3. Step 2: +4. What is the ..."
    python rollout.py        # self-check; with a prompt it prints as it samples, Ctrl-C ends it
"""

import hashlib
import math
import os
import sys
import time
from collections import deque
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from model import KVCache, sampling_copy

PREFILL_TOKENS = 8192  # tokens of one packed prefill: bounds activations, yet saturates a device
# Steps between two checks of the stop flags: a check waits until the device has done them.
CHECK_EVERY = {"cuda": 16, "cpu": 1}
GRAPHS_ON = ("cuda",)  # devices where a step is recorded once per shape and replayed
BATCH_SIZES = sorted({1} | {base << power for base in (2, 3) for power in range(20)})  # of a graph
BOUND_STEP = {"cuda": 512, "cpu": 1}  # tokens: a step reads the cache up to a multiple of it
SPLIT_TOKENS = 8  # A character may take several tokens, and the first token loses its space.
BAR_DELAY = 2  # seconds: faster sampling shows no bar
FREE_MEMORY_SHARE = 0.5  # the cache's share of free memory, where no limit is given


@dataclass
class Rollout:
    """B sampled rows, the G responses of one prompt adjacent."""

    prompt_ids: torch.Tensor  # (B, L) int64, left-padded
    prompt_mask: torch.Tensor  # (B, L) bool
    response_ids: torch.Tensor  # (B, R) int64, right-padded
    response_mask: torch.Tensor  # (B, R) bool, True on sampled tokens, EOS included
    logprobs: torch.Tensor  # (B, R) float32, nats, under the sampled distribution; 0 where masked
    finished: torch.Tensor  # (B,) bool, ended by EOS or a stop string within its limit
    stats: dict = field(default_factory=dict)  # cache_rows and cache_gb: the size of the KV cache
    eos_ids: tuple = ()  # ids that ended a response, beside the tokenizer's EOS

    def first_rows(self, count):
        """The Rollout of its first `count` rows."""
        tensors = {name: value for name, value in vars(self).items() if torch.is_tensor(value)}
        return replace(self, **{name: rows[:count] for name, rows in tensors.items()})

    def response_texts(self, tokenizer):
        """The B responses as text, without EOS and padding: other special tokens, such as those
        around a thought, say what counts as the answer.
        """
        ends = {*self.eos_ids, tokenizer.eos_token_id, tokenizer.pad_token_id}
        pairs = zip(self.response_ids, self.response_mask, strict=True)
        rows = [[id for id in ids[mask].tolist() if id not in ends] for ids, mask in pairs]
        return tokenizer.batch_decode(rows, skip_special_tokens=False)


@dataclass(frozen=True)
class Request:
    """What `generate` was asked for; its docstring explains the fields."""

    prompt_ids: list
    group_size: int
    limits: list  # the limit of each of the B rows, in tokens
    temperature: float
    top_k: int
    top_p: float
    eos_ids: tuple
    stop_strings: tuple
    tokenizer: object
    on_tokens: object


@dataclass
class Rows:
    """The rows while they are sampled, on the device. (B+1,) where no shape is given.

    The row behind the B is the idle row: it has stopped, idle slots hold it, nobody reads it.
    """

    limit: torch.Tensor  # int64, tokens
    uniforms: torch.Tensor  # (B+1, R+1) float32
    ids: torch.Tensor  # (B+1, R+1) int64, the response; what lies past its end is never read
    logprobs: torch.Tensor  # (B+1, R+1) float32
    last: torch.Tensor  # int64, the last token, to be decoded next
    count: torch.Tensor  # int64, response tokens so far
    finished: torch.Tensor  # bool, by EOS or a stop string
    stopped: torch.Tensor  # bool, finished or at the limit
    broken: torch.Tensor  # bool, its logits were not finite
    eos: torch.Tensor  # (any,) int64


@dataclass
class Slots:
    """Who sits in the cache: slots 0..live-1 hold rows, one more behind all keeps a prompt."""

    cache: KVCache
    row: torch.Tensor  # (slots,) int64, which of the B rows is here
    waiting: deque  # rows that have no slot yet
    live: int = 0
    batch: int = 0  # slots that a step computes: the live ones, idle ones up to a batch size
    kept_prompt: int | None = None  # the prompt in the spare row behind the slots


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

    Returns (n,) tokens and their logprobs under the distribution they are drawn from, which for
    temperature 0 (greedy) has all its mass on one token. NaN where logits are not finite.
    """
    if temperature == 0:
        tokens = logits.argmax(-1)
        return tokens, 0.0 * pick(logits, tokens)
    plain = temperature == 1.0 and top_k == 0 and top_p == 1.0
    scaled = logits if plain else truncate(logits / temperature, top_k, top_p)
    probabilities = scaled.softmax(-1)  # (n, V)
    cumulative = probabilities.cumsum(-1)
    # The point lies below the last entry even when rounded, as a uniform is at most 1 - 2^-24; so
    # the first entry above it is that of a token with some probability. A row of NaN finds none: it
    # is clamped here, and reported later.
    point = uniforms[:, None] * cumulative[:, -1:]
    found = torch.searchsorted(cumulative, point, right=True)[:, 0]
    tokens = found.clamp_(max=logits.shape[-1] - 1)
    if not plain or logits.is_cuda:  # CUDA's parallel cumsum may dip where tokens have no mass.
        tokens = torch.where(pick(probabilities, tokens) > 0, tokens, probabilities.argmax(-1))
    return tokens, pick(probabilities, tokens).log()


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
    budget = free_bytes(device) * FREE_MEMORY_SHARE if kv_cache_gb is None else kv_cache_gb * 1e9
    row_bytes = KVCache.bytes_per_token(model.config, model.compute_dtype) * capacity
    slots = min(num_rows, int(budget // row_bytes) - 1)  # One row more is the spare.
    if slots < 1:
        raise ValueError(
            f"a KV cache of {budget / 1e9:.2f} GB holds no row of {capacity} tokens "
            f"({row_bytes / 1e9:.3f} GB each): lower max_new_tokens or raise --kv-cache-gb"
        )
    return slots


def free_bytes(device):
    if device.type == "cuda":  # What PyTorch keeps for reuse is free too.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():  # Elsewhere than on Linux all memory counts as free.
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    lines = meminfo.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def admit(model, request, rows, slots):
    """Waiting rows take the free slots; each prompt is prefilled once, copied to its samples."""
    first, spare, cache = slots.live, len(slots.row), slots.cache  # first: of the free slots
    admitted = [slots.waiting.popleft() for _ in range(min(len(slots.waiting), spare - first))]
    if not admitted:
        return
    slots.live = first + len(admitted)
    prompts = [row // request.group_size for row in admitted]
    members = {}  # prompt -> the slots of its new rows
    for slot, prompt in enumerate(prompts, first):
        members.setdefault(prompt, []).append(slot)
    new = [prompt for prompt in members if prompt != slots.kept_prompt]
    prefill(model, cache, [(members[prompt][0], request.prompt_ids[prompt][:-1]) for prompt in new])
    next_prompt = slots.waiting[0] // request.group_size if slots.waiting else None
    for prompt, own in members.items():
        source = spare if prompt == slots.kept_prompt else own[0]
        kept = [spare] if prompt == next_prompt else []  # for its rows that still wait
        cache.copy_rows([source], own + kept, len(request.prompt_ids[prompt]) - 1)
    if next_prompt in members:
        slots.kept_prompt = next_prompt
    asked, device = [request.prompt_ids[prompt] for prompt in prompts], rows.count.device
    cache.lengths[first : slots.live] = torch.tensor([len(ids) - 1 for ids in asked], device=device)
    rows.last[admitted] = torch.tensor([ids[-1] for ids in asked], device=device)
    slots.row[first : slots.live] = torch.tensor(admitted, device=device)
    rows.count[admitted] = 0


def prefill(model, cache, prefixes):
    """Run (cache row, token ids) pairs through the model, packed end to end, to fill those rows."""
    waiting = deque((row, ids) for row, ids in prefixes if ids)
    while waiting:
        pack, size = [], 0
        while waiting and (not pack or size + len(waiting[0][1]) <= PREFILL_TOKENS):
            pack.append(waiting.popleft())
            size += len(pack[-1][1])
        device = cache.lengths.device
        ids = torch.tensor([[token for _, ids in pack for token in ids]], device=device)  # (1, N)
        cache_rows = torch.tensor([row for row, _ in pack], device=device)
        row_lengths = [len(ids) for _, ids in pack]
        model(ids, row_lengths=row_lengths, kv_cache=cache, cache_rows=cache_rows)


def compact(rows, slots):
    """Drop the stopped rows: the last live rows fill the holes."""
    stopped = rows.stopped[slots.row[: slots.live]].tolist()
    alive = stopped.count(False)
    holes = [slot for slot in range(alive) if stopped[slot]]
    movers = [slot for slot in range(alive, slots.live) if not stopped[slot]]
    if holes:
        slots.cache.copy_rows(movers, holes, slots.cache.bound)
        slots.row[holes] = slots.row[movers]
    slots.live = alive


# --------------------------------------------------------------------------------------------------
# Generate


@torch.no_grad()
def generate(
    model, prompt_ids, *, max_new_tokens, eos_ids, group_size=1, temperature=1.0, top_p=1.0,
    top_k=0, seed=0, first_prompt=0, stop_strings=(), tokenizer=None, kv_cache_gb=None,
    progress=None, on_tokens=None,
) -> Rollout:  # fmt: skip
    """Sample `group_size` responses for each prompt.

    prompt_ids      P lists of token ids
    max_new_tokens  int, or a list of B ints: the limit of each row, in tokens
    eos_ids         ids that end a response; () samples up to the limit
    temperature     0 is greedy; top_k 0 and top_p 1 are off
    first_prompt    number of prompt_ids[0] in its draws, where this is one share of a larger batch
    stop_strings    end a row whose text contains one of them (needs tokenizer)
    kv_cache_gb     GB of the cache, default half of what is free; out of memory halves the slots
    progress        label of a bar, or None;  on_tokens(rows, tokens) is called after each step
    Raises ValueError for bad arguments, FloatingPointError when logits are not finite.
    """
    num_rows = len(prompt_ids) * group_size
    limits = [max_new_tokens] * num_rows if isinstance(max_new_tokens, int) else [*max_new_tokens]
    request = Request(
        prompt_ids=prompt_ids, group_size=group_size, limits=limits, temperature=temperature,
        top_k=top_k, top_p=top_p, eos_ids=eos_ids, stop_strings=tuple(stop_strings),
        tokenizer=tokenizer, on_tokens=on_tokens,
    )  # fmt: skip
    check(model, request)
    device = next(model.parameters()).device
    capacity = max(len(ids) for ids in prompt_ids) + max(limits) + CHECK_EVERY[device.type]
    rows = make_rows(request, seed, first_prompt, device)
    network = sampling_copy(model)
    with tqdm(
        desc=progress, total=num_rows, unit="row", leave=False, delay=BAR_DELAY,
        disable=progress is None or None,  # None: no bar where there is no terminal
    ) as bar:
        num_slots = choose_slots(model, num_rows, capacity, kv_cache_gb, device)
        while not rows.stopped.all():
            try:
                stats = sample(network, request, rows, num_slots, capacity, bar)
            except torch.OutOfMemoryError:
                if num_slots == 1:
                    raise
                # Unfinished rows start again and come out the same: their draws are their own.
                num_slots //= 2
                tqdm.write(f"out of memory: sampling goes on with {num_slots} cache rows at a time")
    return collect(request, rows, stats)


def make_rows(request, seed, first_prompt, device):
    """The B rows before their first token."""
    num_rows, columns = len(request.limits), max(request.limits) + 1
    places = [divmod(row, request.group_size) for row in range(num_rows)]
    draws = [uniforms_of(seed, first_prompt + prompt, sample, columns) for prompt, sample in places]
    integers, flags = dict(dtype=torch.int64, device=device), dict(dtype=torch.bool, device=device)
    return Rows(
        limit=torch.tensor([*request.limits, 0], **integers),
        uniforms=torch.stack([*draws, torch.zeros(columns)]).to(device),
        ids=torch.zeros(num_rows + 1, columns, **integers),
        logprobs=torch.zeros(num_rows + 1, columns, device=device),
        last=torch.zeros(num_rows + 1, **integers),
        count=torch.zeros(num_rows + 1, **integers),
        finished=torch.zeros(num_rows + 1, **flags),
        stopped=torch.arange(num_rows + 1, device=device) == num_rows,
        broken=torch.zeros(num_rows + 1, **flags),
        eos=torch.tensor(sorted(request.eos_ids), **integers),
    )


def sample(model, request, rows, num_slots, capacity, bar):
    """Sample until every row has stopped; returns the Rollout's stats."""
    device = rows.limit.device
    slots = Slots(
        cache=KVCache(model.config, num_slots + 1, capacity, model.compute_dtype, device),
        row=torch.zeros(num_slots, dtype=torch.int64, device=device),
        waiting=deque((~rows.stopped).nonzero()[:, 0].tolist()),
    )
    watched = request.stop_strings or request.on_tokens is not None
    check_every = 1 if watched else CHECK_EVERY[device.type]
    take_step, graphs = partial(step, model, request, rows, slots), {}
    start, tokens = time.perf_counter(), 0
    while slots.waiting or slots.live:
        admit(model, request, rows, slots)
        before = slots.live
        choose_shape(slots, check_every, capacity, idle_row=len(rows.limit) - 1)
        for _ in range(check_every):
            advance(take_step, slots, graphs)
        check_stops(request, rows, slots)
        compact(rows, slots)
        tokens += before * check_every
        bar.update(before - slots.live)
        rate = tokens / (time.perf_counter() - start)
        bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
    return {"cache_rows": num_slots, "cache_gb": 2 * slots.cache.keys.nbytes / 1e9}


def choose_shape(slots, check_every, capacity, idle_row):
    """Set what the next steps compute: how many slots, and how much of the cache they may read."""
    kind, num_slots = slots.row.device.type, len(slots.row)
    slots.batch = slots.live
    if kind in GRAPHS_ON:  # Each size is recorded, so there are few: 1, 2, 3, 4, 6, 8, 12, ...
        slots.batch = min(num_slots, next(size for size in BATCH_SIZES if size >= slots.live))
        slots.row[slots.live : slots.batch] = idle_row
        slots.cache.lengths[slots.live : slots.batch] = 0
    longest = int(slots.cache.lengths[: slots.live].max()) + check_every
    steps = math.ceil(longest / BOUND_STEP[kind])
    slots.cache.bound = min(capacity, steps * BOUND_STEP[kind])


def advance(take_step, slots, graphs):
    """One step. Recorded where launching its few hundred kernels takes longer than running them.

    A CUDA graph repeats those kernels on the same memory. So a step reads and writes tensors that
    last (weights, cache, rows, slots), and its shape, (batch, bound), is all that is fixed in it.
    The graphs go with the cache when sampling ends, as training needs the memory.
    """
    if slots.row.device.type not in GRAPHS_ON:
        return take_step()
    shape = slots.batch, slots.cache.bound
    if shape in graphs:
        return graphs[shape].replay()
    take_step()  # This one counts; it also loads kernels, which must not happen in a recording.
    others = list(graphs.values())
    graphs[shape] = record(take_step, others[0].pool() if others else None)


def record(take_step, pool):
    """A CUDA graph of one step; pool  memory for temporaries that graphs share, or None."""
    graph = torch.cuda.CUDAGraph()
    # Only this thread is watched: those of torch.distributed may call CUDA meanwhile.
    with torch.cuda.graph(graph, pool, capture_error_mode="thread_local"):
        take_step()
    return graph


def step(model, request, rows, slots):
    """One token for each live row, without waiting for the host."""
    row = slots.row[: slots.batch]  # (n,)
    hidden = model(rows.last[row][:, None], kv_cache=slots.cache)[:, 0]  # (n, D)
    logits = model.lm_head(hidden).float()  # (n, V)
    # A row that has stopped runs on until the next check: all it draws goes to the place behind
    # its end, and its count stays.
    at, running = rows.count[row], ~rows.stopped[row]
    uniforms = rows.uniforms[row, at]  # (n,)
    tokens, logprobs = draw(logits, uniforms, request.temperature, request.top_k, request.top_p)
    rows.ids[row, at] = rows.last[row] = tokens
    rows.logprobs[row, at] = logprobs
    count = at + running
    ended = (tokens[:, None] == rows.eos).any(1) & running
    rows.count[row] = count
    rows.finished[row] |= ended
    rows.stopped[row] |= ended | (count >= rows.limit[row])
    rows.broken[row] |= ~logprobs.isfinite() & running


def check_stops(request, rows, slots):
    """What the host does between steps: broken rows, stop strings, the caller's callback."""
    if rows.broken.any():
        raise FloatingPointError(describe_broken(request, rows))
    live = slots.row[: slots.live]
    if request.stop_strings:
        # The newest token ends the string, and a token holds at least one byte of it.
        reach = max(len(string.encode()) for string in request.stop_strings) + SPLIT_TOKENS
        places = rows.count[live, None] + torch.arange(-reach, 0, device=live.device)  # (n, reach)
        tails = rows.ids[live].gather(1, places.clamp(min=0)).where(places >= 0, -1).tolist()
        tails = [[token for token in tail if token >= 0] for tail in tails]
        texts = request.tokenizer.batch_decode(tails, skip_special_tokens=True)
        ended = [any(string in text for string in request.stop_strings) for text in texts]
        ended = live[torch.tensor(ended, device=live.device)]
        rows.stopped[ended] = rows.finished[ended] = True
    if request.on_tokens is not None:
        request.on_tokens(live.tolist(), rows.last[live].tolist())


def describe_broken(request, rows):
    row = int(rows.broken.nonzero()[0])
    token = int((~rows.logprobs[row].isfinite()).nonzero()[0])
    ids = rows.ids[row, :token].tolist()
    text = ids if request.tokenizer is None else request.tokenizer.decode(ids)
    return f"logits are not finite at token {token} of row {row}; the response so far: {text!r}"


def collect(request, rows, stats):
    """The Rollout: prompts left-padded, everything past a row's end zeroed and masked."""
    device, columns = rows.ids.device, int(rows.count.max())
    length = max(len(ids) for ids in request.prompt_ids)
    padded = [[0] * (length - len(ids)) + list(ids) for ids in request.prompt_ids]
    mask = [[False] * (length - len(ids)) + [True] * len(ids) for ids in request.prompt_ids]
    response_mask = torch.arange(columns, device=device) < rows.count[:-1, None]  # (B, R)
    return Rollout(
        prompt_ids=torch.tensor(padded, device=device).repeat_interleave(request.group_size, 0),
        prompt_mask=torch.tensor(mask, device=device).repeat_interleave(request.group_size, 0),
        response_ids=rows.ids[:-1, :columns] * response_mask,
        response_mask=response_mask,
        logprobs=rows.logprobs[:-1, :columns].masked_fill(~response_mask, 0.0),
        finished=rows.finished[:-1],
        stats=stats,
        eos_ids=tuple(request.eos_ids),
    )


def check(model, request):
    """Raise ValueError for what cannot be sampled."""
    prompts, limits, group_size = request.prompt_ids, request.limits, request.group_size
    temperature, top_p, top_k = request.temperature, request.top_p, request.top_k
    num_rows, size = len(prompts) * group_size, model.config.vocab_size
    pairs = zip(range(num_rows), limits, strict=False)
    reached = max((len(prompts[row // group_size]) + limit for row, limit in pairs), default=0)
    outside = [token for ids in prompts for token in ids if not 0 <= token < size]
    shortest = min(limits, default=0)
    faults = {
        f"group_size is {group_size}: give 1 or more": group_size < 1,
        "no prompts, or a prompt without tokens": not prompts or not all(map(len, prompts)),
        f"token ids {outside[:3]} of prompts are not among 0 to {size - 1}, the model's": outside,
        f"max_new_tokens is {shortest}: give 1 or more, once or for each of {num_rows} rows":
            len(limits) != num_rows or shortest < 1,
        f"temperature {temperature}: give 0 (greedy) or more": not 0 <= temperature < math.inf,
        f"top_p {top_p}: give more than 0, at most 1 (off)": not 0 < top_p <= 1,
        f"top_k {top_k}: give 0 (off) or more": top_k < 0,
        "eos_ids is None: give (), to sample up to the limit": request.eos_ids is None,
        f"prompt and response may reach {reached} tokens, the model has "
        f"{model.max_positions} positions": reached > model.max_positions,
        "stop_strings need the tokenizer": request.stop_strings and request.tokenizer is None,
    }  # fmt: skip
    for fault, found in faults.items():
        if found:
            raise ValueError(fault)


# --------------------------------------------------------------------------------------------------
# Use from the shell


def self_check():
    """Four samples of a random model: the masks as a picture; few slots and many agree."""
    from transformers import LlamaConfig

    from model import CausalLM

    torch.manual_seed(0)
    sizes = dict(vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)
    model = CausalLM(config)
    options = dict(group_size=2, max_new_tokens=24, eos_ids=(1, 2), seed=3)
    rollout = generate(model, [[3, 4, 5], [6]], **options)
    for mask, finished in zip(rollout.response_mask, rollout.finished, strict=True):
        tokens = int(mask.sum())
        end = "finished" if finished else "cut at the limit"
        print(f"{'#' * tokens:.<24}  {tokens:2} tokens, {end}")
    row_gb = KVCache.bytes_per_token(config) * (3 + 24 + CHECK_EVERY["cpu"]) / 1e9
    few = generate(model, [[3, 4, 5], [6]], kv_cache_gb=2.5 * row_gb, **options)
    same = torch.equal(few.response_ids, rollout.response_ids)
    assert same, "the number of cache rows changed a response"
    print("the same tokens with one cache row as with four")


def main(argv=None):
    """With a question: its answer, printed as it comes. Returns the exit code."""
    if not (sys.argv[1:] if argv is None else argv):
        return self_check()
    from plumbing.ask import ask

    return ask(generate, argv)


if __name__ == "__main__":
    sys.exit(main())
