"""The decoder language model: load, run, score tokens, save. Qwen2 to 3, Llama, SmolLM2, Mistral.

    h_0 = embed(ids);  h += attention(norm(h));  h += mlp(norm(h));  logits = lm_head(norm(h_last))
    log P(y_t | ...) = logits[y_t] - logsumexp(logits)                          # `token_logprobs`

What a reader may expect and will not find here:
1. No padding. A training batch is *packed*: rows lie end to end in one (1, N) stream, `row_lengths`
   says how long each is, positions restart in each, attention never crosses a border.
2. No (N, V) tensor of logits for a whole batch. The last layer works on chunks of tokens, and
   `backward_logprobs` makes the gradient in the same pass: the policy gradient knows each token's
   coefficient by then, so logits are neither kept nor computed twice (6 N D V FLOPs instead of 8).
3. No hidden state. The KV cache is an object that the caller makes, passes in and drops; only the
   copy of the weights for sampling hangs on the modules, as long as `sampling_weights` is open.
4. Parameter names are those of the checkpoint, so loading is strict and needs no mapping table.

Shapes: B rows, T tokens of a row, N tokens of a packed batch (n of a chunk), V vocabulary, D width,
H query heads, K key/value heads, E head size.

    python model.py        # plain, packed and cached agree; the fused gradient equals the plain one
"""

import copy
import inspect
import json
from contextlib import contextmanager
from functools import cache, partial
from itertools import groupby
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.utils.checkpoint import checkpoint

# Short names people type: owner on the hub, name up to the size, sizes, what may follow the size
_NAMES = (
    ("Qwen", "Qwen2-", "0.5B 1.5B 7B 72B", ("", "-Instruct")),
    ("Qwen", "Qwen2.5-", "0.5B 1.5B 3B 7B 14B 32B 72B", ("", "-Instruct")),
    ("Qwen", "Qwen2.5-Math-", "1.5B 7B 72B", ("", "-Instruct")),
    ("Qwen", "Qwen2.5-Coder-", "0.5B 1.5B 3B 7B 14B 32B", ("", "-Instruct")),
    ("Qwen", "Qwen3-", "0.6B 1.7B 4B 8B 14B", ("", "-Base")),
    ("Qwen", "Qwen3-", "32B", ("",)),
    ("meta-llama", "Llama-2-", "7b 13b 70b", ("-hf", "-chat-hf")),
    ("meta-llama", "Meta-Llama-3-", "8B 70B", ("", "-Instruct")),
    ("meta-llama", "Llama-3.1-", "8B 70B", ("", "-Instruct")),
    ("meta-llama", "Llama-3.2-", "1B 3B", ("", "-Instruct")),
    ("meta-llama", "Llama-3.3-", "70B", ("-Instruct",)),
    ("HuggingFaceTB", "SmolLM2-", "135M 360M 1.7B", ("", "-Instruct")),
    ("TinyLlama", "TinyLlama-", "1.1B", ("-Chat-v1.0",)),
    ("mistralai", "Mistral-", "7B", ("-v0.3", "-Instruct-v0.3")),
)
MODELS = {
    f"{stem}{size}{suffix}": f"{owner}/{stem}{size}{suffix}"
    for owner, stem, sizes, suffixes in _NAMES
    for suffix in suffixes
    for size in sizes.split()
}
# config.model_type and its name in transformers; all are the one class below with other switches
FAMILIES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # frequencies that no input changes
HUB_FILES = ("*.json", "model*.safetensors", "*.txt", "*.jinja", "tokenizer.model")
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
# Logits of one chunk of tokens. CUDA: 1.1 GB in bf16, 3,533 tokens of Qwen's V = 151,936; fewer
# would rewrite the (V, D) gradient of the head too often. CPU: 128 MB in fp32.
LOGITS_PER_CHUNK = {"cuda": 2**29, "cpu": 2**25}
LOGITS_IN_CACHE = 2**18  # CPU: 1 MB in fp32; read several times while cached, about 4 times as fast
BLOCKED_WEIGHTS = 2**16  # CPU: matrices of fewer elements gain nothing from oneDNN's blocks


# --------------------------------------------------------------------------------------------------
# The network


class Linear(nn.Linear):
    """nn.Linear that casts its fp32 master weight to the dtype of the activations as it is used."""

    prepared = None  # x -> product, as long as `sampling_weights` holds

    def forward(self, x):
        return product(x, self)


def product(x, *layers):
    """Several projections of one input as one matrix product: (..., D) -> (..., sum of widths)."""
    if layers[0].prepared is not None:
        return layers[0].prepared(x)
    return F.linear(x, *joined(layers, x.dtype))


def joined(layers, dtype):
    """Their weights end to end, (sum of widths, D), and their biases, or None, cast to dtype."""

    def join(tensors):
        return (tensors[0] if len(tensors) == 1 else torch.cat(tensors)).to(dtype)

    biases = None if layers[0].bias is None else join([layer.bias for layer in layers])
    return join([layer.weight for layer in layers]), biases


