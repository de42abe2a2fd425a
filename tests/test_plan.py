"""Memory: estimates, choices, and what happens without.    python -m pytest tests/test_plan.py"""

import json
import shutil

import pytest
import torch
from conftest import arguments
from test_dsrl import no_curves, same_weights, weights  # noqa: F401

import dsrl
from plumbing.plan import Fit, choose, find, memory_plan, shapes, totals

CPU = torch.device("cpu")
CUDA = torch.device("cuda")
QWEN = {  # shapes by which memory is planned: of Qwen2.5-1.5B, and 7B in four layers, for speed
    "1.5B": dict(hidden_size=1536, intermediate_size=8960, num_hidden_layers=28,
                 num_attention_heads=12, tie_word_embeddings=True),
    "7B": dict(hidden_size=8192, intermediate_size=43008, num_hidden_layers=4,
               num_attention_heads=64, tie_word_embeddings=False),
}  # fmt: skip


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """Folder with a config.json for each of QWEN."""
    from transformers import Qwen2Config

    folder = tmp_path_factory.mktemp("qwen")
    more = dict(vocab_size=151936, num_key_value_heads=2, max_position_embeddings=32768)
    for name, sizes in QWEN.items():
        Qwen2Config(**sizes, **more).save_pretrained(folder / name)
    return folder


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


def test_checkpoints_end_a_turn_as_the_run_did(world, tmp_path):
    """Bug: Qwen2.5 base, trained with its chat template, runs past <|im_end|> on every server."""
    folder = tmp_path / "model"
    shutil.copytree(world, folder)
    turn = "<|{{ m['role'] }}|>{{ m['content'] }}<s>"  # and EOS is </s>, number 2
    template = "{% for m in messages %}" + turn + "{% endfor %}"
    template += "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    (folder / "chat_template.jinja").write_text(template)
    out = tmp_path / "out"
    assert dsrl.main(arguments(world, out, "--model", str(folder), "--steps", "1")) == 0
    found = json.loads((out / "checkpoint-1/generation_config.json").read_text())
    assert found["eos_token_id"] == [1, 2]


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
    with torch.device("meta"):
        empty = type(model)(model.config)
    empty.compute_dtype = dtype
    plan = memory_plan(dsrl.parse_args(limits.split()), empty, CPU, Fit(96, False, False, None))
    assert plan["activations"] == pytest.approx(counted, rel=0.15)


@pytest.mark.parametrize(
    ("room", "again", "offload"), [(24e9, True, True), (48e9, False, False), (80e9, False, False)]
)
def test_the_choice_for_a_card(qwen, room, again, offload):
    """Bug: the README's command for Qwen2.5-1.5B runs out of memory, or wastes a large card."""
    config = dsrl.parse_args(["--model", f"{qwen}/1.5B"])
    model = shapes(config, CUDA)
    fit = choose(config, model, room)
    assert (fit.checkpoint_activations, fit.offload) == (again, offload)
    assert fit.micro_batch_tokens >= 4096 and fit.kv_cache_gb > 5
    plan = memory_plan(config, model, CUDA, fit)
    planned = totals(plan)
    free = 0.9 * room - planned["in sampling"]  # for prefill, and for drawing
    assert free > 0.3 * plan["KV cache"]
    assert max(planned.values()) <= 0.9 * room  # the rest: CUDA itself, fragments
    assert max(planned.values()) > 0.5 * room
    given = "--micro-batch-tokens 2048 --no-offload --checkpoint-activations --kv-cache-gb 1"
    config = dsrl.parse_args(["--model", f"{qwen}/1.5B", *given.split()])
    assert find(config, model, 48e9) == Fit(2048, True, False, 1)


def test_what_does_not_fit_is_refused(qwen):
    """Bug: minutes of loading before memory runs out; advice that does not help."""

    def refusal(*words, host=1e12):
        config = dsrl.parse_args(["--model", f"{qwen}/7B", *words])
        with pytest.raises(ValueError) as error:
            choose(config, shapes(config, CUDA), 24e9, host)
        return str(error.value)

    assert refusal().endswith("7B does not fit in 24 GB; with --lora-rank 16 it does")
    config = dsrl.parse_args(["--model", f"{qwen}/7B", "--lora-rank", "16"])
    assert not choose(config, shapes(config, CUDA), 24e9).offload
    many = "--lora-rank 16 --micro-batch-tokens 90000 --no-checkpoint-activations"
    assert refusal(*many.split()).endswith("without its flags for memory it does")
    assert "take a smaller model" in refusal("--max-prompt-tokens", "60000")
    config = dsrl.parse_args(["--model", f"{qwen}/7B"])
    model = shapes(config, CUDA)
    assert find(config, model, 80e9).offload and find(config, model, 80e9, host=40e9) is None


def test_choices_are_not_saved(finished):
    """Bug: a run that goes on elsewhere with the choices for the card it began on."""
    for file in ("config.json", "checkpoint-4/trainer.json"):
        saved = json.loads((finished / file).read_text())
        saved = saved.get("config", saved)
        names = ("micro_batch_tokens", "checkpoint_activations", "offload", "kv_cache_gb")
        assert [saved[name] for name in names] == [None] * 4


def test_the_plan_of_a_sharded_run(qwen, monkeypatch):
    """Bug: what does not fit one GPU said not to fit four; the copy that samples forgotten, or
    counted in an update; moments of parts moved to the host."""
    monkeypatch.setattr("plumbing.plan.world_size", lambda: 4)
    config = dsrl.parse_args(["--model", f"{qwen}/1.5B", "--shard"])
    model = shapes(config, CUDA)
    plan = memory_plan(config, model, CUDA, Fit(16384, False, False, None))
    weights, gradients, moments, _, gathered, *_ = plan.values()
    size = 1_543_714_304
    assert (weights, gradients, moments) == (size, size, 2 * size)  # bytes
    assert gathered < 6 * size and plan["weights laid out for sampling"] == 2 * size
    assert find(config, model, 24e9).offload is False


def test_the_dry_run_for_cards_that_are_not_here(qwen, capsys):
    """Bug: a plan that needs weights or a GPU; a preset's name that is gone."""
    for preset in ("qwen2.5-1.5b-24gb", "qwen2.5-1.5b-80gb"):
        words = ["--preset", preset, "--model", f"{qwen}/1.5B", "--dry-run", "--device", "cuda"]
        assert dsrl.main(words) == 0
        output = capsys.readouterr().out
        assert "1,543,714,304 parameters" in output and "time per update" not in output
        for heading in ("24 GB    48 GB    80 GB", "--offload", "KV cache", "in sampling"):
            assert heading in output


def test_dry_run_leaves_no_trace(world, tmp_path, capsys):
    """Bug: a dry run that trains, or says nothing of time."""
    assert dsrl.main(arguments(world, tmp_path / "out", "--dry-run")) == 0
    output = capsys.readouterr().out
    assert "time per update" in output and "AdamW moments" in output
    assert not (tmp_path / "out").exists()
