// Vercel's AI SDK, with OpenAI's provider: reads a plan from standard input, prints what it saw.

import { createHash } from "node:crypto"
import { readFileSync } from "node:fs"
import { createOpenAI } from "@ai-sdk/openai"
import { generateImage } from "ai"

const plan = JSON.parse(readFileSync(0))
const openai = createOpenAI({ baseURL: plan.base, apiKey: plan.key })
const digest = (content) => createHash("sha256").update(content).digest("hex")
const size = "96x64"
const shown = ({ image }) => ({ type: image.mediaType, digest: digest(image.uint8Array) })

const seen = { generated: {}, edited: {} }
for (const model of plan.names) {
  seen.generated[model] = shown(
    await generateImage({ model: openai.image(model), prompt: "a harbour", size, maxRetries: 0 }),
  )
}

const image = Buffer.from(plan.image, "base64")
const mask = Buffer.from(plan.mask, "base64")
const edit = { size: "256x256", maxRetries: 0, providerOptions: { openai: { quality: "low" } } }
for (const [model, prompt] of [
  ["gpt-image-2.5-flare", { text: "make it night", images: [image] }],
  ["Qwen/Qwen-Image-Edit-2511", { text: "make it night", images: [image, image] }],
  ["dall-e-2", { text: "make it night", images: [image], mask }],
]) {
  seen.edited[model] = shown(await generateImage({ model: openai.image(model), prompt, ...edit }))
}

const webp = await generateImage({
  model: openai.image("gpt-image-1"),
  prompt: "a harbour",
  size,
  n: 2,
  maxRetries: 0,
  providerOptions: { openai: { outputFormat: "webp", quality: "low", style: "vivid", moderation: "low", user: "u" } },
})
seen.webp = webp.images.map((image) => image.mediaType)

try {
  await generateImage({ model: openai.image("gpt-image-1"), prompt: "a harbour", size: "8x8", maxRetries: 0 })
} catch (error) {
  seen.refused = { name: error.name, status: error.statusCode, message: error.message }
}

console.log(JSON.stringify(seen))
