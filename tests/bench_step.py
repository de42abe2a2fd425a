"""One whole step (sample, grade, update): ours, and TRL's GRPOTrainer on the same work.

Same weights, prompts, lengths, dtype and optimizer; AdamW at learning rate 1e-6, on-policy. The
model is random: 6 layers, D = 256, V = 4096, 5.8 million parameters. A prompt has 32 tokens, every
response its full length, as EOS is never drawn. The reward is whether the sum of a response's ids
is even: it costs nothing and half of the responses have it.

Each round is one step of every engine, in turn; round 0 warms up and checks the gradients; a ratio
is the median over rounds, with its range, "tie" where that spans 1. Time is CPU time on one thread,
wall time on CUDA; "products" is what an update's products of matrices take by themselves, at the
rate of the same round. The cosine is that of the engine's gradient and plain autograd's over
transformers' own model, fp32, padded: a faster wrong step scores zero, the run fails. "nsr-prerl"
is the step of phase 1 on the same prompts.

    python tests/bench_step.py --quick               # ours alone where trl is not installed
    pip install trl==1.16.0 && python tests/bench_step.py --save tests/results/step.json
"""

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from bench_logprob import DEVICE, about_this_machine, now
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM as AutoModel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback

import prerl
from plumbing import alignment
from plumbing.checkpoints import load_model
from rollout import generate

