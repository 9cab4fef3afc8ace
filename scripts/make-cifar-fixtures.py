"""Writes test/fixtures/cifar: tiny batches of CIFAR-10 in the Python version's layout, and the same as binary records.

    /usr/bin/python3 scripts/make-cifar-fixtures.py     (numpy 1: all files but the one below)
    python3 scripts/make-cifar-fixtures.py              (numpy 2: python3-numpy2-protocol4)
"""

import io
import pickle
import struct
from pathlib import Path

import numpy as np

folder = Path(__file__).parent.parent / "test" / "fixtures" / "cifar"


class Python2Pickler(pickle._Pickler):
    """Protocol 2 as Python 2 wrote it: `str` holds bytes and has instructions of its own."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        raw = value.encode("latin1") if isinstance(value, str) else value
        short = len(raw) < 256
        self.write((b"U" + struct.pack("<B", len(raw)) if short else b"T" + struct.pack("<i", len(raw))) + raw)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


def python2(batch):
    out = io.BytesIO()
    Python2Pickler(out, 2).dump(batch)
    return out.getvalue()


def batch_of(pixels, labels, name):
    return {
        "batch_label": name,
        "labels": labels,
        "data": pixels,
        "filenames": [f"picture_s_{i:06}.png" for i in range(len(labels))],
    }


def binary(batch):
    return b"".join(bytes([label]) + row.tobytes() for label, row in zip(batch["labels"], batch["data"]))


def write(path, content):
    path = folder / path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


random = np.random.RandomState(20210505)
train = batch_of(random.randint(0, 256, (2, 3072)).astype(np.uint8), [6, 9], "training batch 1 of 5")
# All bytes are valid UTF-8, by which a reader of Python 2's strings could take them for text.
text = np.frombuffer("dark \u00e9\u20ac ".encode() * 512, np.uint8)[:3072].reshape(1, 3072)
test = batch_of(text, [3], "testing batch 1 of 1")
bytes_keys = {key.encode(): value for key, value in train.items()}

if np.__version__.startswith("1."):
    write("cifar-10-batches-py/data_batch_1", python2(train))
    write("cifar-10-batches-py/test_batch", python2(test))
    write("binary/data_batch_1.bin", binary(train))
    write("binary/test_batch.bin", binary(test))
    write("python3-protocol2", pickle.dumps(bytes_keys, 2))
    write("python3-protocol5", pickle.dumps(train, 5))
else:
    write("python3-numpy2-protocol4", pickle.dumps(bytes_keys, 4))
