"""The study: rows, resume, forks, intervals.    python -m pytest -q tests/test_study.py"""

import inspect
import json
import runpy
import shutil
import sys
import types
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import dsrl
import prerl
import study

ROOT = Path(__file__).parent.parent
CURVE = [{"step": 0, "avg_at_k": 0.2, "tokens": 0}, {"step": 20, "avg_at_k": 0.6, "tokens": 40}]
PART = study.Part("a part", study.THREE, bases=(0, 1), seeds=(0, 1), steps=20)


def record_of(run, gain=0.0):
    """A finished run: Avg@8 from 0.2 to 0.6 + gain in 20 updates and 40 tokens."""
    points = [
        {"pass_at_k": 0.5, "reflection": 0.0, "transition": 0.0, "length": 9.0, **point}
        for point in CURVE
    ]
    points[1]["avg_at_k"] += gain
    return asdict(run) | {"commit": None, "curve": points}


def test_every_row_is_a_run_that_dsrl_takes():
    """Bug: a flag that does not exist, found hours into the study; a world or fork by no name; the
    grid on a base or a seed of another part.
    """
    for name, part in study.PARTS.items():
        for run in part.runs():
            assert run.world in study.WORLDS and run.fork in study.FORKS
            config = dsrl.parse_args(f"--preset tiny --steps {run.steps} {run.flags}".split())
            assert config.steps == run.steps
            assert (run.base in (0, 1, 2) and run.seed < 5) == (name != "grid")


def test_a_stopped_study_goes_on(tmp_path, monkeypatch):
    """Bug: a run that is trained twice, or lost when a later one fails; half a line taken for one;
    a longer run that does not answer for a shorter one.
    """
    trained = []

    def train(run):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(run)
        return record_of(run)

    monkeypatch.setattr(study, "train", train)
    path = tmp_path / "study.jsonl"
    with pytest.raises(KeyboardInterrupt):
        study.run_parts([PART], path, jobs=1)
    assert trained == PART.runs()[:3]
    with path.open("a") as file:
        file.write('{"world": "ti')
    monkeypatch.setattr(study, "train", record_of)
    study.run_parts([PART], path, jobs=1)
    study.run_parts([PART], path, jobs=1)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [study.Run(**dict(list(line.items())[:6])) for line in lines] == PART.runs()
    run = PART.runs()[0]
    point = record_of(run)["curve"][0]
    longer = record_of(run) | {"steps": 60, "curve": [point | {"step": n} for n in (0, 20, 40, 60)]}
    path.write_text(json.dumps(longer) + "\n")
    results = study.load_results(path)
    assert set(results) == {replace(run, steps=n) for n in (0, 20, 40, 60)}
    assert results[replace(run, steps=20)]["curve"][-1]["step"] == 20, "it tells more than it ran"


GOOD = record_of(PART.runs()[0])
POINT = GOOD["curve"][1]
COSINES = {"world": "tiny", "base": 0, "alignment": {"whole_model": 0.1, "positions": {}}}


@pytest.mark.parametrize("line", [
    {"step": 0}, {**GOOD, "steps": "20"}, {**GOOD, "curve": {}}, {**GOOD, "curve": [1]},
    {**GOOD, "curve": [GOOD["curve"][0], {**POINT, "avg_at_k": None}]},
    {**GOOD, "curve": [GOOD["curve"][0], {**POINT, "tokens": "x"}]},
    {**GOOD, "curve": GOOD["curve"][:1]}, {**GOOD, "curve": []}, {**COSINES, "alignment": []},
    {**COSINES, "world": 1}, {**COSINES, "alignment": {"positions": {}}},
])  # fmt: skip
def test_results_of_another_program_are_named(tmp_path, monkeypatch, capsys, line):
    """Bug: KeyError for a file that is not of a study; one that is written over."""
    path = tmp_path / "study.jsonl"
    text = "".join(json.dumps(one) + "\n" for one in (GOOD, COSINES, line))
    path.write_text(text)
    for more in (["--report"], []):
        monkeypatch.setattr(sys, "argv", ["study.py", "--results", str(path), *more])
        with pytest.raises(SystemExit, match="2"):
            runpy.run_path(study.__file__, run_name="__main__")
        error = capsys.readouterr().err
        assert error.startswith(f"error: {path}") and error.count("\n") == 1
        assert path.read_text() == text and [*tmp_path.iterdir()] == [path]


def test_the_tables_pair_runs_of_one_base_and_seed(tmp_path):
    """Bug: differences of means over other runs, a sign turned around, a run that is missing taken
    for 0, a table that needs every run.
    """
    lines = []
    for run in PART.runs()[:-1]:  # the last twin is not done
        gain = 0.1 * run.seed + 0.2 * ("prerl" in run.flags and "twin" not in run.flags)
        lines.append(json.dumps(record_of(run, gain)))
    (tmp_path / "study.jsonl").write_text("\n".join(lines) + "\n")
    text = study.part_tables(PART, study.load_results(tmp_path / "study.jsonl"))
    (row,) = [line for line in text.splitlines() if line.startswith("| DSRL - GRPO, avg")]
    assert row.split("|")[2].strip() == "+0.200 ± 0.000 (4 of 4)"
    (row,) = [line for line in text.splitlines() if line.startswith("| DSRL - twin, avg")]
    assert row.split("|")[2].strip() == "+0.200 ± 0.000 (3 of 3)"


