"""Trains the transformer of the edit models, from that which draws: it sees some tokens of the picture that it makes, and those of the
reference at the same places.

usage: train_edits.py OUT [--minutes N] [--workers 2 --worker 0]
"""

import math
import random

import torch
from safetensors.torch import load_file

import edits
import export
import latents
import texts
import train
import world
from model import Lean

# Lengths of the text beside one, two and three pictures. (At some lengths the compiled way back of torch 2.8 gives no numbers.)
BUCKETS = {1: (24, 40), 2: (40,), 3: (56,)}
# How often there are so many.
PICTURES = {1: 0.62, 2: 0.28, 3: 0.10}
# Of block two: these copy from the reference what is at the same place.
COPYING = (2, 3)


def seed_copying(model, kept):
    """Two heads of block two look at the token of the first reference at their own place, and bring it. As `train.seed_places` for why this
    is given and kept: with what is fixed there before, gives all that is put back after each step."""
    d, axes, a = model.head_dim, model.axes, model.transformer_blocks[1].attn
    # Pairs of dimensions: the fastest of the first axis, where the reference is at 1, and the three fastest of both others.
    first = [(0, 0)] + [(axis, axes[0] + (axis - 1) * axes[1] + 2 * number) for axis in (1, 2) for number in range(3)]
    # How much sharper the dimensions are that the heads which tell a place leave alone, so that no neighbour is seen.
    sharp = [0, 1] + [axes[0] + axis * axes[1] + at for axis in (0, 1) for at in range(4)]
    with torch.no_grad():
        for head in COPYING:
            rows = slice(head * d, (head + 1) * d)
            q, k = torch.zeros(d), torch.zeros(d)
            for axis, at in first:
                q[at] = 1.0
                k[at] = 1.0
            # One further along the first axis than the picture itself.
            q[0], q[1] = math.cos(1.0), math.sin(1.0)
            for layer, bias in ((a.to_q, q), (a.to_k, k)):
                layer.weight[rows] = 0.0
                layer.bias[rows] = bias
            half = slice((head - COPYING[0]) * d, (head - COPYING[0] + 1) * d)
            a.to_v.weight[rows] = 0.0
            a.to_v.weight[rows, half] = torch.eye(d)
            a.to_v.bias[rows] = 0.0
            a.to_out[0].weight[:, rows] = 0.0
            a.to_out[0].weight[half, rows] = -0.5 * torch.eye(d)
            for layer in (a.to_q, a.to_k):
                kept += [(value, rows, None) for value in (layer.weight, layer.bias)]
        for norm in (a.norm_q, a.norm_k):
            norm.weight[sharp] = 4.1
    return [(value, rows, value[rows].clone()) for value, rows, _ in kept]


class Pool:
    """Scenes with an edit of the first, and the instructions as the text encoder gives them."""

    def __init__(self, encoder, count, rng, shares):
        self.rng, self.found, self.nothing = rng, {}, {}
        for pictures, share in shares.items():
            for is_plus in (True, False) if pictures == 1 else (True,):
                self.nothing[pictures, is_plus] = encoder.encode_edit("", pictures, is_plus)
            left = int(count * share)
            while left:
                scenes = [edits.scene(rng) for _ in range(pictures)]
                kind, new = edits.edit(scenes, rng)
                if not edits.is_wanted(scenes, kind, new):
                    continue
                left -= 1
                is_plus = pictures > 1 or rng.random() < 0.6
                context = encoder.encode_edit(edits.instruction(scenes, kind, new, rng), pictures, is_plus)
                bucket = next((size for size in BUCKETS[pictures] if len(context) <= size), None)
                if bucket:
                    self.found.setdefault(pictures, {}).setdefault(bucket, []).append((scenes, kind, new, context, is_plus))
        print("pool", {(pictures, bucket): len(found) for pictures, buckets in self.found.items() for bucket, found in buckets.items()}, flush=True)

    def next(self, size, pictures, empty):
        """The pictures of each, in numbers, what comes of them, and the instructions."""
        buckets = self.found[pictures]
        bucket = self.rng.choices(list(buckets), [len(found) for found in buckets.values()])[0]
        rows = [self.rng.choice(buckets[bucket]) for _ in range(size)]
        before = [[world.settle(scene, self.rng, 0.7) for scene in scenes] for scenes, *_ in rows]
        after = [edits.edited(some, kind, new, self.rng) for some, (_, kind, new, _, _) in zip(before, rows)]
        contexts = [self.nothing[pictures, is_plus] if self.rng.random() < empty else context for *_, context, is_plus in rows]
        return before, after, *train.pad(contexts, bucket)


