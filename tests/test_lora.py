"""LoRA against merged weights and, where it is installed, against the peft library.

    pip install peft; python -m pytest tests/test_lora.py
"""

import json
import shutil

import pytest
import torch
from conftest import arguments, random_model
from safetensors.torch import load_file, save_file
from test_dsrl import no_curves, updates  # noqa: F401

import dsrl
import model as M
from logprobs import backward_losses
from plumbing import lora, processes
from plumbing.alignment import gradient_alignment
from plumbing.checkpoints import load_model, save_adapters
from prerl import conditional_logprobs, policy_gradient
from rollout import generate

WIDTH = 32  # of the model in conftest.py
LORA = ("--lora-rank", "4", "--lr", "1e-2")
ADVANTAGES = torch.linspace(-1, 1, 12)


def adapted(rank=4, alpha=8):
    """The random model with adapters, whose B is not 0."""
    model = random_model()
    lora.add_adapters(model, rank, alpha)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    return model


def adapters(folder):
    return load_file(folder / "adapter_model.safetensors")


def push(model, rollout, space):
    policy_gradient(model, rollout, ADVANTAGES, space=space, samples="all", start_token_id=2)


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """Folder of four updates with LoRA, layers computed again, and the alignment measured."""
    out = tmp_path_factory.mktemp("lora") / "out"
    more = ("--checkpoint-activations", "--alignment-every", "2")
    assert dsrl.main(arguments(world, out, *LORA, *more)) == 0
    return out


