"""The objectives against transformers' own model and plain autograd.

python -m pytest -q tests/test_prerl.py
"""

import copy

import pytest
import torch
from conftest import random_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2ForCausalLM

import dsrl
import prerl
from plumbing.alignment import cosine, gradient_alignment
from plumbing.flags import VARIANTS
from rollout import Rollout

REWARDS = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
START = 2


def oracle_of(model):
    """transformers' model with the same weights: shares no code with ours."""
    oracle = Qwen2ForCausalLM(model.config).eval()
    oracle.load_state_dict(model.state_dict())
    return oracle


def oracle_logprobs(oracle, rollout, row, space):
    """(r,) log-probs of one response, computed alone, without padding, from full logits."""
    prompt = rollout.prompt_ids[row][rollout.prompt_mask[row]]
    context = prompt if space == "conditional" else torch.tensor([START])
    response = rollout.response_ids[row][rollout.response_mask[row]]
    logits = oracle(torch.cat([context, response])[None]).logits[0, len(context) - 1 : -1].double()
    return logits.log_softmax(-1).gather(1, response[:, None])[:, 0]


def oracle_gradient(
    model, rollout, names, rewards=REWARDS, old=None, low=0.2, high=0.3, mask=None
):
    """The losses of the objectives as their formulas read, one row at a time, with plain autograd.

    The surrogate is written out by sign: A > 0 gains min(ratio, 1 + high) A; A < 0 loses
    max(ratio, 1 - low) |A|, at most 10 |A|.
    """
    oracle, loss = oracle_of(model), 0.0
    mask = rollout.response_mask if mask is None else mask
    keep = {"all": lambda a: True, "negative": lambda a: a < 0, "positive": lambda a: a > 0}
    for name in names:
        o = prerl.OBJECTIVES[name]
        centred = rewards - rewards.mean(1, keepdim=True)
        scaled = centred / (rewards.std(1, keepdim=True) + 1e-6)
        advantages = (scaled if o.scale_std else centred).flatten().tolist()
        rows = [row for row in range(12) if keep[o.samples](advantages[row])]
        num_tokens = sum(int(mask[row].sum()) for row in rows)
        for row in rows:
            logprobs = oracle_logprobs(oracle, rollout, row, o.space)
            before = logprobs.detach() if old is None else old[row, : len(logprobs)].double()
            ratio = (logprobs - before).exp()
            if advantages[row] > 0:
                reach = ratio.clamp(max=1 + high)
            else:
                reach = ratio.clamp(min=1 - low).clamp(max=10)
            pushed = reach[mask[row, : len(reach)]].sum()
            loss = loss - o.coef / num_tokens * advantages[row] * pushed
    loss.backward()
    return gradients_of(oracle)


def gradients_of(model):
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}


def push(model, rollout, names, rewards=REWARDS, **options):
    """The gradient of one update of these objectives, as dsrl.py makes it."""
    model.zero_grad(set_to_none=True)
    for name in names:
        o = prerl.OBJECTIVES[name]
        advantages = prerl.group_advantages(rewards, o.scale_std).flatten()
        metrics = prerl.policy_gradient(
            model, rollout, advantages, space=o.space, samples=o.samples, coef=o.coef,
            start_token_id=START, clip_high=0.3, **options,
        )  # fmt: skip
    return gradients_of(model), metrics


def gradient(model, rollout, advantages, **options):
    model.zero_grad(set_to_none=True)
    metrics = prerl.policy_gradient(model, rollout, advantages, start_token_id=START, **options)
    return gradients_of(model), metrics


def distance(first, second):
    """Relative distance of two gradients over all weights."""
    assert first.keys() == second.keys()
    square = sum((first[n].double() - second[n].double()).square().sum() for n in first)
    return float((square / sum(second[n].double().square().sum() for n in second)).sqrt())


