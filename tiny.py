"""The embedded small world: problems, a corpus that explains them badly, a tokenizer, a base model.

A problem is a chain of arithmetic modulo 7; a solution works it step by step, pieces separated by
blank lines (¶):

    Start with 5. Step 1: *4. Step 2: +2. What is the result modulo 7?
    Step 1: 5*4=3. ¶ Wait, Step 1: 5*4=20=6. ¶ Step 2: 6+2=1. ¶ The answer is \\boxed{1}.

Nobody labels the corpus: its authors slip. Each step is written with a wrong value with some
chance, and a few *hard facts* are usually written wrong. Now and then an author does a step again
("Wait, ..."), or does it another way ("Alternatively, ..."): then the number before the remainder
is written too, and the value is nearly always right. Nobody looks again more often at a slip than
at a right step. A small Llama trained on that from nothing behaves like a big base model before RL:
it solves some problems, fails by a slip or two, rarely looks back although that would help, and
knows more than it shows (pass@8 far above Avg@8).

1. 70 % of the documents hold the question, rendered by the chat template; 30 % are BOS, solution,
   EOS, so that P(y) with the prompt removed is a trained distribution, as after pre-training.
2. The corpus has longer chains than RL trains on, so `test_long.jsonl` asks for generalisation and
   not for a miracle; `test_mix.jsonl` multiplies more often.
3. What is built is a plain Hugging Face folder, used by the other files as a downloaded model is.

    python tiny.py         # builds the world once (about a minute on one core), then shows it
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from tqdm import tqdm
from transformers import LlamaConfig, PreTrainedTokenizerFast

import reward
from model import CausalLM
from plumbing.checkpoints import load_model, save_model

PAD, BOS, EOS, USER, ASSISTANT = "<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
OPERATORS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


@dataclass(frozen=True)
class World:
    """Everything that decides what is built.

    Chances are probabilities in [0, 1]; steps are (fewest, most) per chain.
    """

    modulus: int = 7
    steps: tuple[int, int] = (2, 4)  # train.jsonl and test.jsonl
    long_steps: tuple[int, int] = (5, 6)  # test_long.jsonl; the corpus has both ranges
    mix: str = "****+-"  # operators of test_mix.jsonl, drawn from evenly; elsewhere from "+-*"
    train_problems: int = 4096
    test_problems: int = 256  # in each test file
    hard_share: float = 0.2  # of facts that authors usually get wrong, all in the same way
    hard_slip: float = 0.6
    easy_slip: float = 0.2  # any other fact, off by one
    look_again: float = 0.1  # a step, right or wrong, is done a second time
    care: float = 0.05  # a second look slips this many times as often as the first
    another_way: float = 0.25  # of second looks start with "Alternatively" and go another way
    unprompted: float = 0.3  # documents without their question
    tokens: int = 1_200_000  # training tokens, padding not counted
    batch_tokens: int = 512
    learning_rate: float = 3e-3
    width: int = 96
    layers: int = 3


# --------------------------------------------------------------------------------------------------
# Problems and the corpus that explains them


def make_facts(world, rng):
    """Every single step: (a, operator, b) -> (right value, what a slip gives, chance of a slip)."""
    facts = {}
    for a in range(world.modulus):
        for b in range(1, world.modulus):
            for operator, compute in OPERATORS.items():
                right = compute(a, b) % world.modulus
                if rng.random() < world.hard_share:
                    wrong = (right + rng.randrange(1, world.modulus)) % world.modulus
                    slip = world.hard_slip
                else:
                    wrong, slip = (right + rng.choice((-1, 1))) % world.modulus, world.easy_slip
                facts[a, operator, b] = right, wrong, slip
    return facts


def another_way(a, operator, b, modulus):
    """The same step done differently: factors swapped, or the complement subtracted or added."""
    if operator == "*":
        return (b, "*", a) if a else (a, "*", b)  # facts have no zero on the right
    return a, "-" if operator == "+" else "+", modulus - b


def make_chain(world, steps, rng, operators="+-*"):
    """(start, ((operator, number), ...)) with steps[0] to steps[1] operations."""
    count = rng.randint(*steps)
    operations = [(rng.choice(operators), rng.randrange(1, world.modulus)) for _ in range(count)]
    return rng.randrange(world.modulus), tuple(operations)


def question(chain, modulus):
    start, operations = chain
    steps = "".join(f". Step {i}: {operator}{b}" for i, (operator, b) in enumerate(operations, 1))
    return f"Start with {start}{steps}. What is the result modulo {modulus}?"


def solve(chain, modulus):
    value, operations = chain
    for operator, b in operations:
        value = OPERATORS[operator](value, b) % modulus
    return value


def write_solution(chain, facts, world, rng):
    """What one author writes, slips and second looks included; a step's last value counts."""
    value, operations = chain
    pieces = []
    for number, (operator, b) in enumerate(operations, 1):
        step, opening = (value, operator, b), ""
        while True:
            right, wrong, slip = facts[step]
            value = wrong if rng.random() < slip * (world.care if opening else 1) else right
            worked = f"{OPERATORS[step[1]](step[0], step[2])}=" if opening else ""
            pieces.append(f"{opening}Step {number}: {step[0]}{step[1]}{step[2]}={worked}{value}.")
            if rng.random() >= world.look_again:
                break
            opening = "Wait, "
            if rng.random() < world.another_way:
                step, opening = another_way(*step, world.modulus), "Alternatively, "
    return "\n\n".join([*pieces, f"The answer is \\boxed{{{value}}}."])