@pytest.mark.parametrize("space", ["conditional", "marginal"])
@pytest.mark.parametrize("again", [False, True])
def test_against_merged_weights(rollout, space, again):
    """Bug: a wrong scale, a forgotten layer or a gradient of half the product. The gradients of A
    and B follow from that of W' = W + s B A: s B^T dW' and s dW' A^T."""
    model, plain = adapted(), adapted()
    lora.merge(plain)
    assert not any("lora" in name for name, _ in plain.named_parameters())
    model.checkpoint_activations = again
    ids = torch.randint(64, (2, 9))
    torch.testing.assert_close(model(ids), plain(ids), rtol=0, atol=1e-4)
    push(model, rollout, space)
    push(plain, rollout, space)
    layers, scale = dict(plain.named_modules()), 8 / 4
    found = [one for one in model.named_modules() if isinstance(one[1], lora.LoraLinear)]
    assert len(found) == 14  # seven in each of two layers
    for name, layer in found:
        whole, A, B = layers[name].weight.grad, layer.lora_A.weight, layer.lora_B.weight
        torch.testing.assert_close(A.grad, scale * B.T @ whole, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(B.grad, scale * whole @ A.T, rtol=1e-3, atol=1e-5)
        assert layer.weight.grad is None
    assert model.lm_head.weight.grad is None


def test_a_rank_equal_to_the_width_goes_where_full_training_goes(model, rollout):
    """Bug: adapters that cannot reach every direction: at the start d B = s d W A^T, and a square
    A can be inverted."""
    full = random_model()
    push(full, rollout, "conditional")
    lora.add_adapters(model, WIDTH, 32)
    push(model, rollout, "conditional")
    for name, layer in model.named_modules():
        if isinstance(layer, lora.LoraLinear) and layer.in_features == WIDTH:
            A = layer.lora_A.weight.double()
            reached = (layer.lora_B.weight.grad.double() @ torch.linalg.inv(A.T)).flatten()
            wanted = full.get_submodule(name).weight.grad.double().flatten()
            assert torch.cosine_similarity(reached, wanted, dim=0) > 0.9999, name
            assert layer.lora_A.weight.grad.abs().max() == 0  # as B is 0


@pytest.mark.parametrize("blocked_from", [0, 2**40])
def test_sampling_uses_the_adapters(blocked_from, monkeypatch):
    """Bug: samples of the base; a second copy of it in memory."""
    monkeypatch.setattr(M, "BLOCKED_WEIGHTS", blocked_from)
    model, prompts = adapted(), [[5], [6, 7, 8, 9]]
    rollout = generate(model, prompts, group_size=4, max_new_tokens=8, eos_ids=(1,), seed=3)
    with torch.no_grad():
        expected = conditional_logprobs(model, rollout)
    assert (expected - rollout.logprobs).abs().max() < 1e-4
    copy = M.sampling_copy(model)
    ours = {parameter.data_ptr() for parameter in model.parameters()}
    assert all(parameter.data_ptr() in ours for parameter in copy.parameters())
    laid_out = [isinstance(layer, M.BlockedLinear) for layer in copy.modules()]
    assert any(laid_out) == (blocked_from == 0)
    assert all(one.requires_grad == ("lora" in name) for name, one in model.named_parameters())


def test_alignment_is_that_of_what_is_trained(rollout):
    """Bug: a cosine over gradients that are None."""
    found = gradient_alignment(adapted(), rollout.first_rows(2), 2, by_position=False)
    assert -1 < found["whole_model"] < 1 and found["layers"].keys() == {"layer 0", "layer 1"}


def test_several_processes_sum_what_is_trained(monkeypatch):
    """Bug: a gradient of zeros as large as the frozen base, sent over the network."""
    model, sent = adapted(), []
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    monkeypatch.setattr(processes.dist, "all_reduce", sent.append)
    processes.sum_gradients(model)
    assert len(sent) == 2 * 14 and model.lm_head.weight.grad is None


def test_a_frozen_head_has_no_gradient():
    """Bug: an array as large as the head, filled for nothing."""
    hidden = torch.randn(5, 8)
    found = []
    for trained in (True, False):
        states, weight = hidden.clone().requires_grad_(), torch.ones(11, 8).cumsum(0).sin()
        weight.requires_grad_(trained)
        backward_losses(states, weight, torch.arange(5), lambda logprobs, _: -logprobs)
        assert (weight.grad is None) != trained
        found.append(states.grad)
    assert torch.equal(*found)


def test_a_run_and_its_files(run, world):
    """Bug: a base that moved; a checkpoint of the base's size; a loss of the sampler's likeness."""
    records = updates(run)
    assert all(record["sampler_gap"] < 1e-4 for record in records)
    assert "alignment" in records[0] and any(record["rows_trained"] for record in records)
    folder = run / "checkpoint-4"
    names = {"adapter_config.json", "adapter_model.safetensors"}
    assert {path.name for path in folder.iterdir()} == names | {
        "optimizer.safetensors", "trainer.json",
    }
    first, last = adapters(run / "checkpoint-1"), adapters(folder)
    assert all(tensor.dtype == torch.float32 for tensor in last.values())
    assert any(not torch.equal(first[name], last[name]) for name in last)
    base, tuned = load_model(world)[0], load_model(f"{folder}")[0]
    assert torch.equal(base.model.embed_tokens.weight, tuned.model.embed_tokens.weight)
    assert not torch.equal(*(one.model.layers[0].mlp.up_proj.weight for one in (base, tuned)))


def test_resume_to_the_bit(run, world, tmp_path):
    """Bug: adapters, or their moments, that start again; the base taken from the checkpoint."""
    words = (*LORA, "--alignment-every", "2", "--steps", "2")
    assert dsrl.main(arguments(world, tmp_path, *words)) == 0
    more = ("--checkpoint-activations", "--steps", "4")
    assert dsrl.main(["--out", f"{tmp_path}", "--resume", *more]) == 0
    for name in ("adapter_model", "optimizer"):
        first, second = (
            load_file(path / "checkpoint-4" / f"{name}.safetensors") for path in (run, tmp_path)
        )
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_export_is_merged(run, tmp_path):
    """Bug: a model for use elsewhere without what it learnt."""
    assert dsrl.main(["--out", f"{run}", "--export", f"{tmp_path}/model"]) == 0
    ours, merged = load_model(f"{tmp_path}/model")[0], load_model(f"{run}/checkpoint-4")[0]
    pairs = zip(ours.parameters(), merged.parameters(), strict=True)
    assert all(torch.allclose(one, other, rtol=0.01, atol=1e-3) for one, other in pairs)
    assert "adapter_config.json" not in {path.name for path in (tmp_path / "model").iterdir()}


def test_what_is_refused(run, world, tmp_path, capsys):
    """Bug: a traceback, or a run that goes on with another adapter or on another base."""
    with pytest.raises(ValueError, match="--shard excludes .* --lora-rank"):
        dsrl.parse_args(["--shard", "--lora-rank", "8"])
    copy = shutil.copytree(run, tmp_path / "copy")
    assert dsrl.main(["--out", f"{copy}", "--resume", "--lora-rank", "8"]) == 2
    assert "--lora-rank was 4, is now 8" in capsys.readouterr().err
    shutil.copytree(world, tmp_path / "base")
    words = arguments(tmp_path / "base", tmp_path / "out", *LORA, "--steps", "1")
    assert dsrl.main(words) == 0
    shutil.rmtree(tmp_path / "base")
    assert dsrl.main(["--out", f"{tmp_path}/out", "--resume", "--steps", "2"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "the base of adapters" in error
    words = arguments(world, tmp_path / "second", *LORA, "--model", f"{run}/checkpoint-4")
    assert dsrl.main(words) == 2 and "holds adapters: merge" in capsys.readouterr().err
    assert dsrl.parse_args(["--lora-rank", "8"]).lr == 10 * dsrl.parse_args([]).lr
    assert dsrl.parse_args(["--lora-rank", "8", "--lr", "1e-6"]).lr == 1e-6


def test_the_base_is_known_again(world, tmp_path, monkeypatch, capsys):
    """Bug: adapters added to a base of other weights, in silence; a relative name of the base that
    means nothing in another working folder, or another model on the hub.
    """
    base = shutil.copytree(world, tmp_path / "models/base")
    monkeypatch.chdir(tmp_path)
    assert dsrl.main(arguments(world, "out", *LORA, "--model", "models/base", "--steps", "1")) == 0
    monkeypatch.chdir(tmp_path.parent)
    again = ["--out", f"{tmp_path}/out", "--resume", "--steps"]
    assert dsrl.main([*again, "2"]) == 0
    newest = tmp_path / "out/checkpoint-2"
    load_model(f"{newest}")
    assert "of other weights" not in capsys.readouterr().out
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"] += 0.1
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    load_model(f"{newest}")
    assert f"{newest}/adapter_model.safetensors was trained on" in capsys.readouterr().out
    assert dsrl.main([*again, "3"]) == 0
    assert f"the base's weights are not those of {newest}" in capsys.readouterr().out
    assert dsrl.main([*again, "3", "--model", str(world)]) == 2  # the newest is of the changed one
    assert "cannot change within a run" in capsys.readouterr().err
    shutil.move(base, tmp_path / "moved")
    assert dsrl.main([*again, "4", "--model", f"{tmp_path}/moved"]) == 0
    output = capsys.readouterr().out
    assert "--model was models/base, is now" in output and "changes the result" not in output
    newest = tmp_path / "out/checkpoint-4"
    load_model(f"{newest}")
    edited = json.loads((newest / "adapter_config.json").read_text())
    edited["base_model_name_or_path"] = "models/base"
    (newest / "adapter_config.json").write_text(json.dumps(edited))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="adapter_config.json .*from where you start"):
        load_model(f"{newest}")


def test_training_raises_the_reward(world, tmp_path):
    """Bug: adapters that hardly move at ten times the rate of full training, or diverge at it."""
    (tmp_path / "mine.py").write_text(
        "def one(problem, response):\n    return float(response.rstrip().endswith('{1}.'))\n"
    )
    more = ("--variant", "grpo", "--steps", "12", "--prompts-per-step", "8", "--group-size", "8")
    more += ("--reward", f"{tmp_path}/mine.py:one", "--save-every", "12", *LORA)
    assert dsrl.main(arguments(world, tmp_path / "a", *more)) == 0
    rewards = [record["reward"] for record in updates(tmp_path / "a")]
    assert sum(rewards[-3:]) / 3 > rewards[0] + 0.2, rewards


# --------------------------------------------------------------------------------------------------
# peft and transformers, which share no line with this project


def loss_of_peft(model, rollout, rewards, objective, start):
    """The loss of one update, row by row, from the logits of a transformers model; 0.0 for none."""
    centred = rewards - rewards.mean(1, keepdim=True)
    if objective.scale_std:
        centred = centred / (rewards.std(1, keepdim=True) + 1e-6)
    total, count = 0.0, 0
    if not centred.any():
        return total
    for row, advantage in enumerate(centred.flatten().tolist()):
        if objective.samples == "negative" and advantage >= 0:
            continue
        response = rollout.response_ids[row, rollout.response_mask[row]]
        prompt = rollout.prompt_ids[row, rollout.prompt_mask[row]]
        prompt = prompt if objective.space == "conditional" else torch.tensor([start])
        logits = model(torch.cat([prompt, response])[None]).logits[0, len(prompt) - 1 : -1]
        logprobs = logits.log_softmax(-1).gather(1, response[:, None])
        total, count = total - advantage * logprobs.sum(), count + len(response)
    return objective.coef * total / max(count, 1)


def test_a_run_of_peft(world, tmp_path, monkeypatch):
    """Bug: any of them. Four updates of DSRL on the rollouts of a run, by peft and autograd."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    seen, real = [], dsrl.update

    def update(run, rollout, rewards, step):
        if not seen:
            named = run.model.named_parameters()
            weights = {name: one.detach().clone() for name, one in named if one.requires_grad}
            save_adapters(run.config, weights, tmp_path, run.model.base)
        (objective,) = dsrl.active_objectives(run.config, step)
        seen.append((rollout, rewards, objective, run.config.start_token))
        return real(run, rollout, rewards, step)

    monkeypatch.setattr(dsrl, "update", update)
    assert dsrl.main(arguments(world, tmp_path / "out", "--lora-rank", "4", "--lr", "1e-3")) == 0
    base = AutoModelForCausalLM.from_pretrained(world, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, tmp_path, is_trainable=True)
    parameters = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, **dsrl.ADAM)
    for seen_by_one in seen:
        optimizer.zero_grad()
        if loss := loss_of_peft(model, *seen_by_one):  # else no group has a signal
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
    theirs, ours = peft.get_peft_model_state_dict(model), adapters(tmp_path / "out/checkpoint-4")
    start = adapters(tmp_path)
    assert theirs.keys() == ours.keys()
    for name in ours:
        moved = (ours[name] - start[name]).norm()
        assert (ours[name] - theirs[name]).norm() < 1e-2 * moved, name
    assert any("lora_B" in name and ours[name].any() for name in ours)


def test_peft_reads_a_checkpoint(run, world):
    """Bug: names, scale or settings that peft reads otherwise. Logits of its model and ours."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(world, dtype=torch.float32)
    ids = torch.arange(9)[None]
    plain = base(ids).logits
    theirs = peft.PeftModel.from_pretrained(base, run / "checkpoint-4")(ids).logits
    ours, _ = load_model(f"{run}/checkpoint-4")
    torch.testing.assert_close(ours.lm_head(ours(ids)), theirs, rtol=0, atol=1e-4)
    assert (theirs - plain).abs().max() > 1e-2
    settings = json.loads((run / "checkpoint-4/adapter_config.json").read_text())
    assert settings["target_modules"] == sorted(
        f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")
    )
