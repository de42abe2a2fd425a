"""The last layer against float64, in torch and in both Triton kernels.

Without CUDA the Triton kernels run in Triton's interpreter, in a process of their own, as it must
be chosen before anything imports Triton. It rounds a bf16 store toward zero.

    python -m pytest tests/test_logprobs.py
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import memory
from torch.utils._python_dispatch import TorchDispatchMode

import logprobs as L

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"



@pytest.fixture(params=["torch", "triton"] if DEVICE == "cuda" or INTERPRETING else ["torch"])
def backend(request, monkeypatch):
    """The last layer runs as torch code on the CPU, or as kernels. Returns the device."""
    if request.param == "torch":
        return "cpu"
    monkeypatch.setattr(L, "runs_triton", lambda logits: True)
    return DEVICE


@pytest.mark.skipif(DEVICE == "cuda" or INTERPRETING, reason="the kernels run in this process")
def test_kernels_in_the_interpreter():
    """Bug: those of the tests below that have a `backend`, in the kernels."""
    pytest.importorskip("triton", reason="triton is not installed: macOS has none")
    options = ["-q", "-p", "no:cacheprovider", "-k", "triton"]
    command = [sys.executable, "-m", "pytest", *options, __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    passed = re.search(r"(\d+) passed", run.stdout)
    assert run.returncode == 0 and int(passed[1]) > 10, run.stdout[-5000:]


@pytest.mark.skipif(DEVICE == "cuda" or INTERPRETING, reason="the kernels run in this process")
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_kernels_compile_for_a_gpu_that_is_not_there(dtype):
    """Bug: what the interpreter lets pass and the compiler does not; loads of one logit a time."""
    compiler = pytest.importorskip("triton.compiler", reason="no triton, as on macOS")
    from triton.backends.compiler import GPUTarget

    columns = {"log_softmax": ["logprobs", "logsumexps", "entropies"]}
    columns["gradient"] = ["logsumexps", "slopes"]
    for kernel, (name, arguments) in zip(L.triton_kernels(), columns.items(), strict=True):
        types = {"logits": f"*{dtype}", "stride": "i32", "targets": "*i64"}
        types |= {argument: "*fp32" for argument in arguments}
        constants = {"V": 151_936, "BLOCK": 4096}
        aligned = {(i,): [["tt.divisibility", 16]] for i in range(len(types))}  # as launches find
        types |= dict.fromkeys(constants, "constexpr")
        source = compiler.ASTSource(kernel, types, constants, aligned)
        target = GPUTarget("cuda", 90, 32)  # H100, H200
        compiled = compiler.compile(source, target=target, options={"num_warps": 8})
        assert name in compiled.asm["ptx"] and "ld.global.v4" in compiled.asm["ptx"]


def head_inputs(n, d, v, device, dtype=torch.float32):
    torch.manual_seed(n + v)
    hidden = torch.randn(n, d, device=device).to(dtype)
    weight = torch.randn(v, d, device=device) * 3 / d**0.5  # logits of deviation 3
    targets = torch.randint(v, (n,), device=device)
    if n > 1:
        targets[0], targets[1] = 0, v - 1
    return hidden, weight, targets, torch.randn(n, device=device)


def float64_oracle(hidden, weight, targets, coefficients, temperature):
    """Log-probs, entropy and the gradients of sum c log P, by autograd over full float64 logits."""
    hidden, weight = hidden.double().requires_grad_(), weight.double().requires_grad_()
    log_p = torch.log_softmax(hidden @ weight.T / temperature, -1)
    logprobs = log_p.gather(1, targets[:, None])[:, 0]
    (logprobs * coefficients).sum().backward()
    entropy = -(log_p.exp() * log_p).sum(-1)
    return [tensor.detach() for tensor in (logprobs, entropy, hidden.grad, weight.grad)]


def fused(hidden, weight, targets, coefficients):
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    scored = L.backward_losses(hidden, weight, targets, lambda lp, chunk: coefficients[chunk] * lp)
    return scored.logprobs, scored.entropy, hidden.grad, weight.grad


SHAPES = [(0, 4, 9), (1, 8, 5003), (5, 3, 1), (7, 16, 64), (13, 16, 4097)]  # N, D, V


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_log_probs_and_gradients_equal_float64(shape, temperature, backend, monkeypatch):
    """Bug: the last columns or the last chunk lost, a temperature left out of value or gradient."""
    monkeypatch.setattr(L, "LOGITS_PER_CHUNK", {"cpu": 3 * shape[2], "cuda": 3 * shape[2]})
    monkeypatch.setattr(L, "LOGITS_IN_CACHE", 2 * shape[2])
    inputs = head_inputs(*shape, backend)
    expected = float64_oracle(*inputs, temperature)
    hidden, weight = inputs[0].clone().requires_grad_(), inputs[1].clone().requires_grad_()
    logprobs = L.token_logprobs(hidden, weight, inputs[2], temperature)
    (logprobs * inputs[3]).sum().backward()
    entropy = expected[1].float()
    passes = [(logprobs, entropy, hidden.grad, weight.grad)]
    if temperature == 1:
        passes.append(fused(*inputs))
    for found in passes:
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=5e-6)
    reference = L.token_logprobs_reference(*inputs[:3], temperature)
    torch.testing.assert_close(reference.double(), expected[0], rtol=1e-6, atol=1e-6)


def test_targets_and_gradients_that_do_not_lie_in_one_piece(backend):
    """Bug: a kernel reads neighbours of an expanded gradient's one element, or other targets."""
    hidden, weight, targets, _ = head_inputs(6, 8, 50, backend)
    expected = float64_oracle(hidden, weight, targets, torch.ones(6, device=backend), 1.0)
    hidden.requires_grad_()
    weight.requires_grad_()
    column = torch.stack([targets, 49 - targets], 1)[:, 0]
    logprobs = L.token_logprobs(hidden, weight, column)
    logprobs.sum().backward()
    found = (logprobs, hidden.grad, weight.grad)
    for ours, theirs in zip(found, (expected[0], *expected[2:]), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_precision_of_each_type(dtype, backend):
    """Bug: sums, differences or exponentials in half precision: errors of 1e-2.

    Given the same logits the log-prob is good to fp32; the gradient is rounded once, when stored
    (bf16 to nearest: within 2^-8; the interpreter truncates: 2^-7).
    """
    torch.manual_seed(0)
    logits = (torch.randn(9, 5003, device=backend) * 3).to(dtype)
    targets = torch.randint(5003, (9,), device=backend)
    coefficients = torch.randn(9, device=backend)
    log_p = logits.double().log_softmax(-1)
    logprobs, logsumexp, entropy = L.target_logprobs(logits, targets)
    exact = log_p.gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(logprobs.double(), exact, rtol=0, atol=2e-6)
    torch.testing.assert_close(entropy.double(), -(log_p.exp() * log_p).sum(-1), rtol=0, atol=2e-6)
    onehot = torch.nn.functional.one_hot(targets, 5003)
    exact = coefficients[:, None].double() * (onehot - log_p.exp())
    found = L.logits_gradient_(logits, targets, logsumexp, coefficients).double()
    rounding = 2 ** (-6.9 if INTERPRETING else -7.9) if dtype != torch.float32 else 1e-5
    torch.testing.assert_close(found, exact, rtol=rounding, atol=1e-7)

    hidden, weight, targets, coefficients = head_inputs(40, 32, 300, backend, dtype)
    expected = float64_oracle(hidden, weight.to(dtype), targets, coefficients, 1.0)
    found = fused(hidden, weight, targets, coefficients)
    for ours, theirs in zip(found[2:], expected[2:], strict=True):
        cosine = torch.cosine_similarity(ours.double().flatten(), theirs.flatten(), dim=0)
        assert cosine > (0.99999 if dtype == torch.float32 else 0.9999), cosine


def test_hostile_rows(backend):
    """Bug: NaN from -inf - -inf or 0 * -inf; exp(1e4); a huge logit in the last block."""
    inf, v = torch.inf, 5003
    logits, targets = torch.zeros(8, v, device=backend), torch.full((8,), 7, device=backend)
    logits[0] = -inf  # nothing is possible
    logits[1, :4500] = -inf  # the first blocks and the target are impossible
    logits[2, 7:] = -inf  # the target is impossible, and all that follow
    logits[3, 7] = 1e4  # certain
    logits[4, v - 1] = 1e4  # certain to be another
    logits[5] = 1e4  # all equal, far from 0
    logits[6] = -1e4
    logits[7] = torch.finfo(torch.float32).min / 4  # how some codes mask
    logprobs, logsumexp, entropy = L.target_logprobs(logits, targets)
    equal = -torch.tensor(float(v)).log().item()
    expected = torch.tensor([-inf, -inf, -inf, 0.0, -1e4, equal, equal, equal])
    torch.testing.assert_close(logprobs.cpu(), expected, rtol=1e-6, atol=1e-6)
    few, seven = torch.tensor(503.0).log().item(), torch.tensor(7.0).log().item()
    expected = torch.tensor([0.0, few, seven, 0.0, 0.0, -equal, -equal, -equal])
    torch.testing.assert_close(entropy.cpu(), expected, rtol=1e-6, atol=1e-6)

    exact = torch.softmax(logits[:7].double(), -1)
    exact[0] = torch.nn.functional.one_hot(targets[:1], v)[0]  # so that its gradient is 0
    exact = 2.0 * (torch.nn.functional.one_hot(targets[:7], v) - exact)
    found = L.logits_gradient_(logits, targets, logsumexp, torch.full((8,), 2.0, device=backend))
    assert bool(found.isfinite().all())
    # at 1e4 the logsumexp is good to 5e-4 in fp32, so a certain target's gradient is good to 1e-3
    torch.testing.assert_close(found[:7].double(), exact, rtol=1e-3, atol=1e-3)


def test_nan_is_not_hidden(backend):
    """Bug: a broken model that looks healthy because a maximum skips NaN."""
    logits = torch.zeros(2, 5003, device=backend)
    targets = torch.zeros(2, dtype=torch.int64, device=backend)
    logits[0, 5002], logits[1, 10] = torch.nan, torch.inf
    logprobs, _, entropy = L.target_logprobs(logits, targets)
    assert bool(logprobs.isnan().all()) and bool(entropy.isnan().all())


def test_a_loss_is_any_function_of_the_logprob(backend, monkeypatch):
    """Bug: the slope of another chunk, or of log-probs not yet computed; a loss reported wrongly."""
    monkeypatch.setattr(L, "LOGITS_PER_CHUNK", {"cpu": 4 * 50, "cuda": 4 * 50})
    hidden, weight, targets, advantages = head_inputs(11, 8, 50, backend)
    weight.requires_grad_()
    leaf = hidden.clone().requires_grad_()
    surrogate = L.token_logprobs(leaf, weight, targets).exp() * advantages
    expected = torch.autograd.grad(surrogate.sum(), (leaf, weight))
    hidden.requires_grad_()
    for times in (1.0, 2.0):  # the second call adds to what the first left
        scored = L.backward_losses(
            hidden, weight, targets, lambda lp, chunk: lp.exp() * advantages[chunk]
        )
        torch.testing.assert_close(scored.losses, surrogate.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(scored.slopes, surrogate.detach(), rtol=1e-5, atol=1e-6)
        for found, once in zip((hidden.grad, weight.grad), expected, strict=True):
            torch.testing.assert_close(found, times * once, rtol=1e-5, atol=1e-6)


class Watch(TorchDispatchMode):
    """The size of the largest tensor made, and the FLOPs of the matrix products."""

    def __init__(self):
        super().__init__()
        self.largest = self.flops = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        if function.overloadpacket.__name__ in ("mm", "addmm", "addmm_"):
            left, right = args[-2:]
            self.flops += 2 * left.numel() * right.shape[1]
        return out


def test_no_tensor_of_all_logits_and_no_wasted_product(monkeypatch):
    """Bug: the (N, V) logits of a batch come into being; the fused pass makes a product twice."""
    n, d, v = 64, 8, 500
    monkeypatch.setattr(L, "LOGITS_PER_CHUNK", {"cpu": 10 * v})
    hidden, weight, targets, coefficients = head_inputs(n, d, v, "cpu")
    with Watch() as fused_pass:
        fused(hidden, weight, targets, coefficients)
    hidden.requires_grad_()
    weight.requires_grad_()
    with Watch() as two_passes:
        L.token_logprobs(hidden, weight, targets).sum().backward()
    assert fused_pass.largest == two_passes.largest == 10 * v
    assert (fused_pass.flops, two_passes.flops) == (6 * n * d * v, 8 * n * d * v)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_one_chunk_of_logits_at_a_time(monkeypatch):
    """Bug: a chunk's logits still held while the next one's are made."""
    n, d, v = 256, 4, 2**17
    monkeypatch.setattr(L, "LOGITS_PER_CHUNK", {"cpu": 60 * v})  # 31 MB; the last has 16 rows
    inputs = head_inputs(n, d, v, "cpu")
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    fused(*inputs)
    assert memory("VmHWM") - before < 1.5 * 60 * v * 4


def test_bad_arguments_are_named():
    """Bug: an id beyond the vocabulary reads other memory on a GPU; temperature 0 gives NaN."""
    hidden, weight, targets, _ = head_inputs(3, 4, 9, "cpu")
    for bad in (torch.tensor([0, 9, 1]), torch.tensor([0, -100, 1])):
        with pytest.raises(ValueError, match=r"target ids run from .* the head has 9 rows"):
            L.token_logprobs(hidden, weight, bad)
        with pytest.raises(ValueError, match=r"target ids run from .* the head has 9 rows"):
            L.backward_losses(hidden, weight, bad, lambda logprobs, chunk: logprobs)
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"temperature {temperature}"):
            L.token_logprobs(hidden, weight, targets, temperature)
