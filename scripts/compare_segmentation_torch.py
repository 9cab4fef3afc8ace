"""Takes the training steps of scripts/segmentation-steps.ts in PyTorch and compares the losses.

Usage: python3 scripts/compare_segmentation_torch.py FOLDER [--noise-runs N]

FOLDER is what segmentation-steps.ts wrote: the same initial weights, batches and learning rates go in. PSPNet is written
here as its author has it, on a backbone of bench/pytorch. PyTorch is also run from weights with 1e-7 of relative noise:
our losses must come no further from PyTorch's than those runs do, or 1e-5 of the loss. Exit code 1 otherwise.
"""
import argparse
import json
import os
import sys

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(ROOT, "bench", "pytorch"))
from repmlp_resnet import RepMLP, Residual, conv_bn  # noqa: E402
from torch_noise import add_noise, shares  # noqa: E402


def dilated(c_in, c_out, stride, dilation):
    unit = nn.Sequential()
    unit.add_module("conv", nn.Conv2d(c_in, c_out, 3, stride, dilation, dilation=dilation, bias=False))
    unit.add_module("bn", nn.BatchNorm2d(c_out))
    return unit


class Backbone(nn.Module):
    def __init__(self, image, block, numBlocks, channels, stemChannels, partition=7, groups=(8, 8),
                 bottleneckReduction=(2, 4), fc1Fc2Reduction=1, reparamConvKernels=(1, 3, 5), **_):
        super().__init__()
        pair = lambda v: (v, v) if isinstance(v, int) else tuple(v)  # noqa: E731
        partition, groups, reduction = pair(partition), pair(groups), pair(fc1Fc2Reduction)
        self.stage0 = nn.Sequential(conv_bn(3, stemChannels, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        width = stemChannels
        # Stages 3 and 4 keep stride 1; RepMLP's stage 3 is not dilated.
        dilations = (1, 1, 1 if block == "bottleneck" else 2, 4)
        halvings = (2, 3, 3, 3)
        for stage, (out, count) in enumerate(zip(channels, numBlocks)):
            size = tuple(-(-d // 2 ** halvings[stage]) for d in image)
            blocks = []
            for i in range(count):
                stride = 2 if i == 0 and stage == 1 else 1
                mid = out // 4
                if block == "bottleneck" and i > 0 and stage in (1, 2):
                    inner = mid // bottleneckReduction[stage - 1]
                    rep = RepMLP(inner, inner, size, partition, reparamConvKernels, groups[stage - 1],
                                 reduction[stage - 1])
                    layers = [("btnk_conv1", conv_bn(width, mid, 1)), ("btnk_conv2", conv_bn(mid, inner, 3, 1, 1)),
                              ("btnk_repmlp", rep), ("btnk_conv4", conv_bn(inner, mid, 3, 1, 1)),
                              ("btnk_conv5", conv_bn(mid, out, 1))]
                else:
                    layers = [("conv1", conv_bn(width, mid, 1)), ("conv2", dilated(mid, mid, stride, dilations[stage])),
                              ("conv3", conv_bn(mid, out, 1))]
                blocks.append(Residual(width, out, stride, layers, False))
                width = out
            setattr(self, f"stage{stage + 1}", nn.Sequential(*blocks))

    def forward(self, x):
        c4 = self.stage3(self.stage2(self.stage1(self.stage0(x))))
        return c4, self.stage4(c4)


class PPM(nn.Module):
    def __init__(self, c, bins):
        super().__init__()
        r = c // len(bins)
        self.features = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(b), nn.Conv2d(c, r, 1, bias=False), nn.BatchNorm2d(r), nn.ReLU())
            for b in bins
        )

    def forward(self, x):
        up = [F.interpolate(f(x), x.shape[2:], mode="bilinear", align_corners=True) for f in self.features]
        return torch.cat([x, *up], 1)


def head(c_in, mid, classes):
    return nn.Sequential(nn.Conv2d(c_in, mid, 3, padding=1, bias=False), nn.BatchNorm2d(mid), nn.ReLU(), nn.Dropout2d(0),
                         nn.Conv2d(mid, classes, 1))


class PSPNet(nn.Module):
    def __init__(self, backbone, channels, classes, midChannels, auxChannels, bins=(1, 2, 3, 6)):
        super().__init__()
        self.backbone = backbone
        last = channels[-1]
        self.ppm = PPM(last, bins)
        self.cls = head(last + len(bins) * (last // len(bins)), midChannels, classes)
        self.aux = head(channels[-2], auxChannels, classes)

    def loss(self, x, y, ignore):
        c4, c5 = self.backbone(x)
        up = lambda t: F.interpolate(t, x.shape[2:], mode="bilinear", align_corners=True)  # noqa: E731
        main, aux = up(self.cls(self.ppm(c5))), up(self.aux(c4))
        return F.cross_entropy(main, y, ignore_index=ignore) + 0.4 * F.cross_entropy(aux, y, ignore_index=ignore)


def run(folder, info, seed=None):
    torch.manual_seed(0)
    options = info["options"]
    own = dict(options["backboneOptions"])
    block = "bottleneck" if "RepMLP" in options["backbone"] else "base"
    net = PSPNet(Backbone(info["imageSize"], block, **own), own["channels"], info["classes"], options["midChannels"],
                 options["auxChannels"]).train()
    net.load_state_dict(torch.load(os.path.join(folder, "before.pth"), map_location="cpu"), strict=True)
    add_noise(net, seed)
    named = list(net.named_parameters())
    groups = {}
    for key, p in named:
        groups.setdefault(info["scales"][key], []).append(p)
    s = info["optimizer"]
    optimizer = torch.optim.SGD([dict(params=ps, scale=k) for k, ps in groups.items()], lr=1, momentum=s["momentum"],
                                weight_decay=s["weightDecay"], nesterov=bool(s.get("nesterov", False)))
    n, (h, w) = info["batchSize"], info["imageSize"]
    images = np.fromfile(os.path.join(folder, "images.f32"), np.float32).reshape(-1, n, 3, h, w)
    masks = np.fromfile(os.path.join(folder, "masks.f32"), np.float32).reshape(-1, n, h, w)
    losses = []
    for x, y, rate in zip(images, masks, info["rates"]):
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        optimizer.zero_grad()
        loss = net.loss(torch.from_numpy(x), torch.from_numpy(y).long(), info["ignoreLabel"])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--noise-runs", type=int, default=2)
    args = parser.parse_args()
    with open(os.path.join(args.folder, "steps.json")) as f:
        info = json.load(f)
    ours = np.array(info["losses"])
    theirs = run(args.folder, info)
    own = np.abs(ours - theirs) / theirs
    noisy = [np.abs(run(args.folder, info, seed) - theirs) / theirs for seed in range(args.noise_runs)]
    noise = np.max(noisy, axis=0)
    print(f"{'step':>4} {'ours':>10} {'PyTorch':>10} {'relative':>9} {'noise':>9}")
    for i in range(len(ours)):
        print(f"{i + 1:4d} {ours[i]:10.6f} {theirs[i]:10.6f} {own[i]:9.1e} {noise[i]:9.1e}")
    worst = float(shares(own, noisy, least=1e-5).max())
    print(f"largest relative difference {own.max():.1e}, PyTorch's own noise {noise.max():.1e}")
    print("within PyTorch's noise" if worst <= 1 else f"beyond PyTorch's noise, {worst:.1f} times")
    sys.exit(worst > 1)


if __name__ == "__main__":
    main()
