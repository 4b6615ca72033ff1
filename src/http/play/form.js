// The form: prompt first, then what the template has a place for.

import { html, useEffect, useRef, useState } from './preact.js'
import { properties, takes, used } from './values.js'

const LABELS = {
  prompt: 'Prompt',
  negative_prompt: 'Not in the picture',
  steps: 'Steps',
  cfg: 'Guidance',
  denoise: 'Denoise',
  batch_size: 'Pictures at once',
  layers: 'Layers',
}

/** What the form shows of a template, as errors name it. */
export function shown(template) {
  const fields = Object.keys(properties(template)).filter(name => !['width', 'height', 'aspect_ratio', 'megapixels'].includes(name))
  return [...fields, 'size', 'template', 'images']
}

/** A field with its label, what is wrong with it, and a hint. */
function Field({ id, label, problem, hint, children, ...rest }) {
  const notes = [hint && `${id}-hint`, problem && `${id}-problem`].filter(Boolean).join(' ') || undefined
  const about = { id, 'aria-describedby': notes, 'aria-invalid': problem ? 'true' : undefined }
  return html`
    <div class=${`field ${rest.class ?? ''} ${problem ? 'wrong' : ''}`}>
      <label for=${id}>${label}</label>
      ${children(about)}
      ${hint && html`<p class="hint" id=${`${id}-hint`}>${hint}</p>`}
      <${Problem} id=${id} text=${problem} />
    </div>
  `
}

const Problem = ({ id, text }) => (text ? html`<p class="problem" id=${`${id}-problem`}>${text}</p>` : null)

/** A number that may be left out: what is in force then stands in its place. */
function NumberField({ name, template, values, set, problem, hint }) {
  const { minimum, maximum, default: usual, type } = properties(template)[name]
  return html`
    <${Field} id=${name} label=${LABELS[name]} problem=${problem} hint=${hint}>
      ${about => html`<input
        ...${about}
        type="number"
        inputmode=${type === 'integer' ? 'numeric' : 'decimal'}
        min=${minimum}
        max=${maximum}
        step=${type === 'integer' ? 1 : 'any'}
        placeholder=${usual ?? ''}
        value=${values[name]}
        onInput=${event => set({ [name]: event.currentTarget.value })}
      />`}
    <//>
  `
}

function Templates({ templates, template, choose, problem }) {
  const group = (label, kind) => html`
    <optgroup label=${label}>
      ${templates
        .filter(one => one.kind === kind)
        .map(one => html`<option value=${one.name} selected=${one === template}>${one.title}${one.too_old ? ' (needs a newer ComfyUI)' : one.available === false ? ' (models missing)' : ''}</option>`)}
    </optgroup>
  `
  const missing = template.missing_models ?? []
  const hint = html`${template.good_for ?? ''}
  ${template.too_old && html`<span class="warning" data-test="too-old">${' '}${template.too_old.charAt(0).toUpperCase() + template.too_old.slice(1)}.</span>`}
  ${missing.length > 0 &&
  html`<span class="warning" data-test="models">
    ${' '}${template.available ? 'Its models are fetched with the first picture, which takes a while: ' : 'Its models are not there: '}${missing.join(', ')}.
  </span>`}`
  return html`
    <${Field} id="template" label="Template" hint=${hint} problem=${problem}>
      ${about => html`<select ...${about} onChange=${event => choose(event.currentTarget.value)}>
        ${group('Pictures from words', 'generate')} ${group('Pictures from pictures', 'edit')}
      </select>`}
    <//>
  `
}

