// The form as a program: curl, Python and JavaScript for three of the worker's APIs. Nothing here needs a browser.

import { input, json, size, takes, used } from './values.js'

export const APIS = ['RunPod', 'OpenAI', 'Gradio']
export const LANGUAGES = ['curl', 'Python', 'JavaScript']

/**
 * The program for what the form holds, and `notes` of what that API has no word for. `images` are `{name}` for a file and
 * `{url}` for an address; `mask` is whether there is one; `keys` is whether the worker asks for a key.
 */
export function snippet(api, language, { template, values, images = [], mask = false, keys = false, origin }) {
  const taken = used(template, images).map((image, index) =>
    image.url ? { url: image.url } : { file: fileName(image.name, `image_${index + 1}.png`) },
  )
  const asked = { template, values, images: taken, mask: mask && taken.length && takes(template, 'mask') ? 'mask.png' : null, keys, origin }
  return { RunPod: runpod, OpenAI: openai, Gradio: gradio }[api](language, asked)
}

/** A name that needs no quotes anywhere. */
function fileName(name, usual) {
  const plain = String(name ?? '').replace(/[^\w.-]+/g, '_').replace(/^[.-]+/, '')
  return plain || usual
}

// ---- RunPod ----

function runpod(language, { template, values, images, mask, keys, origin }) {
  const fields = asked => input(template, values, images.map(image => (image.url ? image.url : asked(image.file))), mask && asked(mask))
  const url = `${origin}/runsync`
  const files = [...images.map(image => image.file), mask].filter(Boolean)
  if (language === 'curl') {
    const key = keys ? ` \\\n  -H "Authorization: Bearer $API_KEY"` : ''
    const start = `curl ${shell(url)}${key} \\\n  -H 'Content-Type: application/json'`
    if (!files.length) return { code: `${start} \\\n  -d ${shell(json({ input: fields() }))}`, notes: [] }
    // The shell puts the files in; everything else goes as it is.
    const marks = new Map()
    const marked = fields(file => {
      const mark = `\u0001${marks.size}\u0001`
      marks.set(JSON.stringify(mark).slice(1, -1), `data:image/png;base64,$(base64 < ${file} | tr -d '\\n')`)
      return mark
    })
    let text = json({ input: marked }).replace(/[\\$`]/g, '\\$&')
    for (const [mark, command] of marks) text = text.replace(mark.replace(/\\/g, '\\\\'), () => command)
    return { code: `${start} -d @- <<END_OF_REQUEST\n${text}\nEND_OF_REQUEST`, notes: [] }
  }
  if (language === 'Python') {
    const body = python({ input: { ...fields(file => raw(`base64_of(${pythonText(file)})`)), return_images_as: 'base64' } })
    const reader = files.length
      ? 'def base64_of(path):\n    with open(path, "rb") as file:\n        return base64.b64encode(file.read()).decode()\n\n\n'
      : ''
    return {
      code: `import base64
${keys ? 'import os\n' : ''}
import requests

${reader}answer = requests.post(
    ${pythonText(url)},${keys ? '\n    headers={"Authorization": f"Bearer {os.environ[\'API_KEY\']}"},' : ''}
    json=${indented(body, '    ')},
)
job = answer.json()
if job.get("status") != "COMPLETED":
    raise SystemExit(job.get("error", job))
for image in job["output"]["images"]:
    with open(image["filename"], "wb") as file:
        file.write(base64.b64decode(image["data"]))
`,
      notes: [],
    }
  }
  const body = script({ input: { ...fields(file => raw(`await base64Of(${JSON.stringify(file)})`)), return_images_as: 'base64' } })
  const reader = files.length ? 'const base64Of = async path => (await readFile(path)).toString("base64")\n\n' : ''
  return {
    code: `import { ${files.length ? 'readFile, ' : ''}writeFile } from "node:fs/promises"

${reader}const answer = await fetch(${JSON.stringify(url)}, {
  method: "POST",
  headers: { "Content-Type": "application/json"${keys ? ', Authorization: `Bearer ${process.env.API_KEY}`' : ''} },
  body: JSON.stringify(${indented(body, '  ')}),
})
const job = await answer.json()
if (job.status !== "COMPLETED") throw new Error(job.error ?? job.status)
for (const image of job.output.images) {
  await writeFile(image.filename, Buffer.from(image.data, "base64"))
}
`,
    notes: [],
  }
}

// ---- OpenAI ----

function openai(language, asked) {
  const { template, values, images, mask, keys, origin } = asked
  if (!template.openai) {
    return { code: '', notes: [`OpenAI’s API has no model for the template ${template.name}. RunPod’s takes every template.`] }
  }
  const fields = input(template, values)
  const notes = []
  const lost = (names, why) => notes.push(`${names} ${why}`)
  for (const [field, name] of [['megapixels', 'A size in megapixels'], ['denoise', 'Denoise'], ['layers', 'The number of layers'], ['loras', 'LoRAs']]) {
    if (fields[field] !== undefined) lost(name, 'has no word in OpenAI’s API and is left out.')
  }
  const sides = size(template, values)
  const edits = images.length > 0
  if (sides && edits && sides.some(side => side < 256 || side > 1536)) {
    lost('This size', 'is refused here: OpenAI’s API edits pictures of 256 to 1536 pixels a side.')
  }
  if (fields.batch_size > 10) lost('More than 10 pictures', 'are refused by OpenAI’s API.')
  const usual = { model: template.openai.model, prompt: fields.prompt, quality: template.openai.quality }
  if (sides) usual.size = sides.join('x')
  if (fields.batch_size !== undefined) usual.n = fields.batch_size
  const ours = {}
  for (const [name, value] of [
    ['seed', fields.seed],
    ['negative_prompt', fields.negative_prompt],
    ['steps', fields.steps],
    ['guidance_scale', fields.cfg],
  ]) {
    if (value !== undefined) ours[name] = value
  }
  // Pictures by address go as JSON, which names them among the fields of a generation.
  const asForm = edits && images.every(image => image.file)
  const base = `${origin}/v1`
  if (language === 'curl') {
    const key = keys ? ` \\\n  -H "Authorization: Bearer $API_KEY"` : ''
    if (asForm) {
      const parts = [
        ...images.map(image => `-F ${shell(`image[]=@${image.file}`)}`),
        ...(mask ? [`-F ${shell(`mask=@${mask}`)}`] : []),
        ...Object.entries({ ...usual, ...ours, response_format: 'url' }).map(([name, value]) => `--form-string ${shell(`${name}=${value}`)}`),
      ]
      return { code: `curl ${shell(`${base}/images/edits`)}${key} \\\n  ${parts.join(' \\\n  ')}`, notes }
    }
    const body = { ...usual, ...ours, response_format: 'url' }
    if (edits) body.image = images.map(image => image.url ?? `BASE64_OF_${image.file}`)
    if (mask) body.mask = 'BASE64_OF_mask.png'
    if (edits && (mask || images.some(image => image.file))) notes.push('Put base64 of the files in the places that are marked.')
    return { code: `curl ${shell(`${base}/images/generations`)}${key} \\\n  -H 'Content-Type: application/json' \\\n  -d ${shell(json(body))}`, notes }
  }
  if (language === 'Python') {
    const named = { ...usual, response_format: 'b64_json' }
    const extra = { ...ours }
    let method = 'generate'
    let lines = Object.entries(named).map(([name, value]) => `    ${name}=${python(value)},`)
    let reader = ''
    if (asForm) {
      method = 'edit'
      lines = [
        `    image=[${images.map(image => `open(${pythonText(image.file)}, "rb")`).join(', ')}],`,
        ...(mask ? [`    mask=open(${pythonText(mask)}, "rb"),`] : []),
        ...lines,
      ]
    } else if (edits) {
      const place = file => raw(`base64_of(${pythonText(file)})`)
      extra.image = images.map(image => image.url ?? place(image.file))
      if (mask) extra.mask = place(mask)
      if (mask || images.some(image => image.file)) {
        reader = 'def base64_of(path):\n    with open(path, "rb") as file:\n        return base64.b64encode(file.read()).decode()\n\n\n'
      }
    }
    if (Object.keys(extra).length) lines.push(`    extra_body=${indented(python(extra), '    ')},`)
    return {
      code: `import base64
${keys ? 'import os\n' : ''}
from openai import OpenAI

${reader}client = OpenAI(base_url=${pythonText(base)}, api_key=${keys ? 'os.environ["API_KEY"]' : '"none"'})
result = client.images.${method}(
${lines.join('\n')}
)
for number, image in enumerate(result.data, 1):
    with open(f"picture_{number}.png", "wb") as file:
        file.write(base64.b64decode(image.b64_json))
`,
      notes,
    }
  }
  const body = { ...usual, ...ours, response_format: 'b64_json' }
  let method = 'generate'
  const imports = ['import { writeFile } from "node:fs/promises"', 'import OpenAI from "openai"']
  if (asForm) {
    method = 'edit'
    imports[0] = 'import { createReadStream } from "node:fs"\nimport { writeFile } from "node:fs/promises"'
    body.image = images.map(image => raw(`createReadStream(${JSON.stringify(image.file)})`))
    if (mask) body.mask = raw(`createReadStream(${JSON.stringify(mask)})`)
  } else if (edits) {
    const place = file => raw(`await readFile(${JSON.stringify(file)}, "base64")`)
    if (mask || images.some(image => image.file)) imports[0] = 'import { readFile, writeFile } from "node:fs/promises"'
    body.image = images.map(image => image.url ?? place(image.file))
    if (mask) body.mask = place(mask)
  }
  return {
    code: `${imports.join('\n')}

const client = new OpenAI({ baseURL: ${JSON.stringify(base)}, apiKey: ${keys ? 'process.env.API_KEY' : '"none"'} })
const result = await client.images.${method}(${script(body)})
for (const [index, image] of result.data.entries()) {
  await writeFile(\`picture_\${index + 1}.png\`, Buffer.from(image.b64_json, "base64"))
}
`,
    notes,
  }
}

// ---- Gradio ----

function gradio(language, { template, values, images, keys, origin }) {
  const fields = input(template, values, images.map(() => ''))
  const notes = []
  if (template.name !== 'qwen-image') notes.push(`Gradio’s /infer runs the template qwen-image, not ${template.name}.`)
  const lost = [
    ['negative_prompt', 'a negative prompt'],
    ['images', 'pictures'],
    ['denoise', 'denoise'],
    ['batch_size', 'a number of pictures'],
    ['layers', 'a number of layers'],
    ['control', 'a control picture'],
    ['loras', 'LoRAs'],
  ].filter(([field]) => fields[field] !== undefined)
  if (lost.length) notes.push(`It has no place for ${lost.map(([, name]) => name).join(', ')}.`)
  const own = name => template.input?.properties?.[name]?.default
  const sides = size(template, values) ?? [own('width'), own('height')]
  const ratio = Object.entries(template.sizes ?? {}).find(([, of]) => of[0] === sides[0] && of[1] === sides[1])
  if (!ratio) notes.push('It takes shapes and no sizes: this one becomes 1:1.')
  if (typeof fields.seed === 'bigint') notes.push('It takes seeds up to 9007199254740991; this one becomes a random one.')
  const hasSeed = typeof fields.seed === 'number' && fields.seed >= 0
  const data = [
    fields.prompt,
    hasSeed ? fields.seed : 0,
    !hasSeed,
    ratio?.[0] ?? '1:1',
    fields.cfg ?? own('cfg') ?? 4,
    fields.steps ?? own('steps') ?? 50,
    false,
  ]
  if (data[4] > 20 || data[5] > 100) notes.push('It takes guidance up to 20 and up to 100 steps.')
  if (language === 'curl') {
    const call = `${origin}/gradio_api/call/infer`
    const key = keys ? ' -H "Authorization: Bearer $API_KEY"' : ''
    const body = `{"data": [${data.map(value => JSON.stringify(value)).join(', ')}]}`
    return {
      code: `id=$(curl -s ${shell(call)}${key} \\
  -H 'Content-Type: application/json' \\
  -d ${shell(body)} | cut -d '"' -f 4)
curl -N ${shell(call)}"/$id"${key}`,
      notes,
    }
  }
  if (language === 'Python') {
    return {
      code: `import base64
${keys ? 'import os\n' : ''}
from gradio_client import Client

client = Client(${pythonText(origin)}${keys ? ', headers={"Authorization": f"Bearer {os.environ[\'API_KEY\']}"}' : ''})
image, seed = client.predict(
    ${pythonText(data[0])},
    ${python(data[1])},  # seed
    ${python(data[2])},  # whether any seed will do
    ${python(data[3])},
    ${python(data[4])},  # guidance
    ${python(data[5])},  # steps
    False,  # whether the prompt is made better
    api_name="/infer",
)
with open("picture.png", "wb") as file:
    file.write(base64.b64decode(image.split(",", 1)[1]))
`,
      notes,
    }
  }
  return {
    code: `import { writeFile } from "node:fs/promises"
import { Client } from "@gradio/client"

const client = await Client.connect(${JSON.stringify(origin)}${keys ? ', { token: process.env.API_KEY }' : ''})
const result = await client.predict("/infer", ${indented(script({
      prompt: data[0],
      seed: data[1],
      randomize_seed: data[2],
      aspect_ratio: data[3],
      guidance_scale: data[4],
      num_inference_steps: data[5],
      prompt_enhance: data[6],
    }), '')})
const [image, seed] = result.data
await writeFile("picture.png", Buffer.from(image.split(",")[1], "base64"))
`,
    notes,
  }
}

// ---- writing values ----

/** A piece of a program, as it is. */
class Raw {
  constructor(text) {
    this.text = text
  }
}
const raw = text => new Raw(text)

/** A word of a shell. */
const shell = text => `'${text.replaceAll("'", `'\\''`)}'`

const indented = (text, indent) => text.replaceAll('\n', `\n${indent}`)

// JSON's escapes are Python's too, but for a pair of surrogates, which stands here as it is.
const pythonText = text => JSON.stringify(text)

const literals = (words, value, indent) => {
  const inner = `${indent}${words.indent}`
  if (value instanceof Raw) return value.text
  if (typeof value === 'bigint') return words.big(value)
  if (typeof value === 'boolean') return words.truth(value)
  if (Array.isArray(value)) return `[${value.map(item => literals(words, item, indent)).join(', ')}]`
  if (value && typeof value === 'object') {
    const fields = Object.entries(value).map(([name, held]) => `${inner}${words.name(name)}: ${literals(words, held, inner)},`)
    return `{\n${fields.join('\n')}\n${indent}}`
  }
  return JSON.stringify(value)
}

const PYTHON = { indent: '    ', big: String, truth: value => (value ? 'True' : 'False'), name: name => JSON.stringify(name) }
// A literal of JavaScript would lose the last digits.
const SCRIPT = { indent: '  ', big: value => `JSON.rawJSON("${value}")`, truth: String, name: name => name }

const python = value => literals(PYTHON, value, '')
const script = value => literals(SCRIPT, value, '')
