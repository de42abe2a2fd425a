"""The method in one loop: phases, variants, one seed.    python -m pytest tests/test_dsrl.py"""

import json
from pathlib import Path

import pytest
import torch
from conftest import arguments
from safetensors.torch import load_file

import dsrl
from plumbing import records
from plumbing.checkpoints import load_model
from plumbing.evaluation import count_thoughts
from plumbing.files import read_lines
from prerl import conditional_logprobs, group_advantages, loss_mask, marginal_logprobs
from prerl import policy_gradient
from reward import score
from rollout import generate


@pytest.fixture(autouse=True)
def no_curves(monkeypatch, request):
    """They are drawn once, in `finished`: a quarter of a second at each evaluation."""
    if "finished" in request.fixturenames:
        request.getfixturevalue("finished")
    monkeypatch.setattr(records, "draw_curves", lambda folder: None)


def updates(folder):
    """Metrics of the updates, without the clock."""
    lines = read_lines(Path(folder) / "metrics.jsonl")
    return [
        {name: value for name, value in record.items() if "second" not in name}
        for record in lines if "reward" in record
    ]  # fmt: skip


def weights(path):
    return dict(load_model(str(path))[0].named_parameters())


def same_weights(first, second):
    first, second = weights(first), weights(second)
    return all(torch.equal(first[name], second[name]) for name in first)


def test_phase_boundary():
    """Bug: N warm-up updates that are N - 1, or a step counted from 1; a variant without a case."""
    assert set(OF_VARIANT) == set(dsrl.VARIANTS)
    assert [dsrl.phase(step, 2) for step in range(4)] == ["prerl", "prerl", "rl", "rl"]
    assert dsrl.phase(0, 0) == "rl"
    of = {
        name: dsrl.parse_args(["--variant", name, "--steps", "90"]).prerl_steps
        for name in dsrl.VARIANTS
    }
    assert all(0 < of.pop(name) < 90 for name in ("dsrl", "twin", "prerl-grpo"))
    one_phase = dict.fromkeys(("joint", "grpo", "nsr-rl", "psr-rl", "nsr-twin"), 0)
    assert of == one_phase | dict.fromkeys(("prerl", "nsr-prerl", "psr-prerl"), 90)


def test_the_whole_run(world, finished, tmp_path):
    """Bug: any break between the files; two runs of one seed that differ."""
    assert dsrl.main(arguments(world, tmp_path)) == 0
    first = updates(finished)
    assert [record["phase"] for record in first] == ["prerl", "prerl", "rl", "rl"]
    assert first == updates(tmp_path)
    assert any(record["rows_trained"] for record in first), "no signal: the case tests nothing"
    names = {"config.json", "metrics.jsonl", "samples.jsonl", "curves.png", "checkpoint-4"}
    assert {path.name for path in finished.iterdir()} >= names
    assert not same_weights(finished / "checkpoint-4", world)
    assert same_weights(finished / "checkpoint-4", tmp_path / "checkpoint-4")
    assert all(record["sampler_gap"] < 1e-4 for record in first)
    reasons = [name for record in first for name in record if name.startswith("share_")]
    assert "share_right" in reasons and "share_no_answer" in reasons


