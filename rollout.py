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
4. Finished rows cost at most CHECK_EVERY steps: after each look at the stop flags the batch holds
   live rows only, on CUDA filled up to the next batch size that is recorded.
5. The weights are gathered, cast and laid out once a call, in a copy that is dropped at its end
   (`model.sampling_copy`). On CUDA a step is one graph, recorded after the first step of its shape
   (`advance`).

Shapes: P prompts, G group size, B = P*G rows, L prompt tokens, R response tokens, V vocabulary;
n live rows now.

    python rollout.py --model tiny "Start with 5. Step 1: *3. Step 2: +4. What is the ..."
    python rollout.py        # self-check; with a prompt it prints as it samples, Ctrl-C ends it
"""

import argparse
import hashlib
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
# decode steps between two looks at the stop flags: each look waits for the device
CHECK_EVERY = {"cuda": 16, "cpu": 1}
GRAPHS_ON = ("cuda",)  # where a step is recorded once per shape and replayed
BATCH_SIZES = sorted({1} | {base << power for base in (2, 3) for power in range(20)})  # of graphs
LIMIT_STEP = {"cuda": 512, "cpu": 1}  # tokens: a recorded step reads the cache up to a multiple
SPLIT_TOKENS = 8  # a character may be split over several tokens, and a first one loses its space
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
    # prefill_tokens, response_tokens, row_steps (live rows summed over steps), seconds,
    # cache_rows and cache_gb: how many rows the KV cache held at a time, and its size
    stats: dict = field(default_factory=dict)
    eos_ids: tuple = ()  # that ended a response, beside the tokenizer's own EOS

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
    """What `generate` was asked for; it explains the fields."""

    prompt_ids: list
    group_size: int
    limits: list  # of each of the B rows, in tokens
    draw_options: tuple  # temperature, top_k, top_p
    eos_ids: tuple
    stop_strings: tuple
    tokenizer: object
    on_tokens: object


@dataclass
class Rows:
    """The rows while they are sampled, on the device; B here counts one more, an idle one.

    (B,) where no shape is given. Idle slots hold the idle row: it has stopped, nobody reads it.
    """

    limit: torch.Tensor  # int64, tokens
    uniforms: torch.Tensor  # (B, R+1) float32
    ids: torch.Tensor  # (B, R+1) int64, the response; what lies past its end is never read
    logprobs: torch.Tensor  # (B, R+1) float32
    model_logprobs: torch.Tensor  # (B, R+1) float32
    last: torch.Tensor  # int64, the last token, to be decoded next
    count: torch.Tensor  # int64, response tokens so far
    finished: torch.Tensor  # bool, by EOS or a stop string
    stopped: torch.Tensor  # bool, finished or at the limit
    broken: torch.Tensor  # bool, its logits were not finite
    eos: torch.Tensor  # (any,) int64
    stats: dict


@dataclass
class Slots:
    """Who sits in the cache: slots 0..live-1 hold rows, one more behind all keeps a prompt."""

    cache: KVCache
    row: torch.Tensor  # (slots,) int64, which of the B rows is here
    waiting: deque  # rows that have no slot yet
    live: int = 0
    width: int = 0  # slots of a step: the live ones, and some idle ones up to a batch size
    kept_prompt: int | None = None  # in the last cache row: of a group admitted in parts


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
    if temperature == 0:  # greedy: the sampled distribution puts all its mass on one token
        tokens = logits.argmax(-1)
        model_logprobs = pick(logits.log_softmax(-1), tokens)
        return tokens, model_logprobs.where(model_logprobs.isnan(), 0.0), model_logprobs
    plain = temperature == 1.0 and top_k == 0 and top_p == 1.0
    scaled = logits if plain else truncate(logits / temperature, top_k, top_p)
    probabilities = scaled.softmax(-1)  # (n, V)
    cumulative = probabilities.cumsum(-1)
    # Below the last entry even when rounded, as a uniform is at most 1 - 2^-24; so the first entry
    # above is that of a token with some probability. (A row of NaN finds none: clamped, reported.)
    point = uniforms[:, None] * cumulative[:, -1:]
    found = torch.searchsorted(cumulative, point, right=True)[:, 0]
    tokens = found.clamp_(max=logits.shape[-1] - 1)
    if not plain or logits.is_cuda:  # whose parallel cumsum may dip where tokens have no mass
        tokens = torch.where(pick(probabilities, tokens) > 0, tokens, probabilities.argmax(-1))
    logprobs = pick(probabilities, tokens).log()
    return tokens, logprobs, logprobs if plain else pick(logits.log_softmax(-1), tokens)


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
    slots = min(num_rows, int(budget // row_bytes) - 1)  # one more row keeps a prompt
    if slots < 1:
        raise ValueError(
            f"a KV cache of {budget / 1e9:.2f} GB holds no row of {capacity} tokens "
            f"({row_bytes / 1e9:.3f} GB each): lower max_new_tokens or raise --kv-cache-gb"
        )
    return slots


def free_bytes(device):
    if device.type == "cuda":  # what PyTorch keeps for reuse is free too
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():  # not Linux: all there is
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    lines = meminfo.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def admit(model, request, rows, slots):
    """Waiting rows take the free slots; each prompt is prefilled once, copied to its samples."""
    first, spare = slots.live, len(slots.row)
    count = min(len(slots.waiting), spare - first)
    if count == 0:
        return
    admitted = [slots.waiting.popleft() for _ in range(count)]
    slots.live = first + count
    prompts = [row // request.group_size for row in admitted]
    lengths = [len(request.prompt_ids[prompt]) - 1 for prompt in prompts]
    members = {}  # prompt -> its new slots
    for slot, prompt in enumerate(prompts, first):
        members.setdefault(prompt, []).append(slot)
    news = {prompt: targets for prompt, targets in members.items() if prompt != slots.kept_prompt}
    fresh = [(targets[0], request.prompt_ids[prompt][:-1]) for prompt, targets in news.items()]
    rows.stats["prefill_tokens"] += prefill(model, slots.cache, fresh)
    for prompt, targets in members.items():
        source = targets[0] if prompt in news else spare
        length = len(request.prompt_ids[prompt]) - 1
        slots.cache.copy_rows([source], targets, length)
    if slots.waiting and slots.waiting[0] // request.group_size == prompt:  # the last has more rows
        slots.cache.copy_rows([source], [spare], length)
        slots.kept_prompt = prompt
    device = rows.count.device
    slots.cache.lengths[first : slots.live] = torch.tensor(lengths, device=device)
    slots.row[first : slots.live] = torch.tensor(admitted, device=device)
    last = [request.prompt_ids[prompt][-1] for prompt in prompts]
    rows.last[admitted] = torch.tensor(last, device=device)
    rows.count[admitted] = 0


def prefill(model, cache, fresh):
    """Run (slot, ids) pairs through the model, packed end to end; returns how many tokens."""
    waiting, device = deque((slot, ids) for slot, ids in fresh if ids), cache.lengths.device
    while waiting:
        pack, size = [], 0
        while waiting and (not pack or size + len(waiting[0][1]) <= PREFILL_TOKENS):
            pack.append(waiting.popleft())
            size += len(pack[-1][1])
        ids = torch.tensor([[token for _, row in pack for token in row]], device=device)  # (1, N)
        cache_rows = torch.tensor([slot for slot, _ in pack], device=device)
        row_lengths = [len(row) for _, row in pack]
        model(ids, row_lengths=row_lengths, kv_cache=cache, cache_rows=cache_rows)
    return sum(len(ids) for _, ids in fresh)


def compact(rows, slots):
    """Drop the stopped rows: the last live rows fill the holes."""
    stopped = rows.stopped[slots.row[: slots.live]].tolist()
    alive = stopped.count(False)
    holes = [slot for slot in range(alive) if stopped[slot]]
    movers = [slot for slot in range(alive, slots.live) if not stopped[slot]]
    if holes:
        slots.cache.copy_rows(movers, holes, slots.cache.limit)
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
    limits = max_new_tokens
    limits = [limits] * num_rows if isinstance(limits, int) else list(limits)
    request = Request(
        prompt_ids, group_size, limits, (temperature, top_k, top_p), eos_ids, tuple(stop_strings),
        tokenizer, on_tokens,
    )  # fmt: skip
    check(model, request)
    device = next(model.parameters()).device
    capacity = max(len(ids) for ids in prompt_ids) + max(limits) + CHECK_EVERY[device.type]
    rows, start = make_rows(request, seed, first_prompt, device), time.perf_counter()
    model = sampling_copy(model)
    disable = True if progress is None else None  # None: a bar on terminals only
    bar_options = dict(desc=progress, disable=disable, leave=False, delay=BAR_DELAY)
    with tqdm(total=num_rows, unit="row", **bar_options) as bar:
        num_slots = choose_slots(model, num_rows, capacity, kv_cache_gb, device)
        while not rows.stopped.all():
            try:
                sample(model, request, rows, num_slots, capacity, bar)
            except torch.OutOfMemoryError:
                if num_slots == 1:
                    raise
                # Unfinished rows start again and come out the same: their draws are their own.
                num_slots //= 2
                tqdm.write(f"out of memory: sampling goes on with {num_slots} cache rows at a time")
    rows.stats["seconds"] = time.perf_counter() - start
    return collect(request, rows)


def make_rows(request, seed, first_prompt, device):
    """The B rows before their first token."""
    num_rows, width = len(request.limits), max(request.limits) + 1
    places = [divmod(row, request.group_size) for row in range(num_rows)]
    draws = [uniforms_of(seed, first_prompt + prompt, at, width) for prompt, at in places]
    wholes, flags = dict(dtype=torch.int64, device=device), dict(dtype=torch.bool, device=device)
    return Rows(
        limit=torch.tensor([*request.limits, 0], **wholes),
        uniforms=torch.stack([*draws, torch.zeros(width)]).to(device),
        ids=torch.zeros(num_rows + 1, width, **wholes),
        logprobs=torch.zeros(num_rows + 1, width, device=device),
        model_logprobs=torch.zeros(num_rows + 1, width, device=device),
        last=torch.zeros(num_rows + 1, **wholes),
        count=torch.zeros(num_rows + 1, **wholes),
        finished=torch.zeros(num_rows + 1, **flags),
        stopped=torch.arange(num_rows + 1, device=device) == num_rows,
        broken=torch.zeros(num_rows + 1, **flags),
        eos=torch.tensor(sorted(request.eos_ids), **wholes),
        stats={"prefill_tokens": 0, "row_steps": 0},
    )


def sample(model, request, rows, num_slots, capacity, bar):
    """Sample until every row has stopped."""
    device = rows.limit.device
    slots = Slots(
        cache=KVCache(model.config, num_slots + 1, capacity, model.compute_dtype, device),
        row=torch.zeros(num_slots, dtype=torch.int64, device=device),
        waiting=deque((~rows.stopped).nonzero()[:, 0].tolist()),
    )
    cache_gb = 2 * slots.cache.keys.nbytes / 1e9
    rows.stats |= {"cache_rows": num_slots, "cache_gb": cache_gb}
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
        look(request, rows, slots)
        compact(rows, slots)
        tokens += before * check_every
        bar.update(before - slots.live)
        rate = tokens / (time.perf_counter() - start)
        bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
    rows.stats["row_steps"] += tokens


def choose_shape(slots, check_every, capacity, idle_row):
    """Set what the next steps compute: how many slots, and how much of the cache they may read."""
    kind, num_slots = slots.row.device.type, len(slots.row)
    slots.width = slots.live
    if kind in GRAPHS_ON:  # few sizes, as each is recorded: powers of two and the halves between
        slots.width = min(num_slots, next(size for size in BATCH_SIZES if size >= slots.live))
        slots.row[slots.live : slots.width] = idle_row
        slots.cache.lengths[slots.live : slots.width] = 0
    longest = int(slots.cache.lengths[: slots.live].max()) + check_every
    slots.cache.limit = min(capacity, -(-longest // LIMIT_STEP[kind]) * LIMIT_STEP[kind])


def advance(take_step, slots, graphs):
    """One step. Recorded where launching its few hundred kernels takes longer than running them.

    A CUDA graph repeats those kernels on the same memory. So a step reads and writes tensors that
    last (weights, cache, rows, slots), and its shape, (width, limit), is all that is fixed in it.
    The graphs go with the cache when sampling ends, as training needs the memory.
    """
    if slots.row.device.type not in GRAPHS_ON:
        return take_step()
    shape = slots.width, slots.cache.limit
    if shape in graphs:
        return graphs[shape].replay()
    take_step()  # for real; it also loads kernels, which must not happen in a recording
    graphs[shape] = record(take_step, [graph.pool() for graph in graphs.values()][:1])


def record(take_step, pool):
    """A CUDA graph of one step; `pool`: whose memory for temporaries it shares, [] for none."""
    graph = torch.cuda.CUDAGraph()
    # thread_local: threads of torch.distributed may call CUDA meanwhile
    with torch.cuda.graph(graph, *pool, capture_error_mode="thread_local"):
        take_step()
    return graph


def step(model, request, rows, slots):
    """One token for each live row, without waiting for the host."""
    row = slots.row[: slots.width]  # (n,)
    hidden = model(rows.last[row][:, None], kv_cache=slots.cache)[:, 0]  # (n, D)
    logits = model.lm_head(hidden).float()  # (n, V)
    # A row that has stopped runs on until the next look: all it draws goes to the place behind
    # its end, and its count stays.
    at, running = rows.count[row], ~rows.stopped[row]
    tokens, logprobs, model_logprobs = draw(logits, rows.uniforms[row, at], *request.draw_options)
    rows.ids[row, at] = rows.last[row] = tokens
    rows.logprobs[row, at] = logprobs
    rows.model_logprobs[row, at] = model_logprobs
    count = at + running
    ended = (tokens[:, None] == rows.eos).any(1) & running
    rows.count[row] = count
    rows.finished[row] |= ended
    rows.stopped[row] |= ended | (count >= rows.limit[row])
    rows.broken[row] |= ~logprobs.isfinite() & running


def look(request, rows, slots):
    """What the host does between steps: stop strings, the caller's callback, broken rows."""
    if rows.broken.any():
        raise FloatingPointError(describe_broken(request, rows))
    live = slots.row[: slots.live]
    if request.stop_strings:
        # the newest token ends the string, and a token holds at least one byte of it
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


