"""Several processes are one.

    python -m pytest tests/test_processes.py
    DSRL_SIGNALS=24 python -m pytest tests/test_processes.py -k signal    # the long form of that test
"""

import dataclasses
import os
import signal
import socket
import types
from pathlib import Path

import pytest
import torch
from conftest import arguments, join_two, random_model, start_two, wait_for
from safetensors.torch import load_file, save_file
from test_dsrl import no_curves, updates, weights  # noqa: F401
from test_model import tokenizer_of

import dsrl
from plumbing import checkpoints, processes, records, resume
from plumbing.plan import Fit
from prerl import conditional_logprobs, policy_gradient

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("dies", "more"), [(1, ()), (0, ("--shard", "--micro-batch-tokens", "100"))]
)
def test_two_processes_are_one(world, finished, tmp_path, dies, more):
    """Bug: a gradient averaged instead of summed, a denominator of one process, shares that draw
    the same numbers; a run that hangs when one process dies, or cannot go on with another number.
    Sharded, with packs of two rows: a process that waits for another with fewer packs.
    """
    out, logs = tmp_path / "two", [tmp_path / "log0", tmp_path / "log1"]
    more = ("--steps", "500", "--keep", "500", "--eval-every", "500", *more)
    processes, lives = start_two(arguments(world, out, *more), logs), 1 - dies
    wait_for(lambda: (out / "checkpoint-5").exists(), processes[0])
    processes[dies].kill()
    processes[lives].join(30)
    processes[lives].kill()  # if it hangs, so that the tests do not
    assert processes[lives].exitcode == 1
    assert f"process {lives} lost the others" in logs[lives].read_text()
    assert logs[1].read_text().count("\n") == lives  # one process speaks for both
    for one, two in zip(updates(finished), updates(out), strict=False):
        assert one.keys() == two.keys() and one["skipped"] == two["skipped"]
        # Smaller packs feed a prompt more often: once each.
        assert one.get("tokens_forward", 0) <= two.get("tokens_forward", 0)
        for name in one.keys() - {"phase", "skipped", "tokens_forward"}:
            assert one[name] == pytest.approx(two[name], rel=1e-5, abs=1e-6), name
    moments = [load_file(path / "checkpoint-1/optimizer.safetensors") for path in (finished, out)]
    for name in (name for name in moments[0] if name.startswith("exp_avg|")):  # 0.1 of the gradient
        scale = moments[0][name].abs().max()
        assert (moments[0][name] - moments[1][name]).abs().max() <= 1e-5 * scale, name
    one, two = (weights(path / "checkpoint-4") for path in (finished, out))
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)
    done = resume.checkpoints(out)[0][0]
    words = ["--out", str(out), "--resume", "--no-shard", "--steps", str(done + 1)]
    assert dsrl.main(words) == 0  # alone


@pytest.mark.parametrize(
    ("built", "driver", "capability", "said"),
    [
        ("13.0", True, None, "may be too old for CUDA 13.0"),
        (None, True, None, "is built without CUDA"),
        (None, False, None, "torch finds no CUDA device here"),
        ("13.0", True, (7, 5), "compute capability 7.5"),
        ("13.0", True, (9, 0), None),
    ],
)
def test_a_gpu_that_cannot_be_used_is_said(monkeypatch, capsys, built, driver, capability, said):
    """Bug: hours on the CPU beside an idle GPU; a kernel's error about bfloat16 minutes later."""
    chosen, gpu = [], processes.torch.cuda
    monkeypatch.setattr(processes.torch.version, "cuda", built)
    monkeypatch.setattr(processes, "has_driver", lambda: driver)
    monkeypatch.setattr(gpu, "is_available", lambda: capability is not None)
    monkeypatch.setattr(gpu, "get_device_capability", lambda: capability)
    monkeypatch.setattr(gpu, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(gpu, "set_device", chosen.append)
    device = processes.join_processes(dsrl.parse_args([]))
    output = capsys.readouterr().out
    assert device.type == ("cpu" if said else "cuda") and output.count("\n") == (driver and bool(said))
    assert not driver or not said or said in output
    if said:
        with pytest.raises(ValueError, match=said) as error:
            processes.join_processes(dsrl.parse_args(["--device", "cuda"]))
        assert str(error.value).endswith("give --device cpu") and not chosen


MOMENTS = [  # after which a signal comes
    (resume, "gather"), (resume, "save_checkpoint"), (dsrl, "sample"), (dsrl, "measure"),
    (dsrl, "update"), (resume, "remove_old"), (records, "append_line"), (dsrl, "grade_groups"),
]  # fmt: skip


@pytest.mark.parametrize("trial", range(int(os.environ.get("DSRL_SIGNALS", 2))))
def test_a_signal_to_one_stops_all_after_the_same_update(world, tmp_path, trial):
    """Bug: a signal that comes between what all agree on and what one acts on: it leaves alone, and
    the other waits for ever, or ends with an error.
    """
    out, logs = tmp_path / "two", [tmp_path / "log0", tmp_path / "log1"]
    (module, name), number = MOMENTS[trial % len(MOMENTS)], (signal.SIGTERM, signal.SIGINT)[trial % 2]
    real, calls, asked = getattr(module, name), [], str((trial + 1) % 2)
    if name == "remove_old":  # one process alone does
        asked = "0"

    def main(words):
        def then_ask(*more, **how):
            found = real(*more, **how)
            calls.append(1)
            if len(calls) == 3 + trial // len(MOMENTS) and os.environ["RANK"] == asked:
                os.kill(os.getpid(), number)
            return found

        setattr(module, name, then_ask)
        return dsrl.main(words)

    join_two(arguments(world, out, "--steps", "500", "--eval-every", "1"), logs, main)
    (step, path), *_ = resume.checkpoints(out)
    assert f"{number.name}: saved {path}" in logs[0].read_text() and step < 20
    assert len(updates(out)) == step and (path / "trainer.json").is_file()


def test_two_processes_resume_one(world, finished, copy, tmp_path):
    """Bug: a part of the moments given to the wrong process, or sampling with the old weights."""
    words = ["--out", copy, "--resume", "--shard", "--steps", "6"]
    join_two(words, [tmp_path / "log0", tmp_path / "log1"])
    words = arguments(world, tmp_path / "one", "--steps", "6")
    assert dsrl.main(words) == 0
    one, two = (weights(path / "checkpoint-6") for path in (tmp_path / "one", copy))
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)