@pytest.mark.parametrize("space", ["conditional", "marginal"])
def test_logprobs_equal_transformers(model, rollout, space):
    """Bug: an off-by-one between hidden state and target, padding or a prompt token leaking into a
    row.
    """
    oracle = oracle_of(model)
    if space == "conditional":
        logprobs = prerl.conditional_logprobs(model, rollout, micro_batch_tokens=11)
    else:
        logprobs = prerl.marginal_logprobs(
            model, rollout.response_ids, rollout.response_mask, START, micro_batch_tokens=11
        )
    assert bool((logprobs[~rollout.response_mask] == 0).all())
    for row in range(12):
        expected = oracle_logprobs(oracle, rollout, row, space)
        found = logprobs[row][rollout.response_mask[row]].double()
        assert torch.allclose(found, expected, atol=1e-4), row


def test_marginal_ignores_the_prompt_to_the_bit(model, rollout):
    """Bug: prompt tokens in the P(y) pass, or a position or an order of rows that comes from the
    prompts' lengths.
    """
    advantages = prerl.group_advantages(REWARDS, False).flatten()
    before, _ = gradient(model, rollout, advantages, space="marginal", samples="negative")
    rollout.prompt_ids = rollout.prompt_ids.flip(1) + 3
    rollout.prompt_mask = rollout.prompt_mask.flip(0)
    after, _ = gradient(model, rollout, advantages, space="marginal", samples="negative")
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("space", ["conditional", "marginal"])
def test_positions_and_what_is_fed(model, rollout, space, monkeypatch):
    """Bug: positions that run on through a pack, count the missing prompt or begin anew after the
    prompt: rotary embeddings are relative, so log-probs would hide the first two. A prompt that is
    fed with each response; a number of tokens that is not the length of the stream.
    """
    seen, fed, tables, embed = [], [], model.rotary_tables, model.model.embed_tokens.forward
    note_positions = lambda positions: seen.extend(positions[0].tolist()) or tables(positions)
    note_ids = lambda ids: fed.extend(ids[0].tolist()) or embed(ids)
    monkeypatch.setattr(model, "rotary_tables", note_positions)
    monkeypatch.setattr(model.model.embed_tokens, "forward", note_ids)
    metrics = gradient(model, rollout, torch.ones(12), space=space, samples="all")[1]
    expected = []  # (position, id)
    prompts = [ids[mask].tolist() for ids, mask in zip(rollout.prompt_ids, rollout.prompt_mask)]
    for row, prompt in enumerate(prompts if space == "conditional" else [[START]] * 12):
        response = rollout.response_ids[row][rollout.response_mask[row]].tolist()
        whole = list(enumerate(prompt + response[:-1]))
        first = 0 if row % 4 == 0 else len(prompt) - 1  # the group's first row has the prompt
        expected += whole[first:]
    assert sorted(zip(seen, fed, strict=True)) == sorted(expected)
    assert metrics["tokens_forward"] == len(expected)


def test_inputs_are_not_written_to(model, rollout):
    """Bug: a mask or an advantage changed in place, which the next objective of the same update
    would then see.
    """
    advantages = prerl.group_advantages(REWARDS, True).flatten()
    mask = prerl.loss_mask(rollout, True, 1)
    inputs = {name: value for name, value in vars(rollout).items() if torch.is_tensor(value)}
    inputs |= {"advantages": advantages, "mask": mask}
    before = copy.deepcopy(inputs)
    weights = copy.deepcopy(model.state_dict())
    options = dict(token_mask=mask, old_logprobs=rollout.logprobs)
    gradient(model, rollout, advantages, space="conditional", samples="all", **options)
    gradient_alignment(model, rollout, START)
    assert all(torch.equal(inputs[name], before[name]) for name in inputs)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


# What one update of any variant pushes
UPDATES = sorted({phase for phases in VARIANTS.values() for phase in phases})


