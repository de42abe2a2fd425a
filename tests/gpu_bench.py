"""How fast on a GPU, beside what the GPU allows, measured in the same process, and beside peers.

    K1  the last layer, N = 16,384: share of the rate of products, peak memory (K3)
    K2  its two kernels alone: share of the rate of a copy
    R1  sampling 64, 256 and 512 rows at a context of 768 to 1,280: share of the limit
    R2  256 rows of equal lengths beside transformers; R3 a 0.5B model; R4 a long tail
    T1  an update of packed rows of about 1,100 tokens: tokens/s, share of the rate of products
    E1  a whole update of each phase, 128 prompts x 8 responses of at most 4,096 tokens

Nothing here fails for being slow: figures only. Peers that are not installed are left out.

    python tests/gpu_bench.py --out bench.jsonl --only K1 K2 T1
    python tests/gpu_bench.py --device cpu --quick     # the script itself
"""

import statistics
import sys
from functools import cache

import bench_logprob
import bench_rollout
import torch
from bench_logprob import now, seconds
from gpu import DEVICE, Skip, run_checks  # first, as it finds the project
from gpu_models import packed_rollout, random_checkpoint, run_words

import dsrl
import logprobs
from plumbing.checkpoints import compute_dtype, load_model
from prerl import policy_gradient

DTYPE = compute_dtype(torch.device(DEVICE))
VOCABULARY = 151_936
PEERS = ("full_log_softmax", "torch_linear_cross_entropy", "trl_chunked", "liger_chunked",
         "cut_cross_entropy")  # fmt: skip
KNOWN = bench_rollout.ENGINES | bench_rollout.ON_CUDA | bench_rollout.ON_CUDA_EQUAL_LENGTHS


rates = cache(bench_rollout.rates)  # once a process, and so beside what they bound


def ceilings(found):
    """FLOP/s of a large product and bytes/s of a large copy."""
    flops, bandwidth = rates(DTYPE)
    found.add("product, TFLOP/s", flops / 1e12)
    found.add("copy, GB/s", bandwidth / 1e9)
    return flops, bandwidth


def K1(args, found):
    """Time, error and memory of the layer for the widths of four models; memory at four times N."""
    flops, _ = ceilings(found)
    shapes = [(16_384, width, VOCABULARY) for width in (1536, 1024, 2048, 2560)]
    shapes = [(64, 16, 300)] if args.quick else shapes
    peers = [name for name in PEERS if not bench_logprob.reason_to_skip(name)]
    for shape in shapes:
        N, D, V = shape
        for name, one in bench_logprob.measure(["ours", *peers], shape, rounds=3).items():
            found.add(f"D {D}, {name}", one)
            found.add(f"D {D}, {name}, of 6 N D V", 6 * N * D * V / one["seconds"] / flops)
    N, D, V = shapes[0]  # the gradient of the head is 4 D V bytes of these
    found.add(f"N {4 * N}, ours, bytes", bench_logprob.peak_bytes("ours", (4 * N, D, V)))


def K2(args, found):
    """Seconds of each kernel on one chunk of logits, far larger than the cache."""
    _, bandwidth = ceilings(found)
    vocabulary = 5003 if args.quick else VOCABULARY
    rows = 24 if args.quick else logprobs.LOGITS_PER_CHUNK[DEVICE] // VOCABULARY
    logits = torch.randn(rows, vocabulary, dtype=DTYPE, device=DEVICE)
    targets = torch.randint(vocabulary, (rows,), device=DEVICE)
    coefficients = torch.randn(rows, device=DEVICE)
    _, logsumexp, _ = logprobs.target_logprobs(logits, targets)
    rest = targets, logsumexp, coefficients  # the gradient is of what its last call left: any do
    calls = {"log_softmax": (logprobs.target_logprobs, logits, targets),
             "gradient": (logprobs.logits_gradient_, logits, *rest)}  # fmt: skip
    for name, call in calls.items():
        _, *times = [seconds(*call) for _ in range(21)]  # the first compiles
        moved = logits.nbytes * (1 if name == "log_softmax" else 2)  # read; read and written
        found.add(f"{name}, seconds", statistics.median(times))
        found.add(f"{name}, of copy", moved / statistics.median(times) / bandwidth)


def sample(args, found, shape, workloads, engines):
    """Engines in turn on each workload; the limit by the rates of this process."""
    measured, shape = ceilings(found), "quick" if args.quick else shape
    both = bench_rollout.load_both(f"{random_checkpoint(shape, args.work)}", DTYPE)
    both["transformers"].generation_config.eos_token_id = None  # lengths are prescribed
    for name, workload in workloads.items():
        work = workload(both["ours"].config.vocab_size)
        least = bench_rollout.least_seconds(both["ours"], *work, *measured)
        known = {engine: KNOWN[engine] for engine in engines}
        results = bench_rollout.measure(known, both, work, rounds=1 if args.quick else 2)
        for engine, one in results.items():
            found.add(f"{name}, {engine}", one | {"of limit": least / one["seconds"]})


def equal(args, rows, tokens, prompt_tokens):
    if args.quick:
        rows, tokens, prompt_tokens = 4, 8, 4
    return lambda vocabulary: bench_rollout.equal_lengths(vocabulary, rows, tokens, prompt_tokens)


