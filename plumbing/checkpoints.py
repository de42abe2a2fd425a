"""Models as Hugging Face folders, in and out: strict loading, saving what others read.

1. Parameter names are those of the checkpoint, so loading is strict and needs no mapping table.
2. Tensors are safetensors and the rest is JSON: a downloaded model runs no code.
3. What is saved is the source's folder with other weights: its config and its tokenizer's files
   are kept as they were, so whatever read the source (transformers 4 or 5, vLLM, llama.cpp, Ollama)
   reads the checkpoint.
4. With --shard each process keeps its part of every tensor (`processes.part_of`).
"""

import hashlib
import json
import os
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from model import CausalLM, whole
from plumbing import lora
from plumbing.console import say
from plumbing.files import NUMBER, check_record, fault_of, hash_of, is_plain_name, read_json
from plumbing.files import write_json
from plumbing.hub import MODELS, fetch_folder, resolve_model  # noqa: F401, public here
from plumbing.processes import part_of, world_size

# config.model_type and its name in transformers; all are the one class below with other switches
FAMILIES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # frequencies that no input changes
# What the peft library offers beside plain LoRA
UNKNOWN_LORA = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save",
                "fan_in_fan_out", "lora_bias")  # fmt: skip
HALVES = ("lora_A", "lora_B")  # of a layer's adapter
ADAPTERS = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."  # the peft library wraps the model twice
# What a config of wrong numbers or types raises where it is used
WRONG_VALUES = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
TOKENIZER_FILES = (
    *VOCABULARIES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip


def compute_dtype(device):
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def best_device():
    """Keywords of `load_model`, to sample with."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {"dtype": compute_dtype(device), "device": device}


def load_config(folder):
    """config.json as a transformers config. Raises ValueError: what of it is not computed here."""
    from transformers import AutoConfig

    kind = read_json(folder / "config.json").get("model_type")
    if kind is None and any(folder.glob("checkpoint-*")):
        raise ValueError(f"it is of a run, not of a model: give {folder}/checkpoint-N")
    if kind not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ValueError(f"this model is not supported: model_type {kind!r} (supported: {known})")
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    rope = config.rope_parameters["rope_type"]
    others = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if kind == "mistral" and (config.sliding_window or torch.inf) < config.max_position_embeddings:
        others.add("sliding_attention")
    unsupported = {
        "quantised weights": getattr(config, "quantization_config", None) is not None,
        f"layers with {', '.join(sorted(others))} (supported: full_attention)": others,
        f"activation {config.hidden_act!r} (supported: silu)": config.hidden_act != "silu",
        "a part of each head rotated": rope != "default" and
        config.rope_parameters.get("partial_rotary_factor", 1) != 1,
        f"rope type {rope!r} (supported: {', '.join(ROPE_TYPES)})": rope not in ROPE_TYPES,
    }
    for feature, found in unsupported.items():
        if found:
            raise ValueError(f"this model is not supported: {feature}")
    if rope == "yarn":  # Qwen's files with yarn go on stating the length without it.
        yarn, stated = config.rope_parameters, config.max_position_embeddings
        extended = int(yarn["factor"] * yarn["original_max_position_embeddings"])
        config.max_position_embeddings = max(stated, extended)
    # Qwen2.5-1M attends by chunks past the length it was trained at; up to it, to all as others do.
    if chunks := getattr(config, "dual_chunk_attention_config", None):
        plain = chunks["original_max_position_embeddings"]
        config.max_position_embeddings = min(plain, config.max_position_embeddings)
    return config


def shapes_of(name, dtype):
    """The model of a folder or hub id from its config.json alone: on "meta", without storage."""
    from huggingface_hub.errors import StrictDataclassError

    folder = fetch_folder(name, ["*config.json"])
    if adapters := read_adapters(folder):
        return shapes_of(adapters["base_model_name_or_path"], dtype)
    source, generation = read_json(folder / "config.json"), folder / "generation_config.json"
    try:
        with torch.device("meta"):
            model = CausalLM(load_config(folder))
    except (StrictDataclassError, *WRONG_VALUES) as error:
        reason = " ".join(str(error).split())  # in one line
        raise ValueError(f"{folder / 'config.json'} cannot be used: {reason}") from error
    model.compute_dtype = dtype
    model.source_config = source
    model.source_generation = read_json(generation) if generation.is_file() else {}
    return model


def load_model(name, dtype=torch.float32, device="cpu", shard=False):
    """(model, tokenizer) of a folder or hub id: config.json, *.safetensors, tokenizer files.

    Strict: a missing, extra or misshapen tensor is a ValueError, and so is a feature that is not
    computed here. Tensors are read one by one, so peak memory is one copy and the largest tensor.
    shard: of that copy only what this process is to hold, by FSDP2.
    """
    folder = fetch_folder(name)
    if adapters := read_adapters(folder):  # of LoRA: the base that they name, merged
        base = adapters["base_model_name_or_path"]
        if any(folder.glob("model*.safetensors")):
            say(f"{folder} holds a whole model too: its adapters are used, on {base}")
        model, tokenizer = load_model(base, dtype, device, shard)
        model.base = base_of(base)
        lora.add_adapters(model, adapters["r"], adapters["lora_alpha"])
        fill_adapters(model, folder)
        with safe_open(folder / ADAPTERS, framework="pt") as opened:
            known = (opened.metadata() or {}).get("base_hash", model.base[1])
        if known != model.base[1]:
            say(f"warning: {folder / ADAPTERS} was trained on other weights than those of {base}")
        lora.merge(model)
        if any((folder / one).is_file() for one in VOCABULARIES):  # of their own, as peft takes it
            tokenizer = load_tokenizer(folder)
            model.eos_ids = eos_ids_of(folder, model, tokenizer)
        return model, tokenizer
    model = shapes_of(folder, dtype).to(dtype)
    if getattr(model.config, "dual_chunk_attention_config", None):
        held = f"rows are held to the {model.max_positions:,} tokens that do without it"
        say(f"{name}: dual chunk attention is not computed; {held}")
    if shard:
        shard_model(model, device)
    try:
        model.to_empty(device=device)
    except RuntimeError as error:
        raise ValueError(f"{folder}: no memory for its weights ({error})") from error
    if model.config.tie_word_embeddings and not shard:  # FSDP2 ties them again by itself
        model.lm_head.weight = model.model.embed_tokens.weight
    fill_parameters(model, folder)
    tokenizer = load_tokenizer(folder)
    model.eos_ids = eos_ids_of(folder, model, tokenizer)
    return model, tokenizer


def load_tokenizer(folder):
    """The tokenizer of a folder. It keeps the files it was made from, for `save_tokenizer`."""
    from transformers import AutoTokenizer

    files = {name: folder / name for name in TOKENIZER_FILES if (folder / name).is_file()}
    # without files of a vocabulary transformers would make an empty tokenizer, and not say so
    if not files.keys() & set(VOCABULARIES):
        remedy = f"copy one of {', '.join(VOCABULARIES)} there, and its config"
        raise ValueError(f"{folder} has no tokenizer: {remedy}")
    if "tokenizer_config.json" not in files:
        say(f"warning: {folder} has no tokenizer_config.json: special tokens may be missing")
    if (folder / "additional_chat_templates").is_dir():
        say(f"{folder / 'additional_chat_templates'} is not used, and not kept in checkpoints")
    for name in files:
        if name.endswith(".json"):
            read_json(files[name])
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises this very class
        reason = " ".join(str(error).split())  # in one line
        if "trust_remote_code" in reason:
            reason = "it is made by code in the folder, which is never run here"
        raise ValueError(f"{folder} has no tokenizer that can be read ({reason})") from error
    tokenizer.source_files = {name: file.read_bytes() for name, file in files.items()}
    tokenizer.source_state = state_of(tokenizer)
    return tokenizer


def state_of(tokenizer):
    """A text that differs once tokens or the chat template were changed."""
    return f"{tokenizer!r} {tokenizer.chat_template}"


def weight_files(folder):
    """model.safetensors, else the shards that its index names."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if not index.is_file():
        others = "other formats can carry code"
        raise ValueError(f"{folder} has no model.safetensors, nor {index.name} ({others})")
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} is damaged: it has no weight_map of tensors to files")
    names = sorted(set(map(str, weight_map.values())))
    for name in names:
        if not is_plain_name(name) or not name.endswith(".safetensors"):
            raise ValueError(f"{index} names {name!r}, which is no .safetensors file beside it")
        if not (folder / name).is_file():
            raise ValueError(f"{folder} lacks {name}, which {index.name} names")
    return [folder / name for name in names]