def test_checkpoint_loads_in_transformers(finished):
    """Bug: a folder only we can read."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = finished / "checkpoint-4"
    tokenizer = AutoTokenizer.from_pretrained(path)
    turns = [{"role": "user", "content": "Start with 1."}]
    ids = torch.tensor([tokenizer.apply_chat_template(turns, return_dict=False)])
    ours, _ = load_model(str(path))
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(path)(ids).logits
        assert torch.allclose(ours.lm_head(ours(ids)), theirs, atol=1e-4)


def test_prompts_are_a_shuffled_pass():
    """Bug: problems repeated before all were seen; an order that depends on a resumed start, or
    that no seed changes.
    """
    config = dsrl.parse_args(["--prompts-per-step", "4"])
    problems = list(range(10))
    seen = [problem for step in range(5) for problem in dsrl.prompts_of(step, problems, config)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == problems and seen[:10] != seen[10:]
    other = dsrl.parse_args(["--prompts-per-step", "4", "--seed", "1"])
    assert dsrl.prompts_of(0, problems, other) != seen[:4]


def test_training_raises_the_reward(world, tmp_path):
    """Bug: a sign error between reward and weights. Rewarded is the answer 1, whatever is asked."""
    (tmp_path / "mine.py").write_text(
        "def one(problem, response):\n    return float(response.rstrip().endswith('{1}.'))\n"
    )
    more = ("--variant", "grpo", "--steps", "12", "--prompts-per-step", "8", "--group-size", "8")
    more += ("--reward", f"{tmp_path}/mine.py:one", "--save-every", "12")
    assert dsrl.main(arguments(world, tmp_path / "a", *more)) == 0
    rewards = [record["reward"] for record in updates(tmp_path / "a")]
    assert sum(rewards[-3:]) / 3 > rewards[0] + 0.2, rewards


def test_a_reward_without_differences_is_no_signal(world, tmp_path, capsys):
    """Bug: --reward read and not used; an update made of nothing."""
    (tmp_path / "mine.py").write_text("def always(problem, response):\n    return 1.0\n")
    more = ("--reward", f"{tmp_path}/mine.py:always", "--steps", "2")
    assert dsrl.main(arguments(world, tmp_path / "a", *more)) == 0
    assert all(record["reward"] == 1 and record["skipped"] for record in updates(tmp_path / "a"))
    assert same_weights(world, tmp_path / "a/checkpoint-2")
    assert "every group is solved" in capsys.readouterr().out


def test_alignment_is_logged_and_changes_nothing(world, finished, tmp_path):
    """Bug: --alignment-every read and not used, or gradients of it left for the update."""
    assert dsrl.main(arguments(world, tmp_path, "--steps", "2", "--alignment-every", "2")) == 0
    first, second = updates(tmp_path)
    assert -1 <= first["alignment"] <= 1 and "alignment" not in second
    assert same_weights(finished / "checkpoint-2", tmp_path / "checkpoint-2")


# --------------------------------------------------------------------------------------------------
# One update by hand: the same rollout, its gradient, the clipping and AdamW's formula in float64

P, G, R, SEED, LR = 4, 4, 24, 2, 1e-3
START = 1  # id of <s>, the BOS of the tiny world
SIZES = f"--prompts-per-step {P} --group-size {G} --max-response-tokens {R} --seed {SEED} --lr {LR}"
SIZES = [*SIZES.split(), "--eval-problems", "1"]
GRPO = dict(space="conditional", samples="all", scale_std=True, coef=1.0)
NSR_PRERL = dict(space="marginal", samples="negative", scale_std=False, coef=0.01)
OF_VARIANT = {  # what the first update of each pushes
    "dsrl": (NSR_PRERL,),
    "twin": (NSR_PRERL | {"space": "conditional"},),
    "prerl-grpo": (NSR_PRERL | {"samples": "all"},),
    "joint": (GRPO, NSR_PRERL),
    "grpo": (GRPO,),
    "nsr-rl": (GRPO | {"samples": "negative"},),
    "psr-rl": (GRPO | {"samples": "positive"},),
    "prerl": (NSR_PRERL | {"samples": "all"},),
    "nsr-prerl": (NSR_PRERL,),
    "psr-prerl": (NSR_PRERL | {"samples": "positive"},),
    "nsr-twin": (NSR_PRERL | {"space": "conditional"},),
}


def lines(path):
    return [json.loads(line) for line in Path(path).read_text("utf-8").split("\n")[:-1]]


def sampled(path, prompts, responses, seed):
    """(model, texts, rollout, rewards (P, G)) of these problems, from the weights in `path`."""
    model, tokenizer = load_model(str(path))
    ids = []
    for problem in prompts:
        turns = [{"role": "user", "content": problem["problem"]}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids.append(tokenizer(text, add_special_tokens=False).input_ids)
    rollout = generate(
        model, ids, group_size=responses, max_new_tokens=R, eos_ids=model.eos_ids, seed=seed
    )
    texts = rollout.response_texts(tokenizer)
    answers = [problem["answer"] for problem in prompts for _ in range(responses)]
    rewards = [score(text, answer) for text, answer in zip(texts, answers, strict=True)]
    return model, texts, rollout, torch.tensor(rewards).view(-1, responses)


def sampled_for(world, path, step=0, prompts=P):
    """What update `step` samples, if the weights are those in `path`."""
    config = dsrl.parse_args([*SIZES, "--prompts-per-step", str(prompts)])
    problems = dsrl.prompts_of(step, lines(f"{world}/train.jsonl"), config)
    return sampled(path, problems, G, SEED * 1_000_003 + step)


def push(model, rollout, rewards, parts, old=None, **options):
    """The gradient of these objectives {name: float64}, its norm, and the metrics of the first."""
    model.zero_grad()
    metrics = []
    for part in parts:
        advantages = 2 * rewards - 1
        if part["scale_std"] is not None:
            advantages = group_advantages(rewards, part["scale_std"])
        mask = loss_mask(rollout, part.get("mask_eos", False), part.get("skip_first", 0))
        start = part.get("start", START)
        found = policy_gradient(
            model, rollout, advantages.flatten(), space=part["space"], samples=part["samples"],
            coef=part["coef"], start_token_id=start, token_mask=mask, old_logprobs=old,
            **options,
        )  # fmt: skip
        metrics.append(found)
    gradient = {name: weight.grad.double() for name, weight in model.named_parameters()}
    norm = sum(part.square().sum() for part in gradient.values()).sqrt()
    return gradient, float(norm), metrics[0]


def clipped(gradient, norm):
    return {name: part * min(1.0, 1.0 / norm) for name, part in gradient.items()}


def distance(first, second):
    """Relative distance of two {name: tensor}."""
    assert first.keys() == second.keys()
    square = sum((first[name] - second[name]).double().square().sum() for name in second)
    return float((square / sum(part.double().square().sum() for part in second.values())).sqrt())


def moments(folder, step):
    """AdamW's state in a checkpoint: {"exp_avg": {name: tensor}, "exp_avg_sq": ..., "step": ...}"""
    found = {}
    for key, value in load_file(folder / f"checkpoint-{step}" / "optimizer.safetensors").items():
        kind, name = key.split("|")
        found.setdefault(kind, {})[name] = value
    return found