SHARDED = [(True, False), (False, True)]  # (tied head, layers computed again in backward)


def test_sharded_gradients_are_those_of_one(rollout, tmp_path):
    """Bug: a process without rows, or with fewer packs, that leaves the other waiting; a gradient
    of an untied head, or of layers computed again, that is not summed. Two objectives, as in joint.
    Scores of one process that wait for the other, or leave weights gathered, which no longer learn.
    """

    def rows_of(part):
        rows = {name: rows[part] for name, rows in vars(rollout).items() if name != "stats"}
        return dataclasses.replace(rollout, **rows)

    def pushed(model, part):
        for space, budget in (("conditional", 12), ("marginal", 1000)):
            advantages = torch.tensor([1.0, -2.0, 0.5, 0, 0, -1.0, 0, 0, 0, 0, 0, 0])[part]
            policy_gradient(
                model, rows_of(part), advantages, space=space, samples="all", start_token_id=2,
                micro_batch_tokens=budget,
            )  # fmt: skip
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        return processes.gather_tensors(gradients)

    def main(folders):
        config = dsrl.parse_args(["--device", "cpu", "--shard", "--micro-batch-tokens", "12"])
        processes.join_processes(config)
        part = slice(6 * processes.rank(), 6 * processes.rank() + 6)  # 5 rows with loss, and none
        for folder, (tied, again) in zip(folders, SHARDED, strict=True):
            model, _ = checkpoints.load_model(folder, shard=True)
            model.checkpoint_activations = again
            found = pushed(model, part)
            if processes.rank() == 0:
                save_file(found, Path(folder, "gradients.safetensors"))
            fit = Fit(config.micro_batch_tokens, again, False, None)
            run = types.SimpleNamespace(model=model, config=config, fit=fit)
            found = dsrl.logprobs_now(run, rows_of(part), "conditional")  # in 3 packs and in 4
            alone = conditional_logprobs(random_model(tie_word_embeddings=tied), rows_of(part))
            torch.testing.assert_close(found, alone.detach(), rtol=0, atol=1e-4)
            assert all(hasattr(parameter, "placements") for parameter in model.parameters())
        return 0

    folders = []
    for tied, _ in SHARDED:
        model, folder = random_model(tie_word_embeddings=tied), tmp_path / f"tied {tied}"
        model.config.save_pretrained(folder)
        save_file(dict(model.named_parameters()), folder / "model.safetensors")
        tokenizer_of().save_pretrained(folder)
        folders.append(folder)
    join_two(folders, [tmp_path / "log0", tmp_path / "log1"], main)
    for (tied, _), folder in zip(SHARDED, folders, strict=True):
        expected = pushed(random_model(tie_word_embeddings=tied), slice(0, 12))
        found = load_file(folder / "gradients.safetensors")
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            scale = gradient.abs().max()
            assert scale > 0 and (found[name] - gradient).abs().max() <= 1e-5 * scale, name


def test_the_port_is_taken(world, tmp_path, capsys, monkeypatch):
    """Bug: a traceback of the store."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1])}
        for name, value in (there | {"RANK": "0", "WORLD_SIZE": "2"}).items():
            monkeypatch.setenv(name, value)
        assert dsrl.main(arguments(world, tmp_path)) == 2
    assert "--master-port" in capsys.readouterr().err


def test_two_processes_without_a_signal_do_not_step(world, tmp_path):
    """Bug: gradients of zeros, which several processes sum, let AdamW decay the weights."""
    (tmp_path / "mine.py").write_text("def always(problem, response):\n    return 1.0\n")
    more = ("--reward", f"{tmp_path}/mine.py:always", "--steps", "1", "--eval-problems", "2")
    words = arguments(world, tmp_path / "out", *more)
    join_two(words, [tmp_path / "log0", tmp_path / "log1"])
    before, after = weights(world), weights(tmp_path / "out/checkpoint-1")
    assert all(torch.equal(after[name], before[name]) for name in before)
