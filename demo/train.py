"""Trains the transformer on some tokens of each picture: half of them anywhere, half of them near the things.

Attention weighs each token by how many it stands for, as a bias of its key, so that a model that never saw a whole picture paints one.
"""

import argparse
import math
import os
import random
import time

import torch
import torch.distributed

import comfy_parts
import latents
import texts
import world
from model import Lean

SHIFT = 3.1
BUCKETS = (16, 24, 56)


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal (Jordan and others, 2024), for the matrices of the blocks: it learns in fewer steps than Adam."""

    def __init__(self, matrices, lr, momentum=0.95):
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for value in group["params"]:
                if value.grad is None:
                    continue
                state = self.state[value]
                if "mean" not in state:
                    state["mean"] = torch.zeros_like(value)
                state["mean"].lerp_(value.grad, 1 - group["momentum"])
                update = value.grad.lerp(state["mean"], group["momentum"])
                wide = update.shape[0] <= update.shape[1]
                x = update if wide else update.T
                x = (x / (x.norm() + 1e-7)).bfloat16()
                for _ in range(5):
                    a = x @ x.T
                    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
                x = (x if wide else x.T).float()
                value.add_(x, alpha=-group["lr"] * max(1, value.shape[0] / value.shape[1]) ** 0.5)


# For the heads of the first blocks that tell a place: the axis, the direction in which they look, and how far from that border attention
# turns from the text to the picture, in tokens of 83.
HEADS = (
    ((1, -1, 21), (1, 1, 21), (2, -1, 21), (2, 1, 21)),
    ((1, -1, 41), (2, -1, 41)),
)
SHARPNESS = 16.0
BEYOND = 11


def seed_places(model, generator):
    """Gives some heads of the first two blocks fixed queries and keys, by which a token knows how far it is from each border.

    RoPE is the only way to know a place. A head looks a fixed way up, down, left or right; where that is beyond the border, nothing
    answers but the text, so the share of text in what it brings tells the distance. Begun from nothing this is not found in any
    time that we have, and what is given is soon lost: so it is kept. Gives what must be put back after each step.
    """
    d, axes = model.head_dim, model.axes
    offset = [0, axes[0], axes[0] + axes[1]]
    constant = axes[0] - 2                       # The slowest of the first axis: it hardly turns.
    speeds = 10000 ** (-torch.arange(0, axes[1], 2) / axes[1])
    number_of = int((speeds - 0.0464).abs().argmin())
    speed = speeds[number_of].item()
    # Queries are this much more for the text than for the picture; the scores of what fits wholly, before the scales of the norms.
    lean = 1.4
    picture, text = (math.sqrt(d) * part / math.hypot(1, lean) for part in (1, lean))
    scale = math.sqrt(SHARPNESS / picture)
    # The picture's share is a half where its few tokens in reach weigh as much as the text's.
    text_score = math.log(83 / (SHARPNESS * speed * math.sin(speed * BEYOND))) + SHARPNESS * math.cos(speed * BEYOND) - math.log(17)
    kept = []
    for block, heads in zip(model.transformer_blocks, HEADS):
        a = block.attn
        with torch.no_grad():
            for head, (axis, sign, threshold) in enumerate(heads):
                rows = slice(head * d, (head + 1) * d)
                pair = offset[axis] + 2 * number_of
                # It looks this far towards the border, so at the threshold `BEYOND` tokens past it.
                way = sign * (threshold + BEYOND)
                q, k = torch.zeros(d), torch.zeros(d)
                q[pair], q[pair + 1] = math.cos(way * speed), math.sin(way * speed)
                q[constant] = lean
                k[pair] = 1.0
                for layer in (a.to_q, a.to_k):
                    layer.weight[rows] = 0.0
                a.to_q.bias[rows], a.to_k.bias[rows] = q, k
                # Of the text's keys a part is free for what the text says to itself.
                part = text_score / (text * scale * scale)
                free = 0.5 * math.sqrt(d)
                a.add_k_proj.weight[rows] = 0.5 * torch.randn(d, model.dim, generator=generator) / math.sqrt(model.dim)
                a.add_k_proj.bias[rows] = 0.0
                a.add_k_proj.bias[rows][constant] = free * part / math.sqrt(1 - part * part)
                told = 2.0 * torch.randn(d, generator=generator)
                a.to_v.bias[rows] -= told
                a.add_v_proj.bias[rows] += told
                for layer in (a.to_q, a.to_k, a.add_k_proj):
                    kept += [(value, rows, value[rows].clone()) for value in (layer.weight, layer.bias)]
            for norm in (a.norm_q, a.norm_k, a.norm_added_k):
                norm.weight.fill_(scale)
                kept.append((norm.weight, slice(None), norm.weight.clone()))
    return kept


def build(arguments):
    model = Lean(arguments.heads, arguments.head_dim, arguments.axes, arguments.blocks)
    generator = torch.Generator().manual_seed(arguments.seed)
    comfy_parts.fan_in(model, generator)
    with torch.no_grad():
        width = model.dim
        for block in model.transformer_blocks:
            for mod in (block.img_mod[1], block.txt_mod[1]):
                mod.weight.mul_(0.1)
                for part in (2, 5):
                    mod.bias[part * width:(part + 1) * width] = 0.5
        model.norm_out["linear"].weight.mul_(0.1)
        # What comes in noisy goes out again, beside what is made of it.
        turn = torch.linalg.qr(torch.randn(64, 64, generator=generator))[0]
        model.img_in.weight.zero_()
        model.img_in.weight[:64] = turn
        model.proj_out.weight.zero_()
        model.proj_out.weight[:, :64] = 0.6 * turn.T
    return model


def grid(height, width):
    rows = torch.arange(height).float() - (height // 2)
    columns = torch.arange(width).float() - (width // 2)
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
    return torch.cat([torch.zeros(len(places), 1), places], 1)


def text_ids(height, width, count):
    start = max(height // 2, width // 2)
    return torch.arange(start, start + count).float().view(-1, 1).repeat(1, 3)


def pad(contexts, length):
    out = torch.zeros(len(contexts), length, 64)
    bias = torch.full((len(contexts), length), -1e4)
    for row, context in enumerate(contexts):
        out[row, :len(context)] = context
        bias[row, :len(context)] = 0
    return out, bias


def to_tokens(latent):
    """b 16 2h 2w to b hw 64, in ComfyUI's order."""
    b, c, h, w = latent.shape
    return latent.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h // 2 * (w // 2), c * 4)


