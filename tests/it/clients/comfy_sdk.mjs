// @comfyorg/sdk: reads a plan from standard input, prints what it saw.

import { randomBytes, randomUUID } from "node:crypto"
import { createReadStream, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Comfy } from "@comfyorg/sdk"
import { ComfyLow } from "@comfyorg/sdk/low"
import { blake3 } from "hash-wasm"

const plan = JSON.parse(readFileSync(0))
const picture = new Uint8Array(Buffer.from(plan.picture, "base64"))
const folder = mkdtempSync(join(tmpdir(), "comfy-sdk-"))
const seen = { broken: {} }

const clientOf = (base, apiKey) => {
  process.env.COMFY_BASE_URL = base
  return new Comfy({ apiKey })
}
const client = clientOf(plan.base)

const refused = async (call) => {
  try {
    return { done: String(await call()) }
  } catch (error) {
    const { code, httpStatus, details, retryAfter } = error
    return { class: error.constructor.name, code, status: httpStatus, message: error.message, details, retry_after: retryAfter }
  }
}

// How the client tells that a job did not succeed.
const failed = async (job) => {
  try {
    return { done: (await job.result()).status }
  } catch (error) {
    return { class: error.constructor.name, code: error.code, status: job.status, error: error.error }
  }
}

const workflow = (graph, of = client) => of.workflows.fromJson(structuredClone(graph))
const loads = (image, of = client) => {
  const loading = workflow(plan.load, of)
  loading.setInput("1", "image", image)
  return loading
}
const same = (one, other) => Buffer.compare(Buffer.from(one), Buffer.from(other)) === 0

// An output, and its bytes in each way that there is to get them.
const output = async (one) => {
  const whole = await one.toBytes()
  const file = readFileSync(await one.toFile(join(folder, one.name)))
  return {
    id: one.id,
    node: one.nodeId,
    name: one.name,
    type: one.type,
    content_type: one.contentType,
    job: one.jobId,
    size_is_right: one.sizeBytes === whole.length,
    ways_agree: same(whole, file),
    start: Buffer.from(await one.toBytes({ range: [0, 7] })).toString("hex"),
    rest_is_right: same(await one.toBytes({ range: [8, whole.length - 1] }), whole.slice(8)),
    hash: `blake3:${await blake3(whole)}`,
    content: Buffer.from(whole).toString("base64"),
  }
}

// What a stream of events brings, to its end.
const heard = async (job) => {
  const events = []
  for await (const event of job.events()) events.push(event)
  const of = (kind) => events.filter((event) => event.kind === kind)
  const previews = of("preview").map(({ contentType, data }) => `${contentType} ${Buffer.from(data.slice(0, 2)).toString("hex")}`)
  const last = events.at(-1)
  return {
    kinds: events.map((event) => ({ progress: "Progress", preview: "Preview", outputReady: "OutputReady", statusChange: "StatusChange" })[event.kind] ?? event.kind),
    statuses: of("statusChange").map((event) => event.status),
    progress: of("progress").map((event) => event.value),
    nodes: of("progress").map((event) => [event.nodesDone, event.nodesTotal]),
    steps: of("progress").map((event) => [event.step, event.steps]),
    previews: [...new Set(previews)],
    outputs: of("outputReady").map((event) => event.output.id),
    last: [last.kind === "statusChange" ? "StatusChange" : last.kind, last.status],
  }
}

// What works on each address and with each key.
const essentials = async (of) => {
  const asset = of.assets.fromBytes(picture, { filename: "essential.png" })
  const job = await of.run(loads(asset, of))
  const heardJob = await of.submit(workflow(plan.quick[12], of))
  return {
    events: await heard(heardJob),
    status: (await heardJob.refresh()).status,
    output: await output(job.outputs[0]),
    url: (await job.outputs[0].getDownloadUrl()).url,
  }
}

