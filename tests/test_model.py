"""model.py against transformers (the network, files) and float64 (token log-probs, both back ends).

Without CUDA the Triton kernels run in Triton's interpreter, in a process of their own, as it must
be chosen before anything imports Triton. It rounds a bf16 store toward zero.
DSRL_REAL_MODEL=folder adds the test on a real checkpoint.

    python -m pytest tests/test_model.py
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

import model as M

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


@pytest.fixture
def folder(tmp_path):
    return write(oracle_of(config_of("qwen2.5 untied")), tmp_path / "checkpoint")


def both(family, tmp_path):
    oracle = oracle_of(config_of(family))
    model, _ = M.load_model(str(write(oracle, tmp_path / "checkpoint")))
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
def test_sampling_weights(name, dtype, blocked_from, monkeypatch):
    """Bug: the joined weights in another order than the split, a bias lost, a copy that stays."""
    monkeypatch.setattr(M, "BLOCKED_WEIGHTS", blocked_from)
    torch.manual_seed(0)
    model = M.CausalLM(config_of(name))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # biases start at 0
    model.compute_dtype, ids = dtype, random_ids(3, 6)
    close = dict(rtol=0, atol=1e-5 if dtype == torch.float32 else 0.1)
    with torch.no_grad(), M.sampling_weights(model):
        prepared = model.lm_head(model(ids)).float()
        model.model.layers[0].self_attn.v_proj.weight.neg_()  # not seen until it is made again
        assert torch.equal(model.lm_head(model(ids)).float(), prepared)
        model.model.layers[0].self_attn.v_proj.weight.neg_()
    torch.testing.assert_close(model.lm_head(model(ids)).float(), prepared, **close)
    model.model.layers[0].self_attn.v_proj.weight.data.neg_()
    changed = model.lm_head(model(ids)).float()
    assert not torch.allclose(changed, prepared, **close)
    with torch.no_grad(), M.sampling_weights(model):
        torch.testing.assert_close(model.lm_head(model(ids)).float(), changed, **close)


# --------------------------------------------------------------------------------------------------
# The cache


def test_cache_rows_of_different_lengths(tmp_path):
    """Bug: one length for all rows; a step that writes at or sees up to a neighbour's position."""
    _, model = both("qwen3 tied", tmp_path)
    rows, cache = [random_ids(4), random_ids(9)], M.KVCache(model.config, 2, 16)
    into = dict(kv_cache=cache, cache_rows=torch.tensor([0, 1]))
    model(torch.cat(rows)[None], row_lengths=[4, 9], **into)
    assert cache.lengths.tolist() == [4, 9]
    new = random_ids(2, 3)  # three tokens at once, the later ones must not be seen by the earlier
    hidden = model(new, kv_cache=cache)
    assert cache.lengths.tolist() == [7, 12]
    for row in range(2):
        alone = model(torch.cat([rows[row], new[row]])[None])[0, -3:]
        torch.testing.assert_close(hidden[row], alone, rtol=0, atol=2e-5)


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
    cache.limit = 9  # no row is longer: what lies beyond is not even multiplied
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
    assert enable_gqa and window_size == (-1, -1) and max_q == 1 and seqused_k.dtype == torch.int32
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32 and int(seqused_k.max()) <= max_k
    out, groups = torch.empty_like(query), query.shape[1] // key.shape[1]
    for row, used in enumerate(seqused_k.tolist()):
        q = query[cu_seq_q[row] : cu_seq_q[row + 1]].double()  # (1, H, E)
        keys, values = (tensor[cu_seq_k[row] :][:used].double() for tensor in (key, value))
        for head in range(query.shape[1]):
            weights = (q[:, head] @ keys[:, head // groups].T / query.shape[2] ** 0.5).softmax(-1)
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


# --------------------------------------------------------------------------------------------------
# Files


def edit_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    kept = {key: value for key, value in (config | changes).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


NORM = "model.norm.weight"
BROKEN = {
    "missing": (lambda f: edit_tensors(f, lambda t: t.pop(NORM)), "lacks 1 tensors, first model.n"),
    "extra": (lambda f: edit_tensors(f, lambda t: t.update(odd=torch.ones(1))), "has odd, for wh"),
    "misshapen": (
        lambda f: edit_tensors(f, lambda t: t.update({NORM: torch.ones(1)})),
        r"model.norm.weight has shape \(1,\), by config.json it is \(32,\)",
    ),
    "cut short": (lambda f: os.truncate(f / "model.safetensors", 9_000), "damaged or cut short"),
    "empty": (lambda f: os.truncate(f / "model.safetensors", 0), "damaged or cut short"),
    "no tensors": (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "config cut": (lambda f: os.truncate(f / "config.json", 40), "config.json is damaged or cut"),
    "config of a list": (lambda f: (f / "config.json").write_text("[]"), "holds no JSON object"),
    "config of text": (lambda f: edit_config(f, hidden_size="x"), "config.json cannot be used"),
    "generation cut": (
        lambda f: os.truncate(f / "generation_config.json", 9),
        "generation_config.json is damaged or cut",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer"),
    "tokenizer cut": (lambda f: os.truncate(f / "tokenizer.json", 60), "has no tokenizer that can"),
    "untied by config": (
        lambda f: edit_tensors(f, lambda t: t.pop("lm_head.weight")),
        "lacks 1 tensors, first lm_head.weight",
    ),
    "tied by config": (lambda f: edit_config(f, tie_word_embeddings=True), "not the embedding"),
    "heads": (lambda f: edit_config(f, num_key_value_heads=4), r"k_proj.bias has shape \(16,\)"),
}
INTEGERS = {NORM: torch.ones(32, dtype=torch.int8)}
REFUSED = {
    "moe": (dict(model_type="qwen3_moe"), "model_type 'qwen3_moe'"),
    "other family": (dict(model_type="gemma2"), "model_type 'gemma2'"),
    "unknown": (dict(model_type="new", auto_map={"AutoConfig": "code.C"}), "model_type 'new'"),
    "no family": (dict(model_type=None), "model_type None"),
    "qwen window": (
        WINDOW_OFF | dict(use_sliding_window=True, layer_types=None),
        "layers with sliding_attention",
    ),
    "mistral window": (
        dict(model_type="mistral", sliding_window=8, layer_types=None),
        "layers with sliding_attention",
    ),
    "other layers": (dict(layer_types=["linear_attention"] * 2), "layers with linear_attention"),
    "quantised": (dict(quantization_config={"quant_method": "awq", "bits": 4}), "quantised"),
    "dynamic rope": (
        dict(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
        "rope type 'dynamic'",
    ),
    "activation": (dict(hidden_act="gelu"), "activation 'gelu'"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_folders_are_named(fault, folder):
    """Bug: a tensor left at its random start, or cut off, without a word."""
    breaks, message = BROKEN[fault]
    breaks(folder)
    with pytest.raises(ValueError, match=message):
        M.load_model(str(folder))


@pytest.mark.parametrize("feature", REFUSED)
def test_unsupported_features_are_refused(feature, folder):
    """Bug: a model run with a feature left out, so that its numbers are wrong."""
    changes, message = REFUSED[feature]
    edit_config(folder, **changes)
    with pytest.raises(ValueError, match=f"not supported: {message}"):
        M.load_model(str(folder))


def test_integers_are_not_taken_for_weights(folder):
    """Bug: quantised weights of the right name and shape, read as if they were the values."""
    edit_tensors(folder, lambda t: t.update(INTEGERS))
    with pytest.raises(ValueError, match=f"not supported: .*{NORM} in torch.int8"):
        M.load_model(str(folder))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sharded_and_half_precision_files(dtype, tmp_path):
    """Bug: only the first shard read; half-precision weights rounded again on their way to fp32."""
    oracle = oracle_of(config_of("qwen2.5 untied")).to(dtype)
    folder = write(oracle, tmp_path / "checkpoint", max_shard_size="10KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    save_file({"odd": torch.ones(1)}, folder / "model-stray.safetensors")  # not in the index
    model, _ = M.load_model(str(folder))
    for name, parameter in oracle.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter.float()), name
    shards[1].unlink()
    with pytest.raises(ValueError, match=f"lacks {shards[1].name}, which model.safetensors.index"):
        M.load_model(str(folder))
    os.truncate(folder / "model.safetensors.index.json", 30)
    with pytest.raises(ValueError, match="index.json is damaged or cut short"):
        M.load_model(str(folder))


def memory(field):
    """VmRSS, resident bytes of this process now; VmHWM, their peak since the last reset."""
    lines = Path("/proc/self/status").read_text().split("\n")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_loading_takes_one_copy(tmp_path):
    """Bug: all tensors read before the first is placed; a file that stays mapped and read."""
    sizes = dict(hidden_size=512, intermediate_size=1024, num_hidden_layers=8)
    config = LlamaConfig(**SIZES | sizes)
    folder = write(AutoModelForCausalLM.from_config(config), tmp_path)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    model, _ = M.load_model(str(folder))
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert weights > 50e6
    assert memory("VmHWM") - before < 1.3 * weights


def test_constants_of_old_files_and_a_second_name_of_the_tied_head(tmp_path):
    """Bug: old Llama files (rotary constants) or files that store a tied head twice are refused."""
    folder = write(oracle_of(config_of("qwen2 tied")), tmp_path / "checkpoint")
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    edit_tensors(folder, lambda t: t.update(old, **{"lm_head.weight": embedding.clone()}))
    model, _ = M.load_model(str(folder))
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_rope_as_qwens_long_context_files_state_it(folder):
    """Bug: the old spelling of yarn ignored; rows held to the length that yarn extends."""
    assert M.load_model(str(folder))[0].max_positions == 256
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
    edit_config(folder, rope_parameters=None, rope_theta=1e6, rope_scaling=yarn)
    model, _ = M.load_model(str(folder))
    oracle = AutoModelForCausalLM.from_pretrained(folder)
    ids = random_ids(1, 300)
    with torch.no_grad():
        assert (model.lm_head(model(ids)) - oracle(ids).logits).abs().max() < 1e-4
    assert model.max_positions == 1024


@pytest.mark.parametrize("stated, expected", [([1, 5], (1, 3, 5)), (5, (3, 5)), (None, (3,))])
def test_every_end_token_counts(stated, expected, folder):
    """Bug: only the tokenizer's EOS, or only the first of the list, ends a response."""
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stated}))
    tokenizer_of(eos="<end>").save_pretrained(folder)
    assert M.load_model(str(folder))[0].eos_ids == expected


SAVED = ["qwen2 tied", "qwen3 yarn bias", "llama3", "mistral"]


@pytest.mark.parametrize("family", SAVED)
def test_saved_folders_load_everywhere_and_change_nothing(family, tmp_path):
    """Bug: a tied head stored wrongly, projections that share storage, a lost template or rope."""
    oracle, model = both(family, tmp_path)
    tokenizer, ids, copy = tokenizer_of(), random_ids(1, 50), tmp_path / "copy"
    logits = model.lm_head(model(ids))  # lays the projections side by side
    M.save_model(model, tokenizer, copy)
    loaded, reloaded_tokenizer = M.load_model(str(copy))
    for name, parameter in oracle.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter), name
    theirs = AutoModelForCausalLM.from_pretrained(copy)
    assert type(theirs) is type(oracle)
    assert (theirs(ids).logits - logits).abs().max() < 1e-4
    messages = [{"role": "user", "content": "two and three"}]
    for found in (reloaded_tokenizer, AutoTokenizer.from_pretrained(copy)):
        assert found.apply_chat_template(messages, tokenize=False) == "<user> two and three "
        assert found("two and").input_ids == tokenizer("two and").input_ids
    assert theirs.generation_config.eos_token_id == list(model.eos_ids) == [1]


def test_names(tmp_path):
    """Bug: a short name that resolves to a look-alike; a typo that goes to the hub."""
    assert M.resolve_model("Qwen2.5-1.5B") == "Qwen/Qwen2.5-1.5B"
    assert M.resolve_model("Llama-3.2-1B-Instruct") == "meta-llama/Llama-3.2-1B-Instruct"
    assert M.resolve_model("SmolLM2-135M-Instruct") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert M.resolve_model("Qwen2.5-Math-72B-Instruct") == "Qwen/Qwen2.5-Math-72B-Instruct"
    assert M.resolve_model("Qwen3-14B-Base") == "Qwen/Qwen3-14B-Base"
    assert "Qwen3-32B-Base" not in M.MODELS  # never published
    assert M.resolve_model("owner/name") == "owner/name"
    assert M.resolve_model(str(tmp_path)) == str(tmp_path)
    for name in ("Qwen2.5-2B", "qwen"):
        with pytest.raises(ValueError, match="SmolLM2-135M"):
            M.resolve_model(name)
    for name in ("./missing", "/missing", "../missing/folder", "a/b/c"):
        with pytest.raises(ValueError, match=f"no folder '{name}'$"):
            M.resolve_model(name)


@pytest.mark.skipif("DSRL_REAL_MODEL" not in os.environ, reason="DSRL_REAL_MODEL names no folder")
def test_real_checkpoint(tmp_path):
    """Bug: what random weights do not show: real scales, a real tokenizer, a real config."""
    folder = os.environ["DSRL_REAL_MODEL"]
    model, tokenizer = M.load_model(folder)
    model.requires_grad_(False)
    oracle = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text = "The sum of the first five odd numbers is 25, because 1 + 3 + 5 + 7 + 9 ="
    ids = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        assert (model.lm_head(model(ids)) - oracle(ids).logits).abs().max() < 1e-4
        options = dict(do_sample=False, max_new_tokens=64, min_new_tokens=64)
        continued = oracle.generate(ids, eos_token_id=None, **options)[0, ids.shape[1] :]
    assert greedy(model, ids[0], 64) == continued.tolist()
    M.save_model(model, tokenizer, tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path)
    for name, parameter in oracle.named_parameters():
        assert torch.equal(saved.get_parameter(name), parameter), name
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == tokenizer.chat_template


# --------------------------------------------------------------------------------------------------
# Token log-probs


@pytest.fixture(params=["torch", "triton"] if DEVICE == "cuda" or INTERPRETING else ["torch"])
def backend(request, monkeypatch):
    """The last layer runs as torch code on the CPU, or as kernels. Returns the device."""
    if request.param == "torch":
        return "cpu"
    monkeypatch.setattr(M, "runs_triton", lambda logits: True)
    return DEVICE


@pytest.mark.skipif(DEVICE == "cuda" or INTERPRETING, reason="the kernels run in this process")
def test_kernels_in_the_interpreter():
    """Bug: those of the tests below that have a `backend`, in the kernels."""
    pytest.importorskip("triton", reason="triton is not installed: macOS has none")
    options = ["-q", "-p", "no:cacheprovider", "-k", "triton"]
    command = [sys.executable, "-m", "pytest", *options, __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    passed = re.search(r"(\d+) passed", run.stdout)
    assert run.returncode == 0 and int(passed[1]) > 10, run.stdout[-5000:]


@pytest.mark.skipif(DEVICE == "cuda" or INTERPRETING, reason="the kernels run in this process")
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_kernels_compile_for_a_gpu_that_is_not_there(dtype):
    """Bug: what the interpreter lets pass and the compiler does not; loads of one logit a time."""
    compiler = pytest.importorskip("triton.compiler", reason="no triton, as on macOS")
    from triton.backends.compiler import GPUTarget

    columns = {"score": ["logprobs", "logsumexps", "entropies"]}
    columns["gradient"] = ["logsumexps", "coefficients"]
    for kernel, (name, arguments) in zip(M.triton_kernels(), columns.items(), strict=True):
        types = {"logits": f"*{dtype}", "stride": "i32", "targets": "*i64"}
        types |= {argument: "*fp32" for argument in arguments}
        constants = {"V": 151_936, "BLOCK": 4096}
        aligned = {(i,): [["tt.divisibility", 16]] for i in range(len(types))}  # as launches find
        types |= dict.fromkeys(constants, "constexpr")
        source = compiler.ASTSource(kernel, types, constants, aligned)
        target = GPUTarget("cuda", 90, 32)  # H100, H200
        compiled = compiler.compile(source, target=target, options={"num_warps": 8})
        assert name in compiled.asm["ptx"] and "ld.global.v4" in compiled.asm["ptx"]


def head_inputs(n, d, v, device, dtype=torch.float32):
    torch.manual_seed(n + v)
    hidden = torch.randn(n, d, device=device).to(dtype)
    weight = torch.randn(v, d, device=device) * 3 / d**0.5  # logits of deviation 3
    targets = torch.randint(v, (n,), device=device)
    if n > 1:
        targets[0], targets[1] = 0, v - 1
    return hidden, weight, targets, torch.randn(n, device=device)


def float64_oracle(hidden, weight, targets, coefficients, temperature):
    """Log-probs, entropy and the gradients of sum c log P, by autograd over full float64 logits."""
    hidden, weight = hidden.double().requires_grad_(), weight.double().requires_grad_()
    log_p = torch.log_softmax(hidden @ weight.T / temperature, -1)
    logprobs = log_p.gather(1, targets[:, None])[:, 0]
    (logprobs * coefficients).sum().backward()
    entropy = -(log_p.exp() * log_p).sum(-1)
    return [tensor.detach() for tensor in (logprobs, entropy, hidden.grad, weight.grad)]


def fused(hidden, weight, targets, coefficients, temperature=1.0):
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    options = (targets, lambda _, chunk: coefficients[chunk], temperature)
    logprobs, entropy = M.backward_logprobs(hidden, weight, *options)
    return logprobs, entropy, hidden.grad, weight.grad


SHAPES = [(0, 4, 9), (1, 8, 5003), (5, 3, 1), (7, 16, 64), (13, 16, 4097)]  # N, D, V


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_log_probs_and_gradients_equal_float64(shape, temperature, backend, monkeypatch):
    """Bug: the last columns or the last chunk lost, a temperature left out of value or gradient."""
    monkeypatch.setattr(M, "LOGITS_PER_CHUNK", {"cpu": 3 * shape[2], "cuda": 3 * shape[2]})
    monkeypatch.setattr(M, "LOGITS_IN_CACHE", 2 * shape[2])
    inputs = head_inputs(*shape, backend)
    expected = float64_oracle(*inputs, temperature)
    hidden, weight = inputs[0].clone().requires_grad_(), inputs[1].clone().requires_grad_()
    logprobs = M.token_logprobs(hidden, weight, inputs[2], temperature)
    (logprobs * inputs[3]).sum().backward()
    entropy = expected[1].float()
    for found in ((logprobs, entropy, hidden.grad, weight.grad), fused(*inputs, temperature)):
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=5e-6)
    reference = M.token_logprobs_reference(*inputs[:3], temperature)
    torch.testing.assert_close(reference.double(), expected[0], rtol=1e-6, atol=1e-6)


def test_targets_and_gradients_that_do_not_lie_in_one_piece(backend):
    """Bug: a kernel reads neighbours of an expanded gradient's one element, or other targets."""
    hidden, weight, targets, _ = head_inputs(6, 8, 50, backend)
    expected = float64_oracle(hidden, weight, targets, torch.ones(6, device=backend), 1.0)
    hidden.requires_grad_()
    weight.requires_grad_()
    column = torch.stack([targets, 49 - targets], 1)[:, 0]
    logprobs = M.token_logprobs(hidden, weight, column)
    logprobs.sum().backward()
    found = (logprobs, hidden.grad, weight.grad)
    for ours, theirs in zip(found, (expected[0], *expected[2:]), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_precision_of_each_type(dtype, backend):
    """Bug: sums, differences or exponentials in half precision: errors of 1e-2.

    Given the same logits the log-prob is good to fp32; the gradient is rounded once, when stored
    (bf16 to nearest: within 2^-8; the interpreter truncates: 2^-7).
    """
    torch.manual_seed(0)
    logits = (torch.randn(9, 5003, device=backend) * 3).to(dtype)
    targets = torch.randint(5003, (9,), device=backend)
    coefficients = torch.randn(9, device=backend)
    log_p = logits.double().log_softmax(-1)
    logprobs, logsumexp, entropy = M.score_logits(logits, targets)
    exact = log_p.gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(logprobs.double(), exact, rtol=0, atol=2e-6)
    torch.testing.assert_close(entropy.double(), -(log_p.exp() * log_p).sum(-1), rtol=0, atol=2e-6)
    onehot = torch.nn.functional.one_hot(targets, 5003)
    exact = coefficients[:, None].double() * (onehot - log_p.exp())
    found = M.logits_gradient_(logits, targets, logsumexp, coefficients).double()
    rounding = 2 ** (-6.9 if INTERPRETING else -7.9) if dtype != torch.float32 else 1e-5
    torch.testing.assert_close(found, exact, rtol=rounding, atol=1e-7)

    hidden, weight, targets, coefficients = head_inputs(40, 32, 300, backend, dtype)
    expected = float64_oracle(hidden, weight.to(dtype), targets, coefficients, 1.0)
    found = fused(hidden, weight, targets, coefficients)
    for ours, theirs in zip(found[2:], expected[2:], strict=True):
        cosine = torch.cosine_similarity(ours.double().flatten(), theirs.flatten(), dim=0)
        assert cosine > (0.99999 if dtype == torch.float32 else 0.9999), cosine


def test_hostile_rows(backend):
    """Bug: NaN from -inf - -inf or 0 * -inf; exp(1e4); a huge logit in the last block."""
    inf, v = torch.inf, 5003
    logits, targets = torch.zeros(8, v, device=backend), torch.full((8,), 7, device=backend)
    logits[0] = -inf  # nothing is possible
    logits[1, :4500] = -inf  # the first blocks and the target are impossible
    logits[2, 7:] = -inf  # the target is impossible, and all that follow
    logits[3, 7] = 1e4  # certain
    logits[4, v - 1] = 1e4  # certain to be another
    logits[5] = 1e4  # all equal, far from 0
    logits[6] = -1e4
    logits[7] = torch.finfo(torch.float32).min / 4  # how some codes mask
    logprobs, logsumexp, entropy = M.score_logits(logits, targets)
    equal = -torch.tensor(float(v)).log().item()
    expected = torch.tensor([-inf, -inf, -inf, 0.0, -1e4, equal, equal, equal])
    torch.testing.assert_close(logprobs.cpu(), expected, rtol=1e-6, atol=1e-6)
    few, seven = torch.tensor(503.0).log().item(), torch.tensor(7.0).log().item()
    expected = torch.tensor([0.0, few, seven, 0.0, 0.0, -equal, -equal, -equal])
    torch.testing.assert_close(entropy.cpu(), expected, rtol=1e-6, atol=1e-6)

    exact = torch.softmax(logits[:7].double(), -1)
    exact[0] = torch.nn.functional.one_hot(targets[:1], v)[0]  # so that its gradient is 0
    exact = 2.0 * (torch.nn.functional.one_hot(targets[:7], v) - exact)
    found = M.logits_gradient_(logits, targets, logsumexp, torch.full((8,), 2.0, device=backend))
    assert bool(found.isfinite().all())
    # at 1e4 the logsumexp is good to 5e-4 in fp32, so a certain target's gradient is good to 1e-3
    torch.testing.assert_close(found[:7].double(), exact, rtol=1e-3, atol=1e-3)


def test_nan_is_not_hidden(backend):
    """Bug: a broken model that looks healthy because a maximum skips NaN."""
    logits = torch.zeros(2, 5003, device=backend)
    targets = torch.zeros(2, dtype=torch.int64, device=backend)
    logits[0, 5002], logits[1, 10] = torch.nan, torch.inf
    logprobs, _, entropy = M.score_logits(logits, targets)
    assert bool(logprobs.isnan().all()) and bool(entropy.isnan().all())


def test_coefficients_may_depend_on_the_logprob(backend, monkeypatch):
    """Bug: coefficients of another chunk, or of log-probs not yet computed."""
    monkeypatch.setattr(M, "LOGITS_PER_CHUNK", {"cpu": 4 * 50, "cuda": 4 * 50})
    hidden, weight, targets, advantages = head_inputs(11, 8, 50, backend)
    weight.requires_grad_()
    leaf = hidden.clone().requires_grad_()
    surrogate = M.token_logprobs(leaf, weight, targets).exp() * advantages
    expected = torch.autograd.grad(surrogate.sum(), (leaf, weight))
    hidden.requires_grad_()
    options = (targets, lambda logprobs, chunk: logprobs.exp() * advantages[chunk])
    for times in (1.0, 2.0):  # the second call adds to what the first left
        M.backward_logprobs(hidden, weight, *options)
        for found, once in zip((hidden.grad, weight.grad), expected, strict=True):
            torch.testing.assert_close(found, times * once, rtol=1e-5, atol=1e-6)


class Watch(TorchDispatchMode):
    """The size of the largest tensor made, and the FLOPs of the matrix products."""

    def __init__(self):
        super().__init__()
        self.largest = self.flops = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        if function.overloadpacket.__name__ in ("mm", "addmm", "addmm_"):
            left, right = args[-2:]
            self.flops += 2 * left.numel() * right.shape[1]
        return out


def test_no_tensor_of_all_logits_and_no_wasted_product(monkeypatch):
    """Bug: the (N, V) logits of a batch come into being; the fused pass makes a product twice."""
    n, d, v = 64, 8, 500
    monkeypatch.setattr(M, "LOGITS_PER_CHUNK", {"cpu": 10 * v})
    hidden, weight, targets, coefficients = head_inputs(n, d, v, "cpu")
    with Watch() as fused_pass:
        fused(hidden, weight, targets, coefficients)
    hidden.requires_grad_()
    weight.requires_grad_()
    with Watch() as two_passes:
        M.token_logprobs(hidden, weight, targets).sum().backward()
    assert fused_pass.largest == two_passes.largest == 10 * v
    assert (fused_pass.flops, two_passes.flops) == (6 * n * d * v, 8 * n * d * v)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_one_chunk_of_logits_at_a_time(monkeypatch):
    """Bug: a chunk's logits still held while the next one's are made."""
    n, d, v = 256, 4, 2**17
    monkeypatch.setattr(M, "LOGITS_PER_CHUNK", {"cpu": 60 * v})  # 31 MB; the last has 16 rows
    inputs = head_inputs(n, d, v, "cpu")
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    fused(*inputs)
    assert memory("VmHWM") - before < 1.5 * 60 * v * 4


def test_bad_arguments_are_named():
    """Bug: an id beyond the vocabulary reads other memory on a GPU; temperature 0 gives NaN."""
    hidden, weight, targets, _ = head_inputs(3, 4, 9, "cpu")
    for bad in (torch.tensor([0, 9, 1]), torch.tensor([0, -100, 1])):
        with pytest.raises(ValueError, match=r"target ids run from .* the head has 9 rows"):
            M.token_logprobs(hidden, weight, bad)
        with pytest.raises(ValueError, match=r"target ids run from .* the head has 9 rows"):
            M.backward_logprobs(hidden, weight, bad, lambda logprobs, chunk: logprobs)
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"temperature {temperature}"):
            M.token_logprobs(hidden, weight, targets, temperature)