def dsrl_run(world, out, *flags):
    """The updates' records of a run that changes nothing but these flags."""
    data = ["--data", f"{world}/train.jsonl", "--eval-data", f"{world}/test.jsonl"]
    saved = ["--save-every", "1", "--keep", "9", "--out", str(out)]
    assert dsrl.main(["--model", str(world), *data, *SIZES, *saved, *flags]) == 0
    return [record for record in lines(out / "metrics.jsonl") if "reward" in record]


def case(flags, *parts, default):
    return pytest.param(flags.split(), parts, default, id=flags.replace("--", ""))


EFFECTS = [  # flags, what the first update then pushes, and what it would push without them
    *(
        case(f"--variant {name}", *parts, default=(GRPO,) if name != "grpo" else (NSR_PRERL,))
        for name, parts in OF_VARIANT.items()
    ),
    case("--prerl-steps 1", NSR_PRERL, default=(GRPO,)),
    case("--prerl-steps 0", GRPO, default=(NSR_PRERL,)),
    case("--prerl-steps 1 --prerl-coef 1", NSR_PRERL | {"coef": 1.0}, default=(NSR_PRERL,)),
    case("--variant twin --prerl-steps 1 --prerl-coef 1",
         NSR_PRERL | {"space": "conditional", "coef": 1.0},
         default=(NSR_PRERL | {"space": "conditional"},)),
    case("--prerl-steps 1 --prerl-coef 100", NSR_PRERL | {"coef": 100.0}, default=(NSR_PRERL,)),
    case(
        "--variant joint --prerl-coef 0.5", GRPO, NSR_PRERL | {"coef": 0.5},
        default=(GRPO, NSR_PRERL),
    ),
    case("--prerl-steps 1 --start-token 5", NSR_PRERL | {"start": 5}, default=(NSR_PRERL,)),
    case("--prerl-steps 0 --advantage mean", GRPO | {"scale_std": False}, default=(GRPO,)),
    case("--prerl-steps 1 --advantage zscore", NSR_PRERL | {"scale_std": True},
         default=(NSR_PRERL,)),
    *(
        case(f"--prerl-steps {steps} {flag}", part | change, default=(part,))
        for steps, part in ((0, GRPO), (1, NSR_PRERL))
        for flag, change in (
            ("--mask-eos", {"mask_eos": True}),
            ("--skip-first 2", {"skip_first": 2}),
            ("--advantage sign", {"scale_std": None}),
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("flags, parts, default", EFFECTS)
def test_first_gradient_by_hand(world, tmp_path, flags, parts, default):
    """Bug: a flag that is read and ignored, a variant that pushes other rows, in another space or
    by another size than its name says, a gradient that is clipped at another norm.
    """
    (record,) = dsrl_run(world, tmp_path, "--steps", "1", *flags)
    model, _, rollout, rewards = sampled_for(world, world)
    gradient, norm, metrics = push(model, rollout, rewards, parts)
    other, other_norm, _ = push(model, rollout, rewards, default)
    found = {name: part / 0.1 for name, part in moments(tmp_path, 1)["exp_avg"].items()}
    assert distance(found, clipped(gradient, norm)) < 1e-4
    unlike = distance(clipped(gradient, norm), clipped(other, other_norm))
    # Where both are clipped, a coefficient shows only in the norm.
    assert unlike + abs(norm / other_norm - 1) > 5e-3, "the case tests nothing"
    assert record["grad_norm"] == pytest.approx(norm, rel=1e-4)
    for name, value in metrics.items():
        assert record[name] == pytest.approx(value, rel=1e-4, abs=1e-7), name
    for part in parts[1:]:
        assert record[f"{part['space']}_tokens"] < metrics["tokens"]
    if "100" in flags:
        assert norm > 10, "clipping is not tested"


def carried(before, gradient):
    """AdamW's moments after one more gradient, float64: {"exp_avg": {name: tensor}, ...}."""
    after = {"exp_avg": {}, "exp_avg_sq": {}}
    for name, slope in gradient.items():
        first, second = (before[kind][name] if before else 0.0 for kind in after)
        after["exp_avg"][name] = 0.9 * first + 0.1 * slope
        after["exp_avg_sq"][name] = 0.999 * second + 0.001 * slope.square()
    return after


def stepped(start, state, count, lr=LR):
    """The weights after AdamW's step `count`, from 1, that these moments make, float64."""
    after = {}
    for name, weight in start.items():
        first, second = (state[kind][name].double() for kind in ("exp_avg", "exp_avg_sq"))
        push = first / (1 - 0.9**count) / ((second / (1 - 0.999**count)).sqrt() + 1e-8)
        after[name] = weight * (1 - lr * 0.01) - lr * push
    return after


def doubles(path):
    return {name: value.detach().double() for name, value in weights(path).items()}


def moved(after, start):
    return {name: after[name] - start[name] for name in start}


def test_adamw_steps_and_its_moments_cross_the_switch(world, tmp_path):
    """Bug: another learning rate, beta, epsilon or decay; a bias correction that starts anew, or
    moments that are dropped, where GRPO follows NSR-PreRL.
    """
    records = dsrl_run(world, tmp_path, "--steps", "2", "--prerl-steps", "1")
    assert [record["skipped"] for record in records] == [None, None], "the case tests nothing"
    start, expected = Path(world), None
    for step, part in enumerate((NSR_PRERL, GRPO)):
        model, _, rollout, rewards = sampled_for(world, start, step)
        gradient, norm, _ = push(model, rollout, rewards, (part,))
        expected = carried(expected, clipped(gradient, norm))
        end, found = tmp_path / f"checkpoint-{step + 1}", moments(tmp_path, step + 1)
        for kind, value in expected.items():
            assert distance(found[kind], value) < 1e-4, (kind, step)
        assert {float(count) for count in found["step"].values()} == {step + 1}
        before = doubles(start)
        now = moved(stepped(before, found, step + 1), before)
        assert distance(moved(doubles(end), before), now) < 5e-5, step
        start = end


@pytest.mark.parametrize("variant", ["grpo", "nsr-prerl"])
def test_second_update_on_a_rollout_by_hand(world, tmp_path, variant):
    """Bug: the first update's gradient left in .grad; old log-probs that are not those of the
    weights that sampled, or none; a ratio that is clipped elsewhere than 0.2 from 1.
    """
    lr = 5e-3  # moves enough log-probs past the clipping
    flags = ("--variant", variant, "--updates-per-rollout", "2", "--steps", "1", "--lr", str(lr))
    (record,) = dsrl_run(world, tmp_path, *flags)
    model, _, rollout, rewards = sampled_for(world, world)
    old = rollout.logprobs
    if variant == "nsr-prerl":
        with torch.no_grad():
            old = marginal_logprobs(model, rollout.response_ids, rollout.response_mask, START)
    start, parts = doubles(world), OF_VARIANT[variant]
    gradient, norm, _ = push(model, rollout, rewards, parts, old)
    first = carried(None, clipped(gradient, norm))
    after = stepped(start, first, 1, lr)
    for name, weight in model.named_parameters():
        weight.data.copy_(after[name])
    found = moments(tmp_path, 1)

    def second(reference, low=0.2, high=0.2):
        options = dict(clip_low=low, clip_high=high)
        gradient, norm, _ = push(model, rollout, rewards, parts, reference, **options)
        return carried(first, clipped(gradient, norm))["exp_avg"]

    expected = second(old)
    assert distance(found["exp_avg"], expected) < 2e-3
    assert distance(second(None), expected) > 1e-2
    assert distance(second(old, low=0.1), expected) > 1e-2
    if variant == "grpo":  # NSR has no row that the upper bound clips
        assert distance(second(old, high=0.3), expected) > 1e-2
    assert record["clip_fraction"] > 0.1


def test_evaluations_are_at_their_moments(world, tmp_path):
    """Bug: no evaluation at the switch or at the end, one of later weights or of another seed."""
    flags = ("--steps", "7", "--prerl-steps", "2", "--eval-every", "3", "--eval-problems", "2")
    dsrl_run(world, tmp_path, *flags)
    of_step = {"update": [], "evaluation": []}
    order = []
    for record in lines(tmp_path / "metrics.jsonl"):
        kind = "update" if "reward" in record else "evaluation"
        of_step[kind].append(record)
        order.append((record["step"], kind))
    expected = [(step, "update") for step in range(7)]
    assert order == sorted(expected + [(step, "evaluation") for step in (0, 2, 3, 6, 7)])
    samples = lines(tmp_path / "samples.jsonl")
    problems = lines(f"{world}/test.jsonl")[:2]
    for record in of_step["evaluation"]:
        step = record["step"]
        path = tmp_path / f"checkpoint-{step}" if step else world
        _, texts, rollout, rewards = sampled(path, problems, 8, SEED)
        rows = [row for row in samples if row["step"] == step]
        assert [row["response"] for row in rows] == texts
        assert [row["correct"] for row in rows] == rewards.flatten().tolist()
        assert record["avg_at_k"] == pytest.approx(float(rewards.mean()))
        assert record["pass_at_k"] == pytest.approx(float(rewards.amax(1).mean()))
        assert record["length"] == pytest.approx(float(rollout.response_mask.sum(1).float().mean()))


def test_the_log_of_an_update_by_hand(world, tmp_path):
    """Bug: a gap that is not measured, log-probs of one row or in the other space, shares of
    another count than all rows.
    """
    prompts = 16  # so many that some groups are mixed and some are not
    flags = ("--steps", "1", "--prerl-steps", "1", "--prompts-per-step", str(prompts))
    (record,) = dsrl_run(world, tmp_path, *flags)
    model, texts, rollout, rewards = sampled_for(world, world, prompts=prompts)
    eight = type(rollout)(
        *(getattr(rollout, name)[:8] for name in vars(rollout) if name != "stats")
    )
    mask = eight.response_mask
    with torch.no_grad():
        conditional = conditional_logprobs(model, eight)
        marginal = marginal_logprobs(model, eight.response_ids, mask, START)
    gap = float((conditional - eight.logprobs)[mask].abs().mean())
    assert record["sampler_gap"] == pytest.approx(gap, rel=0.05) and gap > 0
    assert record["logprob_conditional"] == pytest.approx(float(conditional[mask].mean()), rel=1e-5)
    assert record["logprob_marginal"] == pytest.approx(float(marginal[mask].mean()), rel=1e-5)
    thoughts = [count_thoughts(text) for text in texts]
    of_rows = {
        "reward": rewards.mean(),
        "mixed": sum(0 < float(group.mean()) < 1 for group in rewards) / prompts,
        "length": rollout.response_mask.sum() / (prompts * G),
        "cut": 1 - rollout.finished.float().mean(),
        "share_right": rewards.sum() / (prompts * G),
        "reflection": sum(count["reflection"] for count in thoughts) / (prompts * G),
    }
    for name, value in of_rows.items():
        assert record[name] == pytest.approx(float(value), rel=1e-5), name
    assert 0 < record["mixed"] < 1, "the case tests nothing"
