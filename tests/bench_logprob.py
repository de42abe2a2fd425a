"""The last layer: time, memory and error of N log-probs and the gradients of sum_n c_n log P.

The same work for all: hidden (N, D) and weight (V, D) in; log-probs, d hidden and d weight out. The
coefficients c are known beforehand. Engines run in turn, round by round, after one warm-up; a ratio
is that of the medians, its range that of the rounds, and "tie" where the range spans 1.
CPU: one thread, seconds of CPU time (other processes slow caches and memory, not the count; their
share of the machine is reported). CUDA: wall time, bf16 hidden states, fp32 weights.
Peak memory is measured in a process of its own, above what the inputs take, gradients included.
Peers that are not installed are skipped with a line: trl==1.16.0, liger-kernel, cut-cross-entropy.

Shapes: N tokens, D width, V vocabulary.

    python tests/bench_logprob.py --quick
    python tests/bench_logprob.py --tokens 16384 --width 256 --vocab 151936 --rounds 0   # memory
"""

import argparse
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.nn.functional as F

import model

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PACKAGES = ("torch", "triton", "transformers", "trl", "liger-kernel", "cut-cross-entropy")


# --------------------------------------------------------------------------------------------------
# Engines: (hidden, weight, targets, coefficients) -> log-probs (N,), gradients in .grad


def back(logprobs, coefficients):
    (logprobs * coefficients).sum().backward()
    return logprobs.detach()


def ours(hidden, weight, targets, coefficients):
    return model.backward_logprobs(hidden, weight, targets, lambda _, chunk: coefficients[chunk])[0]


def ours_two_passes(hidden, weight, targets, coefficients):
    return back(model.token_logprobs(hidden, weight, targets), coefficients)


def log_softmax(hidden, weight, targets, coefficients):
    logits = (hidden @ weight.to(hidden.dtype).T).float()
    return back(logits.log_softmax(-1).gather(1, targets[:, None])[:, 0], coefficients)


def gather_logsumexp(hidden, weight, targets, coefficients):
    logits = (hidden @ weight.to(hidden.dtype).T).float()
    return back(logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(-1), coefficients)


def torch_chunked(hidden, weight, targets, coefficients):
    options = dict(reduction="none", options=torch.nn.LinearCrossEntropyOptions())
    head = weight.to(hidden.dtype)
    return back(-F.linear_cross_entropy(hidden, head, targets, **options), coefficients)


def trl(hidden, weight, targets, coefficients):
    kernels = importlib.import_module("trl.kernels")
    options = (None, targets, 1.0, 32768, None, 1.0, ("entropy",))  # vocabulary tile: TRL's default
    return back(kernels.ChunkedLogProbFunction.apply(hidden, weight, *options)[0], coefficients)


def liger(hidden, weight, targets, coefficients):
    ppo = importlib.import_module("liger_kernel.chunked_loss.fused_linear_ppo")
    tile = ppo._SELECTIVE_LOGPROB_VOCAB_CHUNK_SIZE
    function = ppo._ChunkedSelectiveLogProbFunction
    return back(function.apply(hidden, weight, targets, None, 1.0, tile), coefficients)


def cut_cross_entropy(hidden, weight, targets, coefficients):
    package = importlib.import_module("cut_cross_entropy")
    options = dict(reduction="none", filter_eps=None)  # its filter would drop small gradients
    head = weight.to(hidden.dtype)
    return back(-package.linear_cross_entropy(hidden, head, targets, **options), coefficients)


ENGINES = {
    "ours": ours,  # first: the others are compared with it
    "ours, two passes": ours_two_passes,
    "full log_softmax": log_softmax,
    "full gather - logsumexp": gather_logsumexp,
    "torch linear_cross_entropy": torch_chunked,
    "trl chunked": trl,
    "liger chunked": liger,
    "cut-cross-entropy": cut_cross_entropy,
}


def reason_to_skip(name):
    needs = {"trl chunked": "trl.kernels", "cut-cross-entropy": "cut_cross_entropy"}
    needs["liger chunked"] = "liger_kernel.chunked_loss.fused_linear_ppo"
    if name == "torch linear_cross_entropy" and not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        return f"torch {torch.__version__} has no chunked form"
    if name == "cut-cross-entropy" and DEVICE == "cpu":
        return "its kernels need CUDA"
    try:
        importlib.import_module(needs.get(name, "torch"))
    except ImportError as error:
        return f"not installed ({error})"
    return None


