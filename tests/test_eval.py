"""Benchmarks from the shell: whole runs, compared.    python -m pytest tests/test_eval.py"""

import json
import types

import pytest
from conftest import random_model
from test_layouts import write

import dsrl
import eval as benchmarks
from eval import evaluate, load_problems
from plumbing import evaluation, files

TURN = ("{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}")  # fmt: skip


class Letters:
    """A tokenizer of single characters, ids 3..63; `chat_template` as given."""

    def __init__(self, chat_template=None):
        self.chat_template = chat_template

    all_special_ids, added_tokens_decoder, eos_token_id, pad_token_id = [], {}, 1, 0

    def apply_chat_template(self, turns, tokenize, add_generation_prompt, **flags):
        from jinja2 import Template

        assert not tokenize
        return Template(self.chat_template).render(
            messages=turns, add_generation_prompt=add_generation_prompt, **flags)

    def __call__(self, text, add_special_tokens=True):
        ids = [3 + ord(letter) % 61 for letter in text]
        return types.SimpleNamespace(input_ids=[2] * add_special_tokens + ids)

    def batch_decode(self, rows, skip_special_tokens=True):
        return ["".join(chr(ord("0") + i) for i in map(int, ids) if i > 2) for ids in rows]

    def decode(self, ids, skip_special_tokens=True):
        return self.batch_decode([ids])[0]


@pytest.fixture
def stub(monkeypatch, tmp_path):
    """main() with a random model and six problems in a file, and the calls of `generate`."""
    model, calls, generate = random_model(max_position_embeddings=256), [], evaluation.generate
    model.eos_ids = (1, 2)

    def counted(model, prompts, **how):
        calls.append((len(prompts), how))
        return generate(model, prompts, **how)

    monkeypatch.setattr(benchmarks, "ROWS_PER_CALL", 4)
    monkeypatch.setattr("plumbing.evaluation.generate", counted)
    monkeypatch.setattr(benchmarks, "load_model", lambda *args, **how: (model, Letters(TURN)))
    monkeypatch.setattr(benchmarks, "identity_of", lambda name: name)
    rows = [{"problem": f"{i}?", "answer": str(i), "kind": "tiny"} for i in range(6)]
    path = write(tmp_path, "own.jsonl", rows)

    def run(*flags, out="out"):
        standard = f"--tasks own --data own={path} --k 2 --max-new-tokens 8".split()
        return benchmarks.main([*standard, "--out", str(tmp_path / out), *flags])

    return run, calls


def test_a_run_that_was_killed_goes_on_to_the_same_result(stub, tmp_path):
    """Bug: responses sampled twice or otherwise after a resume, a torn last line."""
    run, calls = stub
    assert run(out="whole") == 0 and [count for count, _ in calls] == [2, 2, 2]
    assert run(out="killed") == 0
    path = tmp_path / "killed" / "responses.jsonl"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])  # in the middle of a line
    calls.clear()
    assert run(out="killed") == 0 and len(calls) == 2
    assert sorted(path.read_text().splitlines()) == sorted(whole.splitlines())
    files = [tmp_path / out / "results.json" for out in ("whole", "killed")]
    results = [json.loads(file.read_text()) for file in files]
    assert set(results[0]["versions"]) == {"python", "torch", "transformers"}
    whole, killed = (result["tasks"]["own"] for result in results)
    assert all(one.pop("seconds") and one.pop("tokens_per_second") for one in (whole, killed))
    assert whole == killed and whole["sampling"]["temperature"] == 1.0  # not 2 greedy ones
    assert (tmp_path / "killed" / "pass_at_k.png").stat().st_size > 1000
    assert run("--k", "1", out="greedy") == 0 and calls[-1][1]["temperature"] == 0.0


def test_responses_to_other_problems_do_not_count(stub, tmp_path, capsys):
    """Bug: a resume that takes the responses to other problems of the same number."""
    run, calls = stub
    assert run("--limit", "4") == run("--limit", "2") == run() == 0 and len(calls) == 3
    write(tmp_path, "own.jsonl", [{"problem": "0!", "answer": "0", "kind": "tiny"}])
    assert run() == 2
    assert "holds responses to other problems of own" in capsys.readouterr().err


