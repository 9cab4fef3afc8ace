"""PyTorch's side of `npm run precision`: its float32 error against its own float64, case by case.

    python3 scripts/precision/pytorch.py > test/fixtures/precision/pytorch.json

Reads cases.json beside it; inputs are made by a formula (see inputs.ts), so that both sides have the same. Of every
tensor it writes the largest value, the error of float32, and the float64 values' sum with formula weights, by which the
other side's float64 is checked.
"""
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F


def uniform(key, size):
    """Values in [0, 1) that depend on key and index alone."""
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


ROOT3 = 1.7320508075688772


def signed(key, size):
    """Mean 0, variance 1."""
    return ROOT3 * (2 * uniform(key, size) - 1)


def make(name, shape, condition, classes):
    """An input as float64 that holds float32 values."""
    size = int(np.prod(shape))
    if name == "labels":
        return np.floor(uniform("labels", size) * classes).astype(np.int64).reshape(shape)
    if name == "x":
        own = signed("x", size).reshape(shape)
        if "own" in condition:
            n, rest = shape[0], shape[2:]
            common = signed("common", n * int(np.prod(rest))).reshape(n, 1, *rest)
            own = common + condition["own"] * own
        if condition.get("constant"):
            own[:, ::2] = 0
        values = own + condition["offset"]
    elif name == "w":
        values = signed("w", size).reshape(shape) / np.sqrt(size / shape[0])
    elif name == "weight":
        values = 0.5 + uniform("weight", size)
    elif name == "bias":
        values = uniform("bias", size) - 0.5
    elif name == "mean":
        values = condition["offset"] + 0.1 * signed("mean", size)
    elif name == "variance":
        values = 0.5 + uniform("variance", size)
    else:
        values = signed(name, size)
    return np.asarray(values).reshape(shape).astype(np.float32).astype(np.float64)


def normed(y, t, results):
    mean, variance = torch.zeros_like(t["weight"]), torch.ones_like(t["weight"])
    out = F.batch_norm(y, mean, variance, t["weight"], t["bias"], True, 1.0, 1e-5)
    results["mean"], results["variance"] = mean, variance
    return out


def conv(t, o):
    return F.conv2d(t["x"], t["w"], None, o.get("stride", 1), o.get("padding", 0), 1, o.get("groups", 1))


OPS = {
    "batchNormTrain": lambda t, o, r: normed(t["x"], t, r),
    "batchNorm": lambda t, o, r: F.batch_norm(t["x"], t["mean"], t["variance"], t["weight"], t["bias"], False, 0, 1e-5),
    "pointwiseNormTrain": lambda t, o, r: normed(conv(t, o), t, r),
    "convNormTrain": lambda t, o, r: normed(conv(t, o), t, r),
    "conv2d": lambda t, o, r: conv(t, o),
    "linear": lambda t, o, r: F.linear(t["x"], t["w"], t["bias"]),
    "softmax": lambda t, o, r: F.softmax(t["x"], 1),
    "logSoftmax": lambda t, o, r: F.log_softmax(t["x"], 1),
    "crossEntropy": lambda t, o, r: F.cross_entropy(t["x"], t["labels"], label_smoothing=o.get("labelSmoothing", 0.0)),
    "globalAvgPool": lambda t, o, r: F.adaptive_avg_pool2d(t["x"], 1).flatten(1),
    "avgPool2d": lambda t, o, r: F.avg_pool2d(t["x"], o["kernelSize"], o["stride"], o["padding"]),
    "maxPool2d": lambda t, o, r: F.max_pool2d(t["x"], o["kernelSize"], o["stride"], o["padding"]),
    "layerNorm": lambda t, o, r: F.layer_norm(t["x"], t["weight"].shape, t["weight"], t["bias"], 1e-5),
    "instanceNorm": lambda t, o, r: F.instance_norm(t["x"], weight=t["weight"], bias=t["bias"], eps=1e-5),
    "groupNorm": lambda t, o, r: F.group_norm(t["x"], o["groups"], t["weight"], t["bias"], 1e-5),
}
FIXED = ("mean", "variance", "labels")


def run(case, condition, dtype):
    shapes = case["inputs"]
    classes = shapes["x"][-1]
    t = {}
    for name, shape in shapes.items():
        value = torch.from_numpy(make(name, shape, condition, classes))
        t[name] = value if name == "labels" else value.to(dtype).requires_grad_(name not in FIXED)
    results = {}
    y = OPS[case["op"]](t, case.get("options", {}), results)
    dy = torch.from_numpy(make("dy", list(y.shape) or [1], condition, classes)).to(dtype).reshape(y.shape)
    if y.dim() == 0:
        dy = torch.ones_like(y)
    wrt = [name for name in shapes if name not in FIXED]
    results = {"y": y.detach(), **results}
    results.update((f"d{name}", g) for name, g in zip(wrt, torch.autograd.grad(y, [t[name] for name in wrt], dy)))
    return {name: value.double().numpy().reshape(-1) for name, value in results.items()}


def rounded(value, digits):
    return float(f"{value:.{digits - 1}e}")


def main():
    spec = json.loads((Path(__file__).parent / "cases.json").read_text())
    entries = {}
    for case in spec["cases"]:
        for name, condition in spec["conditions"].items():
            exact, single = run(case, condition, torch.float64), run(case, condition, torch.float32)
            entries[f"{case['name']}: {name}"] = {
                key: {
                    "largest": rounded(np.abs(value).max(), 6),
                    "error": rounded(np.abs(single[key] - value).max(), 3),
                    "sum": rounded(np.dot(2 * uniform("sum", value.size) - 1, value), 12),
                }
                for key, value in exact.items()
            }
    lines = [f"{json.dumps(name)}:{json.dumps(tensors, separators=(',', ':'))}" for name, tensors in entries.items()]
    sys.stdout.write(f'{{"pytorch":{json.dumps(torch.__version__)},"entries":{{\n' + ",\n".join(lines) + "\n}}\n")


if __name__ == "__main__":
    main()
