// What this browser remembers: the form, what it sent, and the pictures that went along. The worker keeps the jobs.

const FORM = 'play.form'
const SENT = 'play.sent'
/** How many sent requests are remembered. */
const MOST = 60

function read(key, usual) {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? usual
  } catch {
    return usual
  }
}

function write(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value))
  } catch {
    // A full or forbidden store: the page works without.
  }
}

export const savedForm = () => read(FORM, {})
export const saveForm = values => write(FORM, values)

/** By the id of its job: the values of the form, and its pictures as `{name, url}` or `{name, key}`. */
export const sent = () => read(SENT, {})

export async function remember(id, record, blobs) {
  const all = sent()
  all[id] = record
  const oldest = Object.keys(all).sort((a, b) => all[a].at - all[b].at)
  const gone = oldest.slice(0, Math.max(0, oldest.length - MOST))
  for (const old of gone) delete all[old]
  write(SENT, all)
  await keep(blobs, new Set(Object.values(all).flatMap(keysOf)))
}

const keysOf = record => [...record.images, ...(record.mask ? [record.mask] : [])].map(image => image.key).filter(Boolean)

// Pictures are too large for localStorage.

const open = () =>
  new Promise((resolve, reject) => {
    const asked = indexedDB.open('play', 1)
    asked.onupgradeneeded = () => asked.result.createObjectStore('images')
    asked.onsuccess = () => resolve(asked.result)
    asked.onerror = () => reject(asked.error)
  })

const done = request =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result)
    request.onerror = () => reject(request.error)
  })

async function keep(blobs, wanted) {
  try {
    const images = (await open()).transaction('images', 'readwrite').objectStore('images')
    for (const [key, blob] of blobs) images.put(blob, key)
    for (const key of await done(images.getAllKeys())) if (!wanted.has(key)) images.delete(key)
  } catch {
    // Private windows have none.
  }
}

export async function blobOf(key) {
  try {
    return await done((await open()).transaction('images').objectStore('images').get(key))
  } catch {
    return undefined
  }
}