@pytest.mark.parametrize("names", UPDATES, ids="+".join)
@pytest.mark.parametrize("budget", [None, 1, 17, 30])  # a group whole, in 4 packs, in 2, in 2 or 1
def test_gradient_equals_plain_autograd(model, rollout, names, budget):
    """Bug: a denominator per micro-batch, zero-advantage rows dropped from it, a wrong sign, a
    wrong row selection.
    """
    found, _ = push(model, rollout, names, micro_batch_tokens=budget)
    assert distance(found, oracle_gradient(model, rollout, names)) < 1e-4


@pytest.mark.parametrize("names", UPDATES, ids="+".join)
@pytest.mark.parametrize("mask_eos, skip_first", [(True, 0), (False, 2), (True, 1)])
def test_gradient_of_the_ablations(model, rollout, names, mask_eos, skip_first):
    """Bug: tokens without loss in the denominator, or in the loss."""
    mask = prerl.loss_mask(rollout, mask_eos, skip_first)
    found, metrics = push(model, rollout, names, token_mask=mask)
    assert distance(found, oracle_gradient(model, rollout, names, mask=mask)) < 1e-4
    assert metrics["tokens"] < rollout.response_mask.sum()


@pytest.mark.parametrize("names", [names for names in UPDATES if len(names) == 1], ids="+".join)
@pytest.mark.parametrize("budget", [None, 17])
def test_gradient_off_policy(model, rollout, names, budget):
    """Bug: ratio upside down, a clip bound swapped or on the wrong sign, no dual clip: each moves
    tokens of this update.
    """
    space = prerl.OBJECTIVES[names[0]].space
    oracle, (old, shifts) = oracle_of(model), torch.zeros(2, 12, 7)
    generator = torch.Generator().manual_seed(1)
    for row in range(12):
        logprobs = oracle_logprobs(oracle, rollout, row, space).detach()
        shift = torch.randn(len(logprobs), generator=generator).mul(2.0).clamp(-4, 4)
        old[row, : len(logprobs)], shifts[row, : len(logprobs)] = logprobs - shift, shift
    found, metrics = push(model, rollout, names, micro_batch_tokens=budget, old_logprobs=old)
    assert distance(found, oracle_gradient(model, rollout, names, old=old)) < 1e-4
    assert 0.2 < metrics["clip_fraction"] < 0.8
    ratio, negative = shifts.exp(), prerl.group_advantages(REWARDS, False).flatten() < 0
    assert (ratio[negative] > 10).any() and (ratio[negative] < 0.8).any() and (ratio > 1.3).any()


def test_bf16_gradient_is_close(model, rollout):
    """Bug: bf16 compute that loses the fp32 masters. Stated bound: cosine 0.999 in both spaces on
    this random model.
    """
    for name in ("grpo", "nsr-prerl"):
        model.compute_dtype = torch.bfloat16
        found, _ = push(model, rollout, [name])
        assert all(value.dtype == torch.float32 for value in found.values())
        expected = oracle_gradient(model, rollout, [name])
        assert cosine(found, expected, list(found)) > 0.999, name


def test_checkpointed_activations_change_nothing(model, rollout):
    """Bug: recomputation that sees other inputs than the forward pass did, or other rows before."""
    model.checkpoint_activations = True
    for budget in (None, 17):
        found, _ = push(model, rollout, ["grpo"], micro_batch_tokens=budget)
        assert distance(found, oracle_gradient(model, rollout, ["grpo"])) < 1e-4


def test_rows_left_out_leave_the_others_their_prompt(model, rollout):
    """Bug: a prompt that goes missing where its group's first row has no advantage or is not kept,
    or that another group's rows follow.
    """
    rewards = torch.tensor([[0.5, 0.0, 1.0, 0.5], [0.5, 0.5, 0.5, 0.5], [0.2, 0.5, 0.8, 0.5]])
    for names in (["grpo"], ["nsr-rl"], ["psr-rl"]):
        for budget in (None, 12):
            found, metrics = push(model, rollout, names, rewards, micro_batch_tokens=budget)
            expected = oracle_gradient(model, rollout, names, rewards)
            assert distance(found, expected) < 1e-4, (names, budget)
            assert metrics["rows_trained"] == (4 if names == ["grpo"] else 2)


