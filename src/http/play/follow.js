// Follows jobs to their ends: by events, and by asking where a browser has no connection left for them.

import { address, ask, Refused } from './api.js'
import { isOver } from './values.js'

const PAUSE = 1500

/** The jobs that are followed: what looks again whether one of them has a stream. */
const followed = new Map()
let favourite = null

/**
 * Browsers open six connections to a server, over all their tabs and windows. So one job has a stream: the one that is looked
 * at, while its page is seen.
 */
const hasStream = id => id === favourite && document.visibilityState !== 'hidden'

/** The job that is looked at: its preview comes, and each of its steps. */
export const prefer = id => {
  if (id === favourite) return
  const before = favourite
  favourite = id
  for (const one of [before, id]) followed.get(one)?.()
}

document.addEventListener('visibilitychange', () => followed.get(favourite)?.())

/** Follows a job; `tell` gets what is new of it. Returns what ends it. */
export function follow(id, tell) {
  let over = false
  let stream = null
  let timer = null

  const end = () => {
    over = true
    followed.delete(id)
    close()
    clearTimeout(timer)
  }
  const close = () => {
    if (!stream) return
    stream.close()
    stream = null
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
    if (over || stream) return
    clearTimeout(timer)
    timer = setTimeout(begin, PAUSE)
  }

  const listen = () => {
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

  const begin = () => {
    clearTimeout(timer)
    if (over) return
    if (!hasStream(id)) {
      close()
      poll()
    } else if (!stream) listen()
  }

  followed.set(id, begin)
  begin()
  return end
}
