"""What onnxruntime's own quantizer makes of an ONNX classifier, for comparison: quantize_static of the Python package.

Usage: python3 bench/pytorch/quantize_onnxruntime.py MODEL.onnx CALIBRATION.npy TEST.npy LABELS.npy OUT [--threads 4]

CALIBRATION and TEST are inputs of the model, float32 [N, C, H, W]; LABELS the classes of TEST's. Prints one line of JSON per
setting, and writes OUT/MODEL.SETTING.onnx:
  float      the model as it is
  defaults   quantize_static's own defaults: per tensor, signed activations, ranges by min and max
  advised    what its documentation advises for x86: a scale per channel, unsigned activations, 7-bit weights
  vnni       the same with 8-bit weights
  entropy, percentile  as vnni, with these calibrators
"""
import argparse
import json
import os
import time

import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

X86 = {"per_channel": True, "activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
SETTINGS = {
    "float": None,
    "defaults": {},
    "advised": {**X86, "reduce_range": True},
    "vnni": X86,
    "entropy": {**X86, "calibrate_method": CalibrationMethod.Entropy},
    "percentile": {**X86, "calibrate_method": CalibrationMethod.Percentile},
}


class Pictures(CalibrationDataReader):
    def __init__(self, name, values, size=32):
        self.batches = iter([{name: values[at : at + size]} for at in range(0, len(values), size)])

    def get_next(self):
        return next(self.batches, None)


def session(path, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "calibration", "test", "labels", "out"):
        parser.add_argument(name)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    args = parser.parse_args()
    calibration, test, labels = (np.load(f) for f in (args.calibration, args.test, args.labels))
    name = os.path.splitext(os.path.basename(args.model))[0]
    os.makedirs(args.out, exist_ok=True)
    prepared = os.path.join(args.out, f"{name}.prepared.onnx")
    quant_pre_process(args.model, prepared)
    for setting in args.settings:
        path = prepared
        if SETTINGS[setting] is not None:
            path = os.path.join(args.out, f"{name}.{setting}.onnx")
            pictures = Pictures(session(prepared, 1).get_inputs()[0].name, calibration)
            quantize_static(prepared, path, pictures, **SETTINGS[setting])
        program = session(path, args.threads)
        feed, started, right = program.get_inputs()[0].name, time.time(), 0
        for at in range(0, len(test), 50):
            (logits,) = program.run(None, {feed: test[at : at + 50]})
            right += int((logits.argmax(1) == labels[at : at + 50]).sum())
        print(
            json.dumps(
                {
                    "model": name,
                    "setting": setting,
                    "correct": right,
                    "of": len(labels),
                    "seconds": round(time.time() - started, 2),
                    "bytes": os.path.getsize(path),
                    "onnxruntime": onnxruntime.__version__,
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