# --------------------------------------------------------------------------------------------------
# Measuring


def inputs_of(tokens, width, vocab):
    generator = torch.Generator(DEVICE).manual_seed(0)
    options = dict(generator=generator, device=DEVICE)
    hidden = torch.randn(tokens, width, **options)
    weight = torch.randn(vocab, width, **options).mul_(3 / width**0.5)  # logits of deviation 3
    targets = torch.randint(vocab, (tokens,), **options)
    coefficients = torch.randn(tokens, **options) / tokens
    hidden = hidden if DEVICE == "cpu" else hidden.bfloat16()
    return hidden.requires_grad_(), weight.requires_grad_(), targets, coefficients


def run(engine, inputs):
    hidden, weight = inputs[:2]
    hidden.grad = weight.grad = None
    return engine(*inputs)


def seconds(engine, inputs):
    if DEVICE == "cpu":
        start = time.process_time()
        run(engine, inputs)
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    run(engine, inputs)
    torch.cuda.synchronize()
    return time.perf_counter() - start


def errors(engine, inputs, exact):
    """Largest error of a log-prob (nats), relative errors of the gradients, against float64."""
    logprobs, (hidden, weight) = run(engine, inputs), inputs[:2]
    distances = [
        float((found.double() - theirs).norm() / theirs.norm())
        for found, theirs in zip((hidden.grad, weight.grad), exact[1:], strict=True)
    ]
    largest = float((logprobs.double() - exact[0]).abs().max())
    return {"logprob": largest, "d_hidden": distances[0], "d_weight": distances[1]}


def float64(inputs):
    hidden, weight = (tensor.detach().double().requires_grad_() for tensor in inputs[:2])
    logprobs = log_softmax_float64(hidden, weight, inputs[2])
    (logprobs * inputs[3]).sum().backward()
    return logprobs.detach(), hidden.grad, weight.grad


def log_softmax_float64(hidden, weight, targets):
    return (hidden @ weight.T).log_softmax(-1).gather(1, targets[:, None])[:, 0]


def peak_bytes(name, shape):
    """Peak memory of one run above the inputs, in its own process; None where it cannot be had."""
    command = [sys.executable, __file__, "--peak-of", name]
    for flag, size in zip(("--tokens", "--width", "--vocab"), shape, strict=True):
        command += [flag, str(size)]
    out = subprocess.run(command, capture_output=True, text=True)
    return int(out.stdout) if out.returncode == 0 and out.stdout.strip().isdigit() else None


def print_peak(name, shape):
    run(ENGINES[name], inputs_of(4, 8, 16))  # imports and libraries' own buffers are not counted
    inputs = inputs_of(*shape)
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(ENGINES[name], inputs)
        return print(torch.cuda.max_memory_allocated() - before)
    # Linux: forget the peak so far, which the imports made (getrusage cannot forget)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_peak()
    run(ENGINES[name], inputs)
    print(resident_peak() - before)


def resident_peak():
    lines = Path("/proc/self/status").read_text().split("\n")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def busy_jiffies():
    """CPU time all processes have used since the start, in clock ticks; None but on Linux."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system = stat.read_text().split("\n")[0].split()[1:4]
    return int(user) + int(nice) + int(system)


def gemm_rate(shape):
    """FLOP/s of the layer's three products alone: the ceiling of every engine in this run."""
    hidden, weight, _, _ = inputs_of(*shape)
    logits = torch.randn(shape[0], shape[2], device=DEVICE, dtype=hidden.dtype)
    head = weight.detach().to(hidden.dtype)

    def products(hidden, weight, *_):
        with torch.no_grad():
            return hidden @ head.T, logits @ head, logits.T @ hidden

    times = [seconds(products, (hidden, weight)) for _ in range(4)]
    return 6 * shape[0] * shape[1] * shape[2] / min(times[1:])