@contextmanager
def sampling_weights(model):
    """While it holds, layers take a copy of the weights, made for sampling once, not per token.

    The copy is joined and cast to compute_dtype; on a CPU it lies in oneDNN's blocks, with which a
    product of few rows takes 0.4 to 0.9 of the time. Weights changed meanwhile may not be seen.
    """
    groups = [(model.lm_head,)]
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        groups += [(attention.q_proj, attention.k_proj, attention.v_proj), (attention.o_proj,)]
        groups += [(mlp.gate_proj, mlp.up_proj), (mlp.down_proj,)]
    norms = [module for module in model.modules() if isinstance(module, RMSNorm)]
    try:
        for layers in groups:
            layers[0].prepared = prepare(*joined(layers, model.compute_dtype))
        for norm in norms:
            norm.prepared = norm.weight.detach().to(model.compute_dtype)
        yield
    finally:
        for module in (*norms, *(layers[0] for layers in groups)):
            module.prepared = None


def prepare(weight, bias):
    """x -> x weight^T + bias, as fast as it can be had when the weight is used many times."""
    large = weight.numel() >= BLOCKED_WEIGHTS
    if weight.is_cpu and large and torch.backends.mkldnn.is_available():
        onednn = torch.ops.mkldnn  # what torch.compile uses
        blocked = onednn._reorder_linear_weight(weight.detach(), None)
        return lambda x: onednn._linear_pointwise(x, blocked, bias, "none", [], "")
    return partial(F.linear, weight=weight, bias=bias)


class RMSNorm(nn.Module):
    prepared = None  # the weight in compute_dtype, as long as `sampling_weights` holds

    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        weight = self.weight.to(x.dtype) if self.prepared is None else self.prepared
        return F.rms_norm(x, weight.shape, weight, self.eps)


def head_dim(config):
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def max_positions(config):
    """Tokens a row may have. Qwen's files with yarn go on stating the length without it."""
    rope, stated = config.rope_parameters, config.max_position_embeddings
    if rope["rope_type"] != "yarn":
        return stated
    return max(stated, int(rope["factor"] * rope["original_max_position_embeddings"]))


