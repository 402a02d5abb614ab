// A StreamDurability of @tanstack/ai: it keeps the chunks of one run in a stream of Durable Streams. It sends what
// TanStack's own adapter, @tanstack/ai-durable-stream, sends: PUT, numbered POSTs, a closing POST and reads of events
// with offset and cursor, at {server}/streams/{prefix}%2F{run}. And it is as strict: every answer has a
// Stream-Next-Offset, every control event of an open stream a cursor, and each read goes on at a later place.

import { randomUUID } from "node:crypto"
import { resolveResumeRunId } from "@tanstack/ai"
import { ensure, events } from "./tools.mjs"

export function runLog(request, { server, prefix = "runs" }) {
  const resume = request.headers.get("Last-Event-ID") ?? new URL(request.url).searchParams.get("offset")
  const url = `${server}/streams/${encodeURIComponent(`${prefix}/${resolveResumeRunId(request)}`)}`
  const producer = randomUUID()
  let posts = 0
  let seq = 0
  let tail

  const ask = async (method, headers, body) => {
    const answer = await fetch(url, { method, headers, body })
    await answer.arrayBuffer()
    ensure(answer.ok, `${method}: ${answer.status}`)
    const next = answer.headers.get("Stream-Next-Offset")
    ensure(next, `${method}: no Stream-Next-Offset`)
    return { next, answer }
  }
  const create = async () => {
    tail ??= (await ask("PUT", { "Content-Type": "application/json" })).next
  }
  async function* read(offset, signal) {
    let [place, delivered] = offset.split("#")
    let cursor
    for (;;) {
      const from = { place, cursor }
      const query = new URLSearchParams({ offset: place, live: "sse", ...(cursor && { cursor }) })
      const answer = await fetch(`${url}?${query}`, { signal })
      ensure(answer.ok, `read: ${answer.status}`)
      for await (const event of eventsOf(answer.body)) {
        const data = JSON.parse(event.data)
        if (event.type === "data") {
          for (const record of data) {
            if (record.seq <= Number(delivered ?? 0)) continue
            delivered = record.seq
            yield { offset: `${place}#${record.seq}`, chunk: record.chunk }
          }
          continue
        }
        same(event.type, "control")
        ensure(data.streamNextOffset && (data.streamCursor || data.streamClosed), `a control event is ${event.data}`)
        place = data.streamNextOffset
        cursor = data.streamCursor
        if (data.streamClosed) return
      }
      ensure(place !== from.place || cursor !== from.cursor, "a read went no further")
    }
  }

  return {
    resumeFrom: () => resume,
    async append(chunks) {
      await create()
      const from = tail
      const records = chunks.map((chunk) => ({ v: 1, seq: ++seq, chunk }))
      const headers = { "Content-Type": "application/json", "Producer-Id": producer, "Producer-Epoch": "0", "Producer-Seq": String(posts++) }
      const send = () => ask("POST", headers, JSON.stringify(records))
      tail = (await send().catch((err) => (err instanceof TypeError ? send() : Promise.reject(err)))).next
      return records.map((record) => `${from}#${record.seq}`)
    },
    async close() {
      await create()
      const { answer } = await ask("POST", { "Stream-Closed": "true" })
      ensure(answer.headers.get("Stream-Closed") === "true", "it is not closed")
    },
    read,
    async snapshot() {
      const answer = await fetch(url)
      const records = answer.ok ? await answer.json() : []
      return records.map((record) => ({ offset: `-1#${record.seq}`, chunk: record.chunk }))
    },
  }
}

const same = (got, want) => ensure(got === want, `an event is ${got}, and not ${want}`)

// eventsOf are the events of a body as they come.
async function* eventsOf(body) {
  let rest = ""
  for await (const part of body.pipeThrough(new TextDecoderStream())) {
    rest += part
    const end = rest.lastIndexOf("\n\n") + 2
    if (end < 2) continue
    yield* events(rest.slice(0, end)).filter((event) => event.data !== "") // no comments
    rest = rest.slice(end)
  }
}
