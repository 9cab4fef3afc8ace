"""Runs a quantized ONNX graph (QDQ) in PyTorch, with its fake quantization, and compares the integers of each layer.

Usage: python3 scripts/compare_quantized_torch.py FOLDER

FOLDER is what scripts/compare-quantized.ts wrote: graph.json (nodes) and tensors.pth (constants, the input, and ONNX
Runtime's integers of every QuantizeLinear). Writes result.pth, the outputs of the free run, and prints the differences.
"""
import json
import os
import sys

import torch
import torch.nn.functional as F

RANGES = {torch.uint8: (0, 255), torch.int8: (-128, 127)}


def padded(x, attrs, value=0.0):
    """Pads as ONNX writes it: all begins, then all ends."""
    pads = [int(p) for p in attrs.get("pads", [0, 0, 0, 0])]
    half = len(pads) // 2
    flat = [p for i in reversed(range(half)) for p in (pads[i], pads[half + i])]
    return F.pad(x, flat, value=value) if any(flat) else x


def conv(x, w, b=None, **attrs):
    return F.conv2d(padded(x, attrs), w, b, attrs.get("strides", 1), 0, attrs.get("dilations", 1), int(attrs.get("group", 1)))


def gemm(x, w, b=None, **attrs):
    x = x.t() if attrs.get("transA") else x
    y = attrs.get("alpha", 1) * (x @ (w.t() if attrs.get("transB") else w))
    return y if b is None else y + attrs.get("beta", 1) * b


def max_pool(x, **attrs):
    return F.max_pool2d(padded(x, attrs, float("-inf")), attrs["kernel_shape"], attrs.get("strides"))


def average_pool(x, **attrs):
    sums = F.avg_pool2d(padded(x, attrs), attrs["kernel_shape"], attrs.get("strides"))
    if attrs.get("count_include_pad"):
        return sums
    return sums / F.avg_pool2d(padded(torch.ones_like(x), attrs), attrs["kernel_shape"], attrs.get("strides"))


def reshape(x, shape, **_):
    return x.reshape([x.shape[i] if d == 0 else int(d) for i, d in enumerate(shape.tolist())])


def sliced(x, starts, ends, axes=None, steps=None, **_):
    axes = list(range(len(starts))) if axes is None else axes.tolist()
    steps = [1] * len(starts) if steps is None else steps.tolist()
    index = [slice(None)] * x.dim()
    for a, s, e, k in zip(axes, starts.tolist(), ends.tolist(), steps):
        index[a] = slice(s, e, k)
    return x[tuple(index)]


