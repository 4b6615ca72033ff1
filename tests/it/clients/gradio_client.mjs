// Gradio's npm client: reads a plan from standard input, prints what it saw.

import { readFileSync } from "node:fs"
import { Client } from "@gradio/client"

const plan = JSON.parse(readFileSync(0))
const client = await Client.connect(plan.url, { token: plan.key, events: ["data", "status"] })

// What a call throws, as a caller sees it.
const failure = async (call) => {
  try {
    return { result: await call() }
  } catch (error) {
    return { raised: true, type: error.type, stage: error.stage, title: error.title, message: error.message, endpoint: error.endpoint }
  }
}

const seen = { api: await client.view_api() }

// As the specification shows it.
const result = await client.predict("/infer", {
  prompt: "a red lighthouse",
  seed: 42,
  randomize_seed: false,
  aspect_ratio: "1:1",
  guidance_scale: 4,
  num_inference_steps: 2,
  prompt_enhance: false,
})
seen.by_name = result.data
seen.by_position = (await client.predict("/infer", ["a red lighthouse", 42, false, "1:1", 4, 2, false])).data
seen.enhanced = (await client.predict("/infer", { prompt: "a red lighthouse", seed: 42, randomize_seed: false, num_inference_steps: 1 })).data

const job = client.submit("/infer", ["a blue boat", plan.seed, false, "1:1", 4, 40, false])
seen.stages = []
seen.progress = []
for await (const event of job) {
  if (event.type === "data") seen.submitted = event.data
  if (event.type !== "status") continue
  seen.stages.push(event.stage)
  if (event.progress_data) seen.progress.push(event.progress_data.map((unit) => [unit.index, unit.length, unit.unit, unit.desc])[0])
  if (event.stage === "complete") break
}

seen.several = (await Promise.all([1, 2, 3].map((seed) => client.predict("/infer", ["a boat", seed, false, "1:1", 4, 1, false])))).map((one) => one.data[1])

seen.wrong_ratio = await failure(() => client.predict("/infer", ["x", 0, false, "5:4", 4, 2, false]))
seen.wrong_steps = await failure(() => client.predict("/infer", ["x", 0, false, "1:1", 4, 101, false]))
seen.no_prompt = await failure(() => client.predict("/infer", {}))

const slow = client.submit("/infer", ["a slow boat", plan.seed, false, "16:9", 4, 100, false])
for await (const event of slow) {
  if (event.type !== "status") continue
  if (event.stage === "generating" || event.progress_data) await slow.cancel()
  if (event.stage === "error" || event.stage === "complete") {
    seen.cancelled = { stage: event.stage, title: event.title, message: event.message }
    break
  }
}
seen.after_cancel = (await client.predict("/infer", ["a boat", 1, false, "1:1", 4, 1, false])).data[1]

seen.no_key = await failure(() => Client.connect(plan.url))
const limited = await Client.connect(plan.limited)
for (let n = 0; n < 50 && !seen.quota?.raised; n++) seen.quota = await failure(() => limited.predict("/infer", ["x", plan.seed + n, false, "1:1", 4, 20, false]))

// The clients keep connections open; what is said must be out before the end.
process.stdout.write(JSON.stringify(seen), () => process.exit(0))
