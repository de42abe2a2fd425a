"""Hugging Face folders in and out: strict, complete, and read alike by transformers.

DSRL_REAL_MODEL=folder adds the test on a real checkpoint.

    python -m pytest tests/test_checkpoints.py
"""

import json
import os
from pathlib import Path

import pytest
import torch
from conftest import memory
from safetensors.torch import load_file, save_file
from test_model import SIZES, WINDOW_OFF, both, config_of, greedy, oracle_of, random_ids
from test_model import tokenizer_of, write
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from plumbing.checkpoints import MODELS, load_model, resolve_model, save_model


@pytest.fixture
def folder(tmp_path):
    return write(oracle_of(config_of("qwen2.5 untied")), tmp_path / "checkpoint")


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
    "tokenizer cut": (lambda f: os.truncate(f / "tokenizer.json", 60), "tokenizer.json is damaged or cut"),
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
        load_model(str(folder))


@pytest.mark.parametrize("feature", REFUSED)
def test_unsupported_features_are_refused(feature, folder):
    """Bug: a model run with a feature left out, so that its numbers are wrong."""
    changes, message = REFUSED[feature]
    edit_config(folder, **changes)
    with pytest.raises(ValueError, match=f"not supported: {message}"):
        load_model(str(folder))


def test_integers_are_not_taken_for_weights(folder):
    """Bug: quantised weights of the right name and shape, read as if they were the values."""
    edit_tensors(folder, lambda t: t.update(INTEGERS))
    with pytest.raises(ValueError, match=f"not supported: .*{NORM} in torch.int8"):
        load_model(str(folder))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sharded_and_half_precision_files(dtype, tmp_path):
    """Bug: only the first shard read; half-precision weights rounded again on their way to fp32."""
    oracle = oracle_of(config_of("qwen2.5 untied")).to(dtype)
    folder = write(oracle, tmp_path / "checkpoint", max_shard_size="10KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    save_file({"odd": torch.ones(1)}, folder / "model-stray.safetensors")  # not in the index
    model, _ = load_model(str(folder))
    for name, parameter in oracle.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter.float()), name
    shards[1].unlink()
    with pytest.raises(ValueError, match=f"lacks {shards[1].name}, which model.safetensors.index"):
        load_model(str(folder))
    os.truncate(folder / "model.safetensors.index.json", 30)
    with pytest.raises(ValueError, match="index.json is damaged or cut short"):
        load_model(str(folder))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_loading_takes_one_copy(tmp_path):
    """Bug: all tensors read before the first is placed; a file that stays mapped and read."""
    sizes = dict(hidden_size=512, intermediate_size=1024, num_hidden_layers=8)
    config = LlamaConfig(**SIZES | sizes)
    folder = write(AutoModelForCausalLM.from_config(config), tmp_path)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    model, _ = load_model(str(folder))
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert weights > 50e6
    assert memory("VmHWM") - before < 1.3 * weights


def test_constants_of_old_files_and_a_second_name_of_the_tied_head(tmp_path):
    """Bug: old Llama files (rotary constants) or files that store a tied head twice are refused."""
    folder = write(oracle_of(config_of("qwen2 tied")), tmp_path / "checkpoint")
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    edit_tensors(folder, lambda t: t.update(old, **{"lm_head.weight": embedding.clone()}))
    model, _ = load_model(str(folder))
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_rope_as_qwens_long_context_files_state_it(folder):
    """Bug: the old spelling of yarn ignored; rows held to the length that yarn extends."""
    assert load_model(str(folder))[0].max_positions == 256
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
    edit_config(folder, rope_parameters=None, rope_theta=1e6, rope_scaling=yarn)
    model, _ = load_model(str(folder))
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
    assert load_model(str(folder))[0].eos_ids == expected


SAVED = ["qwen2 tied", "qwen3 yarn bias", "llama3", "mistral"]


@pytest.mark.parametrize("family", SAVED)
def test_saved_folders_load_everywhere_and_change_nothing(family, tmp_path):
    """Bug: a tied head stored wrongly, projections that share storage, a lost template or rope."""
    oracle, model = both(family, tmp_path)
    tokenizer, ids, copy = tokenizer_of(), random_ids(1, 50), tmp_path / "copy"
    logits = model.lm_head(model(ids))  # lays the projections side by side
    save_model(model, tokenizer, copy)
    loaded, reloaded_tokenizer = load_model(str(copy))
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
    assert resolve_model("Qwen2.5-1.5B") == "Qwen/Qwen2.5-1.5B"
    assert resolve_model("Llama-3.2-1B-Instruct") == "meta-llama/Llama-3.2-1B-Instruct"
    assert resolve_model("SmolLM2-135M-Instruct") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert resolve_model("Qwen2.5-Math-72B-Instruct") == "Qwen/Qwen2.5-Math-72B-Instruct"
    assert resolve_model("Qwen3-14B-Base") == "Qwen/Qwen3-14B-Base"
    assert "Qwen3-32B-Base" not in MODELS  # never published
    assert resolve_model("owner/name") == "owner/name"
    assert resolve_model(str(tmp_path)) == str(tmp_path)
    for name in ("Qwen2.5-2B", "qwen"):
        with pytest.raises(ValueError, match="SmolLM2-135M"):
            resolve_model(name)
    for name in ("./missing", "/missing", "../missing/folder", "a/b/c"):
        with pytest.raises(ValueError, match=f"no folder '{name}'$"):
            resolve_model(name)


@pytest.mark.skipif("DSRL_REAL_MODEL" not in os.environ, reason="DSRL_REAL_MODEL names no folder")
def test_real_checkpoint(tmp_path):
    """Bug: what random weights do not show: real scales, a real tokenizer, a real config."""
    folder = os.environ["DSRL_REAL_MODEL"]
    model, tokenizer = load_model(folder)
    model.requires_grad_(False)
    oracle = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text = "The sum of the first five odd numbers is 25, because 1 + 3 + 5 + 7 + 9 ="
    ids = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        assert (model.lm_head(model(ids)) - oracle(ids).logits).abs().max() < 1e-4
        options = dict(do_sample=False, max_new_tokens=64, min_new_tokens=64)
        continued = oracle.generate(ids, eos_token_id=None, **options)[0, ids.shape[1] :]
    assert greedy(model, ids[0], 64) == continued.tolist()
    save_model(model, tokenizer, tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path)
    for name, parameter in oracle.named_parameters():
        assert torch.equal(saved.get_parameter(name), parameter), name
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == tokenizer.chat_template

