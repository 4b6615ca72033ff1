// What the form holds, and what a request says of it. Nothing here needs a browser.

/** The form as it begins. What is empty is left to the template. */
export const EMPTY = {
  prompt: '',
  negative_prompt: '',
  template: '',
  shape: 'auto',
  width: '',
  height: '',
  megapixels: '',
  seed: '',
  steps: '',
  cfg: '',
  denoise: '',
  batch_size: '',
  layers: '',
  control: { type: '', strength: '' },
  loras: [],
}

/** The numbers that have an input of their own. */
export const NUMBERS = ['steps', 'cfg', 'denoise', 'batch_size', 'layers']

export const properties = template => template?.input?.properties ?? {}
export const takes = (template, field) => field in properties(template)

/** Which pictures of the form a template takes. */
export const used = (template, images) => images.slice(0, template?.images.at_most ?? 0)

/**
 * The fields of `input` for a template: each in its own type, the seed as a BigInt where a number would not hold it. `images`
 * and `mask` are whatever stands for them.
 */
export function input(template, values, images = [], mask = null) {
  const fields = { prompt: values.prompt, template: template.name }
  const say = (name, value) => {
    if (takes(template, name) && value !== '' && value !== null) fields[name] = value
  }
  say('negative_prompt', values.negative_prompt.trim())
  const taken = used(template, images)
  if (taken.length) fields.images = taken
  if (taken.length && mask) say('mask', mask)
  if (values.shape === 'own') {
    say('width', number(values.width))
    say('height', number(values.height))
  } else if (values.shape === 'megapixels') {
    say('megapixels', number(values.megapixels))
  } else if (values.shape !== 'auto') {
    say('aspect_ratio', values.shape)
  }
  say('seed', seed(values.seed))
  for (const name of NUMBERS) {
    // From words alone there is no picture of which something could stay.
    if (name !== 'denoise' || taken.length) say(name, number(values[name]))
  }
  const { type, strength } = values.control ?? EMPTY.control
  const control = {}
  // One that another template knows is kept for that one.
  if ([...(template.control_types ?? []), 'ready'].includes(type)) control.type = type
  if (strength !== '') control.strength = number(strength)
  if (Object.keys(control).length) say('control', control)
  const loras = values.loras.filter(lora => lora.name.trim())
  if (loras.length) {
    say('loras', loras.map(lora => ({ name: lora.name.trim(), strength: number(lora.strength === '' ? '1' : lora.strength) })))
  }
  return fields
}

/** A number as it was written; what is none goes as a text, so that the worker says what is wrong with it. */
function number(text) {
  const plain = String(text).trim().replace(',', '.')
  if (plain === '') return ''
  const value = Number(plain)
  return Number.isFinite(value) ? value : plain
}

function seed(text) {
  const plain = String(text).trim()
  if (!/^\d+$/.test(plain)) return number(plain)
  const value = BigInt(plain)
  return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value
}

/** The seed of a job, as its digits: those that it was sent with, since an answer that is read here holds no more than 2^53. */
export function seedOf(job) {
  const asked = String(job.sent?.values.seed ?? '').trim()
  if (/^\d+$/.test(asked)) return asked
  return String(job.output?.seed ?? '')
}

/** JSON, with BigInts as the numbers that they are. */
export function json(value, indent = '') {
  const inner = indent + '  '
  if (typeof value === 'bigint') return value.toString()
  if (Array.isArray(value)) {
    if (!value.length) return '[]'
    return `[\n${value.map(item => inner + json(item, inner)).join(',\n')}\n${indent}]`
  }
  if (value && typeof value === 'object') {
    const fields = Object.entries(value).filter(([, held]) => held !== undefined)
    if (!fields.length) return '{}'
    return `{\n${fields.map(([name, held]) => `${inner}${JSON.stringify(name)}: ${json(held, inner)}`).join(',\n')}\n${indent}}`
  }
  return JSON.stringify(value)
}

