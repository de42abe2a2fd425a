"""The objectives: which rows of a rollout are pushed, in which space, and one update's gradient.

    post-train space   log P(y | x) = sum_t log P(y_t | x, y_<t)    after its prompt: standard RL
    pre-train space    log P(y)     = sum_t log P(y_t | s, y_<t)    prompt removed: a start token s,
                                                                    positions from 0

    conditional    <s> question | answer </s>       the same tokens carry the loss in both spaces,
                                  ^^^^^^ ^^^^       and all of them: EOS is part of y
    marginal       <s>          | answer </s>
                                  ^^^^^^ ^^^^

    A      = r - mean(r)   or   (r - mean(r)) / (std(r) + 1e-6)     per group of G responses
    loss   = - coef / N * sum_t min(ratio_t A, clip(ratio_t) A)     over the kept rows' tokens
    ratio  = exp(logprob - old logprob), clipped to [1 - low, 1 + high]; where A < 0, at most 10
    NSR    keeps rows of A < 0, PSR of A > 0 (negative / positive sample reinforcement), GRPO all

1. N counts the kept response tokens of the WHOLE update (over all processes), before it is cut into
   packs of rows (micro-batches without padding), so the gradient does not depend on the cut. Rows
   with A = 0 count in N but are not computed, as this loss is 0 there. Rows of one prompt in a
   pack follow it in the stream: it is fed once, and their attention sees its keys and values.
2. One update per rollout is strictly on-policy: old = logprob.detach(), the ratio is exactly 1 and
   the gradient -A grad log P. With several updates per rollout the caller passes `old_logprobs`.
3. A group of equal rewards has A = 0, so the rows of an all-wrong group are NOT negative.

`policy_gradient` makes the gradient of the plain `reference_update`; both use `token_losses`.
Shapes: P prompts, G group size, B = P*G rows, R response, n tokens of a pack, D width.

    python prerl.py     # one group in numbers: rewards, advantages, who is pushed where
"""

from dataclasses import dataclass
from itertools import chain, compress

import torch
import torch.distributed as dist

from logprobs import backward_losses, token_logprobs

STD_EPSILON = 1e-6  # added to the group's std, as in GRPO
CLIP_LOW, CLIP_HIGH = 0.2, 0.2  # PPO's ratio is clipped to [1 - low, 1 + high]
DUAL_CLIP = 10.0  # bound on ratio for negative advantages (dual-clip PPO, arXiv 1912.09729)
# Tokens of a pack where no budget is given. 4096 hold a group of GSM8K: 8 x (150 + 350) tokens.
PACK_TOKENS = {"cpu": 4096, "cuda": 16384}
# What an update adds up; the first three become means over its trained tokens.
SUMS = "logprob entropy clip_fraction loss rows_trained tokens_trained tokens_forward".split()


@dataclass(frozen=True)
class Objective:
    space: str  # "conditional" (post-train) or "marginal" (pre-train)
    samples: str  # "all", "negative" or "positive"
    scale_std: bool  # divide the advantage by the group's std
    # AdamW divides by the gradient's size and so cancels the coefficient, but not in clipping, in
    # epsilon, in joint, or in momentum carried over the switch. 0.01 is the authors' value.
    coef: float


# The paper's ablation. DSRL: NSR-PreRL for `prerl_steps` updates, then GRPO; joint: both at once.
OBJECTIVES = {  # space, samples, scale_std, coef
    "grpo": Objective("conditional", "all", True, 1.0),
    "nsr-rl": Objective("conditional", "negative", True, 1.0),
    "psr-rl": Objective("conditional", "positive", True, 1.0),
    "prerl": Objective("marginal", "all", False, 0.01),
    "nsr-prerl": Objective("marginal", "negative", False, 0.01),
    "psr-prerl": Objective("marginal", "positive", False, 0.01),
    "nsr-twin": Objective("conditional", "negative", False, 0.01),  # nsr-prerl but for the space
}


def check_start_token(token, vocab_size):
    if token is None or not 0 <= token < vocab_size:
        raise ValueError(f"start token {token} is not among {vocab_size} ids: give --start-token")
    return token


# --------------------------------------------------------------------------------------------------
# Advantages and rows


def check_rewards(rewards):
    if not bool(((rewards >= 0) & (rewards <= 1)).all()):  # NaN fails both comparisons.
        raise ValueError(f"rewards must lie in [0, 1], found {rewards.min()} to {rewards.max()}")
    return rewards


