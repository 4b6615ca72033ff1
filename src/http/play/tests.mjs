// What needs no browser, tested by `node tests.mjs`: values become requests, and programs say what they say.
// The programs are run, with stand-ins for curl and for the libraries that they use.

import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { snippet } from './snippets.js'
import { EMPTY, input, json, placed, seedOf, state, time } from './values.js'

const whole = { type: 'integer', minimum: 1, maximum: 10_000 }
const words = {
  name: 'qwen-image',
  kind: 'generate',
  images: { at_least: 0, at_most: 0 },
  mask: false,
  sizes: { '1:1': [1328, 1328], '16:9': [1664, 928] },
  openai: { model: 'Qwen/Qwen-Image', quality: 'high' },
  input: {
    properties: {
      prompt: {}, negative_prompt: {}, aspect_ratio: {}, width: { default: 1328 }, height: { default: 1328 }, seed: {},
      steps: { ...whole, default: 20 }, cfg: { default: 2.5 }, denoise: {}, batch_size: {}, loras: {},
    },
  },
}
const edits = {
  ...words,
  name: 'qwen-image-edit-2511',
  kind: 'edit',
  images: { at_least: 1, at_most: 2 },
  mask: true,
  openai: { model: 'Qwen/Qwen-Image-Edit-2511', quality: 'high' },
  input: { properties: { ...words.input.properties, images: {}, mask: {}, megapixels: {}, width: {}, height: {} } },
}
const form = values => ({ ...EMPTY, prompt: 'a fox', ...values })

// ---- requests ----

assert.deepEqual(input(words, form()), { prompt: 'a fox', template: 'qwen-image' })
assert.deepEqual(
  input(words, form({ shape: 'own', width: '640', height: '480', seed: '7', steps: '8', cfg: '1,5', denoise: '0.5', megapixels: '2' })),
  { prompt: 'a fox', template: 'qwen-image', width: 640, height: 480, seed: 7, steps: 8, cfg: 1.5 },
  'what the template has no place for, or does nothing, is left out',
)
assert.deepEqual(input(edits, form({ shape: 'megapixels', megapixels: '1.5', denoise: '0.5' }), ['a', 'b', 'c'], 'm'), {
  prompt: 'a fox', template: 'qwen-image-edit-2511', images: ['a', 'b'], mask: 'm', megapixels: 1.5, denoise: 0.5,
})
assert.equal(input(words, form({ steps: 'many' })).steps, 'many', 'the worker says what is wrong with it')
assert.equal(input(words, form({ seed: '18446744073709551615' })).seed, 18446744073709551615n)
assert.equal(JSON.parse(json({ a: ['ü"\n', 1, true, null, {}] })).a[0], 'ü"\n')
assert.match(json({ seed: 18446744073709551615n }), /"seed": 18446744073709551615\n/)
assert.deepEqual(input(words, form({ loras: [{ name: ' x.safetensors ', strength: '' }, { name: '', strength: '2' }] })).loras, [
  { name: 'x.safetensors', strength: 1 },
])

const controlled = { ...edits, control_types: ['canny', 'depth'], input: { properties: { ...edits.input.properties, control: {}, layers: {} } } }
const steered = (type, strength) => input(controlled, form({ control: { type, strength }, layers: '3' }), ['a'])
assert.equal(steered('', '').control, undefined, 'the usual control picture is left to the template')
assert.equal(steered('', '').layers, 3)
assert.deepEqual(steered('depth', '0,5').control, { type: 'depth', strength: 0.5 })
assert.deepEqual(steered('ready', '').control, { type: 'ready' })
assert.equal(steered('scribble', '').control, undefined, 'a kind that only another template knows is kept for that one')
assert.equal(input(edits, form({ control: { type: 'depth', strength: '1' } }), ['a']).control, undefined)

assert.equal(
  seedOf({ sent: { values: { seed: '18446744073709551615' } }, output: { seed: JSON.parse('18446744073709551615') } }),
  '18446744073709551615',
  'digits that no number of JavaScript holds',
)
for (const seed of ['', '-1', undefined]) assert.equal(seedOf({ sent: { values: { seed } }, output: { seed: 7 } }), '7', 'the worker chose it')
assert.equal(seedOf({ output: { seed: 0 } }), '0')
assert.equal(seedOf({ sent: { values: { seed: '' } } }), '')