def collect(request, rows):
    """The Rollout: prompts left-padded, everything past a row's end zeroed and masked."""
    device, width = rows.ids.device, int(rows.count.max())
    length = max(len(ids) for ids in request.prompt_ids)
    padded = [[0] * (length - len(ids)) + list(ids) for ids in request.prompt_ids]
    mask = [[False] * (length - len(ids)) + [True] * len(ids) for ids in request.prompt_ids]
    response_mask = torch.arange(width, device=device) < rows.count[:-1, None]  # (B, R)
    rows.stats["response_tokens"] = int(rows.count.sum())
    return Rollout(
        prompt_ids=torch.tensor(padded, device=device).repeat_interleave(request.group_size, 0),
        prompt_mask=torch.tensor(mask, device=device).repeat_interleave(request.group_size, 0),
        response_ids=rows.ids[:-1, :width] * response_mask,
        response_mask=response_mask,
        logprobs=rows.logprobs[:-1, :width].masked_fill(~response_mask, 0.0),
        model_logprobs=rows.model_logprobs[:-1, :width].masked_fill(~response_mask, 0.0),
        finished=rows.finished[:-1],
        stats=rows.stats,
        eos_ids=tuple(request.eos_ids),
    )


def check(model, request):
    """Raise ValueError for what cannot be sampled."""
    prompts, limits = request.prompt_ids, request.limits
    temperature, top_k, top_p = request.draw_options
    if request.group_size < 1:
        raise ValueError(f"group_size is {request.group_size}: at least one response per prompt")
    if not prompts or not all(len(ids) for ids in prompts):
        raise ValueError("no prompts, or a prompt without tokens: each needs at least one token id")
    num_rows, vocab_size = len(prompts) * request.group_size, model.config.vocab_size
    outside = [id for ids in prompts for id in ids if not 0 <= id < vocab_size]
    if outside:
        raise ValueError(f"token id {outside[0]} in a prompt: the model has ids below {vocab_size}")
    if len(limits) != num_rows or min(limits) < 1:
        legal = f"at least 1, or one such number for each of {num_rows} rows"
        raise ValueError(f"max_new_tokens is {min(limits, default=None)}: {legal}")
    if not 0 <= temperature < float("inf") or not 0 < top_p <= 1 or top_k < 0:
        given = f"temperature {temperature} must be >= 0, top_p {top_p} in (0, 1]"
        raise ValueError(f"{given}, top_k {top_k} >= 0 (0: off)")
    if request.eos_ids is None:
        advice = "give the ids that end a response, or () to sample up to the limit"
        raise ValueError(f"eos_ids is None: {advice}")
    longest = max(len(prompts[row // request.group_size]) + n for row, n in enumerate(limits))
    if longest > model.max_positions:
        positions = f"the model has {model.max_positions} positions"
        raise ValueError(f"prompt and response may reach {longest} tokens, {positions}")
    if request.stop_strings and request.tokenizer is None:
        raise ValueError("stop_strings need the tokenizer")


# --------------------------------------------------------------------------------------------------
# Use from the shell


def answer(model, tokenizer, prompt_ids, limit, temperature, seed):
    """Print one response as it comes, then, dim, how many tokens, how fast, and why it ended."""
    ids, shown, start = [], "", time.perf_counter()

    def show(rows, tokens):
        nonlocal shown
        ids.extend(tokens)
        text = tokenizer.decode(ids, skip_special_tokens=True)
        if not text.endswith("\ufffd"):  # half of a character
            print(text[len(shown) :], end="", flush=True)
            shown = text

    try:
        rollout = generate(
            model, [prompt_ids], max_new_tokens=limit, temperature=temperature, seed=seed,
            eos_ids=model.eos_ids, tokenizer=tokenizer, on_tokens=show,
        )  # fmt: skip
        reason = "ended by itself" if rollout.finished[0] else f"cut at {limit} tokens"
    except KeyboardInterrupt:
        reason = "interrupted"
    print(tokenizer.decode(ids, skip_special_tokens=True)[len(shown) :])
    rate = len(ids) / (time.perf_counter() - start)
    line = f"{len(ids)} tokens, {rate:.1f} tokens/s, {reason}"
    print(f"\033[2m{line}\033[0m" if sys.stderr.isatty() else line, file=sys.stderr)


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
    row_gb = KVCache.bytes_per_token(config) * (3 + 24 + CHECK_EVERY["cpu"]) / 1e9
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
        from plumbing.checkpoints import best_device, load_model
        from plumbing.prompts import encode_prompt  # the same that training uses
        from tiny import CHAT_TEMPLATE

        model, tokenizer = load_model(args.model, **best_device())
        kind = "tiny" if tokenizer.chat_template == CHAT_TEMPLATE else "math"
        ids = encode_prompt(tokenizer, {"problem": args.prompt, "answer": "", "kind": kind})
        limit = max(1, min(args.max_new_tokens, model.max_positions - len(ids)))
        answer(model, tokenizer, ids, limit, args.temperature, args.seed)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # while the model loads
        return 130


if __name__ == "__main__":
    sys.exit(main())
