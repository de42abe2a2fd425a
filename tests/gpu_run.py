"""A whole short run on a GPU: 3 PreRL and 3 GRPO updates of a random model, its memory by item.

`dsrl.py` as a user starts it, on weights of Qwen2.5-1.5B's shape made here: 64 prompts of about 200
tokens, 8 responses each, 1,024 tokens at most, about 600 in the mean; half of them count as right.
What the device holds around sampling, gradients and AdamW is compared with the plan of --dry-run.

    python tests/gpu_run.py --out run.jsonl
    python tests/gpu_run.py --device cpu --quick     # the script itself
"""

import shutil
import sys
from unittest import mock

import torch
from bench_logprob import forget_peak, peak_so_far
from conftest import memory
from gpu import DEVICE, Skip, run_checks  # first, as it finds the project
from gpu_models import run_words, updates_of
from transformers import AutoModelForCausalLM

import dsrl
from plumbing import plan
from plumbing.checkpoints import load_model

PARTS = {"sampling": (dsrl, "generate"), "gradient": (dsrl, "policy_gradient"),
         "AdamW": (plan, "adam_step")}  # fmt: skip


def words_of(args):
    shape, prompt, response, prompts = ("1.5B", 100, 1024, 64)
    if args.quick:
        shape, prompt, response, prompts = ("quick", 20, 16, 4)
    sizes = f"--prompts-per-step {prompts} --group-size 8 --max-response-tokens {response}"
    sizes += f" --max-prompt-tokens {prompt + 128} --eval-problems {2 if args.quick else 8}"
    schedule = "--steps 6 --prerl-steps 3 --save-every 6 --keep 1 --eval-every 6"
    words = run_words(shape, args.work, prompt) + sizes.split() + schedule.split()
    return [*words, "--device", args.device, "--out", f"{args.work}/run"]


class Meter:
    """Bytes on the device around each call of a part: before, after, and the most in between."""

    def __init__(self):
        self.calls = {name: [] for name in PARTS}

    def watch(self, name):
        module, attribute = PARTS[name]
        function = getattr(module, attribute)

        def watched(*arguments, **options):
            forget_peak()
            before = allocated()
            result = function(*arguments, **options)
            self.calls[name].append((before, allocated(), peak_so_far()))
            return result

        return mock.patch.object(module, attribute, watched)


def allocated():
    return torch.cuda.memory_allocated() if DEVICE == "cuda" else memory("VmRSS")


def run(args, found):
    """It ends well, every update is applied, no item takes over a tenth more than planned."""
    out, words, meter = args.work / "run", words_of(args), Meter()
    shutil.rmtree(out, ignore_errors=True)
    start = allocated()
    with meter.watch("sampling"), meter.watch("gradient"), meter.watch("AdamW"):
        found.add("exit code", dsrl.main(words), 0)
    updates = updates_of(out)
    found.add("updates missing", 6 - len(updates), 0)
    found.add("updates not applied", sum(bool(update["skipped"]) for update in updates), 0)
    found.add("sampler's log P off, nats", max(one["sampler_gap"] for one in updates), 0.02)
    for name in ("phase", "reward", "length", "grad_norm", "seconds_sample", "seconds_update",
                 "tokens_forward", "tokens_per_second"):  # fmt: skip
        found.add(name, [update[name] for update in updates])
    compare_memory(found, dsrl.parse_args(words), meter.calls, start)


def compare_memory(found, config, calls, start):
    """Each item of the plan beside what was measured, in GB; on CUDA with the bound."""
    device = torch.device(DEVICE)
    model = plan.shapes(config, device)
    planned = plan.memory_plan(config, model, device, plan.fit_device(config, model, device))

    def items(*beginnings):
        """Bytes of all items whose names begin so."""
        return sum(size for name, size in planned.items() if name.startswith(beginnings))

    made = calls["gradient"][0][1] - calls["gradient"][0][0]  # .grad, which stays
    pairs = {
        "weights": (items("weights held"), calls["sampling"][0][0] - start),
        "gradients": (items("gradients"), made),
        "moments": (items("AdamW"), calls["AdamW"][0][1] - calls["AdamW"][0][0]),
        "activations and logits": (items("activations", "logits"), above(calls["gradient"]) - made),
        "weights laid out and KV cache": (
            items("weights laid out", "KV cache"), above(calls["sampling"])
        ),
        "an update in all": (
            items("weights held", "gradients", "AdamW", "activations", "logits"),
            max(peak for part in ("gradient", "AdamW") for _, _, peak in calls[part]) - start,
        ),
    }
    found.add("items that the plan lacks", sum(not planned for planned, _ in pairs.values()), 0)
    for name, (expected, measured) in pairs.items():
        found.add(f"{name}, planned GB", expected / 1e9)
        found.add(f"{name}, measured GB", measured / 1e9)
        if DEVICE == "cuda":  # a process on a CPU holds much else
            found.add(f"{name}, measured / planned", measured / expected, 1.1)


def above(calls):
    return max(peak - before for before, _, peak in calls)


def checkpoint(args, found):
    """transformers reads the last checkpoint, and gives our logits for it."""
    folder = args.work / "run/checkpoint-6"
    if not folder.is_dir():
        raise Skip("the run left no checkpoint")
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(DEVICE)
    model, tokenizer = load_model(f"{folder}", device=DEVICE)
    ids = torch.tensor([tokenizer("Question: 1+1\nAnswer:").input_ids], device=DEVICE)
    with torch.no_grad():
        expected, logits = theirs(ids).logits, model.lm_head(model(ids))
    found.add("largest logit", float(expected.abs().max()))
    found.add("largest difference", float((logits - expected).abs().max()), 1e-3)


CHECKS = (run, checkpoint)

if __name__ == "__main__":
    sys.exit(run_checks(__file__, __doc__, CHECKS))
