"""The network and its cache against transformers.

    python -m pytest tests/test_model.py
"""

import os

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PreTrainedTokenizerFast
from transformers import Qwen2Config, Qwen3Config

import model as M
from plumbing.checkpoints import load_model

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
SIZES = dict(vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2)
SIZES |= dict(num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256)
SIZES |= dict(bos_token_id=0, eos_token_id=1, pad_token_id=None)
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0}
LLAMA3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 32}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 8.0}
YARN |= {"original_max_position_embeddings": 32}
TIED, UNTIED = dict(tie_word_embeddings=True), dict(tie_word_embeddings=False)
WINDOW_OFF = dict(use_sliding_window=False, sliding_window=8, max_window_layers=1)  # Qwen's files
NINE_HEADS = dict(hidden_size=36, num_attention_heads=9, num_key_value_heads=3)
FAMILIES = {
    "qwen2 tied": (Qwen2Config, TIED),
    "qwen2.5 untied": (Qwen2Config, UNTIED | WINDOW_OFF),
    "qwen2.5 yarn": (Qwen2Config, TIED | dict(rope_parameters=YARN)),
    "qwen2.5 yarn factor": (Qwen2Config, dict(rope_parameters=YARN | {"attention_factor": 1.7})),
    "qwen3 tied": (Qwen3Config, TIED | dict(head_dim=16)),
    "qwen3 yarn bias": (Qwen3Config, dict(head_dim=16, rope_parameters=YARN, attention_bias=True)),
    "llama2": (LlamaConfig, UNTIED | dict(num_key_value_heads=4)),
    "llama3": (LlamaConfig, TIED | dict(rope_parameters=LLAMA3)),
    "llama linear biases": (
        LlamaConfig,
        dict(rope_parameters=LINEAR, attention_bias=True, mlp_bias=True),
    ),
    "smollm2": (LlamaConfig, TIED | NINE_HEADS),
    "tinyllama": (LlamaConfig, UNTIED | dict(num_key_value_heads=1)),
    "mistral": (MistralConfig, dict(head_dim=16, sliding_window=None, rms_norm_eps=1e-5)),
}
CHAT = "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}"


def config_of(family):
    kind, overrides = FAMILIES[family]
    return kind(**{**SIZES, **overrides})


def oracle_of(config, seed=0):
    """transformers' model of random weights, so large that biases, norms and all heads matter."""
    torch.manual_seed(seed)
    oracle = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for name, parameter in oracle.named_parameters():
        parameter.data.normal_(mean=1.0 if "norm" in name else 0.0, std=0.3)
    return oracle.requires_grad_(False)


def tokenizer_of(eos="</s>"):
    """Byte-level BPE without merges, as Qwen and Llama 3 have it with many."""
    special = ["<s>", "</s>", "<unk>", "<end>"]
    letters = special + sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    names = dict(bos_token="<s>", eos_token=eos, unk_token="<unk>")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=CHAT, **names)


def write(oracle, folder, **options):
    oracle.save_pretrained(folder, **options)
    tokenizer_of().save_pretrained(folder)
    return folder


def both(family, tmp_path):
    oracle = oracle_of(config_of(family))
    model, _ = load_model(str(write(oracle, tmp_path / "checkpoint")))
    return oracle, model.requires_grad_(False)


def random_ids(*shape):
    return torch.randint(2, 61, shape, generator=torch.Generator().manual_seed(3))


def greedy(model, ids, count):
    """Continuation of ids (T,) by the cache: prompt packed into row 1 of two, then by tokens."""
    cache = M.KVCache(model.config, 2, len(ids) + count)
    rows = {"row_lengths": [3, len(ids)], "cache_rows": torch.tensor([0, 1])}
    hidden = model(torch.cat([ids[:3], ids])[None], kv_cache=cache, **rows)[:, -1:]
    tokens = []
    for _ in range(count):
        tokens.append(int(model.lm_head(hidden)[-1, -1].argmax()))
        hidden = model(torch.tensor([[5], [tokens[-1]]]), kv_cache=cache)
    return tokens


# --------------------------------------------------------------------------------------------------
# The network


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_greedy_tokens_equal_transformers(family, tmp_path):
    """Bug: a slip in a family's switches: rope scaling, biases, q/k norm, head size, tied head."""
    oracle, model = both(family, tmp_path)
    ids = random_ids(3, 96)  # past the 32 original positions of yarn and llama3
    expected = oracle(ids).logits
    assert expected.std() > 0.5  # a comparison of near-zeros would show nothing
    assert (model.lm_head(model(ids)) - expected).abs().max() < 1e-4
    options = dict(do_sample=False, max_new_tokens=64, min_new_tokens=64)
    continued = oracle.generate(ids[:1, :20], eos_token_id=None, **options)[0, 20:]
    assert greedy(model, ids[0, :20], 64) == continued.tolist()


