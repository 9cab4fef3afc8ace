"""ONNX models exported by PyTorch, with outputs and gradients: test/fixtures/graph/onnx/.

Run `python3 test/graph/make-onnx-fixtures.py` from the root of the repository (made with PyTorch 1.13). Beside each
`<name>.onnx` lies `<name>.safetensors` with the inputs (`in/<input>`), the output (`out`), its cotangent (`dout`) and
the gradients of inputs and parameters (`grad/<name>`). `cnn-13-batch-norm.json` is of a step with batch statistics.
"""
import json
import struct
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(1)
folder = Path("test/fixtures/graph/onnx")
folder.mkdir(parents=True, exist_ok=True)
names = {torch.float32: "F32", torch.int64: "I64"}


def save(path, tensors):
    header, chunks, at = {}, [], 0
    for name, t in tensors.items():
        data = t.detach().contiguous().numpy().tobytes()
        header[name] = {"dtype": names[t.dtype], "shape": list(t.shape), "data_offsets": [at, at + len(data)]}
        chunks.append(data)
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(chunks))


def randomize(model):
    """Batch-norm statistics and affine parameters away from 0 and 1, which hide mistakes."""
    for m in model.modules():
        if isinstance(m, (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d)):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias, 0, 0.3)
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.3)
            m.running_var.uniform_(0.5, 2)


def fixture(name, seed, make, inputs, opset, example=None, axes=None, **options):
    """`example` are the inputs of the export, when the file shall have open sizes; `inputs` those of the check."""
    torch.manual_seed(seed)
    model = make().eval()
    randomize(model)
    inputs = {k: torch.randn(v) if isinstance(v, list) else v for k, v in inputs.items()}
    args = {k: torch.randn(v) if isinstance(v, list) else v for k, v in (example or inputs).items()}
    torch.onnx.export(
        model,
        tuple(args.values()),
        str(folder / f"{name}.onnx"),
        opset_version=opset,
        input_names=list(inputs),
        output_names=["out"],
        dynamic_axes=axes,
        # Keeps batch norms and the names of weights.
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        **options,
    )
    for v in inputs.values():
        if v.dtype == torch.float32:
            v.requires_grad_(True)
    out = model(*inputs.values())
    dout = torch.randn_like(out)
    out.backward(dout)
    tensors = {f"in/{k}": v for k, v in inputs.items()}
    tensors |= {"out": out, "dout": dout}
    tensors |= {f"grad/{k}": v.grad for k, v in inputs.items() if v.grad is not None}
    tensors |= {f"grad/{k}": p.grad for k, p in model.named_parameters() if p.grad is not None}
    save(folder / f"{name}.safetensors", tensors)
    return model, inputs


def batch_statistics(name, model, x):
    """Loss of classes 0, 1, … and the new running statistics with batch norms in training mode (all else is not)."""
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.train()
    loss = F.cross_entropy(model(x), torch.arange(len(x)))
    running = {k: v.tolist() for k, v in model.named_buffers() if "running" in k}
    text = json.dumps({"loss": loss.item(), "running": running})
    (folder / f"{name}-batch-norm.json").write_text(text + "\n")


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 5, padding=2, groups=8, bias=False)
        self.bn2 = nn.BatchNorm2d(8, eps=1e-3)
        self.squeeze = nn.Conv2d(8, 2, 1)
        self.expand = nn.Conv2d(2, 8, 1)
        self.grouped = nn.Conv2d(8, 12, (3, 2), padding=(2, 1), dilation=(2, 1), groups=2)
        self.prelu = nn.PReLU(12)
        self.fc1 = nn.Linear(12 * 3 * 4, 10)
        self.fc2 = nn.Linear(10, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.stem(x))), 3, 2, 1)
        x = F.hardswish(self.bn2(self.depthwise(x)))
        gate = F.hardsigmoid(self.expand(F.leaky_relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)), 0.1)))
        x = self.prelu(self.grouped(x * gate)) + 0.5
        x = F.avg_pool2d(x, 3, 2, 1, ceil_mode=True)
        x = torch.clamp(F.dropout(self.fc1(torch.flatten(x, 1)), 0.5, self.training), -2, 2)
        return F.log_softmax(self.fc2(F.elu(x)), 1)


class Block(nn.Module):
    """A transformer block whose sizes come from the input, as in code that was not written for export."""

    def __init__(self, width=16, heads=2, positions=12, words=11):
        super().__init__()
        self.heads = heads
        self.embedding = nn.Embedding(words, width)
        self.position = nn.Parameter(torch.randn(positions, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, tokens, x):
        n, length = tokens.shape
        x = x + self.embedding(tokens) + self.position[:length]
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        q, k, v = (t.view(n, length, self.heads, -1).transpose(1, 2) for t in (q, k, v))
        scores = q @ k.transpose(-2, -1) / (q.shape[-1] ** 0.5)
        order = torch.arange(length)
        visible = order.unsqueeze(0) <= order.unsqueeze(1)
        mixed = torch.where(visible, scores, torch.full_like(scores, -1e4)).softmax(-1) @ v
        x = x + self.project(mixed.transpose(1, 2).reshape(n, length, -1))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return torch.cat([x.mean(1), x[:, -1] * x.max(1)[0]], 1)


class Upsampler(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(2, 8, 3, stride=2)
        self.norm = nn.InstanceNorm2d(8, affine=True)
        self.group = nn.GroupNorm(2, 8)
        self.up = nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1)
        self.out = nn.Conv2d(6, 8, 3)

    def forward(self, x):
        y = F.softplus(self.norm(self.down(F.pad(x, (1, 2, 0, 1), mode="reflect"))))
        y = torch.tanh(self.up(self.group(y)))
        y = F.interpolate(y, scale_factor=2, mode="nearest")
        y = F.interpolate(y, size=x.shape[2:], mode="bilinear", align_corners=False)
        y = torch.cat([F.interpolate(x, scale_factor=1.0, mode="nearest"), y], 1)
        y = F.pixel_shuffle(self.out(F.pad(y, (1, 1, 1, 1))), 2)
        return F.interpolate(y, size=(9, 11), mode="bilinear", align_corners=True)


fixture("cnn", 1, Cnn, {"x": [2, 3, 17, 19]}, opset=9)
made, given = fixture("cnn-13", 2, Cnn, {"x": [3, 3, 17, 19]}, opset=13, example={"x": [2, 3, 17, 19]}, axes={"x": {0: "batch"}})
batch_statistics("cnn-13", made, given["x"])
tokens = torch.tensor([[1, 5, 2, 2, 10], [0, 3, 3, 7, 4], [9, 8, 1, 0, 6]])
open_sizes = {"tokens": {0: "batch", 1: "sequence"}, "x": {0: "batch", 1: "sequence"}}
fixture(
    "block",
    3,
    Block,
    {"tokens": tokens, "x": [3, 5, 16]},
    opset=12,
    example={"tokens": tokens[:2, :4], "x": [2, 4, 16]},
    axes=open_sizes,
)
fixture("upsampler", 4, Upsampler, {"x": [2, 2, 10, 12]}, opset=11)
print(sum(f.stat().st_size for f in folder.iterdir()), "bytes")
