"""The flags of a run: one dataclass holds them, checks them, and makes `--help`.

1. Defaults are written once, in `Config`; a preset overrides them, a flag overrides both.
2. With --resume the flags of the run in --out take the place of the defaults.
"""

import argparse
import math
import re
import sys
import types
from dataclasses import dataclass, field, fields
from functools import partial

from prerl import OBJECTIVES, PACK_TOKENS
from tiny import NAMED_WORLDS

PRESETS = {  # defaults by name; every value can be overridden by its flag
    "tiny": {"model": "tiny", "lr": 2e-4, "steps": 160, "prerl_steps": 20, "prompts_per_step": 32,
             "max_response_tokens": 128, "eval_every": 20},
    "qwen2.5-1.5b-24gb": {"model": "Qwen2.5-1.5B", "prompts_per_step": 32,
                          "max_response_tokens": 1024},
    "qwen2.5-1.5b-80gb": {"model": "Qwen2.5-1.5B"},
    "paper-qwen3-4b": {"model": "Qwen3-4B", "prompts_per_step": 128, "max_response_tokens": 8192},
}  # fmt: skip
VARIANTS = {  # objectives of the first `prerl_steps` updates, and of the others
    "dsrl": (("nsr-prerl",), ("grpo",)),
    "twin": (("nsr-twin",), ("grpo",)),  # DSRL's control: another space, all else equal
    "prerl-grpo": (("prerl",), ("grpo",)),
    "joint": (("grpo", "nsr-prerl"),) * 2,
    **{name: ((name,),) * 2 for name in OBJECTIVES},
}
# flags that --resume cannot change
FIXED = ("model", "data", "prompts_per_step", "seed", "lora_rank", "lora_alpha", "preset")
FREE = (  # flags that change nothing of the result
    "steps", "resume", "out", "save_every", "eval_every", "eval_problems", "shard",
    "kv_cache_gb", "device", "dry_run", "export", "report_to", "alignment_every", "offload", "keep",
)  # fmt: skip


def flag(default, help_text, least=None, most=10**12, **options):
    """A field of Config: its default, and what `--help` says of the flag that sets it."""
    bounds = (-math.inf if least is None else least, most)
    return field(default=default, metadata={"help": help_text, "bounds": bounds, **options})


