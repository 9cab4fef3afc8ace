"""Goldens of ResNet, MobileNet and ACNet's CIFAR-10 networks with units of each kind, narrow, written in plain PyTorch
after the papers and the authors' key names.

    python3 scripts/make-golden-networks.py test/fixtures/golden

writes `networks/*.safetensors` and their records into `cases.json`: random values and statistics of the training form,
the merged form by an algebra of its own in float64, and both outputs in evaluation mode.
"""
import json
import struct
import sys
from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


class ConvBn(nn.Module):
    def __init__(self, i, o, k, s=1, p=0, g=1):
        super().__init__()
        self.conv = nn.Conv2d(i, o, k, s, p, groups=g, bias=False)
        self.bn = nn.BatchNorm2d(o)

    def forward(self, x):
        return self.bn(self.conv(x))

    def merged(self):
        return named("conv", fold(self.conv.weight, self.bn))


class Acb(nn.Module):
    def __init__(self, i, o, k, s=1, p=0, g=1):
        super().__init__()
        assert p == k // 2
        self.square_conv = nn.Conv2d(i, o, k, s, p, groups=g, bias=False)
        self.square_bn = nn.BatchNorm2d(o)
        self.ver_conv = nn.Conv2d(i, o, (k, 1), s, (p, 0), groups=g, bias=False)
        self.hor_conv = nn.Conv2d(i, o, (1, k), s, (0, p), groups=g, bias=False)
        self.ver_bn = nn.BatchNorm2d(o)
        self.hor_bn = nn.BatchNorm2d(o)

    def forward(self, x):
        return self.square_bn(self.square_conv(x)) + self.ver_bn(self.ver_conv(x)) + self.hor_bn(self.hor_conv(x))

    def merged(self):
        weight, bias = fold(self.square_conv.weight, self.square_bn)
        size = weight.shape[2:]
        for conv, bn in ((self.ver_conv, self.ver_bn), (self.hor_conv, self.hor_bn)):
            w, b = fold(conv.weight, bn)
            weight, bias = weight + centred(w, size), bias + b
        return named("fused_conv", (weight, bias))


class NormPad(nn.Module):
    """Batch norm, then a frame of what it makes of zeros."""

    def __init__(self, c, p):
        super().__init__()
        self.bn, self.p = nn.BatchNorm2d(c), p

    def forward(self, x):
        zero = self.bn(torch.zeros_like(x[:, :, :1, :1]))
        y = F.pad(self.bn(x) - zero, [self.p] * 4)
        return y + zero


class Dbb(nn.Module):
    def __init__(self, i, o, k, s=1, p=0, g=1):
        super().__init__()
        assert p == k // 2 and g in (1, o)
        self.k, self.s, self.p, self.g = k, s, p, g
        self.dbb_origin = ConvBn(i, o, k, s, p, g)
        self.dbb_avg = nn.Module()
        if g < o:
            self.dbb_avg.conv = nn.Conv2d(i, o, 1, groups=g, bias=False)
            self.dbb_avg.bn = NormPad(o, p)
        self.dbb_avg.avgbn = nn.BatchNorm2d(o)
        if g < o:
            self.dbb_1x1 = ConvBn(i, o, 1, s, 0, g)
        inner = i if g < o else 2 * i
        self.dbb_1x1_kxk = nn.Module()
        name = "idconv1" if inner == i else "conv1"
        setattr(self.dbb_1x1_kxk, name, nn.Conv2d(i, inner, 1, groups=g, bias=False))
        self.dbb_1x1_kxk.bn1 = NormPad(inner, p)
        self.dbb_1x1_kxk.conv2 = nn.Conv2d(inner, o, k, s, groups=g, bias=False)
        self.dbb_1x1_kxk.bn2 = nn.BatchNorm2d(o)

    def first(self):
        own = self.dbb_1x1_kxk
        if hasattr(own, "conv1"):
            return own.conv1.weight
        w = own.idconv1.weight
        identity = torch.zeros_like(w)
        for c in range(w.shape[0]):
            identity[c, c % w.shape[1]] = 1
        return w + identity

    def forward(self, x):
        y = self.dbb_origin(x)
        if hasattr(self, "dbb_1x1"):
            y = y + self.dbb_1x1(x)
            pooled = F.avg_pool2d(self.dbb_avg.bn(self.dbb_avg.conv(x)), self.k, self.s)
        else:
            pooled = F.avg_pool2d(x, self.k, self.s, self.p)
        y = y + self.dbb_avg.avgbn(pooled)
        own = self.dbb_1x1_kxk
        inner = own.bn1(F.conv2d(x, self.first(), groups=self.g))
        return y + own.bn2(own.conv2(inner))

    def merged(self):
        size = (self.k, self.k)
        parts = [fold(self.dbb_origin.conv.weight, self.dbb_origin.bn)]
        o = parts[0][0].shape[0]
        if hasattr(self, "dbb_1x1"):
            w, b = fold(self.dbb_1x1.conv.weight, self.dbb_1x1.bn)
            parts.append((centred(w, size), b))
            average = torch.eye(o, dtype=torch.float64).reshape(o, o, 1, 1).repeat(1, 1, *size) / self.k**2
            first = fold(self.dbb_avg.conv.weight, self.dbb_avg.bn.bn)
            parts.append(composed(first, fold(average, self.dbb_avg.avgbn)))
        else:
            average = torch.ones(o, 1, *size, dtype=torch.float64) / self.k**2
            parts.append(fold(average, self.dbb_avg.avgbn))
        own = self.dbb_1x1_kxk
        parts.append(composed(fold(self.first(), own.bn1.bn), fold(own.conv2.weight, own.bn2), self.g))
        return named("dbb_reparam", (sum(w for w, _ in parts), sum(b for _, b in parts)))


