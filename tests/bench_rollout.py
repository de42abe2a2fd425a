"""Sampling: useful tokens a second of `rollout.generate` and of transformers' `generate`, in turn.

The same weights (made from a seed, saved as a folder that both load), the same prompts, prescribed
lengths (limits per row here, a StoppingCriteria with a mask per row there), no EOS, temperature 1,
no top-k, no top-p; prefill counts, so does everything else that a call does. Engines run in turn,
round by round, after one warm-up; a ratio is that of the medians, its range that of the rounds,
and "tie" where the range spans 1. CPU: one thread, seconds of CPU time: other processes slow caches
and memory, not the count; the load of the machine is reported. CUDA: wall seconds; gpu_bench.py has
the cases for a GPU.

"without X" is our sampler with one technique replaced by the usual way, and so what X buys.
"of limit": the least time the work can take on this machine, by the rates of a large copy and a
large product measured in the same run, as a share of the engine's time (`least_seconds`).

    tiny    6 layers, D 256, V 4096 (5.5M), 64 prompts of 32 tokens, 64 tokens each
    tail    the same model, 16 prompts x 8, lengths lognormal: median 60, sigma 0.7, at most 256
    135M    the checkpoint in DSRL_REAL_MODEL, 32 prompts of 32 tokens, 64 tokens each

    python tests/bench_rollout.py --quick
    python tests/bench_rollout.py --dtype bfloat16 --peer-only
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from datetime import date
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from bench_logprob import DEVICE, about_this_machine, seconds
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig
from transformers import StoppingCriteria, StoppingCriteriaList

import rollout
from model import CausalLM, KVCache

# --------------------------------------------------------------------------------------------------
# Workloads: prompts, responses per prompt, the length of each response


def equal_lengths(vocab, prompts, tokens, prompt_tokens=32):
    return random_prompts(vocab, prompts, prompt_tokens), 1, [tokens] * prompts


def long_tail(vocab, prompts, median, longest, sigma=0.7, prompt_tokens=32):
    generator = torch.Generator().manual_seed(0)
    lengths = median * (sigma * torch.randn(8 * prompts, generator=generator)).exp()
    lengths = lengths.round().clamp(1, longest).int().tolist()
    return random_prompts(vocab, prompts, prompt_tokens), 8, lengths


def random_prompts(vocab, count, tokens):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, vocab, (count, tokens), generator=generator).tolist()


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

    def __init__(self, prompt_tokens, lengths):
        self.ends = prompt_tokens + torch.tensor(lengths, device=DEVICE)

    def __call__(self, input_ids, scores, **_):
        return input_ids.shape[1] >= self.ends


def transformers_generate(models, prompts, group_size, lengths):
    ids = torch.tensor(prompts, device=DEVICE)
    models["transformers"].generate(
        ids, attention_mask=torch.ones_like(ids), num_return_sequences=group_size,
        max_new_tokens=max(lengths),
        stopping_criteria=StoppingCriteriaList([Lengths(ids.shape[1], lengths)]),
        do_sample=True, temperature=1.0, top_p=1.0, top_k=0, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip


def transformers_generate_batch(models, prompts, group_size, lengths):
    """Its continuous batching; it has one limit for all rows."""
    assert len(set(lengths)) == 1, "for equal lengths only"
    config = GenerationConfig(
        max_new_tokens=lengths[0], do_sample=True, temperature=1.0, top_p=1.0, top_k=0,
        eos_token_id=-1, pad_token_id=0,
    )  # fmt: skip
    inputs = [prompt for prompt in prompts for _ in range(group_size)]
    found = models["transformers"].generate_batch(inputs=inputs, generation_config=config)
    assert sum(len(output.generated_tokens) for output in found.values()) == sum(lengths)


def without_graphs(*workload):
    with mock.patch.object(rollout, "GRAPHS_ON", ()):
        ours(*workload)


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
        return tokens, rollout.pick(probabilities, tokens).log()

    with mock.patch.object(rollout, "draw", multinomial):
        ours(*workload)


def without_sampling_copy(*workload):
    with mock.patch.object(rollout, "sampling_copy", lambda model: model):
        ours(*workload)


ENGINES = {
    "ours": ours,
    "transformers generate": transformers_generate,
    "without compaction": without_compaction,
    "without prefill once a group": without_shared_prefill,
    "without inverse CDF": without_inverse_cdf,
    "without the sampling copy": without_sampling_copy,
}
PEERS = ["ours", "transformers generate"]
ON_CUDA = {"without CUDA graphs": without_graphs}
ON_CUDA_EQUAL_LENGTHS = {"transformers generate_batch": transformers_generate_batch}


# --------------------------------------------------------------------------------------------------
# Measuring


def measure(engines, models, workload, rounds):
    """{engine: {seconds, tokens_per_second, ratio, ratio_range}}"""
    for engine in engines.values():  # warm-up
        engine(models, *workload)
    times = {name: [] for name in engines}
    for _ in range(rounds):
        for name, engine in engines.items():
            times[name].append(seconds(engine, models, *workload))
    medians = {name: statistics.median(times[name]) for name in engines}
    results = {}
    for name in engines:
        per_round = [a / b for a, b in zip(times[name], times["ours"], strict=True)]
        results[name] = {
            "seconds": medians[name],
            "tokens_per_second": sum(workload[2]) / medians[name],
            "ratio": medians[name] / medians["ours"],
            "ratio_range": [min(per_round), max(per_round)],
        }
    return results


def rates(dtype):
    """FLOP/s of a large matrix product and bytes/s, read and written, of a large copy."""
    size = 1024 if DEVICE == "cpu" else 8192
    left, right = torch.randn(2, size, size, device=DEVICE).to(dtype)
    source, target = torch.zeros(2, 2**25 if DEVICE == "cpu" else 2**30, device=DEVICE)
    product = min(seconds(torch.mm, left, right) for _ in range(8))
    copied = min(seconds(target.copy_, source) for _ in range(8))
    return 2 * size**3 / product, 2 * source.nbytes / copied


def least_seconds(model, prompts, group_size, lengths, flops, bandwidth):
    """The least time if rows leave as they end: per step the weights are read or multiplied,
    whichever takes longer, the cache is read, logits are written and read as float32.
    """
    config, size = model.config, model.compute_dtype.itemsize
    embedding = model.model.embed_tokens.weight.numel()
    looked_up = 0 if config.tie_word_embeddings else embedding  # not multiplied
    weights = sum(p.numel() for p in model.parameters()) - looked_up
    cache = KVCache.bytes_per_token(config, model.compute_dtype)
    total = 2 * (weights - embedding) * len(prompts) * (len(prompts[0]) - 1) / flops  # prefill
    for step in range(max(lengths)):
        rows = sum(length > step for length in lengths)
        total += max(weights * size / bandwidth, 2 * weights * rows / flops)
        total += rows * (len(prompts[0]) + step) * cache / bandwidth
        total += 8 * rows * config.vocab_size / bandwidth
    return total


def load_both(folder, dtype):
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(DEVICE)
    mine = CausalLM(theirs.config).to(DEVICE, dtype).requires_grad_(False)
    mine.load_state_dict(theirs.state_dict())
    mine.compute_dtype = dtype
    return {"ours": mine, "transformers": theirs}


def run_case(name, folder, workload, engines, args):
    models = load_both(folder, getattr(torch, args.dtype))
    workload = workload(models["ours"].config.vocab_size)
    least = least_seconds(models["ours"], *workload, *rates(models["ours"].compute_dtype))
    results = measure(engines, models, workload, args.rounds)
    rows, tokens = len(workload[2]), sum(workload[2])
    limit = f"at most {tokens / least:,.0f} tokens/s"
    print(f"\n{name}, {args.dtype}: {rows} rows, {tokens} tokens, {limit} on this machine")
    print(f"{'engine':29} {'tokens/s':>9} {'of limit':>8} {'x ours':>7}  range")
    for engine, result in results.items():
        rate, (low, high) = result["tokens_per_second"], result["ratio_range"]
        span = f"{low:.2f}-{high:.2f}" + (" tie" if low < 1 < high else "")
        of_limit = least / result["seconds"]
        print(f"{engine:29} {rate:9,.0f} {of_limit:8.0%} {result['ratio']:7.2f}  {span}")
    return {"least_seconds": least, "engines": results}


def parse_args():
    parser = argparse.ArgumentParser(
        description="Tokens a second of sampling, side by side with transformers.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a shorter tail, two engines, 1 round")
    cases = ["tiny", "tail", "135M"]
    parser.add_argument("--cases", nargs="+", default=cases, metavar="CASE")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-only", action="store_true", help="no techniques switched off")
    parser.add_argument("--save", help="write the JSON line to this file too")
    return parser.parse_args()


def main():
    args = parse_args()
    torch.set_num_threads(1)
    report = about_this_machine() | {"date": str(date.today()), "dtype": args.dtype}
    engines = ENGINES | (ON_CUDA if DEVICE == "cuda" else {})
    if args.peer_only or args.quick:
        engines = {name: ENGINES[name] for name in PEERS}
    names, args.rounds = (["quick"], 1) if args.quick else (args.cases, args.rounds)
    print("{hardware}; load {load:.1f}".format(**report))
    cases = {}
    with tempfile.TemporaryDirectory() as folder:
        tiny, real = make_tiny(f"{folder}/tiny"), os.environ.get("DSRL_REAL_MODEL")
        known = {
            "tiny": (tiny, lambda vocab: equal_lengths(vocab, 64, 64)),
            "tail": (tiny, lambda vocab: long_tail(vocab, prompts=16, median=60, longest=256)),
            "quick": (tiny, lambda vocab: long_tail(vocab, prompts=4, median=15, longest=64)),
            "135M": (real, lambda vocab: equal_lengths(vocab, 32, 64)),
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