def base_of(name):
    """What adapters keep of their base: its name, in any working folder, and its weights' hash."""
    name, folder = resolve_model(name), fetch_folder(name)
    if read_adapters(folder):
        raise ValueError(f"--lora-rank: {folder} holds adapters: merge them first")
    name = os.path.abspath(name) if Path(name).is_dir() else name
    return name, hash_of_all(weight_files(folder))


def identity_of(name):
    """A text of hashes of all files that decide what a model says; of adapters' base too."""
    folder = fetch_folder(name)
    named = [folder / one for one in ("config.json", "generation_config.json", *TOKENIZER_FILES)]
    files = [file for file in named if file.is_file()]
    if adapters := read_adapters(folder):
        base = identity_of(adapters["base_model_name_or_path"])
        return base + hash_of_all([folder / ADAPTERS, folder / "adapter_config.json", *files])
    return hash_of_all(weight_files(folder) + files)


def hash_of_all(files):
    return hashlib.sha256("".join(map(hash_of, files)).encode()).hexdigest()


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
            raise ValueError(f"{file} {fault_of(file, error)}") from error
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
    if not tensor.isfinite().all():
        raise ValueError(f"{file}: {key} is not finite")
    parameter.data.copy_(part_of(tensor, parameter))


def eos_ids_of(folder, model, tokenizer):
    """Ids that end a response: of generation_config.json, else config.json; and the tokenizer's."""
    stated = model.source_generation.get("eos_token_id", model.config.eos_token_id)
    stated = stated if isinstance(stated, list) else [stated]
    for token in stated:
        if token is not None and type(token) is not int:
            file = folder / "generation_config.json"
            raise ValueError(f"{file}: eos_token_id {token!r} is no number of a token")
    return tuple(sorted({*stated, tokenizer.eos_token_id} - {None}))


