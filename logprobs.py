"""The last layer: log-probabilities of tokens, without a tensor of all logits.

    log P(y_t | ...) = logits[y_t] - logsumexp(logits),   logits = hidden W^T      `token_logprobs`

1. The layer works on chunks of tokens: there is no (N, V) tensor of logits for a whole batch.
2. `backward_losses` makes the gradient in the same pass. The loss of a token is a function of its
   log-prob alone, so its slope d loss / d logprob is known as soon as the log-prob is, and the
   chunk of logits is turned into its own gradient at once: 6 N D V FLOPs instead of 8.
3. The loss itself is plain PyTorch (`prerl.token_losses`). A CPU uses torch operations below; CUDA
   uses the two Triton kernels.

Shapes: N tokens of a batch (n of a chunk), V vocabulary, D width.

    python logprobs.py     # one fused pass equals autograd in float64
"""

from dataclasses import dataclass
from functools import cache

import torch

# Logits of one chunk of tokens. CUDA: 1.1 GB in bf16, 3,533 tokens of Qwen's V = 151,936; fewer
# would rewrite the (V, D) gradient of the head too often. CPU: 128 MB in fp32.
LOGITS_PER_CHUNK = {"cuda": 2**29, "cpu": 2**25}
LOGITS_IN_CACHE = 2**18  # CPU: 1 MB in fp32; what is cached is read about 4 times as fast


def token_logprobs_reference(hidden, weight, targets, temperature=1.0):
    """The definition of `token_logprobs`, for tests and readers: holds (N, V) several times."""
    logits = hidden.double() @ weight.double().T / temperature  # (N, V)
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0].float()