SIZES = dict(
    vocab_size=4096, hidden_size=256, intermediate_size=768, num_hidden_layers=6,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
    tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    pad_token_id=None,  # transformers gives the embedding of a pad token no gradient, drawn or not
)  # fmt: skip
PROMPT_TOKENS, START, EOS = 32, 1, 2
ADAM = dict(lr=1e-6, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
LEAST_COSINE = {"float32": 0.9999, "bfloat16": 0.999}


def write_model(folder):
    """A random Llama and a tokenizer of one word per id, as a Hugging Face folder."""
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(folder)
    words = {f"w{i}": i for i in range(3, SIZES["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2, **words}, "<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = dict(pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def prompts_of(count):
    torch.manual_seed(0)
    return torch.randint(3, SIZES["vocab_size"], (count, PROMPT_TOKENS)).tolist()


def rewards_of(completion_ids, **_):
    return [float(sum(ids) % 2 == 0) for ids in completion_ids]


def cosine(model, folder, prompt_ids, response_ids, response_mask, advantages):
    """Of the model's gradient and that of -1/N sum A log P(y | x) by plain autograd in fp32."""
    oracle = AutoModel.from_pretrained(folder, dtype=torch.float32).to(DEVICE)
    ids = torch.cat([prompt_ids, response_ids], 1)
    attention = torch.cat([torch.ones_like(prompt_ids), response_mask.long()], 1)
    logits = oracle(ids, attention_mask=attention).logits[:, prompt_ids.shape[1] - 1 : -1]
    logprobs = logits.log_softmax(-1).gather(2, response_ids[..., None])[..., 0]  # (B, R)
    loss = -(logprobs * advantages[:, None] * response_mask).sum() / response_mask.sum()
    loss.backward()
    names = [name for name, _ in oracle.named_parameters()]
    gradients = [{n: m.get_parameter(n).grad for n in names} for m in (model, oracle)]
    return alignment.cosine(*gradients, names)


def products_seconds(metrics, dtype):
    """Seconds that the products of matrices of an update take at this machine's rate, measured."""
    first, second = (torch.randn(1024, 1024, dtype=dtype, device=DEVICE) for _ in range(2))
    start = now()
    for _ in range(20):
        first @ second
    rate = 20 * 2 * 1024**3 / (now() - start)  # FLOP/s
    D, V, inner = SIZES["hidden_size"], SIZES["vocab_size"], SIZES["intermediate_size"]
    weights = SIZES["num_hidden_layers"] * (3 * D * D + 3 * D * inner)  # 2 of 4 heads have keys
    flops = 6 * (weights * metrics["tokens_forward"] + V * D * metrics["tokens_trained"])
    return flops / rate


class Ours:
    """Our model and optimizer; `step(name)` is one update of an objective, from fresh samples."""

    def __init__(self, folder, args):
        self.folder, self.tokens, self.prompts = folder, args.tokens, prompts_of(args.prompts)
        self.model, _ = load_model(folder, torch.float32, DEVICE)
        self.model.compute_dtype = getattr(torch, args.dtype)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True, **ADAM)
        self.steps, self.cosine = 0, None

    def step(self, name):
        """Seconds of sampling and of the update, and the update's metrics."""
        objective, start = prerl.OBJECTIVES[name], now()
        options = dict(group_size=8, max_new_tokens=self.tokens, eos_ids=(), seed=self.steps)
        rollout = generate(self.model, self.prompts, **options)
        sampled = now()
        rewards = torch.tensor(rewards_of(rollout.response_ids.tolist()), device=DEVICE).view(-1, 8)
        advantages = prerl.group_advantages(rewards, objective.scale_std).view(-1)
        self.optimizer.zero_grad(set_to_none=True)
        options = dict(space=objective.space, samples=objective.samples, start_token_id=START)
        metrics = prerl.policy_gradient(self.model, rollout, advantages, **options)
        if self.steps == 0:
            tensors = rollout.prompt_ids, rollout.response_ids, rollout.response_mask, advantages
            self.cosine = cosine(self.model, self.folder, *tensors)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.steps += 1
        seconds = {"sample": sampled - start, "update": now() - sampled}
        products = products_seconds(metrics, self.model.compute_dtype)
        return {**seconds, "products": products, "tokens_forward": metrics["tokens_forward"]}


class Paired(TrainerCallback):
    """Times each step of TRL's own loop, checks its first gradient, runs `after` between steps."""

    def __init__(self, folder, after):
        self.folder, self.after, self.seconds, self.cosine = folder, after, [], None

    def on_step_begin(self, args, state, control, **kwargs):
        self.start = now()

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step == 0:  # after clipping, which turns nothing
            names = ("prompt_ids", "completion_ids", "completion_mask", "advantages")
            tensors = [self.trainer._buffered_inputs[0][name] for name in names]
            self.cosine = cosine(model, self.folder, *tensors)

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append(now() - self.start)
        self.after()


def run_trl(folder, args, after):
    """Train for the rounds with TRL; the callback holds seconds per step and the cosine."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

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
        model=AutoModel.from_pretrained(folder, dtype=torch.float32),
        processing_class=PreTrainedTokenizerFast.from_pretrained(folder), args=config,
        train_dataset=Dataset.from_dict({"prompt": texts}), reward_funcs=rewards_of,
        callbacks=[paired],
    )  # fmt: skip
    paired.trainer.train()
    return paired


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
        results[name] = {part: [step[part] for step in rounds[1:]] for part in rounds[0]}
        results[name]["seconds"] = [step["sample"] + step["update"] for step in rounds[1:]]
    results["grpo"]["cosine"] = ours.cosine
    if trl is not None:
        results["trl"] = {"seconds": trl.seconds[1:], "cosine": trl.cosine}
    return results


def print_table(results):
    parts = ("seconds", "sample", "update", "products")
    print("seconds of      step  sample  update products  x grpo  range")
    for name, result in results.items():
        cells = [f"{statistics.median(result[part]):.3f}" if part in result else "-"
                 for part in parts]  # fmt: skip
        ratios = [a / b for a, b in zip(result["seconds"], results["grpo"]["seconds"], strict=True)]
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        span = f"{low:.2f}-{high:.2f}" + (" tie" if low <= 1 <= high and low < high else "")
        span += f"  cosine {result['cosine']:.7f}" if "cosine" in result else ""
        print("{:12}{:>8}{:>8}{:>8}{:>9}".format(name, *cells), f"{middle:7.2f}  {span}")
    phases = [results["nsr-prerl"], results["grpo"]]
    for what in ("update", "tokens_forward"):
        first, second = (statistics.median(phase[what]) for phase in phases)
        print(f"nsr-prerl / grpo, {what}: {first / second:.2f}")


def main():
    parser = argparse.ArgumentParser(description="A whole GRPO step, ours and TRL's.")
    parser.add_argument("--quick", action="store_true", help="2 prompts, 16 tokens; not 8, 64")
    parser.add_argument("--rounds", type=int, default=3, help="after one of warm-up (default: 3)")
    parser.add_argument("--dtype", choices=LEAST_COSINE, default="float32", help="of computing")
    parser.add_argument("--save", help="write the JSON line to this file too")
    args = parser.parse_args()
    args.prompts, args.tokens = (2, 16) if args.quick else (8, 64)
    torch.set_num_threads(1)
    results = measure(args)
    print_table(results)
    report = {"date": str(date.today()), **vars(args), **about_this_machine()}
    line = json.dumps(report | {"engines": results})
    if args.save:
        Path(args.save).write_text(line + "\n")
    print(line)
    least = LEAST_COSINE[args.dtype]
    wrong = [name for name, result in results.items() if result.get("cosine", 1.0) < least]
    return f"the gradient is wrong: {wrong}" if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