def pick_sizes(rng):
    """The reference has a million pixels. The picture has its size, or is larger, as that of the first edit model."""
    ratio = 1.0 if rng.random() < 0.7 else math.exp(rng.uniform(-0.6, 0.6))
    height, width = (round(64 * part) for part in (ratio ** 0.5, ratio ** -0.5))
    part = 1.0 if rng.random() < 0.7 else math.sqrt(1.5)
    return (height, width), (round(height * part), round(width * part))


def within(settled, small, large):
    """A scene of a small picture in the midst of a large one, where tokens of both have the same places."""
    (h, w), (height, width) = small, large
    down, right = height // 2 - h // 2, width // 2 - w // 2
    place = lambda thing: ((thing[3] * w + right) / width, (thing[4] * h + down) / height, thing[5] * min(small) / min(large))
    return {**settled, "things": [(*thing[:3], *place(thing)) for thing in settled["things"]]}


def opposite(picked, small, large, generator):
    """The number of the reference's token at the place of a picture's. Beyond the reference there is none: then the copying heads see the one
    nearest to it, or one that is 31 tokens nearer to the middle, where what they look for comes back."""
    (h, w), (height, width) = small, large
    row, column = picked // width - height // 2 + h // 2, picked % width - width // 2 + w // 2
    is_far = torch.rand(picked.shape, generator=generator) < 0.5
    def bring(at, side):
        beyond = (at < 0).long() - (at >= side).long()
        return torch.where(is_far, at + 31 * beyond, at).clamp(0, side - 1)
    return bring(row, h) * w + bring(column, w)


def start():
    """The model that draws, in whose second block two heads copy."""
    model = Lean(4, 32, (8, 12, 12), 4)
    model.load_state_dict({name: value.float() for name, value in load_file(f"{export.TRAINED}/transformer.safetensors").items()})
    return model, seed_copying(model, fixed_in(model))


def fixed_in(model):
    """Which rows of the trained model tell places."""
    kept = []
    for block, heads in zip(model.transformer_blocks, train.HEADS):
        a, rows = block.attn, slice(0, len(heads) * model.head_dim)
        kept += [(value, rows, None) for layer in (a.to_q, a.to_k, a.add_k_proj) for value in (layer.weight, layer.bias)]
        kept += [(norm.weight, slice(None), None) for norm in (a.norm_q, a.norm_k, a.norm_added_k)]
    return kept


def beside(ids, number=1):
    """The places of a reference."""
    return ids + torch.tensor([float(number), 0, 0])


