// The TypeScript client, @durable-streams/client, in Node.

import { randomBytes } from "node:crypto"
import { DurableStream, IdempotentProducer, StaleEpochError, stream } from "@durable-streams/client"
import { all, createJSON, ensure, follow, messages, persistent, produce, rejects, request, same, until } from "../tools.mjs"

export default {
  "catch-up": { run: catchUp },
  "long-poll": { run: longPoll, fleet: { longPoll: "1s" } },
  sse: { run: sse },
  "json-batches": { run: jsonBatches },
  producer: { run: producer },
  "producer-fencing": { run: fencing },
  close: { run: close },
  "node-stops": { run: nodeStops },
  "owner-killed-sse": { run: (fleet, signal) => ownerKilled(fleet, signal, "sse") },
  "owner-killed-long-poll": { run: (fleet, signal) => ownerKilled(fleet, signal, true) },
}

// A whole stream, in several chunks, and again from each offset on the way.
async function catchUp(fleet, signal) {
  const url = fleet.stream("json")
  const list = messages(25_000, "x".repeat(200)) // two and a half chunks
  const handle = await createJSON(url)
  for (let i = 0; i < list.length; i += 500) await handle.append(list.slice(i, i + 500).map((m) => JSON.stringify(m)).join(","))
  same("json()", await all(url, signal), list)

  const chunks = [] // with live: false the client reads one chunk
  for (let offset = "-1", upToDate = false; !upToDate; ) {
    const session = await stream({ url, offset, live: false, signal })
    chunks.push(await session.json())
    offset = session.offset
    upToDate = session.upToDate
    const rest = await (await stream({ url, offset, signal })).json()
    same(`from ${offset}`, rest, list.slice(chunks.flat().length))
  }
  same("chunk by chunk", chunks.flat(), list)
  ensure(chunks.length > 1, "it was one chunk")

  const binary = fleet.stream("binary")
  const bytes = randomBytes(300_000)
  const blob = await new DurableStream({ url: binary, contentType: "application/octet-stream" }).create()
  for (let i = 0; i < bytes.length; i += 50_000) await blob.append(new Uint8Array(bytes.subarray(i, i + 50_000)))
  const got = Buffer.from(await (await stream({ url: binary, signal })).body())
  ensure(got.equals(bytes), `binary: ${got.length} bytes that are not the ${bytes.length} written`)
  same("head", (await blob.head()).offset, (await request("HEAD", binary)).headers.get("stream-next-offset"))
}

// The default live mode, from an empty stream on, through polls that run out.
async function longPoll(fleet, signal) {
  const url = fleet.stream("poll")
  const handle = await createJSON(url)
  const answers = []
  const reader = follow({
    url, signal,
    fetch: async (...args) => {
      const answer = await fetch(...args)
      answers.push(answer.status)
      return answer
    },
  })
  const list = messages(40)
  for (const [i, message] of list.entries()) {
    if (i === 20) await until("two polls ran out", () => answers.filter((s) => s === 204).length >= 2)
    await handle.append(JSON.stringify(message))
    await until(`message ${i}`, () => reader.items.length > i)
  }
  await handle.close()
  await reader.done
  same("reader", reader.items, list)
  same("sessions", reader.sessions, 1)
  ensure(fleet.balancer.live("long-poll").length > 40, "it did not poll")
  same("requests for SSE", fleet.balancer.live("sse").length, 0)
}

// Live events: JSON, text with awkward lines, and bytes, with readers at every node.
async function sse(fleet, signal) {
  const kinds = [
    { type: "application/json", parts: messages(60).map((m) => JSON.stringify(m)), follow: jsonItems, want: (p) => p.map((s) => JSON.parse(s)) },
    {
      type: "text/plain", follow: text, want: (p) => p.join(""),
      parts: ["one", "\n", "\n\n", " a space", "data: no field", "\nevent: control\ndata: {}\n\n", ": no comment", "é🪭", "\n", "end"],
    },
    {
      type: "application/octet-stream", follow: bytes, want: (p) => Buffer.concat(p).toString("hex"),
      parts: Array.from({ length: 60 }, (_, i) => randomBytes(1 + i * 7)),
    },
  ]
  for (const [i, kind] of kinds.entries()) {
    const url = fleet.stream(`sse-${i}`)
    const handle = await new DurableStream({ url, contentType: kind.type }).create()
    const readers = []
    for (let r = 0; r < 6; r++) readers.push(kind.follow(await stream({ url, live: "sse", signal })))
    await until("a reader at each node", () => fleet.readersEverywhere("sse"))
    for (const part of kind.parts) await handle.append(typeof part === "string" ? part : new Uint8Array(part))
    await handle.close()
    for (const [r, got] of (await Promise.all(readers)).entries()) same(`${kind.type}, reader ${r}`, got, kind.want(kind.parts))
  }
  same("requests for long-poll", fleet.balancer.live("long-poll").length, 0)

  async function jsonItems(session) {
    const items = []
    for await (const item of session.jsonStream()) items.push(item)
    return items
  }
  async function text(session) {
    let all = ""
    for await (const part of session.textStream()) all += part
    return all
  }
  async function bytes(session) {
    const all = []
    for await (const part of session.bodyStream()) all.push(part)
    return Buffer.concat(all).toString("hex")
  }
}

