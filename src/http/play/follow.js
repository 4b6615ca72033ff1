// Follows jobs to their ends: by events, and by asking where a browser has no connection left for them.

import { address, ask, Refused } from './api.js'
import { isOver } from './values.js'

/** Browsers open six connections to a server. */
const STREAMS = 3
const PAUSE = 1500

let streams = 0
let favourite = null

/** The job that is looked at: it has a stream of its own whatever the others have, so that its preview comes. */
export const prefer = id => {
  favourite = id
}

const hasRoom = id => streams < (id === favourite ? STREAMS + 1 : STREAMS)

/** Follows a job; `tell` gets what is new of it. Returns what ends it. */
export function follow(id, tell) {
  let over = false
  let stream = null
  let timer = null

  const end = () => {
    over = true
    close()
    clearTimeout(timer)
  }
  const close = () => {
    if (!stream) return
    stream.close()
    stream = null
    streams -= 1
  }
  const next = job => {
    if (over) return
    tell(job)
    if (isOver(job)) end()
  }

  const poll = async () => {
    if (over) return
    try {
      next(await ask(`status/${id}`))
    } catch (error) {
      if (error instanceof Refused && error.status === 404) {
        tell({ id, status: 'GONE' })
        return end()
      }
    }
    if (!over) timer = setTimeout(hasRoom(id) ? listen : poll, PAUSE)
  }

  const listen = () => {
    if (over) return
    if (!hasRoom(id)) return poll()
    streams += 1
    stream = new EventSource(address(`events/${id}`), { withCredentials: true })
    stream.addEventListener('progress', event => {
      const { status, position, ...progress } = JSON.parse(event.data)
      next({ id, status, position, progress })
    })
    stream.addEventListener('preview', event => {
      const { media_type, image } = JSON.parse(event.data)
      if (!over) tell({ id, preview: `data:${media_type};base64,${image}` })
    })
    stream.addEventListener('status', event => next(JSON.parse(event.data)))
    stream.addEventListener('error', () => {
      close()
      clearTimeout(timer)
      timer = setTimeout(poll, PAUSE)
    })
  }

  listen()
  return end
}
