"""A plain PyTorch transformer as a child process of ``sequences.py``: times single rounds on request. Needs torch only.

One JSON line in, ``{"embed": 128, "layers": 3, ..., "steps": 10}``; one out, ``{"seconds": ..., "cpu": ...}``.
"""

from __future__ import annotations

import json
import os
import sys
import time

import torch
from torch import nn

torch.set_num_threads(len(os.sched_getaffinity(0)))  # as XLA: one per core that we may use
DROPOUT, TIMES = 0.1, 1020


class Block(nn.Module):
    def __init__(self, embed: int, heads: int, relu: bool) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(embed), nn.LayerNorm(embed)
        self.attention = nn.MultiheadAttention(embed, heads, DROPOUT, batch_first=True)
        self.drop = nn.Dropout(DROPOUT)
        act = nn.ReLU() if relu else nn.GELU()
        self.mlp = nn.Sequential(nn.Linear(embed, 4 * embed), act, nn.Linear(4 * embed, embed), nn.Dropout(DROPOUT))

    def forward(self, x: torch.Tensor, causal: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        n = self.norm_1(x)
        mixed = self.attention(n, n, n, attn_mask=causal, key_padding_mask=padding, need_weights=False)[0]
        x = x + self.drop(mixed)
        return x + self.mlp(self.norm_2(x))


class Net(nn.Module):
    def __init__(self, obs: int, act: int, embed: int, layers: int, heads: int, relu: bool) -> None:
        super().__init__()
        self.times = None if relu else nn.Embedding(TIMES, embed)  # the relu form is ODT: no time, two heads
        self.embed = nn.ModuleList([nn.Linear(n, embed) for n in (1, obs, act)])
        self.norm_in, self.norm_out, self.drop = nn.LayerNorm(embed), nn.LayerNorm(embed), nn.Dropout(DROPOUT)
        self.blocks = nn.ModuleList([Block(embed, heads, relu) for _ in range(layers)])
        self.head = nn.Linear(embed, 2 * act if relu else act)

    def forward(self, columns: list[torch.Tensor], time: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        tokens = torch.stack([e(c) for e, c in zip(self.embed, columns, strict=True)], 2)  # [B, K, 3, embed]
        if self.times is not None:
            tokens = tokens + self.times(time)[:, :, None]
        x = self.drop(self.norm_in(tokens.flatten(1, 2)))
        causal = torch.triu(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool), 1)
        for block in self.blocks:
            x = block(x, causal, padding.repeat_interleave(3, 1))
        return self.head(self.norm_out(x)[:, 1::3])


class Training:
    def __init__(self, r: dict) -> None:
        torch.manual_seed(0)
        self.relu = r["relu"]
        self.net = Net(r["obs"], r["act"], r["embed"], r["layers"], r["heads"], self.relu)
        self.opt = torch.optim.AdamW(self.net.parameters(), lr=1e-4, weight_decay=1e-4)
        b, k = r["batch"], r["context"]
        self.columns = [torch.randn(b, k, 1), torch.randn(b, k, r["obs"]), torch.rand(b, k, r["act"]) * 1.8 - 0.9]
        self.time, self.padding = torch.randint(0, 1000, (b, k)), torch.zeros(b, k, dtype=torch.bool)

    def update(self) -> None:
        out, action = self.net(self.columns, self.time, self.padding), self.columns[2]
        if self.relu:
            mean, raw = out.chunk(2, -1)
            d = torch.distributions.Normal(mean, torch.exp(-5 + 3.5 * (torch.tanh(raw) + 1)))
            log_det = lambda u: 2 * (0.6931471805599453 - u - nn.functional.softplus(-2 * u))
            own, data = d.rsample(), torch.atanh(action)
            loss = -(d.log_prob(data) - log_det(data)).sum(-1).mean()
            loss = loss + 0.1 * (d.log_prob(own) - log_det(own)).sum(-1).mean()
        else:
            loss = nn.functional.mse_loss(torch.tanh(out), action)
        self.opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 0.25)
        self.opt.step()


def main() -> None:
    trainings: dict[str, Training] = {}

    def answer(reply: dict) -> None:
        print(json.dumps(reply), flush=True)

    answer({"torch": torch.__version__, "threads": torch.get_num_threads()})
    for line in sys.stdin:
        request = json.loads(line)
        steps = request.pop("steps")
        key = json.dumps(request)
        if key not in trainings:
            trainings.clear()  # one at a time: the large one holds gigabytes
            trainings[key] = Training(request)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            trainings[key].update()
        answer({"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu})


if __name__ == "__main__":
    main()
