// tokens.mjs URL RATE SECONDS: writes tokens to a new stream as an LLM makes them, through the client's producer, follows
// the stream over SSE, and prints what the reader saw as JSON: gaps between what came, and the way of a token, in ms.

import { DurableStream, IdempotentProducer, stream } from "@durable-streams/client"

const [url, rate, seconds] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])]
const every = 1000 / rate
const warm = 2000 // ms that are not counted

const handle = await new DurableStream({ url, contentType: "application/json" }).create()
let failed
const producer = new IdempotentProducer(handle, "llm", { onError: (err) => (failed ??= err) })

const arrivals = [] // of what came together
const ways = []
const began = performance.now()
const end = began + warm + seconds * 1000
const over = new AbortController()
const session = await stream({ url, live: "sse", offset: "-1", signal: over.signal })
session.subscribeJson((batch) => {
  const now = performance.now()
  if (now - began < warm || now > end) return
  arrivals.push(now)
  for (const token of batch.items) ways.push(now - token.at)
})
session.closed.catch(() => {})

for (let n = 0; ; n++) {
  const due = began + n * every
  if (due > end) break
  const wait = due - performance.now()
  if (wait > 0) await new Promise((done) => setTimeout(done, wait))
  if (failed) throw failed
  producer.append(JSON.stringify({ n, at: performance.now(), token: " token" }))
}
await producer.flush()
over.abort()

const gaps = arrivals.slice(1).map((at, i) => at - arrivals[i])
const quantile = (list, p) => Math.round(10 * list.toSorted((a, b) => a - b)[Math.floor(p * (list.length - 1))]) / 10
console.log(JSON.stringify({
  tokens: ways.length,
  gap: { p50: quantile(gaps, 0.5), p99: quantile(gaps, 0.99), most: quantile(gaps, 1) },
  way: { p50: quantile(ways, 0.5), p99: quantile(ways, 0.99) },
}))
process.exit(0)