def group_advantages(rewards, scale_std):
    """(P, G) rewards -> advantages: r - group mean, divided by the unbiased std if asked."""
    check_rewards(rewards)
    if rewards.shape[1] < 2:
        raise ValueError(f"group size {rewards.shape[1]}: responses need siblings, give 2 or more")
    centred = rewards - rewards.mean(1, keepdim=True)  # (P, G)
    # A group of equal rewards is exactly 0, even where their mean is rounded.
    centred = centred.masked_fill((rewards == rewards[:, :1]).all(1, keepdim=True), 0.0)
    return centred / (rewards.std(1, keepdim=True) + STD_EPSILON) if scale_std else centred


def is_negative(advantages):
    """The rows that NSR pushes down, worse than their siblings: this project's one definition."""
    return advantages < 0


def kept_rows(advantages, samples):
    """(B,) bool: the rows of an objective; they make up the denominator N."""
    masks = {"all": torch.ones_like(advantages).bool(), "negative": is_negative(advantages)}
    masks["positive"] = advantages > 0
    if samples not in masks:
        raise ValueError(f"samples {samples!r}: legal are {', '.join(masks)}")
    return masks[samples]


def loss_mask(rollout, mask_eos=False, skip_first=0):
    """(B, R) bool: the tokens that carry loss. The ablations leave out the first `skip_first` of a
    row, or the last of a finished row (EOS, or the end of a stop string)."""
    mask = rollout.response_mask.clone()
    mask[:, :skip_first] = False
    if mask_eos:
        ends = rollout.response_mask.sum(1) - 1
        mask[torch.arange(len(ends), device=ends.device), ends] &= ~rollout.finished
    return mask


def token_losses(logprobs, old_logprobs, advantages, clip_low, clip_high):
    """The loss of each token, (n,): PPO's clipped surrogate, with dual clip where A < 0.

    For another loss change this function: autograd differentiates it.
    logprobs, old_logprobs  (n,) nats, of the current weights and of those that sampled
    advantages              (n,) of each token's response
    """
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    surrogate = torch.minimum(ratio * advantages, clipped * advantages)
    bounded = surrogate.maximum(DUAL_CLIP * advantages)
    return -torch.where(advantages < 0, bounded, surrogate)


# --------------------------------------------------------------------------------------------------
# Scoring responses in either space


def contexts_of(rollout, space, start_token_id=None, vocab_size=None):
    """B tuples of ids: what precedes each response, its prompt or the start token alone."""
    if space == "marginal":
        return [(check_start_token(start_token_id, vocab_size),)] * len(rollout.response_ids)
    if space != "conditional":
        raise ValueError(f"space {space!r}: legal are marginal, conditional")
    pairs = zip(rollout.prompt_ids.tolist(), rollout.prompt_mask.tolist(), strict=True)
    return [tuple(compress(ids, mask)) for ids, mask in pairs]


def responses_of(response_ids, response_mask):
    """B lists of ids. Rows must be non-empty and right-padded: True to their end, then False."""
    if not bool(response_mask[:, 0].all()):
        raise ValueError(f"row {int((~response_mask[:, 0]).nonzero()[0])} has no response token")
    if bool((response_mask[:, 1:] & ~response_mask[:, :-1]).any()):
        raise ValueError("response_mask has holes: it must be True to the end of each response")
    pairs = zip(response_ids.tolist(), response_mask.sum(1).tolist(), strict=True)
    return [ids[:length] for ids, length in pairs]


def packs(model, rows, contexts, responses, budget):
    """Cut rows into lists of at most `budget` tokens, each row counted with its context, as its
    attention sees it; a row longer than that is alone in its list."""
    budget = budget or PACK_TOKENS[model.lm_head.weight.device.type]
    found, used = [], budget  # The first row opens a pack.
    for row in rows:
        tokens = len(contexts[row]) + len(responses[row]) - 1  # The last token is never fed.
        if used + tokens > budget:
            found.append([])
            used = 0
        found[-1].append(row)
        used += tokens
    return found


def predicting_hidden(model, contexts, responses, pack):
    """Run a pack of rows; return the states (n, D) that predict response tokens, and tokens fed.

    Responses 1 2 3 and 4 5 to the prompt p q r make the stream  p q | r 1 2 | r 4  : a row is its
    last context token and its response but for the last token, which is never fed. It follows the
    rest of its context, which is fed once for all rows of the pack that have it.
    """
    shared, follows, rows = {}, [], []  # shared: {rest of a context: its number in the stream}
    for row in pack:
        *rest, last = contexts[row]
        follows.append(shared.setdefault(tuple(rest), len(shared)) if rest else None)
        rows.append([last, *responses[row][:-1]])
    stream = [*shared, *rows]
    follows = [None] * len(shared) + follows if shared else None
    ids = torch.tensor(list(chain(*stream)), device=model.lm_head.weight.device)
    hidden = model(ids[None], row_lengths=list(map(len, stream)), follows=follows)[0]
    return hidden[sum(map(len, shared)) :], len(hidden)


