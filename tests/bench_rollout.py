"""Sampling: useful tokens a second of `rollout.generate` and of transformers' `generate`, in turn.

The same weights (made from a seed, saved as a folder that both load), the same prompts, prescribed
lengths (limits per row here, a StoppingCriteria with a mask per row there), no EOS, temperature 1,
no top-k, no top-p; prefill counts, so does everything else that a call does. Engines run in turn,
round by round, after one warm-up; a ratio is that of the medians, its range that of the rounds,
and "tie" where the range spans 1. One thread, seconds of CPU time: other processes slow caches
and memory, not the count; the load of the machine is reported.

"without X" is our sampler with one technique replaced by the usual way, and so what X buys.
"of ceiling" is useful tokens * FLOPs of the matrix products for one / the rate of a large product.

    tiny    6 layers, D 256, V 4096 (5.5M), 64 prompts of 32 tokens, 64 tokens each
    tail    the same model, 16 prompts x 8, lengths lognormal: median 60, sigma 0.7, at most 256
    135M    the checkpoint in DSRL_REAL_MODEL, 32 prompts of 32 tokens, 16 tokens each

    python tests/bench_rollout.py --quick
    python tests/bench_rollout.py --dtype bfloat16 --peer-only
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, StoppingCriteria, StoppingCriteriaList

import rollout
from bench_logprob import about_this_machine
from model import CausalLM

PROMPT_TOKENS = 32


# --------------------------------------------------------------------------------------------------
# Workloads: prompts, responses per prompt, the length of each response


def equal_lengths(vocab, prompts, tokens):
    return random_prompts(vocab, prompts), 1, [tokens] * prompts


def long_tail(vocab, prompts, median, longest):
    generator = torch.Generator().manual_seed(0)
    lengths = median * (0.7 * torch.randn(8 * prompts, generator=generator)).exp()
    return random_prompts(vocab, prompts), 8, lengths.round().clamp(1, longest).int().tolist()


def random_prompts(vocab, count):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, vocab, (count, PROMPT_TOKENS), generator=generator).tolist()


def make_tiny(folder):
    torch.manual_seed(0)
    sizes = dict(vocab_size=4096, hidden_size=256, intermediate_size=704, num_hidden_layers=6)
    sizes |= dict(num_attention_heads=8, num_key_value_heads=4, tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(LlamaConfig(**sizes)).save_pretrained(folder)
    return folder


# --------------------------------------------------------------------------------------------------
# Engines: (models, prompts, group size, lengths) -> None


def ours(models, prompts, group_size, lengths):
    options = dict(group_size=group_size, max_new_tokens=lengths, eos_ids=())
    found = rollout.generate(models["ours"], prompts, **options)
    assert found.response_mask.sum(1).tolist() == lengths


class Lengths(StoppingCriteria):
    """Row i is done after lengths[i] tokens."""

    def __init__(self, lengths):
        self.ends = PROMPT_TOKENS + torch.tensor(lengths)

    def __call__(self, input_ids, scores, **_):
        return input_ids.shape[1] >= self.ends


def transformers_generate(models, prompts, group_size, lengths):
    ids = torch.tensor(prompts)
    models["transformers"].generate(
        ids, attention_mask=torch.ones_like(ids), num_return_sequences=group_size,
        max_new_tokens=max(lengths), stopping_criteria=StoppingCriteriaList([Lengths(lengths)]),
        do_sample=True, temperature=1.0, top_p=1.0, top_k=0, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip


def without_compaction(*workload):
    """Every row stays until the last has ended."""

    def wait_for_all(rows, slots):
        slots.live = 0 if rows.stopped[slots.row[: slots.live]].all() else slots.live

    with mock.patch.object(rollout, "compact", wait_for_all):
        ours(*workload)


def without_shared_prefill(models, prompts, group_size, lengths):
    ours(models, [prompt for prompt in prompts for _ in range(group_size)], 1, lengths)


def without_inverse_cdf(*workload):
    def multinomial(logits, uniforms, temperature, top_k, top_p):
        probabilities = logits.softmax(-1)
        tokens = torch.multinomial(probabilities, 1)[:, 0]
        logprobs = rollout.pick(probabilities, tokens).log()
        return tokens, logprobs, logprobs

    with mock.patch.object(rollout, "draw", multinomial):
        ours(*workload)


def without_prepared_weights(*workload):
    with mock.patch.object(rollout, "sampling_weights", lambda model: nullcontext()):
        ours(*workload)


ENGINES = {
    "ours": ours,
    "transformers generate": transformers_generate,
    "without compaction": without_compaction,
    "without prefill once a group": without_shared_prefill,
    "without inverse CDF": without_inverse_cdf,
    "without prepared weights": without_prepared_weights,
}


# --------------------------------------------------------------------------------------------------
# Measuring


def seconds(function, *arguments):
    start = time.process_time()
    function(*arguments)
    return time.process_time() - start


def measure(names, models, workload, rounds):
    """{engine: {seconds, tokens_per_second, ratio, ratio_range}}"""
    for name in names:  # warm-up
        ENGINES[name](models, *workload)
    times = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            times[name].append(seconds(ENGINES[name], models, *workload))
    medians = {name: statistics.median(times[name]) for name in names}
    results = {}
    for name in names:
        per_round = [a / b for a, b in zip(times[name], times["ours"], strict=True)]
        results[name] = {
            "seconds": medians[name],
            "tokens_per_second": sum(workload[2]) / medians[name],
            "ratio": medians[name] / medians["ours"],
            "ratio_range": [min(per_round), max(per_round)],
        }
    return results


def product_rate(dtype, size=1024):
    """FLOP/s of a large matrix product: the ceiling of every engine in this run."""
    left, right = torch.randn(2, size, size).to(dtype)
    times = [seconds(torch.mm, left, right) for _ in range(8)]
    return 2 * size**3 / statistics.median(times[1:])


def flops_per_token(model):
    """Of the matrix products with weights; attention is left out (a few percent here)."""
    embedding = model.model.embed_tokens.weight.numel()
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    return 2 * (sum(p.numel() for p in model.parameters()) - (0 if tied else embedding))


def load_both(folder, dtype):
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    mine = CausalLM(theirs.config).to(dtype).requires_grad_(False)
    mine.load_state_dict(theirs.state_dict())
    mine.compute_dtype = dtype
    return {"ours": mine, "transformers": theirs}


def run_case(name, folder, workload, engines, args):
    models = load_both(folder, getattr(torch, args.dtype))
    workload = workload(models["ours"].config.vocab_size)
    ceiling = product_rate(models["ours"].compute_dtype) / flops_per_token(models["ours"])
    results = measure(engines, models, workload, args.rounds)
    rows, tokens = len(workload[2]), sum(workload[2])
    print(f"\n{name}, {args.dtype}: {rows} rows, {tokens} tokens; ceiling {ceiling:,.0f} tokens/s")
    print(f"{'engine':29} {'tokens/s':>9} {'of ceiling':>10} {'x ours':>7}  range")
    for engine, result in results.items():
        rate, (low, high) = result["tokens_per_second"], result["ratio_range"]
        span = f"{low:.2f}-{high:.2f}" + (" tie" if low < 1 < high else "")
        print(f"{engine:29} {rate:9,.0f} {rate / ceiling:10.0%} {result['ratio']:7.2f}  {span}")
    return {"ceiling_tokens_per_second": ceiling, "engines": results}


def parse_args():
    parser = argparse.ArgumentParser(
        description="Tokens a second of sampling, side by side with transformers.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a shorter tail, two engines, 1 round")
    parser.add_argument("--cases", nargs="+", default=["tiny", "tail", "135M"], metavar="CASE")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-only", action="store_true", help="no techniques switched off")
    parser.add_argument("--save", help="write the JSON line to this file too")
    return parser.parse_args()


def main():
    args = parse_args()
    torch.set_num_threads(1)
    report = about_this_machine() | {"date": str(date.today()), "dtype": args.dtype}
    engines = list(ENGINES)[:2] if args.peer_only or args.quick else list(ENGINES)
    names, args.rounds = (["quick"], 1) if args.quick else (args.cases, args.rounds)
    print("{hardware}; load {load:.1f}".format(**report))
    cases = {}
    with tempfile.TemporaryDirectory() as folder:
        tiny, real = make_tiny(folder), os.environ.get("DSRL_REAL_MODEL")
        known = {
            "tiny": (tiny, lambda vocab: equal_lengths(vocab, 64, 64)),
            "tail": (tiny, lambda vocab: long_tail(vocab, prompts=16, median=60, longest=256)),
            "quick": (tiny, lambda vocab: long_tail(vocab, prompts=4, median=15, longest=64)),
            "135M": (real, lambda vocab: equal_lengths(vocab, 32, 16)),
        }
        for name in names:
            if known[name][0] is None:
                print(f"{name}: skipped, DSRL_REAL_MODEL is not set")
                continue
            cases[name] = run_case(name, *known[name], engines, args)
    line = json.dumps(report | {"rounds": args.rounds, "cases": cases})
    if args.save:
        Path(args.save).write_text(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
