"""A run that a person can trust: stop, resume, warn, refuse.    python -m pytest tests/test_run.py

DSRL_KILLS=50 python -m pytest tests/test_run.py -k killed    # the long form of the kill test
"""

import ast
import dataclasses
import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import threading
import time
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from conftest import arguments, random_model
from test_dsrl import no_curves, same_weights, updates, weights  # noqa: F401

import dsrl
from plumbing import checkpoints, processes, records, resume
from plumbing.flags import Config
from plumbing.plan import memory_plan
from plumbing.benchmarks import load_data, load_grader
from plumbing.checkpoints import load_model
from prerl import marginal_logprobs, policy_gradient

CPU = torch.device("cpu")
DRAW_CURVES = records.draw_curves
ROOT = Path(__file__).parent.parent
QWEN = dict(vocab_size=151936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28)
QWEN |= dict(num_attention_heads=12, num_key_value_heads=2, tie_word_embeddings=True)


def start(words, environment=(), output=os.devnull, main=dsrl.main):
    """dsrl.main in a process of its own, forked: what is imported is there at once."""

    def child():
        os.environ.update(environment)
        sys.stdout = sys.stderr = open(output, "a", buffering=1)
        tqdm.set_lock(threading.RLock())  # its own: killed with the shared one, all would wait
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        os._exit(main([str(word) for word in words]))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    return process