def R1(args, found):
    """Steady decoding at a context of about 1,024 tokens."""
    batches = {f"{rows} rows": equal(args, rows, 512, 768) for rows in (64, 256, 512)}
    sample(args, found, "1.5B", batches, ["ours"])


def R2(args, found):
    """Beside transformers: 128 tokens only, as it needs tens of milliseconds for each."""
    engines = ["ours", "transformers generate"] + ["without CUDA graphs"] * (DEVICE == "cuda")
    sample(args, found, "1.5B", {"256 rows": equal(args, 256, 128, 150)}, engines)


def R2_batch(args, found):
    """Beside transformers' continuous batching."""
    if DEVICE == "cpu":
        raise Skip("continuous batching is made for CUDA")
    rows = {"256 rows": equal(args, 256, 128, 150)}
    sample(args, found, "1.5B", rows, ["ours", "transformers generate_batch"])


def R3(args, found):
    """256 requests, 100 to 1,024 tokens in and out; in here is the mean for all."""

    def spread(vocabulary):
        prompts, group_size, lengths = equal(args, 256, 1024, 562)(vocabulary)
        spread_out = torch.linspace(0.1 * lengths[0], lengths[0], len(lengths)).ceil().int()
        return prompts, group_size, spread_out.tolist()

    sample(args, found, "0.5B", {"256 requests": spread}, ["ours"])


def R4(args, found):
    """Lengths lognormal, median 700, at most 1,024: with and without letting ended rows go."""
    sizes = (2, 4, 8, 0.8, 4) if args.quick else (64, 700, 1024, 0.8, 150)
    tail = {"long tail": lambda vocabulary: bench_rollout.long_tail(vocabulary, *sizes)}
    sample(args, found, "1.5B", tail, ["ours", "without compaction"])


def flops_of(model, tokens, scored, length):
    """Of a forward and backward: 6 per weight and token, and causal attention of rows so long."""
    config, head = model.config, model.lm_head.weight.numel()
    inner = sum(parameter.numel() for parameter in model.parameters()) - head  # looked up: tied
    attention = 6 * config.num_hidden_layers * config.hidden_size * length * tokens
    return 6 * inner * tokens + 6 * head * scored + attention


def T1(args, found):
    """Gradients of both spaces, packed, with and without layers computed again."""
    flops, _ = ceilings(found)
    shape, rows, prompt, mean = ("quick", 8, 4, 8) if args.quick else ("1.5B", 64, 150, 950)
    model, _ = load_model(f"{random_checkpoint(shape, args.work)}", device=DEVICE)
    model.compute_dtype = DTYPE
    rollout = packed_rollout(model.config.vocab_size, rows, prompt, mean)
    signs = torch.ones(rows, device=DEVICE)
    for space, recompute in (("conditional", False), ("conditional", True), ("marginal", False)):
        model.checkpoint_activations, times = recompute, []
        context = prompt if space == "conditional" else 1
        for _ in range(3):
            model.zero_grad(set_to_none=True)
            bench_logprob.forget_peak()
            start = now()
            how = dict(space=space, samples="all", start_token_id=1)
            metrics = policy_gradient(model, rollout, signs, **how)
            times.append(now() - start)
        took, tokens = min(times[1:]), metrics["tokens_forward"]
        work = flops_of(model, tokens, metrics["tokens_trained"], mean + context)
        name = f"{space}, recomputed" if recompute else space
        found.add(f"{name}, tokens/s", tokens / took)
        found.add(f"{name}, TFLOP/s", work / took / 1e12)
        found.add(f"{name}, of product", work / took / flops)
        found.add(f"{name}, peak bytes", bench_logprob.peak_so_far())


def E1(args, found):
    """Sampling and updates as in a run: one to warm up, then one of each phase."""
    shape, prompts, longest = ("quick", 4, 16) if args.quick else ("1.5B", 128, 4096)
    words = run_words(shape, args.work, prompt_tokens=50)
    words += f"--prompts-per-step {prompts} --group-size 8 --max-response-tokens {longest}".split()
    run = dsrl.load(dsrl.parse_args([*words, "--prerl-steps", "1"]), torch.device(DEVICE))
    for turn, step in enumerate((0, 0, 1)):  # step 0 is PreRL, step 1 GRPO
        start = now()
        rollout = dsrl.sample(run, dsrl.prompts_of(turn, run.problems, run.config), turn)
        sampled = now()
        rewards = (torch.arange(8 * prompts, device=DEVICE) % 2).float().view(-1, 8)
        metrics = dsrl.update(run, rollout, rewards, step)
        name = ("warm-up", "PreRL", "GRPO")[turn]
        found.add(f"{name}, sampling, seconds", sampled - start)
        found.add(f"{name}, update, seconds", now() - sampled)
        found.add(f"{name}, response tokens", int(rollout.response_mask.sum()))
        found.add(f"{name}, tokens forward", metrics["tokens_forward"])


CHECKS = (K1, K2, T1, R1, R2, E1, R4, R3, R2_batch)

if __name__ == "__main__":
    sys.exit(run_checks(__file__, __doc__, CHECKS))