def test_groups_in_any_order_share_their_prompts(model, rollout):
    """Bug: a prompt found only where the rows that have it are neighbours."""
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    mixed = copy.copy(rollout)
    for name, value in vars(rollout).items():
        if torch.is_tensor(value):
            setattr(mixed, name, value[order])
    expected = prerl.conditional_logprobs(model, rollout)[order]
    assert torch.allclose(prerl.conditional_logprobs(model, mixed), expected, atol=1e-5)
    options = dict(space="conditional", samples="all")
    plain, fed = gradient(model, rollout, torch.linspace(-1, 1, 12), **options)
    found, again = gradient(model, mixed, torch.linspace(-1, 1, 12)[order], **options)
    assert distance(found, plain) < 1e-5 and fed["tokens_forward"] == again["tokens_forward"]


@pytest.mark.parametrize("space", ["conditional", "marginal"])
def test_on_policy_needs_no_second_pass(model, rollout, space):
    """Bug: dropping the old-logprob pass is claimed exact: with old = the pass's own log-probs
    every bit must be the same.
    """
    advantages = prerl.group_advantages(REWARDS, True).flatten()
    options = dict(micro_batch_tokens=1)  # Both score a row alone: no sum is in another order.
    if space == "conditional":
        old = prerl.conditional_logprobs(model, rollout, **options).detach()
    else:
        old = prerl.marginal_logprobs(
            model, rollout.response_ids, rollout.response_mask, START, **options
        ).detach()
    options |= dict(space=space, samples="all")
    with_old, metrics = gradient(model, rollout, advantages, old_logprobs=old, **options)
    assert metrics["clip_fraction"] == 0
    without, _ = gradient(model, rollout, advantages, **options)
    assert all(torch.equal(with_old[name], without[name]) for name in without)


def test_token_losses_by_hand():
    """Bug: max for min, clip bounds swapped, dual clip on the wrong sign. Values worked out by
    hand.
    """
    ratio = torch.tensor([1.5, 0.5, 1.5, 0.5, 20.0])
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0, -1.0])
    logprobs = ratio.log().requires_grad_()
    losses = prerl.token_losses(logprobs, torch.zeros(5), advantages, 0.2, 0.3)
    assert torch.allclose(losses, torch.tensor([-1.3, -0.5, 1.5, 0.8, 10.0]))
    losses.sum().backward()
    assert torch.allclose(logprobs.grad, torch.tensor([0.0, -0.5, 1.5, 0.0, 0.0]))


@pytest.mark.parametrize("name", ["grpo", "nsr-prerl"])
@pytest.mark.parametrize("off_policy", [False, True])
def test_the_reference_update_is_the_same(model, rollout, name, off_policy):
    """Bug: a reference that readers trust and that computes something else."""
    objective = prerl.OBJECTIVES[name]
    advantages = prerl.group_advantages(REWARDS, objective.scale_std).flatten()
    options = dict(space=objective.space, samples=objective.samples)
    if off_policy:
        options["old_logprobs"] = torch.full(rollout.response_mask.shape, -4.0)
    found, metrics = gradient(model, rollout, advantages, coef=0.5, **options)
    model.zero_grad()
    loss = prerl.reference_update(
        model, rollout, advantages, start_token_id=START, coef=0.5, **options
    )
    plain = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert distance(found, plain) < 1e-5 and loss == pytest.approx(metrics["loss"], abs=1e-6)