class RepVgg(nn.Module):
    def __init__(self, i, o, k, s=1, p=0, g=1):
        super().__init__()
        self.rbr_identity = nn.BatchNorm2d(o) if i == o and s == 1 else None
        self.rbr_dense = ConvBn(i, o, k, s, p, g)
        self.rbr_1x1 = ConvBn(i, o, 1, s, 0, g)

    def forward(self, x):
        y = self.rbr_dense(x) + self.rbr_1x1(x)
        return y + self.rbr_identity(x) if self.rbr_identity else y

    def merged(self):
        weight, bias = fold(self.rbr_dense.conv.weight, self.rbr_dense.bn)
        o, i, *size = weight.shape
        parts = [fold(self.rbr_1x1.conv.weight, self.rbr_1x1.bn)]
        if self.rbr_identity:
            one = torch.zeros(o, i, 1, 1, dtype=torch.float64)
            one[range(o), [c % i for c in range(o)]] = 1
            parts.append(fold(one, self.rbr_identity))
        for w, b in parts:
            weight, bias = weight + centred(w, size), bias + b
        return named("rbr_reparam", (weight, bias))


def fold(weight, bn):
    scale = bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()
    return weight.double() * scale.reshape(-1, 1, 1, 1), bn.bias.double() - bn.running_mean.double() * scale


