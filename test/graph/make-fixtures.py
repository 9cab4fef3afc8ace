"""Expected values and gradients of PyTorch for the graph's ops: test/fixtures/graph/torch-*.

Run `python3 test/graph/make-fixtures.py` from the root of the repository (made with PyTorch 1.13). Each case stores its
inputs (`<case>/<input>`), its output (`<case>/y`), the cotangent of the output (`<case>/dy`) and the gradients of the
floating inputs (`<case>/d<input>`). test/graph/torch.test.ts builds the same functions.
"""
import json
import struct
from pathlib import Path

import torch
import torch.nn.functional as F

torch.manual_seed(20)
torch.set_num_threads(1)
tensors = {}


def case(name, f, **inputs):
    inputs = {k: v if torch.is_tensor(v) else torch.randn(v) for k, v in inputs.items()}
    for k, v in inputs.items():
        tensors[f"{name}/{k}"] = v.detach().clone()
        if v.dtype == torch.float32:
            v.requires_grad_(True)
    y = f(*inputs.values())
    dy = torch.randn_like(y)
    y.backward(dy)
    tensors[f"{name}/y"], tensors[f"{name}/dy"] = y.detach(), dy
    for k, v in inputs.items():
        if v.dtype == torch.float32:
            tensors[f"{name}/d{k}"] = torch.zeros_like(v) if v.grad is None else v.grad


def positive(*shape):
    return torch.rand(shape) + 0.3


conv = F.conv2d
case("conv 3x3", lambda x, w, b: conv(x, w, b, padding=1), x=[2, 3, 5, 7], w=[2, 3, 3, 3], b=[2])
case("conv 3x3 stride 2", lambda x, w: conv(x, w, stride=2, padding=1), x=[2, 3, 6, 7], w=[5, 3, 3, 3])
case("conv stride 2, 16 channels", lambda x, w: conv(x, w, stride=2, padding=1), x=[2, 16, 5, 6], w=[3, 16, 3, 3])
case("conv 2x3 stride [1, 3]", lambda x, w: conv(x, w, stride=(1, 3), padding=(1, 0)), x=[2, 3, 5, 8], w=[2, 3, 2, 3])
case("conv dilated", lambda x, w: conv(x, w, padding=(2, 3), dilation=(2, 3)), x=[2, 3, 7, 5], w=[2, 3, 3, 3])
case("conv dilated stride", lambda x, w: conv(x, w, padding=1, stride=(2, 3), dilation=(3, 2)), x=[2, 3, 9, 8], w=[2, 3, 3, 3])
case("conv groups", lambda x, w: conv(x, w, padding=1, groups=2), x=[2, 4, 5, 3], w=[6, 2, 3, 3])
case("conv depthwise", lambda x, w: conv(x, w, padding=2, groups=3), x=[2, 3, 5, 7], w=[3, 1, 5, 5])
case("conv depthwise stride 2", lambda x, w: conv(x, w, padding=1, stride=2, groups=3), x=[2, 3, 5, 7], w=[6, 1, 3, 3])
case("conv 1x1", conv, x=[2, 3, 5, 7], w=[5, 3, 1, 1])
case("conv 1x1 stride 2", lambda x, w: conv(x, w, stride=2), x=[2, 3, 5, 7], w=[5, 3, 1, 1])
case("conv on pixels, groups", lambda x, w: conv(x, w, groups=3), x=[2, 6, 1, 1], w=[9, 2, 1, 1])
case("conv 130 channels", lambda x, w: conv(x, w, padding=1), x=[1, 130, 2, 3], w=[1, 130, 3, 3])

turn = F.conv_transpose2d
case("transposed 2x2", lambda x, w, b: turn(x, w, b, stride=2), x=[2, 3, 3, 5], w=[3, 2, 2, 2], b=[2])
case("transposed output padding", lambda x, w: turn(x, w, stride=2, padding=1, output_padding=1), x=[2, 3, 3, 5], w=[3, 2, 3, 3])
case("transposed [1, 0] output padding", lambda x, w: turn(x, w, stride=(2, 3), padding=(1, 0), output_padding=(1, 0)), x=[2, 3, 3, 5], w=[3, 2, 3, 2])
case("transposed groups", lambda x, w: turn(x, w, stride=2, padding=1, groups=2), x=[2, 4, 3, 5], w=[4, 3, 3, 3])
case("transposed dilated", lambda x, w: turn(x, w, padding=1, dilation=(2, 1)), x=[2, 3, 3, 5], w=[3, 2, 3, 3])
case("transposed wide output padding", lambda x, w: turn(x, w, dilation=3, padding=1, output_padding=2), x=[2, 3, 3, 2], w=[3, 2, 3, 2])

image = [2, 2, 7, 9]
case("max pool 2x2", lambda x: F.max_pool2d(x, 2), x=image)
case("max pool 3x3 stride 2", lambda x: F.max_pool2d(x, 3, 2, 1), x=image)
case("max pool 3x3 stride 1", lambda x: F.max_pool2d(x, 3, 1, 1), x=image)
case("max pool [2, 3]", lambda x: F.max_pool2d(x, (2, 3), (1, 2), (1, 0)), x=image)
case("max pool ties", lambda x: F.max_pool2d(x, 3, 2, 1), x=torch.randint(0, 3, image).float())
case("avg pool 2x2", lambda x: F.avg_pool2d(x, 2), x=image)
case("avg pool padded", lambda x: F.avg_pool2d(x, 3, 2, 1), x=image)
case("avg pool padding not counted", lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), x=image)
case("avg pool [2, 3] stride [1, 2]", lambda x: F.avg_pool2d(x, (2, 3), (1, 2), (1, 1)), x=image)
case("adaptive avg [3, 4]", lambda x: F.adaptive_avg_pool2d(x, (3, 4)), x=image)
case("adaptive avg 1", lambda x: F.adaptive_avg_pool2d(x, 1), x=image)
case("adaptive avg [9, 10]", lambda x: F.adaptive_avg_pool2d(x, (9, 10)), x=[1, 2, 7, 9])
case("adaptive max [3, 4]", lambda x: F.adaptive_max_pool2d(x, (3, 4)), x=image)
case("adaptive max [7, 3]", lambda x: F.adaptive_max_pool2d(x, (7, 3)), x=image)

