// The MCP server for KIE, asked over its standard input and output as assistants do: reads a plan from standard input, prints
// what its tools said.

import { readFileSync } from "node:fs"
import { setTimeout } from "node:timers/promises"
import { Client } from "@modelcontextprotocol/sdk/client/index.js"
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js"

const plan = JSON.parse(readFileSync(0))
const client = new Client({ name: "test", version: "1" })
const transport = new StdioClientTransport({
  command: process.execPath,
  args: ["node_modules/@felores/kie-ai-mcp-server/dist/index.js"],
  env: { ...process.env, ...plan.env },
  stderr: "inherit",
})
await client.connect(transport)

const call = async (name, given) => {
  const answer = await client.callTool({ name, arguments: given })
  const text = answer.content[0].text
  try {
    return JSON.parse(text)
  } catch {
    return { text }
  }
}

const seen = []
for (const request of plan.requests) {
  const created = await call("qwen_image", request)
  if (!created.task_id) {
    seen.push({ created })
    continue
  }
  let status
  do {
    await setTimeout(100)
    status = await call("get_task_status", { task_id: created.task_id })
  } while (status.polling_strategy.next_action === "continue_polling")
  seen.push({ created, status })
}
await client.close()
console.log(JSON.stringify(seen))
