// Clients whose streams are not below /v1/stream/: TanStack AI's, at /streams/runs%2F{id}, and Electric's, at any path.
// Their nodes have further roots, and one of them is drained in the middle.

import { randomUUID } from "node:crypto"
import { resumeServerSentEventsResponse, toServerSentEventsResponse } from "@tanstack/ai"
import { ChatClient, fetchServerSentEvents } from "@tanstack/ai-client"
import { createStateSchema } from "@durable-streams/state"
import { createStreamDB } from "@durable-streams/state/db"
import { durableStreamConnection, materializeSnapshotFromDurableStream, toDurableChatSessionResponse, ensureDurableChatSessionStream } from "@durable-streams/tanstack-ai-transport"
import { runLog } from "../run-log.mjs"
import { listen } from "../site.mjs"
import { all, createJSON, ensure, follow, produce, same, until } from "../tools.mjs"

const fleet = { roots: ["/streams/:project=clients", "/sync/:project=clients"] }

export default {
  "tanstack-session": { fleet, run: session },
  "tanstack-run": { fleet, run: runOfAModel },
  "root-client": { fleet, run: rootClient },
}

const words = Array.from({ length: 100 }, (_, i) => `word${i} é🪭 `)

// answer is what a model says: half of it, and the rest when go is called.
function answer() {
  let go
  const rest = new Promise((done) => (go = done))
  const run = { threadId: "t", runId: randomUUID() }
  const messageId = randomUUID()
  async function* chunks() {
    yield { type: "RUN_STARTED", ...run }
    yield { type: "TEXT_MESSAGE_START", messageId, role: "assistant" }
    for (const [i, delta] of words.entries()) {
      if (i === words.length / 2) await rest
      yield { type: "TEXT_MESSAGE_CONTENT", messageId, delta }
    }
    yield { type: "TEXT_MESSAGE_END", messageId }
    yield { type: "RUN_FINISHED", ...run, finishReason: "stop" }
  }
  return { chunks: chunks(), go }
}

// drainOne drains a node that has readers, once each has.
async function drainOne(fleet) {
  await until("readers at every node", () => fleet.readersEverywhere("sse"))
  const node = fleet.nodes[1]
  await fleet.drain(node)
  const left = (await fleet.metrics(node))['fantail_readers{mode="sse"}']
  same("readers at the drained node", left, 0)
}

// @durable-streams/tanstack-ai-transport: a conversation in one stream, several people in it.
async function session(fleet, signal) {
  const url = `${fleet.origin}/streams/sessions%2Fs1`
  const { chunks, go } = answer()
  await ensureDurableChatSessionStream({ writeUrl: url })
  const server = await listen(async (_, body) => {
    const { messages } = JSON.parse(body)
    return toDurableChatSessionResponse({ stream: { writeUrl: url }, newMessages: messages.slice(-1), responseStream: chunks })
  })
  const text = (message) => message.parts.map((part) => part.content ?? "").join("")
  const people = Array.from({ length: 6 }, () => {
    const person = { said: [] }
    person.client = new ChatClient({
      connection: durableStreamConnection({ sendUrl: `${server.origin}/api/chat`, readUrl: url }),
      onMessagesChange: (messages) => void (person.said = messages.map(text)),
    })
    person.client.subscribe()
    return person
  })
  try {
    await until("all are there", async () => (await Promise.all(fleet.nodes.map(fleet.metrics)))
      .reduce((n, m) => n + m['fantail_readers{mode="sse"}'], 0) === people.length)
    const sent = people[0].client.sendMessage("Say something long.")
    const half = words.slice(0, words.length / 2).join("")
    await until("all have half", () => people.every(({ said }) => said.at(-1) === half))
    await drainOne(fleet)
    go()
    const want = ["Say something long.", words.join("")]
    await until("all have all", () => people.every(({ said }) => said.at(-1) === want[1]))
    for (const [i, { said }] of people.entries()) same(`person ${i}`, said, want)
    for (const node of fleet.nodes) {
      const readUrl = `http://${node.at.http}/streams/sessions/s1` // the other spelling
      const { messages } = await materializeSnapshotFromDurableStream({ readUrl })
      same(`a page that is made at ${node.name}`, messages.map(text), want)
    }
    await sent
  } finally {
    for (const { client } of people) client.unsubscribe()
    server.close()
  }
}

