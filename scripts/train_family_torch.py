"""Trains small networks of the family on CIFAR-10 in PyTorch, for files that another program made: the checkpoints have the
keys of the authors' code. docs/guides/quantize.md and docs/guides/prune.md have tables of what becomes of them.

Usage: python3 scripts/train_family_torch.py DATA OUT NETWORK [--epochs 100] [--batch 256] [--decay 5e-4] [--seed 0] [--minutes M]

DATA holds train*.bin and test*.bin in CIFAR-10's binary layout. NETWORK is one of
  resnet56     ResNet-56, shortcuts without weights
  repvgg       RepVGG of A0's 22 layers, half as wide, for 32 pixels (strides 1, 2, 2, 2, 2), ordinary weight decay
  repvgg-l2    the same with the authors' custom L2 in place of weight decay on the two kernels of a block
  qarepvgg     QARepVGG's blocks in the same shape
  repopt       plain convolutions in the same shape by RepOptimizer: a search for the scales, then the network itself
SGD with Nesterov momentum 0.9, a cosine from 0.1, crops and flips. OUT/NETWORK.pth is the training form, OUT/NETWORK.json the
accuracy, and that of the merged network with one scale per weight and per activation by min and max (PyTorch's fake
quantization). --minutes takes as many of the epochs as fit.
"""
import argparse
import copy
import glob
import json
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

MEAN, STD = (0.4914, 0.48216, 0.44653), (0.24703, 0.24349, 0.26159)
BLOCKS, WIDTHS, STRIDES = (2, 4, 14, 1), (24, 48, 96, 640), (1, 2, 2, 2, 2)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def read(folder, split):
    records = [np.fromfile(f, np.uint8).reshape(-1, 3073) for f in sorted(glob.glob(os.path.join(folder, split + "*.bin")))]
    records = np.concatenate(records)
    images = torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32).copy())
    return images.to(DEVICE), torch.from_numpy(records[:, 0].astype(np.int64)).to(DEVICE)


def pixels(images):
    mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (images.float() / 255 - mean) / std


def augmented(images):
    """Crops after padding by 4 black pixels, and flips."""
    n = len(images)
    padded = F.pad(images, (4, 4, 4, 4))
    top, left = torch.randint(0, 9, (2, n, 1), device=images.device)
    steps = torch.arange(32, device=images.device)
    rows, columns = top + steps, left + steps
    columns = torch.where(torch.rand(n, 1, device=images.device) < 0.5, columns.flip(1), columns)
    picked = padded.permute(0, 2, 3, 1)[torch.arange(n, device=images.device).view(-1, 1, 1), rows[:, :, None], columns[:, None]]
    return pixels(picked.permute(0, 3, 1, 2))


class ConvBn(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return self.bn(self.conv(x))


def normed(weight, bias, bn):
    """Kernel and bias of a convolution with the norm behind it."""
    scale = bn.weight / (bn.running_var + bn.eps).sqrt()
    return weight * scale.view(-1, 1, 1, 1), bn.bias + (bias - bn.running_mean) * scale


def centre(kernel):
    return F.pad(kernel, (1, 1, 1, 1))


def identity(channels, device):
    return torch.eye(channels, device=device).view(channels, channels, 1, 1)


class RepVGGBlock(nn.Module):
    def __init__(self, inputs, outputs, stride, position):
        super().__init__()
        self.stride = stride
        self.rbr_identity = nn.BatchNorm2d(inputs) if inputs == outputs and stride == 1 else None
        self.rbr_dense = ConvBn(inputs, outputs, 3, stride)
        self.rbr_1x1 = ConvBn(inputs, outputs, 1, stride)

    def forward(self, x):
        y = self.rbr_dense(x) + self.rbr_1x1(x)
        return F.relu(y if self.rbr_identity is None else y + self.rbr_identity(x))

    def merged(self):
        weight, bias = normed(self.rbr_dense.conv.weight, 0, self.rbr_dense.bn)
        small, more = normed(self.rbr_1x1.conv.weight, 0, self.rbr_1x1.bn)
        weight, bias = weight + centre(small), bias + more
        if self.rbr_identity is not None:
            own, more = normed(identity(len(bias), bias.device), 0, self.rbr_identity)
            weight, bias = weight + centre(own), bias + more
        return weight, bias

    def penalty(self):
        dense, small = self.rbr_dense, self.rbr_1x1
        t3, t1 = ((b.bn.weight / (b.bn.running_var + b.bn.eps).sqrt()).view(-1, 1, 1, 1).detach() for b in (dense, small))
        kernel = dense.conv.weight
        middle = kernel[:, :, 1:2, 1:2]
        joint = (middle * t3 + small.conv.weight * t1) ** 2 / (t3**2 + t1**2)
        return (kernel**2).sum() - (middle**2).sum() + joint.sum()


class QARepVGGBlock(nn.Module):
    def __init__(self, inputs, outputs, stride, position):
        super().__init__()
        self.stride, self.same = stride, inputs == outputs and stride == 1
        self.rbr_dense = ConvBn(inputs, outputs, 3, stride)
        self.rbr_1x1 = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        y = self.rbr_dense(x) + self.rbr_1x1(x)
        return F.relu(self.bn(y + x if self.same else y))

    def merged(self):
        weight, bias = normed(self.rbr_dense.conv.weight, 0, self.rbr_dense.bn)
        weight = weight + centre(self.rbr_1x1.weight)
        if self.same:
            weight = weight + centre(identity(len(bias), bias.device))
        return normed(weight, bias, self.bn)


class Scale(nn.Module):
    def __init__(self, channels, value):
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), value))

    def forward(self, x):
        return x * self.weight.view(1, -1, 1, 1)