def test_metrics_of_an_update_by_hand(model, rollout):
    """Bug: the logged loss has another sign or lacks the coefficient, entropy and log-prob change
    places, the clipped share is its rest; means over rows that are not trained.
    """
    oracle, advantages = oracle_of(model), prerl.group_advantages(REWARDS, False).flatten()
    shift = torch.linspace(-1.5, 1.5, 84).view(12, 7)  # of the old log-probs, in nats
    old, loss, scores, entropies, moved = torch.zeros(12, 7), 0.0, [], [], []
    for row in range(12):
        response = rollout.response_ids[row][rollout.response_mask[row]]
        with torch.no_grad():
            ids = torch.cat([torch.tensor([START]), response])[None]
            logprobs = oracle(ids).logits[0, :-1].double().log_softmax(-1)  # (r, V)
        own = logprobs.gather(1, response[:, None])[:, 0]
        old[row, : len(own)] = own - shift[row, : len(own)]
        advantage = float(advantages[row])
        if advantage == 0:  # counts in N, but is not trained
            continue
        ratio = shift[row, : len(own)].double().exp()
        limit = min if advantage > 0 else max
        for one in ratio.tolist():
            bound = 1.2 if advantage > 0 else 0.8
            loss -= advantage * limit(one, bound)
            moved.append(limit(one, bound) != one)
        scores += own.tolist()
        entropies += (-(logprobs.exp() * logprobs).sum(-1)).tolist()
    options = dict(space="marginal", samples="all", coef=0.5, old_logprobs=old)
    _, metrics = gradient(model, rollout, advantages, **options)
    expected = {
        "loss": 0.5 * loss / int(rollout.response_mask.sum()),
        "logprob": sum(scores) / len(scores),
        "entropy": sum(entropies) / len(entropies),
        "clip_fraction": sum(moved) / len(moved),
    }
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-4), name
    assert abs(metrics["clip_fraction"] - 0.5) > 0.02 and metrics["loss"] != 0


def test_only_negative_rows_are_computed(model, rollout):
    """Bug: an all-wrong group counted as negative, right answers pushed, rows of no advantage fed
    through the model.
    """
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    advantages = prerl.group_advantages(rewards, False).flatten()
    assert prerl.is_negative(advantages).nonzero().flatten().tolist() == [1, 2]
    _, metrics = gradient(model, rollout, advantages, space="marginal", samples="negative")
    assert metrics["rows_trained"] == 2 and metrics["tokens"] == metrics["tokens_trained"] == 1 + 7
    # The start token and the response, but for the last token, which is never fed
    assert metrics["tokens_forward"] == 1 + 7


def test_groups_without_variance_are_exactly_zero():
    """Bug: a mean that is rounded (seven times 0.1) leaves a tiny advantage, which the std then
    blows up.
    """
    advantages = prerl.group_advantages(torch.full((1, 7), 0.1), scale_std=True)
    assert bool((advantages == 0).all())


def test_a_pack_holds_no_more_than_its_budget(model, rollout):
    """Bug: all rows in one pack, which runs out of memory on a GPU; or each row alone."""
    fed = []  # tokens of each pass
    model.register_forward_hook(lambda module, inputs, output: fed.append(inputs[0].numel()))
    options = dict(space="conditional", samples="all", micro_batch_tokens=17)
    gradient(model, rollout, torch.ones(12), **options)
    assert max(fed) <= 17 and len(fed) < 12


def test_no_signal_leaves_no_gradient(model, rollout):
    """Bug: a division by zero tokens, or a weight decay step on an update that learned nothing."""
    found, metrics = gradient(model, rollout, torch.zeros(12), space="marginal", samples="negative")
    assert not found and metrics["tokens"] == 0 and metrics["loss"] == 0
    found, metrics = gradient(model, rollout, torch.zeros(12), space="conditional", samples="all")
    # The caller's sign to skip the step
    assert not found and metrics["rows_trained"] == metrics["tokens_forward"] == 0


