"""Takes the training steps of scripts/train-steps.ts in PyTorch and compares the losses.

Usage: python3 scripts/compare_train_torch.py FOLDER [--noise-runs N] [--steps N] [--data DATA]

FOLDER is what train-steps.ts wrote: the same initial weights, batches and learning rates go in. Losses must agree to
1 % at each of the first 50 steps. Such networks amplify rounding: with --noise-runs, PyTorch is also run from weights
with 1e-7 of relative noise, and after step 50 our losses must come no further from PyTorch's than those runs do (largest
difference so far, at every step). Where those runs themselves miss the 1 %, the output says so. Prints a table, and the
relative difference of the final parameters; PyTorch's losses of all runs go to FOLDER/torch.json, for
scripts/plot-train-steps.ts.

With --data (the folder that train-steps.ts read) PyTorch makes the batches itself, of the same pictures and the same random
draws: every picture that went in must be one of the 162 that padding by 4, cropping and flipping make of its original, the
crops and flips must be spread evenly, and PyTorch trains on what its own operations give.

PyTorch computes grouped convolutions as dense ones here (bench/pytorch/ungrouped.py), which is the same sum and saves
most of the time; --grouped leaves them as the original code has them.
"""
import argparse
import json
import os
import sys

import numpy as np
import torch
import torch.nn.functional as F

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(ROOT, "bench", "pytorch"))
from repmlp_cifar import RepMLPCifar  # noqa: E402
from torch_noise import add_noise, shares  # noqa: E402
from train_cifar_torch import BLACK, read  # noqa: E402
from ungrouped import ungroup  # noqa: E402


def augmented_here(folder, data, info, steps):
    """The batches made by PyTorch's operations, with the crops and flips that are found in ours."""
    batch = info["batchSize"]
    originals, _ = read(data, "train")
    ours = np.memmap(os.path.join(folder, "images.f32"), np.float32, "r").reshape(-1, batch, 3, 32, 32)
    indices = np.memmap(os.path.join(folder, "indices.u32"), np.uint32, "r").reshape(-1, batch)
    out = torch.empty(steps, batch, 3, 32, 32)
    draws = np.zeros((2, 9, 9), np.int64)
    worst = 0.0
    # Some pixels tell which of the 162 a picture is; all of them are compared with that one.
    probes = np.random.default_rng(0).integers(0, 32, (24, 2))
    for step in range(steps):
        wanted = torch.from_numpy(ours[step].copy())
        padded = F.pad(originals[indices[step].astype(np.int64)] - BLACK, (4, 4, 4, 4)) + BLACK
        far = torch.zeros(batch, 2, 9, 9)
        for y, x in probes:
            for flip, at in ((0, x), (1, 31 - x)):
                window = padded[:, :, y : y + 9, at : at + 9]
                far[:, flip] += (window - wanted[:, :, y, x, None, None]).abs().sum(1)
        for i, best in enumerate(far.flatten(1).argmin(1).tolist()):
            flip, top, left = np.unravel_index(best, (2, 9, 9))
            crop = padded[i, :, top : top + 32, left : left + 32]
            out[step, i] = crop.flip(2) if flip else crop
            draws[flip, top, left] += 1
        worst = max(worst, float((out[step] - wanted).abs().max()))
    print(f"augmentation: {steps * batch} pictures, each a crop of its original, largest difference {worst:.1e}")
    even = True
    for name, counts in (("flip", draws.sum((1, 2))), ("top", draws.sum((0, 2))), ("left", draws.sum((0, 1)))):
        expected = counts.sum() / len(counts)
        # Chi-squared per degree of freedom, in standard deviations from its mean.
        chi = (((counts - expected) ** 2 / expected).sum() - (len(counts) - 1)) / np.sqrt(2 * (len(counts) - 1))
        even = even and chi < 5
        print(f"  {name}: {counts.tolist()}, chi-squared {chi:+.1f} standard deviations from an even spread")
    # Normalisation is one multiplication and one addition here, a subtraction and a division there.
    if worst > 1e-5 or not even:
        sys.exit("the batches are not what PyTorch's operations make of these pictures")
    return out