// ---- jobs that are followed ----

{
  const streams = new Map()
  let seen = 'visible'
  let look = () => {}
  const asked = []
  Object.assign(globalThis, {
    document: { get visibilityState() { return seen }, addEventListener: (_, listener) => { look = listener } },
    EventSource: class {
      constructor(url) { this.id = url.split('/').pop(); this.listeners = {}; streams.set(this.id, this) }
      addEventListener(name, listener) { this.listeners[name] = listener }
      close() { streams.delete(this.id) }
    },
    fetch: async url => {
      asked.push(url.split('/').pop())
      return { ok: true, status: 200, headers: new Headers(), json: async () => ({ status: 'IN_QUEUE' }) }
    },
  })
  const { follow, prefer } = await import('./follow.js')
  const news = []
  const ends = ['a', 'b', 'c', 'd', 'e'].map(id => follow(id, told => news.push(told)))
  const open = () => [...streams.keys()].join()
  assert.equal(open(), '', 'none is looked at')
  assert.deepEqual(asked, ['a', 'b', 'c', 'd', 'e'])
  prefer('b')
  assert.equal(open(), 'b')
  prefer('c')
  assert.equal(open(), 'c')
  prefer('c')
  seen = 'hidden'
  look()
  assert.equal(open(), '', 'another tab may need it')
  seen = 'visible'
  look()
  assert.equal(open(), 'c')
  await new Promise(setImmediate)
  streams.get('c').listeners.status({ data: '{"id": "c", "status": "COMPLETED"}' })
  assert.equal(open(), '')
  prefer('d')
  look()
  assert.equal(open(), 'd')
  for (const end of ends) end()
  assert.equal(open(), '')
  assert.ok(news.some(job => job.status === 'COMPLETED'))
}

// ---- errors ----

const shown = ['prompt', 'steps', 'size', 'images', 'mask']
assert.deepEqual(placed({ error: 'Invalid request: steps: must be 1 to 9, not 20', field: 'steps' }, shown), {
  fields: { steps: 'Must be 1 to 9, not 20.' },
  rest: '',
})
assert.deepEqual(
  placed(
    {
      error: 'Invalid request: 3 fields are wrong\n- …',
      field: 'width',
      details: [{ input: 'width', message: 'too small' }, { input: 'images[1]', message: 'is none' }, { input: 'loras', message: 'no place' }],
    },
    shown,
  ),
  { fields: { size: 'Too small.', images: 'Is none.' }, rest: 'loras: No place.' },
)
assert.deepEqual(placed({ error: 'Failed.', details: [{ node_id: '3', input: 'steps', message: 'x' }] }, shown), { fields: {}, rest: 'Failed.' })
assert.deepEqual(placed({ error: 'cannot be fetched', field: 'image_2' }, shown).fields, { images: 'Cannot be fetched.' })

// ---- progress ----

assert.equal(time(0.2), '1 s')
assert.equal(time(75), '1 min 15 s')
assert.deepEqual(state({ status: 'IN_QUEUE', position: 3 }).more, ['place 3'])
assert.deepEqual(state({ status: 'IN_PROGRESS', progress: { stage: 'running', percent: 40, step: 3, steps: 8, eta_s: 4.2 } }).more, [
  '40 %', 'step 3 of 8', '4 s left',
])

// ---- programs ----

const nasty = 'it\'s "quoted" \\ $HOME `id` $(id)\nzwölf 😀 \\n %s END_OF_REQUEST'
const origin = 'http://localhost:8188'
const folder = mkdtempSync(join(tmpdir(), 'play-'))
process.on('exit', () => rmSync(folder, { recursive: true, force: true }))
writeFileSync(join(folder, 'a.png'), 'AAA')
writeFileSync(join(folder, 'mask.png'), 'MMM')
const base64 = text => Buffer.from(text).toString('base64')