class SearchBlock(nn.Module):
    """Constant scales of RepOptimizer are those that this block ends with."""

    def __init__(self, inputs, outputs, stride, position):
        super().__init__()
        value = math.sqrt(2 / (position + 1))
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.scale_conv = Scale(outputs, value)
        self.conv_1x1 = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.scale_1x1 = Scale(outputs, value)
        self.scale_identity = Scale(outputs, 1.0) if inputs == outputs and stride == 1 else None
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        y = self.scale_conv(self.conv(x)) + self.scale_1x1(self.conv_1x1(x))
        return F.relu(self.bn(y if self.scale_identity is None else y + self.scale_identity(x)))


class PlainBlock(nn.Module):
    def __init__(self, inputs, outputs, stride, position):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))

    def merged(self):
        return normed(self.conv.weight, 0, self.bn)

    def start_from(self, search):
        """Initial weights that the branches amount to; returns the factors of the gradient."""
        scales = [search.scale_conv, search.scale_1x1, search.scale_identity]
        conv, small, own = (None if s is None else s.weight.detach().view(-1, 1, 1, 1) for s in scales)
        factors = (conv**2).expand_as(self.conv.weight).clone()
        factors[:, :, 1:2, 1:2] += small**2
        one = nn.Conv2d(search.conv.in_channels, search.conv.out_channels, 1, bias=False).to(conv.device)
        with torch.no_grad():
            self.conv.weight.mul_(conv).add_(centre(one.weight * small))
            if own is not None:
                kernel = centre(identity(len(conv), conv.device))
                self.conv.weight.add_(kernel * own)
                factors += kernel
        return factors


class Plain(nn.Module):
    """RepVGG's shape: blocks one after the other, average, linear."""

    def __init__(self, block):
        super().__init__()
        inputs = min(64, WIDTHS[0])
        self.stage0 = block(3, inputs, STRIDES[0], 0)
        for stage, (count, width, stride) in enumerate(zip(BLOCKS, WIDTHS, STRIDES[1:])):
            blocks = [block(inputs if i == 0 else width, width, stride if i == 0 else 1, i) for i in range(count)]
            setattr(self, f"stage{stage + 1}", nn.Sequential(*blocks))
            inputs = width
        self.linear = nn.Linear(inputs, 10)

    def blocks(self):
        return [self.stage0] + [b for stage in range(1, 5) for b in getattr(self, f"stage{stage}")]

    def forward(self, x):
        for block in self.blocks():
            x = block(x)
        return self.linear(x.mean((2, 3)))

    def penalty(self):
        return sum(block.penalty() for block in self.blocks())


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, (outputs - inputs) // 2

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        short = x[:, :, :: self.stride, :: self.stride]
        return F.relu(y + (F.pad(short, (0, 0, 0, 0, self.more, self.more)) if self.more else short))