def response_logprobs(model, contexts, response_ids, response_mask, micro_batch_tokens):
    responses, scored = responses_of(response_ids, response_mask), []
    cut = packs(model, range(len(responses)), contexts, responses, micro_batch_tokens)
    match_passes(model, len(cut))
    for pack in cut:
        hidden, _ = predicting_hidden(model, contexts, responses, pack)
        targets = response_ids[pack][response_mask[pack]]
        scored.append(token_logprobs(hidden, model.lm_head.weight, targets))
    logprobs = torch.zeros(response_mask.shape, device=response_ids.device)
    return logprobs.masked_scatter(response_mask, torch.cat(scored))  # (B, R)


def conditional_logprobs(model, rollout, *, micro_batch_tokens=None):
    """log P(y_t | x, y_<t): (B, R) float32, nats, 0 where the mask is False; carries gradient."""
    contexts, ids = contexts_of(rollout, "conditional"), rollout.response_ids
    return response_logprobs(model, contexts, ids, rollout.response_mask, micro_batch_tokens)


def marginal_logprobs(
    model, response_ids, response_mask, start_token_id, *, micro_batch_tokens=None
):
    """log P(y_t | s, y_<t): the response scored with the prompt removed (PreRL, arXiv 2604.14142).

    response_ids   (B, R) int64   right-padded, EOS included
    response_mask  (B, R) bool    True on sampled tokens, EOS included
    start_token_id int            s, the one token that stands in for the prompt
    Returns        (B, R) float32 nats, 0 where the mask is False; carries gradient
    Raises         ValueError     if a row is empty or has holes, or s is not in the vocabulary
    """
    start = check_start_token(start_token_id, model.config.vocab_size)
    contexts = [(start,)] * len(response_ids)
    return response_logprobs(model, contexts, response_ids, response_mask, micro_batch_tokens)


# --------------------------------------------------------------------------------------------------
# The gradient of one update


def reference_update(
    model, rollout, advantages, *, space="marginal", samples="negative", start_token_id=None,
    coef=1.0, old_logprobs=None, clip_low=CLIP_LOW, clip_high=CLIP_HIGH,
):  # fmt: skip
    """Add the gradient of one update's loss to .grad, in plain PyTorch; return the loss.

    For readers, tests and small models: `policy_gradient` makes the same gradient in less memory.
    """
    mask = rollout.response_mask & kept_rows(advantages, samples)[:, None]  # (B, R)
    contexts = contexts_of(rollout, space, start_token_id, model.config.vocab_size)
    ids = rollout.response_ids
    logprobs = response_logprobs(model, contexts, ids, rollout.response_mask, None)  # (B, R)
    old = logprobs.detach() if old_logprobs is None else old_logprobs
    advantages = advantages[:, None].expand_as(mask)
    losses = token_losses(logprobs[mask], old[mask], advantages[mask], clip_low, clip_high)  # (N,)
    loss = coef * losses.sum() / mask.sum()
    loss.backward()
    return float(loss.detach())


