"""Memory: what is estimated, and what happens without it.    python -m pytest tests/test_plan.py"""


import pytest
import torch
from conftest import arguments
from test_dsrl import no_curves, same_weights, weights  # noqa: F401

import dsrl
from plumbing import checkpoints
from plumbing.plan import memory_plan

CPU = torch.device("cpu")
QWEN = dict(vocab_size=151936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28)
QWEN |= dict(num_attention_heads=12, num_key_value_heads=2, tie_word_embeddings=True)


def test_out_of_memory_takes_smaller_micro_batches(world, finished, tmp_path, monkeypatch, capsys):
    """Bug: a run that dies of one long batch; a gradient counted twice after the second try."""
    real = dsrl.policy_gradient

    def small(*words, micro_batch_tokens, **how):
        metrics = real(*words, micro_batch_tokens=micro_batch_tokens, **how)
        if micro_batch_tokens > room:  # after the gradient was added: the worst moment
            raise torch.OutOfMemoryError("no memory")
        return metrics

    room = 100  # tokens; a row is about 50

    monkeypatch.setattr(dsrl, "policy_gradient", small)
    assert dsrl.main(arguments(world, tmp_path / "a", "--steps", "1")) == 0
    assert "going on with micro-batches of 64 tokens" in capsys.readouterr().out
    first, second = (weights(path / "checkpoint-1") for path in (finished, tmp_path / "a"))
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)
    room = 1
    assert dsrl.main(arguments(world, tmp_path / "b", "--steps", "1")) == 2
    assert "lower --micro-batch-tokens or --max-response-tokens" in capsys.readouterr().err


def test_offload_changes_no_bit(world, finished, tmp_path):
    """Bug: moments that start again, or a parameter stepped twice."""
    assert dsrl.main(arguments(world, tmp_path, "--offload")) == 0
    assert same_weights(finished / "checkpoint-4", tmp_path / "checkpoint-4")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_are_counted(model, dtype):
    """Bug: an estimate that forgets a tensor. Against what autograd keeps of 96 real tokens."""
    model.compute_dtype, kept = dtype, {}
    ours = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(torch.zeros(1, 96, dtype=torch.int64), row_lengths=[48, 48])
    counted = sum(storage.nbytes() for key, storage in kept.items() if key not in ours)
    limits = "--max-prompt-tokens 48 --max-response-tokens 48 --micro-batch-tokens 96"
    config = dsrl.parse_args(limits.split())
    with torch.device("meta"):
        shapes = type(model)(model.config)
    shapes.compute_dtype = dtype
    plan = memory_plan(config, shapes, CPU)
    assert plan["activations, 96 tokens"] == pytest.approx(counted, rel=0.15)


@pytest.mark.parametrize(
    ("preset", "room"), [("qwen2.5-1.5b-24gb", 24e9), ("qwen2.5-1.5b-80gb", 80e9)]
)
def test_presets_fit_their_cards(tmp_path, capsys, preset, room):
    """Bug: a preset that cannot run where its name says. From config.json alone."""
    from transformers import Qwen2Config

    Qwen2Config(**QWEN, max_position_embeddings=131072).save_pretrained(tmp_path / "model")
    config = dsrl.parse_args(["--preset", preset, "--model", f"{tmp_path}/model"])
    shapes = checkpoints.shapes_of(config.model, torch.bfloat16)
    *update, laid_out, cache = memory_plan(config, shapes, torch.device("cuda")).values()
    assert sum(parameter.numel() for parameter in shapes.parameters()) == 1_543_714_304
    assert sum(update) < 0.9 * room  # the rest: CUDA itself, fragments
    if config.kv_cache_gb:
        assert update[0] + update[2] + laid_out + cache < 0.9 * room
    words = ["--preset", preset, "--model", f"{tmp_path}/model", "--dry-run", "--device", "cuda"]
    assert dsrl.main(words) == 0
    output = capsys.readouterr().out
    assert "1,543,714,304 parameters" in output and "KV cache" in output
    assert "time per update" not in output


def test_the_plan_of_a_sharded_run(tmp_path, monkeypatch):
    """Bug: what does not fit one GPU said not to fit four; the copy that samples forgotten, or
    counted in an update."""
    from transformers import Qwen2Config

    Qwen2Config(**QWEN).save_pretrained(tmp_path)
    monkeypatch.setattr("plumbing.plan.world_size", lambda: 4)
    shapes = checkpoints.shapes_of(str(tmp_path), torch.bfloat16)
    plan = memory_plan(dsrl.parse_args(["--shard"]), shapes, torch.device("cuda"))
    weights, gradients, moments, gathered, *_ = plan.values()
    size = 1_543_714_304
    assert (weights, gradients, moments) == (size, size, 2 * size)  # bytes
    assert gathered < 6 * size and plan["weights laid out for sampling"] == 2 * size


def test_dry_run_leaves_no_trace(world, tmp_path, capsys):
    """Bug: a dry run that trains, or says nothing of time."""
    assert dsrl.main(arguments(world, tmp_path / "out", "--dry-run")) == 0
    output = capsys.readouterr().out
    assert "time per update" in output and "AdamW moments" in output
    assert not (tmp_path / "out").exists()
