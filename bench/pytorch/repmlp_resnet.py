"""RepMLP-ResNet in PyTorch, written from the paper (arXiv 2105.01883): what this package is compared with.

State-dict keys are those of the published checkpoints, in both forms.

    net = repmlp_resnet("RepMLP-Res50-light-224", deploy=False)
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F


def conv_bn(c_in, c_out, kernel, stride=1, padding=0, groups=1, deploy=False):
    """`conv` and `bn`; merged only `conv`, with a bias."""
    unit = nn.Sequential()
    unit.add_module("conv", nn.Conv2d(c_in, c_out, kernel, stride, padding, groups=groups, bias=deploy))
    if not deploy:
        unit.add_module("bn", nn.BatchNorm2d(c_out))
    return unit


class GlobalMlp(nn.Module):
    """FC1, ReLU, FC2 of the Global Perceptron."""

    def __init__(self, features, hidden):
        super().__init__()
        self.fc1 = nn.Linear(features, hidden)
        self.fc2 = nn.Linear(hidden, features)

    def forward(self, x):
        return self.fc2(F.relu(self.fc1(x)))


class RepMLP(nn.Module):
    """Global, Partition and Local Perceptron (section 3.1); merged, the local one is part of FC3."""

    def __init__(self, c_in, c_out, size, partition, kernels, groups, reduction=1, deploy=False):
        super().__init__()
        self.c_in, self.c_out = c_in, c_out
        (self.height, self.width), (self.h, self.w) = size, partition
        assert self.height % self.h == 0 and self.width % self.w == 0
        self.parts = (self.height // self.h) * (self.width // self.w)
        if self.parts > 1:
            features = c_in * self.parts
            self.fc1_fc2 = GlobalMlp(features, features // reduction)
            if not deploy:
                self.avg = nn.Sequential()
                self.avg.add_module("bn", nn.BatchNorm2d(c_in))
        self.fc3 = nn.Conv2d(c_in * self.h * self.w, c_out * self.h * self.w, 1, groups=groups, bias=deploy)
        self.kernels = () if deploy else tuple(kernels)
        if not deploy:
            self.fc3_bn = nn.BatchNorm1d(c_out * self.h * self.w)
        for k in self.kernels:
            self.add_module(f"repconv{k}", conv_bn(c_in, c_out, k, padding=k // 2, groups=groups))

    def forward(self, x):
        n, c = x.shape[:2]
        h, w = self.h, self.w
        hp, wp = self.height // h, self.width // w
        parts = x.view(n, c, hp, h, wp, w)
        if self.parts > 1:
            means = F.avg_pool2d(x, (h, w))
            if hasattr(self, "avg"):
                means = self.avg(means)
            parts = parts + self.fc1_fc2(means.reshape(n, -1)).view(n, c, hp, 1, wp, 1)
        maps = parts.permute(0, 2, 4, 1, 3, 5).reshape(n * hp * wp, c, h, w)
        y = self.fc3(maps.reshape(n * hp * wp, c * h * w, 1, 1)).flatten(1)
        if hasattr(self, "fc3_bn"):
            y = self.fc3_bn(y)
        y = y.view(-1, self.c_out, h, w)
        for k in self.kernels:
            y = y + getattr(self, f"repconv{k}")(maps)
        y = y.view(n, hp, wp, self.c_out, h, w).permute(0, 3, 1, 4, 2, 5)
        return y.reshape(n, self.c_out, self.height, self.width)


class Residual(nn.Module):
    """Layers in order, each with its key and whether a ReLU follows; the shortcut is added before the last ReLU."""

    def __init__(self, c_in, c_out, stride, layers, deploy):
        super().__init__()
        if stride != 1 or c_in != c_out:
            self.shortcut = conv_bn(c_in, c_out, 1, stride, deploy=deploy)
        for key, layer in layers:
            self.add_module(key, layer)
        self.order = [key for key, _ in layers]

    def forward(self, x):
        y = x
        for key in self.order[:-1]:
            y = F.relu(getattr(self, key)(y))
        y = getattr(self, self.order[-1])(y)
        return F.relu(y + (self.shortcut(x) if hasattr(self, "shortcut") else x))


class RepMLPResNet(nn.Module):
    def __init__(
        self, block, image=224, classes=1000, partition=(7, 7), kernels=(1, 3, 5), groups=(4, 4), reductions=(2, 4),
        deploy=False,
    ):
        super().__init__()
        stem = nn.Sequential(conv_bn(3, 64, 7, 2, 3, deploy=deploy), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.stage0 = stem
        width = 64
        for stage, (out, count) in enumerate(zip((256, 512, 1024, 2048), (3, 4, 6, 3)), start=1):
            blocks = []
            for i in range(count):
                stride = 2 if i == 0 and stage > 1 else 1
                kind = block if stride == 1 and stage in (2, 3) else "base"
                side = image // 2 ** (stage + 1)
                make = dict(deploy=deploy)

                def rep(c):
                    return RepMLP(c, c, (side, side), partition, kernels, groups[stage - 2], **make)

                if kind == "base":
                    mid = out // 4
                    layers = [
                        ("conv1", conv_bn(width, mid, 1, **make)),
                        ("conv2", conv_bn(mid, mid, 3, stride, 1, **make)),
                        ("conv3", conv_bn(mid, out, 1, **make)),
                    ]
                elif kind == "light":
                    mid = out // 8
                    layers = [
                        ("light_conv1", conv_bn(width, mid, 1, **make)),
                        ("light_repmlp", rep(mid)),
                        ("light_conv3", conv_bn(mid, out, 1, **make)),
                    ]
                else:
                    mid = out // 4
                    inner = mid // reductions[stage - 2]
                    layers = [
                        ("btnk_conv1", conv_bn(width, mid, 1, **make)),
                        ("btnk_conv2", conv_bn(mid, inner, 3, 1, 1, **make)),
                        ("btnk_repmlp", rep(inner)),
                        ("btnk_conv4", conv_bn(inner, mid, 3, 1, 1, **make)),
                        ("btnk_conv5", conv_bn(mid, out, 1, **make)),
                    ]
                blocks.append(Residual(width, out, stride, layers, deploy))
                width = out
            setattr(self, f"stage{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(width, classes)

    def forward(self, x):
        for stage in (self.stage0, self.stage1, self.stage2, self.stage3, self.stage4):
            x = stage(x)
        return self.linear(x.mean((2, 3)))


LARGE = dict(block="bottleneck", image=320, partition=(10, 10), kernels=(1, 3, 5, 7))
MODELS = {
    "RepMLP-Res50-light-224": dict(block="light", groups=(4, 4)),
    "RepMLP-Res50-bottleneck-224": dict(block="bottleneck", groups=(8, 8)),
    "RepMLP-Res50-bottleneck-320-g8/8": dict(LARGE, groups=(8, 8)),
    "RepMLP-Res50-bottleneck-320-g8/16": dict(LARGE, groups=(8, 16)),
    "RepMLP-Res50-bottleneck-320-g4/8": dict(LARGE, groups=(4, 8)),
    "ResNet-50-base-224": dict(block="base"),
}


def repmlp_resnet(name, deploy=False, **options):
    """A named network in one of its two forms, in evaluation mode."""
    return RepMLPResNet(**{**MODELS[name], **options}, deploy=deploy).eval()


def formula_uniform(key, size):
    """Values in [0, 1) that depend on key and index alone, float64."""
    import numpy as np

    seed = 0x811C9DC5
    for byte in key.encode():
        seed = ((seed ^ byte) * 0x01000193) & 0xFFFFFFFF
    with np.errstate(over="ignore"):
        x = np.arange(size, dtype=np.uint32) * np.uint32(0x9E3779B1) + np.uint32(seed)
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x85EBCA6B)
        x ^= x >> np.uint32(13)
        x *= np.uint32(0xC2B2AE35)
        x ^= x >> np.uint32(16)
    return x / 2.0**32


def fill_by_formula(net):
    """Values that depend on key and index alone, so that two programs can have the same without a file."""
    import numpy as np

    for key, tensor in net.state_dict().items():
        if key.endswith("num_batches_tracked"):
            tensor.fill_(100)
            continue
        u = formula_uniform(key, tensor.numel())
        if key.endswith("running_var"):
            u = 0.5 + u
        elif key.endswith("running_mean"):
            u = 0.2 * (u - 0.5)
        elif tensor.dim() == 1:
            u = 0.75 + 0.5 * u if key.endswith("weight") else 0.2 * (u - 0.5)
        else:
            u = (2 * u - 1) * math.sqrt(3 / (tensor.numel() // tensor.shape[0]))
        tensor.copy_(torch.from_numpy(u.astype(np.float32)).view(tensor.shape))
    return net