def rope_frequencies(config):
    """(E/2,) inverse frequencies and the factor on cos and sin, by `config.rope_parameters`."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # linear, llama3, yarn

    kind, cpu = config.rope_parameters["rope_type"], torch.device("cpu")
    with cpu:  # also where the model is made on "meta", as `load_model` does
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
    def __init__(self, config):
        super().__init__()
        width, self.E = config.hidden_size, head_dim(config)
        self.H, self.K = config.num_attention_heads, config.num_key_value_heads
        bias = config.model_type == "qwen2" or getattr(config, "attention_bias", False)
        self.q_proj = Linear(width, self.H * self.E, bias=bias)
        self.k_proj = Linear(width, self.K * self.E, bias=bias)
        self.v_proj = Linear(width, self.K * self.E, bias=bias)
        self.o_proj = Linear(self.H * self.E, width, bias=getattr(config, "attention_bias", False))
        if config.model_type == "qwen3":
            self.q_norm = RMSNorm(self.E, config.rms_norm_eps)
            self.k_norm = RMSNorm(self.E, config.rms_norm_eps)

    def forward(self, x, cos, sin, attend):
        B, T, _ = x.shape
        qkv = product(x, self.q_proj, self.k_proj, self.v_proj)
        qkv = qkv.view(B, T, self.H + 2 * self.K, self.E)
        if hasattr(self, "q_norm"):
            q, k, v = qkv.split([self.H, self.K, self.K], dim=2)
            q, k = rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin)
        else:
            qk, v = qkv.split([self.H + self.K, self.K], dim=2)
            q, k = rotate(qk, cos, sin).split([self.H, self.K], dim=2)
        out = attend(q, k, v)  # (B, T, H, E)
        return self.o_proj(out.reshape(B, T, self.H * self.E))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        bias = getattr(config, "mlp_bias", False)
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=bias)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=bias)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=bias)

    def forward(self, x):
        gate, up = product(x, self.gate_proj, self.up_proj).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x, cos, sin, attend):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, attend)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
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
        self.max_positions = max_positions(config)
        self.eos_ids = ()  # set by load_model
        self.inverse_frequencies, self.rope_factor = rope_frequencies(config)

    def forward(self, input_ids, positions=None, kv_cache=None, row_lengths=None, cache_rows=None):
        """Hidden states after the last norm, (B, T, D); `lm_head` makes logits of them.

        input_ids   (B, T) int64
        positions   (B, T) int64    default: from 0 in each row, or from the cached length on
        kv_cache    KVCache | None  row b of the batch continues row b of the cache by T tokens
        row_lengths list[int]       packed input: B = 1, T = sum(row_lengths), rows end to end
        cache_rows  (rows,) int64   packed input with a cache: row i fills cache row cache_rows[i]
        """
        B, T = input_ids.shape
        device = input_ids.device
        if row_lengths is not None:
            assert (B, T) == (1, sum(row_lengths)), f"packed {B} x {T}, row_lengths {row_lengths}"
            lengths = torch.tensor(row_lengths, device=device)
            starts = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
            if positions is None:
                positions = (torch.arange(T, device=device) - starts)[None]  # (1, N)
        elif positions is None:
            positions = torch.arange(T, device=device).expand(B, T)
            if kv_cache is not None:
                positions = positions + kv_cache.lengths[:B, None]
        x = self.model.embed_tokens(input_ids).to(self.compute_dtype)  # (B, T, D)
        cos, sin = self.rotary_tables(positions)
        groups = self.config.num_attention_heads // self.config.num_key_value_heads
        attention = attention_over(positions, groups, kv_cache, row_lengths, cache_rows)
        for index, layer in enumerate(self.model.layers):
            attend = partial(attention, index)
            if self.checkpoint_activations and torch.is_grad_enabled():
                x = checkpoint(layer, x, cos, sin, attend, use_reentrant=False)
            else:
                x = layer(x, cos, sin, attend)
        if kv_cache is not None and row_lengths is None:
            kv_cache.lengths[:B] += T
        elif kv_cache is not None:
            kv_cache.lengths[cache_rows] = lengths
        return self.model.norm(x)

    def rotary_tables(self, positions):
        """cos and signed sin, (B, T, 1, E), in compute_dtype."""
        self.inverse_frequencies = self.inverse_frequencies.to(positions.device)
        angles = positions[..., None, None].float() * self.inverse_frequencies  # (B, T, 1, E/2)
        cos, sin = angles.cos() * self.rope_factor, angles.sin() * self.rope_factor
        tables = torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)
        return tuple(table.to(self.compute_dtype) for table in tables)


# --------------------------------------------------------------------------------------------------
# Attention and its cache


class KVCache:
    """Keys and values of every row, preallocated. Row r holds `lengths[r]` live tokens.

    keys, values  (layers, rows, K, capacity, E); what lies past a row's length has no weight
    lengths       (rows,) int64
    limit         int, a bound on `lengths` that the host knows without asking the device:
                  attention reads no further
    """

    def __init__(self, config, rows, capacity, dtype=torch.float32, device="cpu"):
        layers, heads = config.num_hidden_layers, config.num_key_value_heads
        shape = (layers, rows, heads, capacity, head_dim(config))
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        if self.keys.device.type != "cpu":  # flash attention wants a row's tokens side by side
            self.keys = self.keys.view(layers, rows, capacity, heads, -1).transpose(2, 3)
            self.values = self.values.view(layers, rows, capacity, heads, -1).transpose(2, 3)
        self.lengths = torch.zeros(rows, dtype=torch.int64, device=device)
        self.limit = capacity

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


def attention_over(positions, groups, kv_cache, row_lengths, cache_rows):
    """What queries may see: a function of layer, q (B,T,H,E), k, v (B,T,K,E) -> (B,T,H,E)."""
    if row_lengths is None and kv_cache is None:
        return lambda layer, q, k, v: causal_attention(q, k, v)
    if row_lengths is None:
        B, T = positions.shape
        rows = torch.arange(B, device=positions.device).repeat_interleave(T)  # (B*T,)
        ragged = T == 1 and reads_live_part(kv_cache.keys)
        if ragged:
            starts = torch.arange(B + 1, dtype=torch.int32, device=positions.device)
            used = (kv_cache.lengths[:B] + 1).int()  # with the token that is about to be written
        else:
            bias = visibility_bias(positions, groups, kv_cache)

        def attend(layer, q, k, v):
            kv_cache.write(layer, rows, positions.reshape(-1), k.flatten(0, 1), v.flatten(0, 1))
            keys, values = kv_cache.keys[layer, :B], kv_cache.values[layer, :B]
            if ragged:
                return live_attention(q, keys, values, starts, used, kv_cache.limit)
            return cached_attention(q, bias, keys, values)

    else:
        ends = torch.tensor([0, *row_lengths], device=positions.device)
        ends = ends.cumsum(0, dtype=torch.int32)
        if kv_cache is not None:
            rows = cache_rows.repeat_interleave(ends.diff())  # (N,)

        def attend(layer, q, k, v):
            if kv_cache is not None:
                kv_cache.write(layer, rows, positions[0], k[0], v[0])
            return packed_attention(q, k, v, row_lengths, ends)

    return attend


def flash_attention():
    """torch's attention over ragged rows; imported late, as that takes 2 s."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


def runs_flash(tensor):
    """Whether flash attention takes it: half precision, on a GPU from Ampere (2020) on."""
    fits = tensor.is_cuda and tensor.dtype != torch.float32
    return fits and torch.cuda.get_device_capability(tensor.device) >= (8, 0)


def causal_attention(q, k, v):
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))  # (B, heads, T, E)
    dtype = q.dtype
    if q.is_cpu:  # whose bf16 backward pass takes five times as long
        q, k, v = q.float(), k.float(), v.float()
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return out.transpose(1, 2).to(dtype)