function Sizes({ template, values, set, problem }) {
  const own = properties(template)
  const usual = own.width?.default ? `${own.width.default} × ${own.height.default}` : ''
  const edits = template.images.at_least > 0
  const options = [
    ['auto', edits ? 'As the picture' : 'Usual'],
    ...Object.keys(template.sizes ?? {}).map(ratio => [ratio, ratio]),
    ...(takes(template, 'megapixels') ? [['megapixels', 'Megapixels']] : []),
    ['own', 'Own'],
  ]
  const shape = options.some(([value]) => value === values.shape) ? values.shape : 'auto'
  const pixels = template.sizes?.[shape]?.join(' × ') ?? (shape === 'auto' ? usual : '')
  const side = (name, label) => html`
    <label class="side">
      ${label}
      <input
        type="number"
        inputmode="numeric"
        min=${own[name].minimum}
        max=${own[name].maximum}
        placeholder=${own[name].default ?? ''}
        value=${values[name]}
        aria-invalid=${problem ? 'true' : undefined}
        aria-describedby=${problem ? 'size-problem' : undefined}
        onInput=${event => set({ [name]: event.currentTarget.value })}
      />
    </label>
  `
  return html`
    <fieldset class=${`field ${problem ? 'wrong' : ''}`} aria-describedby=${problem ? 'size-problem' : undefined}>
      <legend>Size ${pixels && html`<span class="hint" data-test="pixels">${pixels}</span>`}</legend>
      <div class="chips">
        ${options.map(
          ([value, label]) => html`<label class="chip">
            <input type="radio" name="shape" value=${value} checked=${value === shape} onChange=${() => set({ shape: value })} /><span>${label}</span>
          </label>`,
        )}
      </div>
      ${shape === 'own' && html`<div class="sides">${side('width', 'Width')} ${side('height', 'Height')}</div>`}
      ${shape === 'megapixels' &&
      html`<div class="sides">
        <label class="side">
          Megapixels
          <input type="number" inputmode="decimal" step="any" min=${own.megapixels.minimum} max=${own.megapixels.maximum} placeholder="1" value=${values.megapixels} aria-invalid=${problem ? 'true' : undefined} aria-describedby=${problem ? 'size-problem' : undefined} onInput=${event => set({ megapixels: event.currentTarget.value })} />
        </label>
      </div>`}
      <${Problem} id="size" text=${problem} />
    </fieldset>
  `
}

function Seed({ values, set, problem }) {
  return html`
    <${Field} id="seed" label="Seed" problem=${problem}>
      ${about => html`<div class="beside">
        <input ...${about} type="text" inputmode="numeric" autocomplete="off" placeholder="random" value=${values.seed} onInput=${event => set({ seed: event.currentTarget.value })} />
        <button type="button" onClick=${() => set({ seed: '' })} disabled=${values.seed === ''}>Random</button>
      </div>`}
    <//>
  `
}

function Loras({ values, set, problem }) {
  const change = (index, part) => set({ loras: values.loras.map((lora, at) => (at === index ? { ...lora, ...part } : lora)) })
  return html`
    <fieldset class=${`field ${problem ? 'wrong' : ''}`} aria-describedby=${problem ? 'loras-problem' : undefined}>
      <legend>LoRAs</legend>
      ${values.loras.map(
        (lora, index) => html`<div class="beside" key=${index}>
          <input type="text" aria-label=${`File of LoRA ${index + 1}`} placeholder="name.safetensors, or https://…" value=${lora.name} onInput=${event => change(index, { name: event.currentTarget.value })} />
          <input type="number" class="narrow" step="any" aria-label=${`Strength of LoRA ${index + 1}`} placeholder="1" value=${lora.strength} onInput=${event => change(index, { strength: event.currentTarget.value })} />
          <button type="button" aria-label=${`Remove LoRA ${index + 1}`} onClick=${() => set({ loras: values.loras.filter((_, at) => at !== index) })}>✕</button>
        </div>`,
      )}
      <button type="button" onClick=${() => set({ loras: [...values.loras, { name: '', strength: '' }] })}>Add a LoRA</button>
      <${Problem} id="loras" text=${problem} />
    </fieldset>
  `
}

/** What the first picture is as a control picture. */
function Control({ template, values, set, problem }) {
  const { type, strength } = values.control
  const [usual, ...others] = template.control_types
  const change = part => set({ control: { ...values.control, ...part } })
  const options = [['', `${usual} (usual)`], ...others.map(kind => [kind, kind]), ['ready', 'as it is: it is a control picture already']]
  const shown = options.some(([value]) => value === type) ? type : ''
  return html`
    <fieldset class=${`field ${problem ? 'wrong' : ''}`} aria-describedby=${problem ? 'control-problem' : undefined}>
      <legend>Control picture</legend>
      <div class="beside">
        <select aria-label="What is drawn from the picture" onChange=${event => change({ type: event.currentTarget.value })}>
          ${options.map(([value, label]) => html`<option value=${value} selected=${value === shown}>${label}</option>`)}
        </select>
        <input type="number" class="narrow" step="any" min="0" aria-label="Strength of the control picture" placeholder="strength" value=${strength} onInput=${event => change({ strength: event.currentTarget.value })} />
      </div>
      <${Problem} id="control" text=${problem} />
    </fieldset>
  `
}

