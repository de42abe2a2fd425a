"""Random models, problems and rollouts for the GPU scripts: no weights need be fetched."""

import json
from copy import deepcopy
from dataclasses import replace

import torch
from bench_logprob import DEVICE
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config

from model import CausalLM
from plumbing.checkpoints import load_model, save_model
from prerl import group_advantages, policy_gradient
from rollout import Rollout, generate

SHAPES = {  # width, inner width, layers, heads, key/value heads, vocabulary
    "1.5B": (1536, 8960, 28, 12, 2, 151_936),  # Qwen2.5-1.5B
    "0.5B": (896, 4864, 24, 14, 2, 151_936),  # Qwen2.5-0.5B
    "small": (512, 1408, 4, 8, 2, 8192),
    "quick": (32, 64, 2, 4, 2, 512),
}
MEAN_TOKENS = {"1.5B": 940, "0.5B": 940, "small": 40, "quick": 8}  # of a response of random weights


def random_checkpoint(shape, work):
    """A Hugging Face folder of random bf16 weights and a tokenizer, made once.

    Every token is drawn about equally often, and so many are EOS that responses have MEAN_TOKENS.
    """
    folder = work / shape
    if (folder / "model.safetensors").is_file():
        return folder
    width, inner, layers, heads, kv_heads, vocabulary = SHAPES[shape]
    config = Qwen2Config(
        hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, vocab_size=vocabulary,
        max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        model = CausalLM(config).to(torch.bfloat16)
    model.to_empty(device=DEVICE)
    model.lm_head.weight = model.model.embed_tokens.weight
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        parameter.data.fill_(1.0) if "norm" in name else parameter.data.normal_(std=0.02)
    model.eos_ids = tuple(range(2, 2 + vocabulary // MEAN_TOKENS[shape]))
    save_model(model, random_tokenizer(vocabulary), folder)
    return folder


def random_tokenizer(vocabulary):
    """A byte is a token; ids beyond the bytes are words that only a random model writes."""
    special = ["<|endoftext|>", "<s>", "</s>"]
    tokens = special + sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens += [f"w{i}" for i in range(len(tokens), vocabulary)]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    names = dict(pad_token=special[0], unk_token=special[0], bos_token="<s>", eos_token="</s>")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def run_words(shape, work, prompt_tokens):
    """Flags of dsrl.py for a random model: its problems, and a verifier that half of all pass."""
    for name, count in (("train", 512), ("test", 16)):
        rows = [{"problem": f"{i:0{prompt_tokens}}", "answer": "1"} for i in range(count)]
        (work / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    even = "def even(problem, response):\n    return float(len(response) % 2 == 0)\n"
    (work / "even.py").write_text(even)
    data = ["--data", f"{work}/train.jsonl", "--eval-data", f"{work}/test.jsonl"]
    model = random_checkpoint(shape, work)
    return ["--model", f"{model}", *data, "--reward", f"{work}/even.py:even"]


def updates_of(out):
    """The records of a run's updates."""
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "grad_norm" in line]


def random_update(args):
    """A model on the CPU in fp32, prompts, how to sample from it, a rollout and its advantages."""
    model, _ = load_model(f"{random_checkpoint('quick' if args.quick else 'small', args.work)}")
    for name, parameter in model.named_parameters():  # so that attention is not even
        parameter.data.mul_(1 if "norm" in name else 4)
    random, longest = torch.Generator().manual_seed(0), 6 if args.quick else 64
    vocabulary = model.config.vocab_size
    prompts = [torch.randint(3, vocabulary, (n,), generator=random).tolist()
               for n in (1, longest, 5, longest // 2, 2, longest)]  # fmt: skip
    how = dict(group_size=4, max_new_tokens=2 * longest, eos_ids=model.eos_ids)
    rollout = generate(model, prompts, **how)
    rewards = torch.randint(2, (6, 4), generator=random).float()
    return model, prompts, how, rollout, group_advantages(rewards, scale_std=True).reshape(-1)


def on(device, rollout):
    tensors = {name: value for name, value in vars(rollout).items() if torch.is_tensor(value)}
    return replace(rollout, **{name: tensor.to(device) for name, tensor in tensors.items()})


def gradient_of(model, rollout, advantages, space, dtype=torch.float32, device=DEVICE,
                tokens=None, recompute=False):  # fmt: skip
    """{name: fp32 gradient on the CPU} of one update, made by a copy of the model."""
    model = deepcopy(model).to(device)
    model.compute_dtype, model.checkpoint_activations = dtype, recompute
    policy_gradient(
        model, on(device, rollout), advantages.to(device), space=space, start_token_id=2,
        samples="negative" if space == "marginal" else "all", micro_batch_tokens=tokens,
    )  # fmt: skip
    return {name: parameter.grad.cpu() for name, parameter in model.named_parameters()}


def distance(found, expected):
    """|found - expected| / |expected| over all tensors together."""
    gap = sum((found[name] - expected[name]).double().square().sum() for name in expected)
    return float((gap / sum(one.double().square().sum() for one in expected.values())).sqrt())


def packed_rollout(vocabulary, rows, prompt_tokens, mean_tokens):
    """Random rows: prompts of one length, responses of half to one and a half times the mean."""
    torch.manual_seed(0)
    lengths = torch.linspace(0.5 * mean_tokens, 1.5 * mean_tokens, rows, device=DEVICE).int()
    prompts = torch.randint(3, vocabulary, (rows, prompt_tokens), device=DEVICE)
    mask = torch.arange(int(lengths.max()), device=DEVICE) < lengths[:, None]
    responses = torch.randint(3, vocabulary, mask.shape, device=DEVICE) * mask
    zeros = torch.zeros(mask.shape, device=DEVICE)
    finished, all_on = lengths > 0, torch.ones_like(prompts, dtype=torch.bool)
    return Rollout(prompts, all_on, responses, mask, zeros, zeros, finished)