function shell(code) {
  // Prints each argument, and what is read.
  const curl = 'curl() { for word in "$@"; do printf "%s\\0" "$word"; if [ "$word" = "@-" ]; then cat; printf "\\0"; fi; done; }\n'
  const ran = spawnSync('bash', ['-c', curl + code], { cwd: folder, encoding: 'utf8' })
  assert.equal(ran.status, 0, ran.stderr)
  return ran.stdout.split('\0')
}
const after = (args, word) => args[args.indexOf(word) + 1]

const hasPython = spawnSync('python3', ['--version']).status === 0
const STANDINS = `
import json, sys, types
class Anything:
    def __getattr__(self, name): return Anything()
    def __call__(self, *a, **k): return Anything()
def told(*a, **k):
    plain = lambda v: v.name if hasattr(v, "read") else str(v)
    print(json.dumps([a, k], default=plain)); sys.exit()
requests = types.ModuleType("requests"); requests.post = told
openai = types.ModuleType("openai")
class OpenAI:
    def __init__(self, **k): self.images = types.SimpleNamespace(generate=lambda **k: told("generate", **k), edit=lambda **k: told("edit", **k))
openai.OpenAI = OpenAI
gradio = types.ModuleType("gradio_client")
gradio.Client = lambda *a, **k: types.SimpleNamespace(predict=told)
sys.modules.update(requests=requests, openai=openai, gradio_client=gradio)
import os; os.environ["API_KEY"] = "KEY"
`
function python(code) {
  return JSON.parse(execFileSync('python3', ['-c', STANDINS + code], { cwd: folder, encoding: 'utf8' }))
}

async function script(code) {
  const told = []
  const tell = (...all) => {
    told.push(all)
    throw told
  }
  const names = {
    readFile: async (path, form) => (form ? base64(path === 'a.png' ? 'AAA' : 'MMM') : Buffer.from(path === 'a.png' ? 'AAA' : 'MMM')),
    writeFile: () => {},
    createReadStream: path => path,
    fetch: tell,
    OpenAI: class {
      images = { generate: body => tell('generate', body), edit: body => tell('edit', body) }
    },
    Client: { connect: async () => ({ predict: tell }) },
  }
  JSON.rawJSON ??= text => ({ toJSON: () => `raw ${text}` })
  const body = code.replace(/^import .*$/gm, '')
  const run = new Function(...Object.keys(names), `return (async () => {${body}})()`)
  await assert.rejects(async () => run(...Object.values(names)).catch(error => { throw error === told ? new Error('told') : error }), /told/)
  return told[0]
}

for (const keys of [false, true]) {
  const values = form({ prompt: nasty, negative_prompt: "blur 'n' $noise", shape: '16:9', seed: '42', steps: '12', cfg: '3', batch_size: '2' })
  const asked = { template: words, values, keys, origin }
  const expected = {
    prompt: nasty, template: 'qwen-image', negative_prompt: "blur 'n' $noise", aspect_ratio: '16:9', seed: 42, steps: 12, cfg: 3, batch_size: 2,
  }
  let args = shell(snippet('RunPod', 'curl', asked).code)
  assert.equal(args[0], `${origin}/runsync`)
  assert.deepEqual(JSON.parse(after(args, '-d')), { input: expected })
  assert.equal(args.some(word => word.startsWith('Authorization: Bearer')), keys)
  let [url, request] = await script(snippet('RunPod', 'JavaScript', asked).code)
  assert.equal(url, `${origin}/runsync`)
  assert.deepEqual(JSON.parse(request.body), { input: { ...expected, return_images_as: 'base64' } })
  const extra = { seed: 42, negative_prompt: "blur 'n' $noise", steps: 12, guidance_scale: 3 }
  const usual = { model: 'Qwen/Qwen-Image', prompt: nasty, quality: 'high', size: '1664x928', n: 2 }
  args = shell(snippet('OpenAI', 'curl', asked).code)
  assert.deepEqual(JSON.parse(after(args, '-d')), { ...usual, ...extra, response_format: 'url' })
  const [method, body] = await script(snippet('OpenAI', 'JavaScript', asked).code)
  assert.deepEqual([method, body], ['generate', { ...usual, ...extra, response_format: 'b64_json' }])
  args = shell(snippet('Gradio', 'curl', asked).code.replace('id=$(', '').replace(/ \| cut.*\)\n.*/s, ''))
  assert.deepEqual(JSON.parse(after(args, '-d')), { data: [nasty, 42, false, '16:9', 3, 12, false] })
  const [path, data] = await script(snippet('Gradio', 'JavaScript', asked).code)
  assert.equal(path, '/infer')
  assert.deepEqual(Object.values(data), [nasty, 42, false, '16:9', 3, 12, false])
  assert.deepEqual(snippet('Gradio', 'curl', asked).notes, ['It has no place for a negative prompt, a number of pictures.'])
  if (hasPython) {
    const [[where], { json: sent }] = python(snippet('RunPod', 'Python', asked).code)
    assert.equal(where, `${origin}/runsync`)
    assert.deepEqual(sent, { input: { ...expected, return_images_as: 'base64' } })
    const [[way], named] = python(snippet('OpenAI', 'Python', asked).code)
    assert.deepEqual([way, named], ['generate', { ...usual, response_format: 'b64_json', extra_body: extra }])
    const [positional] = python(snippet('Gradio', 'Python', asked).code)
    assert.deepEqual(positional, [nasty, 42, false, '16:9', 3, 12, false])
  }
}

