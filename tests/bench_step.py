"""One whole step (sample, grade, update): ours, and TRL's GRPOTrainer on the same work.

Same weights, prompts, lengths, dtype and optimizer; AdamW at learning rate 1e-6, on-policy. The
model is random: 6 layers, D = 256, V = 4096, 5.8 million parameters. A prompt has 32 tokens, every
response its full length, as EOS is never drawn. The reward is whether the sum of a response's ids
is even: it costs nothing and half of the responses have it.

Each round is one step of every engine, in turn; round 0 warms up and checks the gradients; ratios
are of medians, with the range over rounds, "tie" where it spans 1. Time is CPU time on one thread,
wall time on CUDA. The cosine is that of the engine's gradient and plain autograd's over
transformers' own model, fp32, padded; below 0.999 (bf16) or 0.9999 (fp32) the run fails: a faster
wrong step scores zero. "nsr-prerl" is the step of phase 1 on the same prompts.

    python tests/bench_step.py --quick               # ours alone where trl is not installed
    pip install trl==1.16.0 && python tests/bench_step.py --save tests/results/step.json
"""

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast, TrainerCallback

import bench_logprob
import prerl
from model import load_model
from rollout import generate

DEVICE = bench_logprob.DEVICE
SIZES = dict(
    vocab_size=4096, hidden_size=256, intermediate_size=768, num_hidden_layers=6,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
    tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
PROMPT_TOKENS, START, EOS = 32, 1, 2
ADAM = dict(lr=1e-6, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
LEAST_COSINE = {"float32": 0.9999, "bfloat16": 0.999}


# --------------------------------------------------------------------------------------------------
# The work, the same for all


def write_model(folder):
    """A random Llama and a tokenizer of one word per id, as a Hugging Face folder."""
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(folder)
    words = ["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(3, SIZES["vocab_size"]))]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = dict(pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def prompts_of(count):
    generator = torch.Generator().manual_seed(0)
    shape = count, PROMPT_TOKENS
    return torch.randint(3, SIZES["vocab_size"], shape, generator=generator).tolist()


def reward_of(ids):
    return float(sum(ids) % 2 == 0)


def oracle_gradient(folder, prompt_ids, response_ids, response_mask, advantages):
    """(all weights,) gradient of -1/N sum A log P(y | x) by the formula and plain autograd, fp32."""
    oracle = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(DEVICE)
    ids = torch.cat([prompt_ids, response_ids], 1)
    attention = torch.cat([torch.ones_like(prompt_ids), response_mask.long()], 1)
    logits = oracle(ids, attention_mask=attention).logits[:, prompt_ids.shape[1] - 1 : -1]
    logprobs = logits.log_softmax(-1).gather(2, response_ids[..., None])[..., 0]  # (B, R)
    loss = -(logprobs * advantages[:, None] * response_mask).sum() / response_mask.sum()
    loss.backward()
    return flat_gradient(oracle)


def flat_gradient(model):
    named = sorted(model.named_parameters())  # the order of definition differs
    return torch.cat([parameter.grad.flatten() for _, parameter in named]).double()


def cosine(first, second):
    return float(torch.nn.functional.cosine_similarity(first, second, dim=0))


def now():
    if DEVICE == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


# --------------------------------------------------------------------------------------------------
# Ours


class Ours:
    """Our model and optimizer; `step(name)` is one update of an objective, from fresh samples."""

    def __init__(self, folder, args):
        self.folder, self.args, self.prompts = folder, args, prompts_of(args.prompts)
        self.model, _ = load_model(folder, torch.float32, DEVICE)
        self.model.compute_dtype = getattr(torch, args.dtype)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True, **ADAM)
        self.steps, self.cosine = 0, None

    def step(self, name):
        """Seconds of sampling and of the update, and the update's metrics."""
        objective, start = prerl.OBJECTIVES[name], now()
        options = dict(group_size=8, max_new_tokens=self.args.tokens, eos_ids=(), seed=self.steps)
        rollout = generate(self.model, self.prompts, **options)
        sampled = now()
        rewards = torch.tensor([reward_of(ids) for ids in rollout.response_ids.tolist()])
        rewards = rewards.view(-1, 8).to(DEVICE)
        advantages = prerl.group_advantages(rewards, objective.scale_std).view(-1)
        self.optimizer.zero_grad(set_to_none=True)
        options = dict(space=objective.space, samples=objective.samples, start_token_id=START)
        metrics = prerl.policy_gradient(self.model, rollout, advantages, **options)
        if self.steps == 0:
            tensors = rollout.prompt_ids, rollout.response_ids, rollout.response_mask, advantages
            self.cosine = cosine(flat_gradient(self.model), oracle_gradient(self.folder, *tensors))
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.steps += 1
        return {"sample": sampled - start, "update": now() - sampled, **metrics}


# --------------------------------------------------------------------------------------------------
# TRL


class Paired(TrainerCallback):
    """Times each step of TRL's own loop, checks its first gradient, runs `after` between steps."""

    def __init__(self, folder, after):
        self.folder, self.after, self.seconds, self.cosine = folder, after, [], None
        self.trainer = None  # set once there is one

    def on_step_begin(self, args, state, control, **kwargs):
        self.start = now()

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step == 0:  # after clipping, which turns nothing
            names = ("prompt_ids", "completion_ids", "completion_mask", "advantages")
            tensors = [self.trainer._buffered_inputs[0][name] for name in names]
            self.cosine = cosine(flat_gradient(model), oracle_gradient(self.folder, *tensors))

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append(now() - self.start)
        self.after()


def run_trl(folder, args, after):
    """Train for the rounds with TRL; the callback holds seconds per step and the cosine."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    def reward(completion_ids, **_):
        return [reward_of(ids) for ids in completion_ids]

    config = GRPOConfig(
        output_dir=f"{folder}/trl", max_steps=args.rounds + 1, num_generations=8,
        per_device_train_batch_size=8 * args.prompts, max_completion_length=args.tokens,
        generation_kwargs={"suppress_tokens": [EOS]}, gradient_checkpointing=False,
        bf16=args.dtype == "bfloat16", use_cpu=DEVICE == "cpu", optim="adamw_torch_fused",
        learning_rate=ADAM["lr"], weight_decay=ADAM["weight_decay"], lr_scheduler_type="constant",
        logging_steps=1000, save_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    texts = [" ".join(f"w{token}" for token in ids) for ids in prompts_of(args.prompts)]
    paired = Paired(folder, after)
    paired.trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        processing_class=PreTrainedTokenizerFast.from_pretrained(folder), args=config,
        train_dataset=Dataset.from_dict({"prompt": texts}), reward_funcs=reward, callbacks=[paired],
    )  # fmt: skip
    paired.trainer.train()
    return paired


# --------------------------------------------------------------------------------------------------
# Measuring and reporting


def measure(args):
    """{engine: {"seconds": per round, ...}}, the warm-up left out."""
    with tempfile.TemporaryDirectory() as folder:
        write_model(folder)
        ours, steps = Ours(folder, args), {"grpo": [], "nsr-prerl": []}

        def our_steps():
            for name in steps:
                steps[name].append(ours.step(name))

        trl = run_trl(folder, args, our_steps) if importlib.util.find_spec("trl") else None
        if trl is None:
            print("trl is not installed: ours alone (pip install trl==1.16.0)")
            for _ in range(args.rounds + 1):
                our_steps()
    results = {}
    for name, rounds in steps.items():
        parts = {part: [step[part] for step in rounds[1:]] for part in ("sample", "update")}
        whole = [sum(pair) for pair in zip(*parts.values(), strict=True)]
        results[name] = {"seconds": whole, **parts, "tokens_forward": rounds[-1]["tokens_forward"]}
    results["grpo"]["cosine"] = ours.cosine
    if trl is not None:
        results["trl"] = {"seconds": trl.seconds[1:], "cosine": trl.cosine}
    return results


def ratio(slow, fast):
    """(ratio of medians, smallest, largest of a round)."""
    rounds = [a / b for a, b in zip(slow, fast, strict=True)]
    return statistics.median(slow) / statistics.median(fast), min(rounds), max(rounds)


def print_table(results):
    print(f"{'engine':10} {'step s':>8} {'sample s':>9} {'update s':>9} {'x grpo':>7}  range")
    for name, result in results.items():
        cells = [statistics.median(result[part]) if part in result else float("nan")
                 for part in ("seconds", "sample", "update")]  # fmt: skip
        middle, low, high = ratio(result["seconds"], results["grpo"]["seconds"])
        tie = " tie" if low <= 1 <= high and low < high else ""
        print(f"{name:10} {cells[0]:8.3f} {cells[1]:9.3f} {cells[2]:9.3f} {middle:7.2f}"
              f"  {low:.2f}-{high:.2f}{tie}"
              + (f"  cosine {result['cosine']:.7f}" if "cosine" in result else ""))  # fmt: skip
    update = ratio(results["nsr-prerl"]["update"], results["grpo"]["update"])
    fed = [results[name]["tokens_forward"] for name in ("nsr-prerl", "grpo")]
    print(f"nsr-prerl / grpo: update time {update[0]:.2f}, tokens fed {fed[0] / fed[1]:.2f}")


def parse_args():
    parser = argparse.ArgumentParser(
        description="A whole GRPO step, ours and TRL's.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="2 prompts, 16 tokens, 2 rounds")
    parser.add_argument("--prompts", type=int, default=8, help="8 responses each")
    parser.add_argument("--tokens", type=int, default=64, help="of each response")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=LEAST_COSINE, default="float32", help="of computing")
    parser.add_argument("--save", help="write the JSON line to this file too")
    args = parser.parse_args()
    if args.quick:
        args.prompts, args.tokens, args.rounds = 2, 16, 2
    return args


def main():
    args = parse_args()
    torch.set_num_threads(1)
    results = measure(args)
    print_table(results)
    report = {"date": str(date.today()), "hardware": bench_logprob.hardware(), **vars(args)}
    report |= {"versions": bench_logprob.versions(), "engines": results}
    line = json.dumps(report)
    if args.save:
        Path(args.save).write_text(line + "\n")
    print(line)
    wrong = [name for name, result in results.items()
             if result.get("cosine", 1.0) < LEAST_COSINE[args.dtype]]  # fmt: skip
    return f"the gradient is wrong: {wrong}" if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