def centred(w, size):
    (h, width), (kh, kw) = size, w.shape[2:]
    return F.pad(w, [(width - kw) // 2, (width - kw) // 2, (h - kh) // 2, (h - kh) // 2])


def composed(first, second, groups=1):
    """A 1x1 convolution and then a larger one; kernels of groups written out in full and cut again."""
    dense = [spread(w, groups) for w in (first[0], second[0])]
    weight = torch.einsum("omhw,mi->oihw", dense[1], dense[0][:, :, 0, 0])
    bias = second[1] + torch.einsum("omhw,m->o", dense[1], first[1])
    per = weight.shape[0] // groups
    inputs = weight.shape[1] // groups
    rows = [weight[g * per : (g + 1) * per, g * inputs : (g + 1) * inputs] for g in range(groups)]
    return torch.cat(rows), bias


def spread(w, groups):
    o, i, h, width = w.shape
    dense = torch.zeros(o, i * groups, h, width, dtype=w.dtype)
    per = o // groups
    for g in range(groups):
        dense[g * per : (g + 1) * per, g * i : (g + 1) * i] = w[g * per : (g + 1) * per]
    return dense


def named(prefix, pair):
    return {f"{prefix}.weight": pair[0].float(), f"{prefix}.bias": pair[1].float()}


UNITS = {"plain": ConvBn, "acb": Acb, "dbb": Dbb, "repvgg": RepVgg}


def unit(kind, i, o, k, s=1, p=0, g=1):
    return (UNITS[kind] if 1 < k < 7 else ConvBn)(i, o, k, s, p, g)


class Residual(nn.Module):
    def __init__(self, kind, i, c, s, bottleneck):
        super().__init__()
        o = 4 * c if bottleneck else c
        self.shortcut = None if s == 1 and i == o else unit(kind, i, o, 1, s)
        if bottleneck:
            self.conv1, self.conv2, self.conv3 = unit(kind, i, c, 1), unit(kind, c, c, 3, s, 1), unit(kind, c, o, 1)
        else:
            self.conv1, self.conv2, self.conv3 = unit(kind, i, c, 3, s, 1), unit(kind, c, c, 3, 1, 1), None

    def forward(self, x):
        y = self.conv2(F.relu(self.conv1(x)))
        if self.conv3 is not None:
            y = self.conv3(F.relu(y))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nn.Module):
    def __init__(self, unit_kind, block, num_blocks, width_multiplier, num_classes):
        super().__init__()
        widths = [int(c * width_multiplier) for c in (64, 128, 256, 512)]
        i = widths[0]
        self.stage0 = nn.Sequential(OrderedDict(conv1=unit(unit_kind, 3, i, 7, 2, 3)))
        for n, (c, count) in enumerate(zip(widths, num_blocks), 1):
            stage = []
            for j in range(count):
                stage.append(Residual(unit_kind, i, c, 2 if n > 1 and j == 0 else 1, block == "bottleneck"))
                i = 4 * c if block == "bottleneck" else c
            setattr(self, f"stage{n}", nn.Sequential(*stage))
        self.linear = nn.Linear(i, num_classes)

    def forward(self, x):
        y = F.max_pool2d(F.relu(self.stage0(x)), 3, 2, 1)
        return self.linear(self.stage4(self.stage3(self.stage2(self.stage1(y)))).mean((2, 3)))


class MobileNet(nn.Module):
    def __init__(self, unit_kind, width_multiplier, num_classes):
        super().__init__()
        outputs = [64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024]
        first, *widths = [int(c * width_multiplier) for c in [32, *outputs]]
        self.conv1 = unit(unit_kind, 3, first, 3, 2, 1)
        self.stem = nn.Sequential()
        for n, (i, o) in enumerate(zip([first, *widths], widths)):
            stride = 2 if n in (1, 3, 5, 11) else 1
            pair = OrderedDict(depthwise=unit(unit_kind, i, i, 3, stride, 1, i), pointwise=unit(unit_kind, i, o, 1))
            self.stem.add_module(str(n), nn.Sequential(pair))
        self.linear = nn.Linear(widths[-1], num_classes)

    def forward(self, x):
        y = F.relu(self.conv1(x))
        for pair in self.stem:
            y = F.relu(pair.pointwise(F.relu(pair.depthwise(y))))
        return self.linear(y.mean((2, 3)))


def before_relu(kind, *args):
    made = unit(kind, *args)
    return made if isinstance(made, ConvBn) else nn.Sequential(OrderedDict([(kind, made)]))


class CifarQuick(nn.Module):
    def __init__(self, unit_kind, width_multiplier, num_classes):
        super().__init__()
        a, b, c = (int(w * width_multiplier) for w in (32, 32, 64))
        self.conv1 = before_relu(unit_kind, 3, a, 5, 1, 2)
        self.conv2 = before_relu(unit_kind, a, b, 5, 1, 2)
        self.conv3 = before_relu(unit_kind, b, c, 5, 1, 2)
        self.fc1 = nn.Linear(9 * c, 64)
        self.fc2 = nn.Linear(64, num_classes)

    def forward(self, x):
        y = F.max_pool2d(F.relu(self.conv1(x)), 3, 2)
        y = F.avg_pool2d(F.relu(self.conv2(y)), 3, 2)
        y = F.avg_pool2d(F.relu(self.conv3(y)), 3, 2)
        return self.fc2(F.relu(self.fc1(y.flatten(1))))


class Vgg(nn.Module):
    def __init__(self, unit_kind, width_multiplier, num_classes):
        super().__init__()
        widths = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]
        self.stem, i, convs, pools = nn.Sequential(), 3, 0, 0
        for w in widths:
            if w == "M":
                pools += 1
                self.stem.add_module(f"maxpool{pools}", nn.MaxPool2d(2))
                continue
            convs += 1
            o = int(w * width_multiplier)
            self.stem.add_module(f"conv{convs}", before_relu(unit_kind, i, o, 3, 1, 1))
            i = o
        self.linear1, self.linear2 = nn.Linear(i, 512), nn.Linear(512, num_classes)

    def forward(self, x):
        for name, part in self.stem._modules.items():
            x = part(x) if name.startswith("maxpool") else F.relu(part(x))
        return self.linear2(F.relu(self.linear1(x.flatten(1))))


