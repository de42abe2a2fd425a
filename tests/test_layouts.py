"""Files of problems and the layouts of their rows.    python -m pytest tests/test_layouts.py"""

import csv
import json

import pyarrow
import pyarrow.parquet
import pytest

from plumbing.benchmarks import load_problems
from plumbing.rows import read_rows


def write(folder, name, rows):
    path = folder / name
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        lines = "\n".join(map(json.dumps, rows))
        path.write_text(lines if path.suffix.lower() == ".jsonl" else json.dumps(rows))
    return path


def read(row, tmp_path, name="own.jsonl", task=None):
    """The one problem of a file with this row alone."""
    (problem,) = load_problems(write(tmp_path, name, [row]), task=task)
    return problem


def turns(*texts):
    """A conversation: a system turn, then user and assistant in turn."""
    roles = ["system", *["user", "assistant"] * len(texts)]
    return [{"role": role, "content": text} for role,
            text in zip(roles, ("s", *texts), strict=False)]


def verl(gold, text="p"):
    return {"prompt": turns(text), "reward_model": {"style": "rule", "ground_truth": gold}}


GSM8K = {"question": "2 + 2?", "answer": "2 + 2 = <<2+2=4>>4\n#### 1,004"}
OLYMPIAD = {"question": "p", "final_answer": ["$2$", "$-1$"], "error": None}
DAPO = ("Solve the following math problem step by step. The last line of your response should be "
        "of the form Answer: $Answer (without quotes) where $Answer is the answer to the problem."
        "\n\n{}\n\nRemember to put your answer on its own line after \"Answer:\".")  # fmt: skip
