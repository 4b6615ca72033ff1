// @stable-canvas/comfyui-client: reads a plan from standard input, prints what it saw.

import { createHash } from "node:crypto"
import { readFileSync } from "node:fs"
import { Client } from "@stable-canvas/comfyui-client"

const plan = JSON.parse(readFileSync(0))
const client = new Client({ api_host: plan.base.split("//")[1], clientId: plan.client, WebSocket, fetch })
await client.connect()
const seen = { os: (await client.getSystemStats()).system.os }
const digest = async (image) => {
  const answer = await fetch(image.data)
  return createHash("sha256").update(Buffer.from(await answer.arrayBuffer())).digest("hex")
}
const failure = async (call) => {
  try {
    return await call()
  } catch (error) {
    return [error.constructor.name, error.message]
  }
}
let steps = 0
const made = await client.enqueue(plan.steps, { progress: () => (steps += 1) })
seen.run = { steps, digests: await Promise.all(made.images.map(digest)) }
const polled = await client.enqueue_polling(plan.second, { polling_ms: 50 })
seen.polled = { digests: await Promise.all(polled.images.map(digest)) }
seen.failed = await failure(() => client.enqueue(plan.fails))
seen.refused = await failure(() => client.enqueue(plan.wrong))
seen.history = (await client.getHistory()).History.length
seen.queue = await client.getQueue()
client.close()
console.log(JSON.stringify(seen))
process.exit(0)