class Branch(nn.Module):
    def __init__(self, kind, i, c, s):
        super().__init__()
        self.conv1 = before_relu(kind, i, c, 3, s, 1)
        self.conv2 = unit(kind, c, c, 3, 1, 1)

    def forward(self, x):
        return self.conv2(F.relu(self.conv1(x)))


class BasicStage(nn.Module):
    def __init__(self, kind, i, c, count):
        super().__init__()
        if i == 3:
            self.conv1 = unit(kind, 3, c, 3, 1, 1)
        else:
            self.projection = unit(kind, i, c, 1, 2)
        self.count = count
        for j in range(count):
            down = j == 0 and i != 3
            setattr(self, f"block{j}", Branch(kind, i if down else c, c, 2 if down else 1))

    def forward(self, x):
        if hasattr(self, "conv1"):
            x = F.relu(self.conv1(x))
            x = F.relu(x + self.block0(x))
        else:
            x = F.relu(self.projection(x) + self.block0(x))
        for j in range(1, self.count):
            x = F.relu(x + getattr(self, f"block{j}")(x))
        return x


class ResNet56(nn.Module):
    def __init__(self, unit_kind, width_multiplier, num_blocks, num_classes):
        super().__init__()
        a, b, c = (int(w * width_multiplier) for w in (16, 32, 64))
        self.stage1 = BasicStage(unit_kind, 3, a, num_blocks)
        self.stage2 = BasicStage(unit_kind, a, b, num_blocks)
        self.stage3 = BasicStage(unit_kind, b, c, num_blocks)
        self.linear = nn.Linear(c, num_classes)

    def forward(self, x):
        return self.linear(self.stage3(self.stage2(self.stage1(x))).mean((2, 3)))


def bare(kind, i, o, k, s, p):
    plain = kind == "plain" or k == 1
    return ("conv", nn.Conv2d(i, o, k, s, p, bias=False)) if plain else (kind, unit(kind, i, o, k, s, p))


def norm_relu_conv(kind, i, o, k, s, p):
    return nn.Sequential(OrderedDict([("bn", nn.BatchNorm2d(i)), ("relu", nn.ReLU()), bare(kind, i, o, k, s, p)]))


class WideBlock(nn.Module):
    def __init__(self, kind, i, c, s, first):
        super().__init__()
        self.proj = norm_relu_conv(kind, i, c, 1, s, 0) if first else None
        self.conv1 = norm_relu_conv(kind, i, c, 3, s, 1)
        self.conv2 = norm_relu_conv(kind, c, c, 3, 1, 1)

    def forward(self, x):
        return self.conv2(self.conv1(x)) + (x if self.proj is None else self.proj(x))


class Wide(nn.Module):
    def __init__(self, unit_kind, width_multiplier, num_blocks, num_classes):
        super().__init__()
        self.conv1 = bare(unit_kind, 3, 16, 3, 1, 1)[1]
        i = 16
        for n, w in enumerate((128, 256, 512), 1):
            c, stage = int(w * width_multiplier), OrderedDict()
            for j in range(num_blocks):
                stage[f"block{j + 1}"] = WideBlock(unit_kind, i, c, 2 if n > 1 and j == 0 else 1, j == 0)
                i = c
            setattr(self, f"stage{n}", nn.Sequential(stage))
        self.last_bn = nn.BatchNorm2d(i)
        self.linear = nn.Linear(i, num_classes)

    def forward(self, x):
        return self.linear(self.last_bn(self.stage3(self.stage2(self.stage1(self.conv1(x))))).mean((2, 3)))


FAMILIES = {
    "unit_resnet": ResNet,
    "unit_mobilenet": MobileNet,
    "cifar-quick": CifarQuick,
    "vgg": Vgg,
    "resnet-56": ResNet56,
    "wrn-16-8": Wide,
}