LAYOUTS = [  # file, row in the columns of the public set; problem, answer, kind as to be read
    ("gsm8k_test.jsonl", GSM8K, "2 + 2?", "1,004", "math"),
    ("math500.jsonl", {"problem": "p", "solution": "\\boxed{9}", "answer": "8"}, "p", "8", "math"),
    ("math.parquet", {"problem": "p", "solution": "so \\boxed{\\pi}."}, "p", "\\pi", "math"),
    ("train.parquet", verl("7"), "p", "7", "math"),
    ("test.parquet", verl({"question": "p", "target": "7"}), "p", "7", "math"),
    ("amc23.jsonl", {"problem": "p", "answer": 27.0, "question": "p"}, "p", "27", "math"),
    ("amc23.csv", {"problem": "p", "answer": "27.0"}, "p", "27", "math"),
    ("aime25.jsonl", {"problem": "p", "answer": 70}, "p", "70", "math"),
    ("olympiadbench.jsonl", OLYMPIAD, "p", "2, -1", "olympiad"),
    ("own.jsonl", {**OLYMPIAD, "error": "none"}, "p", "2, -1", "math"),
    ("navigate.json", {"input": "p", "target": "No"}, "p", "No", "bbh"),
    ("own.json", {"problem": "p", "answer": "5", "kind": "tiny"}, "p", "5", "tiny"),
    # what people train on
    ("dapo.parquet", {"prompt": "p", "solution": "34", "source": "x"}, "p", "34", "math"),
    ("verl.parquet", verl("72", 'p Let\'s think step by step and output the final answer after '
                          '"####".'), "p", "72", "math"),
    ("dapo.parquet", {**verl("34", DAPO.format("p\n\nq")), "ability": "MATH"}, "p\n\nq", "34",
     "math"),
    ("trl.parquet", {"prompt": turns("p")[1:], "solution": "\\frac{1}{2}"}, "p", "\\frac{1}{2}",
     "math"),
    ("trl.jsonl", {"prompt": turns("p"), "solution": "So it is $\\boxed{2}$."}, "p", "2", "math"),
    ("messages.jsonl", {"messages": turns("p"), "ground_truth": "3"}, "p", "3", "math"),
    ("messages.jsonl", {"messages": turns("p", "It is 4."), "ground_truth": 3}, "p", "3", "math"),
    ("messages.jsonl", {"messages": turns("o", "4.", "p"), "answer": "3"}, "p", "3", "math"),
    ("sharegpt.jsonl",
     {"conversations": [{"from": "human", "value": "p"}, {"from": "gpt", "value": "9"}],
                        "answer": "3"}, "p", "3", "math"),
    ("text.csv", {"prompt": json.dumps(turns("p")), "answer": "3"}, "p", "3", "math"),
    ("maxwell.jsonl", {"ID": "1", "Problem": "p", "Solution": "s", "Answer": 204}, "p", "204",
     "math"),
    ("aime24.jsonl", {"id": 0, "problem": "p", "solution": "\\boxed{204}"}, "p", "204", "math"),
    ("deepmath.jsonl", {"question": "p", "final_answer": "\\infty", "difficulty": 5}, "p",
     "\\infty", "math"),
    ("nvidia.jsonl", {"problem": "p", "expected_answer": "5", "solution": "\\boxed{6}"}, "p", "5",
     "math"),
    ("turn.jsonl", {"prompt": turns("p")[1], "Final Answer": "5"}, "p", "5", "math"),
    ("columns.jsonl", {"problem": "p", "a": 1, "b": 2, "c": 3, "answer": 4}, "p", "4", "math"),
    ("label.jsonl", {"input": "p", "label": "5"}, "p", "5", "math"),
    ("label.jsonl", {"problem": "p", "solution": "\\boxed{5}", "label": 1, "correct": True}, "p",
     "5",
     "math"),
    ("numeric.jsonl", {"question": "p", "final_answer": 2.5}, "p", "2.5", "math"),
    ("numeric.jsonl", {"problem": 1234, "answer": 0}, "1234", "0", "math"),
    ("boxed.jsonl", {"problem": "p", "answer": "$\\boxed{7}$"}, "p", "7", "math"),
    ("parts.jsonl", verl("7", [{"type": "text", "text": "p "}, {"type": "text", "text": "q"}]),
     "p q", "7", "math"),
    ("dict.jsonl", verl({"answer": "7"}), "p", "7", "math"),
    ("dict.jsonl", verl({"value": 7, "unit": "m"}), "p", "7", "math"),
    ("dict.jsonl", verl('{"target": "7"}'), "p", "7", "math"),
    ("skywork.parquet", verl('["36"]'), "p", "36", "math"),
    ("list.jsonl", {"problem": "p", "answer": ["4"]}, "p", "4", "math"),
    ("list.csv", {"problem": "p", "answer": "['4']"}, "p", "4", "math"),
    ("list.jsonl", verl("[36]"), "p", "36", "math"),
    ("interval.jsonl", verl("[3, 5]"), "p", "[3, 5]", "math"),  # no list of alternatives
    ("set.jsonl", {"problem": "p", "answer": "\\{1, 2\\}"}, "p", "\\{1, 2\\}", "math"),
    ("input.jsonl", {"input": "p", "target": "4", "id": 1}, "p", "4", "math"),
    ("surrogate.jsonl", {"problem": "p\ud83d", "answer": "4\udc00"}, "p?", "4?", "math"),
    ("upper.JSONL", {"problem": "p", "answer": "4"}, "p", "4", "math"),
    # a text beside the question belongs to it
    ("svamp.jsonl", {"Body": "b", "Question": "q", "Answer": 3.0}, "b\n\nq", "3", "math"),
    ("query.jsonl", {"input": "2 3", "query": "sum?", "answer": "5"}, "2 3\n\nsum?", "5", "math"),
    ("drop.jsonl", {"question": "q", "context": "c", "answer": "5"}, "q\n\nc", "5", "math"),
    ("same.jsonl", {"problem": "Solve p.", "input": "p", "answer": "5"}, "Solve p.", "5", "math"),
    ("alpaca.jsonl", {"instruction": "p", "input": "", "answer": "5"}, "p", "5", "math"),
    ("mathinstruct.jsonl", {"instruction": "p", "output": "3 + 4 = 7. The answer is 7."}, "p", "7",
     "math"),
    ("sft.jsonl", {"messages": turns("p", "So it is \\boxed{7}.")}, "p", "7", "math"),
    ("sft.jsonl", {"conversations": [{"from": "human", "value": "p"},
                                     {"from": "gpt", "value": "#### 7"}]}, "p", "7", "math"),
    ("mgsm.jsonl", {"question": "p", "answer": "Die Antwort ist 11.", "answer_number": 11}, "p",
     "11", "math"),
    ("murder.jsonl", {"narrative": "n", "question": "p", "answer": "4"}, "n\n\np", "4", "math"),
    ("clutrr.csv", {"story": "s", "query": "q", "target": 15, "target_text": "son"}, "s\n\nq", "son",
     "math"),
    ("json.jsonl", {"instruction": "Add.", "input": '["3", "5"]', "answer": "8"},
     'Add.\n\n["3", "5"]', "8", "math"),
    ("json.jsonl", {"problem": '{"nums": [3, 5]}', "answer": "8"}, '{"nums": [3, 5]}', "8", "math"),
    ("theorem.jsonl", {"Question": "p", "Answer": [1, 4, 3]}, "p", "1, 4, 3", "math"),
    ("metamath.jsonl", {"query": "p", "response": "So 7.\n#### 7\nThe answer is: 7"}, "p", "7",
     "math"),
    ("part.jsonl", {"prompt": [{"role": "user", "content": {"text": "p"}}], "answer": 5}, "p", "5",
     "math"),
    # a file's name and a column of the user's own decide nothing
    ("minerva_own.jsonl", {"problem": "p", "answer": "1000"}, "p", "1000", "math"),
    ("minerva.jsonl", {"problem": "p", "answer": "1000"}, "p", "1000", "math"),
    ("bbh_x.jsonl", {"problem": "p", "answer": "4"}, "p", "4", "math"),
    ("gpqa_x.csv", {"problem": "p", "answer": "4"}, "p", "4", "math"),
    ("mmlu_pro_x.csv", {"question": "p", "answer": "4"}, "p", "4", "math"),
    ("own.jsonl", {"problem": "p", "answer": "4", "kind": "choice"}, "p", "4", "math"),
    ("own.jsonl", {"problem": "p", "answer": "4", "kind": "bbh"}, "p", "4", "math"),
    ("own.jsonl", {"problem": "p", "answer": "4", "kind": "minerva"}, "p", "4", "math"),
    ("own.jsonl", {"problem": "p", "answer": "4", "kind": {"a": 1}}, "p", "4", "math"),
    ("own.jsonl", {"problem": "p", "answer": "4", "kind": None, "error": "none", "group": [1],
                   "options": None, "index": 9, "shots": 1, "alternatives": [5]}, "p", "4", "math"),
]  # fmt: skip