def run(folder, info, steps, grouped, seed=None, batches=None):
    net = RepMLPCifar(info["arch"], channels=info.get("channels")).train()
    net = net if grouped else ungroup(net)
    net.load_state_dict(torch.load(os.path.join(folder, "before.pth"), map_location="cpu"), strict=True)
    add_noise(net, seed)
    o = info["optimizer"]
    sgd = torch.optim.SGD(
        net.parameters(), lr=1.0, momentum=o["momentum"], nesterov=o["nesterov"], weight_decay=o["weightDecay"]
    )
    batch = info["batchSize"]
    images = np.memmap(os.path.join(folder, "images.f32"), np.float32, "r").reshape(-1, batch, 3, 32, 32)
    labels = np.memmap(os.path.join(folder, "labels.i32"), np.int32, "r").reshape(-1, batch)
    losses = []
    for i in range(steps):
        sgd.param_groups[0]["lr"] = info["rates"][i]
        x = torch.from_numpy(images[i].copy()) if batches is None else batches[i]
        loss = F.cross_entropy(net(x), torch.from_numpy(labels[i].astype(np.int64)))
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        losses.append(loss.item())
        if (i + 1) % 10 == 0:
            print(f"{'PyTorch' if seed is None else f'noise {seed}'}: step {i + 1}: loss {losses[-1]:.5f}", flush=True)
    return np.array(losses), net


def relative_parameters(net, folder):
    after = torch.load(os.path.join(folder, "after.pth"), map_location="cpu")
    a = torch.cat([p.detach().flatten() for p in net.parameters()])
    b = torch.cat([after[key].flatten() for key, _ in net.named_parameters()])
    return ((a - b).norm() / a.norm()).item()


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("folder")
    args.add_argument("--noise-runs", type=int, default=0)
    args.add_argument("--steps", type=int)
    args.add_argument("--grouped", action="store_true")
    args.add_argument("--data")
    args = args.parse_args()
    torch.set_num_threads(os.cpu_count())
    info = json.load(open(os.path.join(args.folder, "steps.json")))
    ours = np.array(info["losses"])
    steps = min(args.steps or len(ours), len(ours))
    ours = ours[:steps]
    batches = augmented_here(args.folder, args.data, info, steps) if args.data else None
    theirs, net = run(args.folder, info, steps, args.grouped, batches=batches)
    far = np.abs(ours - theirs)
    relative = far / theirs
    runs = [run(args.folder, info, steps, args.grouped, seed + 1, batches)[0] for seed in range(args.noise_runs)]
    with open(os.path.join(args.folder, "torch.json"), "w") as f:
        json.dump({"losses": theirs.tolist(), "noise": [r.tolist() for r in runs]}, f)
    noisy = [np.abs(r - theirs) for r in runs]
    print("\nmean loss: ours %.4f, PyTorch %.4f" % (ours.mean(), theirs.mean()), *("%.4f" % r.mean() for r in runs))
    print("\nstep   ours      PyTorch   difference" + "".join(f"   noise {i + 1}" for i in range(len(noisy))))
    for i in sorted({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 19, 29, 39, 49, 74, 99, 124, 149, 174, 199, steps - 1}):
        if i < steps:
            rest = "".join(f"   {n[i] / theirs[i]:.1e}" for n in noisy)
            print(f"{i + 1:4d}   {ours[i]:.6f}  {theirs[i]:.6f}  {relative[i]:.1e}" + rest)
    first = relative[:50].max()
    print(f"\nlargest relative difference in the first {min(50, steps)} steps: {first:.2e} (at most 1e-2)")
    good = bool(first <= 1e-2)
    if noisy:
        own = max((n / theirs)[:50].max() for n in noisy)
        print(f"PyTorch's own runs with 1e-7 noise differ from it by up to {own:.2e} there")
    if noisy and steps > 50:
        later = shares(far, noisy)[50:]
        share, above = later.max(), int((later > 1).sum())
        print(f"after that, our distance to PyTorch ÷ that of its runs with 1e-7 noise: at most {share:.2f} (at most 1)")
        print(f"it is above 1 at {above} of {len(later)} steps, at the last one {later[-1]:.2f}")
        good = good and bool(share <= 1)
    if steps == len(info["losses"]):
        print(f"final parameters: relative difference {relative_parameters(net, args.folder):.2e}")
    print("passed" if good else "FAILED")
    sys.exit(0 if good else 1)


main()