def case(family, kind, size, **args):
    cls = FAMILIES[args.get("network", family)]
    torch.manual_seed(len(family) + len(kind))
    net = cls(kind, **{k: v for k, v in args.items() if k != "network"})
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight)
            if isinstance(m, nn.BatchNorm2d):
                # A tenth are negative, so that a mistake shows, but the network passes its input on.
                m.weight.uniform_(0.8, 1.6).mul_(torch.randint(0, 10, m.weight.shape).sub(0.5).sign())
                m.bias.uniform_(-0.2, 0.4)
                m.running_mean.uniform_(-0.3, 0.3)
                m.running_var.uniform_(0.4, 1.5)
        net.eval()
        x = torch.randn(2, 3, size, size)
        tensors = {"input": x, "train.output": net(x)}
        exact = net.double()(x.double())
        net.float()
        tensors |= {f"train.{k}": v.clone() for k, v in net.state_dict().items()}
        merged = {k: v for k, v in net.state_dict().items()}
        for path, m in net.named_modules():
            if type(m) in UNITS.values() and not any(path.startswith(f"{p}.") for p in done_units(net)):
                for key in [k for k in merged if k.startswith(f"{path}.")]:
                    del merged[key]
                merged |= {f"{path}.{k}": v for k, v in m.merged().items()}
        tensors |= {f"deploy.{k}": v for k, v in merged.items()}
        # What the merged form computes, in exact arithmetic, is what the training form does.
        tensors["deploy.output"] = exact.float()
    scale = exact.abs().max().item()
    name = f"{args.get('network', family)}_{kind}".replace("unit_", "")
    return name, tensors, {
        "id": f"network_{name}",
        "family": family,
        "file": f"networks/{name}.safetensors",
        "args": {"unit": kind, **args},
        "input_shape": list(x.shape),
        "output_abs_max": scale,
        "suggested_abs_tol": 4e-6 * scale,
    }


def done_units(net):
    return [path for path, m in net.named_modules() if type(m) in UNITS.values()]


def save(path, tensors):
    dtypes = {torch.float32: "F32", torch.int64: "I64"}
    header, data = {}, b""
    for name, t in tensors.items():
        raw = t.contiguous().numpy().tobytes()
        header[name] = {
            "dtype": dtypes[t.dtype],
            "shape": list(t.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def main():
    folder = Path(sys.argv[1])
    (folder / "networks").mkdir(exist_ok=True)
    cifar = {"family": "acnet_cifar", "size": 32, "num_classes": 4}
    resnet = {"family": "unit_resnet", "num_blocks": [1, 2, 1, 1], "width_multiplier": 1 / 32, "num_classes": 5}
    wanted = [
        dict(kind="acb", size=40, block="basic", **resnet),
        dict(kind="dbb", size=33, block="bottleneck", **resnet),
        dict(family="unit_mobilenet", kind="dbb", size=40, width_multiplier=1 / 16, num_classes=5),
        dict(kind="acb", network="cifar-quick", width_multiplier=1 / 8, **cifar),
        dict(kind="repvgg", network="cifar-quick", width_multiplier=1 / 8, **cifar),
        dict(kind="acb", network="vgg", width_multiplier=1 / 64, **cifar),
        dict(kind="acb", network="resnet-56", width_multiplier=1 / 8, num_blocks=2, **cifar),
        dict(kind="acb", network="wrn-16-8", width_multiplier=1 / 64, num_blocks=1, **cifar),
    ]
    path = folder / "cases.json"
    cases = json.loads(path.read_text())
    others = [c for c in cases["blocks"] if not c["id"].startswith("network_")]
    records = []
    for one in wanted:
        name, tensors, record = case(**one)
        save(folder / "networks" / f"{name}.safetensors", tensors)
        records.append({**record, "bytes": (folder / record["file"]).stat().st_size})
        outputs = tensors["train.output"]
        difference = (outputs[0] - outputs[1]).abs().max().item() / outputs.abs().max().item()
        print(f"{name}: {records[-1]['bytes']} bytes; two pictures differ by {difference:.2f} of the largest output")
    cases["blocks"] = others + records
    path.write_text(json.dumps(cases, indent=1) + "\n")


main()
