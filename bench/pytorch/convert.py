"""The conversion of the first RepMLP release, done in PyTorch: what `repmlp convert` is timed against.

    python bench/pytorch/convert.py TRAIN.pth DEPLOY.pth

Builds RepMLP-Res50-light-224 in its training form with the initialisation that the network has there (FC3 orthogonal),
loads the checkpoint over it, merges every block, saves the deploy state dict, and prints the seconds of each phase.
"""

import time

started = time.perf_counter()

import torch  # noqa: E402
import torch.nn as nn  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from conversion import main  # noqa: E402
from repmlp_resnet import RepMLP, repmlp_resnet  # noqa: E402

MODEL = "RepMLP-Res50-light-224"


def scale_shift(bn):
    """A batch norm with running statistics as `y = scale * x + shift`."""
    scale = bn.weight / (bn.running_var + bn.eps).sqrt()
    return scale, bn.bias - bn.running_mean * scale


def fuse(weight, bn):
    """Weight and bias of a bias-free layer with its batch norm."""
    scale, shift = scale_shift(bn)
    return weight * scale.view(-1, *[1] * (weight.dim() - 1)), shift


def merge_conv_bn(unit):
    """In place: `conv` with a bias, no `bn`."""
    weight, bias = fuse(unit.conv.weight, unit.bn)
    unit.conv.weight = nn.Parameter(weight)
    unit.conv.bias = nn.Parameter(bias)
    del unit.bn


def conv_as_fc(kernel, groups, h, w):
    """The grouped FC that a convolution is on h x w maps: what it makes of the unit vectors."""
    c_in = kernel.shape[1]
    n = c_in * h * w
    units = torch.eye(n).repeat(1, groups).view(n, groups * c_in, h, w)
    return F.conv2d(units, kernel, padding=kernel.shape[-1] // 2, groups=groups).reshape(n, -1).t()


def merge_repmlp(block):
    """In place: local branches into FC3, the batch norm after the pool into FC1."""
    weight, bias = fuse(block.fc3.weight, block.fc3_bn)
    if block.kernels:
        largest = max(block.kernels)
        local, shift = 0, 0
        for k in block.kernels:
            unit = getattr(block, f"repconv{k}")
            kernel, b = fuse(unit.conv.weight, unit.bn)
            local, shift = local + F.pad(kernel, [(largest - k) // 2] * 4), shift + b
            delattr(block, f"repconv{k}")
        weight = weight + conv_as_fc(local, block.fc3.groups, block.h, block.w).reshape_as(weight)
        bias = bias + shift.repeat_interleave(block.h * block.w)
        block.kernels = ()
    block.fc3.weight, block.fc3.bias = nn.Parameter(weight), nn.Parameter(bias)
    del block.fc3_bn
    if hasattr(block, "avg"):
        scale, shift = (v.repeat_interleave(block.parts) for v in scale_shift(block.avg.bn))
        fc1 = block.fc1_fc2.fc1
        fc1.bias = nn.Parameter(fc1.bias + fc1.weight @ shift)
        fc1.weight = nn.Parameter(fc1.weight * scale)
        del block.avg


@torch.no_grad()
def merge(net):
    """In place: the deploy form of every block."""
    for module in list(net.modules()):
        if isinstance(module, RepMLP):
            merge_repmlp(module)
    for module in list(net.modules()):
        if hasattr(module, "conv") and hasattr(module, "bn"):
            merge_conv_bn(module)
    return net


def convert(load, save, done):
    net = repmlp_resnet(MODEL)
    done("build")
    for module in net.modules():
        if isinstance(module, RepMLP):
            nn.init.orthogonal_(module.fc3.weight)
    done("initialise")
    state = torch.load(load, map_location="cpu")
    done("read")
    net.load_state_dict(state, strict=True)
    done("load")
    merge(net)
    done("merge")
    torch.save(net.state_dict(), save)
    done("save")


if __name__ == "__main__":
    main(__doc__, convert, started)