def make_document(problem, solution):
    """The exact text a trained chat would be; `problem` None gives BOS, solution, EOS."""
    return f"{BOS}{USER}{problem}{ASSISTANT}{solution}{EOS}" if problem else f"{BOS}{solution}{EOS}"


# --------------------------------------------------------------------------------------------------
# Tokenizer and base model


def make_tokenizer(modulus, most_steps):
    """One token per number, operation ("*4"), value ("=6") or set phrase. Every character of a text
    lies in exactly one token, blank lines too, so decoding is plain joining and gives the text
    back; text from outside the world becomes <pad>, the unknown.
    """
    labels = [f"Step {number}: " for number in range(1, most_steps + 1)]
    values = range(1 - modulus, (modulus - 1) ** 2 + 1)  # before the remainder is taken
    words = [
        "Start with ", f". What is the result modulo {modulus}?", *(f". {step}" for step in labels),
        "Wait, ", "Alternatively, ", "The answer is \\boxed{", "}.", ".\n\n", *labels,
        *(str(number) for number in range(modulus)), *(f"={value}" for value in values),
        *(f"{operator}{number}" for operator in OPERATORS for number in range(modulus)),
    ]  # fmt: skip
    special = [PAD, BOS, EOS, USER, ASSISTANT]
    vocabulary = {word: index for index, word in enumerate([*special, *words])}
    # Longest first: an alternation takes the first branch that fits; "=12" must not be "=1", "2".
    pattern = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, unk_token=PAD,
        additional_special_tokens=[USER, ASSISTANT], chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def make_model(world, tokenizer, generator):
    """A Llama of about 0.3 million parameters with random weights."""
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=world.width, num_hidden_layers=world.layers,
        intermediate_size=256, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )
    model = CausalLM(config)
    for parameter in model.parameters():
        if parameter.ndim == 2:  # norms keep their ones
            # 1 / sqrt(inputs): with GPT-2's 0.02 a model this narrow learned the format of a
            # solution and no content
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5, generator=generator)
    return model


def make_batches(rows, batch_tokens, rng):
    """Lists of rows of similar length, each of about `batch_tokens` tokens, in random order."""
    rows = sorted(rows, key=lambda row: (len(row), rng.random()))
    batches, batch = [], []
    for row in rows:
        if (len(batch) + 1) * len(row) > batch_tokens:
            batches.append(batch)
            batch = []
        batch.append(row)
    batches.append(batch)
    rng.shuffle(batches)
    return batches


