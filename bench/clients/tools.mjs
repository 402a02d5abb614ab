// What the checks share: waiting, comparing, and the two small programs that an
// application writes around the client, a reader that resumes and a writer that
// sends again.

import { spawn } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { isDeepStrictEqual } from "node:util"
import { DurableStream, IdempotentProducer, stream } from "@durable-streams/client"

// until polls for a condition and answers what it gave.
export async function until(what, condition, seconds = 20) {
  const deadline = performance.now() + seconds * 1000
  for (;;) {
    const value = await condition()
    if (value) return value
    if (performance.now() > deadline) throw new Error(`not within ${seconds} s: ${what}`)
    await new Promise((done) => setTimeout(done, 25))
  }
}

export function ensure(condition, what) {
  if (!condition) throw new Error(what)
}

// same compares two values, or two lists from end to end.
export function same(who, got, want) {
  if (isDeepStrictEqual(got, want)) return
  if (!Array.isArray(got) || !Array.isArray(want)) throw new Error(`${who}: got ${show(got)}, want ${show(want)}`)
  let i = 0
  while (i < want.length && isDeepStrictEqual(got[i], want[i])) i++
  throw new Error(`${who}: ${got.length} of ${want.length}; at ${i} got ${show(got[i])}, want ${show(want[i])}`)
}

const show = (value) => JSON.stringify(value)?.slice(0, 200)

// rejects answers the error that the promise ends with.
export async function rejects(who, promise) {
  try {
    await promise
  } catch (err) {
    return err
  }
  throw new Error(`${who}: no error`)
}

// messages are n different ones.
export const messages = (n, name = "m") => Array.from({ length: n }, (_, i) => ({ i, text: `${name} ${i} é🪭\n` }))

export async function request(method, url, body, headers = {}) {
  const answer = await fetch(url, { method, body, headers })
  return { status: answer.status, headers: answer.headers, body: await answer.text() }
}

export async function createJSON(url) {
  const handle = new DurableStream({ url, contentType: "application/json" })
  return handle.create()
}

// follow reads a JSON stream to its end, as an application does with the client:
// it keeps the offset of what it has, and when a session breaks it opens the next
// one there. Anything else than a broken connection is an error.
export function follow({ url, live, signal, offset = "-1", ...options }) {
  const reader = { items: [], sessions: 0, offset }
  reader.done = (async () => {
    for (let closed = false; !closed; ) {
      const mine = ++reader.sessions
      try {
        const session = await stream({ url, live, signal, offset: reader.offset, ...options })
        await new Promise((end, broken) => {
          session.subscribeJson((batch) => {
            if (mine !== reader.sessions) return // it broke meanwhile, and the next one reads this again
            reader.items.push(...batch.items)
            reader.offset = batch.offset
            closed = batch.streamClosed
            if (closed) end()
          })
          session.closed.then(() => {
            if (!session.streamClosed) broken(new Error("the session ended, and the stream did not"))
          }, broken)
        })
      } catch (err) {
        const cut = err instanceof TypeError && /terminated|fetch failed/.test(err.message)
        if (!cut || signal.aborted) throw err
      }
    }
  })()
  reader.done.catch(() => {}) // whoever waits for it hears of it
  return reader
}

// all is what a JSON stream holds now.
export async function all(url, signal) {
  return (await stream({ url, signal })).json()
}

// A producer's tuple makes a request safe to send again, and the client leaves that
// to its fetch: what was not answered, or with 429 or 5xx, is sent again.
export function persistent(signal) {
  return async (url, init) => {
    for (;;) {
      let why
      try {
        const answer = await fetch(url, init)
        if (answer.status !== 429 && answer.status < 500) return answer
        why = answer.status
        await answer.body?.cancel()
      } catch (err) {
        why = err
      }
      if (signal.aborted) throw new Error(`aborted while sending again after ${why}`)
      await new Promise((done) => setTimeout(done, 100))
    }
  }
}

// produce writes messages through the client's producer, several batches in flight,
// then closes the stream, and answers what it wrote: 400 of them, and more until it is
// enough. It calls half after 200.
export async function produce({ url, signal, half, enough = () => true }) {
  const list = messages(50_000)
  let failed
  const producer = new IdempotentProducer(new DurableStream({ url, contentType: "application/json" }), "writer", {
    lingerMs: 0,
    maxBatchBytes: 200,
    maxInFlight: 4,
    fetch: persistent(signal),
    onError: (err) => (failed ??= err),
  })
  let n = 0
  while (n < 400 || !enough()) {
    if (n === list.length) throw new Error(`it was not enough after ${n} messages`)
    producer.append(JSON.stringify(list[n++]))
    if (n % 10 === 0) await producer.flush()
    if (failed) throw failed
    if (n === 200) half?.()
  }
  await producer.close()
  if (failed) throw failed
  return list.slice(0, n)
}

// scratch is a folder for use to work in; it is removed whatever happens.
export async function scratch(use) {
  const dir = mkdtempSync(join(tmpdir(), "clients-"))
  const remove = () => rmSync(dir, { recursive: true, force: true, maxRetries: 10 })
  process.on("exit", remove)
  try {
    return await use(dir)
  } finally {
    process.off("exit", remove)
    remove()
  }
}

// run is a program that ends by itself; it answers what the program printed.
export function run(signal, command, args, options = {}) {
  const program = start(signal, command, args, options)
  return program.done
}

// start is a program whose output can be looked at while it runs.
export function start(signal, command, args, options = {}) {
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], signal, killSignal: "SIGKILL", ...options })
  const kill = () => child.kill("SIGKILL")
  process.on("exit", kill)
  const program = { stdout: "", stderr: "" }
  for (const out of ["stdout", "stderr"]) child[out].setEncoding("utf8").on("data", (s) => (program[out] += s))
  program.done = new Promise((done, lost) => {
    child.on("error", (err) => lost(err.code === "ENOENT" ? new Error(`not run: no ${command}`) : err))
    child.on("close", (code, by) => {
      process.off("exit", kill)
      if (code === 0) done(program.stdout)
      else lost(new Error(`${command} ended with ${code ?? by}: ${program.stderr.trim() || program.stdout.slice(-500)}`))
    })
  })
  program.done.catch(() => {})
  return program
}

// events are those of an SSE transcript.
export function events(transcript) {
  return transcript.split("\n\n").slice(0, -1).map((block) => {
    const event = { type: "message", id: undefined, data: [] }
    for (const line of block.split("\n")) {
      const [, name, value] = line.match(/^([^:]*):? ?(.*)$/)
      if (name === "event") event.type = value
      else if (name === "id") event.id = value
      else if (name === "data") event.data.push(value)
    }
    return { ...event, data: event.data.join("\n") }
  })
}