@pytest.mark.parametrize("name, row, problem, answer, kind", LAYOUTS)
def test_every_public_layout_is_read(tmp_path, name, row, problem, answer, kind):
    """Bug: a column misread, a solution taken for the gold, an assistant's turn for the problem, a
    wrapper that asks for another form, 27.0 left so, a kind of the user's own or of a file's name.
    """
    found = read(row, tmp_path, name)
    assert (found["problem"], found["answer"], found["kind"]) == (problem, answer, kind)
    assert (found["index"], found["shots"], found["alternatives"]) == (0, "", None)


def test_what_a_file_is_a_copy_of_is_said_beside_it(tmp_path):
    """Bug: --data minerva=FILE graded as mathematics without tolerance."""
    found = read({"problem": "p", "solution": "\\boxed{-3./2}"}, tmp_path, task="minerva")
    assert (found["kind"], found["answer"]) == ("minerva", "-3/2")
    with pytest.raises(ValueError,
                       match="own.jsonl line 1: columns question, answer hold no options"):
        read({"question": "p", "answer": "A"}, tmp_path, task="mmlu_pro")


def test_a_verifier_finds_the_row_as_it_stands(tmp_path):
    """Bug: "work #### 6" arrives as "6", other columns are lost, `index` is overwritten."""
    row = {"problem": "p", "answer": "work #### 6", "numbers": [3, 3], "index": "x", "kind": "hard"}
    found = read(row, tmp_path)
    assert found["row"] == row and found["numbers"] == [3, 3]
    assert (found["answer"], found["index"], found["kind"]) == ("6", 0, "math")
    lean = load_problems(tmp_path / "own.jsonl", keep_rows=False)[0]
    assert "row" not in lean and "numbers" not in lean and lean["answer"] == "6"


@pytest.mark.parametrize("gold",
                         ['["\\\\frac{1}{2}", "0.5"]', ["\\frac{1}{2}", 0.5],
                          {"target": ["\\frac{1}{2}", "0.5"]}])
def test_several_golds_are_alternatives(tmp_path, gold):
    """Bug: a list of alternatives read as an interval, or as one answer of several parts."""
    found = read(verl(gold), tmp_path)
    assert (found["answer"], found["alternatives"]) == ("\\frac{1}{2}", ["\\frac{1}{2}", "0.5"])


@pytest.mark.parametrize("gold, golds", [
    ({"value": "Lewis", "aliases": ["Harry Lewis", "Lewis"], "type": "x"}, ["Lewis", "Harry Lewis"]),
    (True, ["True", "yes"]), (False, ["False", "no"]),
])  # fmt: skip
def test_other_names_of_a_gold_are_right_too(tmp_path, gold, golds):
    """Bug: TriviaQA's aliases dropped in silence; BoolQ, where only "True" is right, not "Yes"."""
    found = read({"question": "p", "answer": gold}, tmp_path)
    assert (found["answer"], found["alternatives"]) == (golds[0], golds)


