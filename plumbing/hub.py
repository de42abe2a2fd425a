"""Names of models, and the hub from which they are fetched.

    python dsrl.py --model NAME    NAME is a short name, a folder, or OWNER/NAME of the hub
"""

import zipfile
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

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
# Without a network the HTTP client raises errors of its own beside OSError.
CLIENT_ERRORS = (OSError, *HfHubHTTPError.__bases__)
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
    if Path(name).is_file():
        formats = "other formats, as GGUF, are not read"
        raise ValueError(f"{name} is a file: give its folder, with config.json ({formats})")
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
        cached = sorted(Path(name).glob("snapshots/*/config.json"))
        if cached and not Path(name, "config.json").exists():
            raise ValueError(f"{name} is a folder of the hub's cache: give {cached[0].parent}")
        return Path(name)
    advice = "give --model a folder with config.json, *.safetensors and the tokenizer's files"
    with hub_errors(name, f"https://huggingface.co/{name}", advice):
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(patterns)))


@contextmanager
def hub_errors(name, page, advice, is_gated=False):
    """Turn what the hub's client raises into one ValueError: why, and what to do."""
    try:
        yield
    except (*CLIENT_ERRORS, zipfile.BadZipFile) as error:
        reason, remedy = (str(error) or repr(error)).splitlines()[0], ""
        if is_gated or isinstance(error, GatedRepoError):
            remedy = f"it is gated: accept its terms at {page} and set HF_TOKEN; or "
        elif isinstance(error, RepositoryNotFoundError):
            remedy = "the hub has none of this name, or it is private: set HF_TOKEN; or "
        failed = f"cannot load {name} (no folder of this name is here; {reason})"
        raise ValueError(f"{failed}: {remedy}{advice}") from error