def test_other_answers_and_other_weights_are_other_evaluations(stub, tmp_path, capsys, monkeypatch):
    """Bug: a wrong gold is mended, a model trained anew under its name: the old figure, silently."""
    run, _ = stub
    file, before = tmp_path / "own.jsonl", (tmp_path / "own.jsonl").read_text()
    assert run() == 0
    file.write_text(before.replace('"answer": "5"', '"answer": "6"'))
    assert run() == 2 and "or graded by other answers" in capsys.readouterr().err
    file.write_text(before)
    assert run() == 0
    monkeypatch.setattr(benchmarks, "identity_of", lambda name: "other weights")
    assert run() == 2 and "was made with other files of tiny" in capsys.readouterr().err


def test_responses_of_nobody_knows_what_do_not_count(stub, tmp_path, capsys):
    """Bug: results.json deleted, another temperature asked for: one figure of both, in silence."""
    run, _ = stub
    assert run() == 0
    for name in ("results.json", "pass_at_k.png"):
        (tmp_path / "out" / name).unlink()
    assert run("--temperature", "0.5") == 2
    assert "has responses.jsonl and no results.json" in capsys.readouterr().err


def test_what_is_not_finished_is_said(stub, tmp_path, capsys, monkeypatch):
    """Bug: a run that was killed is left out of a comparison without a word."""
    run, _ = stub
    monkeypatch.chdir(tmp_path)
    assert run(out="a") == run(out="b") == 0
    results = json.loads((tmp_path / "b/results.json").read_text())
    (tmp_path / "b/results.json").write_text(json.dumps(results | {"tasks": {}}))
    capsys.readouterr()
    assert benchmarks.main(["--compare", "a", "b"]) == 0
    assert "b: own is not finished, and left out" in capsys.readouterr().out


def test_pictures_of_others_stay(stub, tmp_path, capsys, monkeypatch):
    """Bug: a picture of the user's own replaced by ours of the same name."""
    run, _ = stub
    monkeypatch.chdir(tmp_path)
    assert run(out="a") == 0 and benchmarks.main(["--compare", "a"]) == 0
    assert benchmarks.main(["--compare", "a"]) == 0  # its own is replaced
    (tmp_path / "out").mkdir()
    for name in ("compare.png", "out/pass_at_k.png"):
        (tmp_path / name).write_bytes(b"mine")
    assert benchmarks.main(["--compare", "a"]) == 2 and run() == 2
    told = capsys.readouterr().err
    assert "compare.png is not of this script" in told and "has pass_at_k.png and no results" in told
    for name in ("compare.png", "out/pass_at_k.png"):
        assert (tmp_path / name).read_bytes() == b"mine"


@pytest.mark.parametrize("flags", [("--top-p", "0"), ("--temperature", "-1"), ("--top-k", "-2")])
def test_a_refused_flag_leaves_no_results(stub, tmp_path, flags):
    """Bug: after a mistake the right command is refused: "was made with top_p 0.0"."""
    run, _ = stub
    assert run(*flags) == 2 and not (tmp_path / "out/results.json").exists()
    assert run() == 0


