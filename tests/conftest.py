"""Shared by all tests: one thread, a random model small enough to run in milliseconds, and a hand-made rollout."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent.parent))

import pytest
import torch
from transformers import Qwen2Config

from model import CausalLM
from rollout import Rollout

torch.set_num_threads(1)


def random_model(seed=0, **overrides):
    """A Qwen2 of random weights (attention biases, grouped heads, tied head): its vocabulary is the ids 0..63."""
    torch.manual_seed(seed)
    sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    config = Qwen2Config(**{**sizes, "num_key_value_heads": 2, "tie_word_embeddings": True, "max_position_embeddings": 128, **overrides})
    model = CausalLM(config)
    for parameter in model.parameters():  # PyTorch's defaults leave biases and logits near 0; these make every path matter
        parameter.data.normal_(std=0.3)
    return model


@pytest.fixture
def model():
    return random_model()


@pytest.fixture
def rollout(model):
    """P = 3 prompts of 1, 4 and 2 tokens, G = 4 responses of 1 to 7 tokens; row 5 is cut, the others end with EOS = 1."""
    generator = torch.Generator().manual_seed(7)
    prompts = [[5], [6, 7, 8, 9], [10, 11]]
    lengths = [3, 1, 7, 2, 5, 7, 4, 4, 6, 2, 1, 3]
    prompt_ids, prompt_mask = torch.zeros(12, 4, dtype=torch.int64), torch.zeros(12, 4, dtype=torch.bool)
    response_ids, response_mask = torch.zeros(12, 7, dtype=torch.int64), torch.zeros(12, 7, dtype=torch.bool)
    for row, length in enumerate(lengths):
        prompt = prompts[row // 4]
        prompt_ids[row, 4 - len(prompt) :] = torch.tensor(prompt)
        prompt_mask[row, 4 - len(prompt) :] = True
        response_ids[row, :length] = torch.randint(3, 64, (length,), generator=generator)
        response_mask[row, :length] = True
        if row != 5:
            response_ids[row, length - 1] = 1
    finished = torch.tensor([row != 5 for row in range(12)])
    zeros = torch.zeros(12, 7)
    return Rollout(prompt_ids, prompt_mask, response_ids, response_mask, zeros, zeros, finished)
