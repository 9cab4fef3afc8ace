"""Makes test/fixtures/wrapped: state dicts as training scripts wrap them, written by PyTorch.

    python3 test/inference/make-wrapped-fixtures.py KEYS OUT

KEYS is a JSON object of shapes by key. Everything is 1, in the averages 2.
"""
import collections
import json
import os
import sys

import torch

shapes = json.load(open(sys.argv[1]))
out = sys.argv[2]
os.makedirs(out, exist_ok=True)


def state(value):
    full = lambda key, shape: torch.full(shape, 1 if key.endswith("num_batches_tracked") else float(value))
    return collections.OrderedDict((key, full(key, shape)) for key, shape in shapes.items())


weights, average = state(1), state(2)
optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
torch.save({"epoch": 3, "ema": {"module": average, "updates": 7}, "optimizer": optimizer}, f"{out}/ema-module.pth")
torch.save({"params": weights, "params_ema": average}, f"{out}/params.pth")
torch.save({"epoch": 3, "arch": "x", "state_dict": weights, "state_dict_ema": average, "optimizer": optimizer}, f"{out}/state-dict-ema.pth")
