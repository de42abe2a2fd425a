"""The decoder language model and its KV cache: Qwen2 to 3, Llama, SmolLM2, Mistral.

    h_0 = embed(ids);  h += attention(norm(h));  h += mlp(norm(h));  logits = lm_head(norm(h_last))

What a reader may expect and will not find here:
1. No padding. A training batch is *packed*: rows lie end to end in one (1, N) stream, `row_lengths`
   says how long each is, positions restart in each, attention never crosses a border; only a row
   that `follows` another, as a response its prompt, goes on from there and sees all of it.
2. No (N, V) tensor of logits for a whole batch: logprobs.py scores tokens from hidden states.
3. No hidden state. The KV cache is an object that the caller makes, passes in and drops, and so is
   the network whose weights are made ready to sample with (`sampling_copy`).
4. Parameter names are those of the checkpoint, so loading is strict and needs no mapping table.

Shapes: B rows, T tokens of a row, N tokens of a packed batch (n of a chunk), V vocabulary, D width,
H query heads, K key/value heads, E head size.

    python model.py        # plain, packed and cached agree
"""

import inspect
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

BLOCKED_WEIGHTS = 2**16  # CPU: matrices of fewer elements gain nothing from oneDNN's blocks


# --------------------------------------------------------------------------------------------------
# The network


class Linear(nn.Linear):
    """nn.Linear that casts its fp32 master weight to the dtype of the activations as it is used."""

    def forward(self, x):
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)

    def merged(self):
        return self.weight  # with plumbing/lora.py: and its adapters


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


