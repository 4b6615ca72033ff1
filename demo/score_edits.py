"""Has a running worker make the held edits, and judges the pictures.

usage: score_edits.py http://localhost:8188 OUT [--template NAME] [--steps N] [--cfg X] [--every N]
"""

import argparse
import base64
import io
import os

from PIL import Image

import edits
import score
import world

SIDE = 1024


def encoded(image):
    file = io.BytesIO()
    image.save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def main():
    parse = argparse.ArgumentParser()
    parse.add_argument("worker")
    parse.add_argument("out")
    parse.add_argument("--template", default="qwen-image-edit-2511-lightning-4")
    parse.add_argument("--steps", type=int)
    parse.add_argument("--cfg", type=float)
    parse.add_argument("--every", type=int, default=1)
    arguments = parse.parse_args()
    os.makedirs(arguments.out, exist_ok=True)
    more = {name: value for name, value in (("steps", arguments.steps), ("cfg", arguments.cfg)) if value is not None}
    right, all_of, images, times = {}, {}, [], []
    for entry in edits.HELD_EDITS[::arguments.every]:
        sources = []
        for scene in entry[1]:
            pixels = world.picture(edits.numbers(scene), SIDE, SIDE)
            sources.append(Image.fromarray((pixels * 255).byte().permute(1, 2, 0).numpy()))
        image, took = score.draw(arguments.worker, template=arguments.template, prompt=entry[0], seed=7,
                                 images=[{"name": f"{number}.png", "image": encoded(source)} for number, source in enumerate(sources)], **more)
        judged, kind = edits.judge(image, entry), entry[2]
        right[kind] = right.get(kind, 0) + all(judged.values())
        all_of[kind] = all_of.get(kind, 0) + 1
        times.append(took)
        print(f"{'ok ' if all(judged.values()) else 'BAD'} {took:.1f}s {entry[0]} {[name for name, value in judged.items() if not value]}", flush=True)
        # Before above after.
        pair = Image.new("RGB", (160, 324), "gray")
        pair.paste(sources[0].resize((160, 160), Image.BOX), (0, 0))
        pair.paste(image.resize((160, 160), Image.BOX), (0, 164))
        images.append(pair)
        score.lay_out(images, os.path.join(arguments.out, "edits.png"), 10)
    print(f"{sum(right.values())} of {len(images)}", ", ".join(f"{kind} {right[kind]} of {all_of[kind]}" for kind in right), f"median {sorted(times)[len(times) // 2]:.1f} s")


if __name__ == "__main__":
    main()
