"""Writes checkpoints with Python objects beside the weights: python3 make-objects.py FOLDER (needs PyTorch)."""
import array, collections, datetime, itertools, logging, pathlib, random, re, sys, time, zoneinfo
import numpy as np
import torch

folder = pathlib.Path(sys.argv[1])
linear = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(linear.parameters(), lr=0.1, momentum=0.9)
linear(torch.ones(1, 2)).sum().backward()
optimizer.step()
objects = {
    "range": range(3), "regex": re.compile("a.b"), "random_state": np.random.RandomState(1),
    "generator": np.random.default_rng(1), "optimizer": optimizer, "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3),
    "module": torch.nn.Sequential(linear, torch.nn.ReLU()), "array": array.array("d", [1, 2]), "iterator": iter([1, 2]),
    "reversed": reversed([1, 2]), "zip": zip([1], [2]), "map": map(str, [1]), "count": itertools.count(3), "logger": logging.getLogger("x"),
    "date": datetime.datetime(2020, 1, 2, tzinfo=zoneinfo.ZoneInfo("UTC")), "time": time.gmtime(0), "function": len,
    "masked": np.ma.array([1, 2], mask=[0, 1]), "counter": collections.Counter("aab"), "random": random.Random,
    "loss": torch.nn.functional.relu,
}
state = {"state_dict": {"w": torch.arange(6.0).reshape(2, 3)}, "extra": objects}
for protocol in (2, 4):
    torch.save(state, folder / f"objects_{protocol}.pth", pickle_protocol=protocol)
    torch.save(state, folder / f"objects_{protocol}_legacy.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=False)
torch.save(torch.nn.ReLU(), folder / "whole_module_legacy.pth", _use_new_zipfile_serialization=False)
torch.save({"model": torch.nn.ReLU(), "epoch": 3}, folder / "wrapped_module_legacy.pth", _use_new_zipfile_serialization=False)
