"""Holds model.py against ComfyUI's own model, and the painter against the plain way."""
import argparse, random, torch
import comfy_parts, train, world, latents
a = argparse.Namespace(heads=4, head_dim=32, axes=(8, 12, 12), blocks=4, seed=0)
m = train.build(a)
real = comfy_parts.transformer(4, 32, (8, 12, 12), 4)
print(real.load_state_dict(m.state_dict()))
x = torch.randn(2, 16, 1, 20, 24); c = torch.randn(2, 11, 64)
with torch.no_grad():
    y = real(x, torch.tensor([.5, .9]), c)
    t = train.to_tokens(x[:, :, 0]); ids = train.grid(10, 12).expand(2, -1, -1)
    z = m(t, ids, c, train.text_ids(10, 12, 11), torch.tensor([.5, .9]), torch.zeros(2, 11 + 120))
print((train.from_tokens(z, 10, 12) - y[:, :, 0]).abs().max(), y.std())
rng = random.Random(3); codec = latents.Latents()
scenes = [world.settle(world.scene(rng, alone=.5, plain=1.0), rng) for _ in range(16)]
picked = torch.arange(20 * 30).expand(16, -1)
p = train.Painter(codec).paint(scenes, picked, 20, 30)
q = torch.stack([train.to_tokens(codec.encode(world.picture(s, 320, 480))[None])[0] for s in scenes])
print((p - q).abs().max())
ref = torch.randn(2, 16, 1, 16, 18)
with torch.no_grad():
    y = real(x, torch.tensor([.5, .9]), c, ref_latents=[ref], ref_latents_method="index_timestep_zero")
    both = torch.cat([t, train.to_tokens(ref[:, :, 0])], 1)
    places = torch.cat([ids, (train.grid(8, 9) + torch.tensor([1.0, 0, 0])).expand(2, -1, -1)], 1)
    z = m(both, places, c, train.text_ids(10, 12, 11), torch.tensor([.5, .9]), torch.zeros(2, 11 + 192), 72)
print((train.from_tokens(z, 10, 12) - y[:, :, 0]).abs().max(), y.std())
