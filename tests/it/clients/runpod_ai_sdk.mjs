// RunPod's own provider for Vercel's AI SDK: reads a plan from standard input, prints what it saw.

import { createHash } from "node:crypto"
import { readFileSync } from "node:fs"
import { createRunpod } from "@runpod/ai-sdk-provider"
import { generateImage } from "ai"

const plan = JSON.parse(readFileSync(0))
const digest = (content) => createHash("sha256").update(content).digest("hex")
const image = Buffer.from(plan.image, "base64")
const shown = ({ image, providerMetadata }) => ({
  type: image.mediaType,
  digest: digest(image.uint8Array),
  url: providerMetadata.runpod.images[0].url.split("?")[0].slice(0, 200),
})

const seen = {}
for (const [name, baseURL] of Object.entries(plan.bases)) {
  const runpod = createRunpod({ baseURL, apiKey: plan.key })
  const ask = async (model, prompt, more) => {
    const { images, ...answer } = await generateImage({ model: runpod.image(model), prompt, maxRetries: 0, ...more })
    return shown({ image: images[0], ...answer })
  }
  seen[name] = {
    // Without a seed it sends -1.
    generated: await ask("qwen/qwen-image", "a harbour", {
      size: "512x512",
      providerOptions: { runpod: { num_inference_steps: 1, guidance: 1 } },
    }),
    same: await ask("qwen/qwen-image", "a harbour", {
      size: "512x512",
      seed: 5,
      providerOptions: { runpod: { num_inference_steps: 1, negative_prompt: "fog" } },
    }),
    edited: await ask("qwen/qwen-image-edit-2511", { text: "make it night", images: [image, image] }, {
      size: "512x512",
      providerOptions: { runpod: { num_inference_steps: 1 } },
    }),
  }
}

const runpod = createRunpod({ baseURL: plan.bases.root, apiKey: plan.key })
try {
  const options = { runpod: { num_inference_steps: 0 } }
  await generateImage({ model: runpod.image("qwen/qwen-image"), prompt: "x", maxRetries: 0, providerOptions: options })
} catch (error) {
  seen.refused = { status: error.statusCode, message: error.message }
}

console.log(JSON.stringify(seen))
