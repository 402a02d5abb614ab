// Reads live and writes with the TypeScript client, in a page of another origin.

import { DurableStream, IdempotentProducer, stream } from "@durable-streams/client"

const warnOnHttp = false

window.go = async ({ url, list }) => {
  const handle = await new DurableStream({ url, contentType: "application/json", warnOnHttp }).create()
  const read = async (live) => {
    const items = []
    const session = await stream({ url, live, warnOnHttp, headers: { Authorization: () => "Bearer page" } })
    for await (const item of session.jsonStream()) items.push(item)
    return items
  }
  const readers = ["sse", true].map(read)
  const seen = [] // a page sees at once what it wrote, though its browser keeps what it may
  for (const message of list.slice(0, 20)) {
    await handle.append(JSON.stringify(message))
    seen.push((await (await stream({ url, live: false, warnOnHttp })).json()).length)
  }
  const errors = []
  const producer = new IdempotentProducer(handle, "page", {
    lingerMs: 0, maxBatchBytes: 200, maxInFlight: 4, onError: (err) => errors.push(String(err)),
  })
  for (const message of list.slice(20)) producer.append(JSON.stringify(message))
  await producer.flush()
  const { finalOffset } = await producer.close()
  const [sse, longPoll] = await Promise.all(readers)
  const again = await read(true)
  const { offset, streamClosed } = await handle.head()
  return { seen, sse, longPoll, again, errors, finalOffset, offset, streamClosed }
}
