"""The command line: flags, and mistakes in one line.    python -m pytest tests/test_flags.py"""

import ast
import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from conftest import arguments
from test_dsrl import no_curves  # noqa: F401

import dsrl
from plumbing.flags import Config

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--model", "/nowhere/at/all"), "no folder '/nowhere/at/all'"),
        (("--model", "{tmp}/empty.jsonl"), "empty.jsonl is a file: give its folder"),
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
        (("--resume", "--out", "{tmp}"), "holds no run"),
        (("--resume",), "there is no folder"),
        (("--shard",), "torchrun"),
        (("--shard", "--offload"), "--shard excludes --offload"),
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
    assert "--resume" not in more or not (tmp_path / "out").exists()


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

@pytest.mark.parametrize(
    ("words", "message"),
    [("--lr inf", "--lr is inf"), ("--lr 1e9", "--lr is 1000000000.0"), ("--lr=-1", "--lr is -1"),
     ("--lr 1e999", "--lr is inf"), ("--kv-cache-gb inf", "finite"), ("--kv-cache-gb nan", "finite"),
     ("--kv-cache-gb=-1", "at least 0"), ("--prerl-coef nan", "finite"),
     ("--prerl-coef=-inf", "finite"), ("--variant grpo --prerl-coef 1", "no loss"), ("--keep 0", "at least 1"),
     ("--prerl-coef=-1", "--prerl-coef is -1.0: it must be at least 0"),
     ("--data=", "--data is empty"), ("--out=", "--out is empty"), ("--eval-data=", "is empty"),
     ("--skip-first 128", "--skip-first 128 leaves nothing of --max-response-tokens 128"),
     ("--lora-alpha 64", "--lora-alpha: give --lora-rank"),
     (f"--steps {10**23}", "at most 1000000000000"),
     (f"--prompts-per-step {10**8}", "at most 1000000"),
     (f"--lora-rank {10**12}", "at most 10000"),
     ("--seed 99999999999999999999", "at most 1000000000000"), ("--save-every 0", "at least 1")],
)  # fmt: skip
def test_numbers_that_make_no_run_are_refused(capsys, words, message):
    """Bug: a rate of inf makes every weight NaN at the first update."""
    assert dsrl.main(words.split()) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [{"steps": "9"}, {"steps": 9.5}, {"steps": None}, {"steps": True}, {"resume": 1}, {"lr": "1"},
     {"variant": "none"}, {"device": "tpu"}, {"report_to": "os"}, {"model": None}, {"preset": 3},
     {"lr": float("nan")}, {"seed": -1}, {"kv_cache_gb": [1]}, {"mask_eos": "no"}],
)  # fmt: skip
def test_a_config_of_other_types_is_none(wrong):
    """Bug: a setting of a damaged folder that turns into a traceback an hour later."""
    with pytest.raises(ValueError, match=next(iter(wrong)).replace("_", "-")):
        Config(**wrong)
    assert Config(lr=1, kv_cache_gb=2).lr == 1  # a whole number is a number
