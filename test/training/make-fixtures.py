"""Expected values of PyTorch for clipping, weight averages and schedules: test/fixtures/training/updates.json.

Run `python3 test/training/make-fixtures.py` from the root of the repository (made with PyTorch 1.13). A convolution, a
batch norm and a linear layer do three steps of SGD with `clip_grad_norm_` or `clip_grad_value_` before each; an average
follows as timm's ModelEmaV2 keeps it, over every entry of the state dict. test/training/updates.test.ts does the same.
"""
import copy
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(7)
torch.set_num_threads(1)
STEPS, LR, DECAY = 3, 0.5, 0.9


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, bias=False)
        self.norm = nn.BatchNorm2d(2)
        self.linear = nn.Linear(2, 3)

    def forward(self, x):
        return self.linear(F.relu(self.norm(self.conv(x))).mean((2, 3)))


def numbers(t):
    return t.flatten().tolist()


def state(model):
    return {k: numbers(v) for k, v in model.state_dict().items() if v.is_floating_point()}


first = Net()
images = torch.randn(STEPS, 6, 1, 4, 4)
labels = torch.randint(0, 3, (STEPS, 6))


def run(clip):
    model, losses, norms = copy.deepcopy(first), [], []
    ema = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=0.01)
    for x, y in zip(images, labels):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.stack([p.grad.norm() for p in model.parameters()]).norm()))
        clip(model.parameters())
        optimizer.step()
        losses.append(float(loss))
        for e, m in zip(ema.state_dict().values(), model.state_dict().values()):
            e.copy_(DECAY * e + (1 - DECAY) * m)
    return {"losses": losses, "norms": norms, "state": state(model), "ema": state(ema)}


def rates(schedule, **options):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4)
    scheduler = schedule(optimizer, **options)
    out = []
    for _ in range(12):
        out.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return out


schedulers = torch.optim.lr_scheduler
fixture = {
    "start": state(first),
    "images": [numbers(x) for x in images],
    "labels": labels.tolist(),
    # Between the norms of the steps, so that some are clipped and some are not.
    "clipNorm": run(lambda p: nn.utils.clip_grad_norm_(p, 0.4)),
    "clipValue": run(lambda p: nn.utils.clip_grad_value_(p, 0.1)),
    "linear": rates(schedulers.LinearLR, start_factor=1, end_factor=0.1, total_iters=10),
    "polynomial": rates(schedulers.PolynomialLR, total_iters=10, power=2),
}
path = Path("test/fixtures/training/updates.json")
path.write_text(json.dumps(fixture) + "\n")
print({k: fixture[k]["norms"] for k in ("clipNorm", "clipValue")})
