// The mask: what is painted over is changed, the rest of the picture stays.

import { html, useEffect, useRef, useState } from './preact.js'

/** A mask from a file: what is transparent in it, or white where nothing is. */
export async function maskOf(file, width, height) {
  const picture = await createImageBitmap(file)
  const canvas = sized(document.createElement('canvas'), width, height)
  const context = canvas.getContext('2d', { willReadFrequently: true })
  context.drawImage(picture, 0, 0, width, height)
  const pixels = context.getImageData(0, 0, width, height)
  const { data } = pixels
  let hasHoles = false
  for (let at = 3; at < data.length && !hasHoles; at += 4) hasHoles = data[at] < 255
  for (let at = 0; at < data.length; at += 4) {
    const alpha = hasHoles ? data[at + 3] : 255 - Math.round((data[at] + data[at + 1] + data[at + 2]) / 3)
    data.set([0, 0, 0, alpha], at)
  }
  context.putImageData(pixels, 0, 0)
  return canvas
}

function sized(canvas, width, height) {
  canvas.width = width
  canvas.height = height
  return canvas
}

/** The longest side of what is shown: a photograph is painted over as quickly as a small picture. */
const SHOWN = 1200

/** Draws the strokes upon a mask that covers all, or upon one from a file; `scale` makes it smaller than the picture. */
function draw(canvas, base, strokes, scale) {
  const context = canvas.getContext('2d')
  context.resetTransform()
  context.globalCompositeOperation = 'source-over'
  context.clearRect(0, 0, canvas.width, canvas.height)
  context.fillStyle = '#000'
  if (base) context.drawImage(base, 0, 0, canvas.width, canvas.height)
  else context.fillRect(0, 0, canvas.width, canvas.height)
  context.scale(scale, scale)
  context.lineCap = 'round'
  context.lineJoin = 'round'
  for (const { points, width, erases } of strokes) {
    context.globalCompositeOperation = erases ? 'source-over' : 'destination-out'
    context.lineWidth = width
    context.beginPath()
    context.moveTo(...points[0])
    for (const point of points) context.lineTo(...point)
    context.stroke()
  }
}

/** Shows what is to be changed: a veil with stripes, so that it is seen without colour too. */
function veil(canvas, mask) {
  const context = canvas.getContext('2d')
  const { width, height } = canvas
  context.globalCompositeOperation = 'source-over'
  context.clearRect(0, 0, width, height)
  context.fillStyle = stripes(context, Math.max(width, height) / 60)
  context.fillRect(0, 0, width, height)
  context.globalCompositeOperation = 'destination-out'
  context.drawImage(mask, 0, 0)
}

function stripes(context, step) {
  const side = Math.max(4, Math.round(step)) * 2
  const tile = sized(document.createElement('canvas'), side, side)
  const paint = tile.getContext('2d')
  paint.fillStyle = 'rgba(20, 60, 220, 0.5)'
  paint.fillRect(0, 0, side, side)
  paint.strokeStyle = 'rgba(255, 255, 255, 0.85)'
  paint.lineWidth = side / 6
  for (const shift of [-side, 0, side]) {
    paint.beginPath()
    paint.moveTo(shift, side)
    paint.lineTo(shift + side, 0)
    paint.stroke()
  }
  return context.createPattern(tile, 'repeat')
}

