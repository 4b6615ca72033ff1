"""The transformer once more, with ComfyUI's names for its parameters: fixed shapes, so that it can be compiled, and per-picture places."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def rope(ids, axes):
    """Cosine and sine of n x 3 places, ... x sum(axes)/2."""
    parts = []
    for axis, dims in enumerate(axes):
        speed = 10000 ** (-torch.arange(0, dims, 2, dtype=torch.float32) / dims)
        parts.append(ids[..., axis, None] * speed)
    angle = torch.cat(parts, -1)
    return angle.cos(), angle.sin()


def turn(x, cos, sin):
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


class Mlp(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.net = nn.ModuleList([nn.ModuleDict({"proj": nn.Linear(dim, 4 * dim)}), nn.Identity(), nn.Linear(4 * dim, dim)])

    def forward(self, x):
        return self.net[2](F.gelu(self.net[0]["proj"](x), approximate="tanh"))


def rms(x, weight, eps=1e-5):
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj"):
            setattr(self, name, nn.Linear(dim, dim))
        for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            setattr(self, name, nn.RMSNorm(dim // heads))
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        self.to_add_out = nn.Linear(dim, dim)

    def forward(self, img, txt, cos, sin, bias):
        split = lambda x: x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q = torch.cat([rms(split(self.add_q_proj(txt)), self.norm_added_q.weight), rms(split(self.to_q(img)), self.norm_q.weight)], 2)
        k = torch.cat([rms(split(self.add_k_proj(txt)), self.norm_added_k.weight), rms(split(self.to_k(img)), self.norm_k.weight)], 2)
        v = torch.cat([split(self.add_v_proj(txt)), split(self.to_v(img))], 2)
        q, k = turn(q, cos, sin).to(v.dtype), turn(k, cos, sin).to(v.dtype)
        scores = torch.matmul(q, k.transpose(2, 3)).float() / math.sqrt(q.shape[-1]) + bias
        out = torch.matmul(scores.softmax(-1).to(v.dtype), v).transpose(1, 2).flatten(2)
        t = txt.shape[1]
        return self.to_out[0](out[:, t:]), self.to_add_out(out[:, :t])


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.dim = dim
        self.img_mod = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.txt_mod = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.img_mlp, self.txt_mlp = Mlp(dim), Mlp(dim)
        self.attn = Attention(dim, heads)

    def forward(self, img, txt, temb, at_zero, references, cos, sin, bias):
        i, t = self.img_mod(temb).float()[:, None].chunk(6, -1), self.txt_mod(temb).float()[:, None].chunk(6, -1)
        if references:
            # References are always at the time 0, when nothing is noise.
            still = self.img_mod(at_zero).float()[:, None].chunk(6, -1)
            b, n = img.shape[0], img.shape[1] - references
            i = [torch.cat([one.expand(b, n, -1), other.expand(b, references, -1)], 1) for one, other in zip(i, still)]
        norm = lambda x: F.layer_norm(x, (self.dim,), eps=1e-6)
        a, b = self.attn(norm(img) * (1 + i[1]) + i[0], norm(txt) * (1 + t[1]) + t[0], cos, sin, bias)
        img, txt = img + i[2] * a, txt + t[2] * b
        img = img + i[5] * self.img_mlp(norm(img) * (1 + i[4]) + i[3])
        txt = txt + t[5] * self.txt_mlp(norm(txt) * (1 + t[4]) + t[3])
        return img, txt


class Lean(nn.Module):
    def __init__(self, heads, head_dim, axes, blocks, text=64):
        super().__init__()
        self.heads, self.head_dim, self.axes = heads, head_dim, tuple(axes)
        dim = self.dim = heads * head_dim
        self.time_text_embed = nn.ModuleDict({"timestep_embedder": nn.ModuleDict({"linear_1": nn.Linear(256, dim), "linear_2": nn.Linear(dim, dim)})})
        self.txt_norm = nn.RMSNorm(text)
        self.img_in, self.txt_in = nn.Linear(64, dim), nn.Linear(text, dim)
        self.transformer_blocks = nn.ModuleList([Block(dim, heads) for _ in range(blocks)])
        self.norm_out = nn.ModuleDict({"linear": nn.Linear(dim, 2 * dim)})
        self.proj_out = nn.Linear(dim, 64)

    def time(self, sigma):
        half = torch.exp(-math.log(10000) * torch.arange(128) / 128)
        angle = sigma[:, None] * 1000 * half
        steps = self.time_text_embed["timestep_embedder"]
        return steps["linear_2"](F.silu(steps["linear_1"](torch.cat([angle.cos(), angle.sin()], -1))))

    def forward(self, tokens, ids, context, text_ids, sigma, bias, references=0):
        """tokens b n 64, of which the last are so many references; ids b n 3, context b t 64, text_ids t 3, sigma b, bias b (t + n)."""
        temb = self.time(sigma)
        at_zero = self.time(torch.zeros(1)) if references else None
        cos, sin = rope(torch.cat([text_ids.expand(len(ids), -1, -1), ids], 1), self.axes)
        cos, sin = cos[:, None], sin[:, None]
        img = self.img_in(tokens).float()
        txt = self.txt_in(rms(context, self.txt_norm.weight, 1e-6)).float()
        bias = bias[:, None, None]
        for block in self.transformer_blocks:
            img, txt = block(img, txt, temb, at_zero, references, cos, sin, bias)
        img = img[:, :img.shape[1] - references]
        scale, shift = self.norm_out["linear"](F.silu(temb)).float()[:, None].chunk(2, -1)
        img = F.layer_norm(img, (self.dim,), eps=1e-6) * (1 + scale) + shift
        return self.proj_out(img)
