#!/usr/bin/env python3
"""Compares `repmlp test` and `repmlp predict` with PyTorch and torchvision on a folder of pictures.

    scripts/compare_test_torch.py DATA train|deploy WEIGHTS.pth -a ARCH [-b 20] [--repmlp "node dist/cli/main.js"]

DATA holds val/<class>/<picture>. Both sides read the same checkpoint. Passes when every picture gets the same first
class, counts are equal, and losses differ by less than 1e-4. Needs torch, torchvision and Pillow.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torchvision import datasets, transforms

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root / "bench" / "pytorch"))
from repmlp_resnet import repmlp_resnet  # noqa: E402


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("form", choices=["train", "deploy"])
    parser.add_argument("weights")
    parser.add_argument("-a", "--arch", default="RepMLP-Res50-light-224")
    parser.add_argument("-b", "--batch", type=int, default=20)
    parser.add_argument("--repmlp", default=f"node {root / 'dist/cli/main.js'}")
    args = parser.parse_args()

    theirs = with_torch(args)
    ours = with_repmlp(args, [path for path, _ in theirs["samples"]])
    same = sum(a == b for a, b in zip(ours["first"], theirs["first"]))
    logit = max(abs(a - b) for a, b in zip(ours["logits"], theirs["logits"]))
    n = len(theirs["samples"])
    print(f"{args.arch}, {args.form} form, {n} pictures of {args.data}")
    print(f"same first class: {same} of {n}; largest difference of the first class's logit: {logit:.2e}")
    for key in ("correct", "correctTop5", "loss"):
        print(f"{key}: repmlp {ours[key]}, PyTorch {theirs[key]}")
    passed = (
        same == n
        and ours["correct"] == theirs["correct"]
        and ours["correctTop5"] == theirs["correctTop5"]
        and abs(ours["loss"] - theirs["loss"]) < 1e-4
    )
    print("passed" if passed else "FAILED")
    return 0 if passed else 1


def with_torch(args):
    net = repmlp_resnet(args.arch, deploy=args.form == "deploy")
    net.load_state_dict(torch.load(args.weights, map_location="cpu"), strict=True)
    resolution = 320 if "320" in args.arch else 224
    data = datasets.ImageFolder(
        f"{args.data}/val",
        transforms.Compose(
            [
                transforms.Resize(256 if resolution == 224 else resolution),
                transforms.CenterCrop(resolution),
                transforms.ToTensor(),
                transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
            ]
        ),
    )
    result = {"samples": data.samples, "first": [], "logits": [], "correct": 0, "correctTop5": 0, "loss": 0.0}
    with torch.no_grad():
        for images, labels in torch.utils.data.DataLoader(data, batch_size=args.batch):
            logits = net(images)
            result["loss"] += F.cross_entropy(logits, labels, reduction="sum").item()
            values, indices = logits.topk(5)
            result["first"] += indices[:, 0].tolist()
            result["logits"] += values[:, 0].tolist()
            hits = indices == labels[:, None]
            result["correct"] += hits[:, 0].sum().item()
            result["correctTop5"] += hits.any(1).sum().item()
    result["loss"] /= len(data)
    return result


def with_repmlp(args, paths):
    def run(*arguments):
        command = [*shlex.split(args.repmlp), *arguments, "--json", "--quiet"]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        return [json.loads(line) for line in lines]

    first = [line["topK"][0] for line in run("predict", args.weights, *paths, "-a", args.arch, "--top-k", "1")]
    test = ("test", args.data, args.form, args.weights, "-a", args.arch, "-b", str(args.batch), "-j", "2")
    result = run(*test)[-1]
    return {
        "first": [row["index"] for row in first],
        "logits": [row["logit"] for row in first],
        "correct": result["counts"]["correct"],
        "correctTop5": result["counts"]["correctTop5"],
        "loss": result["loss"],
    }


if __name__ == "__main__":
    sys.exit(main())