CLAYS = ["clay", "sand", "mud", "silt"]
CHOICES = [  # row beside the question; options, letter
    ({"choices": CLAYS, "answer": 2, "subject": "x"}, CLAYS, "C"),  # MMLU
    ({"choices": CLAYS, "answer": 2.0}, CLAYS, "C"),
    ({"choices": {"text": CLAYS, "label": ["A", "B", "C", "D"]}, "answerKey": "D"}, CLAYS,
     "D"),  # ARC
    ({"choices": {"text": CLAYS, "label": ["1", "2", "3", "4"]}, "answerKey": "3"}, CLAYS, "C"),
    ({"options": {"A": "clay", "B": "sand"}, "answer": "B"}, CLAYS[:2], "B"),
    ({"options": {"A": "clay", "B": "sand"}, "answer": "sand"}, CLAYS[:2], "B"),
    ({"options": json.dumps(CLAYS), "answer": "A"}, CLAYS, "A"),
    ({"options": str(CLAYS), "answer": "D"}, CLAYS, "D"),
    ({"options": "['clay' 'sand'\n 'mud' 'silt']", "answer": "C"}, CLAYS, "C"),  # as numpy prints
    ({"options": CLAYS, "answer": "b"}, CLAYS, "B"),
    ({"options": CLAYS, "answer": "(A)"}, CLAYS, "A"),
    ({"options": CLAYS, "answer": "c."}, CLAYS, "C"),
    ({"options": CLAYS, "answer": "C) mud"}, CLAYS, "C"),
    ({"options": CLAYS, "answer": "mud"}, CLAYS, "C"),
    ({"options": CLAYS, "answer": "3"}, CLAYS, "D"),
    ({"options": CLAYS, "answer": ["B"]}, CLAYS, "B"),
    ({"options": CLAYS, "answer": "Mud"}, CLAYS, "C"),
    ({"options": ["1", "2", "3"], "answer": "2"}, ["1", "2", "3"], "B"),  # the option's text
    ({"options": ["1", "2", "3"], "answer": 2}, ["1", "2", "3"], "C"),  # the index
    ({"options": ["O", "A", "B"], "answer": "A"}, ["O", "A", "B"],
     "A"),  # a letter is a label first
    ({"options": [3, 4.5, True], "answer": "B"}, ["3", "4.5", "True"], "B"),
    ({"options": ["u", "v", "N/A"], "answer": "B", "answer_index": 1}, ["u", "v"], "B"),  # MMLU-Pro
    ({"options": ["u", None, "v"], "answer": "A"}, ["u", "v"], "A"),
    ({"options": [f"o{i}" for i in range(26)], "answer": "Z"}, [f"o{i}" for i in range(26)], "Z"),
    ({"options": [f"o{i}" for i in range(12)], "answer": 11}, [f"o{i}" for i in range(12)], "L"),
    ({"options": ["A)21", "B) 3", "C)A)"], "correct": "B"}, ["21", "3", "A)"], "B"),  # AQuA
    ({"options": {"A": "A. clay", "B": "(B) sand"}, "answer": "B"}, CLAYS[:2], "B"),
    ({"choices": [{"label": "A", "text": "clay"}, {"label": "B", "text": "sand"}],
      "answerKey": "B"},
     CLAYS[:2], "B"),
    ({"options": {"A": "clay", "B": "sand"}, "answer": "sand", "answer_idx": "B"}, CLAYS[:2], "B"),
    ({"A": "clay", "B": "sand", "C": "mud", "D": "silt", "answer": "C"}, CLAYS, "C"),  # C-Eval
    ({"a": "clay", "b": "sand", "c": "mud", "d": "silt", "answer": "c"}, CLAYS, "C"),
    ({"A": "clay", "B": "sand", "answer": "B"}, CLAYS[:2], "B"),
    ({"option_a": "clay", "option_b": "sand", "answer": 1}, CLAYS[:2], "B"),
    ({"Option A": "clay", "Option B": "sand", "answer": "sand"}, CLAYS[:2], "B"),
    ({"option1": "clay", "option2": "sand", "answer": 1}, CLAYS[:2], "A"),
    ({**dict(zip("ABCDEF", "uvwxyz", strict=True)), "answer": "F"}, list("uvwxyz"), "F"),
    ({"answers": CLAYS, "label": 2}, CLAYS, "C"),  # ReClor
    ({"options": [2, 4, 6], "answer": 2}, ["2", "4", "6"], "A"),  # a number among numbers
    ({"options": [10, 20.5, 30], "answer": 20.5}, ["10", "20.5", "30"], "B"),
    ({"a": "clay", "b": "sand", "c": "mud", "d": "silt", "answer": "mud"}, CLAYS, "C"),
    ({"answerA": "clay", "answerB": "sand", "answerC": "mud", "label": "B"}, CLAYS[:3], "B"),
    ({"question": {"stem": "p", "choices": [{"label": "A", "text": "clay"},
                                            {"label": "B", "text": "sand"}]}, "answerKey": "B"},
     CLAYS[:2], "B"),  # CommonsenseQA
    ({"question_stem": "p", "question": "", "choices": CLAYS, "Correct Option": "C"}, CLAYS, "C"),
    # MedQA, SuperGPQA: an option's text is the label of another
    ({"options": {"A": "O", "B": "A", "C": "B"}, "answer": "A", "answer_idx": "B"},
     ["O", "A", "B"], "B"),
    ({"options": ["C", "A", "E", "B", "D"], "answer": "B", "answer_letter": "D"}, list("CAEBD"), "D"),
    ({"answer0": "clay", "answer1": "sand", "answer2": "mud", "answer3": "silt", "label": 1}, CLAYS,
     "B"),  # Cosmos QA
    ({"option_0": "clay", "option_1": "sand", "option_2": "mud", "answer": "B"}, CLAYS[:3], "B"),
    ({"choice0": "clay", "choice1": "sand", "choice2": "mud", "label": 2}, CLAYS[:3], "C"),
    ({"options": [{"A": "clay"}, {"B": "sand"}], "expected_answer": "B"}, CLAYS[:2], "B"),
    ({"dialogue": ["a: x"], "choice": CLAYS, "answer": "mud"}, CLAYS, "C"),  # DREAM
    ({"opa": "clay", "opb": "sand", "opc": "mud", "opd": "silt", "cop": 2}, CLAYS, "C"),  # MedMCQA
]  # fmt: skip


@pytest.mark.parametrize("row, options, letter", CHOICES)
def test_choices_in_any_form(tmp_path, row, options, letter):
    """Bug: "A. A" in the prompt, an index read as the number 0, a gold that is never right."""
    found = read({"question": "p", **row}, tmp_path)
    assert (found["kind"], found["options"], found["answer"]) == ("choice", options, letter)


@pytest.mark.parametrize("row", [
    {"options": CLAYS, "answer": "E"}, {"options": CLAYS, "answer": 5},
    {"options": CLAYS, "answer": -1},
    {"options": CLAYS, "answer": "clay and sand"}, {"options": "clay or sand", "answer": "A"},
    {"options": [f"o{i}" for i in range(27)], "answer": "A"},
    {"options": CLAYS, "answer": ["A", "B"]}, {"options": CLAYS, "answer": "(A), (C)"},
    {"options": CLAYS, "answer": "A) and B)"},
])  # fmt: skip
def test_a_gold_that_is_no_option_is_an_error(tmp_path, row):
    """Bug: a choice that no response can get right, in silence."""
    with pytest.raises(ValueError, match="own.jsonl line 1: .*option"):
        read({"question": "p", **row}, tmp_path)