def start_two(words, logs, main=dsrl.main):
    """Two processes, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    ranks = [{"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    return [start(words, common | own, log, main) for own, log in zip(ranks, logs, strict=True)]


def join_two(words, logs, main=dsrl.main):
    """Start two processes and wait for their good end."""
    processes = start_two(words, logs, main)
    for process in processes:
        process.join(30)
        process.kill()  # if it hangs, so that the tests do not
        process.join()
    codes = [process.exitcode for process in processes]
    assert codes == [0, 0], [log.read_text() for log in logs]


def wait_for(condition, process):
    deadline = time.monotonic() + 60
    while not condition() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)


# --------------------------------------------------------------------------------------------------
# Stop and resume


def test_resume_ends_with_the_same_weights(world, finished, tmp_path, capsys):
    """Bug: moments, data order or sampling that start again; flags forgotten. To the bit."""
    assert dsrl.main(arguments(world, tmp_path, "--steps", "2")) == 0
    assert dsrl.main(["--out", str(tmp_path), "--resume", "--steps", "4"]) == 0
    assert same_weights(finished / "checkpoint-4", tmp_path / "checkpoint-4")
    assert updates(finished) == updates(tmp_path)
    output = capsys.readouterr().out
    assert "--steps was 2, is now 4" in output and "changes the result" not in output


def test_damaged_checkpoints_are_passed_over(finished, copy, capsys):
    """Bug: half a file taken for a checkpoint."""
    file = copy / "checkpoint-4/optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    (copy / "checkpoint-9").mkdir()
    assert dsrl.main(["--out", str(copy), "--resume"]) == 0
    output = capsys.readouterr().out
    assert "checkpoint-4 is damaged (optimizer.safetensors)" in output
    assert "checkpoint-9 is not whole" in output and "checkpoint-3: 3 updates done" in output
    assert same_weights(finished / "checkpoint-4", copy / "checkpoint-4")
    assert updates(finished) == updates(copy)


def test_killed_at_any_moment(world, tmp_path, monkeypatch):
    """Bug: a state between two files. SIGKILL at random moments, then --resume; to the bit."""
    monkeypatch.setattr(records, "draw_curves", DRAW_CURVES)
    words = arguments(world, tmp_path / "whole", "--steps", "8", "--keep", "2")
    began = time.monotonic()
    assert dsrl.main(words) == 0
    seconds, rng, out = time.monotonic() - began, random.Random(0), tmp_path / "killed"
    words = arguments(world, out, "--steps", "8", "--keep", "2")
    kills = resumed = 0
    while True:
        whole = [path for _, path in resume.checkpoints(out) if (path / "trainer.json").exists()]
        if not whole:
            shutil.rmtree(out, ignore_errors=True)
        last = kills == int(os.environ.get("DSRL_KILLS", 2))
        process = start(["--out", out, "--resume"] if whole else words, output=tmp_path / "log")
        if last:
            break
        process.join(rng.uniform(0, seconds))
        if process.is_alive():
            process.kill()
            kills, resumed = kills + 1, resumed + bool(whole)
        process.join()
        if process.exitcode == 0:  # it was faster than the kill
            shutil.rmtree(out)
    process.join(120)
    assert process.exitcode == 0, (tmp_path / "log").read_text()[-2000:]
    print(f"{kills} kills, {resumed} of them in a resumed run")
    assert same_weights(tmp_path / "whole/checkpoint-8", out / "checkpoint-8")
    assert updates(tmp_path / "whole") == updates(out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(world, tmp_path, number):
    """Bug: Ctrl-C that loses the run."""
    out, log = tmp_path / "a", tmp_path / "log"
    process = start(arguments(world, out, "--steps", "500", "--save-every", "500"), output=log)
    wait_for(lambda: len(updates(out)) >= 2, process)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 0 and f"--out {out} --resume" in log.read_text()
    (step, path), *_ = resume.checkpoints(out)
    assert len(updates(out)) == step and (path / "trainer.json").is_file()


def test_a_second_interrupt_leaves_at_once(world, tmp_path):
    """Bug: a run that cannot be left, or one that leaves half a checkpoint."""
    (tmp_path / "slow.py").write_text(
        "import time\ndef check(problem, response):\n    time.sleep(1)\n    return 0.0\n"
    )
    out, log = tmp_path / "a", tmp_path / "log"
    more = ("--reward", f"{tmp_path}/slow.py:check", "--variant", "grpo", "--eval-problems", "1")
    process = start(arguments(world, out, *more), output=log)
    wait_for(lambda: log.exists() and "start token" in log.read_text(), process)
    time.sleep(0.5)  # in the first evaluation: 8 responses, a second each
    began = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    wait_for(lambda: "stopping after" in log.read_text(), process)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130 and time.monotonic() - began < 5
    assert "left at once" in log.read_text() and not list(out.glob("checkpoint-*"))


def test_not_finite_is_counted_logged_and_stops(world, tmp_path, monkeypatch, capsys):
    """Bug: a NaN update applied, or a run that goes on forever without learning."""
    nan = torch.tensor(float("nan"))
    monkeypatch.setattr(dsrl.torch.nn.utils, "clip_grad_norm_", lambda *_: nan)
    more = ("--variant", "grpo", "--steps", "30", "--save-every", "30")
    assert dsrl.main(arguments(world, tmp_path, *more)) == 2
    records, (output, error) = updates(tmp_path), capsys.readouterr()
    assert len(records) == 3 and all("not finite" in record["skipped"] for record in records)
    assert all(record["grad_norm"] is None and record["text"] for record in records)
    assert "update 2 was not applied: the loss or" in output and records[2]["text"] in output
    assert "3 updates in a row" in error and "--resume" in error
    assert same_weights(world, tmp_path / "checkpoint-3")


def test_a_later_update_on_a_rollout_that_is_not_finite(world, tmp_path, monkeypatch):
    """Bug: an update that half happened is recorded as if nothing had."""
    norms = iter(map(torch.tensor, (1.0, float("nan"))))
    monkeypatch.setattr(dsrl.torch.nn.utils, "clip_grad_norm_", lambda *_: next(norms))
    more = ("--variant", "grpo", "--steps", "1", "--updates-per-rollout", "2")
    assert dsrl.main(arguments(world, tmp_path, *more)) == 0
    assert updates(tmp_path)[0]["skipped"].endswith("not finite, after 1 updates on this rollout")
    assert not same_weights(world, tmp_path / "checkpoint-1")


def test_the_row_that_is_not_finite_is_found(rollout):
    """Bug: the text of some other row under the message."""
    model = random_model()
    config = dataclasses.replace(dsrl.parse_args([]), start_token=2)
    run = types.SimpleNamespace(config=config, sampler=model)
    scored = marginal_logprobs(model, rollout.response_ids, rollout.response_mask, 2)
    sums = scored.sum(1).tolist()
    assert sums[dsrl.offending_row(run, rollout, "marginal")] == min(sums)
    model.model.embed_tokens.weight.data[40] = float("nan")  # poisons the rows that read token 40
    rollout.response_ids[rollout.response_ids == 40] = 41
    rollout.response_ids[7, 1] = 40
    model.lm_head.weight = torch.nn.Parameter(random_model().lm_head.weight.data.clone())
    assert dsrl.offending_row(run, rollout, "marginal") == 7


def test_broken_weights_get_one_line(world, tmp_path, capsys):
    """Bug: a traceback where the logits are not finite."""
    model, tokenizer = load_model(world)
    model.model.norm.weight.data.fill_(float("nan"))
    checkpoints.save_model(model, tokenizer, tmp_path / "nan")
    words = arguments(world, tmp_path / "out", "--model", f"{tmp_path}/nan")
    assert dsrl.main(words) == 2
    assert "logits are not finite" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------
# Disk


def test_a_deleted_folder_does_not_lose_the_state(world, finished, tmp_path, capsys):
    """Bug: hours of training lost with a folder that somebody tidied away."""
    out = tmp_path / "a"
    (tmp_path / "mine.py").write_text(
        "import eval, shutil\ncalls = []\ndef check(problem, response):\n    calls.append(1)\n"
        f"    if len(calls) == 40: shutil.rmtree({str(out)!r})\n"  # in the second update
        "    return eval.grade(problem, response, loose=False)\n"
    )
    more = ("--reward", f"{tmp_path}/mine.py:check", "--save-every", "9")
    assert dsrl.main(arguments(world, out, *more)) == 2
    error = capsys.readouterr().err
    assert "checkpoint-2: make room" in error and "--resume" in error
    assert same_weights(finished / "checkpoint-2", out / "checkpoint-2")


def test_a_full_disk_leaves_no_half_checkpoint(world, finished, tmp_path, monkeypatch, capsys):
    """Bug: half a checkpoint beside the whole ones, or the state lost with the disk."""
    real, out = resume.save_file, tmp_path / "out"
    monkeypatch.setattr(resume.tempfile, "gettempdir", lambda: str(tmp_path))

    def full(tensors, path, **how):
        if path.is_relative_to(out) and "checkpoint-3" in str(path):
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(tensors, path, **how)

    monkeypatch.setattr(resume, "save_file", full)
    assert dsrl.main(arguments(world, out)) == 2
    error = capsys.readouterr().err
    assert "No space left" in error and "dsrl-rescue" in error and "error: " in error
    assert {path.name for path in out.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}
    (rescued,) = tmp_path.glob("dsrl-rescue-*")
    assert same_weights(finished / "checkpoint-3", rescued / "checkpoint-3")
    assert dsrl.main(["--out", str(rescued), "--resume"]) == 0
    assert same_weights(finished / "checkpoint-4", rescued / "checkpoint-4")


def test_a_sharded_state_is_not_rescued_by_one_process(tmp_path):
    """Bug: a process that waits for the others to save with it; they know nothing of its error."""
    run = types.SimpleNamespace(config=dsrl.parse_args(["--shard"]), folder=tmp_path, done=1)
    message = resume.rescue(OSError("full"), run)
    assert "the checkpoints before are whole" in message and not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------
# Memory


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
    """Bug: what does not fit one GPU said not to fit four; the copy that samples forgotten."""
    from transformers import Qwen2Config

    Qwen2Config(**QWEN).save_pretrained(tmp_path)
    monkeypatch.setattr("plumbing.plan.world_size", lambda: 4)
    shapes = checkpoints.shapes_of(str(tmp_path), torch.bfloat16)
    plan = memory_plan(dsrl.parse_args(["--shard"]), shapes, torch.device("cuda"))
    weights, gradients, moments, copied, *_ = plan.values()
    size = 1_543_714_304
    assert (weights, gradients, moments, copied) == (size, size, 2 * size, 2 * size)  # bytes


def test_dry_run_leaves_no_trace(world, tmp_path, capsys):
    """Bug: a dry run that trains, or says nothing of time."""
    assert dsrl.main(arguments(world, tmp_path / "out", "--dry-run")) == 0
    output = capsys.readouterr().out
    assert "time per update" in output and "AdamW moments" in output
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------------------------------
# Several processes


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
        for name in one.keys() - {"phase", "skipped"}:
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


def test_two_processes_resume_one(world, finished, copy, tmp_path):
    """Bug: a part of the moments given to the wrong process, or a sampler with the old weights."""
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
    """

    def pushed(model, part):
        for space, budget in (("conditional", 12), ("marginal", 1000)):
            advantages = torch.tensor([1.0, -2.0, 0.5, 0, 0, -1.0, 0, 0, 0, 0, 0, 0])[part]
            rows = {name: rows[part] for name, rows in vars(rollout).items() if name != "stats"}
            policy_gradient(
                model, dataclasses.replace(rollout, **rows), advantages, space=space,
                samples="all", start_token_id=2, micro_batch_tokens=budget,
            )  # fmt: skip
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        return processes.gather_tensors(gradients)

    def main(folders):
        processes.join_processes(dsrl.parse_args(["--device", "cpu", "--shard"]))
        for folder, (tied, again) in zip(folders, SHARDED, strict=True):
            model = checkpoints.shard_model(random_model(tie_word_embeddings=tied), folder, CPU)
            model.checkpoint_activations = again
            found = pushed(model, slice(6 * processes.rank(), 6 * processes.rank() + 6))  # 5 rows and none
            if processes.rank() == 0:
                save_file(found, Path(folder, "gradients.safetensors"))
        return 0

    folders = []
    for tied, _ in SHARDED:
        model, folder = random_model(tie_word_embeddings=tied), tmp_path / f"tied {tied}"
        model.config.save_pretrained(folder)
        save_file(dict(model.named_parameters()), folder / "model.safetensors")
        folders.append(folder)
    join_two(folders, [tmp_path / "log0", tmp_path / "log1"], main)
    for (tied, _), folder in zip(SHARDED, folders, strict=True):
        expected = pushed(random_model(tie_word_embeddings=tied), slice(0, 12))
        found = load_file(folder / "gradients.safetensors")
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            scale = gradient.abs().max()
            assert scale > 0 and (found[name] - gradient).abs().max() <= 1e-5 * scale, name