resize = F.interpolate
for h, w in [(11, 13), (4, 5), (14, 18), (1, 2)]:
    case(f"nearest [{h}, {w}]", lambda x: resize(x, (h, w), mode="nearest"), x=image)
    for align in (False, True):
        case(f"bilinear [{h}, {w}] {'aligned' if align else 'plain'}", lambda x: resize(x, (h, w), mode="bilinear", align_corners=align), x=image)

for name, f in {
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "relu6": F.relu6,
    "silu": F.silu,
    "leaky relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": lambda x: F.elu(x, 0.7),
    "softplus": F.softplus,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "exp": torch.exp,
    "abs": torch.abs,
    "sin": torch.sin,
    "cos": torch.cos,
    "round": torch.round,
    "clamp": lambda x: torch.clamp(x, -1, 2),
}.items():
    # The kinks at 0, -3 and 6 are among them; at 3 PyTorch's hardswish has one gradient in vectorized code, another in the rest.
    case(name, f, x=torch.cat([torch.tensor([-3.0, -1.0, 0.0, 1.0, 2.0, 6.0]), torch.randn(31) * 3]))
for name, f in {"log": torch.log, "sqrt": torch.sqrt, "reciprocal": torch.reciprocal}.items():
    case(name, f, x=positive(11))
case("softplus far", F.softplus, x=torch.tensor([-90.0, -30.0, 15.0, 18.0, 60.0]))

case("pow", torch.pow, a=positive(3, 5), b=[5])
case("div", torch.div, a=[3, 1, 5], b=positive(2, 1))
ties = [torch.randint(0, 3, [4, 5]).float() for _ in range(2)]
case("maximum ties", torch.maximum, a=ties[0].clone(), b=ties[1].clone())
case("minimum ties", torch.minimum, a=ties[0].clone(), b=ties[1].clone())
case("amax ties", lambda x: torch.amax(x, 1), x=torch.randint(0, 3, [4, 7]).float())

case("log softmax", lambda x: F.log_softmax(x * 8, 1), x=[5, 7])
case("softmax channels", lambda x: F.softmax(x, 1), x=[2, 3, 5, 4])
labels = torch.tensor([6, 0, 3, 3, 1])
soft = torch.softmax(torch.randn(5, 7), 1)
case("cross entropy", lambda x, t: F.cross_entropy(x, t), x=[5, 7], t=labels)
case("cross entropy smoothed", lambda x, t: F.cross_entropy(x, t, label_smoothing=0.1), x=[5, 7], t=labels)
case("cross entropy soft", lambda x, t: F.cross_entropy(x, t), x=[5, 7], t=soft.clone())
case("cross entropy soft smoothed", lambda x, t: F.cross_entropy(x, t, label_smoothing=0.2), x=[5, 7], t=soft.clone())

case("batch norm", lambda x, w, b, m, v: F.batch_norm(x, m.detach(), v.detach(), w, b, eps=1e-3), x=[3, 5, 4, 2], w=[5], b=[5], m=[5], v=positive(5))
case("batch norm training", lambda x, w, b: F.batch_norm(x * 3 + 1, None, None, w, b, training=True), x=[3, 5, 4, 2], w=[5], b=[5])
case("batch norm training rows", lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True), x=[7, 5], w=[5], b=[5])
case("batch norm conv relu", lambda x, w, g, b: F.relu(F.batch_norm(conv(x, w, padding=1), None, None, g, b, training=True)), x=[3, 4, 5, 6], w=[5, 4, 3, 3], g=[5], b=[5])
case("linear", F.linear, x=[3, 5], w=[7, 5], b=[7])
case("matmul", torch.matmul, a=[2, 1, 3, 5], b=[3, 5, 2])

names = {torch.float32: "F32", torch.int64: "I64"}
header, chunks, at = {}, [], 0
for name, t in tensors.items():
    data = t.contiguous().numpy().tobytes()
    header[name] = {"dtype": names[t.dtype], "shape": list(t.shape), "data_offsets": [at, at + len(data)]}
    chunks.append(data)
    at += len(data)
text = json.dumps(header, separators=(",", ":")).encode()
text += b" " * (-len(text) % 8)
folder = Path("test/fixtures/graph")
path = folder / "torch-ops.safetensors"
folder.mkdir(parents=True, exist_ok=True)
path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(chunks))
print(f"{path}: {path.stat().st_size} bytes")

# Sizes at which nearest sampling does not take pixel floor(o * from / to), because PyTorch computes in float32.
rounded = {}
for a in range(1, 65):
    pixels = torch.arange(a, dtype=torch.float32).view(1, 1, 1, a)
    for b in range(1, 129):
        taken = resize(pixels, (1, b), mode="nearest").view(-1).long().tolist()
        moved = {o: s for o, s in enumerate(taken) if s != o * a // b}
        if moved:
            rounded[f"{a} {b}"] = moved
(folder / "torch-nearest.json").write_text(json.dumps(rounded, indent=0))