@cache
def triton_kernels():
    """The two kernels, compiled on first use: `log_softmax` (online log-softmax) and `gradient`.

    The textbook walks a row of V logits z three times: for the maximum m, without which exp
    overflows; for s = sum e^(z-m); for log p = z - m - log s, of which it writes all V. Memory is
    what a GPU waits for here, not arithmetic. So `log_softmax` reads each logit once, in blocks,
    keeping m, s and, for the entropy, w = sum (z-m) e^(z-m) of the blocks so far. When a block
    moves the maximum from m to m', the sums are corrected as if m' were subtracted from the start:

        s' = s e^(m-m') + sum over the block of e^(z-m')
        w' = (w + (m-m') s) e^(m-m') + sum over the block of (z-m') e^(z-m')

    In the end log P(target) = z_target - m - log s, logsumexp = m + log s, and, as p = e^(z-m) / s,
    the entropy -sum p log p = log s - w / s: three numbers are written for a row, not V.
    `gradient` uses d log P(target) / d z = onehot - p, with p = e^(z - logsumexp), and writes it
    over the logits, which nothing needs any more.

    One program works on one row, and programs share nothing. Matrix products stay with cuBLAS. No
    tl.dot, atomics or autotuning: Triton's interpreter, the tests' stand-in for a GPU, runs it all.
    """
    global triton, tl  # Only CUDA needs them, so late; Triton looks them up among the globals.
    import triton
    import triton.language as tl

    @triton.jit
    def log_softmax(logits, stride, targets, logprobs, logsumexps, entropies,
              V: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
        row = tl.program_id(0).to(tl.int64)  # row * stride passes 2^31 at 14,135 Qwen tokens.
        logits += row * stride
        largest, total, weighted = float("-inf"), 0.0, 0.0  # m, s and w of the blocks so far
        for start in range(0, V, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            # Past the end of the row z is -inf, which adds e^-inf = 0. All arithmetic is in fp32.
            z = tl.load(logits + columns, mask=columns < V, other=float("-inf")).to(tl.float32)
            grown = tl.maximum(largest, tl.max(z, 0))  # m'
            shift = tl.where(grown == float("-inf"), 0.0, grown)  # -inf - -inf would be NaN.
            rescale, e = tl.exp(largest - shift), tl.exp(z - shift)
            # In the first block largest - shift is -inf, and -inf * 0 would be NaN.
            moved = tl.where(rescale > 0, (weighted + (largest - shift) * total) * rescale, 0.0)
            # p log p is 0 at p = 0.
            weighted = moved + tl.sum(tl.where(e > 0, (z - shift) * e, 0.0), 0)
            total = total * rescale + tl.sum(e, 0)
            largest = grown
        target = tl.load(logits + tl.load(targets + row)).to(tl.float32)
        # The maximum goes first: at logits of 1e4 the logsumexp itself is only good to 5e-4.
        logprob = (target - largest) - tl.log(total)
        tl.store(logprobs + row, tl.where(total == 0, float("-inf"), logprob))
        tl.store(logsumexps + row, tl.where(total == 0, float("-inf"), largest + tl.log(total)))
        tl.store(entropies + row, tl.where(total == 0, 0.0, tl.log(total) - weighted / total))

    @triton.jit
    def gradient(logits, stride, targets, logsumexps, slopes,
                 V: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
        row = tl.program_id(0).to(tl.int64)
        logits += row * stride
        target, logsumexp = tl.load(targets + row), tl.load(logsumexps + row)
        dead = logsumexp == float("-inf")  # A row of -inf has gradient 0, not NaN.
        slope = tl.where(dead, 0.0, tl.load(slopes + row))
        logsumexp = tl.where(dead, 0.0, logsumexp)
        for start in range(0, V, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            z = tl.load(logits + columns, mask=columns < V, other=float("-inf")).to(tl.float32)
            onehot = tl.where(columns == target, 1.0, 0.0)
            d_logits = slope * (onehot - tl.exp(z - logsumexp))
            tl.store(logits + columns, d_logits, mask=columns < V)

    return log_softmax, gradient


def launch(kernel, logits, *tensors):
    assert logits.stride(1) == 1, f"a row must lie in one piece, strides are {logits.stride()}"
    # The kernels need vectors that lie in one piece; autograd's expanded gradients do not.
    tensors = [tensor.contiguous() for tensor in tensors]
    n, V = logits.shape
    block = min(4096, triton.next_power_of_2(V))
    kernel[(n,)](logits, logits.stride(0), *tensors, V, BLOCK=block, num_warps=8)


def runs_triton(logits):
    return logits.is_cuda


def rows_in_cache(logits, *per_row):
    """The same tensors in blocks of rows that stay in the CPU's cache while they are worked on."""
    rows = max(1, LOGITS_IN_CACHE // logits.shape[1])
    return zip(*(tensor.split(rows) for tensor in (logits, *per_row)), strict=True)


def target_logprobs(logits, targets):
    """(n, V) logits -> log P(target), logsumexp and entropy, each (n,) float32, nats.

    A row of -inf gives -inf, -inf, 0; a row with NaN or +inf gives NaN, for the trainer to see.
    """
    if runs_triton(logits):
        values = torch.empty(3, len(logits), device=logits.device).unbind()
        launch(triton_kernels()[0], logits, targets, *values)
        return values
    values = [target_logprobs_of_rows(*block) for block in rows_in_cache(logits, targets)]
    return [torch.cat(parts) for parts in zip(*values, strict=True)]


def target_logprobs_of_rows(logits, targets):
    """The arithmetic of the kernel `log_softmax` in torch, for a few rows that fit the cache."""
    largest = logits.amax(-1).float()
    dead = largest == -torch.inf
    z = logits.float() - largest.masked_fill(dead, 0.0)[:, None]  # (rows, V), at most 0
    target = z.gather(1, targets[:, None])[:, 0]
    e = z.exp()
    total = e.sum(-1)
    weighted = e.mul_(z.clamp_(min=-200.0)).sum(-1)  # p log p is 0 at p = 0; e^-200 is 0 in fp32.
    logprobs = (target - total.log()).masked_fill(dead, -torch.inf)
    return logprobs, largest + total.log(), (total.log() - weighted / total).masked_fill(dead, 0.0)


def logits_gradient_(logits, targets, logsumexp, slopes):
    """In place: logits become the gradient of the loss, slope (onehot - p); 0 for a row of -inf.

    slopes (n,) float32, d loss / d log P(target)
    """
    if runs_triton(logits):
        launch(triton_kernels()[1], logits, targets, logsumexp, slopes)
        return logits
    dead = logsumexp == -torch.inf
    per_row = targets, logsumexp.masked_fill(dead, 0.0), slopes.masked_fill(dead, 0.0)
    for z, target, log_total, slope in rows_in_cache(logits, *per_row):
        gradient = (z.float() - log_total[:, None]).exp_().mul_(-slope[:, None])  # -slope p
        z.copy_(gradient.scatter_add_(1, target[:, None], slope[:, None]))
    return logits


def chunked_logprobs(hidden, weight, targets, temperature, slopes_of=None, d_weight=None):
    """The loop over chunks of tokens: log-probs (N,), entropy (N,) and d loss / d hidden (N, D).

    slopes_of  (logprobs (n,), slice) -> (n,), d loss / d logprob; None: no gradient is made
    d_weight   (V, D), the gradient of the head is added to it; None: the head is frozen
    """
    check_inputs(hidden, weight, targets, temperature)
    scaled, head = hidden.detach() / temperature, weight.detach().to(hidden.dtype)
    logprobs = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
    entropy = torch.empty_like(logprobs)
    d_hidden = torch.empty_like(scaled) if slopes_of else None
    size = max(1, LOGITS_PER_CHUNK[hidden.device.type] // len(weight))
    buffer = scaled.new_empty(min(size, len(hidden)), len(weight))  # of all chunks, one by one
    for start in range(0, len(hidden), size):
        chunk = slice(start, start + size)
        logits = torch.mm(scaled[chunk], head.T, out=buffer[: len(hidden) - start])  # (n, V)
        logprobs[chunk], logsumexp, entropy[chunk] = target_logprobs(logits, targets[chunk])
        if slopes_of:
            slopes = slopes_of(logprobs[chunk], chunk)
            d_logits = logits_gradient_(logits, targets[chunk], logsumexp, slopes)
            d_hidden[chunk] = d_logits @ head / temperature
            if d_weight is not None:
                accumulate_(d_weight, d_logits, scaled[chunk])
    return logprobs, entropy, d_hidden


class TokenLogprobs(torch.autograd.Function):
    """`token_logprobs` for autograd: `backward` knows the slopes and makes the logits once more."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature):
        ctx.save_for_backward(hidden, weight, targets)
        ctx.temperature = temperature
        return chunked_logprobs(hidden, weight, targets, temperature)[0]

    @staticmethod
    def backward(ctx, upstream):
        hidden, weight, targets = ctx.saved_tensors
        d_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        _, _, d_hidden = chunked_logprobs(
            hidden, weight, targets, ctx.temperature, lambda _, chunk: upstream[chunk], d_weight
        )
        return d_hidden, d_weight, None, None


def token_logprobs(hidden, weight, targets, temperature=1.0):
    """log softmax(hidden W^T / temperature)[target] of each token; holds one chunk of logits.

    hidden   (N, D) float    weight (V, D) float, the head    targets (N,) int64 in [0, V)
    Returns  (N,) float32, nats; gradients flow to hidden and weight
    Raises   ValueError for a target out of range or a temperature that is not above 0
    """
    return TokenLogprobs.apply(hidden, weight, targets, temperature)


@dataclass
class Scored:
    """What one fused pass knows of its N tokens, each (N,) float32 without gradient."""

    losses: torch.Tensor
    slopes: torch.Tensor  # d loss / d logprob; 0 where the loss is clipped
    logprobs: torch.Tensor  # nats
    entropy: torch.Tensor  # nats


def backward_losses(hidden, weight, targets, losses_of):
    """Back-propagate the sum of the tokens' losses, in one pass over the logits.

    losses_of  (logprobs (n,), slice) -> (n,): the loss of each token of a chunk, any torch function
               of its log-prob; autograd differentiates it, the rest is done by formula
    Effects    adds to weight.grad unless the head is frozen; calls hidden.backward
    Returns    Scored
    """
    losses, slopes = torch.empty(2, len(targets), device=hidden.device).unbind()

    def slopes_of(logprobs, chunk):
        with torch.enable_grad():
            logprobs = logprobs.detach().requires_grad_()
            chunk_losses = losses_of(logprobs, chunk)  # (n,)
            slopes[chunk] = torch.autograd.grad(chunk_losses.sum(), logprobs)[0]
        losses[chunk] = chunk_losses.detach()
        return slopes[chunk]

    if weight.grad is None and weight.requires_grad:
        weight.grad = torch.zeros_like(weight)
    logprobs, entropy, d_hidden = chunked_logprobs(
        hidden, weight, targets, 1.0, slopes_of, weight.grad
    )
    hidden.backward(d_hidden)
    return Scored(losses, slopes, logprobs, entropy)


def accumulate_(d_weight, d_logits, hidden):
    """d_weight (V, D) += d_logits^T (V, n) hidden (n, D), in fp32 as bf16 sums would drift."""
    if d_weight.dtype == hidden.dtype:
        return d_weight.addmm_(d_logits.T, hidden)
    if hidden.is_cuda and d_weight.dtype == torch.float32:  # cuBLAS multiplies bf16, adds fp32.
        return torch.addmm(d_weight, d_logits.T, hidden, out_dtype=torch.float32, out=d_weight)
    return d_weight.add_(d_logits.T @ hidden)


def check_inputs(hidden, weight, targets, temperature):
    shapes = tuple(hidden.shape), tuple(weight.shape), tuple(targets.shape)
    assert shapes[0] == (len(targets), weight.shape[1]), f"hidden, weight, targets: {shapes}"
    if not temperature > 0:
        raise ValueError(f"temperature {temperature}: log-probs need one above 0")
    if targets.numel() and not 0 <= int(targets.min()) <= int(targets.max()) < len(weight):
        raise ValueError(
            f"target ids run from {int(targets.min())} to {int(targets.max())}, the head has "
            f"{len(weight)} rows: use the model's own tokenizer"
        )


# --------------------------------------------------------------------------------------------------
# Demo


def demo():
    """One fused pass against autograd in float64."""
    torch.manual_seed(0)
    hidden = torch.randn(16, 32, requires_grad=True)  # (N, D)
    weight = torch.randn(97, 32, requires_grad=True)  # (V, D)
    targets, advantages = torch.randint(97, (16,)), torch.randn(16)
    expected = token_logprobs_reference(hidden, weight, targets)
    gradients = torch.autograd.grad((-advantages * expected).sum(), (hidden, weight))
    ours = backward_losses(hidden, weight, targets, lambda lp, chunk: -advantages[chunk] * lp)
    pairs = [
        (ours.logprobs, expected), (hidden.grad, gradients[0]), (weight.grad, gradients[1]),
    ]  # fmt: skip
    gap = max((ours - theirs).abs().max() for ours, theirs in pairs)
    assert gap < 1e-4, gap
    print(f"log-probs and gradients of one fused pass equal autograd's in float64: {gap:.1e}")


if __name__ == "__main__":
    demo()
