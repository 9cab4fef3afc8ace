"""Checks with PyTorch that rewritten checkpoints hold the same tensors, bit for bit.

Usage: python3 scripts/check-torch-roundtrip.py FILE [FILE ...]

Each FILE (.pth, .th or .safetensors) is rewritten with scripts/rewrite-checkpoint.ts to .pth and to .safetensors;
the .pth is loaded with torch.load (with weights_only=True too) and into an nn.Module with strict=True, the
.safetensors with a small reader here (and the safetensors package, where there is one), and compared with what
PyTorch reads of FILE. Without FILEs, one is made with every dtype, a scalar, an empty tensor and odd keys.
"""
import collections
import json
import os
import struct
import subprocess
import sys
import tempfile

import torch

DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "U16": "uint16", "U32": "uint32", "U64": "uint64",
}


def read_safetensors(path):
    data = open(path, "rb").read()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for key, entry in header.items():
        begin, end = entry["data_offsets"]
        raw = bytearray(data[8 + length + begin:8 + length + end])
        dtype = getattr(torch, DTYPES[entry["dtype"]])
        flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        tensors[key] = flat.reshape(entry["shape"])
    return tensors


def state_dict_of(value):
    for key in ("state_dict", "model"):
        if isinstance(value.get(key), dict):
            return value[key]
    return value


def read(path):
    value = read_safetensors(path) if path.endswith(".safetensors") else state_dict_of(torch.load(path, map_location="cpu"))
    return {key: tensor.detach() for key, tensor in value.items() if torch.is_tensor(tensor)}


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else torch.empty(0, dtype=torch.uint8)


def compare(label, found, expected):
    assert set(found) == set(expected), f"{label}: keys differ: {set(found) ^ set(expected)}"
    for key, tensor in expected.items():
        other = found[key]
        assert other.dtype == tensor.dtype and other.shape == tensor.shape, f"{label}: {key}: {other.dtype} {other.shape}"
        if tensor.dtype == torch.bool:
            assert torch.equal(other, tensor), f"{label}: {key} differs"
        else:
            assert torch.equal(bits(other), bits(tensor)), f"{label}: {key} differs"


def into_module(expected, path):
    """load_state_dict(strict=True) into modules that have exactly these names as buffers."""
    root = torch.nn.Module()
    for key, tensor in expected.items():
        *parents, leaf = key.split(".")
        module = root
        try:
            for name in parents:
                if name not in module._modules:
                    module.add_module(name, torch.nn.Module())
                module = module._modules[name]
            module.register_buffer(leaf, torch.zeros_like(tensor))
        except KeyError:  # a name that no module can have
            return False
    assert str(root.load_state_dict(torch.load(path), strict=True)) == "<All keys matched successfully>"
    return True


def make_sample(path):
    sample = collections.OrderedDict()
    generator = torch.Generator().manual_seed(1)
    for name in DTYPES.values():
        dtype = getattr(torch, name, None)
        if dtype is None:
            continue
        values = torch.randint(0, 2 if name == "bool" else 120, (3, 5), generator=generator)
        sample[name] = values.to(dtype)
    sample["nan"] = torch.tensor([0x7FC12345, -0x3FEDCB, 0x7F800001], dtype=torch.int32).view(torch.float32)
    sample["scalar"] = torch.tensor(2.5)
    sample["empty"] = torch.empty(0, 4)
    sample["five.dims"] = torch.randn(2, 3, 1, 2, 2, generator=generator)
    sample["a \u6f22\u5b57/\"quoted\"\\\n"] = torch.ones(1)
    torch.save(sample, path)


def check(path, folder):
    expected = read(path)
    out = os.path.join(folder, "out")
    driver = os.path.join(os.path.dirname(__file__), "rewrite-checkpoint.ts")
    subprocess.run(["npx", "tsx", driver, path, out + ".pth", out + ".safetensors"], check=True)
    compare("pth", torch.load(out + ".pth"), expected)
    compare("pth, weights_only", torch.load(out + ".pth", weights_only=True), expected)
    assert list(torch.load(out + ".pth")) == list(expected), "order of keys"
    strict = into_module(expected, out + ".pth")
    compare("safetensors", read_safetensors(out + ".safetensors"), expected)
    try:
        from safetensors.torch import load_file
    except ImportError:
        pass
    else:
        compare("safetensors package", load_file(out + ".safetensors"), expected)
    print(f"{path}: {len(expected)} tensors, equal{', strict load too' if strict else ''}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        files = sys.argv[1:]
        if not files:
            files = [os.path.join(folder, "sample.pth")]
            make_sample(files[0])
        for path in files:
            check(path, folder)


main()
