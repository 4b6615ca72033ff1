// "As code": the form as a program.

import { origin } from './api.js'
import { html, useEffect, useRef, useState } from './preact.js'
import { APIS, LANGUAGES, snippet } from './snippets.js'

const KEYS = 'keys' in document.documentElement.dataset

function Choice({ name, label, options, value, choose }) {
  return html`
    <fieldset class="chips">
      <legend class="hidden">${label}</legend>
      ${options.map(
        option => html`<label class="chip"><input type="radio" name=${name} checked=${option === value} onChange=${() => choose(option)} /><span>${option}</span></label>`,
      )}
    </fieldset>
  `
}

export function CodeDialog({ form, close }) {
  const dialog = useRef(null)
  const [api, setApi] = useState(APIS[0])
  const [language, setLanguage] = useState(LANGUAGES[0])
  const [copied, setCopied] = useState('')
  useEffect(() => {
    dialog.current.showModal()
  }, [])
  useEffect(() => setCopied(''), [api, language])
  const { code, notes } = snippet(api, language, { ...form, keys: KEYS, origin: origin() })
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(code)
      setCopied('Copied.')
    } catch {
      // Only pages of this machine and of https may: the text is marked for the keyboard instead.
      getSelection().selectAllChildren(dialog.current.querySelector('code'))
      setCopied('Press Ctrl+C to copy what is marked.')
    }
  }
  return html`
    <dialog ref=${dialog} class="code" aria-labelledby="code-title" onClose=${close}>
      <h2 id="code-title">As code</h2>
      <p class="hint">What the form holds now, for a program of yours.</p>
      <div class="tools">
        <${Choice} name="api" label="API" options=${APIS} value=${api} choose=${setApi} />
        <${Choice} name="language" label="Language" options=${LANGUAGES} value=${language} choose=${setLanguage} />
      </div>
      ${notes.length > 0 && html`<ul class="notes">${notes.map(note => html`<li>${note}</li>`)}</ul>`}
      ${code && html`<pre tabindex="0" aria-label=${`${language} for the ${api} API`} role="region"><code data-test="code">${code}</code></pre>`}
      <div class="actions">
        <button type="button" class="primary" onClick=${copy} disabled=${!code}>Copy</button>
        <button type="button" onClick=${() => dialog.current.close()}>Close</button>
        <span role="status">${copied}</span>
      </div>
    </dialog>
  `
}
