// Speaks to the worker. Addresses are relative, since a proxy may serve it below a folder.

const BASE = new URL('../', import.meta.url)

export const address = path => new URL(path, BASE).href

/** Where programs find the worker. */
export const origin = () => BASE.href.replace(/\/$/, '')

/** What the worker refused, in its words. */
export class Refused extends Error {
  constructor(status, body, retryAfter) {
    super(text(body) || `The worker answered ${status}.`)
    this.status = status
    this.body = body
    this.retryAfter = retryAfter
  }
}

const text = body => (typeof body?.error === 'string' ? body.error : body?.error?.message)

function login() {
  const here = location.href.slice(BASE.href.length - 1)
  location.assign(address(`login?next=${encodeURIComponent(here)}`))
}

export async function ask(path, options = {}) {
  let answer
  try {
    answer = await fetch(address(path), { credentials: 'same-origin', ...options })
  } catch (error) {
    if (error.name === 'AbortError') throw error
    throw new Refused(0, { error: 'The worker cannot be reached. Is it running?' })
  }
  if (answer.status === 401) login()
  const size = Number(answer.headers.get('content-length'))
  if (options.most && size > options.most) {
    await answer.body?.cancel()
    throw new Refused(413, { error: 'The answer is large.' })
  }
  const body = await answer.json().catch(() => null)
  if (!answer.ok) throw new Refused(answer.status, body, Number(answer.headers.get('retry-after')) || null)
  return body
}

export const post = (path, body) =>
  ask(path, { method: 'POST', headers: { 'content-type': 'application/json' }, body })

/** The bytes of a picture of this worker. */
export async function bytes(url) {
  const answer = await fetch(url, { credentials: 'same-origin' })
  if (answer.status === 401) login()
  if (!answer.ok) throw new Refused(answer.status, { error: 'The picture is gone.' })
  return answer.blob()
}

/** A blob as a data URI. */
export const dataUri = blob =>
  new Promise((resolve, reject) => {
    const reader = new FileReader()
    reader.onload = () => resolve(reader.result)
    reader.onerror = () => reject(new Error(`The file ${blob.name ?? ''} cannot be read.`))
    reader.readAsDataURL(blob)
  })