{
  const asked = { template: edits, values: form({ prompt: nasty, shape: 'auto', seed: '' }), images: [{ name: 'a.png' }], mask: true, origin }
  let args = shell(snippet('RunPod', 'curl', asked).code)
  const sent = JSON.parse(after(args, '@-'))
  const picture = text => `data:image/png;base64,${base64(text)}`
  const expected = { prompt: nasty, template: 'qwen-image-edit-2511', images: [picture('AAA')], mask: picture('MMM') }
  assert.deepEqual(sent, { input: expected })
  const plain = { ...expected, images: [base64('AAA')], mask: base64('MMM'), return_images_as: 'base64' }
  assert.deepEqual(JSON.parse((await script(snippet('RunPod', 'JavaScript', asked).code))[1].body), { input: plain })
  args = shell(snippet('OpenAI', 'curl', asked).code)
  assert.equal(args[0], `${origin}/v1/images/edits`)
  for (const part of ['image[]=@a.png', 'mask=@mask.png', `prompt=${nasty}`, 'quality=high']) assert.ok(args.includes(part), part)
  const [method, body] = await script(snippet('OpenAI', 'JavaScript', asked).code)
  assert.deepEqual([method, body.image, body.mask], ['edit', ['a.png'], 'mask.png'])
  const far = { ...asked, images: [{ name: 'b.png', url: 'https://example.com/b.png' }], mask: false }
  assert.deepEqual((await script(snippet('OpenAI', 'JavaScript', far).code))[1].image, ['https://example.com/b.png'])
  assert.deepEqual(JSON.parse(after(shell(snippet('OpenAI', 'curl', far).code), '-d')).image, ['https://example.com/b.png'])
  assert.deepEqual(JSON.parse(after(shell(snippet('RunPod', 'curl', far).code), '-d')).input.images, ['https://example.com/b.png'])
  if (hasPython) {
    assert.deepEqual(python(snippet('RunPod', 'Python', asked).code)[1].json, { input: plain })
    const [[way], named] = python(snippet('OpenAI', 'Python', asked).code)
    assert.deepEqual([way, named.image, named.mask, named.prompt], ['edit', ['a.png'], 'mask.png', nasty])
    assert.deepEqual(python(snippet('OpenAI', 'Python', far).code)[1].extra_body.image, ['https://example.com/b.png'])
  }
  const none = snippet('OpenAI', 'curl', { ...asked, template: { ...edits, name: 'mine', openai: undefined } })
  assert.equal(none.code, '')
  const large = { ...asked, values: form({ seed: '18446744073709551615', loras: [{ name: 'x', strength: '1' }] }) }
  assert.match(snippet('RunPod', 'JavaScript', large).code, /JSON\.rawJSON\("18446744073709551615"\)/)
  assert.match(snippet('OpenAI', 'Python', large).notes.join(), /LoRAs/)
  // A name that a shell would read otherwise.
  const odd = { ...asked, images: [{ name: '$(id) "x";.png' }], mask: false }
  assert.match(snippet('RunPod', 'curl', odd).code, /base64 < _id_x_\.png/)
}

console.log('all is well')