/** The dialog. `image` is `{url, name}`; `mask` what was made before; `done` gets `{blob, url, base, strokes}`, or null. */
export function MaskDialog({ image, mask, done, cancel }) {
  const dialog = useRef(null)
  const shown = useRef(null)
  const hidden = useRef(null)
  const stroke = useRef(null)
  const result = useRef(undefined)
  const [size, setSize] = useState(null)
  const [strokes, setStrokes] = useState(mask?.strokes ?? [])
  const [base, setBase] = useState(mask?.base ?? null)
  const [brush, setBrush] = useState(8)
  const [erases, setErases] = useState(false)
  const [problem, setProblem] = useState('')

  useEffect(() => {
    dialog.current.showModal()
  }, [])

  const scale = size ? Math.min(1, SHOWN / Math.max(...size)) : 1
  const smaller = size?.map(side => Math.max(1, Math.round(side * scale)))
  const paint = all => {
    hidden.current ??= sized(document.createElement('canvas'), ...smaller)
    draw(hidden.current, base, all, scale)
    veil(shown.current, hidden.current)
  }
  useEffect(() => {
    if (size) paint(strokes)
  }, [size, strokes, base])

  const point = event => {
    const box = shown.current.getBoundingClientRect()
    return [((event.clientX - box.left) * size[0]) / box.width, ((event.clientY - box.top) * size[1]) / box.height]
  }
  const begin = event => {
    if (!size || event.button) return
    event.preventDefault()
    shown.current.setPointerCapture(event.pointerId)
    stroke.current = { points: [point(event)], width: (brush / 100) * Math.max(...size), erases }
    paint([...strokes, stroke.current])
  }
  const move = event => {
    if (!stroke.current) return
    for (const one of event.getCoalescedEvents?.() ?? [event]) stroke.current.points.push(point(one))
    stroke.current.points.push(point(event))
    paint([...strokes, stroke.current])
  }
  const lift = () => {
    if (!stroke.current) return
    setStrokes([...strokes, stroke.current])
    stroke.current = null
  }
  const clear = () => {
    setStrokes([])
    setBase(null)
  }
  const load = async event => {
    const [file] = event.currentTarget.files
    event.currentTarget.value = ''
    if (!file) return
    try {
      const canvas = await maskOf(file, ...size)
      setStrokes([])
      setBase(canvas)
      setProblem('')
    } catch {
      setProblem('This file is no picture that the browser can read.')
    }
  }
  const finish = () => {
    const end = made => {
      result.current = made
      dialog.current.close()
    }
    if (!base && !strokes.some(one => !one.erases)) return end(null)
    const whole = sized(document.createElement('canvas'), ...size)
    draw(whole, base, strokes, 1)
    whole.toBlob(blob => end({ blob, url: shown.current.toDataURL(), base, strokes }), 'image/png')
  }
  const closed = () => (result.current === undefined ? cancel() : done(result.current))

  return html`
    <dialog ref=${dialog} class="mask" aria-labelledby="mask-title" onClose=${closed}>
      <h2 id="mask-title">What is to be changed?</h2>
      <p class="hint">Paint over it. The rest of the picture stays. Or take a file: what is transparent in it, or white, is changed.</p>
      <div class="tools">
        <fieldset class="chips">
          <legend class="hidden">Brush</legend>
          <label class="chip"><input type="radio" name="brush" checked=${!erases} onChange=${() => setErases(false)} /><span>Paint</span></label>
          <label class="chip"><input type="radio" name="brush" checked=${erases} onChange=${() => setErases(true)} /><span>Erase</span></label>
        </fieldset>
        <label class="range">Size <input type="range" min="1" max="40" value=${brush} onInput=${event => setBrush(Number(event.currentTarget.value))} /></label>
        <button type="button" onClick=${() => setStrokes(strokes.slice(0, -1))} disabled=${!strokes.length}>Undo</button>
        <button type="button" onClick=${clear} disabled=${!strokes.length && !base}>Clear</button>
        <label class="button file">Mask from a file<input type="file" accept="image/*" onChange=${load} /></label>
      </div>
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      <div class="canvas">
        <img src=${image.url} alt=${`The picture ${image.name}`} onLoad=${event => setSize([event.currentTarget.naturalWidth, event.currentTarget.naturalHeight])} draggable=${false} />
        ${size &&
        html`<canvas
          ref=${shown}
          width=${smaller[0]}
          height=${smaller[1]}
          role="img"
          aria-label="What is painted over"
          data-test="mask-canvas"
          onPointerDown=${begin}
          onPointerMove=${move}
          onPointerUp=${lift}
          onPointerCancel=${lift}
        ></canvas>`}
      </div>
      <div class="actions">
        <button type="button" class="primary" onClick=${finish} disabled=${!size}>Use this mask</button>
        <button type="button" onClick=${() => dialog.current.close()}>Cancel</button>
      </div>
    </dialog>
  `
}
