"""The work of benches/training.rs in PyTorch: CADA's default shapes, 64 pairs a step, random data.

    python peer_training.py [--bf16] [--compile] [--atp PAIRS] [--steps N] [--threads N]

Written from the description of the method for this comparison alone: pre-norm ViT (4 layers, width 256, patch 24 on
192 x 96), post-norm BERT (3 layers, cross-attention in each), NDF, ATP with one hard negative a side, AdamW with the
gradient's norm clipped. Products that PyTorch can fuse are left to it (scaled_dot_product_attention, fused AdamW).
"""

import argparse
import time

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, HEADS, HIDDEN, PATCH, VOCABULARY, POSITIONS, COMMON = 256, 4, 1024, 24, 7000, 73, 256
BATCH, TOKENS = 64, 20


def heads(x):
    return x.view(x.shape[0], x.shape[1], HEADS, -1).transpose(1, 2)


def attend(q, k, v):
    out = F.scaled_dot_product_attention(heads(q), heads(k), heads(v))
    return out.transpose(1, 2).reshape(q.shape)


class VitBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, 1e-6), nn.LayerNorm(WIDTH, 1e-6)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x):
        x = x + self.proj(attend(*self.qkv(self.norm1(x)).chunk(3, dim=-1)))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm = nn.LayerNorm(WIDTH, 1e-12)

    def forward(self, x, other):
        return self.norm(x + self.out(attend(self.q(x), self.k(other), self.v(other))))


class BertLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.own, self.cross = Attention(), Attention()
        self.fc1, self.fc2, self.norm = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH), nn.LayerNorm(WIDTH, 1e-12)

    def forward(self, x, image):
        x = self.own(x, x)
        if image is not None:
            x = self.cross(x, image)
        return self.norm(x + self.fc2(F.gelu(self.fc1(x))))


class Cada(nn.Module):
    def __init__(self):
        super().__init__()
        patches = (192 // PATCH) * (96 // PATCH)
        self.patch = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.cls = nn.Parameter(torch.randn(1, 1, WIDTH) * 0.02)
        self.places = nn.Parameter(torch.randn(1, 1 + patches, WIDTH) * 0.02)
        self.blocks = nn.ModuleList(VitBlock() for _ in range(4))
        self.norm = nn.LayerNorm(WIDTH, 1e-6)
        self.words = nn.Embedding(VOCABULARY, WIDTH, padding_idx=0)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        self.text_norm = nn.LayerNorm(WIDTH, 1e-12)
        self.layers = nn.ModuleList(BertLayer() for _ in range(3))
        self.vision_proj, self.text_proj = nn.Linear(WIDTH, COMMON), nn.Linear(WIDTH, COMMON)
        self.itm, self.itm_local = nn.Linear(WIDTH, 2), nn.Linear(WIDTH, 2)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def image(self, pixels):
        x = self.patch(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.places
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def text(self, ids, image=None):
        x = self.text_norm(self.words(ids) + self.positions.weight[: ids.shape[1]])
        for layer in self.layers:
            x = layer(x, image)
        return x


def ndf(v, t, labels):
    v, t = F.normalize(v.float(), dim=-1), F.normalize(t.float(), dim=-1)
    logits = v @ t.T * 50
    same = (labels[:, None] == labels[None, :]).float()
    q = same / same.sum(1, keepdim=True)
    log_q = torch.log(q + 1e-8)

    def one(s):
        log_p = F.log_softmax(s, 1)
        return (log_p.exp() * (log_p - log_q) + q * (log_q - log_p)).sum(1).mean()

    return (one(logits) + one(logits.T)) / 2


def loss(model, pixels, ids, labels, pairs):
    images, texts = model.image(pixels), model.text(ids)
    v, t = model.vision_proj(images[:, 0]), model.text_proj(texts[:, 0])
    total = ndf(v, t, labels)
    if pairs:
        with torch.no_grad():
            s = F.normalize(t.float(), dim=-1) @ F.normalize(v.float(), dim=-1).T
            s = s.masked_fill(labels[:, None] == labels[None, :], float("-inf"))
            image_for_text, text_for_image = s.argmax(1)[:pairs], s.argmax(0)[:pairs]
        own = torch.arange(pairs)
        rows, pictures = torch.cat([own, own, text_for_image]), torch.cat([own, image_for_text, own])
        fused = model.text(ids[rows], images[pictures]).float()
        target = (torch.arange(3 * pairs) < pairs).long()
        total = total + F.cross_entropy(model.itm(fused[:, 0]).float(), target)
        groups = [fused[:, 1:13].mean(1), fused[:, 13:].mean(1)]
        local = model.itm_local(torch.cat(groups)).float()
        total = total + F.cross_entropy(local, torch.cat([target, target]))
    return total


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--atp", type=int)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    for pairs in [8, 32] if args.atp is None else [args.atp]:
        model = Cada()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05, fused=True)
        pixels = torch.rand(BATCH, 3, 192, 96) * 2 - 1
        ids = torch.randint(104, 6900, (BATCH, TOKENS))
        labels = torch.arange(BATCH)
        forward = torch.compile(loss) if args.compile else loss
        times = []
        for step in range(args.steps + 3):
            began = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                value = forward(model, pixels, ids, labels, pairs)
            value.item()
            mid = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            back = time.perf_counter()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            end = time.perf_counter()
            if step >= 3:
                times.append([(mid - began) * 1e3, (back - mid) * 1e3, (end - back) * 1e3])
        times.sort(key=sum)
        least, median = times[0], times[len(times) // 2]
        name = ("Bf16" if args.bf16 else "F32") + (" compiled" if args.compile else "")
        print(
            f"PyTorch {torch.__version__} {name} atp {pairs}: least {sum(least):.1f} ms ({BATCH / sum(least) * 1e3:.0f} pairs/s), "
            f"median {sum(median):.1f} ms ({BATCH / sum(median) * 1e3:.0f} pairs/s): "
            f"forward {median[0]:.1f}, backward {median[1]:.1f}, AdamW {median[2]:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
