"""Hugging Face folders in and out: strict, complete, and read alike by transformers.

DSRL_REAL_MODEL=folder adds the test on a real checkpoint.

    python -m pytest tests/test_checkpoints.py
"""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from conftest import memory
from safetensors.torch import load_file, save_file
from test_model import SIZES, WINDOW_OFF, both, config_of, greedy, oracle_of, random_ids
from test_model import tokenizer_of, write
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from plumbing.checkpoints import MODELS, identity_of, load_model, resolve_model, save_model


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
    "not finite": (lambda f: edit_tensors(f, lambda t: t[NORM].fill_(float("nan"))), f"{NORM} is not fin"),
    "parts alone": (
        lambda f: (f / "model.safetensors").rename(f / "model-00001-of-00001.safetensors"),
        "nor model.safetensors.index.json",
    ),
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
    "part of a head": (
        dict(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0,
                              "partial_rotary_factor": 0.5}),
        "a part of each head rotated",
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
    of_others = "Qwen/Qwen3-4B-Instruct-2507 Qwen/Qwen3-4B-Thinking-2507 tiiuae/Falcon3-1B-Base "
    of_others += "tiiuae/Falcon3-10B-Instruct OctoThinker/OctoThinker-3B-Hybrid-Base "
    of_others += "deepseek-ai/DeepSeek-R1-Distill-Llama-8B "
    for size in ("1.5B", "7B", "14B", "32B"):
        of_others += f"deepseek-ai/DeepSeek-R1-Distill-Qwen-{size} "
    for name in of_others.split():
        assert resolve_model(name.split("/")[1]) == name
    assert resolve_model("owner/name") == "owner/name"
    assert resolve_model(str(tmp_path)) == str(tmp_path)
    for name in ("Qwen2.5-2B", "qwen"):
        with pytest.raises(ValueError, match="SmolLM2-135M"):
            resolve_model(name)
    for name in ("./missing", "/missing", "../missing/folder", "a/b/c"):
        with pytest.raises(ValueError, match=f"no folder '{name}'$"):
            resolve_model(name)

# --------------------------------------------------------------------------------------------------
# Damaged or hostile folders: one line, which names the file

BAD = (None, 0, -1, 1.5, "x", "", [], {}, True, 10**12, [1], {"a": 1})


def refused(folder, *, allowed=False):
    """The message with which a folder is refused; None if it is not, where that is allowed."""
    try:
        load_model(str(folder))
    except ValueError as error:
        assert "\n" not in str(error) and str(folder) in str(error)
        return str(error)
    assert allowed, "loaded"


@pytest.mark.parametrize("key", ["vocab_size", "num_attention_heads", "num_key_value_heads",
                                 "hidden_size", "rope_parameters", "max_position_embeddings",
                                 "quantization_config", "eos_token_id", "layer_types", "auto_map",
                                 "dual_chunk_attention_config", "rope_scaling", "hidden_act"])  # fmt: skip
def test_no_value_of_a_config_is_a_traceback(key, folder):
    """Bug: AttributeError, ZeroDivisionError, ... from deep inside for a config of wrong types."""
    whole = (folder / "config.json").read_text()
    for value in BAD:
        (folder / "config.json").write_text(json.dumps(json.loads(whole) | {key: value}))
        refused(folder, allowed=True)


@pytest.mark.parametrize("stated", ["0", ["0"], [[1]], {"a": 1}, True, 1.5, [1, None, "2"]])
def test_an_end_token_is_a_number(stated, folder):
    """Bug: "0" as text, which is compared with numbers and never ends a response; a traceback."""
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stated}))
    assert "generation_config.json: eos_token_id" in refused(folder)


@pytest.mark.parametrize("text", ["null", "[]", "5", '"x"', "{}", "[" * 100_000, '{"model": null}',
                                  "\udcff", '{"version": "1.0", "model": {"type": "BPE"}}'])  # fmt: skip
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_tokenizer_is_named(name, text, folder):
    """Bug: a traceback out of the tokenizers library, whose errors are of the class Exception."""
    (folder / name).write_text(text, "utf-8", errors="surrogateescape")
    objects = name == "tokenizer_config.json" and text.startswith("{")
    assert name == "tokenizer_config.json" or refused(folder)
    refused(folder, allowed=objects)


