"""Models as Hugging Face folders, in and out: names, the hub, strict loading, saving.

    python dsrl.py --model NAME    NAME is a short name, a folder, or OWNER/NAME of the hub

1. Parameter names are those of the checkpoint, so loading is strict and needs no mapping table.
2. Tensors are safetensors and the rest is JSON: a downloaded model runs no code.
3. With --shard each process keeps its part of every tensor (`processes.part_of`).
"""

import copy
import json
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from model import CausalLM
from plumbing.processes import part_of, whole, world_size
from tiny import NAMED_WORLDS, build

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


def best_device():
    """Keywords of `load_model`, to sample with: bf16 on CUDA, fp32 on the CPU."""
    if torch.cuda.is_available():
        return {"dtype": torch.bfloat16, "device": "cuda"}
    return {"dtype": torch.float32, "device": "cpu"}


def resolve_model(name):
    """A short name's hub id; a folder or hub id (owner/name) is itself; a tiny world is built once.

    Raises ValueError for anything else.
    """
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


def compute_dtype(device):
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def shapes_of(name, dtype):
    """The model of a folder or hub id from its config.json alone: on "meta", without storage."""
    with torch.device("meta"):
        model = CausalLM(load_config(fetch_folder(name, ["config.json"])))
    model.compute_dtype = dtype
    return model


def shard_model(sampler, name, device):
    """The fp32 model of a folder or hub id, cut over the processes: this one holds its part."""
    from torch.distributed.fsdp import fully_shard  # slow to import

    model = shapes_of(name, sampler.compute_dtype)
    mesh = dist.init_device_mesh(device.type, (world_size(),))
    for module in (*model.model.layers, model):
        fully_shard(module, mesh=mesh)
        module.set_force_sum_reduction_for_comms(True)  # not the mean: as in `sum_gradients`
        module.set_gradient_divide_factor(1.0)
    model.to_empty(device=device)
    fill_parameters(model, fetch_folder(name))
    model.eos_ids = sampler.eos_ids
    return model
