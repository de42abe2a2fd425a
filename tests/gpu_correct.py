"""Is what a GPU computes right? The kernels, gradients, sampling, memory savers, resume, the tests.

First this, then gpu_run.py, then gpu_bench.py. References are float64, the CPU in fp32, or the same
path without what is checked. A bound in fp32 is that of rounding. How far bf16 strays depends on
the model: there it is half as much again as the CPU strays in bf16. gpu.py runs the checks.

    python tests/gpu_correct.py --out correct.jsonl
    python tests/gpu_correct.py --device cpu --quick     # the script itself
"""

import shutil
import sys
import tempfile
from contextlib import redirect_stdout
from copy import deepcopy
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import bench_logprob
import pytest
import torch
from gpu import DEVICE, Skip, run_checks  # first, as it finds the project
from gpu_models import distance, gradient_of, on, random_update, run_words, updates_of

import dsrl
import rollout as sampler
from logprobs import logits_gradient_, target_logprobs
from model import KVCache, reads_live_part
from plumbing import plan
from plumbing.checkpoints import load_model
from prerl import conditional_logprobs

ROUNDING = 1.5
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def kernels(args, found):
    """Both kernels at Qwen's vocabulary, past 2^31 logits; five rows of them in float64."""
    rows, vocabulary = (24, 5003) if args.quick else (14_200, 151_936)
    for short, dtype in DTYPES.items():
        torch.manual_seed(0)
        logits = torch.randn(rows, vocabulary, dtype=dtype, device=DEVICE).mul_(3)
        targets = torch.randint(vocabulary, (rows,), device=DEVICE)
        coefficients = torch.randn(rows, device=DEVICE)
        chosen = torch.tensor([0, 1, rows // 2, rows - 2, rows - 1], device=DEVICE)
        log_p = logits[chosen].double().log_softmax(-1)
        onehot = torch.nn.functional.one_hot(targets[chosen], vocabulary)
        exact = coefficients[chosen, None].double() * (onehot - log_p.exp())
        logprobs, logsumexp, entropy = target_logprobs(logits, targets)
        gap = logprobs[chosen] - log_p.gather(1, targets[chosen, None])[:, 0]
        found.add(f"{short} log P", float(gap.abs().max()), 1e-5)
        gap = entropy[chosen] + (log_p.exp() * log_p).sum(-1)
        found.add(f"{short} entropy", float(gap.abs().max()), 1e-5)
        gradient = logits_gradient_(logits, targets, logsumexp, coefficients)
        most, gap = (1e-4 if short == "fp32" else 1e-2), (gradient[chosen] - exact).norm()
        found.add(f"{short} d logits", float(gap / exact.norm()), most)
        sums = gradient.sum(1, dtype=torch.float32).abs()  # 0 in each row, but for rounding
        found.add(f"{short} largest sum of a row", float((sums / coefficients.abs()).max()), most)


def last_layer(args, found):
    """Log-probs and both gradients of the layer, with its matrix products, by bench_logprob."""
    shape = (64, 16, 300) if args.quick else (5000, 1536, 151_936)
    results = bench_logprob.measure(["ours", "ours_two_passes"], shape, rounds=1)
    most = 1e-4 if DEVICE == "cpu" else 1e-2  # CUDA: the products are of bf16
    for engine, result in results.items():
        for name, error in result["error"].items():
            found.add(f"{engine} {name}", error, 10 * most if name == "logprob" else most)


def gradients(args, found):
    """Both spaces, in packs of 100 tokens, against the CPU in fp32; and with recomputed layers."""
    model, _, _, *update = random_update(args)
    for space in ("marginal", "conditional"):
        expected = gradient_of(model, *update, space, device="cpu")
        for short, dtype in DTYPES.items():
            plain = gradient_of(model, *update, space, dtype, tokens=100)
            most = 1e-4
            if short == "bf16":
                on_cpu = gradient_of(model, *update, space, dtype, device="cpu")
                most = ROUNDING * distance(on_cpu, expected)
            found.add(f"{space} {short}", distance(plain, expected), most)
            again = gradient_of(model, *update, space, dtype, tokens=100, recompute=True)
            most = 1e-5 if short == "fp32" else 5e-3  # flash attention adds up in any order
            found.add(f"{space} {short} recomputed", distance(again, plain), most)


def sampling(args, found):
    """Recorded steps against launched ones, token by token; fp32 against the CPU; the trainer's
    log-probs of the tokens against the sampler's (goal T6).

    A product of another batch size rounds otherwise: launched steps take the recorded shapes.
    """
    model, prompts, how, *_ = random_update(args)
    capacity = max(map(len, prompts)) + how["max_new_tokens"] + 16  # tokens; 7 rows fit into few
    launched = mock.patch.object(
        sampler, "record", lambda step, pool: SimpleNamespace(replay=step, pool=lambda: None)
    )
    for short, dtype in DTYPES.items():
        copy = deepcopy(model).to(DEVICE)
        copy.compute_dtype = dtype
        few = 8.5 * capacity * KVCache.bytes_per_token(model.config, dtype) / 1e9
        truncated = dict(temperature=0.7, top_k=20, top_p=0.9)
        for name, more in {"few": {"kv_cache_gb": few}, "cut": truncated, "plain": {}}.items():
            recorded = sampler.generate(copy, prompts, **how, **more)
            with launched, mock.patch.object(sampler, "GRAPHS_ON", (DEVICE,)):
                expected = sampler.generate(copy, prompts, **how, **more)
            found.add(f"{short} {name}, rows that differ", rows_apart(recorded, expected), 0)
            if short == "fp32":
                expected = sampler.generate(model, prompts, **how, **more)
                apart = rows_apart(on("cpu", recorded), expected)
                found.add(f"{name}, rows unlike the CPU's", apart, 6)  # of 24: draws near a border
        most = 1e-4
        if short == "bf16":
            model.compute_dtype = dtype
            most = ROUNDING * trainer_gap(model, sampler.generate(model, prompts, **how))
        found.add(f"{short} mean |log P trainer - sampler|", trainer_gap(copy, recorded), most)
    half = torch.empty(1, dtype=torch.bfloat16, device=DEVICE)
    found.add("attention reads only what is live", reads_live_part(half))


@torch.no_grad()
def trainer_gap(model, rollout):
    gap = conditional_logprobs(model, rollout) - rollout.logprobs
    return float(gap[rollout.response_mask].abs().mean())


def rows_apart(first, second):
    if first.response_ids.shape != second.response_ids.shape:
        return len(first.response_ids)
    differ = first.response_ids != second.response_ids  # 0 where masked
    return int((differ | (first.response_mask != second.response_mask)).any(1).sum())


def offload(args, found):
    """Three steps of AdamW with moments in host memory equal those on the device, to the bit."""
    model, *_ = random_update(args)
    ends = []
    for offloaded in (False, True):
        copy = deepcopy(model).to(DEVICE)
        optimizer = torch.optim.AdamW(copy.parameters(), lr=1e-3, fused=True, **dsrl.ADAM)
        torch.manual_seed(0)
        for _ in range(3):
            for parameter in copy.parameters():
                parameter.grad = torch.randn_like(parameter)
            plan.adam_step(optimizer, copy, offloaded)
        ends.append([parameter.data for parameter in copy.parameters()])
    differ = sum(int((one != other).sum()) for one, other in zip(*ends, strict=True))
    found.add("weights that differ", differ, 0)
    places = {moment.device.type for state in optimizer.state.values() for moment in state.values()}
    found.add("places of moments but host memory", len(places - {"cpu"}), 0)


def resume(args, found):
    """A run of 4 updates, and the same from its second checkpoint on."""
    out, again = (Path(tempfile.mkdtemp(dir=args.work)) / name for name in ("whole", "again"))
    words = run_words("quick" if args.quick else "small", args.work, prompt_tokens=20)
    reward = words[-2:]  # a folder names no code to run: it is given again
    words += "--steps 4 --prerl-steps 2 --prompts-per-step 4 --group-size 4 --save-every 2".split()
    words += f"--keep 4 --eval-problems 2 --lr 1e-3 --max-response-tokens 48 --out {out}".split()
    found.add("exit code of the run", dsrl.main(words), 0)
    shutil.copytree(out, again)
    shutil.rmtree(again / "checkpoint-4")
    found.add("exit code of --resume", dsrl.main(["--out", f"{again}", "--resume", *reward]), 0)
    whole, resumed = (updates_of(folder)[2] for folder in (out, again))
    for name, most in {"reward": 0, "length": 0, "grad_norm": 1e-3}.items():
        found.add(f"{name} of update 2, difference", abs(whole[name] / resumed[name] - 1), most)
    names = (f"{again}/checkpoint-4", f"{out}/checkpoint-4", f"{out}/checkpoint-2")
    *ends, before = [load_model(name)[0].state_dict() for name in names]
    steps = [{name: end[name] - before[name] for name in end} for end in ends]
    found.add("two more updates, difference", distance(*steps), 0.2)  # moments lost: 0.5 and more


def run_tests(args, found, *names):
    if args.quick:
        raise Skip("the test suite runs these on the CPU already")
    files = [f"{Path(__file__).parent}/test_{name}.py" for name in names]
    with redirect_stdout(StringIO()) as report:
        code = pytest.main(["-q", "-rf", "--tb=short", "-p", "no:cacheprovider", *files])
    found.add("report", report.getvalue()[-6000:])
    found.add("exit code", int(code), 0)


def tests(args, found):
    """Those with a case for CUDA."""
    run_tests(args, found, "logprobs", "model", "rollout")


def tests_of_runs(args, found):
    """Whole runs, on CUDA where it is. Some claim equality to the bit."""
    run_tests(args, found, "dsrl", "plan")


CHECKS = (kernels, last_layer, gradients, sampling, offload, resume, tests, tests_of_runs)

if __name__ == "__main__":
    sys.exit(run_checks(__file__, __doc__, CHECKS))