// @tanstack/ai: the answer of a model as a run that others join, and that is read again later.
async function runOfAModel(fleet, signal) {
  const { chunks, go } = answer()
  const log = (request) => runLog(request, { server: fleet.origin })
  const server = await listen(async (incoming, body) => {
    const request = new Request(`http://api${incoming.url}`, { method: incoming.method, headers: incoming.headers, body: body.length > 0 ? body : undefined })
    if (request.method === "GET") return resumeServerSentEventsResponse({ adapter: log(request) })
    return toServerSentEventsResponse(chunks, { durability: { adapter: log(request), batch: 8 } })
  })
  const collect = (run) => {
    const reader = { chunks: [] }
    reader.done = (async () => {
      for await (const chunk of run) reader.chunks.push(chunk)
    })()
    reader.done.catch(() => {}) // whoever waits for it hears of it
    return reader
  }
  const deltas = ({ chunks }) => chunks.filter((c) => c.type === "TEXT_MESSAGE_CONTENT").map((c) => c.delta)
  try {
    const connection = fetchServerSentEvents(`${server.origin}/api/run`)
    const runId = `r ü/${randomUUID()}`
    const url = `${fleet.origin}/streams/${encodeURIComponent(`runs/${runId}`)}`
    const asked = collect(connection.connect([], undefined, signal, { threadId: "t", runId }))
    await until("the run has begun", () => deltas(asked).length > 8)
    const joined = Array.from({ length: 6 }, () => collect(connection.joinRun(runId, signal)))
    await until("those who joined have as much", () => joined.every((j) => deltas(j).length === deltas(asked).length))
    await drainOne(fleet)
    go()
    await Promise.all([asked, ...joined].map((reader) => reader.done))
    const late = collect(connection.joinRun(runId, signal))
    await late.done
    same("the one that asked", deltas(asked), words)
    for (const [i, reader] of [...joined, late].entries()) same(`reader ${i}`, reader.chunks, asked.chunks)
    const stored = await all(url, signal)
    same("stored", stored.map(({ chunk }) => [chunk.type, chunk.delta]), asked.chunks.map((chunk) => [chunk.type, chunk.delta])) // the client adds to others
    for (const node of fleet.nodes) same(`at ${node.name}`, await all(`http://${node.at.http}/v1/stream/clients/runs/${encodeURIComponent(runId.split("/")[0])}/${runId.split("/")[1]}`, signal), stored)
  } finally {
    server.close()
  }
}

// @durable-streams/client and state: a producer and readers of each live mode, a database, at a root.
async function rootClient(fleet, signal) {
  const path = "/sync/rooms%2Flobby"
  const url = fleet.origin + path
  await createJSON(url)
  const readers = ["sse", "sse", "sse", "sse", "sse", "sse", true, true, true].map((live) => follow({ url, live, signal }))
  const anything = { "~standard": { version: 1, vendor: "check", validate: (value) => ({ value }) } }
  const schema = createStateSchema({ users: { schema: anything, type: "user", primaryKey: "id" } })
  const rowsAt = `${fleet.origin}/sync/rows`
  const rows = await createJSON(rowsAt)
  const open = () => createStreamDB({ streamOptions: { url: rowsAt, contentType: "application/json", signal }, state: schema, live: "sse" })
  const dbs = [open(), open()]
  const write = async (from, to) => {
    for (let i = from; i < to; i++) await rows.append(JSON.stringify(schema.users.insert({ value: { id: `u${i}`, name: `user ${i}` } })))
  }
  await write(0, 20)
  await Promise.all(dbs.map((db) => db.preload()))

  let drained, over
  const list = await produce({
    url, signal,
    half: () => void (drained = drainOne(fleet).then(() => (over = true))),
    enough: () => over,
  })
  await drained
  await write(20, 40)
  await Promise.all(readers.map((reader) => reader.done))
  for (const [i, { items }] of readers.entries()) same(`reader ${i}`, items, list)
  for (const node of fleet.nodes) {
    for (const other of [path, "/sync/rooms/lobby", "/streams/rooms%2flobby", "/v1/stream/clients/rooms/lobby"]) {
      same(`${other} at ${node.name}`, await all(`http://${node.at.http}${other}`, signal), list)
    }
  }
  for (const [i, db] of dbs.entries()) {
    await until(`database ${i}`, () => db.collections.users.size === 40)
    db.close()
  }
  ensure(fleet.balancer.requests.some((r) => r.method === "POST" && r.url.pathname === path), "nobody wrote below the root")
}