def split(x, sizes=None, **attrs):
    axis = int(attrs.get("axis", 0))
    parts = int(attrs.get("num_outputs", 1))
    return torch.split(x, -(-x.shape[axis] // parts) if sizes is None else sizes.tolist(), axis)


def hard_sigmoid(x, **attrs):
    return torch.clamp(attrs.get("alpha", 0.2) * x + attrs.get("beta", 0.5), 0, 1)


def mean(x, axes=None, **attrs):
    # An attribute or, from operator set 18 on, an input.
    return x.mean([int(a) for a in axes], keepdim=bool(attrs.get("keepdims", 1)))


OPS = {
    "Conv": conv,
    "Gemm": gemm,
    "MatMul": lambda a, b: a @ b,
    "Add": lambda a, b: a + b,
    "Mul": lambda a, b: a * b,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "HardSwish": lambda x: x * torch.clamp(x / 6 + 0.5, 0, 1),
    "HardSigmoid": hard_sigmoid,
    "Clip": lambda x, low=None, high=None: torch.clamp(x, low, high),
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": lambda x: x.mean((2, 3), keepdim=True),
    "ReduceMean": mean,
    "Concat": lambda *xs, axis: torch.cat(xs, int(axis)),
    "Flatten": lambda x, axis=1: x.flatten(int(axis)) if axis else x.reshape(1, -1),
    "Reshape": reshape,
    "Transpose": lambda x, perm: x.permute([int(p) for p in perm]),
    "Squeeze": lambda x, axes: x.squeeze(int(axes[0])) if len(axes) == 1 else x.reshape([d for i, d in enumerate(x.shape) if i not in axes.tolist()]),
    "Unsqueeze": lambda x, axes: x.unsqueeze(int(axes[0])),
    "Slice": sliced,
    "Split": split,
    "Pad": lambda x, pads, value=None, mode="constant": padded(x, {"pads": pads.tolist()}, 0.0 if value is None else float(value)),
    "Identity": lambda x: x,
}


def dequantized(integers, scale, zero, axis):
    """A constant, through PyTorch's fake quantization once more: it must stay what it is."""
    real = integers.double()
    if scale.dim() == 0 or scale.numel() == 1:
        x = ((real - zero.double().reshape(())) * scale.double().reshape(())).float()
        if integers.dtype not in RANGES:
            return x
        return torch.fake_quantize_per_tensor_affine(x, float(scale), int(zero), *RANGES[integers.dtype])
    shape = [-1 if i == axis else 1 for i in range(integers.dim())]
    x = ((real - zero.double().view(shape)) * scale.double().view(shape)).float()
    if integers.dtype not in RANGES:
        return x
    return torch.fake_quantize_per_channel_affine(x, scale, zero.to(torch.int32), axis, *RANGES[integers.dtype])


def run(graph, constants, x, forced=None):
    """All values by name. With `forced`, each layer's integers are compared with those, which then take their place."""
    values, integers = {**constants, graph["input"]: x}, {}
    for node in graph["nodes"]:
        kind, attrs, outputs = node["opType"], node["attrs"], node["outputs"]
        given = [values[name] if name else None for name in node["inputs"]]
        if kind == "QuantizeLinear":
            x, scale, zero = given
            low, high = RANGES[zero.dtype]
            y = torch.fake_quantize_per_tensor_affine(x, float(scale), int(zero), low, high)
            integers[outputs[0]] = torch.round(y / scale).to(torch.int32) + int(zero)
            if forced is not None:
                if forced[outputs[0]].shape != y.shape:
                    sys.exit(f"{node['name']}: {tuple(y.shape)} here, {tuple(forced[outputs[0]].shape)} in ONNX Runtime")
                y = (forced[outputs[0]].float() - float(zero)) * scale
            values[outputs[0]] = y
        elif kind == "DequantizeLinear":
            # What PyTorch's fake quantization gives is dequantized already.
            source = node["inputs"][0]
            made = dequantized(*given, int(attrs.get("axis", 1))) if source in constants else given[0]
            values[outputs[0]] = made
        else:
            made = OPS[kind](*given, **attrs)
            for name, value in zip(outputs, made if isinstance(made, (tuple, list)) else [made]):
                values[name] = value
    return values, integers


@torch.no_grad()
def main(folder):
    with open(os.path.join(folder, "graph.json")) as f:
        graph = json.load(f)
    tensors = torch.load(os.path.join(folder, "tensors.pth"), map_location="cpu")
    part = lambda kind: {k[len(kind) :]: v for k, v in tensors.items() if k.startswith(kind)}  # noqa: E731
    constants, expected = part("constant:"), part("expected:")
    layers, results, batch = {}, [], 10
    count = len(tensors["input"])
    # The first axis may be that of pictures and channels together.
    part_of = lambda v, at: v[at * (len(v) // count) : (at + batch) * (len(v) // count)]  # noqa: E731
    for at in range(0, count, batch):
        x = tensors["input"][at : at + batch]
        here = {name: part_of(value, at) for name, value in expected.items()}
        values, free = run(graph, constants, x)
        _, own = run(graph, constants, x, here)
        results.append({name: values[name] for name in graph["outputs"]})
        for name, made in own.items():
            far = (made - here[name].int()).abs()
            entry = layers.setdefault(name, {"steps": 0, "differ": 0, "of": 0, "free": 0})
            entry["steps"] = max(entry["steps"], int(far.max()))
            entry["differ"] += int((far > 0).sum())
            entry["of"] += far.numel()
            entry["free"] = max(entry["free"], int((free[name] - here[name].int()).abs().max()))
    torch.save({name: torch.cat([r[name] for r in results]) for name in graph["outputs"]}, os.path.join(folder, "result.pth"))
    found = {n: {"steps": e["steps"], "share": e["differ"] / e["of"], "free": e["free"]} for n, e in layers.items()}
    print(json.dumps({"torch": torch.__version__, "layers": found}))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