def head_dim(config):
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def rope_frequencies(config):
    """(E/2,) inverse frequencies and the factor on cos and sin, by `config.rope_parameters`."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # linear, llama3, yarn

    kind, cpu = config.rope_parameters["rope_type"], torch.device("cpu")
    with cpu:  # The model may be made on "meta", but these are real.
        if kind != "default":
            return ROPE_INIT_FUNCTIONS[kind](config, cpu)
        exponent = torch.arange(0, head_dim(config), 2, dtype=torch.float32) / head_dim(config)
        return 1.0 / config.rope_parameters["rope_theta"] ** exponent, 1.0


def rotate(x, cos, sin):
    """Rotary position embedding: the pairs (x_i, x_{i+E/2}) turned by angle position * frequency_i.

    x (B, T, heads, E); cos and sin (B, T, 1, E), the minus sign of the first half already in sin.
    """
    return x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin


class Attention(nn.Module):
    def __init__(self, config, index):
        super().__init__()
        D, self.E, self.index = config.hidden_size, head_dim(config), index
        self.H, self.K = config.num_attention_heads, config.num_key_value_heads
        bias = config.model_type == "qwen2" or getattr(config, "attention_bias", False)
        self.q_proj = Linear(D, self.H * self.E, bias=bias)
        self.k_proj = Linear(D, self.K * self.E, bias=bias)
        self.v_proj = Linear(D, self.K * self.E, bias=bias)
        self.o_proj = Linear(self.H * self.E, D, bias=getattr(config, "attention_bias", False))
        self.normalizes = config.model_type == "qwen3"
        if self.normalizes:
            self.q_norm = RMSNorm(self.E, config.rms_norm_eps)
            self.k_norm = RMSNorm(self.E, config.rms_norm_eps)

    def forward(self, x, cos, sin, scope):
        B, T, D = x.shape
        q = self.q_proj(x).view(B, T, self.H, self.E)
        k = self.k_proj(x).view(B, T, self.K, self.E)
        v = self.v_proj(x).view(B, T, self.K, self.E)
        if self.normalizes:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        out = attend(q, k, v, self.index, scope)  # (B, T, H, E)
        return self.o_proj(out.flatten(2))  # (B, T, D)


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        bias = getattr(config, "mlp_bias", False)
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=bias)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=bias)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=bias)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config, index):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, index)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x, cos, sin, scope):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, scope)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class CausalLM(nn.Module):
    """A decoder with its head. Activations have `compute_dtype`, weights their own dtype."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.compute_dtype = torch.float32
        self.checkpoint_activations = False  # True: a third more FLOPs in training, far less memory
        self.max_positions = config.max_position_embeddings  # tokens that a row may have
        self.eos_ids = ()  # `plumbing.checkpoints.load_model` sets them.
        self.inverse_frequencies, self.rope_factor = rope_frequencies(config)

    @property
    def is_sharded(self):
        """Whether FSDP2's fully_shard has cut it, so that the processes meet in each layer."""
        return hasattr(self, "unshard")

    def forward(self, input_ids, kv_cache=None, row_lengths=None, cache_rows=None, follows=None):
        """Hidden states after the last norm, (B, T, D); `lm_head` makes logits of them.

        input_ids   (B, T) int64
        row_lengths list[int]       packed input: B = 1, T = sum(row_lengths), rows end to end
        follows     list            packed input: the number of the row that each follows, or None
        kv_cache    KVCache | None  T = 1: row b of the batch continues row b of the cache
        cache_rows  (rows,) int64   packed input with a cache: row i fills cache row cache_rows[i]
        """
        B, T = input_ids.shape
        if row_lengths is not None:
            assert (B, T) == (1, sum(row_lengths)), f"packed {B} x {T}, row_lengths {row_lengths}"
            scope = packed_scope(row_lengths, follows, kv_cache, cache_rows, input_ids.device)
        elif kv_cache is not None:
            assert T == 1, f"{T} tokens of each row: it is one, unless they are packed"
            scope = cached_scope(kv_cache, B)
        else:
            scope = Scope(torch.arange(T, device=input_ids.device).expand(B, T))
        x = self.model.embed_tokens(input_ids).to(self.compute_dtype)  # (B, T, D)
        cos, sin = self.rotary_tables(scope.positions)
        for layer in self.model.layers:
            if self.checkpoint_activations and torch.is_grad_enabled():
                x = checkpoint(layer, x, cos, sin, scope, use_reentrant=False)
            else:
                x = layer(x, cos, sin, scope)
        if kv_cache is not None:
            kv_cache.lengths[scope.filled] = scope.lengths
        return self.model.norm(x)

    def rotary_tables(self, positions):
        """cos and signed sin, (B, T, 1, E), in compute_dtype."""
        self.inverse_frequencies = self.inverse_frequencies.to(positions.device)
        angles = positions[..., None, None].float() * self.inverse_frequencies  # (B, T, 1, E/2)
        cos, sin = angles.cos() * self.rope_factor, angles.sin() * self.rope_factor
        tables = torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)
        return tuple(table.to(self.compute_dtype) for table in tables)


# --------------------------------------------------------------------------------------------------
# The same network, ready to sample with


class BlockedLinear(nn.Module):
    """A Linear on a CPU whose weight lies in oneDNN's blocks, as torch.compile would have it: a
    product of few rows takes 0.4 to 0.9 of Linear's time, so the copy pays after many products."""

    def __init__(self, weight, bias):
        super().__init__()
        self.blocks, self.bias = torch.ops.mkldnn._reorder_linear_weight(weight, None), bias

    def forward(self, x):
        return torch.ops.mkldnn._linear_pointwise(x, self.blocks, self.bias, "none", [], "")