def save_model(model, tokenizer, path, weights=None):
    """Write a Hugging Face folder: that of the source, with these weights in their dtype.

    weights  {name: tensor}, those of a model that is cut over processes
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    weights = weights or dict(model.named_parameters())
    tensors = {name: weight.detach().cpu() for name, weight in weights.items()}
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    config = as_transformers_4(getattr(model, "source_config", model.config.to_diff_dict()))
    config |= {"dtype": dtype, "torch_dtype": dtype}  # the name in transformers 5, and before
    config["architectures"] = [f"{FAMILIES[model.config.model_type]}ForCausalLM"]
    write_json(path / "config.json", config)
    generation = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    generation |= getattr(model, "source_generation", {})
    generation["eos_token_id"] = list(model.eos_ids) or None
    write_json(path / "generation_config.json", generation)
    save_tokenizer(tokenizer, path)
    write_tensors(tensors, path / "model.safetensors")


def save_adapters(config, weights, path, base):
    """Write LoRA's adapters, {name: tensor}, without their base, as the peft library would."""
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base[0],
        "r": config.lora_rank, "lora_alpha": config.lora_alpha, "lora_dropout": 0.0, "bias": "none",
        "target_modules": sorted({name.split(".")[-3] for name in weights}),
    }  # fmt: skip
    write_json(path / "adapter_config.json", settings)
    named = {PEFT_PREFIX + name: weight for name, weight in weights.items()}
    write_tensors(named, path / ADAPTERS, base_hash=base[1])