const parts = {
  async assets() {
    const path = join(folder, "ein Füchslein.png")
    writeFileSync(path, picture)
    const fromPath = client.assets.fromFile(path)
    await fromPath.commit()
    const again = client.assets.fromBytes(picture, { filename: "again.png" })
    await again.commit()
    const large = randomBytes(3_000_000)
    writeFileSync(join(folder, "noise.bin"), large)
    const streamed = await client.assets.fromStream(createReadStream(join(folder, "noise.bin")), { filename: "noise.bin" })
    await streamed.commit()
    const copy = await client.assets.fromUrl(`${plan.base}/api/v2/assets/${streamed.id}/content`)
    await copy.commit()
    const back = await client.assets.get(fromPath.id)
    const first = fromPath.id
    await fromPath.delete()
    return {
      hash_is_right: (await again.hash()) === `blake3:${await blake3(picture)}`,
      created_new: [fromPath.createdNew, again.createdNew, streamed.createdNew, copy.createdNew],
      same_hash: (await copy.hash()) === (await streamed.hash()),
      ids_differ: new Set([first, again.id, streamed.id, copy.id]).size === 4,
      name: back.filePath,
      gone: [await refused(() => client.assets.delete(first)), await refused(() => client.assets.get(first))],
      left: (await client.assets.get(again.id)).filePath,
    }
  },

  async runs() {
    const one = await client.run(loads(client.assets.fromBytes(picture, { filename: "fox.png" })))
    const second = await client.run(loads(await client.assets.get(one.outputs[0].id)), { timeoutMs: 60_000 })
    const text = await client.run(workflow(plan.text))
    const of = async (output) => [output.type, output.nodeId, Buffer.from(await output.toBytes()).toString()]
    return {
      outputs: [await output(one.getOutputs("2")[0]), await output(second.outputs[0])],
      text: await Promise.all(text.outputs.map(of)),
      status: (await client.jobs.get(second.id)).status,
    }
  },

  async workflow_back() {
    const job = await client.run(workflow(plan.quick[0]))
    const { workflow: graph, format } = await job.getWorkflow()
    return { graph, format }
  },

  async events() {
    const job = await client.submit(workflow(plan.steps))
    const streams = await Promise.all([heard(job), heard(await client.jobs.get(job.id))])
    await job.refresh()
    return { streams, outputs: job.outputs.map((one) => one.id), status: job.status, late: await heard(job) }
  },

  async cancels() {
    const running = await client.submit(workflow(plan.slow))
    const waiting = await client.submit(workflow(plan.quick[1]))
    const streams = [heard(running), heard(waiting)]
    while ((await running.refresh()).status === "queued") await new Promise((done) => setTimeout(done, 50))
    const before = [running.status, (await waiting.refresh()).status]
    await waiting.cancel()
    const asked = [waiting.status, (await running.cancel()).status]
    const ended = await Promise.all([failed(waiting), failed(running)])
    return {
      before,
      asked,
      ended,
      again: [(await running.cancel()).status, (await waiting.cancel()).status],
      events: (await Promise.all(streams)).map((stream) => stream.last),
    }
  },

  async errors() {
    const submit = (graph, options) => refused(() => client.submit(workflow(graph), options))
    const idempotencyKey = randomUUID()
    const missing = { __type: "core/ASSET", info: { id: randomUUID() } }
    const low = new ComfyLow(plan.base)
    const failing = await client.submit(workflow(plan.fails))
    return {
      class: await submit(plan.wrong, { idempotencyKey }),
      input: await submit({ 2: { class_type: "SaveImage", inputs: { filename_prefix: "x" } } }),
      no_output: await submit({ 1: plan.quick[0]["1"] }),
      ui: await submit({ nodes: [], links: [] }),
      ui_here: await submit({ nodes: [], links: [], last_node_id: 1 }),
      ui_sent: await refused(() => low.postJobs({ nodes: [], links: [], last_node_id: 1 })),
      asset: await refused(() => client.submit(loads(missing), { idempotencyKey })),
      race: await Promise.all(Array.from({ length: 5 }, () => submit(plan.quick[2], { idempotencyKey }))),
      no_job: await refused(() => client.jobs.get(randomUUID())),
      no_asset: await refused(() => client.assets.get(randomUUID())),
      no_blob: await refused(() => low.assetFromHash(`blake3:${"0".repeat(64)}`)),
      hash: await refused(() =>
        low.postAssets(new Blob(["other bytes"]), "text/plain", "o.txt", { expectedHash: `blake3:${"0".repeat(64)}` }),
      ),
      failed: await failed(failing),
    }
  },

  async org_key() {
    const job = await client.submit(workflow(plan.quick[3]), { apiKey: plan.org_key })
    return { status: (await job.result()).status }
  },

  async queue_full() {
    const full = clientOf(plan.full)
    const first = await full.submit(workflow(plan.steps, full))
    const told = await refused(() => new ComfyLow(plan.full).postJobs(plan.quick[0]))
    const second = await full.submit(workflow(plan.quick[0], full), { idempotencyKey: plan.waiting_key })
    return { told, waited: (await second.result()).status, first: (await first.refresh()).status }
  },

  async edit_port() {
    return essentials(clientOf(plan.edit))
  },

  async locked() {
    const told = {}
    for (const [name, key] of [["none"], ["wrong", `not-${plan.key}`]]) {
      const stranger = clientOf(plan.locked, key)
      told[name] = [
        await refused(() => stranger.submit(workflow(plan.quick[0], stranger))),
        await refused(() => stranger.assets.fromBytes(new Uint8Array([1])).commit()),
        await refused(() => stranger.jobs.get(randomUUID())),
      ]
    }
    told.right = await essentials(clientOf(plan.locked, plan.key))
    return told
  },
}

const others = { queue_full: "full", edit_port: "edit", locked: "locked" }
for (const [name, does] of Object.entries(parts)) {
  if (name in others && !plan[others[name]]) continue
  try {
    seen[name] = await does()
  } catch (error) {
    // The other parts are still to be seen.
    seen.broken[name] = `${error.stack}`.slice(0, 1500)
  }
}
rmSync(folder, { recursive: true })
console.log(JSON.stringify(seen))
process.exit(0)