/** Width and height in pixels that a request asks for; null: those of the template, or of the picture. */
export function size(template, values) {
  if (values.shape === 'own') {
    const [width, height] = [number(values.width), number(values.height)]
    return typeof width === 'number' && typeof height === 'number' ? [width, height] : null
  }
  return template.sizes?.[values.shape] ?? null
}

/** Where in the form an error belongs. */
const PLACES = {
  width: 'size',
  height: 'size',
  size: 'size',
  aspect_ratio: 'size',
  megapixels: 'size',
  image: 'images',
  image_url: 'images',
}

function place(field) {
  const plain = String(field ?? '').replace(/^input\./, '').replace(/\[.*$/, '').split('.')[0]
  return /^image_\d+/.test(plain) ? 'images' : (PLACES[plain] ?? plain)
}

/** What an answer says is wrong: `fields` by the place in the form, and `rest` for what has none there. */
export function placed(body, shown) {
  const fields = {}
  const rest = []
  const put = (field, message) => {
    const where = place(field)
    if (shown.includes(where)) fields[where] = fields[where] ? `${fields[where]} ${message}` : message
    else rest.push(field ? `${field}: ${message}` : message)
  }
  const message = typeof body?.error === 'string' ? body.error : (body?.error?.message ?? '')
  const problems = (body?.details ?? []).filter(problem => problem.input && !problem.node_id)
  if (problems.length) {
    for (const problem of problems) put(problem.input, sentence(problem.message))
    const others = body.details.length - problems.length
    if (others) rest.push(message)
  } else if (body?.field && shown.includes(place(body.field))) {
    const said = message.replace(/^Invalid request: /, '')
    put(body.field, sentence(said.startsWith(`${body.field}: `) ? said.slice(body.field.length + 2) : said))
  } else if (message) {
    rest.push(message)
  }
  return { fields, rest: rest.join('\n') }
}

const sentence = text => {
  const begun = text.charAt(0).toUpperCase() + text.slice(1)
  return /[.?!…]$/.test(begun) ? begun : `${begun}.`
}

/** Seconds in words. */
export function time(seconds) {
  if (seconds == null || !Number.isFinite(seconds)) return ''
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`
  const minutes = Math.floor(seconds / 60)
  if (minutes < 60) return `${minutes} min ${Math.round(seconds % 60)} s`
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}

const STAGES = {
  waiting: 'Next in line',
  preparing: 'Getting ready',
  downloading: 'Fetching models',
  running: 'At work',
  collecting: 'Collecting the pictures',
  delivering: 'Nearly done',
}

/** How far a job is, in words: what it does, and what is known besides. */
export function state(job) {
  const progress = job.progress ?? {}
  const download = progress.download
  if (download) {
    const known = download.percent == null ? '' : ` ${download.percent} %`
    const left = download.eta_s ? `${time(download.eta_s)} left` : ''
    return { what: `Fetching ${download.file}${known}`, more: [left].filter(Boolean), percent: download.percent ?? null }
  }
  if (job.status === 'IN_QUEUE') {
    const place = job.position ? `place ${job.position}` : ''
    return { what: 'In the queue', more: [place].filter(Boolean), percent: null }
  }
  const step = progress.step ? `step ${progress.step} of ${progress.steps}` : ''
  const left = progress.eta_s ? `${time(progress.eta_s)} left` : ''
  const percent = progress.percent ?? 0
  const what = STAGES[progress.stage] ?? 'At work'
  return { what, more: [`${percent} %`, step, left].filter(Boolean), percent }
}

export const OVER = ['COMPLETED', 'FAILED', 'CANCELLED', 'TIMED_OUT']
export const isOver = job => OVER.includes(job.status)

export const WORDS = {
  IN_QUEUE: 'In the queue',
  IN_PROGRESS: 'At work',
  COMPLETED: 'Done',
  FAILED: 'Failed',
  CANCELLED: 'Cancelled',
  TIMED_OUT: 'Out of time',
  GONE: 'Gone',
}
