// What became of it: the job that is looked at, and the last ones.

import { address } from './api.js'
import { html, useEffect, useRef, useState } from './preact.js'
import { isOver, seedOf, state, time, WORDS } from './values.js'

/** Where the pictures of a finished job are. What lies in a bucket is not shown here, but has its address. */
export function pictures(job) {
  return (job?.output?.images ?? []).map(image => {
    if (image.type === 's3_url') return { name: image.filename, elsewhere: image.data }
    if (image.type === 'base64') return { name: image.filename, url: `data:${media(image.filename)};base64,${image.data}` }
    const query = new URLSearchParams({ filename: image.filename, subfolder: image.subfolder, type: image.type })
    return { name: image.filename, url: address(`view?${query}`) }
  })
}

const MEDIA = { jpg: 'jpeg', jpeg: 'jpeg', webp: 'webp', gif: 'gif', avif: 'avif' }
const media = name => `image/${MEDIA[name.split('.').pop().toLowerCase()] ?? 'png'}`

const EXAMPLES = [
  'A red fox in fresh snow, early light',
  'A small bookshop at night, its window says “OPEN”',
  'A bowl of ripe apricots, oil on canvas',
]

const titleOf = job => job.sent?.values.prompt || `Job ${job.id.slice(0, 8)}`

function Progress({ job, cancel }) {
  const { what, more, percent } = state(job)
  return html`
    <div class="progress" data-test="progress">
      <div class="line"><strong data-test="stage">${what}</strong><span data-test="details">${more.join(' · ')}</span></div>
      <progress max="100" value=${percent ?? undefined} aria-label="How far the picture is"></progress>
      <div class="actions"><button type="button" onClick=${() => cancel(job)} disabled=${job.cancelling}>${job.cancelling ? 'Cancelling…' : 'Cancel'}</button></div>
    </div>
  `
}

function Facts({ job, template }) {
  const seed = seedOf(job)
  const facts = [
    template && ['Template', template.title],
    seed && ['Seed', seed],
    job.execution_time != null && ['Time', time(job.execution_time)],
  ].filter(Boolean)
  return html`
    <dl class="facts">${facts.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
    ${(job.output?.warnings ?? []).map(warning => html`<p class="warning">${warning}</p>`)}
  `
}

function Finished({ job, actions }) {
  const all = pictures(job)
  const [index, setIndex] = useState(0)
  const [size, setSize] = useState('')
  useEffect(() => setIndex(0), [job.id])
  const picture = all[index] ?? all[0]
  if (!picture) return html`<p class="empty">The job left no pictures.</p>`
  return html`
    ${picture.url
      ? html`<a class="picture" href=${picture.url} target="_blank" aria-label="The picture alone, in a new tab">
          <img src=${picture.url} alt=${titleOf(job)} data-test="picture" onLoad=${event => setSize(`${event.currentTarget.naturalWidth} × ${event.currentTarget.naturalHeight}`)} />
        </a>`
      : html`<p class="empty"><a href=${picture.elsewhere} rel="noreferrer" target="_blank">${picture.name}</a> is in the bucket.</p>`}
    ${all.length > 1 &&
    html`<ul class="several" aria-label="Pictures of this job">
      ${all.map(
        (one, at) => html`<li><button type="button" aria-pressed=${at === index ? 'true' : 'false'} aria-label=${`Picture ${at + 1} of ${all.length}`} onClick=${() => setIndex(at)}>${one.url ? html`<img src=${one.url} alt="" />` : one.name}</button></li>`,
      )}
    </ul>`}
    <div class="actions">
      ${picture.url && html`<a class="button primary" href=${picture.url} download=${picture.name}>Download</a>`}
      ${job.sent && html`<button type="button" onClick=${() => actions.again(job)}>Again with this seed</button>`}
      ${job.sent && html`<button type="button" onClick=${() => actions.another(job)}>Another one</button>`}
      ${picture.url && html`<button type="button" onClick=${() => actions.use(picture)}>Use as input</button>`}
      ${size && html`<span class="hint">${size}</span>`}
    </div>
  `
}

function Failed({ job, actions }) {
  const why = {
    CANCELLED: 'The job was cancelled.',
    TIMED_OUT: 'The time for this job was over.',
    GONE: 'The worker no longer knows this job.',
  }[job.status]
  return html`
    <div class=${job.status === 'CANCELLED' ? 'empty' : 'notice'} data-test="failure">
      ${(job.error ?? why ?? 'The job failed.').split('\n').map(line => html`<p>${line}</p>`)}
    </div>
    <div class="actions">
      ${job.sent && html`<button type="button" onClick=${() => actions.again(job)}>Back to the form</button>`}
      ${job.sent && html`<button type="button" onClick=${() => actions.another(job)}>Try again</button>`}
    </div>
  `
}

export function Stage({ job, templates, actions }) {
  const heading = useRef(null)
  if (!job) {
    return html`<section class="stage nothing" aria-label="Picture">
      <div>
        <p class="empty">Your picture appears here. Say what it shows, or begin with one of these.</p>
        <ul>
          ${EXAMPLES.map(text => html`<li><button type="button" onClick=${() => actions.example(text)}>${text}</button></li>`)}
        </ul>
      </div>
    </section>`
  }
  const template = templates.find(one => one.name === job.sent?.values.template)
  return html`
    <section class="stage" aria-label="Picture" data-test="stage-of" data-status=${job.status} data-job=${job.id}>
      ${!isOver(job) && job.status !== 'GONE' &&
      html`${job.preview
          ? html`<div class="picture"><img class="preview" src=${job.preview} alt="Preview of the picture" data-test="preview" /></div>`
          : html`<div class="picture waiting" aria-hidden="true"></div>`}
        <${Progress} job=${job} cancel=${actions.cancel} />`}
      ${job.status === 'COMPLETED' && (job.output ? html`<${Finished} job=${job} actions=${actions} />` : html`<p class="empty">Fetching the picture…</p>`)}
      ${['FAILED', 'TIMED_OUT', 'CANCELLED', 'GONE'].includes(job.status) && html`<${Failed} job=${job} actions=${actions} />`}
      ${job.problem && html`<p class="problem" role="alert">${job.problem}</p>`}
      <p class="said" ref=${heading}>${titleOf(job)}</p>
      <${Facts} job=${job} template=${template} />
    </section>
  `
}

export function History({ jobs, selected, select }) {
  if (!jobs.length) return null
  return html`
    <section class="history" aria-labelledby="history-title">
      <h2 id="history-title">Jobs</h2>
      <ul data-test="history">
        ${jobs.map(job => {
          const [picture] = pictures(job)
          const { percent, more } = state(job)
          const word = job.status === 'IN_PROGRESS' ? `${percent ?? 0} %` : job.status === 'IN_QUEUE' ? (more[0] ?? WORDS[job.status]) : WORDS[job.status]
          return html`<li key=${job.id}>
            <button type="button" aria-pressed=${job.id === selected ? 'true' : 'false'} onClick=${() => select(job.id)} data-status=${job.status} data-job=${job.id}>
              <span class="thumb">
                ${picture?.url
                  ? html`<img src=${picture.url} alt="" loading="lazy" />`
                  : job.preview && !isOver(job)
                    ? html`<img src=${job.preview} alt="" />`
                    : html`<span class="mark" aria-hidden="true">${{ COMPLETED: '✓', FAILED: '!', CANCELLED: '–', TIMED_OUT: '!' }[job.status] ?? '…'}</span>`}
              </span>
              <span class="title">${titleOf(job)}</span>
              <span class="status">${word}</span>
            </button>
          </li>`
        })}
      </ul>
    </section>
  `
}