# --------------------------------------------------------------------------------------------------
# Words


def test_warnings_name_the_cause():
    """Bug: a run of rewards 0 in silence; the same warning at every update."""
    run = types.SimpleNamespace(config=dsrl.parse_args([]), unrewarded=0)
    fine = {"cut": 0.1, "mixed": 0.5, "reward": 0.5}
    assert records.warnings_of(fine, run) == {}
    assert list(records.warnings_of(fine | {"cut": 0.3}, run)) == ["cut"]
    assert list(records.warnings_of(fine | {"mixed": 0, "reward": 1}, run)) == ["solved"]
    run.unrewarded = 3
    found = records.warnings_of(fine | {"mixed": 0, "reward": 0}, run)
    assert list(found) == ["unsolved", "zero"]
    assert all(cause in found["zero"] for cause in ("cut before", "boxed", "--reward"))


def test_a_tracker_gets_every_number(world, tmp_path, monkeypatch, capsys):
    """Bug: --report-to read and not used; imported when not asked for."""
    assert not {"wandb", "trackio"} & sys.modules.keys()
    assert dsrl.main(arguments(world, tmp_path / "a", "--report-to", "wandb")) == 2
    assert "pip install wandb" in capsys.readouterr().err
    seen = []
    fake = types.SimpleNamespace(
        init=lambda **how: seen.append(how),
        log=lambda record, step: seen.append(record | {"step": step}),
        finish=lambda: seen.append("finished"),
    )
    monkeypatch.setitem(sys.modules, "trackio", fake)
    more = ("--report-to", "trackio", "--steps", "1")
    assert dsrl.main(arguments(world, tmp_path / "b", *more)) == 0
    assert seen[0]["project"] == "dsrl" and seen[-1] == "finished"
    assert [record["step"] for record in seen[1:-1]] == [0, 0, 1] and "reward" in seen[2]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--model", "/nowhere/at/all"), "no folder '/nowhere/at/all'"),
        (("--model", "Qwen9-1B"), "Qwen2.5-1.5B"),
        (("--group-size", "1"), "--group-size is 1"),
        (("--group-size", "two"), "invalid int value: 'two'"),
        (("--max-response-tokens", "0"), "--max-response-tokens is 0"),
        (("--lr", "nan"), "--lr is nan"),
        (("--no-such-flag",), "unrecognized arguments: --no-such-flag"),
        (("--variant", "nothing"), "nsr-prerl"),
        (("--preset", "huge"), "paper-qwen3-4b"),
        (("--max-prompt-tokens", "2"), "leaves 0 problems"),
        (("--max-response-tokens", "4000"), "positions: lower"),
        (("--start-token", "100000"), "start token 100000"),
        (("--data", "{tmp}/empty.jsonl"), "empty.jsonl"),
        (("--data", "{tmp}/no_answer.jsonl"), "no_answer.jsonl"),
        (("--data", "{tmp}/columns.jsonl"), "columns apple, pear"),
        (("--reward", "{tmp}/none.py:f"), "no such file"),
        (("--out", "/proc/nothing"), "cannot write to /proc/nothing"),
        (("--device", "cuda"), "--device cpu"),
        (("--model", "{tmp}/no_tokenizer"), "no tokenizer"),
        (("--resume",), "has no checkpoint"),
        (("--shard",), "torchrun"),
        (("--shard", "--offload"), "neither --offload nor"),
    ],
)
def test_user_mistakes_get_one_line(world, tmp_path, capsys, more, message):
    """Bug: a traceback, or a run that starts on nonsense."""
    if torch.cuda.is_available() and "cuda" in more:
        pytest.skip("there is CUDA here")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "no_answer.jsonl").write_text('{"problem": "1+1?", "answer": ""}\n')
    (tmp_path / "columns.jsonl").write_text('{"apple": 1, "pear": 2}\n')
    kept = shutil.ignore_patterns("*token*")
    shutil.copytree(world, tmp_path / "no_tokenizer", ignore=kept)
    more = [word.format(tmp=tmp_path) for word in more]
    assert dsrl.main(arguments(world, tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1, error


def test_a_tokenizer_without_template_is_said(world, tmp_path, capsys):
    """Bug: a base model that samples on into a second question, or silence about the prompt."""
    model, tokenizer = load_model(world)
    tokenizer.chat_template = None
    checkpoints.save_model(model, tokenizer, tmp_path / "base")
    words = arguments(world, tmp_path / "out", "--model", f"{tmp_path}/base", "--steps", "1")
    assert dsrl.main(words) == 0
    assert "no chat template: prompts are plain text" in capsys.readouterr().out


def test_one_folder_one_run(copy, world, tmp_path, capsys):
    """Bug: two runs that write into each other; a run overwritten; one resumed as another."""
    assert dsrl.main(arguments(world, copy)) == 2 and "holds a run" in capsys.readouterr().err
    with resume.open_folder(copy, resume=True):
        assert dsrl.main(["--out", str(copy), "--resume"]) == 2
    assert "another run is writing" in capsys.readouterr().err
    other = f"{world}/test.jsonl"
    for flag, value in (("--seed", "1"), ("--prompts-per-step", "8"), ("--data", other)):
        assert dsrl.main(["--out", str(copy), "--resume", flag, value]) == 2
        error = capsys.readouterr().err
        assert f"{flag} was" in error and "cannot change" in error
    assert dsrl.main(["--out", str(copy), "--resume", "--steps", "3"]) == 2
    assert "4 updates are made" in capsys.readouterr().err


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


def test_hub_names_without_a_network(tmp_path, capsys, monkeypatch):
    """Bug: a traceback where there is no network. The hub's client is told that it is offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert dsrl.main(["--model", "Qwen2.5-1.5B", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "Qwen/Qwen2.5-1.5B" in error and "a folder with config.json" in error


def test_flags_are_read_and_spelled_either_way():
    """Bug: a flag that is parsed and never used; --group_size or --num_generations refused."""
    files = [ROOT / "dsrl.py", *(ROOT / "plumbing").glob("*.py")]
    source = "\n".join(path.read_text() for path in files)
    read = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    names = {item.name for item in dataclasses.fields(Config)}
    assert names - read == {"preset"}  # read while parsing
    for spelling in ("--group-size", "--group_size", "--num_generations", "--num-generations"):
        assert dsrl.parse_args([spelling, "5"]).group_size == 5
    assert dsrl.parse_args(["--learning_rate=3e-4", "--out", "my_run"]).out == "my_run"
    given = dsrl.parse_args(["--preset", "paper-qwen3-4b", "--steps", "7"])
    assert (given.model, given.prompts_per_step, given.steps) == ("Qwen3-4B", 128, 7)


def test_config_says_what_ran(finished):
    config = json.loads((finished / "config.json").read_text())
    assert config["group_size"] == 4 and config["torch"] == torch.__version__
    assert config["runs_on"] == "cpu" and config["threads"] == 1


def test_a_few_problems_are_enough(world, tmp_path):
    """Bug: all of a small data set held out for evaluation, nothing left to train on."""
    few, lines = tmp_path / "few.jsonl", Path(world, "train.jsonl").read_text().splitlines()
    few.write_text("\n".join(lines[:10]) + "\n")
    config = dsrl.parse_args(["--model", world, "--data", str(few), "--max-response-tokens", "24"])
    model, tokenizer = load_model(world)
    problems, held_out = load_data(config, tokenizer, model.max_positions)
    assert (len(problems), len(held_out)) == (8, 2)


def test_a_verifier_out_of_range_is_refused(tmp_path):
    """Bug: rewards of 2, or NaN, found out later and blamed on something else."""
    for value in ("2.0", "-0.1", "float('nan')"):
        (tmp_path / "mine.py").write_text(f"def check(problem, response):\n    return {value}\n")
        grade = load_grader(f"{tmp_path}/mine.py:check")
        with pytest.raises(ValueError, match="must lie in"):
            grade([{"answer": "1"}], ["1"])


def test_records_hold_any_text(tmp_path):
    """Bug: a line separator of Unicode in a response, which JSON leaves as it is, ends a record."""
    record = {"step": 1, "text": "one\u2028two\x85three\x0cfour\nfive"}
    for name in ("metrics.jsonl", "samples.jsonl"):
        records.append_line(tmp_path / name, record)
    assert records.read_lines(tmp_path / "samples.jsonl") == [record]
    resume.cut_back(tmp_path, 2)
    assert records.read_lines(tmp_path / "samples.jsonl") == [record]
