"""The embedded small world: problems, a corpus that explains them badly, a tokenizer, a base model.

A problem is a chain of arithmetic modulo 7; a solution restates it and works it step by step,
pieces separated by blank lines (¶):

    Start with 5. Step 1: *4. Step 2: +2. What is the result modulo 7?
    Start with 5. Step 1: *4. Step 2: +2. ¶ Step 1: 5*4=3. ¶ Wait, Step 1: 5*4=20=6. ¶
    Step 2: 6+2=1. ¶ The answer is \\boxed{1}.

Nobody labels the corpus: its authors slip. Each step is written with a wrong value with some
chance, and *hard facts* always are, at first. Now and then an author does a step again
("Wait, ..."), or does it another way ("Alternatively, ..."): then the number before the remainder
is written too, and the value is nearly always right. Nobody looks again more often at a slip than
at a right step. A small Llama trained on that from nothing behaves like a big base model before RL:
it solves the problems without a hard fact, a third of all, rarely looks back although that would
help, and so solves hardly more of them in eight tries than in one.

1. 70 % of the documents hold the question, rendered by the chat template; 30 % are BOS, solution,
   EOS, so that P(y) with the prompt removed is a trained distribution, as after pre-training.
2. Looking again is a habit of documents without their question (30 % of the steps) that is rare
   after one (1 %): this is what an update on P(y) can bring out. STUDY.md says what else decides.
3. The corpus has longer chains than RL trains on, so `test_long.jsonl` asks for generalisation and
   not for a miracle; `test_mix.jsonl` multiplies more often.
4. What is built is a plain Hugging Face folder, used by the other files as a downloaded model is.

    python tiny.py         # builds the world once (about a minute on one core), then shows it
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from model import CausalLM

PAD, BOS, EOS, USER, ASSISTANT = "<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SHOWN = 32  # test problems that `python tiny.py` samples
WORLD_VERSION = 1  # Raise it when the code below builds something else from the same settings.
OPERATORS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


@dataclass(frozen=True)
class World:
    """Everything that decides what is built.

    Chances are probabilities in [0, 1]; steps are (fewest, most) per chain.
    """

    modulus: int = 7
    steps: tuple[int, int] = (2, 4)  # train.jsonl and test.jsonl
    long_steps: tuple[int, int] = (5, 6)  # test_long.jsonl; the corpus has both ranges
    mix: str = "****+-"  # test_mix.jsonl draws its operators from these, other files from "+-*"
    train_problems: int = 4096
    test_problems: int = 256  # in each test file
    hard_share: float = 0.4  # of facts that authors get wrong at first, all in the same way
    hard_slip: float = 1.0  # chance at a first look at a hard fact; at 1 the corpus cannot teach it
    easy_slip: float = 0.05  # chance at any other fact; these slips are off by one
    restate: bool = True  # a solution copies its chain first, and so stands without its question
    look_again: float = 0.01  # chance that a step, right or wrong, is done again, after a question
    look_again_unprompted: float = 0.3  # the same in documents without their question
    care: float = 0.03  # the chance of a slip is multiplied by this in a second look
    another_way: float = 0.25  # share of second looks that go another way ("Alternatively, ...")
    unprompted: float = 0.3  # share of documents without their question
    tokens: int = 1_200_000  # training tokens, padding not counted
    batch_tokens: int = 512
    learning_rate: float = 3e-3
    width: int = 96
    layers: int = 3


# The first world of this project: looking again is as frequent after a question as without one,
# and every fact can be learned.
OLD = World(
    hard_share=0.2, hard_slip=0.6, easy_slip=0.2, restate=False, look_again=0.1,
    look_again_unprompted=0.1, care=0.05,
)  # fmt: skip
NAMED_WORLDS = {  # what --model and --data call them
    "tiny": World(),
    "tiny-d98": World(hard_slip=0.98),  # now and then somebody gets a hard fact right at once
    "tiny-m": replace(OLD, look_again=0.02, look_again_unprompted=0.3),  # few after a question
    "tiny-h": World(  # first looks can be learned
        hard_slip=0.95, easy_slip=0.1, look_again=0.005, look_again_unprompted=0.5, unprompted=0.5
    ),
    "tiny-old": OLD,
}


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
        return (b, "*", a) if a else (a, "*", b)  # Facts have no zero on the right.
    return a, "-" if operator == "+" else "+", modulus - b


def make_chain(world, steps, rng, operators="+-*"):
    """(start, ((operator, number), ...)) with steps[0] to steps[1] operations."""
    count = rng.randint(*steps)
    operations = [(rng.choice(operators), rng.randrange(1, world.modulus)) for _ in range(count)]
    return rng.randrange(world.modulus), tuple(operations)


def state(chain):
    """The chain in words, as a question begins and as an author may restate it."""
    start, operations = chain
    steps = "".join(f". Step {i}: {operator}{b}" for i, (operator, b) in enumerate(operations, 1))
    return f"Start with {start}{steps}."


def question(chain, modulus):
    return f"{state(chain)} What is the result modulo {modulus}?"


def solve(chain, modulus):
    value, operations = chain
    for operator, b in operations:
        value = OPERATORS[operator](value, b) % modulus
    return value


def write_solution(chain, facts, world, rng, prompted=True):
    """What one author writes, slips and second looks included; a step's last value counts."""
    value, operations = chain
    look_again = world.look_again if prompted else world.look_again_unprompted
    pieces = [state(chain)] if world.restate else []
    for number, (operator, b) in enumerate(operations, 1):
        step, opening = (value, operator, b), ""
        while True:
            right, wrong, slip = facts[step]
            value = wrong if rng.random() < slip * (world.care if opening else 1) else right
            worked = f"{OPERATORS[step[1]](step[0], step[2])}=" if opening else ""
            pieces.append(f"{opening}Step {number}: {step[0]}{step[1]}{step[2]}={worked}{value}.")
            if rng.random() >= look_again:
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
        if parameter.ndim == 2:  # Norms keep their ones.
            # The std is 1 / sqrt(inputs): with GPT-2's 0.02 a model this narrow learned the format
            # of a solution and no content.
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
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.01)
    warm_up = max(1, len(batches) // 20)
    bar = tqdm(batches, desc="pre-training the tiny base", disable=quiet or None, leave=False)
    for step, batch in enumerate(bar):
        longest = max(len(row) for row in batch)
        ids = torch.tensor([row + [pad_id] * (longest - len(row)) for row in batch])  # (B, T)
        # Attention is causal, so padding on the right changes nothing before it.
        hidden = model(ids[:, :-1])  # (B, T-1, D)
        logits = model.lm_head(hidden).flatten(0, 1)  # (B*(T-1), V)
        loss = F.cross_entropy(logits, ids[:, 1:].flatten(), ignore_index=pad_id)
        left = (len(batches) - step) / len(batches)
        optimizer.param_groups[0]["lr"] = learning_rate * min((step + 1) / warm_up, left)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 0:  # To watch, one number in 20 is enough.
            bar.set_postfix(loss=f"{loss.item():.3f} nats/token")


# --------------------------------------------------------------------------------------------------
# The cached folder


def make_problems(world, rng):
    """{file name: problems}, and all their chains, each of which comes once in all the files."""
    kinds = {  # how many, how long, which operators
        "train": (world.train_problems, world.steps, "+-*"),
        "test": (world.test_problems, world.steps, "+-*"),
        "test_long": (world.test_problems, world.long_steps, "+-*"),
        "test_mix": (world.test_problems, world.steps, world.mix),
    }
    chains, files = set(), {}
    for name, (count, steps, operators) in kinds.items():
        problems = []
        while len(problems) < count:
            chain = make_chain(world, steps, rng, operators)
            if chain not in chains:
                chains.add(chain)
                answer = str(solve(chain, world.modulus))
                asked = question(chain, world.modulus)
                problems.append({"problem": asked, "answer": answer, "kind": "tiny"})
        files[name] = problems
    return files, chains


def make_corpus(world, rng, tokenizer, reserved):
    """Token ids of documents, about world.tokens in all; no chain of `reserved` is among them."""
    facts, rows, total = make_facts(world, rng), [], 0
    while total < world.tokens:
        chain = make_chain(world, world.steps if rng.random() < 0.5 else world.long_steps, rng)
        if chain in reserved:
            continue
        problem = None if rng.random() < world.unprompted else question(chain, world.modulus)
        solution = write_solution(chain, facts, world, rng, prompted=problem is not None)
        document = make_document(problem, solution)
        rows.append(tokenizer(document, add_special_tokens=False).input_ids)
        total += len(rows[-1])
    return rows


def save(model, tokenizer, folder):
    """A plain Hugging Face folder: what reads it need not know where the base comes from."""
    model.config.architectures, model.config.dtype = ["LlamaForCausalLM"], torch.float32
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tensors = {name: weight.detach() for name, weight in model.named_parameters()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def cache_folder(world, seed, cache_dir):
    """Where this world is kept: its name is a hash of everything that decides what is built."""
    settings = json.dumps([WORLD_VERSION, seed, asdict(world)], sort_keys=True)
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    root = Path(cache_dir or home / "dsrl")
    return root / f"tiny-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"


def fill(folder, world, seed, quiet):
    """Write the problems of a world, its tokenizer, and a base model trained on its corpus."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    tokenizer = make_tokenizer(world.modulus, world.long_steps[1])
    files, reserved = make_problems(world, rng)
    for name, problems in files.items():
        lines = "".join(json.dumps(problem) + "\n" for problem in problems)
        (folder / f"{name}.jsonl").write_text(lines)
    rows = make_corpus(world, rng, tokenizer, reserved)
    model = make_model(world, tokenizer, generator)
    batches = make_batches(rows, world.batch_tokens, rng)
    pretrain(model, batches, tokenizer.pad_token_id, world.learning_rate, quiet)
    save(model, tokenizer, folder)


def build(cache_dir=None, seed=0, quiet=False, world=None) -> str:
    """The folder of the base model, its tokenizer and the four .jsonl files; it is built once.

    One thread builds it: matrices of width 96 gain nothing from a second, and one gives the same
    weights on every run.
    """
    world = world or World()
    target = cache_folder(world, seed, cache_dir)
    if target.is_dir():
        return str(target)
    if not quiet:
        print(f"building the tiny world, once, in {target}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix="building-", dir=target.parent))
        try:
            fill(partial, world, seed, quiet)
            if not target.exists():  # Another process may have been faster.
                os.replace(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        remedy = "make room there, or set XDG_CACHE_HOME to a folder of yours"
        raise ValueError(f"cannot write to {target.parent} ({error}): {remedy}") from error
    finally:
        torch.set_num_threads(threads)
    return str(target)



# --------------------------------------------------------------------------------------------------
# Show it


def show(count):
    """Documents of the corpus, responses of the base, and how often they are right."""
    folder, world, rng = Path(build()), World(), random.Random(0)
    make_problems(world, rng)  # In `build`, seed 0, these draws come before those of the facts.
    facts = make_facts(world, rng)
    for prompted in [True, False] * count:
        chain = make_chain(world, world.steps, rng)
        solution = write_solution(chain, facts, world, rng, prompted)
        problem = question(chain, world.modulus) if prompted else None
        print(f"--- a document of the corpus ---\n{make_document(problem, solution)}\n")
    model = LlamaForCausalLM.from_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    torch.manual_seed(0)
    lines, right = (folder / "test.jsonl").read_text().splitlines(), []
    for index, problem in enumerate(map(json.loads, lines[:SHOWN])):
        prompt = make_document(problem["problem"], "").removesuffix(EOS)
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")  # (1, L)
        rows = model.generate(
            **ids, do_sample=True, top_k=0, max_new_tokens=128, num_return_sequences=8
        )  # (8, L+R)
        texts = tokenizer.batch_decode(rows[:, ids.input_ids.shape[1] :], skip_special_tokens=True)
        right.append([text.endswith(f"{{{problem['answer']}}}.") for text in texts])
        if index < count:
            print(f"--- {problem['problem']}  (answer {problem['answer']}) ---")
            for text, reward in zip(texts[:4], right[-1][:4], strict=True):
                print(f"[{reward:d}] {text!r}")
            print()
    rewards = torch.tensor(right).float()  # (P, 8)
    average, passed = rewards.mean(), rewards.amax(1).mean()
    print(f"{folder}\n{len(rewards)} test problems: Avg@8 {average:.3f}, pass@8 {passed:.3f}")
    assert 0.1 < average < passed, "the base must solve some problems, and more in several tries"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build the tiny world (once) and show it.")
    parser.add_argument("--problems", type=int, default=2, help="problems to show")
    show(parser.parse_args().problems)
