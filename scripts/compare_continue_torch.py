"""A run goes from PyTorch to this library and back: weights alone, no optimizer state.

Usage: python3 scripts/compare_continue_torch.py CIFAR-RECORDS [--steps 20] [--batch 16]

CIFAR-RECORDS is one file of CIFAR-10 in its binary layout. PyTorch trains some steps and saves {"state_dict": ...} with
the keys of DistributedDataParallel (module.*). `repmlp train --init` goes on from it for an epoch, and `repmlp convert`
takes it as well. PyTorch loads the resulting train.pth strictly. At both files the loss of the next batch, in training
mode, must be PyTorch's to 1e-5. Needs the built program (npm run build).
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
import torch.nn.functional as F

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(ROOT, "bench", "pytorch"))
from repmlp_cifar import RepMLPCifar  # noqa: E402

# Threads that wait for each other cost more than they give on batches this small.
torch.set_num_threads(1)

ARCH = "RepMLP-CIFAR10-pure-MLP"
MEAN = np.array([0.4914, 0.48216, 0.44653], np.float32).reshape(3, 1, 1)
STD = np.array([0.24703, 0.24349, 0.26159], np.float32).reshape(3, 1, 1)
RECORD = 3073


def batch_of(records, start, count):
    part = records[start : start + count]
    images = (part[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32) / np.float32(255) - MEAN) / STD
    return torch.from_numpy(images), torch.from_numpy(part[:, 0].astype(np.int64))


def loss_of(state, images, labels):
    net = RepMLPCifar(ARCH).train()
    net.load_state_dict(state, strict=True)
    return F.cross_entropy(net(images), labels).item()


def repmlp(*args):
    print("$ repmlp", *args, flush=True)
    subprocess.run(["node", os.path.join(ROOT, "dist", "cli", "main.js"), *args], check=True)


def our_loss(path, data, batch):
    command = ["npx", "tsx", os.path.join(ROOT, "scripts", "next-loss.ts"), path, data, ARCH, str(batch)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("records")
    args.add_argument("--steps", type=int, default=20)
    args.add_argument("--batch", type=int, default=16)
    args = args.parse_args()
    raw = np.fromfile(args.records, np.uint8, RECORD * (args.steps + 6) * args.batch)
    records = raw.reshape(-1, RECORD)
    folder = tempfile.mkdtemp()
    data = os.path.join(folder, "cifar")
    os.mkdir(data)
    # What our run gets: four batches that PyTorch has not seen, and one to validate on.
    mine = records[args.steps * args.batch :]
    mine[: 4 * args.batch].tofile(os.path.join(data, "data_batch_1.bin"))
    mine[4 * args.batch : 5 * args.batch].tofile(os.path.join(data, "test_batch.bin"))
    images, labels = batch_of(mine, 0, args.batch)

    torch.manual_seed(0)
    net = RepMLPCifar(ARCH).train()
    sgd = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
    for i in range(args.steps):
        x, y = batch_of(records, i * args.batch, args.batch)
        loss = F.cross_entropy(net(x), y)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    print(f"PyTorch trained {args.steps} steps, last loss {loss.item():.4f}", flush=True)
    before = os.path.join(folder, "ddp.pth")
    torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}, "epoch": 1}, before)

    recipe = {"epochs": 1, "batchSize": args.batch, "lr": 0.02, "optimizer": {"name": "sgd", "momentum": 0.9}}
    with open(os.path.join(folder, "recipe.json"), "w") as file:
        json.dump(recipe, file)
    out = os.path.join(folder, "run")
    repmlp("train", data, "--recipe", os.path.join(folder, "recipe.json"), "--init", before, "--out", out)
    repmlp("convert", before, os.path.join(folder, "deploy.pth"))
    after = os.path.join(out, "train.pth")

    good = True
    for name, path, state in (
        ("PyTorch's file", before, net.state_dict()),
        ("our file", after, torch.load(after, map_location="cpu")),
    ):
        theirs, ours = loss_of(state, images, labels), our_loss(path, data, args.batch)
        relative = abs(ours - theirs) / theirs
        good = good and relative <= 1e-5
        print(f"next batch from {name}: PyTorch {theirs:.7f}, ours {ours:.7f}, relative difference {relative:.1e}")
    print("passed" if good else "FAILED")
    sys.exit(0 if good else 1)


main()