TENS = [str(10 * i) for i in range(4)]


@pytest.mark.parametrize("rows, letters, told", [
    # MMLU as a csv, where a text of an option is the number of another
    ([("['0', '4', '1', '2']", 1), (str(TENS), 0), (str(TENS), 3)], "BAD", "counted from 0"),
    ([(["3", "2", "1", "0"], "3"), (["7", "8", "9", "6"], "2")], "DC", "counted from 0"),
    ([(["3", "2", "1", "0"], "3"), (["7", "8", "9", "6"], "8")], "AB", "the texts of options"),
    ([(["3", "2", "1", "0"], "3"), (["1", "2", "3", "4"], "2")], "AB", ""),  # both would do
    ([(CLAYS, 1), (CLAYS, 4), (CLAYS, 2)], "ADB", "counted from 1"),  # MedMCQA
    ([(CLAYS, 1), (CLAYS, 3)], "BD", "counted from 0"),
    ([([2, 4, 6], 2), ([7, 8, 9], 0)], "CA", "counted from 0"),
    ([([2, 4, 6], 2), ([7, 8, 9], 9)], "AC", "the texts of options"),
])  # fmt: skip
def test_golds_that_are_numbers_are_read_by_their_file(tmp_path, capsys, rows, letters, told):
    """Bug: an index taken for the text of an option, or one from 1 for one from 0, in silence."""
    rows = [{"question": f"q{i}", "choices": options, "answer": gold}
            for i, (options, gold) in enumerate(rows)]  # fmt: skip
    path = write(tmp_path, "own.csv" if isinstance(rows[0]["choices"], str) else "own.jsonl", rows)
    assert "".join(one["answer"] for one in load_problems(path)) == letters
    printed = capsys.readouterr().out
    assert told in printed and ("golds that are numbers" in printed) == bool(told)


@pytest.mark.parametrize("golds, letters", [((1, 2), "AB"), ((0, 1), "AB"), (("1", "3"), "AC")])
def test_numbers_may_be_labels(tmp_path, golds, letters):
    """Bug: COPA's label 1 is choice2 where 0 occurs; Social IQa's 3 of three is the last."""
    rows = [{"question": f"q{i}", "choice1": "u", "choice2": "v", "choice3": "w", "label": gold}
            for i, gold in enumerate(golds)]  # fmt: skip
    found = load_problems(write(tmp_path, "own.jsonl", rows))
    assert "".join(one["answer"] for one in found) == letters


def test_rows_of_code_among_mathematics_are_left_out(tmp_path, capsys):
    """Bug: one row whose gold is a test of code ends the load; so it does where a verifier of one's
    own reads it.
    """
    code = {"problem": "q", "answer": {"inputs": ["1"], "outputs": ["2"]}}
    path = write(tmp_path, "own.jsonl", [{"problem": "p", "answer": "4"}, code, code | {"problem": "r"}])
    assert [one["answer"] for one in load_problems(path)] == ["4"]
    told = "dropped 2 whose gold is no answer (own.jsonl line 2: a gold with inputs, outputs; expected"
    assert told in capsys.readouterr().out
    found = load_problems(path, need_answer=False)
    assert [one["row"]["answer"] for one in found][1:] == [code["answer"]] * 2


def test_a_short_proof_is_no_gold(tmp_path, capsys):
    """Bug: nine words of a proof, or of prose, as a gold that only the same words match."""
    rows = [{"problem": "p", "solution": "Let $a=2k+1$. Then $a+1=2(k+1)$. $\\blacksquare$"},
            {"messages": turns("Write a poem.", "Rain falls softly on the roof.")},
            {"problem": "q", "solution": "x = 5"}]  # fmt: skip
    (found,) = load_problems(write(tmp_path, "own.jsonl", rows))
    assert found["answer"] == "x = 5" and "dropped 2 without an answer" in capsys.readouterr().out


def test_what_no_text_model_can_answer_is_left_out(tmp_path, capsys):
    """Bug: "<image>" as it stands in the prompt; golds that their set marks as wrong."""
    rows = [{"problem": f"p{i}", "answer": "4"} | more for i, more in enumerate((
        {"images": [{"path": "a.png"}]}, {"Picture": "b.png"}, {"image_1": None}, {"image": "None"},
        {"error_type": "wrong_groundtruth"}, {"error_type": "ok"}, {"cleaning_status": "rejected"},
        {"images": []}, {"image": False},
    ))]  # fmt: skip
    found = load_problems(write(tmp_path, "own.jsonl", rows))
    assert [one["problem"] for one in found] == ["p2", "p3", "p5", "p7", "p8"]
    assert "dropped 2 with a picture, 2 marked as faulty" in capsys.readouterr().out


def test_sciq_and_gpqa_have_their_wrong_options_in_columns(tmp_path):
    """Bug: "dropped 3 without an answer" of rows that have one, and three wrong options."""
    row = {"question": "p", "correct_answer": "clay", "distractor1": "sand", "distractor2": "mud",
           "distractor3": "silt", "support": "s"}  # fmt: skip
    found = read(row, tmp_path)
    assert sorted(found["options"]) == sorted(CLAYS)
    assert found["options"]["ABCD".index(found["answer"])] == "clay"


