"""Shared by all tests: one thread, a random model of milliseconds, a hand-made rollout."""

import multiprocessing
import os
import shutil
import signal
import socket
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent.parent))

import pytest
import torch
from tqdm import tqdm
from transformers import Qwen2Config

from model import CausalLM
from rollout import Rollout

torch.set_num_threads(1)


def random_model(seed=0, **overrides):
    """A Qwen2 of random weights: attention biases, grouped heads, a tied head, the ids 0..63."""
    torch.manual_seed(seed)
    sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    sizes |= dict(num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128)
    model = CausalLM(Qwen2Config(**{**sizes, "tie_word_embeddings": True, **overrides}))
    for parameter in model.parameters():  # the defaults leave biases and logits near 0
        parameter.data.normal_(std=0.3)
    return model


def memory(field):
    """VmRSS, resident bytes of this process now; VmHWM, their peak since the last reset."""
    lines = Path("/proc/self/status").read_text().split("\n")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


@pytest.fixture
def model():
    return random_model()


@pytest.fixture
def rollout(model):
    """P = 3 prompts of 1, 4 and 2 tokens, G = 4 responses of 1 to 7 tokens, which end with EOS = 1
    except row 5, which is cut.
    """
    generator = torch.Generator().manual_seed(7)
    prompts = [[5], [6, 7, 8, 9], [10, 11]]
    lengths = [3, 1, 7, 2, 5, 7, 4, 4, 6, 2, 1, 3]
    prompt_ids, response_ids = (torch.zeros(12, n, dtype=torch.int64) for n in (4, 7))
    prompt_mask, response_mask = (torch.zeros(12, n, dtype=torch.bool) for n in (4, 7))
    for row, length in enumerate(lengths):
        prompt = prompts[row // 4]
        prompt_ids[row, 4 - len(prompt) :] = torch.tensor(prompt)
        prompt_mask[row, 4 - len(prompt) :] = True
        response_ids[row, :length] = torch.randint(3, 64, (length,), generator=generator)
        response_mask[row, :length] = True
        if row != 5:
            response_ids[row, length - 1] = 1
    finished = torch.tensor([row != 5 for row in range(12)])
    zeros = torch.zeros(12, 7)
    return Rollout(prompt_ids, prompt_mask, response_ids, response_mask, zeros, finished)


# --------------------------------------------------------------------------------------------------
# A small world for the tests of whole runs: its base knows little, every code path is the same

SHORT = (
    "--steps 4 --prompts-per-step 4 --group-size 4 --max-response-tokens 24 "
    "--eval-problems 2 --save-every 1 --keep 4 --lr 1e-3"
).split()


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Folder of a base that writes the format, so that one answer in five is right."""
    import tiny

    sizes = dict(modulus=3, steps=(1, 2), long_steps=(3, 3), train_problems=40, test_problems=16)
    settings = replace(tiny.OLD, tokens=30_000, **sizes)
    return tiny.build(cache_dir=tmp_path_factory.mktemp("world"), world=settings, quiet=True)


@pytest.fixture(scope="session")
def finished(world, tmp_path_factory):
    """Folder of a whole run of four updates."""
    import dsrl

    out = tmp_path_factory.mktemp("finished") / "out"
    assert dsrl.main(arguments(world, out)) == 0
    return out


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of that folder, to resume or damage."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def arguments(world, out, *more):
    data = ["--data", f"{world}/train.jsonl", "--eval-data", f"{world}/test.jsonl"]
    phases = [] if "--variant" in more else ["--prerl-steps", "2"]  # most variants have one phase
    return ["--model", str(world), *data, *SHORT, *phases, "--out", str(out), *more]


# --------------------------------------------------------------------------------------------------
# Runs in processes of their own


def start(words, environment=(), output=os.devnull, main=None):
    """dsrl.main in a process of its own, forked: what is imported is there at once."""

    import dsrl

    def child():
        os.environ.update(environment)
        log = open(output, "a", buffering=1)
        for number in (1, 2):  # a signal's handler writes past sys.stdout
            os.dup2(log.fileno(), number)
        sys.stdout = sys.stderr = log
        tqdm.set_lock(threading.RLock())  # its own: killed with the shared one, all would wait
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        if hasattr(signal, "SIGHUP"):  # The tests may run under nohup, which ignores it.
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os._exit((main or dsrl.main)([str(word) for word in words]))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    return process


def start_two(words, logs, main=None):
    """Two processes, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    ranks = [{"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    return [start(words, common | own, log, main) for own, log in zip(ranks, logs, strict=True)]


def join_two(words, logs, main=None):
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
