"""Trains a CIFAR-10 network of the paper in PyTorch by the recipe cifar10-pure-mlp, with shuffling of its own, to set its
test accuracy beside that of `repmlp experiment cifar10`.

Usage: python3 scripts/train_cifar_torch.py DATA [--arch RepMLP-CIFAR10-pure-MLP] [--epochs 8] [--seed 0] [--init FILE]
                                            [--channels 8 16 32] [--files 1] [--json FILE]

DATA holds train*.bin and test*.bin in CIFAR-10's binary layout. Prints the test accuracy after each epoch. Grouped
convolutions are computed as dense ones (bench/pytorch/ungrouped.py). --init starts from given weights, such as the
before.pth of scripts/train-steps.ts, which are those of `repmlp experiment` with the same seed. --channels and --files
(that many training files, the first ones) make a smaller run; --json writes its results, for scripts/train-seeds.ts.
"""
import argparse
import glob
import json
import os
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(ROOT, "bench", "pytorch"))
from repmlp_cifar import NETWORKS, RepMLPCifar  # noqa: E402
from ungrouped import ungroup  # noqa: E402

MEAN, STD = (0.4914, 0.48216, 0.44653), (0.24703, 0.24349, 0.26159)
BLACK = (-torch.tensor(MEAN) / torch.tensor(STD)).view(3, 1, 1)
BATCH, RATE = 128, 0.2


def read(folder, split, count=None):
    files = sorted(glob.glob(os.path.join(folder, split + "*.bin")))[:count]
    records = np.concatenate([np.fromfile(f, np.uint8).reshape(-1, 3073) for f in files])
    images = torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32).copy()).float() / 255
    images = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    return images, torch.from_numpy(records[:, 0].astype(np.int64))


def augmented(images, random):
    """Random crops after padding by 4 black pixels, and flips."""
    padded = F.pad(images - BLACK, (4, 4, 4, 4)) + BLACK
    out = torch.empty_like(images)
    for i in range(len(images)):
        top, left = random.integers(0, 9, 2)
        crop = padded[i, :, top : top + 32, left : left + 32]
        out[i] = crop.flip(2) if random.random() < 0.5 else crop
    return out


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("data")
    args.add_argument("--arch", default="RepMLP-CIFAR10-pure-MLP", choices=list(NETWORKS))
    args.add_argument("--epochs", type=int, default=8)
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--init")
    args.add_argument("--threads", type=int, default=os.cpu_count())
    args.add_argument("--channels", type=int, nargs=3)
    args.add_argument("--files", type=int)
    args.add_argument("--json")
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    random = np.random.default_rng(args.seed)
    images, labels = read(args.data, "train", args.files)
    test_images, test_labels = read(args.data, "test")
    net = ungroup(RepMLPCifar(args.arch, channels=args.channels))
    for name, module in net.named_modules():
        if name.endswith("fc3"):
            torch.nn.init.orthogonal_(module.weight)
    if args.init:
        net.load_state_dict(torch.load(args.init, map_location="cpu"), strict=True)
    sgd = torch.optim.SGD(net.parameters(), RATE, momentum=0.9, weight_decay=1e-4)
    steps = len(images) // BATCH
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, args.epochs * steps)
    losses, top1 = [], []
    for epoch in range(args.epochs):
        started, total = time.time(), 0.0
        net.train()
        order = random.permutation(len(images))
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            loss = F.cross_entropy(net(augmented(images[chosen], random)), labels[chosen])
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            cosine.step()
            total += loss.item()
            if (step + 1) % 20 == 0:
                print(f"epoch {epoch + 1} step {step + 1}/{steps} loss {loss.item():.4f}", flush=True)
        net.eval()
        with torch.no_grad():
            right = sum(
                (net(x).argmax(1) == y).sum().item() for x, y in zip(test_images.split(250), test_labels.split(250))
            )
        accuracy, seconds = 100 * right / len(test_labels), time.time() - started
        losses.append(total / steps)
        top1.append(accuracy / 100)
        print(f"epoch {epoch + 1}/{args.epochs}  loss {total / steps:.4f}  top-1 {accuracy:.2f} %  {seconds:.0f} s", flush=True)
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"seed": args.seed, "torch": torch.__version__, "losses": losses, "top1": top1}, f)


if __name__ == "__main__":
    main()
