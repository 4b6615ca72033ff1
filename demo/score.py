"""Has a running worker draw the held prompts, and judges the pictures.

usage: score.py http://localhost:8188 OUT [--template NAME] [--size WIDTH HEIGHT] [--steps N] [--cfg X] [--first N] [--every N]
"""

import argparse
import io
import json
import os
import time
import urllib.parse
import urllib.request

import numpy
from PIL import Image

import world


def draw(worker, **asked):
    """The picture, and the seconds that ComfyUI had for it."""
    body = json.dumps({"input": asked}).encode()
    request = urllib.request.Request(f"{worker}/runsync?wait=300000", body, {"content-type": "application/json"})
    begun = time.time()
    with urllib.request.urlopen(request, timeout=900) as answer:
        result = json.load(answer)
    if result["status"] != "COMPLETED":
        raise SystemExit(json.dumps(result)[:2000])
    image = result["output"]["images"][0]
    place = urllib.parse.urlencode({name: image[name] for name in ("filename", "subfolder", "type")})
    with urllib.request.urlopen(f"{worker}/view?{place}") as answer:
        content = answer.read()
    return Image.open(io.BytesIO(content)).convert("RGB"), time.time() - begun


def nearest(image):
    """For each pixel the index of the nearest colour."""
    table = numpy.array([world.COLOURS[name] for name in world.COLOUR_NAMES])
    return ((image[:, :, None] - table) ** 2).sum(-1).argmin(-1)


def likeness(mask, height, width):
    """Which shape fits the mask best: the overlap with each, at the mask's own middle and over sizes."""
    import torch
    ys, xs = numpy.nonzero(mask)
    if len(ys) < 20:
        return None, 0
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    top, bottom, left, right = ys.min(), ys.max() + 1, xs.min(), xs.max() + 1
    found = torch.from_numpy(mask)
    best = (0, None)
    side = min(height, width)
    for shape in world.SHAPES:
        for scale in numpy.linspace(0.4, 0.64, 9):
            radius = max(bottom - top, right - left) * scale
            # The box of a triangle has its middle far above the triangle's own.
            for dy in (0.12, 0.17, 0.22) if shape == "triangle" else (-0.08, 0, 0.08):
                for dx in (-0.16, -0.08, 0, 0.08, 0.16) if shape == "moon" else (0,):
                    cy, cx = (top + bottom) / 2 + dy * radius * 2, (left + right) / 2 + dx * radius * 2
                    drawn = world.distance(shape, (x - cx) / radius, (y - cy) / radius) < 0
                    overlap = ((drawn & found).sum() / (drawn | found).sum().clamp(min=1)).item()
                    best = max(best, (overlap, shape), key=lambda pair: pair[0])
    return best[1], best[0]


def judge(image, entry):
    """What is right of shape, colour, background and place."""
    _, shape, colour, back, place = entry
    small = image.resize((max(64, 128 * image.width // max(image.size)), max(64, 128 * image.height // max(image.size))), Image.BOX)
    pixels = numpy.asarray(small.convert("RGB")) / 255
    height, width = pixels.shape[:2]
    names = nearest(pixels)
    counts = numpy.bincount(names.ravel(), minlength=len(world.COLOUR_NAMES))
    found_back = world.COLOUR_NAMES[counts.argmax()]
    mask = names == world.COLOUR_NAMES.index(colour)
    share = mask.mean()
    right = {"background": found_back == back and counts.max() / names.size > 0.4, "colour": 0.02 < share < 0.45 and colour != found_back}
    seen = None
    if right["colour"]:
        from scipy import ndimage
        labels, number = ndimage.label(mask)
        mask = labels == numpy.bincount(labels.ravel())[1:].argmax() + 1
        ys, xs = numpy.nonzero(mask)
        cx, cy = xs.mean() / width, ys.mean() / height
        wanted = world.PLACES[place]
        right["place"] = abs(cx - wanted[0]) < 0.14 and abs(cy - wanted[1]) < 0.14
        seen, overlap = likeness(mask, height, width)
        right["shape"] = seen == shape and overlap > 0.6
    else:
        right["place"] = right["shape"] = False
    return right, seen


def lay_out(images, path, columns=8):
    """All pictures on one sheet."""
    width, height = images[0].size
    sheet = Image.new("RGB", (columns * (width + 4), -(-len(images) // columns) * (height + 4)), "gray")
    for place, image in enumerate(images):
        sheet.paste(image, (place % columns * (width + 4), place // columns * (height + 4)))
    sheet.save(path)


def main():
    parse = argparse.ArgumentParser()
    parse.add_argument("worker")
    parse.add_argument("out")
    parse.add_argument("--template", default="qwen-image-lightning")
    parse.add_argument("--size", type=int, nargs=2, default=(1328, 1328))
    parse.add_argument("--steps", type=int)
    parse.add_argument("--cfg", type=float)
    parse.add_argument("--first", type=int, default=0)
    parse.add_argument("--every", type=int, default=1)
    parse.add_argument("--seed", type=int, default=100)
    arguments = parse.parse_args()
    os.makedirs(arguments.out, exist_ok=True)
    more = {name: value for name, value in (("steps", arguments.steps), ("cfg", arguments.cfg)) if value is not None}
    passed, totals, images, times = 0, {}, [], []
    for number, entry in list(enumerate(world.HELD))[arguments.first::arguments.every]:
        width, height = arguments.size
        image, took = draw(arguments.worker, template=arguments.template, prompt=entry[0], width=width, height=height,
                           seed=arguments.seed + number, **more)
        right, seen = judge(image, entry)
        passed += all(right.values())
        times.append(took)
        for name, value in right.items():
            totals[name] = totals.get(name, 0) + int(value)
        print(f"{number + 1} {'ok ' if all(right.values()) else 'BAD'} {took:.1f}s {entry[0]} {[n for n, v in right.items() if not v]} saw {seen}", flush=True)
        images.append(image.resize((160, 160 * image.height // image.width), Image.BOX))
        lay_out(images, os.path.join(arguments.out, "sheet.png"))
    print(f"{passed} of {len(images)}", totals, f"median {sorted(times)[len(times) // 2]:.1f} s")


if __name__ == "__main__":
    main()
