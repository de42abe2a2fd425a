"""The scripts for a GPU run to their end on the CPU, on tiny sizes.

python -m pytest tests/test_gpu_scripts.py
"""

import importlib
import json

import gpu
import pytest
import torch

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="the scripts take the GPU")
QUICK = ["--device", "cpu", "--quick", "--work"]


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@NO_GPU
@pytest.mark.parametrize("name", ["gpu_correct", "gpu_run", "gpu_bench"])
def test_gpu_scripts(name, tmp_path, monkeypatch):
    """Bug: a script that first breaks on the machine that is at hand for an hour."""
    monkeypatch.setattr("plumbing.records.draw_curves", lambda *_: None)
    script = importlib.import_module(name)
    code = gpu.run_checks(script.__file__, script.__doc__, script.CHECKS, [*QUICK, f"{tmp_path}"])
    lines = lines_of(tmp_path / f"{name}.jsonl")
    failed = [line for line in lines if line["status"] == "failed"]
    assert code == 0 and not failed, failed
    assert [line["check"] for line in lines] == [check.__name__ for check in script.CHECKS]
    skipped = {line["check"] for line in lines if line["status"] == "skipped"}
    assert skipped <= {"tests", "tests_of_runs", "R2_batch"}
    assert all(line["date"] and line["versions"]["torch"] and line["hardware"] for line in lines)


@NO_GPU
def test_no_check_ends_the_others(tmp_path, monkeypatch):
    """Bug: an hour lost to the first failure; NaN within its bound; a check begun too late."""

    def breaks(args, found):
        found.add("seen before", 1)
        raise SystemExit("broken")

    def beyond(args, found):
        found.add("nan", float("nan"), 1)
        found.add("within", 1, 1)

    def absent(args, found):
        raise gpu.Skip("no reason")

    words = [*QUICK, f"{tmp_path}", "--out", f"{tmp_path}/lines"]
    checks = (breaks, beyond, absent)
    assert gpu.run_checks("gpu.py", "About.", checks, words) == 1
    broken, above, skipped = lines_of(tmp_path / "lines")
    assert broken["figures"] == {"seen before": 1} and "broken" in broken["reason"]
    assert above["beyond"] == ["nan"] and skipped["reason"] == "no reason"
    assert gpu.run_checks("gpu.py", "About.", checks, [*words, "--minutes", "0"]) == 0
    assert [line["status"] for line in lines_of(tmp_path / "lines")[3:]] == ["skipped"] * 3


@NO_GPU
def test_a_check_in_a_process_of_its_own(tmp_path, capsys):
    """Bug: what a process of its own found is not what its parent reads; one that hangs or dies."""

    def small(args, found):
        found.add("figure", 2, 3)

    words = [*QUICK, f"{tmp_path}"]
    assert gpu.run_checks("gpu.py", "About.", [small], [*words, "--inside", "--only", "small"]) == 0
    said = capsys.readouterr().out
    endings = {"ok": f"print({said!r}, 'noise')", "ended with 3": "exit(3)"}
    endings["stopped after"] = "import time; time.sleep(60)"
    args = gpu.parse_args("gpu.py", "About.", {"small": small}, words)
    for ending, code in endings.items():
        (tmp_path / "script.py").write_text(code)
        left = 1 if ending == "stopped after" else 60  # seconds
        result = gpu.in_its_own_process(tmp_path / "script.py", "small", args, left)
        assert ending in result.get("reason", result["status"])
        assert ending != "ok" or result["figures"] == {"figure": 2}