def pretrain(model, batches, pad_id, learning_rate, quiet):
    """Next-token prediction over every token; AdamW, 5 % warm-up, then a straight line to 0."""
    parameters, rate = model.parameters(), learning_rate
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.95), weight_decay=0.01)
    warm_up = max(1, len(batches) // 20)
    bar = tqdm(batches, desc="pre-training the tiny base", disable=quiet, leave=False)
    for step, batch in enumerate(bar):
        longest = max(len(row) for row in batch)
        ids = torch.tensor([row + [pad_id] * (longest - len(row)) for row in batch])  # (B, T)
        # causal, so padding on the right changes nothing before it
        hidden = model(ids[:, :-1])  # (B, T-1, D)
        logits = model.lm_head(hidden).flatten(0, 1)  # (B*(T-1), V)
        loss = F.cross_entropy(logits, ids[:, 1:].flatten(), ignore_index=pad_id)
        for group in optimizer.param_groups:
            left = (len(batches) - step) / len(batches)
            group["lr"] = learning_rate * min((step + 1) / warm_up, left)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 0:  # a number to watch, not worth a device sync each step
            bar.set_postfix(loss=f"{loss.item():.3f} nats/token")


# --------------------------------------------------------------------------------------------------
# The cached folder


def make_problems(world, rng):
    """{file name: problems}, every chain different from every other, in any of the files."""
    kinds = {  # how many, how long, which operators
        "train": (world.train_problems, world.steps, "+-*"),
        "test": (world.test_problems, world.steps, "+-*"),
        "test_long": (world.test_problems, world.long_steps, "+-*"),
        "test_mix": (world.test_problems, world.steps, world.mix),
    }
    seen, files = set(), {}
    for name, (count, steps, operators) in kinds.items():
        problems = []
        while len(problems) < count:
            chain = make_chain(world, steps, rng, operators)
            if chain not in seen:
                seen.add(chain)
                answer = str(solve(chain, world.modulus))
                asked = question(chain, world.modulus)
                problems.append({"problem": asked, "answer": answer, "kind": "tiny"})
        files[name] = problems
    return files, seen


def make_corpus(world, rng, tokenizer, reserved):
    """Token ids of documents, about world.tokens in all; no chain of `reserved` is among them."""
    facts, rows, total = make_facts(world, rng), [], 0
    while total < world.tokens:
        chain = make_chain(world, world.steps if rng.random() < 0.5 else world.long_steps, rng)
        if chain in reserved:
            continue
        problem = None if rng.random() < world.unprompted else question(chain, world.modulus)
        document = make_document(problem, write_solution(chain, facts, world, rng))
        rows.append(tokenizer(document, add_special_tokens=False).input_ids)
        total += len(rows[-1])
    return rows


def cache_folder(world, seed, cache_dir):
    """Where this world is kept: a hash of the settings and of this file down to the study, so that
    a changed world is built anew.
    """
    source = Path(__file__).read_text().partition("\n# The study")[0]
    settings = json.dumps(asdict(world), sort_keys=True) + str(seed) + source
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    root = Path(cache_dir or home / "dsrl")
    return root / f"tiny-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"


def build(cache_dir=None, seed=0, quiet=False, world=None) -> str:
    """The folder of the base model, its tokenizer and train, test and test_long.jsonl. Built once.

    One thread: matrices of width 96 gain nothing from a second, and one thread gives the same
    weights on every run.
    """
    world = world or World()
    target = cache_folder(world, seed, cache_dir)
    if target.is_dir():
        return str(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix="building-", dir=target.parent))
    except OSError as error:
        raise ValueError(
            f"cannot write to {target.parent} ({error.strerror}): "
            "set XDG_CACHE_HOME to a folder of yours"
        ) from error
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
        tokenizer = make_tokenizer(world.modulus, world.long_steps[1])
        files, reserved = make_problems(world, rng)
        for name, problems in files.items():
            lines = "".join(json.dumps(problem) + "\n" for problem in problems)
            (partial / f"{name}.jsonl").write_text(lines)
        if not quiet:
            print(f"building the tiny world, once, in {target}")
        rows = make_corpus(world, rng, tokenizer, reserved)
        model = make_model(world, tokenizer, generator)
        batches = make_batches(rows, world.batch_tokens, rng)
        pretrain(model, batches, tokenizer.pad_token_id, world.learning_rate, quiet)
        model.eos_ids = (tokenizer.eos_token_id,)
        save_model(model, tokenizer, partial)
        if not target.exists():  # another process may have been faster
            os.replace(partial, target)
    finally:
        torch.set_num_threads(threads)
        shutil.rmtree(partial, ignore_errors=True)
    return str(target)


