"""Sample k responses to each of N problems, grade them, and the numbers that papers report.

With c of the k responses to a problem right, which is a grade of 1 and nothing below,

    Avg@k       mean of all grades, those between 0 and 1 of a verifier of one's own included;
                its standard error is over problems: std(means) / sqrt(N)
    pass@j      1 - C(k - c, j) / C(k, j), unbiased for j <= k   (Chen et al., arXiv 2107.03374)
    majority@k  is the answer given most often right? equal answers are one
    thoughts    reflections and transitions, by the keyword rule of SEAL (arXiv 2504.07986)
"""

import math
import re
from statistics import fmean

import torch

from plumbing.grading import answer_in, grade_all, is_right
from plumbing.prompts import encode_prompt, response_ends
from rollout import generate
from tiny import OPERATORS

THOUGHTS = {  # the first that is found in a piece names it
    "reflection": r"\Await|verify|make sure|hold on|think again|'s correct|'s incorrect|"
                  r"let me check|seems right",
    "transition": r"\Aalternatively|think differently|"
                  r"another (?:way|approach|method|solution|strategy|technique)",
    "execution": r"\S"}  # fmt: skip


def count_thoughts(text):
    """{name of THOUGHTS: how many pieces of a response, cut at blank lines, are so}."""
    names = []
    for piece in re.split(r"\n\s*\n", text.lower().replace("’", "'")):
        found = (name for name, rule in THOUGHTS.items() if re.search(rule, piece.strip()))
        names.append(next(found, None))
    return {name: names.count(name) for name in THOUGHTS}


MODULUS = re.compile(r"modulo (\d+)")
# A step as a question states it: number, operator, b; and as a solution works it: opening, number,
# a, operator, b, value.
OPERATION = re.compile(r"Step (\d+): ([-+*])(\d+)")
STEP = re.compile(r"(Wait, |Alternatively, )?Step (\d+): (\d+)([-+*])(\d+)=(?:-?\d+=)?(\d+)\.")


def look_figures(rows):
    """What looking again does in responses to this world's problems; rows as `evaluate` gives.

    Shares in [0, 1], None where there is nothing to count: of first looks that read their operation
    rightly from the question, and that work it out rightly; of second looks that change the value,
    and that mend it (wrong before, right after); of responses with a second look, and right ones
    among those.
    """
    names = "reads_right first_look_right look_changes look_mends right_after_look".split()
    figures = {name: [] for name in names}
    for row in rows:
        modulus, asked = MODULUS.search(row["problem"]), OPERATION.findall(row["problem"])
        if not modulus:  # a user's own problem that calls itself tiny
            continue
        value, steps = None, STEP.findall(row["response"])
        for opening, number, a, operator, b, result in steps:
            right = OPERATORS[operator](int(a), int(b)) % int(modulus[1])
            before, value = value, int(result)
            if opening:
                figures["look_changes"].append(value != before)
                figures["look_mends"].append(before != right == value)
            else:
                figures["reads_right"].append((number, operator, b) in asked)
                figures["first_look_right"].append(value == right)
        if any(opening for opening, *_ in steps):
            figures["right_after_look"].append(row["correct"])
    shares = {name: fmean(values) if values else None for name, values in figures.items()}
    return shares | {"looks_again": len(figures["right_after_look"]) / len(rows)}


def avg_at_k(correct):
    """(N, k) grades -> their mean, a fraction in [0, 1]."""
    return torch.as_tensor(correct, dtype=torch.float64).mean().item()


def standard_error(correct):
    """(N, k) grades -> standard error of avg_at_k over problems; 0.0 for a single problem."""
    means = torch.as_tensor(correct, dtype=torch.float64).mean(1)  # (N,), the independent draws
    return (means.std() / math.sqrt(len(means))).item() if len(means) > 1 else 0.0


def pass_at_k(n, c, k):
    """Chance that k of n responses, c of them right, hold a right one: 1 - C(n-c, k) / C(n, k)."""
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(f"pass@{k} of {n} responses, {c} right: needs 1 <= k <= n, 0 <= c <= n")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def majority(problem, rows):
    """1.0 if the answer given most often is right; no answer is no vote; the first wins a tie."""
    groups, alike = [], {**problem, "alternatives": None}  # groups: of rows with one answer
    for row in [row for row in rows if row["answer"] is not None]:
        for group in groups:
            if is_right({**alike, "answer": group[0]["answer"]}, row["answer"]):
                group.append(row)
                break
        else:
            groups.append([row])
    return float(bool(groups) and max(groups, key=len)[0]["correct"] >= 1)