class ResNet56(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        inputs = 16
        for stage, width in enumerate((16, 32, 64)):
            blocks = [BasicBlock(inputs if i == 0 else width, width, 2 if i == 0 and stage else 1) for i in range(9)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            inputs = width
        self.linear = nn.Linear(64, 10)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def correct(forward, images, labels):
    with torch.no_grad():
        return sum((forward(pixels(x)).argmax(1) == y).sum().item() for x, y in zip(images.split(500), labels.split(500)))


def train(net, data, args, factors=None, custom=False):
    """Trains, and returns what a logged line says of each epoch. `factors` of gradients by parameter; `custom`: the blocks'
    penalty."""
    images, labels, test_images, test_labels = data
    parameters = dict(net.named_parameters())
    skip = {n for n in parameters if custom and n.endswith(("rbr_dense.conv.weight", "rbr_1x1.conv.weight"))}
    skip |= {n for n, p in parameters.items() if p.ndim == 1}
    groups = [
        {"params": [p for n, p in parameters.items() if n not in skip], "weight_decay": args.decay},
        {"params": [p for n, p in parameters.items() if n in skip], "weight_decay": 0.0},
    ]
    sgd = torch.optim.SGD(groups, 0.1, momentum=0.9, nesterov=True)
    steps = len(images) // args.batch
    epochs, history, done, epoch = args.epochs, [], 0, 0
    while epoch < epochs:
        net.train()
        order = torch.randperm(len(images), device=images.device)
        total = torch.zeros((), device=images.device)
        for step in range(steps):
            for group in sgd.param_groups:
                group["lr"] = 0.05 * (1 + math.cos(math.pi * (epoch * steps + step) / (epochs * steps)))
            chosen = order[step * args.batch : (step + 1) * args.batch]
            loss = F.cross_entropy(net(augmented(images[chosen])), labels[chosen])
            whole = loss + args.decay / 2 * net.penalty() if custom else loss
            sgd.zero_grad()
            whole.backward()
            for name, factor in (factors or {}).items():
                parameters[name].grad.mul_(factor)
            sgd.step()
            total += loss.detach()
            done += 1
            if done == 40:
                total.item()
                started = time.time()
            if done == 100 and args.minutes:
                total.item()
                each = (time.time() - started) / 60 * steps
                epochs = min(epochs, int(args.minutes * 60 / each) + 1)
                print(f"{each:.2f} s per epoch, {epochs} epochs", flush=True)
        epoch += 1
        net.eval()
        if epoch % 10 == 0 or epoch == epochs:
            right = correct(net, test_images, test_labels)
            history.append({"epoch": epoch, "loss": total.item() / steps, "correct": right})
            print(f"{epoch}/{epochs} loss {total.item() / steps:.4f} correct {right} of {len(test_labels)}", flush=True)
    return {"epochs": epochs, "history": history}


def one_scale(net, data):
    """Correct of the merged network in integers: one symmetric scale per weight, one range by min and max per activation."""
    images, labels, test_images, test_labels = data
    layers = [(*b.merged(), b.stride) for b in net.blocks()]

    def forward(x, ranges):
        def rounded(y, i):
            low, high = ranges[i] if ranges else (0, 0)
            if not ranges:
                seen[i] = (min(seen[i][0], y.min().item()), max(seen[i][1], y.max().item()))
                return y
            scale = (high - low) / 255
            return torch.fake_quantize_per_tensor_affine(y, scale, int(round(-low / scale)), 0, 255)

        for i, (weight, bias, stride) in enumerate(layers):
            if ranges:
                weight = torch.fake_quantize_per_tensor_affine(weight, weight.abs().max().item() / 127, 0, -127, 127)
            x = F.relu(F.conv2d(rounded(x, i), weight, bias, stride, 1))
        return net.linear(x.mean((2, 3)))

    seen = [(0.0, 0.0)] * len(layers)
    float_right = correct(lambda x: forward(x, None), test_images, test_labels)
    seen = [(0.0, 0.0)] * len(layers)
    correct(lambda x: forward(x, None), images[:512], labels[:512])
    ranges = list(seen)
    return {"merged": float_right, "one scale": correct(lambda x: forward(x, ranges), test_images, test_labels)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("out")
    parser.add_argument("network", choices=["resnet56", "repvgg", "repvgg-l2", "qarepvgg", "repopt"])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--decay", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--pictures", type=int, help="only the first of the training pictures")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())))
    images, labels = read(args.data, "train")
    data = (images[: args.pictures], labels[: args.pictures], *read(args.data, "test"))
    os.makedirs(args.out, exist_ok=True)
    result = {"network": args.network, "torch": torch.__version__, "seed": args.seed, "batch": args.batch, "decay": args.decay}
    if args.network == "resnet56":
        net = ResNet56().to(DEVICE)
        result.update(train(net, data, args))
    elif args.network == "repopt":
        search = Plain(SearchBlock).to(DEVICE)
        result["search"] = train(search, data, args)
        net = Plain(PlainBlock).to(DEVICE)
        pairs = zip([n for n, m in net.named_modules() if isinstance(m, PlainBlock)], net.blocks(), search.blocks())
        factors = {f"{name}.conv.weight": block.start_from(found) for name, block, found in pairs}
        result.update(train(net, data, args, factors))
    else:
        net = Plain(QARepVGGBlock if args.network == "qarepvgg" else RepVGGBlock).to(DEVICE)
        result.update(train(net, data, args, custom=args.network == "repvgg-l2"))
    if args.network != "resnet56":
        result.update(one_scale(copy.deepcopy(net), data))
    torch.save({k: v.cpu() for k, v in net.state_dict().items()}, os.path.join(args.out, f"{args.network}.pth"))
    with open(os.path.join(args.out, f"{args.network}.json"), "w") as f:
        json.dump(result, f)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
