// The page for people: a prompt and a template in, pictures out.

import { ask, bytes, dataUri, post, Refused } from './api.js'
import { CodeDialog } from './code.js'
import { follow, prefer } from './follow.js'
import { Form, shown } from './form.js'
import { MaskDialog, maskOf } from './mask.js'
import { html, render, useEffect, useRef, useState } from './preact.js'
import { History, Stage } from './stage.js'
import { blobOf, remember, savedForm, saveForm, sent } from './store.js'
import { EMPTY, input, isOver, json, placed, seedOf, state, used, WORDS } from './values.js'

/** How many jobs the page lists. */
const LISTED = 24
/** Results that are larger are not read only to be listed. */
const MOST_BYTES = 3_000_000
const NO_PROBLEMS = { fields: {}, at: 0 }

let numbers = 0
/** A picture of the form: a file, or an address. */
const imageOf = source =>
  source.url && !(source instanceof Blob)
    ? { id: ++numbers, name: source.name, url: source.url, preview: /^data:/i.test(source.url) ? source.url : null }
    : { id: ++numbers, name: source.name || 'pasted.png', blob: source, preview: URL.createObjectURL(source), key: crypto.randomUUID?.() ?? `${Date.now()}-${numbers}` }

function App({ templates }) {
  const named = name => templates.find(one => one.name === name)
  const usual = kind => templates.find(one => one.kind === kind && one.default) ?? templates.find(one => one.kind === kind) ?? templates[0]
  const [values, setValues] = useState(() => {
    const saved = { ...EMPTY, ...savedForm() }
    return { ...saved, template: (named(saved.template) ?? usual('generate')).name }
  })
  const [images, setImages] = useState([])
  const [mask, setMask] = useState(null)
  const [problems, setProblems] = useState(NO_PROBLEMS)
  const [notice, setNotice] = useState(null)
  const [busy, setBusy] = useState(false)
  const [dialog, setDialog] = useState(null)
  const [jobs, setJobs] = useState([])
  const [selected, setSelected] = useState(null)
  const [said, setSaid] = useState('')
  const [dropping, setDropping] = useState(false)
  const template = named(values.template) ?? templates[0]
  prefer(selected)

  const latest = useRef({})
  latest.current = { values, images, mask, template, jobs }
  const followed = useRef(new Map())
  const spoken = useRef(new Map())

  const set = part => {
    setValues(before => {
      const after = { ...before, ...part }
      saveForm(after)
      return after
    })
    const changed = Object.keys(part).map(name => (['shape', 'width', 'height', 'megapixels'].includes(name) ? 'size' : name))
    setProblems(before => ({ ...before, fields: Object.fromEntries(Object.entries(before.fields).filter(([name]) => !changed.includes(name))) }))
  }
  const change = (id, part) => setJobs(before => before.map(job => (job.id === id ? { ...job, ...part } : job)))

  // What a job is at is told aloud, but not each of its steps.
  const announce = job => {
    if (job.preview && !job.status) return
    const { what, percent } = state(job)
    const text = job.status === 'IN_PROGRESS' ? `${what}, ${Math.floor((percent ?? 0) / 25) * 25} percent` : (WORDS[job.status] ?? '')
    if (!text || spoken.current.get(job.id) === text) return
    spoken.current.set(job.id, text)
    setSaid(text)
  }

  const watch = id => {
    if (followed.current.has(id)) return
    const stop = follow(id, news => {
      change(id, news)
      announce(news)
      if (news.status === 'FAILED') blame(id, news)
    })
    followed.current.set(id, stop)
  }

  // The form still holds what failed: what is wrong stands beside it.
  const blame = (id, job) => {
    const { values, template, jobs } = latest.current
    const known = jobs.find(one => one.id === id)?.sent
    if (!known || JSON.stringify(known.values) !== JSON.stringify(values)) return
    const { fields } = placed(job, shown(template))
    if (Object.keys(fields).length) setProblems({ fields, at: Date.now() })
  }

  const look = async (id, most) => {
    try {
      change(id, await ask(`status/${id}`, { most }))
    } catch (error) {
      // One that is large is read once it is chosen.
      if (!(error instanceof Refused && error.status === 413)) change(id, { problem: error.message })
    }
  }

  useEffect(() => {
    const list = async () => {
      const records = sent()
      const { requests } = await ask(`requests?limit=${LISTED}`)
      setJobs(before => {
        const known = new Set(before.map(job => job.id))
        const others = requests.filter(job => !known.has(job.id)).map(job => ({ ...job, sent: records[job.id] }))
        const place = job => {
          const index = requests.findIndex(one => one.id === job.id)
          return index < 0 ? (isOver(job) ? LISTED : -1) : index
        }
        // The newest first, as the worker has them.
        return [...before, ...others].sort((a, b) => place(a) - place(b))
      })
      const [newest] = requests
      setSelected(before => before ?? newest?.id ?? null)
      for (const job of requests.filter(job => !isOver(job))) watch(job.id)
      // A few at a time: forms come before histories.
      const held = new Set(latest.current.jobs.filter(job => job.output || job.error).map(job => job.id))
      const over = requests.filter(job => isOver(job) && !held.has(job.id))
      const next = async () => {
        for (let job = over.shift(); job; job = over.shift()) await look(job.id, MOST_BYTES)
      }
      await Promise.all([next(), next()])
      if (newest && isOver(newest) && !latest.current.jobs.find(job => job.id === newest.id)?.output) await look(newest.id)
    }
    const refresh = () => document.visibilityState === 'visible' && list().catch(() => {})
    refresh()
    // What other tabs and programs sent meanwhile.
    document.addEventListener('visibilitychange', refresh)
    return () => document.removeEventListener('visibilitychange', refresh)
  }, [])

  // ---- pictures ----

  const add = sources => {
    const files = sources.filter(source => source.url || !source.type || source.type.startsWith('image/'))
    if (files.length < sources.length) setNotice({ text: 'Only pictures can be added.' })
    if (!files.length) return
    setImages(before => [...before, ...files.map(imageOf)])
    setProblems(NO_PROBLEMS)
    if (!latest.current.template.images.at_most) {
      const editing = usual('edit')
      if (editing.images.at_most) {
        set({ template: editing.name, shape: 'auto' })
        setSaid(`The template is now ${editing.title}.`)
      }
    }
  }
  const rearrange = next => {
    setImages(before => {
      const after = next(before)
      // The mask belongs to the first picture.
      if (after[0] !== before[0]) setMask(null)
      return after
    })
    setProblems(NO_PROBLEMS)
  }
  const move = (from, to) =>
    rearrange(before => {
      const after = [...before]
      after.splice(to, 0, ...after.splice(from, 1))
      return after
    })
  const remove = image => {
    if (image.blob) URL.revokeObjectURL(image.preview)
    rearrange(before => before.filter(one => one !== image))
  }
  const editMask = async file => {
    if (!(file instanceof Blob)) return setDialog('mask')
    // A picture by address is not here: its mask goes as it is.
    setMask({ blob: file, url: URL.createObjectURL(file), base: null, strokes: [] })
  }

  useEffect(() => {
    const hasFiles = event => [...(event.dataTransfer?.types ?? [])].some(type => type === 'Files' || type === 'text/uri-list')
    const over = event => {
      if (!hasFiles(event)) return
      event.preventDefault()
      setDropping(true)
    }
    const leave = event => {
      if (!event.relatedTarget) setDropping(false)
    }
    const drop = event => {
      setDropping(false)
      if (!hasFiles(event)) return
      event.preventDefault()
      const files = [...event.dataTransfer.files]
      const url = event.dataTransfer.getData('text/uri-list').split('\n').find(line => /^https?:/.test(line))
      if (files.length) add(files)
      else if (url) add([{ url: url.trim(), name: url.trim().split(/[?#]/)[0].split('/').pop() || 'picture' }])
    }
    const paste = event => {
      const files = [...(event.clipboardData?.files ?? [])]
      if (!files.length || document.querySelector('dialog[open]')) return
      event.preventDefault()
      add(files)
    }
    const key = event => {
      if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey) || document.querySelector('dialog[open]')) return
      event.preventDefault()
      act.current.send()
    }
    const listeners = [
      ['dragover', over],
      ['dragleave', leave],
      ['drop', drop],
      ['paste', paste],
      ['keydown', key],
    ]
    for (const [name, listener] of listeners) addEventListener(name, listener)
    return () => {
      for (const [name, listener] of listeners) removeEventListener(name, listener)
      for (const stop of followed.current.values()) stop()
    }
  }, [])

  // ---- sending ----

  const refused = (error, template) => {
    if (!(error instanceof Refused)) {
      setNotice({ text: error.message })
      return
    }
    if (error.status === 401) return
    const { fields, rest } = placed(error.body, shown(template))
    setProblems({ fields, at: Date.now() })
    const text = rest || (Object.keys(fields).length ? '' : error.message)
    setNotice(text ? { text, again: error.retryAfter ?? 0 } : null)
  }
  useEffect(() => {
    if (!notice?.again) return undefined
    const timer = setTimeout(() => setNotice(before => before && { ...before, again: before.again - 1 }), 1000)
    return () => clearTimeout(timer)
  }, [notice])

  const submit = async ({ values, images, mask, template }) => {
    setBusy(true)
    setNotice(null)
    setProblems(NO_PROBLEMS)
    try {
      const taken = used(template, images)
      const contents = await Promise.all(taken.map(image => (image.blob ? dataUri(image.blob) : image.url)))
      const asked = input(template, values, contents, mask && taken.length ? await dataUri(mask.blob) : null)
      const { id, status } = await post('run', json({ input: { ...asked, return_images_as: 'metadata' } }))
      const maskKey = asked.mask && `${id}-mask`
      const record = {
        at: Date.now(),
        values,
        images: taken.map(({ name, url, key }) => ({ name, url, key })),
        mask: maskKey ? { key: maskKey } : null,
      }
      const blobs = taken.filter(image => image.blob).map(image => [image.key, image.blob])
      if (maskKey) blobs.push([maskKey, mask.blob])
      await remember(id, record, blobs)
      setJobs(before => [{ id, status, sent: record }, ...before.filter(job => job.id !== id)].slice(0, LISTED * 2))
      setSelected(id)
      setSaid('Sent.')
      watch(id)
      if (matchMedia('(max-width: 899px)').matches) document.querySelector('main')?.scrollIntoView?.({ block: 'start' })
    } catch (error) {
      refused(error, template)
    } finally {
      setBusy(false)
    }
  }
  const act = useRef({})
  act.current.send = () => !busy && submit(latest.current)

  /** The pictures of a request that was sent before, as far as this browser still has them. */
  const restored = async record => {
    const found = await Promise.all(
      record.images.map(async ({ name, url, key }) => {
        if (url) return imageOf({ name, url })
        const blob = await blobOf(key)
        return blob && { ...imageOf(new File([blob], name, { type: blob.type })), key }
      }),
    )
    const blob = record.mask && (await blobOf(record.mask.key))
    let mask = null
    if (blob) {
      const picture = await createImageBitmap(blob)
      mask = { blob, url: URL.createObjectURL(blob), base: await maskOf(blob, picture.width, picture.height), strokes: [] }
    }
    if (found.includes(undefined)) setNotice({ text: 'Some pictures of that job are no longer in this browser: add them again.' })
    return { images: found.filter(Boolean), mask }
  }
  const again = async job => {
    const { images, mask } = await restored(job.sent)
    set({ ...EMPTY, ...job.sent.values, seed: seedOf(job) })
    setImages(images)
    setMask(mask)
    setSaid('The form holds what this job was asked for, and its seed.')
    document.getElementById('prompt')?.focus()
  }
  const another = async job => {
    const { images, mask } = await restored(job.sent)
    const template = named(job.sent.values.template)
    if (!template) return setNotice({ text: `There is no template ${job.sent.values.template} any more.` })
    return submit({ values: { ...EMPTY, ...job.sent.values, seed: '' }, images, mask, template })
  }
  const example = prompt => {
    set({ prompt })
    document.getElementById('prompt')?.focus()
  }
  const use = async picture => {
    try {
      const blob = await bytes(picture.url)
      add([new File([blob], picture.name, { type: blob.type })])
      document.getElementById('prompt')?.focus()
    } catch (error) {
      setNotice({ text: error.message })
    }
  }
  const cancel = async job => {
    change(job.id, { cancelling: true, problem: '' })
    try {
      await post(`cancel/${job.id}`, '{}')
    } catch (error) {
      change(job.id, { cancelling: false, problem: error.message })
    }
  }
  const select = id => {
    setSelected(id)
    const job = jobs.find(one => one.id === id)
    if (job && isOver(job) && !job.output && !job.error) look(id)
  }

  const actions = {
    send: () => act.current.send(),
    choose: name => set({ template: name }),
    code: () => setDialog('code'),
    add,
    move,
    remove,
    editMask,
    removeMask: () => setMask(null),
  }
  const job = jobs.find(one => one.id === selected)
  return html`
    <div class="form" data-dropping=${dropping ? 'true' : undefined}>
      <${Form} ...${{ templates, template, values, set, images, mask, problems, notice, busy, actions }} />
    </div>
    <main id="stage">
      <${Stage} key=${selected} job=${job} templates=${templates} actions=${{ again, another, use, cancel, example }} />
      <${History} jobs=${jobs} selected=${selected} select=${select} />
    </main>
    <p class="hidden" role="status" aria-live="polite" data-test="said">${said}</p>
    ${dropping && html`<div class="drop" aria-hidden="true">Drop pictures to work from them</div>`}
    ${dialog === 'code' && html`<${CodeDialog} form=${{ template, values, images, mask: Boolean(mask) }} close=${() => setDialog(null)} />`}
    ${dialog === 'mask' &&
    images[0]?.preview &&
    html`<${MaskDialog}
      image=${{ url: images[0].preview, name: images[0].name }}
      mask=${mask}
      done=${made => {
        setMask(made)
        setProblems(NO_PROBLEMS)
        setDialog(null)
      }}
      cancel=${() => setDialog(null)}
    />`}
  `
}

function Header() {
  const { dataset } = document.documentElement
  const beside = 'comfyui' in dataset
  return html`
    <h1><svg viewBox="0 0 32 32" aria-hidden="true"><rect width="32" height="32" rx="7" fill="currentColor" /><path d="M12 9l11 7-11 7z" class="paper" /></svg>Play</h1>
    <nav aria-label="Elsewhere">
      ${beside && html`<a href="./">ComfyUI</a>`}
      <a href="docs">API</a>
      ${'keys' in dataset && html`<button type="button" class="link" onClick=${logout}>Log out</button>`}
    </nav>
  `
}

async function logout() {
  await fetch('logout', { method: 'POST', credentials: 'same-origin' }).catch(() => {})
  // Without a session the page leads to the login, and back.
  location.reload()
}

async function start() {
  render(html`<${Header} />`, document.getElementById('header'))
  const root = document.getElementById('app')
  try {
    let { templates } = await ask('templates')
    root.replaceChildren()
    const show = () => render(html`<${App} templates=${templates} />`, root)
    show()
    document.getElementById('prompt')?.focus({ preventScroll: true })
    // While ComfyUI starts, or is busy, nobody knows what it can run.
    for (let wait = 1; templates.some(one => one.available === undefined); wait = Math.min(2 * wait, 30)) {
      await new Promise(resolve => setTimeout(resolve, wait * 1000))
      templates = await ask('templates').then(body => body.templates, () => templates)
      show()
    }
  } catch (error) {
    if (error instanceof Refused && error.status === 401) return
    root.textContent = error.message
  }
}

start()