def packed_attention(q, k, v, row_lengths, ends):
    """Causal attention inside each of the rows that lie end to end in one stream, B = 1.

    ends  (rows + 1,) int32: 0, and where each row ends
    """
    if runs_flash(q):  # one kernel over ragged rows
        groups, longest = q.shape[2] // k.shape[2], max(row_lengths)
        k, v = k[0].repeat_interleave(groups, 1), v[0].repeat_interleave(groups, 1)  # (N, H, E)
        causal = (-1, 0)  # a window: all that is before a query, nothing after it
        out = flash_attention()(q[0], k, v, ends, ends, longest, longest, window_size=causal)
        return out[None]
    # neighbours of one length are a batch without padding: one call instead of one for each
    runs = [(length, len(list(rows))) for length, rows in groupby(row_lengths)]
    sizes = [length * rows for length, rows in runs]
    parts = zip(*(tensor[0].split(sizes) for tensor in (q, k, v)), strict=True)  # (n, heads, E)
    batches = [
        causal_attention(*(tensor.unflatten(0, (rows, length)) for tensor in part)).flatten(0, 1)
        for (length, rows), part in zip(runs, parts, strict=True)
    ]
    return torch.cat(batches)[None]


def visibility_bias(positions, groups, kv_cache):
    """(B, 1, T*H/K, limit): -inf at the future and at what is no more or not yet alive, else 0."""
    hidden = torch.arange(kv_cache.limit, device=positions.device) > positions[:, :, None]
    bias = torch.zeros(hidden.shape, dtype=kv_cache.keys.dtype, device=positions.device)
    return bias.masked_fill_(hidden, float("-inf")).repeat_interleave(groups, dim=1)[:, None]


def cached_attention(q, bias, keys, values):
    """T new tokens of each row against its cache row; a group's heads read the keys once.

    q (B, T, H, E);  bias as `visibility_bias` makes it;  keys, values (B, K, capacity, E)
    """
    B, T, H, E = q.shape
    K, limit = keys.shape[1], bias.shape[-1]
    # the H/K heads that share keys become more queries: (B, K, T*H/K, E)
    queries = q.view(B, T, K, H // K, E).transpose(1, 2).reshape(B, K, T * (H // K), E)
    keys, values = keys[:, :, :limit], values[:, :, :limit]
    out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
    return out.view(B, K, T, H // K, E).transpose(1, 2).reshape(B, T, H, E)


def reads_live_part(keys):
    """Whether flash attention can be told how long each row is, which torch 2.12 began with."""
    return runs_flash(keys) and "seqused_k" in inspect.signature(flash_attention()).parameters


def live_attention(q, keys, values, starts, used, limit):
    """One new token of each row against the live part of its cache row: nothing else is read.

    q (B, 1, H, E);  keys, values (B, K, capacity, E), by token in memory
    starts (B + 1,) int32, 0 to B;  used (B,) int32, tokens of each row, at most `limit`
    """
    cache_starts = starts * keys.shape[2]
    keys, values = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (keys, values))
    # the kernel shares out its work by max_k: the bound, not the capacity
    places = dict(cu_seq_q=starts, cu_seq_k=cache_starts, max_q=1, max_k=limit, seqused_k=used)
    return flash_attention()(q[:, 0], keys, values, **places, enable_gqa=True)[:, None]


# --------------------------------------------------------------------------------------------------
# The last layer: log-probabilities of tokens, without a tensor of all logits


def token_logprobs_reference(hidden, weight, targets, temperature=1.0):
    """The definition of `token_logprobs`, for tests and readers: holds (N, V) several times."""
    logits = hidden.double() @ weight.double().T / temperature  # (N, V)
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0].float()