def test_the_figure_is_of_what_all_runs_measured(tmp_path):
    """Bug: StopIteration after the last run of a part, as one variant's warm-up ends between two
    evaluations of the others.
    """
    results = {run: record_of(run) for run in PART.runs()}
    for run, record in results.items():
        if "prerl" in run.flags:
            first = record["curve"][0]
            record["curve"].insert(1, {**first, "step": 10})
    study.draw(PART, results, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_runs_of_two_machines_are_not_paired():
    """Bug: another processor trains another base; differences of two bases taken for an effect."""
    results = {run: record_of(run) for run in PART.runs()}
    results[PART.run_of("twin", 1, 1)]["curve"][0]["avg_at_k"] = 0.23
    assert len(study.pairs_of(PART, results, ["DSRL", "GRPO"])) == 4
    with pytest.raises(ValueError, match="two machines"):
        study.pairs_of(PART, results, ["DSRL", "twin"])


def test_every_table_shown_is_that_of_the_results(tmp_path, monkeypatch):
    """Bug: a number in README.md, STUDY.md or study.md that is not of study.jsonl any more; the
    README's figure replaced by that of another part.
    """
    for document in study.DOCUMENTS:
        shutil.copy(document, tmp_path)
    path = shutil.copy(study.RESULTS, tmp_path / "study.jsonl")
    drawn = []
    monkeypatch.setattr(study, "RESULTS", path)
    monkeypatch.setattr(study, "DOCUMENTS", [tmp_path / one.name for one in study.DOCUMENTS])
    monkeypatch.setattr(study, "draw", lambda part, *_: drawn.append(part))
    study.report([study.PARTS["few"]], path)
    assert drawn == [study.PARTS["D"]]
    for kept in (ROOT / "README.md", ROOT / "STUDY.md", ROOT / "tests/results/study.md"):
        assert (tmp_path / kept.name).read_text() == kept.read_text()


def test_forks_change_what_they_name(monkeypatch, rollout, model):
    """Bug: a fork of a function that was renamed or takes other arguments: it would change nothing;
    a shuffled prompt that is the response's own.
    """
    monkeypatch.setattr(prerl, "contexts_of", prerl.contexts_of)
    own = prerl.contexts_of(rollout, "conditional", 2, 64)
    exec(study.FORKS["shuffled"], {})
    other = prerl.contexts_of(rollout, "marginal", 2, 64)
    assert all(mine != theirs for mine, theirs in zip(own, other, strict=True))
    assert sorted(map(len, other)) == sorted(map(len, own))
    after = prerl.contexts_of(rollout, "conditional", 2, 64)
    assert after == own

    update = dsrl.update
    monkeypatch.setattr(dsrl, "update", lambda *_: {})
    exec(study.FORKS["reset"], {})
    assert inspect.signature(dsrl.update) == inspect.signature(update)
    config = dsrl.parse_args(["--prerl-steps", "2"])
    kept = []
    for step in range(4):
        optimizer = types.SimpleNamespace(state={"weight": 1})
        dsrl.update(types.SimpleNamespace(config=config, optimizer=optimizer), None, None, step)
        kept.append(bool(optimizer.state))
    assert kept == [True, True, False, True]


def test_intervals_and_verdicts():
    """Bug: a normal's 1.96 for five seeds, a population's deviation, a sign turned around."""
    mean, half = study.interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean == 3.0 and abs(half - 1.9632) < 1e-3  # t(4) = 2.7764, deviation 1.5811
    assert study.verdict([0.1, 0.2, 0.15], 1) == "yes"
    assert study.verdict([0.1, 0.2, 0.15], -1) == "the opposite"
    assert study.verdict([-0.1, 0.2, 0.15], 1).startswith("no difference")
    assert study.verdict([0.5, 0.51], 1) == "too few runs"
    assert study.show([2e6, 2e6, 2e6], ",.0f") == "2,000,000 ± 0"
    assert study.show([0.5, None, -0.25], "+.2f") == "+0.50 -0.25" and study.show([None]) == ""
    most = max(len(part.bases) * len(part.seeds) for part in study.PARTS.values())
    assert len(study.T_95) >= most - 1


def test_levels_and_budgets_are_read_between_evaluations():
    """Bug: a budget compared with updates, a level that is never reached taken for the end."""
    run = {"curve": CURVE}
    assert study.between(run, "tokens", 20, "avg_at_k") == pytest.approx(0.4)
    assert study.between(run, "tokens", 40, "avg_at_k") == pytest.approx(0.6)
    assert study.between(run, "avg_at_k", 0.3, "step") == pytest.approx(5)
    assert study.between(run, "avg_at_k", 0.7, "step") == float("inf")
    assert study.at(run, 20, "tokens") == 40
