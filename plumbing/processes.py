"""Several processes, started by torchrun: the same weights or parts, a share of the prompts each.

1. Each process has the same weights and a share of the prompts; gradients are summed. The first
   process alone writes.
2. With --shard (FSDP2) N processes hold a part each: 16/N bytes a parameter for weights, gradients
   and moments. A layer's weights are gathered for its turn in an update, all of them (in bf16 on
   CUDA) while a rollout is sampled. Checkpoints are the same: any number goes on from them.
"""

import os
import shutil
import sys

import torch
import torch.distributed as dist

from model import whole

# Small matrices gain nothing from a second thread and lose much on a busy machine.
ONE_THREAD_BELOW = 50e6  # parameters


def join_processes(config):
    """The device of this process; joins those that torchrun started. Raises ValueError."""
    reason = None if config.device == "cpu" else why_no_cuda()
    if reason and config.device == "cuda":
        raise ValueError(f"--device cuda: {reason}; give --device cpu")
    if reason and has_driver():
        print(f"the CPU is used: {reason}")
    cuda = config.device != "cpu" and not reason
    local = os.environ.get("LOCAL_RANK", "0")
    device = torch.device(f"cuda:{local}" if cuda else "cpu")
    if cuda:
        torch.cuda.set_device(device)
    if "RANK" in os.environ and not dist.is_initialized():
        try:
            dist.init_process_group("nccl" if cuda else "gloo")
        except dist.DistNetworkError as error:
            reason = f"the processes cannot meet ({str(error).splitlines()[0]})"
            advice = "another run may hold the port: torchrun --standalone, or --master-port N"
            raise ValueError(f"{reason}; {advice}") from error
    if config.prompts_per_step % world_size():
        shares = f"{config.prompts_per_step} is not divided by {world_size()} processes"
        raise ValueError(f"--prompts-per-step {shares}")
    if config.shard and world_size() == 1:
        start = "torchrun --standalone --nproc-per-node N dsrl.py"
        raise ValueError(f"--shard needs several processes: {start} ..., or give --no-shard")
    if rank():
        sys.stdout = open(os.devnull, "w")  # the first process speaks for all; not of errors
    return device


def why_no_cuda():
    """Why CUDA cannot be used here, or None."""
    built, version = torch.version.cuda, torch.__version__
    if not torch.cuda.is_available():
        if not has_driver():
            return "torch finds no CUDA device here"
        if built is None:
            return f"torch {version} is built without CUDA: install one that is built with it"
        return (
            f"torch {version} finds no GPU though NVIDIA's driver is here: it may be too old for "
            f"CUDA {built}: update the driver, or install a torch for an older CUDA"
        )
    major, minor = torch.cuda.get_device_capability()
    if major < 8:
        return (
            f"{torch.cuda.get_device_name()} (compute capability {major}.{minor}) has neither "
            "bfloat16 nor flash attention: a GPU from Ampere (8.0, 2020) on has"
        )
    return None


def has_driver():
    return shutil.which("nvidia-smi") is not None


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def world_size():
    return dist.get_world_size() if dist.is_initialized() else 1


def first_of_share(count):
    """Where this process's share of `count` items begins."""
    return rank() * count // world_size()


def share(items):
    return items[first_of_share(len(items)) : (rank() + 1) * len(items) // world_size()]


def gather(items):
    """The lists of all processes as one, in order of rank."""
    if world_size() == 1:
        return items
    parts = [None] * world_size()
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def average(metrics):
    """The mean over the processes of each metric; all have equally many rows."""
    parts = gather([metrics])
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0) for part in parts) / len(parts) for name in names}


def sum_gradients(model):
    """Each .grad becomes the sum over the processes: their denominator is global already."""
    if world_size() == 1 or model.is_sharded:  # whose backward sums
        return
    for parameter in filter(lambda one: one.requires_grad, model.parameters()):
        if parameter.grad is None:  # no row of this process carried loss
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)


def gather_tensors(tensors):
    """{name: whole tensor on the CPU} in the first process, {} in the others."""
    gathered = {}
    for name, tensor in tensors.items():
        tensor = whole(tensor.detach())
        if rank() == 0:
            gathered[name] = tensor.cpu()
    return gathered


def choose_threads(model):
    """CPU threads: OMP_NUM_THREADS if set, else one for a small model, else all cores."""
    small = sum(parameter.numel() for parameter in model.parameters()) < ONE_THREAD_BELOW
    threads = 1 if small else max(1, os.cpu_count() // world_size())
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", threads)))


def part_of(tensor, like):
    """What this process holds of a tensor that is cut as the parameter `like`; on its device."""
    if tensor.ndim == 0 or not hasattr(like, "placements"):
        return tensor.to(like.device)
    from torch.distributed.tensor import distribute_tensor  # slow to import

    # no source of the data: every process has read it
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
