"""A plain PyTorch training loop of a small Llama on random tokens in float32; prints one line of JSON.

Written as one would without a library: fused attention, fused AdamW, the head on every position. The first step is not
counted.
"""

import argparse
import json
import os
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn


class Linear(nn.Module):
    """A weight, frozen beside a low-rank addition when there is one."""

    def __init__(self, inputs, outputs, rank):
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(outputs, inputs), requires_grad=rank == 0)
        self.rank = rank
        if rank:
            self.a = nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)
            self.b = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x):
        y = F.linear(x, self.weight)
        return y + 2.0 * F.linear(F.linear(x, self.a), self.b) if self.rank else y


class Norm(nn.Module):
    def __init__(self, width, eps, trained):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width), requires_grad=trained), eps

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Block(nn.Module):
    def __init__(self, c, rank):
        super().__init__()
        d, f, self.h = c["hidden_size"], c["intermediate_size"], c["head_dim"]
        self.n, self.k = c["num_attention_heads"], c["num_key_value_heads"]
        self.q, self.o = Linear(d, self.n * self.h, rank), Linear(self.n * self.h, d, rank)
        self.key, self.value = Linear(d, self.k * self.h, rank), Linear(d, self.k * self.h, rank)
        self.gate, self.up, self.down = Linear(d, f, rank), Linear(d, f, rank), Linear(f, d, rank)
        self.norm1, self.norm2 = (Norm(d, c["rms_norm_eps"], rank == 0) for _ in range(2))

    def forward(self, x, cos, sin):
        rows, tokens, _ = x.shape
        y = self.norm1(x)
        heads = lambda z, n: z.view(rows, tokens, n, self.h).transpose(1, 2)
        q, k = rotate(heads(self.q(y), self.n), cos, sin), rotate(heads(self.key(y), self.k), cos, sin)
        o = F.scaled_dot_product_attention(q, k, heads(self.value(y), self.k), is_causal=True, enable_gqa=True)
        x = x + self.o(o.transpose(1, 2).reshape(rows, tokens, -1))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    def __init__(self, c, rank):
        super().__init__()
        trained = rank == 0
        self.embed = nn.Embedding(c["vocab_size"], c["hidden_size"]).requires_grad_(trained)
        self.blocks = nn.ModuleList(Block(c, rank) for _ in range(c["num_hidden_layers"]))
        self.norm = Norm(c["hidden_size"], c["rms_norm_eps"], trained)
        self.head = Linear(c["hidden_size"], c["vocab_size"], 0).requires_grad_(trained)
        half = torch.arange(0, c["head_dim"], 2) / c["head_dim"]
        self.frequencies = c["rope_theta"] ** -half

    def forward(self, tokens):
        angles = torch.outer(torch.arange(tokens.shape[1]), self.frequencies)
        cos, sin = angles.cos(), angles.sin()
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.head(self.norm(x))


def high_water():
    """Resident peak of this process in bytes. `ru_maxrss` would begin at the size of the process that started us."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=json.loads, help="config.json of the model, as text")
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=512, help="positions of a row that predict another")
    parser.add_argument("--lora", type=int, default=0, help="rank; 0 trains all weights")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = Llama(args.config, args.lora)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, fused=True)
    rows = torch.randint(args.config["vocab_size"], (args.rows, args.tokens + 1))
    seconds, loss = [], None
    for _ in range(args.steps):
        begin = time.perf_counter()
        logits = model(rows[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - begin)
    print(
        json.dumps(
            {
                "median_step_seconds": statistics.median(seconds[1:]),
                "step_seconds": seconds,
                "peak_bytes": high_water(),
                "last_loss": loss.item(),
                "trained": sum(p.numel() for p in trained),
                "versions": {"torch": torch.__version__},
            }
        )
    )


if __name__ == "__main__":
    main()
