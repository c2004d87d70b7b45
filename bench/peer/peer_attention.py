"""Times PyTorch's attention, causal with shared heads, forward and backward by length; prints one line of JSON.

Sequences of one length are as many as fill --rows, at least one. `default` is what PyTorch chooses; `others` are its ways by name,
where they can do it.
"""

import argparse
import json
import os
import statistics
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

WAYS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def seconds(device, work, calls=9):
    """The median of some calls, after one that does not count; on a GPU by its own clock."""
    work()
    found = []
    for _ in range(calls):
        if device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            work()
            end.record()
            torch.cuda.synchronize()
            found.append(begin.elapsed_time(end) / 1e3)
        else:
            begin = time.perf_counter()
            work()
            found.append(time.perf_counter() - begin)
    return statistics.median(found)


def passes(args, rows, length):
    """Seconds forward, and backward alone."""
    make = lambda heads: torch.randn(
        rows, heads, length, args.width, device=args.device, dtype=getattr(torch, args.dtype), requires_grad=True
    )
    q, k, v = make(args.heads), make(args.kv_heads), make(args.kv_heads)
    attend = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    o = attend()
    d_o = torch.randn_like(o)
    backward = lambda: torch.autograd.grad(o, (q, k, v), d_o, retain_graph=True)
    return {"forward": seconds(args.device, attend), "backward": seconds(args.device, backward)}


def others(args, rows, length):
    found = {"forward": {}, "backward": {}}
    for name, way in WAYS.items():
        try:
            with sdpa_kernel(way):
                timed = passes(args, rows, length)
        except RuntimeError:
            continue  # not for this device or shape
        for which in found:
            found[which][name] = timed[which]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heads", type=int, required=True)
    parser.add_argument("--kv-heads", type=int, required=True)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--lengths", type=int, nargs="+", required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    measured = []
    for length in args.lengths:
        rows = max(1, args.rows // length)
        of = {"length": length, "default": passes(args, rows, length)}
        of["others"] = others(args, rows, length) if args.device == "cuda" else {"forward": {}, "backward": {}}
        measured.append(of)
    versions = {"torch": torch.__version__}
    if args.device == "cuda":
        versions |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "gpu": torch.cuda.get_device_name()}
    print(json.dumps({"lengths": measured, "versions": versions}))


if __name__ == "__main__":
    main()