@pytest.fixture
def shards(folder):
    """(folder, its index) of one shard, beside a file outside."""
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    shutil.copy(folder / "model-1.safetensors", folder.parent / "outside.safetensors")
    keys = load_file(folder / "model-1.safetensors").keys()

    def index(value):
        found = {"weight_map": value(keys) if callable(value) else value}
        (folder / "model.safetensors.index.json").write_text(json.dumps(found))

    return folder, index


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "x/../../outside.safetensors",
                                  "..\\outside.safetensors", "C:\\x.safetensors", "..", "", ".",
                                  "C:x.safetensors", "config.json", "pytorch_model.bin"])  # fmt: skip
def test_an_index_names_files_beside_it(name, shards):
    """Bug: an index of shards by which a downloaded folder reads any file of the machine."""
    folder, index = shards
    index(lambda keys: dict.fromkeys(keys, name))
    assert "index.json names" in refused(folder)


@pytest.mark.parametrize("value", [[], ["model-1.safetensors"], None, "x", 3, {}, {"a": 1}, {"a": []},
                                   {"a": {"b": "c"}}, {"a": None}])  # fmt: skip
def test_an_index_maps_tensors_to_files(value, shards):
    """Bug: 'list' object has no attribute 'values'."""
    folder, index = shards
    index(value)
    assert "index.json" in refused(folder)
    index(lambda keys: dict.fromkeys(keys, "model-1.safetensors"))
    load_model(str(folder))