def thought_rates(rows, name):
    """How often these responses reflect or change course, and the share that do at all."""
    total, tokens = sum(row[name] for row in rows), sum(row["tokens"] for row in rows)
    having, count = sum(row[name] > 0 for row in rows), max(1, len(rows))
    return {"per_response": total / count, "share": having / count,
            "per_1000_tokens": 1000 * total / max(1, tokens)}  # fmt: skip


def rounded(value):
    """A figure, or a dict of figures, to four places."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def summarize(problems, rows, k):
    """All figures, shares in [0, 1] and tokens, from N*k rows, the k of a problem adjacent."""
    of_problem = [rows[start : start + k] for start in range(0, len(rows), k)]
    correct = [[row["correct"] for row in part] for part in of_problem]  # (N, k)
    counts = [sum(grade >= 1 for grade in grades) for grades in correct]  # no partial credit
    sizes = sorted({2**i for i in range(k.bit_length())} | {k})  # 1, 2, 4, ... k
    right = [row for row in rows if row["correct"] >= 1]
    wrong = [row for row in rows if row["correct"] < 1]
    summary = {
        "problems": len(problems), "k": k,
        "avg_at_k": avg_at_k(correct),  # over all problems: the micro mean
        "avg_at_k_se": standard_error(correct),
        "pass_at_k": {j: fmean(pass_at_k(k, c, j) for c in counts) for j in sizes},
        "majority_at_k": fmean(map(majority, problems, of_problem)),
        "cut": fmean(not row["finished"] for row in rows),
        "no_answer": fmean(row["answer"] is None for row in rows),
        "length": fmean(row["tokens"] for row in rows),
        "thoughts": {
            name: {**thought_rates(rows, name), "right": thought_rates(right, name),
                   "wrong": thought_rates(wrong, name)}
            for name in ("reflection", "transition")
        },
    }  # fmt: skip
    if all(problem.get("kind") == "tiny" for problem in problems):
        summary |= look_figures(rows)
    groups = {}
    for problem, grades in zip(problems, correct, strict=True):
        groups.setdefault(problem.get("group"), []).append(grades)
    if None not in groups:
        summary["groups"] = {name: avg_at_k(grades) for name, grades in groups.items()}
        summary["macro_avg"] = fmean(summary["groups"].values())
    return summary


def evaluate(model, tokenizer, problems, *, k, max_new_tokens, template="chat", strict=False,
             grade_with=None, **sampling):  # fmt: skip
    """Sample k responses to each problem, all in one `generate`, and grade them.

    max_new_tokens  int; a row has less where its prompt leaves less room, down to no answer at all
    strict      bool, grade mathematics as the method's authors do: a box, compared as text
    grade_with  function (problems, responses) -> floats, such as that of training, for `grade`
    sampling    of `rollout.generate`: temperature, top_p, top_k, seed, progress, ...
    Returns     rows, a dict for each response, the k of a problem adjacent: `summarize` takes them
    """
    eos_ids, stops = response_ends(model, tokenizer, problems, template)
    prompts = [encode_prompt(tokenizer, problem, template) for problem in problems]
    rooms = [min(max_new_tokens, model.max_positions - len(ids)) for ids in prompts]
    # A prompt without room is sampled from its first token, so that the others keep their draws.
    rollout = generate(
        model, [ids if room > 0 else ids[:1] for ids, room in zip(prompts, rooms, strict=True)],
        group_size=k, max_new_tokens=[max(1, room) for room in rooms for _ in range(k)],
        eos_ids=eos_ids, tokenizer=tokenizer, stop_strings=stops, **sampling,
    )  # fmt: skip
    of_row = [problem for problem in problems for _ in range(k)]
    texts = rollout.response_texts(tokenizer)
    finished, tokens = rollout.finished.tolist(), rollout.response_mask.sum(1).tolist()
    for i in [i for i in range(len(texts)) if rooms[i // k] < 1]:
        texts[i], finished[i], tokens[i] = "", False, 0
    loose = not strict and grade_with is None
    grades = grade_with(of_row, texts) if grade_with else grade_all(of_row, texts, loose, strict)
    return [
        {
            "index": problem.get("index", i // k), "sample": i % k, "problem": problem["problem"],
            "ground_truth": problem["answer"], "response": texts[i],
            "answer": answer_in(problem, texts[i], loose), "correct": grades[i],
            "finished": finished[i], "tokens": tokens[i], **count_thoughts(texts[i]),
        }
        for i, problem in enumerate(of_row)
    ]  # fmt: skip