// An array appends its elements, one level of it, and every consumer has the same.
async function jsonBatches(fleet, signal) {
  const url = fleet.stream("batches")
  const handle = await createJSON(url)
  const live = follow({ url, live: "sse", signal })
  const first = [null, 0, -1.5e300, "", "é🪭\u2028", [], {}, [1, [2, [3]]], { a: { b: [null] } }, true]
  same("POST of an array", (await request("POST", url, JSON.stringify(first), { "Content-Type": "application/json" })).status, 204)
  same("POST of []", (await request("POST", url, "[]", { "Content-Type": "application/json" })).status, 400)
  same("POST of half an array", (await request("POST", url, "[1,", { "Content-Type": "application/json" })).status, 400)
  same("POST of an object", (await request("POST", url, `{"one":1}`, { "Content-Type": "application/json" })).status, 204)
  const many = messages(200)
  await Promise.all(many.map((m) => handle.append(JSON.stringify(m)))) // which the client sends in batches
  await handle.append("[[7],8]") // the client wraps it: one message
  await handle.close()
  const want = [...first, { one: 1 }, ...many, [[7], 8]]

  same("json()", await all(url, signal), want)
  const items = []
  for await (const item of (await stream({ url, live: false, signal })).jsonStream()) items.push(item)
  same("jsonStream()", items, want)
  await live.done
  same("subscribeJson(), live", live.items, want)
  const appends = fleet.balancer.requests.filter((r) => r.method === "POST").length
  ensure(appends < 100, `${appends} appends: the client did not batch`)
}

// Hundreds of messages, several batches in flight over different nodes.
async function producer(fleet, signal) {
  const url = fleet.stream("produced")
  const handle = await createJSON(url)
  const reader = follow({ url, live: "sse", signal })
  let now = 0
  let most = 0
  const answers = {}
  let failed
  const p = new IdempotentProducer(handle, "p", {
    lingerMs: 0, maxBatchBytes: 100, maxInFlight: 5,
    onError: (err) => (failed ??= err),
    fetch: async (...args) => {
      most = Math.max(most, ++now)
      try {
        const answer = await fetch(...args)
        answers[answer.status] = (answers[answer.status] ?? 0) + 1
        return answer
      } finally {
        now--
      }
    },
  })
  const list = messages(600)
  for (const message of list) p.append(JSON.stringify(message))
  await p.flush()
  if (failed) throw failed
  const { finalOffset } = await p.close(JSON.stringify("last"))
  same("close() again", (await p.close()).finalOffset, finalOffset)
  await reader.done
  same("reader", reader.items, [...list, "last"])
  same("catch-up", await all(url, signal), [...list, "last"])
  same("batches in flight", most, 5)
  const nodes = new Set(fleet.balancer.requests.filter((r) => r.headers.has("producer-id")).map((r) => r.node.name))
  ensure(nodes.size > 1, "every batch went over the same node")
  ensure(answers[200] >= 100, `answers ${JSON.stringify(answers)}`)
  same("answers that say duplicate", answers[204] ?? 0, 0)
}

// A request that is sent again is one append; a newer epoch fences the older one.
async function fencing(fleet, signal) {
  const url = fleet.stream("fenced")
  const handle = await createJSON(url)
  const tuple = (epoch, seq) => ({ "Content-Type": "application/json", "Producer-Id": "p", "Producer-Epoch": epoch, "Producer-Seq": seq })
  same("first", (await request("POST", url, "[1,2]", tuple(0, 0))).status, 200)
  same("again", (await request("POST", url, "[1,2]", tuple(0, 0))).status, 204)
  const gap = await request("POST", url, "[9]", tuple(0, 5))
  same("a gap", [gap.status, gap.headers.get("producer-expected-seq"), gap.headers.get("producer-received-seq")], [409, "1", "5"])

  const failed = []
  const old = new IdempotentProducer(handle, "p2", { lingerMs: 0, fetch: persistent(signal), onError: (err) => failed.push(err) })
  old.append("3")
  await old.flush()
  const next = new IdempotentProducer(handle, "p2", { epoch: 1, lingerMs: 0 })
  next.append("4")
  await next.flush()
  old.append("5")
  await old.flush().catch(() => {}) // told to onError
  ensure(failed.length === 1 && failed[0] instanceof StaleEpochError && failed[0].currentEpoch === 1, `the old producer: ${failed}`)
  const claims = new IdempotentProducer(handle, "p2", { autoClaim: true, lingerMs: 0 })
  claims.append("6")
  await claims.flush()
  same("claimed epoch", claims.epoch, 2)
  same("catch-up", await all(url, signal), [1, 2, 3, 4, 6])
}