def policy_gradient(
    model, rollout, advantages, *, space="marginal", samples="negative", start_token_id=None,
    coef=1.0, micro_batch_tokens=None, old_logprobs=None, clip_low=CLIP_LOW, clip_high=CLIP_HIGH,
    token_mask=None,
):  # fmt: skip
    """Add to .grad the gradient of one update's loss (see the header); return the update's metrics.

    advantages    (B,) float   token_mask  (B, R) bool, tokens with loss; default: all, EOS included
    old_logprobs  (B, R) of the weights that sampled, in this space; None: on-policy
    Returns a dict of floats over all processes: loss; tokens (the denominator N); rows_trained,
    tokens_trained (those computed); tokens_forward (fed through the model); and, if any token was
    trained, the means of logprob and entropy (nats) and clip_fraction.
    """
    responses = responses_of(rollout.response_ids, rollout.response_mask)
    contexts = contexts_of(rollout, space, start_token_id, model.config.vocab_size)
    token_mask = rollout.response_mask if token_mask is None else token_mask & rollout.response_mask
    kept = kept_rows(advantages, samples)
    num_tokens = all_sum(token_mask[kept].sum().double()).item()
    rows = (kept & (advantages != 0) & token_mask.any(1)).nonzero()[:, 0].tolist()
    # Rows of one prompt share a pack, and neighbours of one length a call of attention.
    rows.sort(key=lambda row: (len(contexts[row]), contexts[row], len(responses[row])))
    sums = torch.zeros(len(SUMS), dtype=torch.float64, device=advantages.device)
    cut = packs(model, rows, contexts, responses, micro_batch_tokens)
    match_passes(model, len(cut))
    for pack in cut:
        hidden, fed = predicting_hidden(model, contexts, responses, pack)
        mask, response_mask = token_mask[pack], rollout.response_mask[pack]
        hidden = hidden[mask[response_mask]]  # (n, D): only tokens that carry loss enter the head
        advantage = advantages[pack][:, None].expand_as(mask)[mask]  # (n,)
        old = None if old_logprobs is None else old_logprobs[pack][mask]  # (n,)

        def losses_of(logprobs, chunk):
            before = logprobs.detach() if old is None else old[chunk]  # on-policy: the ratio is 1
            losses = token_losses(logprobs, before, advantage[chunk], clip_low, clip_high)
            return coef / num_tokens * losses

        targets = rollout.response_ids[pack][mask]
        scored = backward_losses(hidden, model.lm_head.weight, targets, losses_of)
        values = (scored.logprobs, scored.entropy, scored.slopes == 0, scored.losses)
        sums[:4] += torch.stack([value.double().sum() for value in values])  # as in SUMS
        sums[4:] += torch.tensor([len(pack), len(targets), fed], device=sums.device)
    metrics = dict(zip(SUMS, all_sum(sums).tolist(), strict=True)) | {"tokens": num_tokens}
    trained = metrics["tokens_trained"]
    means = {name: metrics.pop(name) / max(1, trained) for name in SUMS[:3]}
    return metrics | means if trained else metrics


def all_sum(tensor):
    """Sum over all processes; the tensor itself where there is one."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def match_passes(model, packs_here):
    """On a sharded model, where the processes meet in each layer: those with fewer packs than the
    busiest first make empty passes for what they lack. All processes call it."""
    if not model.is_sharded:
        return
    token = torch.zeros(1, 1, dtype=torch.int64, device=model.lm_head.weight.device)
    most = torch.tensor(packs_here, device=token.device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    for _ in range(int(most) - packs_here):
        hidden = model(token)[0]  # (1, D), of which no state enters the head
        if torch.is_grad_enabled():
            backward_losses(hidden[:0], model.lm_head.weight, token[0, :0], lambda *_: None)


# --------------------------------------------------------------------------------------------------
# Demo


def demo():
    """One group in numbers: rewards, advantages, who is pushed where, log P(y) before and after."""
    from transformers import LlamaConfig

    from model import CausalLM
    from rollout import generate

    torch.manual_seed(0)
    sizes = dict(vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    model, start = CausalLM(LlamaConfig(**sizes, num_attention_heads=4)), 2
    rollout = generate(model, [[3, 4, 5]], group_size=4, max_new_tokens=12, eos_ids=(1,), seed=0)
    ids, mask, rewards = rollout.response_ids, rollout.response_mask, [1.0, 0.0, 0.0, 1.0]
    centred, scaled = (group_advantages(torch.tensor([rewards]), std)[0] for std in (False, True))
    before = marginal_logprobs(model, ids, mask, start).sum(1)  # (B,)
    reference_update(model, rollout, centred, start_token_id=start)
    plain = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    policy_gradient(model, rollout, centred, start_token_id=start, micro_batch_tokens=16)
    pairs = zip(plain, model.parameters(), strict=True)
    gap = max(float((gradient - weight.grad).abs().max()) for gradient, weight in pairs)
    print(f"reference_update and policy_gradient, row by row, give one gradient: {gap:.1e}")
    for parameter in model.parameters():
        parameter.data -= 0.1 * parameter.grad
    after = marginal_logprobs(model, ids, mask, start).sum(1)  # (B,)
    print("row reward r-mean z-score  NSR-PreRL pushes  log P(y) before and after  GRPO would push")
    for row, negative in enumerate(is_negative(centred)):
        print(f"{row:3} {rewards[row]:6.0f} {centred[row]:6.2f} {scaled[row]:7.2f}  "
              f"{'log P(y) down' if negative else '-':16}  {before[row]:8.3f} {after[row]:16.3f}  "
              f"log P(y|x) {'down' if scaled[row] < 0 else 'up'}")  # fmt: skip
    print(f"the denominator N: {int(mask[is_negative(centred)].sum())} tokens of rows 1 and 2")
    assert gap < 1e-5 and bool((after < before)[1:3].all())


if __name__ == "__main__":
    demo()