def read_adapters(folder):
    """adapter_config.json of a folder of LoRA's adapters; {}: a whole model. Raises ValueError."""
    file = folder / "adapter_config.json"
    if not file.is_file():
        return {}
    settings = read_json(file)
    needs = {"base_model_name_or_path": str, "r": int, "lora_alpha": NUMBER}
    check_record(f"{file} cannot be used", settings, needs)
    wrong = [name for name in UNKNOWN_LORA if settings.get(name)]
    wrong += [] if settings["base_model_name_or_path"] else ["base_model_name_or_path"]
    start = str(settings.get("init_lora_weights")).lower()  # these change their base as well
    wrong += ["init_lora_weights"] if start.startswith(("pissa", "olora", "corda", "loftq")) else []
    if wrong or not 0 < settings["r"] < 2**16:
        name = (wrong or ["r"])[0]
        raise ValueError(f"{file} cannot be used: {name} is {settings[name]!r}")
    if Path(settings["base_model_name_or_path"], file.name).is_file():
        raise ValueError(f"{file} cannot be used: its base is no whole model, but adapters too")
    try:
        fetch_folder(settings["base_model_name_or_path"], ["config.json"])
    except ValueError as error:
        remedy = "put a link there, or name its new place in the file"
        if not Path(settings["base_model_name_or_path"]).is_absolute():
            remedy = "a folder is looked for from where you start: go there, or put a link there"
        raise ValueError(f"{file} cannot be used, for its base: {error}; {remedy}") from error
    return settings


def fill_adapters(model, folder):
    file, parameters = folder / ADAPTERS, dict(model.named_parameters())
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} {fault_of(file, error)}") from error
    a, b = ({key.replace(half, "") for key in tensors if half in key} for half in HALVES)
    if not a or a != b:  # with one of them alone a layer is as in the base
        raise ValueError(f"{file} lacks adapters: a layer needs {' and '.join(HALVES)}")
    for key, tensor in tensors.items():
        fill(parameters.get(key.removeprefix(PEFT_PREFIX)), key, tensor, file)


def as_transformers_4(config):
    """A config.json with the keys in which transformers 4 and most servers look for RoPE."""
    config = {name: value for name, value in config.items() if name != "auto_map"}  # its code
    rope = config.get("rope_parameters")  # the one key of transformers 5
    if rope and not config.get("rope_theta"):
        config["rope_theta"] = rope["rope_theta"]
    if rope and rope["rope_type"] != "default" and not config.get("rope_scaling"):
        config["rope_scaling"] = {name: rope[name] for name in rope if name != "rope_theta"}
    return config


def save_tokenizer(tokenizer, path):
    """The files it was made from, or new ones if it changed; in words that transformers 4 knows."""
    source, file = getattr(tokenizer, "source_files", {}), path / "tokenizer_config.json"
    if source and tokenizer.source_state == state_of(tokenizer):
        for name, content in source.items():
            (path / name).write_bytes(content)
    else:
        tokenizer.save_pretrained(path)
    config = read_json(file) if file.is_file() else {}
    before = json.loads(source.get(file.name, "{}")).get("tokenizer_class")
    changed = config | {"tokenizer_class": before or config.get("tokenizer_class")}
    if changed["tokenizer_class"] in (None, "TokenizersBackend"):
        changed["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):
        changed["additional_special_tokens"] = changed.pop("extra_special_tokens")
    if changed != config:
        write_json(file, changed)


def write_tensors(tensors, file, **metadata):
    """A .safetensors file, readable by whom the umask lets. Raises OSError, as for a full disk."""
    file.touch()
    mode = file.stat().st_mode
    try:
        save_file(tensors, file, metadata={"format": "pt"} | metadata)  # anew, for its owner alone
    except SafetensorError as error:
        raise OSError(f"{file}: {error}") from error
    file.chmod(mode)


def shard_model(model, device):
    """Cut an empty model over the processes: this one is to hold its part."""
    from torch.distributed.fsdp import fully_shard  # slow to import

    mesh = dist.init_device_mesh(torch.device(device).type, (world_size(),))
    for module in (*model.model.layers, model):
        fully_shard(module, mesh=mesh)
        module.set_force_sum_reduction_for_comms(True)  # not the mean: as in `sum_gradients`
        module.set_gradient_divide_factor(1.0)