@pytest.mark.parametrize("changes", [
    {"r": None}, {"r": "8"}, {"r": 0}, {"r": -1}, {"lora_alpha": None}, {"lora_alpha": "x"},
    {"base_model_name_or_path": None}, {"base_model_name_or_path": 3}, {"use_dora": True},
    {"use_rslora": True}, {"rank_pattern": {"q_proj": 4}}, {"modules_to_save": ["lm_head"]},
    {"r": True}, {"r": 10**12}, {"init_lora_weights": "pissa_niter_4"}, {"lora_alpha": float("nan")},
    {"base_model_name_or_path": "itself"}, {"base_model_name_or_path": ""}, {"base_model_name_or_path": "/nowhere/at/all"},
])  # fmt: skip
def test_adapters_that_are_not_plain_ones_are_refused(changes, folder, tmp_path):
    """Bug: KeyError, RecursionError of a folder whose base is itself, rsLoRA at LoRA's scale; the
    base in silence where the file has no adapters, or one of two.
    """
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    settings = {"base_model_name_or_path": str(folder), "r": 2, "lora_alpha": 4}
    file, name = adapters / "adapter_model.safetensors", "model.layers.0.mlp.up_proj"
    out_size, in_size = load_model(str(folder))[0].get_submodule(name).weight.shape
    pair = {f"{name}.lora_A.weight": torch.ones(2, in_size),
            f"{name}.lora_B.weight": torch.ones(out_size, 2)}  # fmt: skip
    (adapters / "adapter_config.json").write_text(json.dumps(settings))
    for part in ({}, dict(list(pair.items())[:1]), dict(list(pair.items())[1:]), pair):
        save_file(part, file)
        if part is not pair:
            with pytest.raises(ValueError, match="lacks adapters"):
                load_model(str(adapters))
    load_model(str(adapters))
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="is damaged or cut short"):
        load_model(str(adapters))
    file.write_bytes(whole)
    found = settings | changes
    if found["base_model_name_or_path"] == "itself":
        found["base_model_name_or_path"] = str(adapters)
    (adapters / "adapter_config.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match="adapter_config.json cannot be used|no folder"):
        load_model(str(adapters))


def test_a_model_is_known_by_its_files(folder, tmp_path):
    """Bug: a model trained anew under its name, a template or a base of adapters that changed."""
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    save_file({"a": torch.ones(2)}, adapters / "adapter_model.safetensors")
    settings = {"base_model_name_or_path": str(folder), "r": 2, "lora_alpha": 4}
    (adapters / "adapter_config.json").write_text(json.dumps(settings))
    seen = {identity_of(str(folder)), identity_of(str(adapters))}
    assert seen == {identity_of(str(folder)), identity_of(str(adapters))} and len(seen) == 2
    for changed in ("tokenizer_config.json", "model.safetensors"):
        with (folder / changed).open("ab") as file:
            file.write(b" ")
        found = {identity_of(str(folder)), identity_of(str(adapters))}
        assert len(found) == 2 and not found & seen
        seen |= found


def test_a_pointer_of_git_lfs_says_so(folder):
    """Bug: "header too large" where a clone has pointers in place of files."""
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    for name in ("model.safetensors", "tokenizer.json"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(pointer)
        with pytest.raises(ValueError, match=f"{name} is a pointer of Git LFS, not the file"):
            load_model(str(folder))
        (folder / name).write_bytes(whole)


def test_a_folder_of_the_hubs_cache_is_named(folder, tmp_path):
    """Bug: "has no config.json" of a folder that holds a whole model further down."""
    inner = tmp_path / "models--A--B" / "snapshots" / "0123abc"
    shutil.copytree(folder, inner)
    with pytest.raises(ValueError, match=f"is a folder of the hub's cache: give {inner}"):
        load_model(str(tmp_path / "models--A--B"))


def test_a_tokenizer_of_the_adapters_own_is_theirs(folder, tmp_path, capsys):
    """Bug: a template or tokens that adapters were trained with, beside them, are not read; a
    folder without tokenizer_config.json in silence.
    """
    adapters, pair = tmp_path / "adapters", {}
    tokenizer = load_model(str(folder))[1]
    tokenizer.chat_template = "{{ messages[0].content }}!"
    tokenizer.save_pretrained(adapters)
    for half, shape in (("A", (2, 32)), ("B", (32, 2))):
        pair[f"model.layers.0.self_attn.q_proj.lora_{half}.weight"] = torch.ones(shape)
    save_file(pair, adapters / "adapter_model.safetensors")
    settings = {"base_model_name_or_path": str(folder), "r": 2, "lora_alpha": 4}
    (adapters / "adapter_config.json").write_text(json.dumps(settings))
    assert load_model(str(adapters))[1].chat_template == tokenizer.chat_template
    told = capsys.readouterr().out
    assert "no tokenizer_config.json" not in told and "a whole model too" not in told
    shutil.copy(folder / "model.safetensors", adapters)
    load_model(str(adapters))
    assert f"{adapters} holds a whole model too: its adapters are used" in capsys.readouterr().out
    (folder / "tokenizer_config.json").unlink()
    load_model(str(folder))
    assert f"{folder} has no tokenizer_config.json" in capsys.readouterr().out


def test_long_context_by_chunks_is_said_and_held_to_what_is_right(folder, capsys, tmp_path):
    """Bug: Qwen2.5-7B-Instruct-1M loads, and is wrong beyond the length of a chunk."""
    chunks = {"chunk_size": 64, "local_size": 8, "original_max_position_embeddings": 64}
    edit_config(folder, dual_chunk_attention_config=chunks, max_position_embeddings=256)
    model, tokenizer = load_model(str(folder))
    assert model.max_positions == 64
    assert "dual chunk attention is not computed" in capsys.readouterr().out
    save_model(model, tokenizer, tmp_path / "copy")
    saved = json.loads((tmp_path / "copy/config.json").read_text())
    assert saved["max_position_embeddings"] == 256
    assert saved["dual_chunk_attention_config"] == chunks


@pytest.mark.parametrize(
    ("error", "message"),
    [("GatedRepoError", "cannot load owner/name .*it is gated: accept its terms at .*owner/name"),
     ("RepositoryNotFoundError", "cannot load owner/name .*or it is private"),
     ("LocalEntryNotFoundError", "LocalEntry.*: give --model a folder"),
     ("OfflineModeIsEnabled", "Offline.*: give --model a folder")],
)  # fmt: skip
def test_why_the_hub_gives_nothing(error, message, monkeypatch):
    """Bug: a gated model told as "without a network"."""
    import huggingface_hub.errors

    def fail(*names, **how):
        kind = getattr(huggingface_hub.errors, error)
        raise kind.__new__(kind)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(ValueError, match=message):
        load_model("owner/name")


# --------------------------------------------------------------------------------------------------
# What a checkpoint is for others: transformers 4 reads rope_theta and rope_scaling

ROPES = {
    "theta": ({"rope_theta": 1e6}, {"rope_theta": 1e6, "rope_type": "default"}),
    "linear": (
        {"rope_theta": 2e4, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_theta": 2e4, "rope_type": "linear", "factor": 2.0},
    ),
    "old yarn": (
        {"rope_theta": 1e6, "rope_scaling": {"type": "yarn", "factor": 4.0,
                                             "original_max_position_embeddings": 64}},
        {"rope_theta": 1e6, "rope_type": "yarn", "factor": 4.0,
         "original_max_position_embeddings": 64},
    ),
    "llama3": (
        {"rope_theta": 5e5, "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64}},
        {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
         "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", ["4", "5"])
@pytest.mark.parametrize("rope", ROPES)
def test_rope_is_where_each_version_looks_for_it(rope, form, folder, tmp_path):
    """Bug: transformers 4, and Ollama's converter, find no rope_theta, take 10000, and say nothing.
    Tried with transformers 4.57.6: the gap of the logits is 0.
    """
    old, new = ROPES[rope]
    changes = old | {"rope_parameters": None} if form == "4" else {"rope_parameters": new}
    edit_config(folder, **changes)
    model, tokenizer = load_model(str(folder))
    save_model(model, tokenizer, tmp_path / "copy")
    before = json.loads((folder / "config.json").read_text())
    saved = json.loads((tmp_path / "copy/config.json").read_text())
    assert saved["rope_theta"] == old["rope_theta"]
    scaling = dict(saved.get("rope_scaling") or {"rope_type": "default"})
    scaling["rope_type"] = scaling.pop("type", scaling.get("rope_type"))
    assert scaling | {"rope_theta": saved["rope_theta"]} == new
    dtype = {"dtype": "float32", "torch_dtype": "float32"}
    kept = {"architectures": ["Qwen2ForCausalLM"], **dtype}
    added = saved.keys() - before.keys()
    assert {key: saved[key] for key in before if key not in kept} == {
        key: value for key, value in before.items() if key not in kept
    }
    assert added <= {"rope_theta", "rope_scaling", *dtype} and saved | kept == saved
    ids = random_ids(1, 60)
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "copy")(ids).logits
        assert (model.lm_head(model(ids)) - theirs).abs().max() < 1e-4


def test_what_belongs_to_the_source_stays(folder, tmp_path):
    """Bug: the tokenizer's class in words of transformers 5, sampling settings lost, files that
    nobody else may read.
    """
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json",
             "merges.txt", "added_tokens.json", "chat_template.jinja")  # fmt: skip
    edit = json.loads((folder / "tokenizer_config.json").read_text())
    edit |= {"tokenizer_class": "PreTrainedTokenizerFast", "odd": 1}
    edit["additional_special_tokens"] = edit.pop("extra_special_tokens", [])
    (folder / "tokenizer_config.json").write_text(json.dumps(edit, indent=7))
    (folder / "special_tokens_map.json").write_text('{   }')
    (folder / "merges.txt").write_text("#version: 0.2\n")
    settings = {"repetition_penalty": 1.1, "top_p": 0.8, "do_sample": True, "pad_token_id": 5}
    generation = {"eos_token_id": [1, 7], "transformers_version": "4.51.0"} | settings
    (folder / "generation_config.json").write_text(json.dumps(generation))
    edit_config(folder, auto_map={"AutoConfig": "code.Config"}, torch_dtype="bfloat16", odd=[1])
    model, tokenizer = load_model(str(folder))
    umask = os.umask(0o027)
    save_model(model, tokenizer, tmp_path / "copy")
    os.umask(umask)
    for name in names:
        if (folder / name).is_file():
            assert (tmp_path / "copy" / name).read_bytes() == (folder / name).read_bytes(), name
    found = json.loads((tmp_path / "copy/generation_config.json").read_text())
    assert found == {"bos_token_id": tokenizer.bos_token_id} | generation
    config = json.loads((tmp_path / "copy/config.json").read_text())
    assert config["odd"] == [1] and "auto_map" not in config
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "copy").iterdir()}
    assert set(modes.values()) == {0o640} and "model.safetensors" in modes, modes


def test_a_tokenizer_changed_in_memory_is_saved_as_it_is(folder, tmp_path):
    """Bug: the source's files copied over a token or a template that was added since."""
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    model, tokenizer = load_model(str(folder))
    tokenizer.chat_template = "{{ messages[0].content }}!"
    tokenizer.add_special_tokens({"additional_special_tokens": ["<new>"]})
    save_model(model, tokenizer, tmp_path / "copy")
    _, found = load_model(str(tmp_path / "copy"))
    assert found.chat_template == tokenizer.chat_template
    assert found("<new>").input_ids == tokenizer("<new>").input_ids
    config = json.loads((tmp_path / "copy/tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "<new>" in config["additional_special_tokens"]
    assert not isinstance(config.get("extra_special_tokens"), list)  # transformers 4 fails on it


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