@torch.no_grad()
def sampling_copy(model):
    """A network of the same outputs, its weights whole, in compute_dtype, in blocks on a CPU.

    Casting and layout are paid once here and not at each token. The copy is for sampling alone: it
    may or may not see later changes of the model's weights. The processes of a sharded model call
    this together, as each gathers what the others hold.
    """
    with torch.device("meta"):
        copy = CausalLM(model.config)
        if hasattr(model, "adapt"):  # plumbing/lora.py
            model.adapt(copy)
    copy.requires_grad_(False)
    copy.compute_dtype = dtype = model.compute_dtype
    weights = {name: whole(weight.detach().to(dtype)) for name, weight in model.named_parameters()}
    if model.config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    copy.load_state_dict(weights, assign=True)
    for name, layer in list(copy.named_modules()):
        large = isinstance(layer, Linear) and layer.weight.numel() >= BLOCKED_WEIGHTS
        if large and layer.weight.is_cpu and torch.backends.mkldnn.is_available():
            copy.set_submodule(name, BlockedLinear(layer.merged(), layer.bias))
    return copy


def whole(tensor):
    """A tensor put together from its parts: all processes call it. Any other is whole already."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


# --------------------------------------------------------------------------------------------------
# Attention and its cache


class KVCache:
    """Keys and values of every row, preallocated. Row r holds `lengths[r]` live tokens.

    keys, values  (layers, rows, K, capacity, E); what lies past a row's length has no weight
    lengths       (rows,) int64
    bound         int, at least every one of `lengths`; the host knows it without asking the device,
                  and attention reads no further
    """

    def __init__(self, config, rows, capacity, dtype=torch.float32, device="cpu"):
        layers, heads = config.num_hidden_layers, config.num_key_value_heads
        shape = (2, layers, rows, heads, capacity, head_dim(config))
        both = torch.zeros(shape, dtype=dtype, device=device)
        if both.device.type != "cpu":  # Flash attention wants a row's tokens in one piece.
            both = both.view(2, layers, rows, capacity, heads, -1).transpose(3, 4)
        self.keys, self.values = both
        self.lengths = torch.zeros(rows, dtype=torch.int64, device=device)
        self.bound = capacity

    @staticmethod
    def bytes_per_token(config, dtype=torch.float32):
        heads = config.num_hidden_layers * config.num_key_value_heads
        return 2 * heads * head_dim(config) * dtype.itemsize

    def write(self, layer, rows, positions, keys, values):
        """Store token i of (N, K, E) keys and values at [rows[i], positions[i]]."""
        self.keys[layer][rows, :, positions] = keys
        self.values[layer][rows, :, positions] = values

    def copy_rows(self, sources, targets, length):
        """Rows `targets` become copies of `sources` (as many, or one for all) up to `length`."""
        self.keys[:, targets, :, :length] = self.keys[:, sources, :, :length]
        self.values[:, targets, :, :length] = self.values[:, sources, :, :length]
        self.lengths[targets] = self.lengths[sources]


@dataclass
class Scope:
    """What the queries of one forward pass may see, the same in every layer."""

    positions: torch.Tensor  # (B, T) int64, of each token in its row
    rows: list | None = None  # packed: of each row (its tokens in the stream, those that it sees)
    ends: torch.Tensor | None = None  # (rows + 1,) int32: 0, and where the queries of each row end
    seen_ends: torch.Tensor | None = None  # (rows + 1,) int32: as `ends`, of the tokens seen
    cache: KVCache | None = None
    filled: torch.Tensor | None = None  # (rows,) int64, the cache rows that take these tokens in
    lengths: torch.Tensor | None = None  # (rows,) int64, how many tokens they then hold
    seen: torch.Tensor | None = None  # (M,) int64, packed: what each row sees, where some follow
    cache_rows: torch.Tensor | None = None  # (B*T,) int64, of each token
    used: torch.Tensor | None = None  # (B,) int32, the lengths again, where flash attention decodes
    bias: torch.Tensor | None = None  # (B, 1, 1, bound), elsewhere: 0, and -inf behind the lengths


def packed_scope(row_lengths, follows, kv_cache, filled, device):
    """Each token sees its own row up to itself, and before it all of the row that its row follows;
    with a cache, its key and value are stored too. Rows of 2, 3 and 2 tokens, of which the last two
    follow the first, see places 0 1, 0 1 2 3 4 and 0 1 5 6 of the stream: positions 0 1 2 3 4 2 3,
    ends 0 2 5 7, seen_ends 0 2 7 11."""
    own = torch.arange(sum(row_lengths)).split(row_lengths)  # (length,) each, places in the stream
    pairs = zip(own, follows or [None] * len(own), strict=True)
    seen = [row if first is None else torch.cat([own[first], row]) for row, first in pairs]
    rows = [(len(row), len(places)) for row, places in zip(own, seen, strict=True)]
    lengths, seen_lengths = torch.tensor(rows, device=device).unbind(1)  # (rows,)
    ends, seen_ends = (F.pad(each.cumsum(0), (1, 0)) for each in (lengths, seen_lengths))
    starts = (ends[1:] - seen_lengths).repeat_interleave(lengths)  # (N,): where position 0 would be
    positions = (torch.arange(len(starts), device=device) - starts)[None]  # (1, N)
    scope = Scope(positions, rows, ends.int(), seen_ends.int(), kv_cache, filled, lengths)
    scope.seen = None if follows is None else torch.cat(seen).to(device)
    if kv_cache is not None:
        scope.cache_rows = filled.repeat_interleave(lengths)  # (N,)
    return scope


def cached_scope(kv_cache, B):
    """The one new token of each row sees its cache row, itself included."""
    rows = torch.arange(B + 1, device=kv_cache.lengths.device)
    lengths = kv_cache.lengths[:B] + 1  # (B,)
    scope = Scope(lengths[:, None] - 1, ends=rows.int(), cache=kv_cache, lengths=lengths)
    scope.filled = scope.cache_rows = rows[:B]
    if reads_live_part(kv_cache.keys):
        scope.used = lengths.int()
    else:
        behind = torch.arange(kv_cache.bound, device=lengths.device) >= lengths[:, None]
        bias = torch.zeros(behind.shape, dtype=kv_cache.keys.dtype, device=lengths.device)
        scope.bias = bias.masked_fill_(behind, float("-inf"))[:, None, None]
    return scope


def attend(q, k, v, layer, scope):
    """The mean of the values that each query may see, weighted by the softmax of q k / sqrt(E).

    q (B, T, H, E);  k, v (B, T, K, E);  layer  int, whose part of the cache it is
    Returns (B, T, H, E); a key/value head serves H/K neighbouring query heads
    """
    if scope.cache is not None:
        rows, positions = scope.cache_rows, scope.positions.flatten()  # (B*T,)
        scope.cache.write(layer, rows, positions, k.flatten(0, 1), v.flatten(0, 1))
    if scope.rows is not None:
        return attend_packed(q, k, v, scope)
    if scope.cache is not None:
        return attend_cached(q, layer, scope)
    return attend_plain(q, k, v)


def attend_plain(q, k, v):
    """Rows of one length: each token sees its row up to itself, and the keys before the row."""
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))  # (B, heads, T, E)
    (T, seen), dtype, mask = (q.shape[2], k.shape[2]), q.dtype, None
    if seen > T:
        mask = torch.ones(T, seen, dtype=torch.bool, device=q.device).tril(seen - T)
    if q.is_cpu:  # The backward pass of a CPU takes five times as long in bf16.
        q, k, v = q.float(), k.float(), v.float()
    out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=True)
    return out.transpose(1, 2).to(dtype)


def attend_packed(q, k, v, scope):
    """Rows end to end in one stream, B = 1: each token sees what `packed_scope` says."""
    if scope.seen is not None:
        k, v = (tensor.index_select(1, scope.seen) for tensor in (k, v))  # (1, M, K, E)
    if runs_flash(q):  # One kernel takes all rows, however long each is.
        groups, longest = q.shape[2] // k.shape[2], map(max, zip(*scope.rows, strict=True))
        k, v = k[0].repeat_interleave(groups, 1), v[0].repeat_interleave(groups, 1)  # (M, H, E)
        ends, causal = (scope.ends, scope.seen_ends), (-1, 0)  # all before a query, nothing after
        return flash_attention()(q[0], k, v, *ends, *longest, window_size=causal)[None]
    # Neighbours of the same lengths are a batch without padding: one call instead of one for each.
    runs = [(*lengths, len(list(rows))) for lengths, rows in groupby(scope.rows)]
    queries = q[0].split([length * rows for length, _, rows in runs])  # (n, H, E) each
    keys, values = (x[0].split([seen * rows for _, seen, rows in runs]) for x in (k, v))
    batches = [
        attend_plain(*(part.unflatten(0, (rows, -1)) for part in parts)).flatten(0, 1)
        for (_, _, rows), *parts in zip(runs, queries, keys, values, strict=True)
    ]
    return torch.cat(batches)[None]


def attend_cached(q, layer, scope):
    """One new token of each row, T = 1, against its cache row."""
    B, _, H, E = q.shape
    keys, values = scope.cache.keys[layer, :B], scope.cache.values[layer, :B]  # (B, K, capacity, E)
    K, capacity, bound = keys.shape[1], keys.shape[2], scope.cache.bound
    if scope.used is not None:  # Flash attention reads the live part of each row, nothing else.
        keys, values = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (keys, values))
        # It shares out its work by max_k: the bound, not the capacity.
        return flash_attention()(
            q[:, 0], keys, values, cu_seq_q=scope.ends, cu_seq_k=scope.ends * capacity, max_q=1,
            max_k=bound, seqused_k=scope.used, enable_gqa=True,
        )[:, None]  # fmt: skip
    # The H/K heads that share keys become queries of one head, which reads the keys once.
    queries = q.view(B, K, H // K, E)
    keys, values = keys[:, :, :bound], values[:, :, :bound]
    out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=scope.bias)
    return out.view(B, 1, H, E)


def flash_attention():
    """torch's attention over ragged rows; imported late, as that takes 2 s."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


