"""Checks with PyTorch that checkpoints are what the original layout expects, and that both sides compute the same.

Usage: python3 scripts/compare_torch.py ARCH CHECKPOINT [CHECKPOINT ...]

Each CHECKPOINT (.pth or .safetensors, training or deploy form) is loaded with strict=True into the network of
bench/pytorch/repmlp_resnet.py, run there and by the package on the same random input, and the outputs compared:
largest difference at most 1e-4 of the largest output. All CHECKPOINTs must also agree with the first.
"""
import json
import os
import struct
import subprocess
import sys
import tempfile

import torch

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(ROOT, "bench", "pytorch"))
from repmlp_resnet import MODELS, repmlp_resnet  # noqa: E402

TOLERANCE = 1e-4
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}


def read_safetensors(path):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = bytearray(file.read())
    header.pop("__metadata__", None)
    tensors = {}
    for key, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[key] = torch.frombuffer(data[begin:end], dtype=DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def write_safetensors(path, name, tensor):
    data = tensor.contiguous().numpy().tobytes()
    header = {name: {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [0, len(data)]}}
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def load(path):
    if path.endswith(".safetensors"):
        return read_safetensors(path)
    state = torch.load(path, map_location="cpu")
    for wrapper in ("state_dict", "model"):
        state = state.get(wrapper, state)
    return {key[len("module."):] if key.startswith("module.") else key: value for key, value in state.items()}


def difference(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    arch, files = sys.argv[1], sys.argv[2:]
    worst, first = 0.0, None
    with tempfile.TemporaryDirectory() as folder:
        given, made = (os.path.join(folder, name) for name in ("in.safetensors", "out.safetensors"))
        for path in files:
            state = load(path)
            deploy = not any(key.endswith("running_mean") for key in state)
            model = repmlp_resnet(arch, deploy, classes=len(state["linear.bias"]))
            model.load_state_dict(state, strict=True)
            generator = torch.Generator().manual_seed(1)
            side = MODELS[arch].get("image", 224)
            x = torch.randn(2, 3, side, side, generator=generator)
            with torch.no_grad():
                expected = model(x)
            write_safetensors(given, "input", x)
            driver = os.path.join(ROOT, "scripts", "run-checkpoint.ts")
            subprocess.run(["npx", "tsx", driver, os.path.abspath(path), given, made], check=True, cwd=ROOT)
            ours = read_safetensors(made)["output"]
            first = expected if first is None else first
            figures = difference(ours, expected), difference(expected, first)
            worst = max(worst, *figures)
            form = "deploy form" if deploy else "training form"
            print(f"{path}: {form}, strict load of {len(state)} tensors; ours differs from PyTorch by {figures[0]:.1e}, "
                  f"PyTorch from the first file by {figures[1]:.1e} of the largest output")
    print("passed" if worst <= TOLERANCE else f"FAILED: above {TOLERANCE}")
    sys.exit(0 if worst <= TOLERANCE else 1)


main()