@pytest.mark.parametrize("family", ["qwen2 tied", "qwen3 yarn bias", "llama linear biases"])
def test_packed_padded_and_reordered_rows_equal_rows_alone(family, tmp_path):
    """Bug: attention or positions that cross a row's border or depend on its place in the batch."""
    _, model = both(family, tmp_path)
    rows = [random_ids(9), random_ids(31)[20:], random_ids(1)]
    alone = [model(row[None])[0] for row in rows]
    for order in ([0, 1, 2], [2, 0, 1]):
        stream, lengths = torch.cat([rows[i] for i in order])[None], [len(rows[i]) for i in order]
        packed = model(stream, row_lengths=lengths)[0]
        torch.testing.assert_close(packed, torch.cat([alone[i] for i in order]), rtol=0, atol=2e-5)
    padded = torch.zeros(2, 15, dtype=torch.int64)  # pads on the right, which causal rows never see
    padded[0, :11], padded[1, :9] = rows[1], rows[0]
    hidden = model(padded)
    torch.testing.assert_close(hidden[0, :11], alone[1], rtol=0, atol=2e-5)
    torch.testing.assert_close(hidden[1, :9], alone[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("family", ["qwen2 tied", "qwen3 yarn bias", "llama linear biases"])
@pytest.mark.parametrize("flash", [False, True])
def test_rows_that_follow_equal_rows_that_begin_with_it(family, flash, tmp_path, monkeypatch):
    """Bug: a response that does not see its prompt, sees another's or later tokens of its own, or
    begins again at position 0; on CUDA causality from the upper left or lengths of queries for keys.
    """
    _, model = both(family, tmp_path)
    if flash:
        monkeypatch.setattr(M, "flash_attention", lambda: documented_varlen_attn)
        monkeypatch.setattr(M, "runs_flash", lambda tensor: True)
    first, second, *rows = [random_ids(9), random_ids(31)[26:], *random_ids(5, 6)]
    rows[1], rows[4] = rows[1][:1], rows[4][:4]
    follows = [None, None, 0, 1, None, 0, 0]
    before = {None: first[:0], 0: first, 1: second}
    stream = [first, second, *rows]
    lengths = [len(row) for row in stream]
    packed = model(torch.cat(stream)[None], row_lengths=lengths, follows=follows)[0].split(lengths)
    for row, found, number in zip(stream, packed, follows, strict=True):
        alone = model(torch.cat([before[number], row])[None])[0, len(before[number]) :]
        torch.testing.assert_close(found, alone, rtol=0, atol=2e-5)


def test_checkpointed_activations_give_the_same_gradient():
    """Bug: a recomputed layer that sees other inputs, or another chunk of the packed stream."""
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = M.CausalLM(config_of("qwen3 tied"))
        model.checkpoint_activations = recompute
        model(random_ids(1, 12), row_lengths=[5, 7]).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["llama linear biases", "qwen3 tied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("blocked_from", [0, 2**40])
def test_the_sampling_copy(name, dtype, blocked_from, monkeypatch):
    """Bug: a bias, the tied head or a norm of the copy left as it was made; a master weight cast
    in place; weights in blocks where that is not asked for."""
    monkeypatch.setattr(M, "BLOCKED_WEIGHTS", blocked_from)
    torch.manual_seed(0)
    model = M.CausalLM(config_of(name))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # biases start at 0
    model.compute_dtype, ids = dtype, random_ids(3, 6)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    copy = M.sampling_copy(model)
    close = dict(rtol=0, atol=1e-5 if dtype == torch.float32 else 0.1)
    found, expected = copy.lm_head(copy(ids)), model.lm_head(model(ids))
    assert found.dtype == dtype and not found.requires_grad and expected.std() > 0.1
    torch.testing.assert_close(found, expected, **close)
    blocked = [isinstance(layer, M.BlockedLinear) for layer in copy.modules()]
    assert sum(blocked) == (15 if blocked_from == 0 else 0)  # seven a layer, and the head
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32 and torch.equal(parameter, before[name]), name
        assert parameter.requires_grad, name
    for parameter in copy.parameters():
        assert parameter.dtype == dtype and not parameter.is_meta


# --------------------------------------------------------------------------------------------------
# The cache


def test_cache_rows_of_different_lengths(tmp_path):
    """Bug: one length for all rows; a step that writes at or sees up to a neighbour's position."""
    _, model = both("qwen3 tied", tmp_path)
    rows, cache = [random_ids(4), random_ids(9)], M.KVCache(model.config, 2, 16)
    into = dict(kv_cache=cache, cache_rows=torch.tensor([0, 1]))
    model(torch.cat(rows)[None], row_lengths=[4, 9], **into)
    assert cache.lengths.tolist() == [4, 9]
    new = random_ids(2, 3)
    hidden = torch.cat([model(new[:, t : t + 1], kv_cache=cache) for t in range(3)], dim=1)
    assert cache.lengths.tolist() == [7, 12]
    for row in range(2):
        alone = model(torch.cat([rows[row], new[row]])[None])[0, -3:]
        torch.testing.assert_close(hidden[row], alone, rtol=0, atol=2e-5)
    with pytest.raises(AssertionError, match="3 tokens of each row"):
        model(new, kv_cache=cache)


def test_copied_and_refilled_rows_never_read_stale_tokens(tmp_path):
    """Bug: a copy without its values or its length; slots past a length that weigh in."""
    _, model = both("llama2", tmp_path)
    cache = M.KVCache(model.config, 3, 16)
    cache.keys.fill_(50.0)  # whatever an earlier, longer row left behind
    cache.values.fill_(1e4)
    first, second = random_ids(7), random_ids(12)[7:]
    model(first[None], row_lengths=[7], kv_cache=cache, cache_rows=torch.tensor([2]))
    cache.copy_rows([2, 2], [0, 1], 7)
    model(second[None], row_lengths=[5], kv_cache=cache, cache_rows=torch.tensor([1]))
    assert cache.lengths.tolist() == [7, 5, 7]
    cache.bound = 9  # no row is longer: what lies beyond is not even multiplied
    new = random_ids(3, 1)
    hidden = model(new, kv_cache=cache)
    for row, tokens in enumerate([first, second, first]):
        alone = model(torch.cat([tokens, new[row]])[None])[0, -1:]
        torch.testing.assert_close(hidden[row], alone, rtol=0, atol=2e-5)


def documented_varlen_attn(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None,
    window_size=(-1, -1), enable_gqa=False, seqused_k=None, block_table=None, num_splits=None,
):  # fmt: skip
    """torch.nn.attention.varlen.varlen_attn as its page has it, sequence by sequence in float64."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    causal = {(-1, -1): False, (-1, 0): True}[window_size]  # and then from the lower right
    assert enable_gqa or key.shape[1] == query.shape[1]
    if seqused_k is None:
        assert len(key) == cu_seq_k[-1] and len(query) == cu_seq_q[-1]
        seqused_k = cu_seq_k.diff()
    assert seqused_k.dtype == torch.int32
    assert int(seqused_k.max()) <= max_k and int(cu_seq_q.diff().max()) <= max_q
    out, groups = torch.empty_like(query), query.shape[1] // key.shape[1]
    for row, used in enumerate(seqused_k.tolist()):
        q = query[cu_seq_q[row] : cu_seq_q[row + 1]].double()  # (queries, H, E)
        keys, values = (tensor[cu_seq_k[row] :][:used].double() for tensor in (key, value))
        late = torch.ones(len(q), used).triu(used - len(q) + 1).bool() & causal
        for head in range(query.shape[1]):
            scores = q[:, head] @ keys[:, head // groups].T / query.shape[2] ** 0.5
            weights = scores.masked_fill(late, float("-inf")).softmax(-1)
            out[cu_seq_q[row] : cu_seq_q[row + 1], head] = weights @ values[:, head // groups]
    return out


def test_live_attention_by_the_documentation(tmp_path, monkeypatch):
    """Bug: rows cut at the wrong places or lengths without the newest token, on CUDA only."""
    _, model = both("qwen3 tied", tmp_path)
    caches, ids = [M.KVCache(model.config, 3, 9) for _ in range(2)], random_ids(10)
    for cache in caches:
        cache.keys.fill_(50.0)  # must not be read
        rows = torch.tensor([0, 2, 1])
        model(ids[None], row_lengths=[4, 1, 5], kv_cache=cache, cache_rows=rows)
    expected = [model(token, kv_cache=caches[0]) for token in random_ids(2, 3, 1)]
    monkeypatch.setattr(M, "flash_attention", lambda: documented_varlen_attn)
    monkeypatch.setattr(M, "reads_live_part", lambda keys: True)
    found = [model(token, kv_cache=caches[1]) for token in random_ids(2, 3, 1)]
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    by_token = M.KVCache(model.config, 3, 9, device="meta").keys[0].transpose(1, 2)
    assert by_token.is_contiguous(), "flattened, each step would copy the cache"


def test_bytes_per_token_is_what_the_cache_takes():
    """Bug: a forgotten factor, so that the sampler fills the memory or leaves most of it unused."""
    config = config_of("qwen3 tied")
    cache = M.KVCache(config, 3, 10, torch.bfloat16)
    found = cache.keys.nbytes + cache.values.nbytes
    assert found == 3 * 10 * M.KVCache.bytes_per_token(config, torch.bfloat16)
