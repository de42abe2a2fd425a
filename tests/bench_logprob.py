"""The last layer: time, memory and error of N log-probs and the gradients of sum_n c_n log P.

The same work for all: hidden (N, D) and weight (V, D) in; log-probs, d hidden and d weight out. The
coefficients c are known beforehand. Engines run in turn, round by round (A B C A B C), after one
warm-up; a ratio is that of medians, its range that of the rounds, "tie" where the range spans 1.
CPU: one thread, fp32, seconds of CPU time. CUDA: wall time, bf16 hidden states, fp32 weights.
Peak memory is what one run adds to its inputs, gradients included. Linux only.
Peers that are not installed are skipped with a line: trl==1.16.0, liger-kernel, cut-cross-entropy.

Shapes: N tokens, D width, V vocabulary. The last line printed is the report as JSON.

    python tests/bench_logprob.py --quick
    python tests/bench_logprob.py --tokens 4096 --vocab 151936 --rounds 0 --engines ours  # memory
"""

import argparse
import json
import multiprocessing
import os
import re
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import date
from importlib.metadata import distributions
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.nn.functional as F

import logprobs

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PACKAGES = ("torch", "triton", "transformers", "trl", "liger_kernel", "cut-cross-entropy")


# Engines: (hidden, weight, targets, coefficients) -> log-probs (N,), gradients in .grad


def back(logprobs, coefficients):
    (logprobs * coefficients).sum().backward()
    return logprobs.detach()


def ours(hidden, weight, targets, coefficients):
    return logprobs.backward_losses(
        hidden, weight, targets, lambda lp, chunk: coefficients[chunk] * lp
    ).logprobs


def ours_two_passes(hidden, weight, targets, coefficients):
    return back(logprobs.token_logprobs(hidden, weight, targets), coefficients)


def full_log_softmax(hidden, weight, targets, coefficients):
    logits = hidden @ weight.to(hidden.dtype).T
    accurate = torch.promote_types(logits.dtype, torch.float32)  # float64 stays as it is
    log_p = logits.log_softmax(-1, dtype=accurate)
    return back(log_p.gather(1, targets[:, None])[:, 0], coefficients)


def torch_linear_cross_entropy(hidden, weight, targets, coefficients):
    options = dict(reduction="none", options=torch.nn.LinearCrossEntropyOptions())
    head = weight.to(hidden.dtype)
    return back(-F.linear_cross_entropy(hidden, head, targets, **options), coefficients)


def trl_chunked(hidden, weight, targets, coefficients):
    from trl.kernels import ChunkedLogProbFunction

    options = (None, targets, 1.0, 32768, None, 1.0, ("entropy",))  # vocabulary tile: TRL's default
    return back(ChunkedLogProbFunction.apply(hidden, weight, *options)[0], coefficients)


def liger_chunked(hidden, weight, targets, coefficients):
    from liger_kernel.chunked_loss import fused_linear_ppo as ppo

    options = (None, 1.0, ppo._SELECTIVE_LOGPROB_VOCAB_CHUNK_SIZE)
    function = ppo._ChunkedSelectiveLogProbFunction
    return back(function.apply(hidden, weight, targets, *options), coefficients)


def cut_cross_entropy(hidden, weight, targets, coefficients):
    from cut_cross_entropy import linear_cross_entropy

    options = dict(reduction="none", filter_eps=None)  # its filter would drop small gradients
    head = weight.to(hidden.dtype)
    return back(-linear_cross_entropy(hidden, head, targets, **options), coefficients)


ENGINES = (ours, ours_two_passes, full_log_softmax, torch_linear_cross_entropy)
ENGINES += (trl_chunked, liger_chunked, cut_cross_entropy)
ENGINES = {engine.__name__: engine for engine in ENGINES}  # the others are compared with the first


def reason_to_skip(name):
    if name == "cut_cross_entropy" and DEVICE == "cpu":
        return "its kernels need CUDA"
    try:
        run(ENGINES[name], inputs_of(4, 8, 16))
    except (ImportError, AttributeError) as error:  # older torch lacks the chunked form
        return f"not installed ({error})"
    return None


# Measuring


def inputs_of(tokens, width, vocab):
    generator = torch.Generator(DEVICE).manual_seed(0)
    options = dict(generator=generator, device=DEVICE)
    hidden = torch.randn(tokens, width, **options)
    weight = torch.randn(vocab, width, **options).mul_(3 / width**0.5)  # logits of deviation 3
    targets = torch.randint(vocab, (tokens,), **options)
    coefficients = torch.randn(tokens, **options) / tokens
    hidden = hidden.bfloat16() if DEVICE == "cuda" else hidden
    return hidden.requires_grad_(), weight.requires_grad_(), targets, coefficients


def run(engine, inputs):
    inputs[0].grad = inputs[1].grad = None
    return engine(*inputs)


def now():
    """Seconds: of CPU time, or on CUDA of the wall clock when all that was launched is done."""
    if DEVICE == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def seconds(function, *arguments):
    start = now()
    function(*arguments)
    return now() - start


def outputs(engine, inputs):
    return run(engine, inputs), inputs[0].grad, inputs[1].grad


