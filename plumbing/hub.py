"""Names of models, and the hub from which they are fetched.

    python dsrl.py --model NAME    NAME is a short name, a folder, or OWNER/NAME of the hub
"""

from pathlib import Path

from tiny import NAMED_WORLDS, build

# Short names people type: owner on the hub, name up to the size, sizes, what may follow the size
_NAMES = (
    ("Qwen", "Qwen2-", "0.5B 1.5B 7B 72B", ("", "-Instruct")),
    ("Qwen", "Qwen2.5-", "0.5B 1.5B 3B 7B 14B 32B 72B", ("", "-Instruct")),
    ("Qwen", "Qwen2.5-Math-", "1.5B 7B 72B", ("", "-Instruct")),
    ("Qwen", "Qwen2.5-Coder-", "0.5B 1.5B 3B 7B 14B 32B", ("", "-Instruct")),
    ("Qwen", "Qwen3-", "0.6B 1.7B 4B 8B 14B", ("", "-Base")),
    ("Qwen", "Qwen3-", "32B", ("",)),
    ("Qwen", "Qwen3-4B-", "Instruct Thinking", ("-2507",)),
    ("deepseek-ai", "DeepSeek-R1-Distill-Qwen-", "1.5B 7B 14B 32B", ("",)),
    ("deepseek-ai", "DeepSeek-R1-Distill-Llama-", "8B", ("",)),
    ("tiiuae", "Falcon3-", "1B 3B 7B 10B", ("-Base", "-Instruct")),
    ("OctoThinker", "OctoThinker-", "3B", ("-Hybrid-Base",)),
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
HUB_FILES = ("*.json", "model*.safetensors", "*.txt", "*.jinja", "tokenizer.model")


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
        raise ValueError(f"a model, or the base of adapters, is missing: no folder {name!r}")
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
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except GatedRepoError as error:
        raise ValueError(
            f"{name} is gated: accept its terms at https://huggingface.co/{name} and set HF_TOKEN "
            "to a token of the account that did"
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"the hub has no model {name}, or it is private: check the name, or set HF_TOKEN"
        ) from error
    except OSError as error:  # all other errors of the hub's client are
        raise ValueError(
            f"no folder {name} here, and could not fetch it from the hub ({type(error).__name__}): "
            "without a network, give --model a folder with config.json, *.safetensors and the "
            "tokenizer's files"
        ) from error