@cache
def triton_kernels():
    """The two kernels, compiled on first use: `score` (online log-softmax) and `gradient`.

    The textbook walks a row of V logits z three times: for the maximum m, without which exp
    overflows; for s = sum e^(z-m); for log p = z - m - log s, of which it writes all V. Memory is
    what a GPU waits for here, not arithmetic. So `score` reads each logit once, in blocks, keeping
    m, s and, for the entropy, w = sum (z-m) e^(z-m) of the blocks so far. When a block moves the
    maximum from m to m', the sums are corrected as if m' had been subtracted from the start:

        s' = s e^(m-m') + sum over the block of e^(z-m')
        w' = (w + (m-m') s) e^(m-m') + sum over the block of (z-m') e^(z-m')

    In the end log P(target) = z_target - m - log s, logsumexp = m + log s, and, as p = e^(z-m) / s,
    the entropy -sum p log p = log s - w / s: three numbers are written for a row, not V.
    `gradient` uses d log P(target) / d z = onehot - p, with p = e^(z - logsumexp), and writes it
    over the logits, which nothing needs any more.

    One program works on one row, and programs share nothing. Matrix products stay with cuBLAS. No
    tl.dot, atomics or autotuning: Triton's interpreter, the tests' stand-in for a GPU, runs it all.
    """
    global triton, tl  # late, as only CUDA needs them; global, as Triton looks names up there
    import triton
    import triton.language as tl

    @triton.jit
    def score(logits, stride, targets, logprobs, logsumexps, entropies,
              V: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
        row = tl.program_id(0).to(tl.int64)  # as offset: n V passes 2^31 at 14,135 Qwen tokens
        logits += row * stride
        largest, total, weighted = float("-inf"), 0.0, 0.0  # m, s and w of the blocks so far
        for start in range(0, V, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            # past the end of the row: -inf, which adds e^-inf = 0. Arithmetic is fp32 throughout
            z = tl.load(logits + columns, mask=columns < V, other=float("-inf")).to(tl.float32)
            grown = tl.maximum(largest, tl.max(z, 0))  # m'
            shift = tl.where(grown == float("-inf"), 0.0, grown)  # -inf - -inf would be NaN
            rescale, e = tl.exp(largest - shift), tl.exp(z - shift)
            # 0 at the first block, where largest - shift is -inf and -inf * 0 would be NaN
            moved = tl.where(rescale > 0, (weighted + (largest - shift) * total) * rescale, 0.0)
            # p log p is 0 at p = 0
            weighted = moved + tl.sum(tl.where(e > 0, (z - shift) * e, 0.0), 0)
            total = total * rescale + tl.sum(e, 0)
            largest = grown
        target = tl.load(logits + tl.load(targets + row)).to(tl.float32)
        # target - m first: at logits of 1e4 the logsumexp itself is only good to 5e-4
        logprob = (target - largest) - tl.log(total)
        tl.store(logprobs + row, tl.where(total == 0, float("-inf"), logprob))
        tl.store(logsumexps + row, tl.where(total == 0, float("-inf"), largest + tl.log(total)))
        tl.store(entropies + row, tl.where(total == 0, 0.0, tl.log(total) - weighted / total))

    @triton.jit
    def gradient(logits, stride, targets, logsumexps, coefficients,
                 V: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
        row = tl.program_id(0).to(tl.int64)
        logits += row * stride
        target, logsumexp = tl.load(targets + row), tl.load(logsumexps + row)
        dead = logsumexp == float("-inf")  # a row of -inf: gradient 0, not NaN
        coefficient = tl.where(dead, 0.0, tl.load(coefficients + row))
        logsumexp = tl.where(dead, 0.0, logsumexp)
        for start in range(0, V, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            z = tl.load(logits + columns, mask=columns < V, other=float("-inf")).to(tl.float32)
            onehot = tl.where(columns == target, 1.0, 0.0)
            d_logits = coefficient * (onehot - tl.exp(z - logsumexp))
            tl.store(logits + columns, d_logits, mask=columns < V)

    return score, gradient


def launch(kernel, logits, *tensors):
    assert logits.stride(1) == 1, f"a row must lie in one piece, strides are {logits.stride()}"
    # The kernels read the others as they lie, and autograd's expanded gradients do not lie so.
    tensors = [tensor.contiguous() for tensor in tensors]
    n, V = logits.shape
    block = min(4096, triton.next_power_of_2(V))
    kernel[(n,)](logits, logits.stride(0), *tensors, V, BLOCK=block, num_warps=8)


def runs_triton(logits):
    return logits.is_cuda


def rows_in_cache(logits, *columns):
    """CPU: the same tensors in blocks of rows that stay in the cache while they are worked on."""
    rows = max(1, LOGITS_IN_CACHE // logits.shape[1])
    return zip(*(tensor.split(rows) for tensor in (logits, *columns)), strict=True)


def score_logits(logits, targets):
    """(n, V) logits -> log P(target), logsumexp and entropy, each (n,) float32, nats.

    A row of -inf gives -inf, -inf, 0; a row with NaN or +inf gives NaN, for the trainer to see.
    """
    if runs_triton(logits):
        scores = torch.empty(3, len(logits), device=logits.device).unbind()
        launch(triton_kernels()[0], logits, targets, *scores)
        return scores
    scores = [score_rows(*block) for block in rows_in_cache(logits, targets)]
    return [torch.cat(parts) for parts in zip(*scores, strict=True)]


def score_rows(logits, targets):
    """The arithmetic of the kernel `score` in torch, for a few rows that fit the cache."""
    largest = logits.amax(-1).float()
    dead = largest == -torch.inf
    z = logits.float() - largest.masked_fill(dead, 0.0)[:, None]  # (rows, V), at most 0
    target = z.gather(1, targets[:, None])[:, 0]
    e = z.exp()
    total = e.sum(-1)
    weighted = e.mul_(z.clamp_(min=-200.0)).sum(-1)  # p log p is 0 at p = 0; e^-200 is 0 in fp32
    logprobs = (target - total.log()).masked_fill(dead, -torch.inf)
    return logprobs, largest + total.log(), (total.log() - weighted / total).masked_fill(dead, 0.0)


def logits_gradient_(logits, targets, logsumexp, coefficients):
    """In place: logits become the gradient of sum_n c_n log P(target_n), which is c (onehot - p).

    coefficients (n,) float32. A row of -inf has gradient 0.
    """
    if runs_triton(logits):
        launch(triton_kernels()[1], logits, targets, logsumexp, coefficients)
        return logits
    dead = logsumexp == -torch.inf
    columns = targets, logsumexp.masked_fill(dead, 0.0), coefficients.masked_fill(dead, 0.0)
    for z, target, lse, c in rows_in_cache(logits, *columns):
        gradient = (z.float() - lse[:, None]).exp_().mul_(-c[:, None])
        z.copy_(gradient.scatter_add_(1, target[:, None], c[:, None]))
    return logits


def score_tokens(hidden, weight, targets, temperature, coefficients_of=None, d_weight=None):
    """The loop over chunks of tokens: log-probs (N,), entropy (N,) and d hidden (N, D).

    coefficients_of  as in `backward_logprobs`; without it d hidden is None
    d_weight         (V, D), to which the gradient of the head is added
    """
    check_inputs(hidden, weight, targets, temperature)
    scaled, head = hidden.detach() / temperature, weight.detach().to(hidden.dtype)
    logprobs = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
    entropy = torch.empty_like(logprobs)
    d_hidden = torch.empty_like(scaled) if coefficients_of else None
    size = max(1, LOGITS_PER_CHUNK[hidden.device.type] // len(weight))
    one_chunk = scaled.new_empty(min(size, len(hidden)), len(weight))  # all logits there ever are
    for start in range(0, len(hidden), size):
        chunk = slice(start, start + size)
        logits = torch.mm(scaled[chunk], head.T, out=one_chunk[: len(hidden) - start])  # (n, V)
        logprobs[chunk], logsumexp, entropy[chunk] = score_logits(logits, targets[chunk])
        if coefficients_of:
            coefficients = coefficients_of(logprobs[chunk], chunk)
            d_logits = logits_gradient_(logits, targets[chunk], logsumexp, coefficients)
            d_hidden[chunk] = d_logits @ head / temperature
            accumulate_(d_weight, d_logits, scaled[chunk])
    return logprobs, entropy, d_hidden


class TokenLogprobs(torch.autograd.Function):
    """`token_logprobs` for autograd: backward, where c_n is known, makes the logits once more."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature):
        ctx.save_for_backward(hidden, weight, targets)
        ctx.temperature = temperature
        return score_tokens(hidden, weight, targets, temperature)[0]

    @staticmethod
    def backward(ctx, upstream):
        d_weight = torch.zeros_like(ctx.saved_tensors[1])
        options = ctx.temperature, lambda _, chunk: upstream[chunk], d_weight
        return score_tokens(*ctx.saved_tensors, *options)[2], d_weight, None, None


def token_logprobs(hidden, weight, targets, temperature=1.0):
    """log softmax(hidden W^T / temperature)[target] of each token; holds one chunk of logits.

    hidden   (N, D) float    weight (V, D) float, the head    targets (N,) int64 in [0, V)
    Returns  (N,) float32, nats; gradients flow to hidden and weight
    Raises   ValueError for a target out of range or a temperature that is not above 0
    """
    return TokenLogprobs.apply(hidden, weight, targets, temperature)


def backward_logprobs(hidden, weight, targets, coefficients_of, temperature=1.0):
    """Score tokens and back-propagate sum_n c_n log P(target_n), in one pass over the logits.

    coefficients_of  (logprobs (n,), slice) -> (n,): each token's c, known once its log-prob is
    Effects          adds to weight.grad; calls hidden.backward
    Returns          logprobs and entropy, (N,) float32, nats, without gradient
    """
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    options = temperature, coefficients_of, weight.grad
    logprobs, entropy, d_hidden = score_tokens(hidden, weight, targets, *options)
    hidden.backward(d_hidden)
    return logprobs, entropy


def accumulate_(d_weight, d_logits, hidden):
    """d_weight (V, D) += d_logits^T (V, n) hidden (n, D), in fp32 as bf16 sums would drift."""
    if d_weight.dtype == hidden.dtype:
        return d_weight.addmm_(d_logits.T, hidden)
    if hidden.is_cuda and d_weight.dtype == torch.float32:  # cuBLAS multiplies bf16, adds in fp32
        return torch.addmm(d_weight, d_logits.T, hidden, out_dtype=torch.float32, out=d_weight)
    return d_weight.add_(d_logits.T @ hidden)


def check_inputs(hidden, weight, targets, temperature):
    shapes = tuple(hidden.shape), tuple(weight.shape), tuple(targets.shape)
    assert shapes[0] == (len(targets), weight.shape[1]), f"hidden, weight, targets: {shapes}"
    if not temperature > 0:
        raise ValueError(f"temperature {temperature}: log-probs need one above 0")
    if targets.numel() and not 0 <= int(targets.min()) <= int(targets.max()) < len(weight):
        found = f"target ids run from {int(targets.min())} to {int(targets.max())}"
        remedy = "use the model's own tokenizer"
        raise ValueError(f"{found}, the head has {len(weight)} rows: {remedy}")


# --------------------------------------------------------------------------------------------------
# Checkpoints: Hugging Face folders, in and out


def best_device():
    """Keywords of `load_model`, to sample with: bf16 on CUDA, fp32 on the CPU."""
    if torch.cuda.is_available():
        return {"dtype": torch.bfloat16, "device": "cuda"}
    return {"dtype": torch.float32, "device": "cpu"}


def resolve_model(name):
    """A short name's hub id; a folder or hub id (owner/name) is itself; a tiny world is built once.

    Raises ValueError for anything else.
    """
    from tiny import NAMED_WORLDS, build  # a file that itself needs this one

    if name in NAMED_WORLDS:
        return build(world=NAMED_WORLDS[name])
    if Path(name).is_dir():
        return name
    if name in MODELS:
        return MODELS[name]
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ValueError(f"no folder {name!r}")
    if "/" in name:
        return name
    known = ", ".join([*NAMED_WORLDS, *MODELS])
    raise ValueError(f"unknown model {name!r}: give a folder, an owner/name, or one of {known}")


def fetch_folder(name, patterns=HUB_FILES):
    """The local folder of a model: as given, or downloaded once into the hub's cache."""
    name = resolve_model(name)
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ValueError(
            f"no folder {name} here, and could not fetch it from the hub ({type(error).__name__}): "
            "without a network, give --model a folder with config.json, *.safetensors and the "
            "tokenizer's files"
        ) from error


def read_json(file):
    """The object that a JSON file of a model folder holds."""
    if not file.is_file():
        raise ValueError(f"{file.parent} has no {file.name}: give a Hugging Face model folder")
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is damaged or cut short ({error}): fetch it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds no JSON object: fetch it again")
    return found


def load_config(folder):
    """config.json as a transformers config.

    Raises ValueError naming the first feature of the checkpoint that is not computed here.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    file = folder / "config.json"
    kind = read_json(file).get("model_type")
    if kind not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ValueError(f"this model is not supported: model_type {kind!r} (supported: {known})")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (KeyError, ValueError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())  # in one line
        raise ValueError(f"{file} cannot be used: {reason}") from error
    rope = config.rope_parameters["rope_type"]
    others = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if kind == "mistral" and (config.sliding_window or torch.inf) < config.max_position_embeddings:
        others.add("sliding_attention")
    unsupported = {
        "quantised weights": getattr(config, "quantization_config", None) is not None,
        f"layers with {', '.join(sorted(others))} (supported: full_attention)": others,
        f"activation {config.hidden_act!r} (supported: silu)": config.hidden_act != "silu",
        f"rope type {rope!r} (supported: {', '.join(ROPE_TYPES)})": rope not in ROPE_TYPES,
    }
    for feature, found in unsupported.items():
        if found:
            raise ValueError(f"this model is not supported: {feature}")
    return config


def load_model(name, dtype=torch.float32, device="cpu"):
    """(model, tokenizer) of a folder or hub id: config.json, *.safetensors, tokenizer files.

    Strict: a missing, extra or misshapen tensor is a ValueError, and so is a feature that is not
    computed here. Tensors are read one by one, so peak memory is one copy and the largest tensor.
    """
    folder = fetch_folder(name)
    config = load_config(folder)
    with torch.device("meta"):
        model = CausalLM(config).to(dtype)
    model.to_empty(device=device)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    fill_parameters(model, folder)
    model.compute_dtype = dtype
    tokenizer = load_tokenizer(folder)
    model.eos_ids = eos_ids_of(folder, config, tokenizer)
    return model, tokenizer


def load_tokenizer(folder):
    from transformers import AutoTokenizer

    # without files of a vocabulary transformers would make an empty tokenizer, and not say so
    if not any((folder / name).is_file() for name in VOCABULARIES):
        remedy = f"copy one of {', '.join(VOCABULARIES)} there, and its config"
        raise ValueError(f"{folder} has no tokenizer: {remedy}")
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())  # in one line
        raise ValueError(f"{folder} has no tokenizer that can be read: {reason}") from error


def weight_files(folder):
    """model.safetensors, else the shards that its index names."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if not index.is_file():
        raise ValueError(f"{folder} has no model.safetensors (other formats can carry code)")
    names = sorted(set(read_json(index).get("weight_map", {}).values()))
    for name in names:
        if not (folder / name).is_file():
            raise ValueError(f"{folder} lacks {name}, which {index.name} names: fetch it again")
    return [folder / name for name in names]


def fill_parameters(model, folder):
    """Copy every tensor of the folder's safetensors into the model's parameter of that name."""
    missing, second_head = dict(model.named_parameters()), None
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as shard:
                keys = list(shard.keys())
            for key in keys:
                if key == "lm_head.weight" and model.config.tie_word_embeddings:
                    second_head = file
                elif not key.endswith("rotary_emb.inv_freq"):  # a constant of old files
                    fill(missing.pop(key, None), key, read_tensor(file, key), file)
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged or cut short ({error}): fetch it again") from error
    if missing:
        raise ValueError(f"{folder} lacks {len(missing)} tensors, first {next(iter(missing))}")
    head = second_head and whole(model.lm_head.weight.data)
    if second_head and not torch.equal(read_tensor(second_head, "lm_head.weight").to(head), head):
        differs = "a head that is not the embedding, to which config.json ties it"
        raise ValueError(f"{second_head} has {differs}: set tie_word_embeddings to false there")


def read_tensor(file, key):
    """Opens the file anew for each, as what was read counts as memory until the file is closed."""
    with safe_open(file, framework="pt") as shard:
        return shard.get_tensor(key)


def fill(parameter, key, tensor, file):
    if parameter is None:
        raise ValueError(f"{file} has {key}, for which a model of this config.json has no place")
    if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"this model is not supported: {file} has {key} in {tensor.dtype}")
    if parameter.shape != tensor.shape:
        shapes = f"{tuple(tensor.shape)}, by config.json it is {tuple(parameter.shape)}"
        raise ValueError(f"{file}: {key} has shape {shapes}")
    parameter.data.copy_(part_of(tensor, parameter))


def part_of(tensor, like):
    """What this process holds of a tensor that is cut as the parameter `like`; on its device."""
    if tensor.ndim == 0 or not hasattr(like, "placements"):
        return tensor.to(like.device)
    from torch.distributed.tensor import distribute_tensor  # slow to import

    # no source of the data: every process has read it
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def whole(tensor):
    """A tensor put together from its parts: all processes call it. Any other is whole already."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def eos_ids_of(folder, config, tokenizer):
    """Ids that end a response: of generation_config.json, else config.json; and the tokenizer's."""
    stated = config.eos_token_id
    file = folder / "generation_config.json"
    if file.is_file():
        stated = read_json(file).get("eos_token_id", stated)
    stated = stated if isinstance(stated, list) else [stated]
    return tuple(sorted({*stated, tokenizer.eos_token_id} - {None}))


def save_model(model, tokenizer, path, weights=None):
    """Write a Hugging Face folder that transformers and vLLM load. Weights keep their dtype.

    weights  {name: tensor}, those of a model that is cut over processes
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    weights = weights or dict(model.named_parameters())
    tensors = {name: weight.detach().cpu() for name, weight in weights.items()}
    config = copy.deepcopy(model.config)
    config.dtype = next(iter(tensors.values())).dtype
    config.architectures = [f"{FAMILIES[config.model_type]}ForCausalLM"]
    config.save_pretrained(path)
    tokenizer.save_pretrained(path)
    generation = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": list(model.eos_ids) or None,
        "pad_token_id": tokenizer.pad_token_id,
    }
    (path / "generation_config.json").write_text(json.dumps(generation, indent=2))
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


# --------------------------------------------------------------------------------------------------
# Demo


def demo():
    """Each fast path of this file against its slow one, on a tiny random model."""
    from transformers import Qwen3Config

    torch.manual_seed(0)
    sizes = dict(vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    config = Qwen3Config(**sizes, head_dim=8, num_attention_heads=4, num_key_value_heads=2)
    model, lengths = CausalLM(config), [5, 9, 2]
    rows = [torch.randint(97, (length,)) for length in lengths]
    with torch.no_grad():
        plain = [model(row[None])[0] for row in rows]  # (T, D) each
        packed = model(torch.cat(rows)[None], row_lengths=lengths)[0]  # (N, D)
        cache = KVCache(config, rows=3, capacity=9)
        steps = [model(rows[1][None, t : t + 1], kv_cache=cache)[0] for t in range(lengths[1])]
    gap = (packed - torch.cat(plain)).abs().max()
    assert gap < 1e-5, gap
    print(f"three rows packed into one stream equal three rows alone: {gap:.1e}")
    gap = (torch.cat(steps) - plain[1]).abs().max()
    assert gap < 1e-5, gap
    print(f"nine tokens one by one with the cache equal nine at once: {gap:.1e}")

    hidden = packed.clone().requires_grad_()
    weight, targets, coefficients = model.lm_head.weight, torch.cat(rows), torch.randn(len(packed))
    expected = token_logprobs_reference(hidden, weight, targets)
    gradients = torch.autograd.grad((expected * coefficients).sum(), (hidden, weight))
    logprobs, _ = backward_logprobs(hidden, weight, targets, lambda _, chunk: coefficients[chunk])
    pairs = ((logprobs, expected), (hidden.grad, gradients[0]), (weight.grad, gradients[1]))
    gap = max((ours - theirs).abs().max() for ours, theirs in pairs)
    assert gap < 1e-4, gap
    print(f"log-probs and gradients of one fused pass equal autograd's in float64: {gap:.1e}")


if __name__ == "__main__":
    demo()