// Closing ends every kind of reader, once it has everything, and every later append.
async function close(fleet, signal) {
  const url = fleet.stream("closed")
  const handle = await createJSON(url)
  const readers = ["sse", true, "long-poll"].map((live) => follow({ url, live, signal }))
  const list = messages(20)
  for (const message of list) await handle.append(JSON.stringify(message))
  await until("everybody is there", () => readers.every((r) => r.items.length === list.length))
  const { finalOffset } = await handle.close({ body: JSON.stringify("last") })
  for (const [i, reader] of readers.entries()) {
    await reader.done
    same(`reader ${i}`, reader.items, [...list, "last"])
    same(`reader ${i}, offset`, reader.offset, finalOffset)
  }
  same("close() again", (await handle.close()).finalOffset, finalOffset)
  for (const late of [() => handle.close({ body: "1" }), () => handle.append("1")]) {
    const err = await rejects("a late append", late())
    same("a late append", [err.status, err.headers["stream-closed"], err.headers["stream-next-offset"]], [409, "true", finalOffset])
  }
  const head = await handle.head()
  same("head", [head.streamClosed, head.offset], [true, finalOffset])
  for (const live of [false, true, "sse"]) {
    const late = await stream({ url, live, offset: finalOffset, signal })
    same(`at the end, live ${live}`, await late.json(), [])
    same(`at the end, live ${live}, closed`, late.streamClosed, true)
  }
  await handle.delete()
  same("deleted", (await handle.head()).exists, false)
}

// The readers' node is told to stop while messages come: the client itself goes on at
// another node, with the headers of that moment, and stays with SSE.
async function nodeStops(fleet, signal) {
  const url = fleet.stream("stops")
  await createJSON(url)
  const readers = []
  for (let i = 0; i < 9; i++) {
    let calls = 0
    readers.push(follow({ url, live: "sse", signal, headers: { "x-reader": String(i), "x-call": async () => String(calls++) } }))
  }
  await until("a reader at each node", () => fleet.readersEverywhere("sse"))
  const ender = await fleet.ender("SIGTERM")
  const list = await produce({ url, signal, half: ender.end, enough: () => ender.over })
  for (const [i, reader] of readers.entries()) {
    await reader.done
    same(`reader ${i}`, reader.items, list)
    same(`reader ${i}, sessions`, reader.sessions, 1)
  }
  same("exit code of the node", ender.code, 0)
  same("requests for long-poll", fleet.balancer.live("long-poll").length, 0)
  let moved = 0
  for (let i = 0; i < readers.length; i++) {
    const mine = fleet.balancer.requests.filter((r) => r.headers.get("x-reader") === String(i)).map((r) => r.headers.get("x-call"))
    const calls = mine.filter((call, n) => call !== mine[n - 1]) // a request that was refused is sent again as it was
    same(`reader ${i}, calls of its header function`, calls, calls.map((_, n) => String(n)))
    if (calls.length > 2) moved++ // a catch-up and an event stream, and then another
  }
  ensure(moved > 0 && moved < readers.length, `${moved} readers moved to another node`)
}

// The stream's owner is killed while readers follow and a producer writes.
async function ownerKilled(fleet, signal, live) {
  const mode = live === "sse" ? "sse" : "long-poll"
  const url = fleet.stream("killed")
  const handle = await createJSON(url)
  await handle.append(JSON.stringify("first"))
  const readers = Array.from({ length: 9 }, () => follow({ url, live, signal }))
  await until("a reader at each node", () => fleet.readersEverywhere(mode))
  const ender = await fleet.ender("SIGKILL")
  const list = await produce({ url, signal, half: ender.end, enough: () => ender.over })
  for (const [i, reader] of readers.entries()) {
    await reader.done
    same(`reader ${i}`, reader.items, ["first", ...list])
  }
  same("catch-up", await all(url, signal), ["first", ...list])
  if (live !== "sse") return
  same("requests for long-poll", fleet.balancer.live("long-poll").length, 0)
  const cut = fleet.balancer.live("sse").length - readers.length // the client may hide it
  ensure(cut > 0, "no reader was cut")
}