@torch.no_grad()
def draw(model, encoder, painter, entries, steps=8, every=3):
    """Held edits of one number of pictures, on each `every`th row and column only, for a quick look."""
    side, b, pictures = 64, len(entries), len(entries[0][1])
    some = slice(every // 2, None, every)
    ids = train.grid(side, side).view(side, side, 3)[some, some]
    numbers = torch.arange(side * side).view(side, side)[some, some].reshape(1, -1).expand(b, -1)
    across = ids.shape[0]
    ids = ids.reshape(1, -1, 3).expand(b, -1, -1)
    references = [painter.paint([edits.numbers(entry[1][at]) for entry in entries], numbers, side, side) for at in range(pictures)]
    contexts = [encoder.encode_edit(entry[0], pictures, True) for entry in entries]
    length = max(len(one) for one in contexts)
    context, bias = train.pad(contexts, length)
    bias = torch.cat([bias, torch.full((b, (1 + pictures) * ids.shape[1]), 2 * math.log(every))], 1)
    u = torch.linspace(1, 0, steps + 1)
    sigmas = train.SHIFT * u / (1 + (train.SHIFT - 1) * u)
    x = torch.randn(1, ids.shape[1], 64, generator=torch.Generator().manual_seed(0)).repeat(b, 1, 1)
    places = torch.cat([ids, *(beside(ids, at + 1) for at in range(pictures))], 1)
    for now, then in zip(sigmas, sigmas[1:]):
        v = model(torch.cat([x, *references], 1), places, context, train.text_ids(side, side, length), now.expand(b), bias, pictures * ids.shape[1])
        x = x + (then - now) * v.float()
    return train.from_tokens(x, across, across)


def look(model, encoder, painter, codec, path):
    from PIL import Image
    images, right, all_of = [], {}, {}
    for pictures in PICTURES:
        entries = [entry for entry in edits.HELD_EDITS if len(entry[1]) == pictures]
        for at in range(0, len(entries), 9):
            with torch.autocast("cpu", torch.bfloat16):
                drawn = codec.decode(draw(model, encoder, painter, entries[at:at + 9]))
            for image, entry in zip(drawn, entries[at:at + 9]):
                images.append(image)
                image = Image.fromarray((image.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy())
                right[entry[2]] = right.get(entry[2], 0) + all(edits.judge(image, entry).values())
                all_of[entry[2]] = all_of.get(entry[2], 0) + 1
    train.sheet(torch.stack(images), 8, path)
    return sum(right.values()), {kind: f"{right[kind]} of {all_of[kind]}" for kind in right}


def batches(arguments, encoder, painter, rng, generator, shares=PICTURES):
    """What a step sees: see `train.teach`."""
    pool = Pool(encoder, arguments.pool, rng, shares)
    # The same for all workers, which wait for each other.
    numbers = random.Random(arguments.seed)

    def batch(_):
        pictures = numbers.choices(list(shares), shares.values())[0]
        before, after, context, text_bias = pool.next(arguments.batch, pictures, arguments.empty)
        small, large = pick_sizes(rng)
        first = [some[0] for some in before]
        # Near what was there, and near what is to be there.
        things = [within(one, small, large)["things"] + within(other, small, large)["things"] for one, other in zip(first, after)]
        picked, image_bias = train.pick([{"things": some} for some in things], *large, arguments.tokens, generator)
        there = opposite(picked, small, large, generator)
        tokens = painter.paint([within(one, small, large) for one in after], picked, *large)
        references, ids, bias = [painter.paint(first, there, *small)], [train.grid(*large)[picked], beside(train.grid(*small)[there])], [image_bias] * 2
        for number in range(1, pictures):
            scenes, size = [some[number] for some in before], pick_sizes(rng)[0]
            chosen, weight = train.pick(scenes, *size, arguments.tokens, generator)
            references.append(painter.paint(scenes, chosen, *size))
            ids.append(beside(train.grid(*size)[chosen], number + 1))
            bias.append(weight)
        references = torch.cat(references, 1)
        # As the VAE encodes it, which is not wholly the map.
        references = references + 0.05 * torch.randn(references.shape, generator=generator)
        return tokens, references, torch.cat(ids, 1), context, train.text_ids(*large, context.shape[1]), torch.cat([text_bias, *bias], 1)

    return batch


def main():
    parse = train.options()
    parse.add_argument("--tokens", type=int, default=64)
    parse.add_argument("--pool", type=int, default=16000)
    parse.add_argument("--resume")
    arguments = parse.parse_args()
    rng, generator = train.begin(arguments)
    encoder, codec = texts.Texts(), latents.Latents()
    painter = train.Painter(codec)
    model, kept = start()
    saved = torch.load(arguments.resume) if arguments.resume else None
    if saved:
        model.load_state_dict(saved["model"])
    batch = batches(arguments, encoder, painter, rng, generator)
    see = lambda one, step: look(one, encoder, painter, codec, f"{arguments.out}/step{step}.png")
    train.teach(arguments, model, kept, batch, see, generator, saved, anew=False)


if __name__ == "__main__":
    main()
