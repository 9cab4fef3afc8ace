"""Grouped convolutions computed as dense ones, which oneDNN runs several times faster on the CPU: for long comparisons
of accuracy and losses. Timings are taken without it, of what the original code does."""
import torch
import torch.nn.functional as F
from torch import nn


def block_diagonal(weight, groups):
    """[O, C/g, k, k] as [O, C, k, k] with zeros between the groups."""
    parts = weight.chunk(groups)
    return torch.cat(
        [F.pad(p, (0, 0, 0, 0, i * p.shape[1], (groups - 1 - i) * p.shape[1])) for i, p in enumerate(parts)]
    )


def forward(self, x):
    g, w = self.groups, self.weight
    if g == 1:
        return self._conv_forward(x, w, self.bias)
    if x.shape[2:] == (1, 1) and w.shape[2:] == (1, 1):
        n = x.shape[0]
        rows = x.view(n, g, -1).transpose(0, 1)
        y = torch.bmm(rows, w.view(g, w.shape[0] // g, -1).transpose(1, 2))
        return y.transpose(0, 1).reshape(n, -1, 1, 1)
    return F.conv2d(x, block_diagonal(w, g), self.bias, self.stride, self.padding, self.dilation)


def ungroup(net):
    """Makes all grouped convolutions of a network (without bias where they are fully connected) dense."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.forward = forward.__get__(module)
    return net