def test_numbers_of_a_question_are_no_options(tmp_path):
    """Bug: columns a, b, c of a sum taken for options, as one of them is the gold."""
    for others in ({"a": 3, "b": "4", "c": 7}, {"answer1": "4", "answer2": "5"},
                   {"a": "4", "b": "3/4"}):
        found = read({"question": "p", **others, "answer": "4"}, tmp_path)
        assert (found["kind"], found["answer"]) == ("math", "4")


def test_gpqa_options_are_shuffled_once_and_for_all(tmp_path):
    """Bug: the right option always A, another shuffle each time, a letter of another option."""
    wrong = {f"Incorrect Answer {i}": f"wrong {i}" for i in (1, 2, 3)}
    rows = [{"Question": f"q{i}", "Correct Answer": f"right {i}", **wrong} for i in range(40)]
    path = write(tmp_path, "gpqa.csv", rows)
    first, second = load_problems(path), load_problems(path)
    assert first == second and {problem["answer"] for problem in first} == set("ABCD")
    for i, problem in enumerate(first):
        assert problem["options"]["ABCD".index(problem["answer"])] == f"right {i}"
    row = {"Question": "q", "Correct Answer": "r", **wrong, "Incorrect Answer 2": None}
    problem = read(row, tmp_path)
    assert sorted(problem["options"]) == ["r", "wrong 1", "wrong 3"]
    assert problem["options"]["ABC".index(problem["answer"])] == "r"


def test_csv_cells_keep_their_separators(tmp_path):
    """Bug: a row torn at a line separator of Unicode, or at a line break within quotes."""
    rows = [{"problem": "p\u2028q\x0cr", "answer": "4"},
            {"problem": 'two\nlines, "x"', "answer": "5"}]
    problems = load_problems(write(tmp_path, "mine.csv", rows))
    assert [problem["problem"] for problem in problems] == [row["problem"] for row in rows]


@pytest.mark.parametrize("mark", [";", "\t"])
def test_csv_of_other_separators(tmp_path, mark):
    """Bug: a table of a German spreadsheet is one column, "problem;answer"."""
    path = tmp_path / "own.csv"
    path.write_text(f'problem{mark}answer\n"p{mark}, q"{mark}0,5\n')
    gold = "0.5" if mark == ";" else "0,5"  # a German spreadsheet's decimals
    assert [row for _, row in read_rows(path)] == [{"problem": f"p{mark}, q", "answer": gold}]


def test_decimals_of_a_german_spreadsheet_are_told(tmp_path, capsys):
    """Bug: 1,000 becomes 1.000, which is 1, or 1.000,50 stays a list; and nothing says so."""
    path = tmp_path / "own.csv"
    path.write_text("problem;answer\np;1,000\nq;2,5\nr;1.000,50\ns;-0,125\nt;-3,5\n")
    found = [row["answer"] for _, row in read_rows(path)]
    assert found == ["1,000", "2.5", "1000.50", "-0.125", "-3.5"]
    list(read_rows(path))
    told = "own.csv: as ; separates its cells, a comma is that of decimals: 2,5 is 2.5"
    assert capsys.readouterr().out.count(told) == 1


def test_a_list_over_lines_is_read_from_a_jsonl(tmp_path):
    """Bug: "line 1: Expecting value: line 2 column 1" of a list that was saved as .jsonl."""
    rows, path = [{"problem": "p", "answer": "4"}], tmp_path / "x.jsonl"
    for text in (json.dumps(rows, indent=2), "\ufeff" + json.dumps(rows)):
        path.write_text(text, encoding="utf-8")
        assert [row for _, row in read_rows(path)] == rows


def test_a_json_file_of_columns_is_read(tmp_path):
    """Bug: DataFrame.to_json and Dataset.to_dict write columns: "holds no problem"."""
    rows, path = [{"problem": "p", "answer": 4}, {"problem": "q", "answer": 5}], tmp_path / "x.json"
    for table in ({"problem": ["p", "q"], "answer": [4, 5]},
                  {"problem": {"7": "p", "9": "q"}, "answer": {"7": 4, "9": 5}}):  # fmt: skip
        path.write_text(json.dumps(table))
        assert [row for _, row in read_rows(path)] == rows
    path.write_text(json.dumps({"problem": ["p", "q"], "answer": [4]}))
    with pytest.raises(ValueError, match=r"problem, answer have \[2, 1\] rows"):
        list(read_rows(path))
    verl_rows = {"Question": ["p"], "reward_model": [{"ground_truth": "4"}]}
    path.write_text(json.dumps(verl_rows))
    assert load_problems(path)[0]["answer"] == "4"
    row = {"messages": turns("p"), "answer": ["4"]}  # one row
    path.write_text(json.dumps(row))
    assert [row for _, row in read_rows(path)] == [row]