def test_compare_draws_several_runs(stub, tmp_path, capsys, monkeypatch):
    """Bug: a comparison that shows one run only, or needs the runs to hold the same tasks."""
    run, _ = stub
    monkeypatch.chdir(tmp_path)
    run(out="a")
    run("--seed", "1", "--tasks", f"own,{tmp_path}/own.jsonl", out="b")
    capsys.readouterr()
    assert benchmarks.main(["--compare", "a", "b"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines] == ["a", "b", "1", "b", "a", "compare.png"]
    assert lines[2] == "own: not alike: seed is 0, 1"
    assert lines[4] == f"{tmp_path}/own.jsonl: not in a"
    assert (tmp_path / "compare.png").stat().st_size > 1000


def test_names_of_others_do_not_rule_the_terminal(stub, tmp_path, capsys, monkeypatch):
    """Bug: somebody's results.json clears the screen."""
    run, _ = stub
    monkeypatch.chdir(tmp_path)
    run(out="a")
    file = tmp_path / "a/results.json"
    file.write_text(file.read_text().replace('"own"', '"own\\u001b[2J"'))
    capsys.readouterr()
    assert benchmarks.main(["--compare", "a"]) == 0
    assert run(out="\x1b[31mred") == 0
    assert "\x1b" not in capsys.readouterr().out


def test_other_questions_of_one_name_are_said(stub, tmp_path, capsys, monkeypatch):
    """Bug: two files called test.jsonl side by side as one task."""
    run, _ = stub
    monkeypatch.chdir(tmp_path)
    run(out="a")
    file = tmp_path / "own.jsonl"
    file.write_text(file.read_text().replace("0?", "9?"))
    run(out="b")
    run("--k", "4", out="c")
    for other, are_alike in (("a", False), ("c", True)):
        capsys.readouterr()
        assert benchmarks.main(["--compare", "b", other]) == 0
        assert ("own: not alike: questions is " in capsys.readouterr().out) != are_alike


def test_folders_of_training_and_evaluation_stay_apart(stub, tmp_path, capsys, monkeypatch):
    """Bug: results beside checkpoints, after which --compare takes a run for an evaluation; and
    --compare * that ends at its own picture.
    """
    run, _ = stub
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained/metrics.jsonl").touch()
    assert run(out="trained") == 2
    assert "trained is of a run or a model, with metrics.jsonl" in capsys.readouterr().err
    assert run(out="a") == 0
    for name in ("own.jsonl", "compare.png"):
        assert benchmarks.main(["--compare", "a", name]) == 0
    assert "compare.png is no folder, and is left out" in capsys.readouterr().out
    assert dsrl.main(["--out", "a", "--steps", "1"]) == 2
    assert "a holds a run, or files of the same names (results.json, " in capsys.readouterr().err


def test_compare_names_who_finished_nothing(stub, tmp_path, capsys, monkeypatch):
    """Bug: a folder without a finished task is left out without a word."""
    run, _ = stub
    monkeypatch.chdir(tmp_path)
    run(out="a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/results.json").write_text('{"settings": {}, "tasks": {}}')
    capsys.readouterr()
    assert benchmarks.main(["--compare", "a", "b"]) == 0
    assert "b: no task is finished, and it is left out" in capsys.readouterr().out
    assert run("--limit", "2", out="a") == 0
    assert "own: 6 problems before, now the first 2" in capsys.readouterr().out
    (tmp_path / "b/results.json").write_text("[]")
    assert benchmarks.main(["--compare", "a", "b"]) == 2
    assert "--out" not in capsys.readouterr().err  # it was given none


def test_a_token_without_an_embedding_is_named(stub, capsys, monkeypatch):
    """Bug: "token ids [66, 66] are not among 0 to 63", without the prompt or the token."""
    run, _ = stub
    monkeypatch.setattr(benchmarks, "encode_prompt", lambda *args: [5, 66])
    assert run() == 2
    error = capsys.readouterr().err
    assert "the prompt of '0?' has the token 66" in error and "only 64 embeddings" in error


def test_compare_says_what_differs(stub, tmp_path, capsys, monkeypatch):
    """Bug: figures of other rules or limits side by side as if they were alike."""
    run, _ = stub
    monkeypatch.chdir(tmp_path)
    run(out="a")
    run("--strict", "--temperature", "0.5", "--max-new-tokens", "4", "--limit", "3", out="b")
    capsys.readouterr()
    assert benchmarks.main(["--compare", "a", "b"]) == 0
    printed = capsys.readouterr().out
    for text in ("strict is False, True", "temperature is 1.0, 0.5", "max_new_tokens is 8, 4",
                 "problems is 6, 3"):
        assert f"own: not alike: {text}" in printed
    assert "seed is" not in printed


def test_a_folder_has_one_run_at_a_time(stub, tmp_path, capsys):
    """Bug: two runs in one folder, 240 rows for 128 and "other problems" for ever."""
    run, calls = stub
    (tmp_path / "out").mkdir()
    with files.lock_folder(tmp_path / "out", ("results.json",)):
        assert run() == 2 and not calls
    assert "another run is writing to" in capsys.readouterr().err
    assert run() == 0


def test_results_are_whole_at_any_moment(stub, tmp_path, monkeypatch):
    """Bug: a kill while results.json is written leaves half of it."""
    run, _ = stub
    assert run("--limit", "2") == 0
    before = (tmp_path / "out" / "results.json").read_text()

    def stop(*args):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", stop)
    assert run() == 2 and (tmp_path / "out" / "results.json").read_text() == before


def test_prompts_with_little_room_are_said(stub, tmp_path, capsys):
    """Bug: one long problem shortens the room of all, in silence; a longer one ends the run."""
    run, calls = stub
    rows = [{"problem": text, "answer": "1", "kind": "tiny"} for text in ("1?", "x" * 230,
                                                                          "y" * 300)]
    write(tmp_path, "own.jsonl", rows)
    assert run("--max-new-tokens", "40", "--k", "1") == 0
    said = "own: of the model's 256 positions the prompts leave 0 to 237 for a response; 1 of 3"
    assert said in capsys.readouterr().out
    assert calls[0][1]["max_new_tokens"] == [40, 9, 1]  # <user>, 230, <assistant>: 247
    lines = (tmp_path / "out" / "responses.jsonl").read_text().splitlines()
    assert json.loads(lines[2])["tokens"] == 0 and json.loads(lines[2])["correct"] == 0


@pytest.mark.parametrize("flags, message", [
    (["--k", "0"], "--k 0: must be at least 1"), (["--limit", "-1"], "--limit -1: must be"),
    (["--tasks", "nowhere"], "must read TASK=FILE"), (["--data", "x"], "--data x: must read"),
    (["--tasks", "own,nowhere"], "no file and no task 'nowhere'; known tasks: gsm8k"),
    (["--k", f"{10**23}"], "at most 10^9"), (["--limit", f"{10**23}"], "at most 10^9"),
    (["--tasks", "own, nowhere"], "no file and no task 'nowhere'"),
    (["--tasks", "own,"], "no file and no task ''"), (["--tasks", ""], "nothing to do"),
    (["--data", "own=nowhere.jsonl"], "no file and no task 'nowhere.jsonl'"),
    (["--data", "own={tmp}/out"], "responses|out"),
    (["--data", "own={tmp}/cut.jsonl"], "cut.jsonl line 2: Unterminated string"),
    (["--data", "own={tmp}/empty.csv"], "empty.csv holds no problem"),
    (["--temperature", "0.5"], "made with temperature None, not 0.5: give another --out"),
    (["--out", "{tmp}/new", "--temperature", "-1"], "temperature -1.0: give"),
    (["--out", "{tmp}/new", "--temperature", "nan"], "temperature nan: give"),
    (["--out", "{tmp}/new", "--top-p", "2"], "top_p 2.0: give more than 0, at most 1"),
    (["--out", "{tmp}/new", "--top-k", "-1"], "top_k -1"),
    (["--out", "{tmp}/own.jsonl"], "own.jsonl"), (["--out", "{tmp}/own.jsonl/x"], "own.jsonl"),
    (["--out", "{tmp}/empty"], "empty/results.json is damaged"),
    (["--out", "{tmp}/list"], "list/results.json is damaged"),
    (["--out", "{tmp}/torn"], "responses.jsonl"),
    (["--compare", "nowhere"], "nowhere has no results.json"),
    (["--compare", "{tmp}/empty"], "results.json is damaged"),
    (["--compare", "{tmp}/begun"], "no task of these runs is finished"),
    (["--compare", "{tmp}/old"], "old/results.json is damaged"),
])  # fmt: skip
def test_user_mistakes_get_one_line(stub, tmp_path, capsys, flags, message):
    """Bug: a traceback, responses of other settings in one result, an ignored --data."""
    run, _ = stub
    run()
    settings = json.loads((tmp_path / "out" / "results.json").read_text())["settings"]
    begun = json.dumps({"settings": settings, "tasks": {}})
    old = json.dumps({"settings": settings, "tasks": {"own": {"problems": 3}}})
    for name, text in (("empty", ""), ("list", "[]"), ("begun", begun), ("torn", begun),
                       ("old", old)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(text)
    (tmp_path / "torn" / "responses.jsonl").write_text("[1]\n")
    (tmp_path / "cut.jsonl").write_text('{"problem": "p", "answer": "4"}\n{"prob')
    (tmp_path / "empty.csv").write_text("problem,answer\n")
    capsys.readouterr()
    assert run(*[flag.format(tmp=tmp_path) for flag in flags]) == 2
    error = capsys.readouterr().err
    assert message.split("|")[-1] in error
    assert error.startswith("error: ") and error.count("\n") == 1


def test_evaluate_hands_settings_to_the_sampler(stub, tmp_path):
    """Bug: a sampling setting that gets lost, a base model without stop strings, row order."""
    _, calls = stub
    (model, tokenizer), problems = benchmarks.load_model(), load_problems(tmp_path / "own.jsonl")
    how = dict(temperature=0.7, top_p=0.9, top_k=5, seed=3)
    options = dict(max_new_tokens=4, template="base", **how)
    rows = evaluate(model, tokenizer, problems, k=2, **options)
    asked = calls[-1][1]
    assert {key: asked[key] for key in how} == how and asked["group_size"] == 2
    assert "\nQuestion:" in asked["stop_strings"]
    order = [(i, j) for i in range(6) for j in range(2)]
    assert [(row["index"], row["sample"]) for row in rows] == order
    options = dict(max_new_tokens=4, grade_with=lambda problems, texts: [0.5] * len(texts))
    rows = evaluate(model, tokenizer, problems, k=1, **options)
    assert calls[-1][1]["stop_strings"] == ("<user>",) and {row["correct"] for row in rows} == {0.5}


def test_demo_runs(capsys):
    """Bug: a demo that no longer agrees with the formulas, or that needs a flag."""
    assert benchmarks.main([]) == 0
    assert "avg_at_k           0.2" in capsys.readouterr().out


@pytest.mark.parametrize("edit", [{"k": "8"}, {"avg_at_k": None}, {"pass_at_k": {"x": 1}}, {"pass_at_k": {"9" * 400: 1}},
                                  {"sampling": 3}, {"sampling": []}, {"problems": []},
                                  {"avg_at_k": 10**400}, {"avg_at_k": 37.5}, {"pass_at_k": {"1": -1}}])  # fmt: skip
def test_an_edited_results_file_is_named(tmp_path, edit):
    """Bug: --compare ends in a traceback on results of the right keys and wrong types."""
    folder = tmp_path / "a$b_{$"  # no formula
    folder.mkdir()
    summary = {"problems": 1, "k": 8, "avg_at_k": 0.5, "avg_at_k_se": 0.1, "thoughts": {},
               "pass_at_k": {"1": 0.5}, "sampling": {}}  # fmt: skip
    file = folder / "results.json"
    for more in ({}, edit):
        file.write_text(json.dumps({"settings": {}, "tasks": {"$_{$": summary | more}}))
        if more:
            with pytest.raises(ValueError, match="results.json is damaged"):
                benchmarks.compare([folder], tmp_path / "a.png")
        else:
            benchmarks.compare([str(folder)], tmp_path / "a.png")


@pytest.mark.parametrize("edit", [{"correct": "yes"}, {"correct": None}, {"tokens": None},
                                  {"answer": 5}, {"finished": 1}, {"sample": 1}])  # fmt: skip
def test_an_edited_response_is_named(stub, tmp_path, capsys, edit):
    """Bug: a traceback, or other figures in silence, where a run goes on from edited responses."""
    run, _ = stub
    assert run() == 0
    file = tmp_path / "out/responses.jsonl"
    rows = files.read_lines(file)
    files.write_lines(file, [rows[0] | edit, *rows[1:]])
    assert run() == 2 and "responses.jsonl" in capsys.readouterr().err


def test_a_folder_of_training_is_named(finished, world, tmp_path, capsys):
    """Bug: "has no results.json", "model_type None": what to do with a run's folder is not said."""
    for folder in (finished, finished / "checkpoint-4"):
        assert benchmarks.main(["--compare", str(folder)]) == 2
        assert "eval.py --model CHECKPOINT" in capsys.readouterr().err
    words = ["--model", str(finished), "--tasks", f"{world}/test.jsonl", "--out", str(tmp_path)]
    assert benchmarks.main(words) == 2 and f"{finished}/checkpoint-N" in capsys.readouterr().err