def test_no_rows_of_a_kind(model, rollout):
    """Bug: PSR or NSR fails, or divides by zero, where every group lacks the rows it keeps."""
    for samples, advantages in (("positive", -torch.ones(12)), ("negative", torch.ones(12))):
        found, metrics = gradient(model, rollout, advantages, space="marginal", samples=samples)
        assert not found and metrics["tokens"] == 0


def test_loss_mask(rollout):
    """Bug: the EOS ablation masks the last token of a cut response, or the wrong column."""
    masked = prerl.loss_mask(rollout, mask_eos=True, skip_first=1)
    for row in range(12):
        length = int(rollout.response_mask[row].sum())
        expected = set(range(1, length)) - ({length - 1} if row != 5 else set())
        assert set(masked[row].nonzero().flatten().tolist()) == expected


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([[0.0, 2.0]], "must lie in"),
        ([[0.0, -0.1]], "must lie in"),
        ([[0.0, float("nan")]], "must lie in"),
        ([[1.0]], "group size 1"),
    ],
)
def test_bad_rewards_are_refused(rewards, message):
    with pytest.raises(ValueError, match=message):
        prerl.group_advantages(torch.tensor(rewards), False)
    if message == "must lie in":
        with pytest.raises(ValueError, match=message):
            dsrl.advantages_for(prerl.OBJECTIVES["nsr-prerl"], torch.tensor(rewards), "sign")


def test_sign_takes_every_wrong_answer():
    """Bug: an all-wrong group left out by --advantage sign (NSR as in RLVR-Decomposed), or right
    answers of it pushed by NSR.
    """
    rewards = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    advantages = dsrl.advantages_for(prerl.OBJECTIVES["nsr-prerl"], rewards, "sign")
    assert advantages.tolist() == [-1, -1, 1, -1, 1, 1]
    assert prerl.kept_rows(advantages, "negative").nonzero().flatten().tolist() == [0, 1, 3]


def test_bad_masks_and_tokens_are_refused(model, rollout):
    with pytest.raises(ValueError, match="give --start-token"):
        prerl.marginal_logprobs(model, rollout.response_ids, rollout.response_mask, 64)
    rollout.response_mask[2, 1] = False
    with pytest.raises(ValueError, match="holes"):
        prerl.policy_gradient(model, rollout, torch.ones(12), start_token_id=START)
    rollout.response_mask[3] = False
    with pytest.raises(ValueError, match="row 3 has no response token"):
        prerl.conditional_logprobs(model, rollout)


def test_gradient_alignment(model, rollout):
    """Bug: gradients added to .grad, or one space computed twice. A start token equal to every
    prompt makes the spaces equal.
    """
    model.zero_grad(set_to_none=True)
    plain = gradient_alignment(model, rollout, START)
    assert -1 <= plain["whole_model"] < 0.999 and not gradients_of(model)
    rollout.prompt_ids[:], rollout.prompt_mask[:] = START, torch.tensor([False, False, False, True])
    same = gradient_alignment(model, rollout, START)
    assert same["whole_model"] == pytest.approx(1, abs=1e-6)
    assert set(same["layers"]) >= {"layer 0", "layer 1", "embed_tokens", "norm"}
    assert all(value == pytest.approx(1, abs=1e-6) for value in same["positions"].values())


def test_alignment_equals_plain_autograd(model, rollout):
    """Bug: a cosine of something other than each response's two gradients, such as their sums over
    responses.
    """
    cosines = []
    for row in range(12):
        flat = []
        for space in ("marginal", "conditional"):
            oracle = oracle_of(model)
            oracle_logprobs(oracle, rollout, row, space).mean().backward()
            flat.append(torch.cat([one.flatten() for one in gradients_of(oracle).values()]))
        cosines.append(torch.nn.functional.cosine_similarity(*flat, dim=0))
    found = gradient_alignment(model, rollout, START, by_position=False)
    assert found["whole_model"] == pytest.approx(float(sum(cosines) / 12), abs=1e-4)
    assert found["positions"] == {}