# --------------------------------------------------------------------------------------------------
# Show it


def sample_test(folder, model, tokenizer, limit=None, seed=0):
    """(problems of test.jsonl, a Rollout of 8 responses to each)."""
    from plumbing.benchmarks import encode_prompt, load_problems  # these files need this one
    from rollout import generate

    problems = load_problems(f"{folder}/test.jsonl", limit=limit)
    prompts = [encode_prompt(tokenizer, problem) for problem in problems]
    options = dict(group_size=8, max_new_tokens=128, eos_ids=model.eos_ids, seed=seed)
    return problems, generate(model, prompts, progress="sampling", **options)


def show(count):
    """Documents of the corpus, responses of the base, and how often they are right."""
    folder, world, rng = Path(build()), World(), random.Random(0)
    make_problems(world, rng)  # the draws before those of the facts, as in `build` with seed 0
    facts = make_facts(world, rng)
    for _ in range(count):
        chain = make_chain(world, world.steps, rng)
        solution = write_solution(chain, facts, world, rng)
        document = make_document(question(chain, world.modulus), solution)
        print(f"--- a document of the corpus ---\n{document}\n")
    model, tokenizer = load_model(folder)
    problems, rollout = sample_test(folder, model, tokenizer)
    texts = rollout.response_texts(tokenizer)
    grades = [reward.score(text, problems[row // 8]["answer"]) for row, text in enumerate(texts)]
    rewards = torch.tensor(grades).view(-1, 8)  # (P, G)
    for problem in range(count):
        print(f"--- {problems[problem]['problem']}  (answer {problems[problem]['answer']}) ---")
        for sample in range(4):
            print(f"[{rewards[problem, sample]:.0f}] {texts[8 * problem + sample]!r}")
        print()
    size = sum(parameter.numel() for parameter in model.parameters())
    average, passed = rewards.mean(), rewards.amax(1).mean()
    print(f"{folder}\n{size:,} parameters; {len(problems)} test problems: "
          f"Avg@8 {average:.3f}, pass@8 {passed:.3f}")  # fmt: skip
    assert 0.1 < average < passed, "the base must solve some problems, and more in several tries"


# --------------------------------------------------------------------------------------------------
# The study: the paper's claims in this world, all variants, several seeds; STUDY.md tells it

STEPS, WARM_UP = 80, 20  # updates of a run; those after which the pre-train space is judged
RUNS = {  # name in the tables: flags of dsrl.py
    "GRPO": "--variant grpo", "NSR-RL": "--variant nsr-rl", "PSR-RL": "--variant psr-rl",
    "PreRL": "--variant prerl", "NSR-PreRL": "--variant nsr-prerl",
    "PSR-PreRL": "--variant psr-prerl", "DSRL-5": "--prerl-steps 5",
    "DSRL-10": "--prerl-steps 10", "DSRL-20": "--prerl-steps 20",
}  # fmt: skip
WORLDS = {  # one property of the world changed at a time
    "as it is": {},
    "a second look slips as often as a first": {"care": 1.0},
    "no document without its question": {"unprompted": 0.0},
    "most documents without their question": {"unprompted": 0.7},
    "no hard facts": {"hard_share": 0.0, "easy_slip": 0.28},
    "few slips": {"hard_share": 0.05, "easy_slip": 0.12},
}
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # Student's t, 1, 2, ...


def train_and_evaluate(job):
    """One run of dsrl.py, and its Avg@8 on the files of `outside`; kept as study.json in `out`."""
    out, base, seed, steps, flags, outside = job
    if (out / "study.json").is_file():
        return json.loads((out / "study.json").read_text())
    shutil.rmtree(out, ignore_errors=True)  # what a stopped study left half done
    train = ["dsrl.py", "--preset", "tiny", "--model", base, *flags.split(), "--out", out]
    train += ["--data", f"{base}/train.jsonl", "--eval-data", f"{base}/test.jsonl"]
    train += ["--steps", steps, "--seed", seed, "--eval-every", 20, "--save-every", steps]
    tasks = ",".join(f"{base}/{name}.jsonl" for name in outside)
    test = ["eval.py", "--model", out / f"checkpoint-{steps}", "--tasks", tasks, "--limit", 128]
    test += ["--k", 8, "--temperature", 1, "--max-new-tokens", 128, "--out", out / "outside"]
    for command in (train, test) if outside else (train,):
        words = [sys.executable, *map(str, command)]
        how = dict(capture_output=True, text=True, cwd=Path(__file__).parent)
        ended = subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, **how)
        if ended.returncode:
            raise RuntimeError(f"{' '.join(words)} failed:\n{ended.stderr[-2000:]}")
    result = read_run(out)
    (out / "study.json").write_text(json.dumps(result))
    shutil.rmtree(out / f"checkpoint-{steps}")
    return result


def read_run(out):
    """What the tables need of one run: evaluations, what was spent before each, Avg@8 outside."""
    from plumbing.records import read_lines

    lines = read_lines(out / "metrics.jsonl")
    updates = [line for line in lines if "reward" in line]
    parts = ("seconds_sample", "seconds_grade", "seconds_update")
    tokens = list(accumulate((line["tokens_forward"] for line in updates), initial=0))
    seconds = list(accumulate((sum(line[part] for part in parts) for line in updates), initial=0.0))
    curve = [{**line, "tokens": tokens[line["step"]], "seconds": seconds[line["step"]]}
             for line in lines if "avg_at_k" in line]  # fmt: skip
    results = out / "outside" / "results.json"
    tasks = json.loads(results.read_text())["tasks"] if results.is_file() else {}
    outside = {Path(task).stem: summary["avg_at_k"] for task, summary in tasks.items()}
    return {"curve": curve, "outside": outside}


def at(run, step, key):
    """A figure of the evaluation after `step` updates."""
    return next(record[key] for record in run["curve"] if record["step"] == step)


def at_budget(run, kind, budget):
    """Avg@8 where the run had spent `budget` tokens or seconds, between its evaluations."""
    for before, after in pairwise(run["curve"]):
        if before[kind] <= budget < after[kind]:
            share = (budget - before[kind]) / (after[kind] - before[kind])
            return before["avg_at_k"] + share * (after["avg_at_k"] - before["avg_at_k"])
    return run["curve"][-1]["avg_at_k"]


def interval(values):
    """(mean, half width) of the 95 % confidence interval over seeds."""
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return mean, float("nan")
    return mean, T_95[count - 2] * statistics.stdev(values) / count**0.5


def show_interval(values, form=".3f"):
    mean, half = interval(values)
    return f"{mean:{form}} ± {half:.3f}"


def table(title, heading, rows):
    lines = [f"\n### {title}\n", "| " + " | ".join(heading) + " |", "| --- " * len(heading) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def study_variants(run_jobs, folder, seeds, steps):
    """All variants from one base. Returns the tables as text and the runs for the figure."""
    base, files = build(quiet=True), ("test_long", "test_mix")
    names = [(name, seed) for name in RUNS for seed in range(seeds)]
    done = run_jobs([(folder / f"{name}-{seed}", base, seed, steps, RUNS[name], files)
                     for name, seed in names])  # fmt: skip
    runs = {name: done[i * seeds : (i + 1) * seeds] for i, name in enumerate(RUNS)}
    budgets = {kind: min(run["curve"][-1][kind] for run in done) for kind in ("tokens", "seconds")}
    keys = ("avg_at_k", "pass_at_k", "reflection", "transition", "length")
    start = ([at(run, 0, key) for run in done[:seeds]] for key in keys)
    rows = [["base", *map(show_interval, start), *[""] * 4]]
    for name, group in runs.items():
        figures = [[at(run, steps, key) for run in group] for key in keys]
        figures += [[run["outside"][file] for run in group] for file in files]
        figures += [[at_budget(run, kind, budgets[kind]) for run in group] for kind in budgets]
        rows.append([name, *map(show_interval, figures)])
    title = f"After {steps} updates, mean and 95 % interval over {seeds} seeds"
    text = table(title, ["", *keys, *files, *(f"at equal {kind}" for kind in budgets)], rows)
    text += f"\n\nEqual tokens: {budgets['tokens']:,.0f} fed to the model in training; "
    text += f"equal wall time: {budgets['seconds']:.0f} s: the most that every run reached."
    return text + claims(runs, steps, alignment(base, seeds)), runs


def alignment(base, seeds):
    """cos(grad log P(y), grad log P(y | x)) of the base, on 16 test problems x 8 for each seed."""
    from plumbing.alignment import gradient_alignment
    from prerl import start_token_of

    model, tokenizer = load_model(base)
    start_token = start_token_of(tokenizer, model.config.vocab_size)
    rollouts = (sample_test(base, model, tokenizer, 16, seed)[1] for seed in range(seeds))
    return [gradient_alignment(model, rollout, start_token)["whole_model"] for rollout in rollouts]


def claims(runs, steps, cosines):
    """The paper's claims as differences with intervals, and a verdict on each."""
    early = min(WARM_UP, steps)

    def gain(name, key):  # since the start, seed by seed
        return [at(run, early, key) - at(run, 0, key) for run in runs[name]]

    def ahead(name, other, file=None):  # of the other at the end, seed by seed
        def end(run):
            return run["outside"][file] if file else at(run, steps, "avg_at_k")

        pairs = zip(runs[name], runs[other], strict=True)
        return [end(run) - end(reference) for run, reference in pairs]

    reflection = zip(gain("NSR-PreRL", "reflection"), gain("GRPO", "reflection"), strict=True)
    more = [ours - theirs for ours, theirs in reflection]
    stated = [  # claim, the sign that the paper reports, values by seed
        ("1 the cosine of both gradients is above 0", 1, cosines),
        (f"2 NSR-PreRL raises Avg@8 in {early} updates", 1, gain("NSR-PreRL", "avg_at_k")),
        (f"2 PSR-PreRL lowers it in {early} updates", -1, gain("PSR-PreRL", "avg_at_k")),
        (f"3 NSR-PreRL raises reflection in {early} updates", 1, gain("NSR-PreRL", "reflection")),
        (f"3 and transitions in {early} updates", 1, gain("NSR-PreRL", "transition")),
        ("3 more reflection than GRPO's by then", 1, more),
        ("4 DSRL-10 ends above GRPO", 1, ahead("DSRL-10", "GRPO")),
        ("4 on longer chains too", 1, ahead("DSRL-10", "GRPO", "test_long")),
        ("4 with other operators too", 1, ahead("DSRL-10", "GRPO", "test_mix")),
        ("5 NSR-PreRL for all updates ends below GRPO", -1, ahead("NSR-PreRL", "GRPO")),
        ("5 DSRL-20 ends below DSRL-10", -1, ahead("DSRL-20", "DSRL-10")),
    ]
    rows = [[claim, show_interval(values, "+.3f"), verdict(values, sign)]
            for claim, sign, values in stated]  # fmt: skip
    return "\n" + table("The claims", ["claim", "difference", "verdict"], rows)


def verdict(values, sign):
    mean, half = interval(values)
    if not abs(mean) > half:  # NaN, one seed, too
        return "not reproduced: no difference seen"
    return "reproduced" if mean * sign > 0 else "opposite"


def study_worlds(run_jobs, folder, seeds, steps):
    """What decides? Change of Avg@8 and reflection in short runs, one property at a time."""
    names, rows = ("NSR-PreRL", "NSR-RL", "GRPO"), []
    for place, (title, changes) in enumerate(WORLDS.items()):
        base = build(quiet=True, world=World(**changes))
        done = run_jobs([(folder / f"world{place}-{name}-{seed}", base, seed, steps, RUNS[name], ())
                         for name in names for seed in range(seeds)])  # fmt: skip
        for key in ("avg_at_k", "reflection"):
            gains = [at(run, steps, key) - at(run, 0, key) for run in done]
            cells = [gains[i * seeds : (i + 1) * seeds] for i in range(len(names))]
            shown = [show_interval(cell, "+.3f") for cell in cells]
            rows.append([title, key, f"{at(done[0], 0, key):.3f}", *shown])
    heading = ["world", "figure", "base", *names]
    return "\n" + table(f"One property at a time: change in {steps} updates", heading, rows)


def draw_study(runs, path):
    """Avg@8 and reflection over updates, mean and interval over seeds."""
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(15, 4.5))
    axes = figure.subplots(1, 3)
    panels = (("avg_at_k", "Avg@8"), ("reflection", "reflection per response"),
              ("length", "response tokens"))  # fmt: skip
    for color, (name, group) in enumerate(runs.items()):
        steps = sorted(set.intersection(*({r["step"] for r in run["curve"]} for run in group)))
        for axis, (key, label) in zip(axes, panels, strict=True):
            ends = [interval([at(run, step, key) for run in group]) for step in steps]
            axis.plot(steps, [mean for mean, _ in ends], ".-", color=f"C{color}", label=name)
            low, high = zip(*((mean - half, mean + half) for mean, half in ends), strict=True)
            axis.fill_between(steps, low, high, color=f"C{color}", alpha=0.12)
            axis.set(xlabel="updates", ylabel=label)
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def study(folder, quick):
    """Run what is not done yet, two tables and a figure in `folder`; stopped, it goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds, few, steps, short = (2, 1, 8, 4) if quick else (5, 3, STEPS, WARM_UP)

    def run_jobs(jobs):
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(tqdm(pool.map(train_and_evaluate, jobs), total=len(jobs), desc="runs"))

    text, runs = study_variants(run_jobs, folder, seeds, steps)
    draw_study(runs, folder / "study.png")
    (folder / "study.md").write_text(text + "\n")
    text += study_worlds(run_jobs, folder, few, short)
    (folder / "study.md").write_text(text + "\n")
    print(f"{text}\n\n{folder}/: study.md, study.png and the runs")


def main(argv=None):
    parser = argparse.ArgumentParser(description="Build the tiny world (once) and show it.")
    parser.add_argument("--problems", type=int, default=2, help="problems to show")
    parser.add_argument("--study", action="store_true", help="the paper's claims, about an hour")
    parser.add_argument("--quick", action="store_true", help="the study in minutes, to try it")
    parser.add_argument("--out", type=Path, default=Path("out-study"), help="folder of the study")
    args = parser.parse_args(argv)
    study(args.out, args.quick) if args.study else show(args.problems)


if __name__ == "__main__":
    main()