@dataclass(frozen=True)
class Config:
    """Every flag of the command line, in one place; checked on creation, written to config.json."""

    model: str = flag("tiny", "tiny, a folder, a short name (Qwen2.5-1.5B) or a hub id")
    preset: str | None = flag(None, "defaults by name; other flags override", choices=PRESETS)
    data: str | None = flag(None, "file, benchmark or NAME=FILE (default: the tiny world's, math)")
    eval_data: str | None = flag(None, "default: the test set of --data, or held out of it")
    reward: str | None = flag(None, "file.py:function, (problem, response) -> float in [0, 1]")
    device: str = flag("auto", "auto is CUDA where there is one", choices=("auto", "cpu", "cuda"))

    variant: str = flag("dsrl", "which objectives, see the table in the README", choices=VARIANTS)
    prerl_steps: int = flag(20, "updates of phase 1; 0 is plain GRPO", 0)
    prerl_coef: float | None = flag(
        None, "coefficient of P(y) losses, of the twin's (default: 0.01)", 0
    )
    advantage: str | None = flag(
        None, "override the objective's normalisation", choices=("mean", "zscore", "sign")
    )
    start_token: int | None = flag(None, "id that stands in for the prompt (default: looked up)")
    mask_eos: bool = flag(False, "leave EOS out of the loss")
    skip_first: int = flag(0, "response tokens left out of the loss at its start", 0)
    updates_per_rollout: int = flag(1, "optimizer steps on one rollout; 1 is strictly on-policy", 1)

    prompts_per_step: int = flag(64, "P, prompts per update", 1, 10**6)
    group_size: int = flag(8, "G, responses per prompt", 2, 10**6)
    max_prompt_tokens: int = flag(1024, "problems with a longer prompt are left out", 1)
    max_response_tokens: int = flag(2048, "tokens; a longer response is cut", 1)
    kv_cache_gb: float | None = flag(None, "GB for the KV cache (default: what is left)", 0)

    steps: int = flag(348, "updates in all, both phases", 1)
    lr: float = flag(1e-6, "learning rate of AdamW, constant", 0, 1)  # 1 moves each weight by 1
    micro_batch_tokens: int | None = flag(
        None, f"tokens of a forward and backward (default: {PACK_TOKENS['cpu']} on CPU, as fits "
        "on CUDA)", 1
    )
    checkpoint_activations: bool | None = flag(
        None, "compute layers again in backward: less memory (default: as the GPU needs)"
    )
    offload: bool | None = flag(None, "AdamW's moments in host memory (default: as the GPU needs)")
    lora_rank: int = flag(
        0, "train adapters of this rank; the default --lr is then ten times", 0, 10**4
    )
    lora_alpha: int = flag(32, "the adapters' scale is alpha / rank", 1)
    shard: bool = flag(False, "weights, gradients and moments cut over the processes of torchrun")

    eval_every: int = flag(25, "updates between evaluations", 1)
    eval_problems: int = flag(128, "problems of an evaluation, 8 responses each", 1)
    alignment_every: int | None = flag(None, "updates between two cosines of the spaces", 1)
    save_every: int = flag(20, "updates between checkpoints", 1)
    keep: int = flag(2, "checkpoints kept", 1)
    report_to: str | None = flag(
        None, "log there too; project and run by WANDB_PROJECT, WANDB_RUN_ID, TRACKIO_PROJECT",
        choices=("wandb", "trackio", "tensorboard"),
    )  # fmt: skip
    seed: int = flag(0, "of data order, sampling and evaluation", 0)  # times 10^6: 64 bits
    out: str = flag("out", "folder of the run")
    resume: bool = flag(False, "go on from the newest checkpoint in --out, with its flags")
    export: str | None = flag(None, "write the newest model in --out to this new folder, bf16")
    dry_run: bool = flag(False, "print settings, memory and time per update, then stop")

    def __post_init__(self):
        for item in fields(self):
            name, value, choices = flag_of(item.name), getattr(self, item.name), choices_of(item)
            kinds = getattr(item.type, "__args__", (item.type,))
            whole = type(value) is int and float in kinds  # 1 is a number too
            if type(value) not in kinds and not whole:
                raise ValueError(f"{name} is {value!r}: it must be of type {item.type}")
            if value == "":  # as --data=$UNSET gives, which is not the default
                raise ValueError(f"{name} is empty: give a value or leave it out")
            least, most = item.metadata["bounds"]
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} is {value}: it must be finite")
            if isinstance(value, int | float) and not least <= value <= most:
                limit = f"at least {least}" if value < least else f"at most {most}"
                raise ValueError(f"{name} is {value}: it must be {limit}")
            if value is not None and choices and value not in choices:
                raise ValueError(f"{name} is {value}: it must be one of {', '.join(choices)}")
        if self.shard and (self.offload or self.alignment_every or self.lora_rank):
            raise ValueError("--shard excludes --offload, --alignment-every and --lora-rank")
        if self.skip_first >= self.max_response_tokens:
            raise ValueError(f"--skip-first {self.skip_first} leaves nothing of "
                             f"--max-response-tokens {self.max_response_tokens}")  # fmt: skip
        losses = {name for phase in VARIANTS[self.variant] for name in phase}
        if self.prerl_coef is not None and all(OBJECTIVES[name].coef == 1 for name in losses):
            raise ValueError(f"--prerl-coef: {self.variant} has no loss that it scales")


GROUPS = {  # the field that opens each group of --help
    "model": "model and data", "variant": "phase 1 (PreRL) and phase 2 (RL)",
    "prompts_per_step": "sampling", "steps": "optimizer", "eval_every": "evaluation and output",
}  # fmt: skip
ALIASES = {  # spellings people type from habit
    "model": ("model_name_or_path",), "lr": ("learning_rate",), "group_size": ("num_generations",),
    "max_response_tokens": ("max_completion_length",), "out": ("output_dir",),
}  # fmt: skip