def flops_of_update(model, rollout, advantages, **options):
    """FLOPs of all products of matrices but those inside attention, and the update's metrics."""

    def in_place(_, first, second, **__):  # the gradient of the head's weight
        return 2 * first[0] * first[1] * second[1]

    mapping = {torch.ops.aten.addmm_: in_place}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        metrics = gradient(model, rollout, advantages, **options)[1]
    counts = counter.get_flop_counts()["Global"]
    return sum(counts[name] for name in counts if "attention" not in str(name)), metrics


def test_prerl_costs_what_the_formula_says():
    """Bug: a second forward, padding, the conditional pass run in the PreRL phase too, prompt
    tokens in the head, a prompt computed with each response.

    Products of matrices, W weights in the layers: 2 FLOPs a weight and token forward and 4
    backward. A group's prompt but for its last token is fed once, that token before each response,
    in whose P(y) the start token takes its place; the last response token is never fed. So for
    prompts of L and responses of R, every group in one pack, exactly
        GRPO     6 W (sum(L - 1) over the groups + sum(R)) + 6 V D sum(R)   over rows of A != 0
        PreRL    6 W sum(R)                                + 6 V D sum(R)   over rows of A < 0
    whose ratio is f G R / (L + G R) up to the head and to one token a group. A group that is cut
    into packs has its prompt in each.
    """
    model, rollout = random_model(intermediate_size=512), long_rollout()
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]])
    advantages = prerl.group_advantages(rewards, False).flatten()
    parameters = dict(model.named_parameters())
    weights = sum(parameters[name].numel() for name in parameters if name.endswith("proj.weight"))
    head, response = model.lm_head.weight.numel(), rollout.response_mask.sum(1)
    negative = int(response[advantages < 0].sum())
    fed = {  # (space, micro_batch_tokens): tokens; rows have 89 to 124 of them with their prompts
        ("conditional", None): 2 * 39 + int(response.sum()),
        ("conditional", 240): 4 * 39 + int(response.sum()),
        ("conditional", 100): 8 * 39 + int(response.sum()),
        ("marginal", None): negative,
        ("marginal", 100): negative,
    }
    found = {}
    for (space, budget), tokens in fed.items():
        samples = "all" if space == "conditional" else "negative"
        total, metrics = flops_of_update(
            model, rollout, advantages, space=space, samples=samples, micro_batch_tokens=budget
        )
        assert metrics["tokens_forward"] == tokens, (space, budget)
        trained = negative if space == "marginal" else int(response.sum())
        assert metrics["tokens_trained"] == trained
        expected = 6 * weights * tokens + 6 * head * trained
        assert total == expected, (space, budget, total / expected)
        found.setdefault(space, total)
    share, L, G, R = negative / response.sum(), 40, 4, response.float().mean()
    formula = float(share * G * R / (L + G * R))
    assert found["marginal"] / found["conditional"] == pytest.approx(formula, rel=0.03)


def long_rollout():
    """P = 2 prompts of 40 tokens, G = 4 responses of 50 to 85 tokens: long enough that one token a
    row is little. Sorted by length alone, the rows of both groups would take turns.
    """
    lengths = torch.tensor([50, 60, 70, 80, 55, 65, 75, 85])
    mask = torch.arange(90)[None] < lengths[:, None]
    ids = torch.randint(3, 64, (8, 90), generator=torch.Generator().manual_seed(0)) * mask
    prompts, zeros = ids[::4, :40].repeat_interleave(4, 0), torch.zeros(8, 90)
    return Rollout(prompts, mask[:, :40], ids, mask, zeros, torch.ones(8, dtype=torch.bool))


def test_random_model_is_not_degenerate():
    """The oracle tests would pass on a model whose logits are all equal: they are not."""
    model = random_model()
    assert model.lm_head(model(torch.tensor([[3, 4]])))[0].std() > 0.1
