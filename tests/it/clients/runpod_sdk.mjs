// RunPod's npm client: reads a plan from standard input, prints what it saw.

import { readFileSync } from "node:fs"
import { setTimeout } from "node:timers/promises"
import runpodSdk from "runpod-sdk"

const plan = JSON.parse(readFileSync(0))
const endpoint = runpodSdk("any", { baseUrl: plan.base }).endpoint("any-endpoint")

const until = async (id, wanted) => {
  let job
  while ((job = await endpoint.status(id)).status !== wanted) await setTimeout(50)
  return job
}
// What a call throws, as a caller sees it.
const failure = async (call) => {
  try {
    return await call
  } catch (error) {
    return { status: error.response?.status, body: error.response?.data }
  }
}

const seen = { health: await endpoint.health() }

const accepted = await endpoint.run({ input: plan.quick })
seen.accepted = accepted.status
seen.run = await endpoint.statusSync(accepted.id)

seen.run_sync = await endpoint.runSync({
  input: plan.quick,
  policy: { executionTimeout: 60000, ttl: 3600000, lowPriority: true },
})

const streamed = await endpoint.run({ input: plan.slow })
seen.stream = []
for await (const chunk of endpoint.stream(streamed.id)) seen.stream.push(chunk.output)
seen.stream_status = (await endpoint.status(streamed.id)).status

seen.failed = await endpoint.runSync({ input: plan.raises })

// A wait of one second is over before the job is.
seen.run_sync_late = await endpoint.runSync({ input: plan.endless }, 1000)
const late = await until(seen.run_sync_late.id, "IN_PROGRESS")
seen.progress = late.progress
const waiting = []
for (let i = 0; i < 3; i++) waiting.push(await endpoint.run({ input: plan.endless }))
seen.purge = await endpoint.purgeQueue()
seen.cancel = await endpoint.cancel(late.id)
seen.cancelled = await until(late.id, "CANCELLED")
for (const one of waiting) await endpoint.cancel(one.id)

seen.unknown = await failure(endpoint.status("no-such-job"))
seen.refused = await failure(endpoint.run({ input: { steps: 4 } }))

console.log(JSON.stringify(seen))
