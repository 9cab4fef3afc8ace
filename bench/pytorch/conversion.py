"""What the conversions in PyTorch beside this file have in common: phases that are timed, and how they end."""

import json
import resource
import sys
import time

import torch


class Phases:
    """Seconds of each phase since `started`."""

    def __init__(self, started):
        self.started = self.last = started
        self.seconds = {}

    def done(self, name):
        now = time.perf_counter()
        self.seconds[name], self.last = now - self.last, now

    def print(self):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        total = self.last - self.started
        print(json.dumps({"torch": torch.__version__, "seconds": self.seconds, "total": total, "maxRssMb": peak}))


def main(doc, convert, started):
    """Calls `convert(load, save, done)` with the two paths of the command line."""
    if len(sys.argv) != 3:
        sys.exit(doc)
    phases = Phases(started)
    phases.done("import")
    with torch.no_grad():
        convert(*sys.argv[1:], phases.done)
    phases.print()
