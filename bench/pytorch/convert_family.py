"""Conversion of the family's checkpoints in PyTorch, as fast as its user can write it: what `repmlp convert` is timed against.

    python bench/pytorch/convert_family.py TRAIN.pth DEPLOY.pth

Merges on the state dict, without building a network: every block of RepVGG, MobileOne, ACNet, DBB, RepLKNet and RepMLPNet
that is found by its keys, and convolutions with a batch norm (`conv`, `bn`). Prints the seconds of each phase.
"""

import re
import time

started = time.perf_counter()

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from conversion import main  # noqa: E402

EPS = 1e-5


def norm(state, name):
    """A batch norm as scale and shift."""
    scale = 1 / (state.pop(f"{name}.running_var") + EPS).sqrt()
    if f"{name}.weight" in state:
        scale = scale * state.pop(f"{name}.weight")
    shift = -state.pop(f"{name}.running_mean") * scale
    if f"{name}.bias" in state:
        shift = shift + state.pop(f"{name}.bias")
    state.pop(f"{name}.num_batches_tracked", None)
    return scale, shift


def scaled(weight, scale):
    return weight * scale.view(-1, *[1] * (weight.dim() - 1))


def fuse(state, conv, bn):
    scale, shift = norm(state, bn)
    return scaled(state.pop(f"{conv}.weight"), scale), shift


def pad(kernel, size):
    h, w = (size[i] - kernel.shape[2 + i] for i in (0, 1))
    return F.pad(kernel, [w // 2, w // 2, h // 2, h // 2])


def identity(like):
    out, per_group, h, w = like.shape
    kernel = torch.zeros_like(like)
    kernel[torch.arange(out), torch.arange(out) % per_group, h // 2, w // 2] = 1
    return kernel


def parallel(branches):
    """Kernels and biases added up, the small ones in the middle of the large."""
    size = [max(k.shape[2 + i] for k, _ in branches) for i in (0, 1)]
    return sum(pad(k, size) for k, _ in branches), sum(b for _, b in branches)


def with_norm(state, bn, like):
    scale, shift = norm(state, bn)
    return scaled(identity(like), scale), shift


def repvgg(state, p):
    dense = fuse(state, f"{p}rbr_dense.conv", f"{p}rbr_dense.bn")
    branches = [dense, fuse(state, f"{p}rbr_1x1.conv", f"{p}rbr_1x1.bn")]
    if f"{p}rbr_identity.running_var" in state:
        branches.append(with_norm(state, f"{p}rbr_identity", dense[0]))
    return "rbr_reparam", parallel(branches)


def mobileone(state, p):
    branches = []
    while f"{p}rbr_conv.{len(branches)}.conv.weight" in state:
        i = len(branches)
        branches.append(fuse(state, f"{p}rbr_conv.{i}.conv", f"{p}rbr_conv.{i}.bn"))
    like = branches[0][0]
    if f"{p}rbr_scale.conv.weight" in state:
        branches.append(fuse(state, f"{p}rbr_scale.conv", f"{p}rbr_scale.bn"))
    if f"{p}rbr_skip.running_var" in state:
        branches.append(with_norm(state, f"{p}rbr_skip", like))
    return "reparam_conv", parallel(branches)


def acb(state, p):
    return "fused_conv", parallel([fuse(state, f"{p}{n}_conv", f"{p}{n}_bn") for n in ("square", "ver", "hor")])


def then(first, first_bias, second, second_bias):
    """1x1 and then k x k, the bias of the first at the border too (DBB's BN-and-pad)."""
    kernel = F.conv2d(second, first.permute(1, 0, 2, 3))
    return kernel, second_bias + (second * first_bias.view(1, -1, 1, 1)).sum((1, 2, 3))


def dbb(state, p):
    branches = [fuse(state, f"{p}dbb_origin.conv", f"{p}dbb_origin.bn")]
    size = branches[0][0].shape[2:]
    if f"{p}dbb_1x1.conv.weight" in state:
        branches.append(fuse(state, f"{p}dbb_1x1.conv", f"{p}dbb_1x1.bn"))
    first = state.pop(f"{p}dbb_1x1_kxk.idconv1.weight")
    first = first + torch.eye(first.shape[0]).view_as(first)
    scale, shift = norm(state, f"{p}dbb_1x1_kxk.bn1.bn")
    second = fuse(state, f"{p}dbb_1x1_kxk.conv2", f"{p}dbb_1x1_kxk.bn2")
    branches.append(then(scaled(first, scale), shift, *second))
    channels = branches[0][0].shape[0]
    average = torch.zeros(channels, channels, *size)
    average[torch.arange(channels), torch.arange(channels)] = 1 / (size[0] * size[1])
    scale, shift = norm(state, f"{p}dbb_avg.avgbn")
    average = scaled(average, scale), shift
    inner = fuse(state, f"{p}dbb_avg.conv", f"{p}dbb_avg.bn.bn")
    branches.append(then(inner[0], inner[1], *average))
    return "dbb_reparam", parallel(branches)


def large_kernel(state, p):
    branches = [fuse(state, f"{p}lkb_origin.conv", f"{p}lkb_origin.bn")]
    if f"{p}small_conv.conv.weight" in state:
        branches.append(fuse(state, f"{p}small_conv.conv", f"{p}small_conv.bn"))
    return "lkb_reparam", parallel(branches)


KINDS = {
    "rbr_dense.conv.weight": repvgg,
    "rbr_conv.0.conv.weight": mobileone,
    "square_conv.weight": acb,
    "dbb_origin.conv.weight": dbb,
    "lkb_origin.conv.weight": large_kernel,
}


def merge(state):
    for anchor, kind in KINDS.items():
        for key in [k for k in state if k.endswith(anchor)]:
            p = key[: -len(anchor)]
            name, (weight, bias) = kind(state, p)
            state[f"{p}{name}.weight"], state[f"{p}{name}.bias"] = weight, bias
    for key in [k for k in state if re.search(r"(^|\.)bn\.running_var$", k)]:
        p = key[: -len("bn.running_var")]
        if f"{p}conv.weight" in state:
            weight, bias = fuse(state, f"{p}conv", f"{p}bn")
            state[f"{p}conv.weight"], state[f"{p}conv.bias"] = weight, bias
    return state


def convert(load, save, done):
    state = dict(torch.load(load, map_location="cpu"))
    done("read")
    merge(state)
    done("merge")
    torch.save(state, save)
    done("save")


if __name__ == "__main__":
    main(__doc__, convert, started)
