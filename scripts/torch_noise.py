"""How far PyTorch's losses come apart by rounding alone: runs from weights with a little relative noise."""
import numpy as np
import torch

NOISE = 1e-7


def add_noise(net, seed):
    """In place; with no seed nothing happens."""
    if seed is None:
        return
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1 + NOISE * torch.randn_like(p))


def shares(far, noisy, least=0.0):
    """At each step, our largest distance so far ÷ that of the noisy runs, or ÷ `least` where that is more."""
    allowed = np.maximum(np.maximum.accumulate(np.max(noisy, axis=0)), least)
    return np.maximum.accumulate(far) / allowed
