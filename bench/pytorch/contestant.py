"""The PyTorch contestant of `npm run bench`: one question per line in, one answer per line out, as JSON.

    {"do": "prepare", "task": "train", "options": {...}}    {"do": "run", "times": 3}    {"do": "memory"}

Networks and batches have the values that bench/contestants/networks.ts gives them.
"""

import json
import os
import resource
import sys
import time
import traceback

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # What libraries print goes to standard error.

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn as nn  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from convert import merge  # noqa: E402
from repmlp_cifar import NETWORKS, RepMLPCifar  # noqa: E402
from repmlp_resnet import MODELS, RepMLP, conv_bn, fill_by_formula, formula_uniform, repmlp_resnet  # noqa: E402
from ungrouped import ungroup  # noqa: E402

LEARNING_RATE = 1e-4


class Pooled(nn.Module):
    """A block as a classifier: the average over the map gives one logit per channel."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return self.block(x).mean((2, 3))


class ConvBnRelu(nn.Module):
    def __init__(self, channels):
        super().__init__()
        unit = conv_bn(channels, channels, 3, 1, 1)
        self.conv, self.bn = unit.conv, unit.bn

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


def network(net, batch, channels=None, size=14):
    """The network in training form with the formula's values, and one batch for it."""
    if net in ("repmlp-block", "conv-bn-relu"):
        made = RepMLP(channels, channels, (size, size), (7, 7), (1, 3, 5), 4) if net == "repmlp-block" else ConvBnRelu(channels)
        model, shape = Pooled(made), (batch, channels, size, size)
    elif net in NETWORKS:
        model, shape = RepMLPCifar(net, channels=channels), (batch, 3, 32, 32)
    else:
        side = MODELS[net].get("image", 224)
        model, shape = repmlp_resnet(net), (batch, 3, side, side)
    with torch.no_grad():
        fill_by_formula(model)
    values = 4 * formula_uniform("input", int(np.prod(shape))) - 2
    return model, torch.from_numpy(values.astype(np.float32)).view(shape)


def written(model, images, products, channels_last):
    """The network and its batch in one of the ways in which a user may write them."""
    if products != "grouped":
        ungroup(model, products)
    if channels_last:
        model, images = (x.to(memory_format=torch.channels_last) for x in (model, images))
    return model, images


def train(net, batch, channels=None, size=14, products="grouped", channels_last=False):
    model, images = written(*network(net, batch, channels, size), products, channels_last)
    model.train()
    sgd = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=1e-4)
    with torch.no_grad():
        classes = model.eval()(images[:1]).shape[1]
    model.train()
    labels = torch.arange(batch) % classes

    def step():
        loss = F.cross_entropy(model(images), labels)
        sgd.zero_grad(set_to_none=True)
        loss.backward()
        sgd.step()
        return loss.item()

    return {"check": step()}, step


def infer(net, batch, form, channels=None, size=14, products="grouped", channels_last=False):
    model, images = network(net, batch, channels, size)
    model.eval()
    if form == "deploy":
        merge(model)
    model, images = written(model, images, products, channels_last)

    def run():
        with torch.no_grad():
            return model(images)

    return {"check": run().abs().mean().item()}, run


def load(path, arch):
    """What a user writes to have a network that runs: the network, the file, its values."""

    def run():
        model = repmlp_resnet(arch, deploy=True)
        model.load_state_dict(torch.load(path, map_location="cpu"))
        return model.eval()

    return {}, run


class Files(torch.utils.data.Dataset):
    def __init__(self, files, transform):
        self.files, self.transform = files, transform

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        from PIL import Image

        with Image.open(self.files[i]) as picture:
            return self.transform(picture.convert("RGB")), 0


class Pixels(torch.utils.data.Dataset):
    def __init__(self, pixels, transform):
        self.pixels, self.transform = pixels, transform

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, i):
        from PIL import Image

        return self.transform(Image.fromarray(self.pixels[i])), 0


def one_pass(loader):
    check = None
    for images, _ in loader:
        if check is None:
            check = images.abs().mean().item()
    return check


def pictures(files, batch, workers):
    from torchvision import transforms as t

    normalize = t.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    transform = t.Compose([t.Resize(256), t.CenterCrop(224), t.ToTensor(), normalize])
    loader = torch.utils.data.DataLoader(Files(files, transform), batch, num_workers=workers, persistent_workers=True)
    return {"check": one_pass(loader)}, lambda: one_pass(loader)


def cifar(count, batch, workers):
    from torchvision import transforms as t

    pixels = np.random.RandomState(1).randint(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    normalize = t.Normalize((0.4914, 0.48216, 0.44653), (0.24703, 0.24349, 0.26159))
    transform = t.Compose([t.RandomCrop(32, padding=4), t.RandomHorizontalFlip(), t.ToTensor(), normalize])
    loader = torch.utils.data.DataLoader(
        Pixels(pixels, transform), batch, shuffle=True, num_workers=workers, persistent_workers=True
    )
    return {}, lambda: one_pass(loader)


TASKS = {f.__name__: f for f in (train, infer, load, pictures, cifar)}


def peak_mb():
    """Largest resident size of this process so far; getrusage would also count what the parent had at the fork."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024
    except (OSError, StopIteration):
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main():
    ready = None
    for line in sys.stdin:
        question = json.loads(line)
        try:
            if question["do"] == "prepare":
                options = dict(question["options"])
                # Some builds start with one thread.
                torch.set_num_threads(options.pop("threads"))
                result, ready = TASKS[question["task"]](**options)
            elif question["do"] == "run":
                seconds = []
                for _ in range(question["times"]):
                    start = time.perf_counter()
                    ready()
                    seconds.append(time.perf_counter() - start)
                result = {"seconds": seconds, "rates": {}}
            else:
                result = {"peakMb": peak_mb()}
            said = {"result": result}
        except Exception:
            said = {"error": traceback.format_exc()}
        print(json.dumps(said), file=answers, flush=True)


if __name__ == "__main__":
    main()
