"""LoRA (arXiv 2106.09685): y = W x + alpha / rank * B (A x), of which only A and B are trained.

1. Every linear layer of the blocks has A (rank, in) and B (out, rank) in fp32. B begins at 0, so
   the model begins as its base; W is frozen, in the dtype of the activations.
2. With one alpha for all ranks the first updates move W equally far, so an --lr that suits one rank
   suits another: about ten times that of full training.
"""

from functools import partial

import torch
from torch import nn

from model import Linear


class LoraLinear(Linear):
    def __init__(self, base, rank, scale):
        super().__init__(base.in_features, base.out_features, bias=False, device="meta")
        self.weight, self.bias, self.scale = base.weight, base.bias, scale
        self.lora_A = Linear(base.in_features, rank, bias=False)
        self.lora_B = Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x):
        return super().forward(x) + self.scale * self.lora_B(self.lora_A(x))

    def merged(self):
        added = self.scale * self.lora_B.weight @ self.lora_A.weight
        return (self.weight + added).to(self.weight.dtype)


def add_adapters(model, rank, alpha, seed=0):
    """Freeze a model and put adapters into its blocks. The draws are a CPU's on every device."""
    model.requires_grad_(False)
    model.adapt = partial(add_adapters, rank=rank, alpha=alpha)  # for `sampling_copy`
    torch.manual_seed(seed)
    for name, layer in list(model.model.layers.named_modules()):
        if isinstance(layer, Linear):
            adapted = LoraLinear(layer, rank, alpha / rank).to(layer.weight.device)
            model.model.layers.set_submodule(name, adapted)


@torch.no_grad()
def merge(model):
    """Add the adapters to the weights: a plain model again, all of which can be trained."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLinear):
            plain = Linear(layer.in_features, layer.out_features, bias=False, device="meta")
            plain.weight, plain.bias = nn.Parameter(layer.merged()), layer.bias
            model.set_submodule(name, plain)
    del model.adapt
    model.requires_grad_(True)
