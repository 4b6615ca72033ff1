// @saintno/comfyui-sdk: reads a plan from standard input, prints what it saw.

import { createHash } from "node:crypto"
import { readFileSync } from "node:fs"
import { CallWrapper, ComfyApi, PromptBuilder } from "@saintno/comfyui-sdk"

const plan = JSON.parse(readFileSync(0))
const credentials = { type: "bearer_token", token: plan.key }
const api = new ComfyApi(plan.base, undefined, { credentials }).init()
await api.waitForReady()

const seen = { os: (await api.getSystemStats()).system.os, status: await api.pollStatus() }
const run = async (graph) => {
  const told = { progress: 0, started: false }
  const builder = new PromptBuilder(graph, [], ["images"]).setOutputNode("images", "2")
  const output = await new CallWrapper(api, builder)
    .onStart(() => (told.started = true))
    .onProgress(() => (told.progress += 1))
    .onFailed((error) => (told.failed = [error.constructor.name, error.message]))
    .run()
  for (const { filename, subfolder, type } of output?.images?.images ?? []) {
    const picture = await api.getImage({ filename, subfolder, type })
    told.digest = createHash("sha256").update(Buffer.from(await picture.arrayBuffer())).digest("hex")
  }
  return told
}
seen.run = await run(plan.steps)
seen.several = await Promise.all(plan.several.map(run))
seen.failed = await run(plan.fails)
seen.wrong = await run(plan.wrong)
seen.uploaded = (await api.uploadImage(Buffer.from(plan.image, "base64"), "sdk.png", { subfolder: plan.folder }))?.info
seen.queue = await api.getQueue()
seen.class = Object.keys(await api.getNodeDefs("SaveImage"))
api.destroy()
console.log(JSON.stringify(seen))
process.exit(0)