def errors(found, exact):
    """Largest error of a log-prob (nats), relative errors of the gradients."""
    gaps = [ours.double() - theirs for ours, theirs in zip(found, exact, strict=True)]
    relative = [float(gap.norm() / theirs.norm()) for gap, theirs in zip(gaps, exact, strict=True)]
    return {"logprob": float(gaps[0].abs().max()), "d_hidden": relative[1], "d_weight": relative[2]}


def peak_bytes(name, shape):
    """Peak memory of one run above its inputs; None where it does not fit."""
    try:
        if DEVICE == "cuda":
            return peak_of_this_process(name, shape)
        with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
            return pool.submit(peak_of_this_process, name, shape).result()
    except (BrokenProcessPool, torch.OutOfMemoryError):
        return None


def peak_of_this_process(name, shape):
    run(ENGINES[name], inputs_of(4, 8, 16))  # the libraries' own buffers are not counted
    inputs = inputs_of(*shape)
    forget_peak()
    before = peak_so_far()
    run(ENGINES[name], inputs)
    return peak_so_far() - before


def forget_peak():
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_so_far():
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated()
    return 1024 * int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])


@torch.no_grad()
def three_products(hidden, weight, *_):
    """The layer's matrix products alone, the floor of every engine's time."""
    head = weight.to(hidden.dtype)
    logits = hidden @ head.T
    return logits @ head, logits.T @ hidden


def measure(names, shape, rounds):
    """{engine: {peak_bytes, error, seconds, ratio, ratio_range, of_gemm}}; no rounds, no times."""
    results = {name: {"peak_bytes": peak_bytes(name, shape)} for name in names}
    if not rounds:
        return results
    inputs = inputs_of(*shape)
    float64 = [tensor.detach().double().requires_grad_() for tensor in inputs[:2]]
    exact = outputs(full_log_softmax, [*float64, *inputs[2:]])
    for name in names:  # also the warm-up
        results[name]["error"] = errors(outputs(ENGINES[name], inputs), exact)
    del float64, exact
    engines = [three_products, *(ENGINES[name] for name in names)]
    rows = [[seconds(run, engine, inputs) for engine in engines] for _ in range(rounds)]
    floor, *medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    for column, (name, median) in enumerate(zip(names, medians, strict=True), start=1):
        ratios = [row[column] / row[1] for row in rows]
        results[name] |= {"seconds": median, "ratio": median / medians[0]}
        results[name] |= {"ratio_range": [min(ratios), max(ratios)], "of_gemm": floor / median}
    return results


# Reporting


def about_this_machine():
    name = re.search(r"model name\s*: (.*)|$", Path("/proc/cpuinfo").read_text())[1]
    if DEVICE == "cuda":
        name = torch.cuda.get_device_name()
    versions = {found.name: found.version for found in distributions() if found.name in PACKAGES}
    hardware = f"{name}, 1 thread of {os.cpu_count()} cores"
    return {"hardware": hardware, "versions": versions, "load": os.getloadavg()[0]}


def print_table(report):
    print("N = {N} tokens, D = {D}, V = {V}; {hardware}; load {load:.1f}".format(**report))
    columns = ("peak MB", "seconds", "of GEMM", "x first", "range", "logprob", "d hid.", "d weight")
    print(" ".join([f"{'engine':26}", *(f"{column:>9}" for column in columns)]))
    for name, result in report["engines"].items():
        cells = [f"{(result['peak_bytes'] or 0) / 1e6:.0f}"]  # 0: it did not fit
        if "seconds" in result:
            low, high = result["ratio_range"]
            cells += [f"{result['seconds']:.3f}", f"{result['of_gemm']:.0%}"]
            cells += [f"{result['ratio']:.2f}", f"{low:.2f}-{high:.2f}"]
            cells += [f"{value:.0e}" for value in result["error"].values()]
        tie = " tie" if "seconds" in result and low < 1 < high else ""
        print(" ".join([f"{name:26}", *(f"{cell:>9}" for cell in cells)]) + tie)


def main():
    defaults = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=defaults)
    parser.add_argument("--quick", action="store_true", help="N 128, D 64, V 8192, 3 rounds")
    parser.add_argument("--tokens", type=int, default=512, help="N")
    parser.add_argument("--width", type=int, default=576, help="D")
    parser.add_argument("--vocab", type=int, default=49152, help="V")
    parser.add_argument("--rounds", type=int, default=5, help="0 measures memory only")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), metavar="E")
    args = parser.parse_args()
    torch.set_num_threads(1)
    shape, rounds = (args.tokens, args.width, args.vocab), args.rounds
    if args.quick:
        shape, rounds = (128, 64, 8192), 3
    reasons = {name: reason_to_skip(name) for name in args.engines}
    for name in filter(reasons.get, reasons):
        print(f"{name}: skipped, {reasons[name]}")
    report = dict(zip("NDV", shape, strict=True)) | {"date": str(date.today()), "rounds": rounds}
    report |= about_this_machine()
    names = [name for name, reason in reasons.items() if not reason]
    report["engines"] = measure(names, shape, rounds)
    print_table(report)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