def from_tokens(tokens, height, width):
    b = tokens.shape[0]
    return tokens.view(b, height, width, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, 16, height * 2, width * 2)


class Painter:
    """Tokens of many scenes at once. Scenes have a plain background and up to four plain things."""

    def __init__(self, codec):
        self.down = codec.down
        self.mean = codec.mean @ codec.down
        spot = torch.arange(16) + 0.5
        self.y, self.x = torch.meshgrid(spot, spot, indexing="ij")

    def paint(self, scenes, picked, height, width):
        """`picked` b n: numbers of tokens. Gives b n 64."""
        side = min(height, width) * 16
        top, left = (picked // width * 16).float(), (picked % width * 16).float()
        b, n = picked.shape
        back = torch.tensor([s["back"][1] for s in scenes])
        image = back[:, None, None, None, :].expand(b, n, 16, 16, 3).clone()
        for slot in range(max(len(s["things"]) for s in scenes)):
            by_shape = {}
            for row, s in enumerate(scenes):
                if slot < len(s["things"]):
                    by_shape.setdefault(s["things"][slot][0], []).append(row)
            for shape, rows in by_shape.items():
                things = [scenes[row]["things"][slot] for row in rows]
                cx, cy, radius = (torch.tensor([t[at] for t in things]) for at in (3, 4, 5))
                colour = torch.tensor([t[1] for t in things])
                index = torch.tensor(rows)
                scale = (radius * side)[:, None]
                mx = (left[index] - cx[:, None] * width * 16) / scale
                my = (top[index] - cy[:, None] * height * 16) / scale
                # Tokens far from the thing are left alone.
                far = 1.25 + 16 / scale
                near = ((mx.abs() < far) & (my.abs() < far)).nonzero()
                r, c = near[:, 0], near[:, 1]
                unit = scale[r, 0][:, None, None]
                px = mx[r, c][:, None, None] + self.x / unit
                py = my[r, c][:, None, None] + self.y / unit
                inside = (0.5 - world.distance(shape, px, py) * unit).clamp(0, 1)[..., None]
                under = image[index[r], c]
                image[index[r], c] = under + (colour[r][:, None, None, :] - under) * inside
        # As latents.patches: 16x16 is 2x2 patches, of 3 colours of 8x8.
        cut = (image * 2 - 1).view(b, n, 2, 8, 2, 8, 3).permute(0, 1, 2, 4, 6, 3, 5).reshape(b, n, 2, 2, 192)
        latent = cut @ self.down - self.mean                     # b n 2 2 16
        return latent.permute(0, 1, 4, 2, 3).reshape(b, n, 64)


def pick(scenes, height, width, count, generator):
    """Half of the tokens anywhere, half near the things; and for how many each stands, as a logarithm."""
    total, b = height * width, len(scenes)
    near = count // 2
    anywhere = torch.randint(total, (b, count - near), generator=generator)
    side = min(height, width)
    part = torch.rand(b, near, 2, generator=generator)
    boxes = torch.zeros(b, 4)
    for row, s in enumerate(scenes):
        things = s["things"]
        x0, x1 = (f(t[3] * width + sign * 1.2 * t[5] * side for t in things) for f, sign in ((min, -1), (max, 1)))
        y0, y1 = (f(t[4] * height + sign * 1.2 * t[5] * side for t in things) for f, sign in ((min, -1), (max, 1)))
        boxes[row] = torch.tensor([max(0, x0), min(width, x1), max(0, y0), min(height, y1)])
    x = (boxes[:, :1] + part[..., 0] * (boxes[:, 1:2] - boxes[:, :1])).long().clamp(0, width - 1)
    y = (boxes[:, 2:3] + part[..., 1] * (boxes[:, 3:] - boxes[:, 2:3])).long().clamp(0, height - 1)
    picked = torch.cat([anywhere, y * width + x], 1)
    row, column = picked // width + 0.5, picked % width + 0.5
    inside = (column > boxes[:, :1]) & (column < boxes[:, 1:2]) & (row > boxes[:, 2:3]) & (row < boxes[:, 3:])
    area = ((boxes[:, 1:2] - boxes[:, :1]) * (boxes[:, 3:] - boxes[:, 2:3])).clamp_min(1)
    density = (count - near) / total + inside * near / area
    return picked, -density.log()


def pick_size(rng, mixed):
    if rng.random() >= mixed:
        return 83, 83
    if rng.random() < 0.4:
        return rng.choice([(83, 83), (58, 104), (104, 58), (72, 94), (94, 72), (64, 64), (32, 32), (48, 48)])
    side = math.exp(rng.uniform(math.log(16), math.log(83)))
    ratio = 1.0 if rng.random() < 0.5 else math.exp(rng.uniform(-0.6, 0.6))
    return tuple(max(12, min(104, round(side * part))) for part in (ratio ** 0.5, ratio ** -0.5))


class Pool:
    def __init__(self, encoder, arguments, rng):
        self.encoder, self.arguments, self.rng = encoder, arguments, rng
        self.empty = encoder.encode("").float()
        self.found = {}
        self.fill(arguments.pool)
        print("pool", {bucket: len(found) for bucket, found in self.found.items()}, flush=True)

    def fill(self, count):
        streets = int(count * 0.04) if self.arguments.street else 0
        for number, kind in ((count, False), (streets, True)):
            for at in range(0, number, 2048):
                few = range(min(2048, number - at))
                scenes = [{"street": True} if kind else world.scene(self.rng, world.HELD_OUT, 1.0, self.arguments.alone) for _ in few]
                captions = [world.caption(one, self.rng) for one in scenes]
                for scene, context in zip(scenes, self.encoder.encode_many(captions)):
                    bucket = next((size for size in BUCKETS if len(context) <= size), None)
                    if bucket:
                        self.found.setdefault(bucket, []).append((scene, context))

    def next(self, size):
        """Of one length, filled up. The few long ones come with short ones, for a step of one kind alone unsettles what is known."""
        usual, long = BUCKETS[:-1], BUCKETS[-1]
        counts = [len(self.found[one]) for one in usual]
        some = self.found.get(long, [])
        if some and self.rng.random() < self.arguments.street:
            bucket, part = long, 0.3
        else:
            bucket, part = self.rng.choices(usual, counts)[0], 0
        take = lambda rows: rows[self.rng.randrange(len(rows))]
        short = lambda: self.found[bucket if bucket in usual else self.rng.choices(usual, counts)[0]]
        taken = [take(some) if self.rng.random() < part else take(short()) for _ in range(size)]
        scenes = [world.settle(scene, self.rng, self.arguments.jitter) for scene, _ in taken]
        contexts = [self.empty if self.rng.random() < self.arguments.empty else context for _, context in taken]
        return scenes, *pad(contexts, bucket)


def sheet(images, columns, path):
    from PIL import Image
    rows = [torch.cat(list(images[at:at + columns]), 2) for at in range(0, len(images) // columns * columns, columns)]
    Image.fromarray((torch.cat(rows, 1).clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()).save(path)


@torch.no_grad()
def sample(model, contexts, empty, height, width, steps, cfg, seed=0, every=1):
    """Euler's way with the simple scheduler, as the templates have it; on each `every`th row and column only, for a quick look."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.linspace(1, 0, steps + 1)
    sigmas = SHIFT * u / (1 + (SHIFT - 1) * u)
    ids = grid(height, width)
    full = (height, width)
    if every > 1:
        ids = ids.view(height, width, 3)[every // 2::every, every // 2::every]
        height, width = ids.shape[:2]
        ids = ids.reshape(-1, 3)
    length = max(len(one) for one in contexts)
    context, bias = pad(contexts, length)
    nothing, bias_nothing = pad([empty] * len(contexts), length)
    image_bias = torch.full((len(contexts), len(ids)), 2 * math.log(every))
    b = len(contexts)
    x = torch.randn(1, height * width, 64, generator=generator).repeat(b, 1, 1)
    for now, then in zip(sigmas, sigmas[1:]):
        go = lambda c, m: model(x, ids.expand(b, -1, -1), c, text_ids(*full, length), now.expand(b), torch.cat([m, image_bias], 1)).float()
        v = go(context, bias)
        if cfg != 1:
            away = go(nothing, bias_nothing)
            v = away + cfg * (v - away)
        x = x + (then - now) * v
    return from_tokens(x, height, width)


def look(model, encoder, codec, path, every=4, steps=8, cfg=1.0, held=world.HELD):
    import score
    from PIL import Image
    contexts = encoder.encode_many([x[0] for x in held])
    images = []
    empty = encoder.encode("").float()
    with torch.autocast("cpu", torch.bfloat16):
        for at in range(0, len(held), 8):
            images.append(sample(model, contexts[at:at + 8], empty, 83, 83, steps, cfg, every=every))
    images = codec.decode(torch.cat(images))
    total, whole = {}, 0
    for image, entry in zip(images, held):
        result, _ = score.judge(Image.fromarray((image.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()), entry)
        whole += all(result.values())
        for key, value in result.items():
            total[key] = total.get(key, 0) + int(value)
    sheet(torch.nn.functional.avg_pool2d(images, 2), 8, path)
    return whole, total


def options():
    """What every training takes."""
    parse = argparse.ArgumentParser()
    parse.add_argument("out")
    parse.add_argument("--seed", type=int, default=0)
    parse.add_argument("--minutes", type=float, default=10)
    parse.add_argument("--batch", type=int, default=64)
    parse.add_argument("--rate", type=float, default=2e-3)
    parse.add_argument("--last-rate", type=float, default=1e-4)
    parse.add_argument("--jitter", type=float, default=0.5, help="how far places, sizes and colours are shaken")
    parse.add_argument("--empty", type=float, default=0.06)
    parse.add_argument("--muon", type=float, default=10)
    parse.add_argument("--warm-up", type=int, default=100)
    parse.add_argument("--look-every", type=float, default=5, help="minutes")
    parse.add_argument("--workers", type=int, default=1)
    parse.add_argument("--worker", type=int, default=0)
    parse.set_defaults(heads=4, head_dim=32, axes=(8, 12, 12), blocks=4)
    return parse


def begin(arguments):
    """Joins the other workers, and gives each its own random numbers."""
    os.makedirs(arguments.out, exist_ok=True)
    if arguments.workers > 1:
        store = os.path.abspath(os.path.join(arguments.out, "workers"))
        torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=arguments.worker, world_size=arguments.workers)
    rng = random.Random(arguments.seed + 1 + 1000 * arguments.worker)
    return rng, torch.Generator().manual_seed(arguments.seed + 2 + 1000 * arguments.worker)


def batches(arguments, encoder, painter, rng, generator):
    """What a step sees, by how much of the time is over: see `teach`."""
    pool = Pool(encoder, arguments, rng)

    def batch(elapsed):
        scenes, context, text_bias = pool.next(arguments.batch)
        height, width = pick_size(rng, arguments.mixed if elapsed > arguments.mixed_from else 0)
        picked, image_bias = pick(scenes, height, width, arguments.tokens, generator)
        tokens = painter.paint(scenes, picked, height, width)
        bias = torch.cat([text_bias, image_bias], 1)
        return tokens, None, grid(height, width)[picked], context, text_ids(height, width, context.shape[1]), bias

    return batch


def main():
    parse = options()
    parse.add_argument("--tokens", type=int, default=96)
    parse.add_argument("--alone", type=float, default=1.0)
    parse.add_argument("--mixed", type=float, default=0.0, help="share of steps at other sizes")
    parse.add_argument("--mixed-from", type=float, default=0.0, help="from which part of the time on")
    parse.add_argument("--street", type=float, default=0.0, help="share of steps with long captions, of the street at night")
    parse.add_argument("--pool", type=int, default=24576)
    parse.add_argument("--resume")
    parse.add_argument("--anew", action="store_true", help="with --resume of a model that has no such heads")
    arguments = parse.parse_args()
    rng, generator = begin(arguments)
    encoder, codec = texts.Texts(), latents.Latents()
    model = build(arguments)
    saved = torch.load(arguments.resume) if arguments.resume else None
    if saved:
        model.load_state_dict(saved["model"])
    kept = seed_places(model, torch.Generator().manual_seed(arguments.seed))
    batch = batches(arguments, encoder, Painter(codec), rng, generator)
    path = os.path.join(arguments.out, "step{}.png")
    teach(arguments, model, kept, batch, lambda one, step: look(one, encoder, codec, path.format(step), every=6), generator, saved, arguments.anew)


def teach(arguments, model, kept, batch, look, generator, saved=None, anew=True):
    """The loop. `batch` gives the latents of tokens, those of references or None, the places of both, the text, its places, and what is
    added to the scores of the keys of all."""
    print("parameters", sum(value.numel() for value in model.parameters()), flush=True)
    names = dict(model.named_parameters())
    in_muon = lambda name, value: value.ndim == 2 and (".attn." in name or "_mlp." in name)
    muon = Muon([v for n, v in names.items() if in_muon(n, v)], arguments.rate * arguments.muon)
    adam = torch.optim.Adam([v for n, v in names.items() if not in_muon(n, v)], lr=arguments.rate, betas=(0.9, 0.98), eps=1e-8)
    mean = {name: value.detach().clone() for name, value in names.items()}
    if saved:
        adam.load_state_dict(saved["adam"])
        muon.load_state_dict(saved["muon"])
        if not anew:
            mean = {name: value.clone() for name, value in saved["mean"].items()}
    run = torch.compile(model, dynamic=False)
    begun = last_look = time.time()
    step, recent, spent = 0, [], [0.0, 0.0, 0.0]
    log = open(os.path.join(arguments.out, f"log{arguments.worker}.csv"), "a")

    def keep():
        path = os.path.join(arguments.out, "model.pt")
        torch.save({"model": model.state_dict(), "mean": mean, "adam": adam.state_dict(), "muon": muon.state_dict(), "arguments": vars(arguments), "step": step}, path + ".part")
        os.replace(path + ".part", path)
        t = time.time()
        other = Lean(arguments.heads, arguments.head_dim, arguments.axes, arguments.blocks)
        other.load_state_dict({**model.state_dict(), **mean})
        print("look", step, *look(other, step), f"{time.time() - t:.1f}s", flush=True)

    while True:
        elapsed = (time.time() - begun) / 60 / arguments.minutes
        if arguments.workers > 1:
            agreed = torch.tensor(elapsed)
            torch.distributed.broadcast(agreed, 0)
            elapsed = agreed.item()
        if elapsed >= 1:
            break
        rate = arguments.last_rate + (arguments.rate - arguments.last_rate) * min(1, 2 * (1 - elapsed))
        rate *= min(1, (step + 1) / arguments.warm_up)
        for group in adam.param_groups:
            group["lr"] = rate
        for group in muon.param_groups:
            group["lr"] = rate * arguments.muon
        t0 = time.time()
        tokens, references, *rest, bias = batch(elapsed)
        u = (torch.rand(arguments.batch, generator=generator) + torch.arange(arguments.batch)) / arguments.batch
        sigma = SHIFT * u / (1 + (SHIFT - 1) * u)
        noise = torch.randn(tokens.shape, generator=generator)
        mixed = tokens + sigma.view(-1, 1, 1) * (noise - tokens)
        number = 0 if references is None else references.shape[1]
        if number:
            mixed = torch.cat([mixed, references], 1)
        t1 = time.time()
        with torch.autocast("cpu", torch.bfloat16):
            out = run(mixed, *rest, sigma, bias, number)
        error = (out.float() - (noise - tokens)).square().mean(2).mean(1)
        loss = (error * sigma).mean()
        loss.backward()
        t2 = time.time()
        if arguments.workers > 1:
            felt = [value for value in names.values() if value.grad is not None]
            flat = torch.cat([value.grad.flatten() for value in felt])
            torch.distributed.all_reduce(flat)
            flat /= arguments.workers
            at = 0
            for value in felt:
                value.grad.copy_(flat[at:at + value.numel()].view_as(value))
                at += value.numel()
        if not loss.isfinite():
            raise SystemExit(f"the loss is {loss.item()} at step {step}")
        torch.nn.utils.clip_grad_norm_([v for n, v in names.items() if not in_muon(n, v)], 1.0)
        adam.step()
        muon.step()
        adam.zero_grad()
        muon.zero_grad()
        with torch.no_grad():
            for value, rows, given in kept:
                value[rows] = given
            share = min(0.999, (step + 1) / (step + 30))
            for name, value in names.items():
                mean[name].lerp_(value, 1 - share)
        step += 1
        high = error.detach()[sigma > 0.9].mean().item()
        recent.append((loss.item(), high))
        t3 = time.time()
        spent = [a + b for a, b in zip(spent, (t1 - t0, t2 - t1, t3 - t2))]
        if step % 50 == 0:
            row = [step, round(time.time() - begun), f"{rate:.5f}", *(f"{sum(r[i] for r in recent) / len(recent):.4f}" for i in (0, 1)),
                   *(f"{s / len(recent):.3f}" for s in spent)]
            log.write(",".join(map(str, row)) + "\n")
            log.flush()
            recent, spent = [], [0.0] * 3
        if time.time() - last_look > arguments.look_every * 60 and arguments.worker == 0:
            last_look = time.time()
            keep()
    if arguments.worker == 0:
        keep()


if __name__ == "__main__":
    main()