def flag_of(name):
    return "--" + name.replace("_", "-")


def choices_of(item):
    return tuple(item.metadata.get("choices", ()))


def make_parser():
    about = "Dual Space RL: NSR-PreRL on P(y), then GRPO on P(y|x)."
    usage = "python dsrl.py [--model M] [--data FILE] [flags]"
    wide = partial(argparse.HelpFormatter, max_help_position=36, width=100)  # characters
    how = {"usage": usage, "formatter_class": wide, "allow_abbrev": False}
    parser = argparse.ArgumentParser(description=about, **how)
    group = None
    for item in fields(Config):
        group = parser.add_argument_group(GROUPS[item.name]) if item.name in GROUPS else group
        names = [flag_of(name) for name in (item.name, *ALIASES.get(item.name, ()))]
        kind = item.type.__args__[0] if isinstance(item.type, types.UnionType) else item.type
        choices = choices_of(item)
        how = {"type": kind, "metavar": kind.__name__.upper()}
        how = {"choices": choices} if choices else how
        how = {"action": argparse.BooleanOptionalAction} if kind is bool else how
        shown = "" if item.default is None or kind is bool else f" (default: {item.default})"
        text = item.metadata["help"] + shown
        group.add_argument(*names, dest=item.name, help=text, default=argparse.SUPPRESS, **how)
    return parser


def parse_args(argv, saved_settings=None):
    """The Config of a command line: its flags over the preset's values over the defaults.

    saved_settings  function of --out: with --resume, the flags of the run there take the place of
                    defaults. But a folder never makes code run: those that do are given again.
    Raises ValueError.
    """

    def refuse(message):
        raise ValueError(f"{message} (python dsrl.py --help lists the flags)")

    parser = make_parser()
    parser.error = refuse  # one line, as for every other mistake
    argv = sys.argv[1:] if argv is None else argv
    # --group_size is right too
    hyphens = [re.sub("^--[^=]+", lambda match: match[0].replace("_", "-"), word) for word in argv]
    given = vars(parser.parse_args(hyphens))
    settings = {item.name: item.default for item in fields(Config)}
    if given.get("resume") and saved_settings:
        before = saved_settings(given.get("out", settings["out"]))
        if before.get("reward") and "reward" not in given:
            raise ValueError(
                f"the run's verifier was {before['reward']}, and a folder never makes code run: "
                f"give --reward {before['reward']} again"
            )
        kept = settings.keys() - {"out", "report_to", "dry_run", "export"}
        settings |= {name: value for name, value in before.items() if name in kept}
    else:
        preset = "tiny" if given.get("model", "tiny") in NAMED_WORLDS else None
        settings |= PRESETS.get(given.get("preset", preset), {})
        settings["lr"] = round(settings["lr"] * (10 if given.get("lora_rank") else 1), 9)
    settings |= given
    own = settings["model"] if settings["model"] in NAMED_WORLDS else "math"
    settings["data"] = own if settings["data"] is None else settings["data"]
    if "export" in given and (others := given.keys() - {"export", "out", "resume"}):
        names = ", ".join(map(flag_of, sorted(others)))
        raise ValueError(f"--export: of the other flags only --out counts: leave out {names}")
    if "lora_alpha" in given and not settings["lora_rank"]:
        raise ValueError("--lora-alpha: give --lora-rank too, the adapters that it scales")
    first, second = VARIANTS[settings["variant"]]
    if first == second:
        if "prerl_steps" in given:
            raise ValueError(f"--prerl-steps: {settings['variant']} has one phase, dsrl has two")
        objective = OBJECTIVES.get(settings["variant"])
        marginal = objective and objective.space == "marginal"
        settings["prerl_steps"] = settings["steps"] if marginal else 0
    return Config(**settings)
