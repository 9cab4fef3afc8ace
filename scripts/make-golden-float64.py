"""Training-mode passes of RepVGG's, RepMLPNet's and DBB's blocks and networks in float64, for goldens that have none.

    python3 scripts/make-golden-float64.py GOLDEN OUT ID...

Reads `<family>/<ID>.safetensors` of a golden folder and writes `OUT/<ID>.safetensors`: `output`, `grad.<key>` and
`after.<buffer>`, computed by PyTorch from the same float32 weights. By these the checks know how far the float32 goldens
themselves are from the exact result.
"""
import json
import struct
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

folder, out, ids = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
cases = {c["id"]: c for c in json.loads((folder / "cases.json").read_text())["blocks"]}
KINDS = {"F32": np.float32, "F64": np.float64, "I64": np.int64}


def read(path):
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    tensors = {}
    for key, t in json.loads(data[8 : 8 + size]).items():
        if key != "__metadata__":
            begin, end = t["data_offsets"]
            values = np.frombuffer(data[8 + size + begin : 8 + size + end], KINDS[t["dtype"]])
            tensors[key] = torch.from_numpy(values.reshape(t["shape"]).astype(np.float64))
    return tensors


def write(path, tensors):
    header, blobs, at = {}, [], 0
    for key, value in tensors.items():
        blob = value.detach().contiguous().numpy().astype("<f8").tobytes()
        header[key] = {"dtype": "F64", "shape": list(value.shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def norm(p, name, x):
    get = lambda key: p[f"{name}.{key}"]
    return F.batch_norm(x, get("running_mean"), get("running_var"), get("weight"), get("bias"), True, 0.1, 1e-5)


def block(p, name, x, stride, padding=1):
    at = lambda key: f"{name}{key}"
    dense, point = p[at("rbr_dense.conv.weight")], p[at("rbr_1x1.conv.weight")]
    groups = x.shape[1] // dense.shape[1]
    y = norm(p, at("rbr_dense.bn"), F.conv2d(x, dense, None, stride, padding, 1, groups))
    y = y + norm(p, at("rbr_1x1.bn"), F.conv2d(x, point, None, stride, padding - dense.shape[2] // 2, 1, groups))
    if at("rbr_identity.weight") in p:
        y = y + norm(p, at("rbr_identity"), x)
    if at("se.down.weight") in p:
        s = F.relu(F.conv2d(y.mean((2, 3), keepdim=True), p[at("se.down.weight")], p[at("se.down.bias")]))
        y = y * torch.sigmoid(F.conv2d(s, p[at("se.up.weight")], p[at("se.up.bias")]))
    y = F.relu(y)
    if at("post_se.down.weight") in p:
        s = F.relu(F.conv2d(y.mean((2, 3), keepdim=True), p[at("post_se.down.weight")], p[at("post_se.down.bias")]))
        y = y * torch.sigmoid(F.conv2d(s, p[at("post_se.up.weight")], p[at("post_se.up.bias")]))
    return y


def net(p, x):
    x = block(p, "stage0.", x, 2)
    for stage in range(1, 5):
        i = 0
        while f"stage{stage}.{i}.rbr_dense.conv.weight" in p:
            x = block(p, f"stage{stage}.{i}.", x, 1 if i else 2)
            i += 1
    return F.linear(x.mean((2, 3)), p["linear.weight"], p["linear.bias"])


def conv_norm(p, name, x, **options):
    return norm(p, f"{name}.bn", F.conv2d(x, p[f"{name}.conv.weight"], **options))


def repmlp_block(p, name, x, h, w):
    """RepMLPNet's block as the original has it: with several partitions and shared sets, tiles change places."""
    n, c, height, width = x.shape
    s, rows, columns = p[f"{name}fc3_bn.weight"].numel(), height // h, width // w
    gates = F.conv2d(x.mean((2, 3), keepdim=True), p[f"{name}gp.fc1.weight"], p[f"{name}gp.fc1.bias"])
    gates = torch.sigmoid(F.conv2d(F.relu(gates), p[f"{name}gp.fc2.weight"], p[f"{name}gp.fc2.bias"]))
    tiles = x.reshape(n, c, rows, h, columns, w).permute(0, 2, 4, 1, 3, 5)
    y = F.conv2d(tiles.reshape(-1, s * h * w, 1, 1), p[f"{name}fc3.weight"], groups=s).reshape(-1, s, h, w)
    y = norm(p, f"{name}fc3_bn", y)
    for k in range(1, 2 * max(h, w) + 2, 2):
        if f"{name}repconv{k}.conv.weight" in p:
            y = y + conv_norm(p, f"{name}repconv{k}", tiles.reshape(-1, s, h, w), padding=k // 2, groups=s)
    return y.reshape(-1, rows, columns, s, h, w).permute(0, 3, 1, 4, 2, 5).reshape(x.shape) * gates


def ffn(p, name, x):
    return conv_norm(p, f"{name}ffn_fc2", F.gelu(conv_norm(p, f"{name}ffn_fc1", x)))


def unit(p, name, x, h, w):
    y = x + repmlp_block(p, f"{name}repmlp_block.", norm(p, f"{name}prebn1", x), h, w)
    return y + ffn(p, f"{name}ffn_block.", norm(p, f"{name}prebn2", y))


def repmlpnet(p, x, args):
    x = F.relu(conv_norm(p, "conv_embedding", x, stride=args["patch_size"]))
    for i, (count, h, w) in enumerate(zip(args["num_blocks"], args["hs"], args["ws"])):
        if i > 0:
            x = F.relu(conv_norm(p, f"embeds.{i - 1}", x, stride=2))
        for j in range(count):
            x = unit(p, f"stages.{i}.{j}.", x, h, w)
    return F.linear(norm(p, "head_norm", x).mean((2, 3)), p["head.weight"], p["head.bias"])


def norm_and_pad(p, name, x, padding):
    y = norm(p, f"{name}.bn", x)
    get = lambda key: p[f"{name}.bn.{key}"].detach()
    zero = get("bias") - get("running_mean") * get("weight") / torch.sqrt(get("running_var") + 1e-5)
    inside = F.pad(torch.ones_like(y), [padding] * 4)
    return F.pad(y, [padding] * 4) + (1 - inside) * zero.view(1, -1, 1, 1)


def dbb(p, x, args):
    k, stride, groups = args["kernel_size"], args.get("stride", 1), args.get("groups", 1)
    padding = k // 2
    y = norm(p, "dbb_origin.bn", F.conv2d(x, p["dbb_origin.conv.weight"], None, stride, padding, 1, groups))
    if "dbb_1x1.conv.weight" in p:
        y = y + norm(p, "dbb_1x1.bn", F.conv2d(x, p["dbb_1x1.conv.weight"], None, stride, 0, 1, groups))
        a = norm_and_pad(p, "dbb_avg.bn", F.conv2d(x, p["dbb_avg.conv.weight"], None, 1, 0, 1, groups), padding)
        y = y + norm(p, "dbb_avg.avgbn", F.avg_pool2d(a, k, stride))
    else:
        y = y + norm(p, "dbb_avg.avgbn", F.avg_pool2d(x, k, stride, padding))
    if "dbb_1x1_kxk.conv1.weight" in p:
        first = p["dbb_1x1_kxk.conv1.weight"]
    else:
        difference = p["dbb_1x1_kxk.idconv1.weight"]
        channels, per_group = difference.shape[:2]
        first = difference + torch.eye(per_group, dtype=x.dtype).repeat(channels // per_group, 1)[:, :, None, None]
    a = norm_and_pad(p, "dbb_1x1_kxk.bn1", F.conv2d(x, first, None, 1, 0, 1, groups), padding)
    return y + norm(p, "dbb_1x1_kxk.bn2", F.conv2d(a, p["dbb_1x1_kxk.conv2.weight"], None, stride, 0, 1, groups))


WHOLE = {
    "dbb": dbb,
    "repvgg_net": lambda p, x, args: net(p, x),
    "repmlpnet_block": lambda p, x, args: repmlp_block(p, "", x, args["h"], args["w"]),
    "repmlpnet_ffn": lambda p, x, args: ffn(p, "", x),
    "repmlpnet_unit": lambda p, x, args: unit(p, "", x, args["h"], args["w"]),
    "repmlpnet": repmlpnet,
}

for name in ids:
    case = cases[name]
    tensors = read(folder / case["file"])
    p = {key[6:]: value for key, value in tensors.items() if key.startswith("train.") and key != "train.output"}
    p["input"] = tensors["input"].requires_grad_()
    wanted = [key[5:] for key in tensors if key.startswith("grad.")]
    for key in wanted:
        p[key].requires_grad_()
    args = case["args"]
    if case["family"] in WHOLE:
        y = WHOLE[case["family"]](p, p["input"], args)
    else:
        y = block(p, "", p["input"], args.get("stride", 1), args.get("padding", 1))
    gradients = torch.autograd.grad((y * tensors["cotangent"]).sum(), [p[key] for key in wanted]) if wanted else []
    result = {"output": y, **{f"grad.{key}": g for key, g in zip(wanted, gradients)}}
    result.update({f"after.{key}": v for key, v in p.items() if key.endswith(("running_mean", "running_var"))})
    write(out / f"{name}.safetensors", result)
    for key, value in result.items():
        golden = tensors["trainmode.output" if key == "output" else key if key.startswith("grad.") else f"trainmode.{key}"]
        largest, off = value.abs().max().item(), (golden - value).abs().max().item()
        if off > 1e-6 + 1e-5 * largest:
            print(f"{name} {key}: the golden is {off:.1e} from float64, of {largest:.1e}")
