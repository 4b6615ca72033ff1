// OpenAI's npm client: reads a plan from standard input, prints what it saw.

import { createHash } from "node:crypto"
import { readFileSync } from "node:fs"
import OpenAI, { toFile } from "openai"

const plan = JSON.parse(readFileSync(0))
const client = new OpenAI({ baseURL: plan.base, apiKey: plan.key, maxRetries: 0 })
const digest = (content) => createHash("sha256").update(content).digest("hex")
const decoded = (picture) => digest(Buffer.from(picture.b64_json, "base64"))
const file = (name, content) => toFile(Buffer.from(content, "base64"), name, { type: "image/png" })
// What a call throws, as a caller sees it.
const failure = async (call) => {
  try {
    return await call
  } catch (error) {
    const { status, code, param, type, message, requestID } = error
    return { class: error.constructor.name, status, code, param, type, message, request_id: requestID }
  }
}
const streamed = async (events) => {
  const seen = []
  for await (const event of await events) {
    const { type, partial_image_index: index = null, output_format: format } = event
    seen.push({ type, index, format, image: decoded(event) })
  }
  return seen
}

const seen = { models: [] }
for await (const model of client.models.list()) seen.models.push(model.id)
seen.one_model = (await client.models.retrieve("Qwen/Qwen-Image-Edit")).id
seen.no_model = await failure(client.models.retrieve("Qwen/Qwen-Image-3"))

const small = { model: "Qwen/Qwen-Image", prompt: "a harbour", size: "96x64", seed: 5 }
const byUrl = await client.images.generate(small)
seen.url = byUrl.data[0].url
const answer = await fetch(seen.url)
seen.fetched = [answer.headers.get("content-type"), digest(Buffer.from(await answer.arrayBuffer()))]
seen.inline = decoded((await client.images.generate({ ...small, response_format: "b64_json" })).data[0])

const image = await file("a.png", plan.image)
const varied = await client.images.createVariation({ image, size: "256x256", seed: 3, steps: 1 })
seen.variation = varied.data[0].url
const second = await file("b.png", plan.second)
const edit = { prompt: "make it night", response_format: "b64_json", size: "256x256", seed: 3, steps: 1 }
seen.edit_two = decoded(
  (await client.images.edit({ ...edit, model: "Qwen/Qwen-Image-Edit-2509", image: [image, second] })).data[0],
)

seen.stream = await streamed(client.images.generate({ ...small, seed: 6, stream: true, partial_images: 2 }))
seen.edit_stream = await streamed(
  client.images.edit({ image, prompt: "x", stream: true, partial_images: 1, size: "256x256", steps: 2 }),
)

seen.bad_size = await failure(client.images.generate({ prompt: "p", size: "8x8" }))
seen.bad_model = await failure(client.images.generate({ prompt: "p", model: "sdxl" }))

console.log(JSON.stringify(seen))