def measure(names, shape, rounds):
    """{engine: {seconds, ratio, ...}} and the share of the machine that other processes took."""
    results = {name: {"peak_bytes": peak_bytes(name, shape)} for name in names}
    if not rounds:
        return results, None
    inputs = inputs_of(*shape)
    exact = float64(inputs)
    for name in names:  # also the warm-up
        results[name]["error"] = errors(ENGINES[name], inputs, exact)
    del exact
    start, mine, busy = time.time(), time.process_time(), busy_jiffies()
    times = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            times[name].append(seconds(ENGINES[name], inputs))
    for name in names:
        per_round = [a / b for a, b in zip(times[name], times[names[0]], strict=True)]
        results[name]["seconds"] = statistics.median(times[name])
        results[name]["ratio"] = results[name]["seconds"] / results[names[0]]["seconds"]
        results[name]["ratio_range"] = [min(per_round), max(per_round)]
    foreign = None
    if busy is not None:
        used = (busy_jiffies() - busy) / os.sysconf("SC_CLK_TCK") - (time.process_time() - mine)
        foreign = max(0.0, used / ((time.time() - start) * os.cpu_count()))
    return results, foreign


# --------------------------------------------------------------------------------------------------
# Reporting


def hardware():
    if DEVICE == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().split("\n") if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, 1 thread of {os.cpu_count()} cores"


def versions():
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            pass
    return found


def print_table(results, report):
    N, D, V = (report[letter] for letter in "NDV")
    print(f"N = {N} tokens, D = {D}, V = {V}; {report['hardware']}")
    print(f"{'engine':27} {'seconds':>8} {'of GEMM':>8} {'x first':>8}  {'range':12} {'peak MB':>8}"
          f"  {'logprob':>8} {'d hidden':>8} {'d weight':>8}")  # fmt: skip
    for name, result in results.items():
        memory = "-" if result["peak_bytes"] is None else f"{result['peak_bytes'] / 1e6:.0f}"
        if "seconds" not in result:
            print(f"{name:27} {'':48} {memory:>8}")
            continue
        share = 6 * N * D * V / report["gemm_flops"] / result["seconds"]
        low, high = result["ratio_range"]
        span = f"{low:.2f}-{high:.2f}" + (" tie" if low <= 1 <= high and low < high else "")
        error = "  ".join(f"{value:.0e}  " for value in result["error"].values())
        print(f"{name:27} {result['seconds']:8.3f} {share:8.0%} {result['ratio']:8.2f}  {span:12}"
              f" {memory:>8}     {error}")  # fmt: skip


def parse_args():
    parser = argparse.ArgumentParser(
        description="Log-prob and gradient of the last layer, side by side with peers.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="N 128, D 64, V 8192, 3 rounds")
    parser.add_argument("--tokens", type=int, default=512, help="N")
    parser.add_argument("--width", type=int, default=576, help="D")
    parser.add_argument("--vocab", type=int, default=49152, help="V")
    parser.add_argument("--rounds", type=int, default=5, help="0 measures memory only")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), metavar="E")
    parser.add_argument("--save", help="write the JSON line to this file too")
    parser.add_argument("--peak-of", choices=ENGINES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.tokens, args.width, args.vocab, args.rounds = 128, 64, 8192, 3
    return args


def main():
    args = parse_args()
    torch.set_num_threads(1)
    shape = args.tokens, args.width, args.vocab
    if args.peak_of:
        return print_peak(args.peak_of, shape)
    names = []
    for name in args.engines:
        reason = reason_to_skip(name)
        names += [] if reason else [name]
        if reason:
            print(f"{name}: skipped, {reason}")
    results, foreign = measure(names, shape, args.rounds)
    report = dict(zip("NDV", shape, strict=True))
    report |= {"date": str(date.today()), "rounds": args.rounds}
    report |= {"hardware": hardware(), "versions": versions(), "foreign_load": foreign}
    report["gemm_flops"] = gemm_rate(shape) if args.rounds else None
    print_table(results, report)
    if foreign is not None and foreign > 0.1:
        print(f"other processes took {foreign:.0%} of the machine: trust ratios, not seconds")
    line = json.dumps(report | {"engines": results})
    if args.save:
        Path(args.save).parent.mkdir(parents=True, exist_ok=True)
        Path(args.save).write_text(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