def runs_flash(tensor):
    """Whether flash attention takes it: half precision, heads of 8 to 256, GPU from Ampere on."""
    fits = tensor.is_cuda and tensor.dtype != torch.float32 and tensor.shape[-1] in range(8, 257, 8)
    return fits and torch.cuda.get_device_capability(tensor.device) >= (8, 0)


def reads_live_part(keys):
    """Whether flash attention can be told how long each row is, which torch 2.12 began with."""
    return runs_flash(keys) and "seqused_k" in inspect.signature(flash_attention()).parameters


# --------------------------------------------------------------------------------------------------
# Demo


def demo():
    """Each fast path of this file against its slow one, on a tiny random model."""
    from transformers import Qwen3Config

    torch.manual_seed(0)
    sizes = dict(vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    config = Qwen3Config(**sizes, head_dim=8, num_attention_heads=4, num_key_value_heads=2)
    model, lengths, cache = CausalLM(config), [5, 9, 2], KVCache(config, rows=1, capacity=9)
    rows = [torch.randint(97, (length,)) for length in lengths]
    nine, follows = rows[1][None], [None, None, 1]
    with torch.no_grad():
        alone = [model(row[None])[0] for row in (*rows[:2], torch.cat(rows[1:]))]  # (T, D) each
        packed = model(torch.cat(rows)[None], row_lengths=lengths, follows=follows)[0]  # (N, D)
        steps = [model(nine[:, t : t + 1], kv_cache=cache)[0] for t in range(9)]
    gap = (packed - torch.cat([*alone[:2], alone[2][9:]])).abs().max()
    assert gap < 1e-5, gap
    print(f"three rows packed, the last of which follows the second, equal rows alone: {gap:.1e}")
    gap = (torch.cat(steps) - alone[1]).abs().max()
    assert gap < 1e-5, gap
    print(f"nine tokens one by one with the cache equal nine at once: {gap:.1e}")


if __name__ == "__main__":
    demo()