/** The pictures to work from: dropped, pasted, chosen, or by address. */
function Pictures({ template, images, mask, problems, add, move, remove, editMask, removeMask }) {
  const [url, setUrl] = useState('')
  const [wrong, setWrong] = useState('')
  const most = template.images.at_most
  const list = useRef(null)
  const count = used(template, images).length
  const addUrl = () => {
    const text = url.trim()
    if (!/^(https?|s3):\/\/.|^data:image\//i.test(text)) {
      setWrong('An address begins with https://, http:// or s3://.')
      return
    }
    setWrong('')
    setUrl('')
    add([{ url: text, name: text.split(/[?#]/)[0].split('/').pop() || 'picture' }])
  }
  const enter = event => {
    if (event.key !== 'Enter' || event.ctrlKey || event.metaKey) return
    event.preventDefault()
    addUrl()
  }
  const files = event => {
    add([...event.currentTarget.files])
    event.currentTarget.value = ''
  }
  // The button that was pressed goes with its picture.
  const removed = image => {
    remove(image)
    list.current.querySelector('input[type=file]').focus()
  }
  const problem = problems.images
  const hint = most
    ? `${template.images.at_least === most ? most : `${template.images.at_least} to ${most}`} ${most === 1 ? 'picture' : 'pictures'}. Drop, paste, choose, or give an address.`
    : images.length
      ? `This template takes none: ${images.length === 1 ? 'your picture is' : `your ${images.length} pictures are`} kept for one that does.`
      : 'Drop, paste or choose a picture to change it.'
  return html`
    <fieldset class=${`field pictures ${problem || problems.mask ? 'wrong' : ''}`} aria-describedby=${['images-hint', problem && 'images-problem'].filter(Boolean).join(' ')} ref=${list} data-test="images">
      <legend>Pictures</legend>
      ${most > 0 && images.length > 0 &&
      html`<ol>
        ${images.map(
          (image, index) => html`<li key=${image.id} class=${index < count ? '' : 'unused'} data-test="image">
            <div class="thumb">
              ${image.preview ? html`<img src=${image.preview} alt="" />` : html`<span class="address">${image.name}</span>`}
              ${index === 0 && mask && html`<img class="veil" src=${mask.url} alt="" />`}
            </div>
            <p class="name" title=${image.url ?? image.name}>${index + 1}. ${image.name}${index < count ? '' : ' (not taken)'}</p>
            <div class="tools">
              ${index > 0 && html`<button type="button" aria-label=${`Move ${image.name} forward`} onClick=${() => move(index, index - 1)}>◀</button>`}
              ${index < images.length - 1 && html`<button type="button" aria-label=${`Move ${image.name} back`} onClick=${() => move(index, index + 1)}>▶</button>`}
              <button type="button" class="remove" aria-label=${`Remove ${image.name}`} onClick=${() => removed(image)}>✕</button>
            </div>
          </li>`,
        )}
      </ol>`}
      <div class="beside">
        <label class="button file">Choose<input type="file" accept="image/*" multiple aria-label="Choose pictures" aria-describedby=${problem ? 'images-problem' : undefined} onChange=${files} /></label>
        <input type="url" aria-label="Address of a picture" placeholder="https://…" value=${url} onInput=${event => setUrl(event.currentTarget.value)} onKeyDown=${enter} />
        <button type="button" onClick=${addUrl} disabled=${!url.trim()}>Add</button>
      </div>
      <p class="hint" id="images-hint">${hint}</p>
      ${wrong && html`<p class="problem" role="alert">${wrong}</p>`}
      <${Problem} id="images" text=${problem} />
      ${template.mask && count > 0 &&
      html`<div class="beside">
        ${images[0].preview
          ? html`<button type="button" onClick=${editMask}>${mask ? 'Change the mask' : 'Paint a mask'}</button>`
          : html`<label class="button file">Mask from a file<input type="file" accept="image/png" onChange=${event => editMask(event.currentTarget.files[0])} /></label>`}
        ${mask && html`<button type="button" onClick=${removeMask}>Remove the mask</button> <span class="hint">Only what is masked is changed.</span>`}
      </div>`}
      <${Problem} id="mask" text=${problems.mask} />
    </fieldset>
  `
}

export function Form({ templates, template, values, set, images, mask, problems, notice, busy, actions }) {
  const form = useRef(null)
  const fields = properties(template)
  const guidance = values.cfg === '' ? fields.cfg?.default : Number(values.cfg)
  const more = ['negative_prompt', 'steps', 'cfg', 'denoise', 'batch_size', 'layers', 'loras'].filter(name => name in fields)
  const hasProblem = more.some(name => problems.fields[name])
  const [open, setOpen] = useState(false)

  // Where the worker found something wrong, one goes on.
  useEffect(() => {
    if (!problems.at) return
    const wrong = form.current.querySelector('[aria-invalid=true], .wrong input, .wrong button')
    wrong?.focus({ preventScroll: true })
    wrong?.closest('.field').scrollIntoView({ block: 'nearest' })
  }, [problems.at])
  const number = (name, hint) => name in fields && html`<${NumberField} ...${{ name, template, values, set, hint, problem: problems.fields[name] }} />`

  return html`
    <form
      ref=${form}
      aria-label="What to make"
      novalidate
      onSubmit=${event => {
        event.preventDefault()
        actions.send()
      }}
    >
      ${notice &&
      html`<div class="notice" role="alert" data-test="notice">
        ${notice.text.split('\n').map(line => html`<p>${line}</p>`)}
        ${notice.again > 0 && html`<p>The worker asks to wait: try again in ${notice.again} s.</p>`}
      </div>`}
      <${Field} id="prompt" label="Prompt" problem=${problems.fields.prompt} class="prompt">
        ${about => html`<textarea ...${about} rows="4" placeholder=${template.kind === 'edit' ? 'Make the fox white' : 'A red fox in the snow'} value=${values.prompt} onInput=${event => set({ prompt: event.currentTarget.value })}></textarea>`}
      <//>
      <${Pictures} ...${{ template, images, mask, problems: problems.fields, ...actions }} />
      <${Templates} ...${{ templates, template, choose: actions.choose, problem: problems.fields.template }} />
      ${template.control_types?.length > 0 && html`<${Control} ...${{ template, values, set, problem: problems.fields.control }} />`}
      ${'width' in fields && html`<${Sizes} ...${{ template, values, set, problem: problems.fields.size }} />`}
      ${'seed' in fields && html`<${Seed} ...${{ values, set, problem: problems.fields.seed }} />`}
      ${more.length > 0 &&
      html`<details open=${open || hasProblem} onToggle=${event => setOpen(event.currentTarget.open)}>
        <summary>More</summary>
        ${'negative_prompt' in fields &&
        html`<${Field} id="negative_prompt" label=${LABELS.negative_prompt} problem=${problems.fields.negative_prompt} hint=${guidance <= 1 && values.negative_prompt ? 'Without effect at guidance 1.' : ''}>
          ${about => html`<textarea ...${about} rows="2" value=${values.negative_prompt} onInput=${event => set({ negative_prompt: event.currentTarget.value })}></textarea>`}
        <//>`}
        <div class="columns">
          ${number('steps')} ${number('cfg')} ${number('batch_size')} ${number('layers')} ${template.kind === 'edit' && number('denoise', '0 to 1: how much is drawn anew')}
        </div>
        ${'loras' in fields && html`<${Loras} ...${{ values, set, problem: problems.fields.loras }} />`}
      </details>`}
      <div class="actions send">
        <button type="submit" class="primary" disabled=${busy} aria-keyshortcuts="Control+Enter">${busy ? 'Sending…' : template.kind === 'edit' ? 'Change the picture' : 'Make the picture'}</button>
        <button type="button" onClick=${actions.code}>As code</button>
        <span class="hint keys">Ctrl + Enter</span>
      </div>
    </form>
  `
}