def test_a_json_file_of_lines_and_of_one_list_are_read(tmp_path):
    """Bug: "Extra data: line 2" for a .json that holds lines; a list under a key not found."""
    rows, path = [{"problem": "p", "answer": "4"},
                  {"problem": "q", "answer": "5"}], tmp_path / "x.json"
    for text in ("\n".join(map(json.dumps, rows)), json.dumps(rows), json.dumps({"data": rows}),
                 "\ufeff" + json.dumps({"canary": "c", "examples": rows})):  # fmt: skip
        path.write_text(text, encoding="utf-8")
        assert [row for _, row in read_rows(path)] == rows


FILES = [  # name, content; what the message must hold
    ("cut.jsonl", b'{"problem": "p", "answer": "4"}\n\n{"problem": "q", "ans',
     "cannot be read: .*cut.jsonl line 3: "),
    ("no.jsonl", b'{"problem": "p", "answer": "4"}\n[1, 2]\n', "be read: .*no.jsonl line 2: "),
    ("latin.jsonl", b'{"problem": "p", "answer": "4"}\n{"problem": "\xe9", "answer": "4"}\n',
     "cannot be read: .*latin.jsonl line 2: 'utf-8' codec"),
    ("wide.jsonl", '{"problem": "p", "answer": "4"}'.encode("utf-16"),
     "wide.jsonl line 1: 'utf-8' codec"),
    ("wide.csv", "problem,answer\np,4\n".encode("utf-16"), "wide.csv: line 1 is not utf-8"),
    ("wide.json", "[]".encode("utf-16"), "wide.json: 'utf-8' codec"),
    ("lfs.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS"),
    ("lfs.parquet", b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS"),
    ("head.csv", b"How many?,1,2,3,4,B\nHow?,1,2,3,4,C\n", "head.csv: its first line must name"),
    ("nums.jsonl", b'{"problem": "p", "answer": {"target": 98, "numbers": [1, 2]}}',
     r"nums.jsonl .*1 whose gold is no answer \(nums.jsonl line 1: a gold with target, numbers"),
    ("list.jsonl", b'["a"]\n["b"]\n', "list.jsonl line 1: .'a'. is no object"),
    ("cut.json", b'[{"problem": "p"', "cannot be read: .*cut.json: "),
    ("deep.jsonl", b"[" * 100_000, "deep.jsonl"),
    ("cut.parquet", b"PAR1", "cannot be read: .*cut.parquet: "),
    ("empty.jsonl", b"", "empty.jsonl holds no problem"),
    ("empty.parquet", b"", "cannot be read: .*empty.parquet: "),
    ("a.txt", b"1", "cannot be read: .*a.txt: its name does not end in .jsonl"),
    ("a.json", b"[1, 2]", "a.json row 1: 1 is no object such as"),
    ("a.jsonl", b'{"apple": 1, "pear": 2}',
     "a.jsonl line 1: columns apple, pear .* expected problem, answer"),
    ("dict.jsonl", b'{"problem": "p", "answer": {"x": 1, "y": 2}}',
     r"1 whose gold is no answer \(dict.jsonl line 1: a gold with x, y"),
    ("twice.csv", b"problem,answer,answer\np,2,3\n", "twice.csv: .*two columns answer"),
    ("open.csv", b'problem,answer\np,2\n"q,3\nr,4\n', "open.csv after line 2: unexpected end"),
    ("both.json", b'{"train": [{"problem": "p"}], "test": [{"problem": "q"}]}',
     "both.json: .*lists train, test: .*one"),
    ("labels.jsonl", b'{"question": "q", "choices": {"text": ["u", "v", "w"], "label": ["A", "B"]},'
     b' "answerKey": "B"}', "labels.jsonl line 1: 3 options with 2 labels"),
    ("none.jsonl", b'{"problem": "p", "answer": {}}', "none.jsonl holds no problem"),
    ("large.jsonl", b'{"problem": "p", "answer": 1e999}', "large.jsonl holds no problem"),
    ("latin.csv", b"problem,answer\np,2\n" + "caf\u00e9,2\n".encode("latin-1"),
     "latin.csv: line 3 is not utf-8"),
    ("same.jsonl", b'{"problem": "p", "answer": "1", "answer": "2"}',
     "same.jsonl line 1: two columns answer"),
    ("same.json", b'[{"problem": "p", "answer": "1", "answer": "2"}]',
     "same.json: two columns answer"),
    ("case.csv", b"problem,answer,Answer\np,1,2\n", "case.csv line 2: two columns answer"),
    ("text.jsonl", b'{"question": "p", "options": "A. u\\nB. v", "answer": "B"}',
     "text.jsonl line 1: options 'A. u"),
    ("none.csv", b"problem,answer\np,None\nq,nan\nr,NULL\ns,N/A\n", "none.csv holds no problem"),
    ("kto.jsonl", b'{"prompt": "p", "completion": "It is 5.", "label": true}',
     "kto.jsonl holds no problem"),
    ("half.jsonl", b'{"question": 1, "pear": 2}',
     "half.jsonl holds no problem with an answer: expected problem, answer"),
]  # fmt: skip


@pytest.mark.parametrize("name, content, message", FILES)
def test_a_message_names_the_file_and_the_row(tmp_path, name, content, message):
    """Bug: a traceback, or an error that is always in line 1, without the file's name."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        load_problems(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_comma_without_quotes_is_told(tmp_path):
    """Bug: "What is 1,000 + 1?,1001" is read as "What is 1" with the answer "000 + 1?"."""
    file = tmp_path / "a.csv"
    file.write_text("problem,answer\nx,3\nWhat is 1,000 + 1?,1001\n")
    with pytest.raises(ValueError, match=r"a\.csv.*line 3"):
        load_problems(file)


def test_the_list_of_rows_is_found_behind_others(tmp_path):
    """Bug: {"authors": ["me"], "examples": [...]} is read as the list of authors."""
    path = tmp_path / "a.json"
    path.write_text('{"authors": ["me"], "examples": [{"problem": "p", "answer": "4"}]}')
    assert [one["answer"] for one in load_problems(path)] == ["4"]


@pytest.mark.parametrize("options, gold, text", [
    ([None, "y", "z"], 1, "y"), ([None, "y", "z"], "(b)", "y"), (["x", None, "z"], "c.", "z"),
    (["x", "y", ""], "B", "y"),
])  # fmt: skip
def test_an_option_that_is_missing_moves_no_gold(tmp_path, options, gold, text):
    """Bug: without the first option, the gold 1 or (b) is the third; "" is shown as an option."""
    found = read({"question": "p", "choices": options, "answer": gold}, tmp_path)
    assert found["options"][ord(found["answer"]) - ord("A")] == text and "" not in found["options"]


@pytest.mark.parametrize("error", [-1, "inf", "nan"])
def test_a_tolerance_that_is_none_is_left_out(tmp_path, error):
    """Bug: with an error of "inf" every number is right."""
    found = read({"question": "p", "final_answer": ["2"], "error": error}, tmp_path)
    assert (found["kind"], found["error"]) == ("math", None)


def test_an_instruction_stands_before_its_input(tmp_path):
    """Bug: of {"instruction": "Solve.", "input": "x + 1 = 2"} a model sees the input alone."""
    row = {"instruction": "Solve.", "input": "x + 1 = 2", "answer": "1"}
    assert read(row, tmp_path)["problem"] == "Solve.\n\nx + 1 = 2"


@pytest.mark.parametrize("context, text", [
    (["Tom is 9.", "Ann is 7."], "Tom is 9.\nAnn is 7."), ({"text": "Tom is 9."}, "Tom is 9."),
    ({"contexts": ["Tom is 9."], "reasoning_required_pred": ["y", "e", "s"]}, "Tom is 9."),
    ({"title": ["T", "A"], "sentences": [["Tom", "is 9."], ["Ann"]]}, "T\nTom\nis 9.\nA\nAnn"),
])  # fmt: skip
def test_a_passage_in_parts_stands_before_its_question(tmp_path, context, text):
    """Bug: HotpotQA's question asked without its passages, in silence."""
    row = {"context": context, "question": "Who is older?", "answer": "Tom"}
    for name in ("own.jsonl", "own.parquet"):
        assert read(row, tmp_path, name)["problem"] == f"{text}\n\nWho is older?"


def test_a_conversation_as_a_text_keeps_its_words(tmp_path):
    """Bug: commas put between quoted words of a question, for lists that numpy printed."""
    told = json.dumps([{"role": "user", "content": "Compare 'a' 'b'"}])
    assert read({"messages": told, "answer": "4"}, tmp_path)["problem"] == "Compare 'a' 'b'"


def test_bytes_of_a_parquet_file_are_text(tmp_path):
    """Bug: a column of bytes is read as "b'...'"."""
    table = pyarrow.table({"problem": ["2 \u00d7 2".encode()], "answer": [b"4"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    (found,) = load_problems(tmp_path / "a.parquet")
    assert (found["problem"], found["answer"]) == ("2 \u00d7 2", "4")


def test_a_parquet_file_says_what_was_written(tmp_path):
    """Bug: 0.1 in float32 is the gold 0.10000000149011612; a map is read as pairs."""
    options = pyarrow.array([[("A", "u"), ("B", "v")]], pyarrow.map_("string", "string"))
    columns = {"answer": pyarrow.array([0.1], "float32"), "gold": pyarrow.array([[0.1, 7]]),
               "target": pyarrow.array([0.1], "float32").cast("float16"), "options": options}
    columns["gold"] = columns["gold"].cast(pyarrow.list_(pyarrow.float32()))
    table = pyarrow.table({"problem": ["p"], **columns})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    ((_, row),) = read_rows(tmp_path / "a.parquet")
    assert (row["answer"], row["gold"], row["target"]) == (0.1, [0.1, 7.0], 0.1)
    assert row["options"] == {"A": "u", "B": "v"}


@pytest.mark.parametrize("columns, message", [
    ({"answer": pyarrow.array([2**40], pyarrow.timestamp("s"))}, "date value"),
    ({"options": pyarrow.array([[("A", "u"), ("A", "v")]], pyarrow.map_("string", "string"))}, "A"),
    ({"answer": ["1"], "answer ": ["2"]}, "two columns answer"),
])  # fmt: skip
def test_a_parquet_file_that_cannot_be_read_is_named(tmp_path, columns, message):
    """Bug: the traceback of a date far off; of two columns of one name the last is read."""
    names = [name.strip() for name in ("problem", *columns)]
    table = pyarrow.table([pyarrow.array(["p"]), *columns.values()], names=names)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=f"cannot be read: .*a.parquet.*: .*{message}"):
        load_problems(tmp_path / "a.parquet")
