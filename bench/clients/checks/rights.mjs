// Clients in front of a locked door: refusals end them, and a token that expires does not.

import http from "node:http"
import { DurableStream, IdempotentProducer, stream } from "@durable-streams/client"
import { bearer, leeway, lock, revoke, spread, withToken } from "../issuer.mjs"
import { ensure, follow, messages, rejects, same, until } from "../tools.mjs"

export default {
  "rights-refused": { run: refused, fleet: lock({ more: () => ({ project: { limits: { body: "64KiB" } } }) }) },
  "rights-expiry": { run: expiry, fleet: lock({ fleet: { longPoll: "20s", grace: "30s" } }), seconds: 90 },
}

// Each kind of refusal ends each kind of writer and reader after one request, with an error
// that says why.
async function refused(fleet, signal) {
  const { issuer } = fleet.settings
  const url = fleet.stream("refused")
  const writer = await issuer.token({ sub: "writer", role: "writer" })
  await new DurableStream({ url, contentType: "text/plain", headers: bearer(writer) }).create()

  const gone = await issuer.token({ sub: "gone", role: "writer" })
  same("an append before its token is revoked", await asked(fleet, () => append(url, gone)), { error: undefined, requests: 1 })
  const after = await revoke(fleet, { issuer: issuer.name, sub: "gone" }, url, gone)
  ensure(after < 2, `revoked everywhere after ${after} s`)

  const kinds = {
    no_credential: [401, undefined],
    malformed: [401, "not-a-token"],
    wrong_audience: [401, await issuer.token({ role: "writer", aud: "https://another.clients.test" })],
    expired: [401, await issuer.token({ role: "writer", expires: -leeway - 1 })],
    bad_signature: [401, await issuer.token({ role: "writer", key: issuer.strangersKey })],
    revoked: [401, gone],
    not_granted: [403, await issuer.token({ role: "elsewhere" })],
    unknown_key: [401, await issuer.token({ role: "writer", kid: "unknown" })],
    keys_stale: [503, await issuer.token({ role: "writer", kid: "unknown", issued: 0 })], // perhaps it is a new key
  }
  for (const [reason, [status, token]] of Object.entries(kinds)) {
    const toProducers = status === 403 ? 401 : status // to them 403 is a stale epoch
    await refuses(`producer, ${reason}`, toProducers, reason, 1, () => produceOne(url, token))
    await refuses(`writable(), ${reason}`, toProducers, reason, 2, () => write(url, token)) // one append, one close
    if (status >= 500) continue // the others ask again, and are right to
    await refuses(`append(), ${reason}`, status, reason, 1, () => append(url, token))
    for (const live of [false, "long-poll", "sse"]) {
      await refuses(`stream(), live ${live}, ${reason}`, status, reason, 1, () => stream({ url, live, headers: bearer(token), signal }))
    }
  }
  const speaker = await issuer.token({ role: "speaker" })
  await refuses("an append that is too long", 413, "limit_body", 1, () => produceOne(url, speaker, "x".repeat(70_000)))
  await refuses("a close without the right", 401, "not_granted", 2, () => write(url, speaker)) // the append is one
  same("what the stream holds", await (await stream({ url, live: false, headers: bearer(writer) })).text(), "written".repeat(2))

  async function refuses(who, status, reason, most, attempt) {
    const { error, requests } = await asked(fleet, () => attempt())
    ensure(error, `${who}: no error`)
    same(`${who}: status`, error.status, status)
    ensure(JSON.stringify([error.message, error.json, error.details]).includes(reason), `${who}: it does not say ${reason}: ${error.message}`)
    ensure(requests >= 1 && requests <= most, `${who}: ${requests} requests`)
  }
}

// asked answers the error of what was tried, and how many requests came of it.
async function asked(fleet, attempt) {
  const before = fleet.balancer.requests.length
  const error = await attempt().then(() => undefined, (err) => err)
  return { error, requests: fleet.balancer.requests.length - before }
}

const append = (url, token) => new DurableStream({ url, contentType: "text/plain", headers: bearer(token) }).append("written")

async function produceOne(url, token, text = "written") {
  const errors = []
  const p = new IdempotentProducer(new DurableStream({ url, contentType: "text/plain", headers: bearer(token) }), "p", {
    autoClaim: true, lingerMs: 0, onError: (err) => errors.push(err),
  })
  p.append(text)
  await p.flush()
  await p.detach()
  same("errors of a producer", errors.length, 1)
  throw errors[0]
}

async function write(url, token) {
  const w = new DurableStream({ url, contentType: "text/plain", headers: bearer(token) }).writable({ lingerMs: 0 }).getWriter()
  w.closed.catch(() => {}) // close tells
  await w.write("written")
  await w.close()
}

// The live modes in which every reader has to meet the expiry. All readers lose nothing and have
// nothing twice.
const endsWithItsToken = ["long-poll", "sse", true]

// Readers cross the expiry of their tokens: while nothing comes, while messages come, and
// during ten seconds of 503. Their tokens come from a cache whose clock is late, and live for
// a few seconds more than that.
async function expiry(fleet, signal) {
  const { issuer } = fleet.settings
  const url = fleet.stream("expiry")
  const late = leeway - 6
  const lifetime = 1
  const writer = bearer(await issuer.token({ role: "writer" }))
  const handle = await new DurableStream({ url, contentType: "application/json", headers: writer }).create()
  const proxy = await startProxy(fleet.origin)
  signal.addEventListener("abort", () => proxy.close())

  const tokens = () => {
    let token, until = 0
    return () => {
      if (performance.now() > until) {
        token = issuer.token({ role: "reader", expires: lifetime - late })
        until = performance.now() + lifetime * 1000
      }
      return token
    }
  }
  const readers = ["long-poll", "long-poll", true, "sse", "sse", "sse"].map((live) => {
    const answers = []
    const log = (status, token) => answers.push({ status, token })
    const reader = follow({ url: url.replace(fleet.origin, proxy.origin), live, signal, fetch: withToken(tokens(), log) })
    return Object.assign(reader, { answers, live })
  })
  const stuck = follow({ url, live: "long-poll", signal, headers: bearer(await issuer.token({ role: "reader", expires: lifetime - late })) })

  const list = messages(120)
  let written = 0
  const put = async (n) => {
    for (; n > 0; n--) await handle.append(JSON.stringify(list[written++]))
  }
  const inStep = () => until("every reader has what is written", () => readers.every((r) => r.items.length === written))
  const cut = readers.filter((r) => endsWithItsToken.includes(r.live))
  const refreshed = (what, seconds) => {
    const before = cut.map((r) => r.answers.length)
    return until(what, () => cut.every((r, i) => r.answers.length > before[i]), seconds)
  }
  await put(10)
  await inStep()
  await refreshed("every reader, cut for its token, comes back with another", leeway + lifetime - late + spread + 3) // and not because a poll is over
  same("who has but one token is refused", (await rejects("the reader with one token", stuck.done)).status, 401)
  same("it has what came before", stuck.items, list.slice(0, 10))
  await put(10)
  await inStep()

  proxy.down = true
  const up = new Promise((done) => setTimeout(done, 10_000))
  await put(60) // to the nodes themselves
  // An event stream may be opened just before the outage, and its token's end is spread over some seconds.
  const polling = cut.filter((r) => r.live !== "sse")
  await until("every reader that polls meets the outage", () => polling.every((r) => r.answers.some((a) => a.status === 503)), 10)
  await up
  const held = readers.map((r) => r.answers.findLast((a) => a.status !== 503).token)
  proxy.down = false
  await inStep()
  await put(40)
  await handle.close()
  for (const [i, reader] of readers.entries()) {
    const who = `reader ${i}, live ${reader.live}`
    await reader.done
    same(who, reader.items, list)
    same(`${who}, sessions`, reader.sessions, 1)
    same(`${who}, refusals`, reader.answers.filter((a) => a.status >= 400 && a.status !== 503).length, 0)
    const stale = await fetch(url, { headers: bearer(held[i]) })
    same(`${who}, the token from before the outage`, [stale.status, (await stale.json()).reason], [401, "expired"])
  }
}

// startProxy passes requests on, and answers 503 while it is down. What is under way goes on.
async function startProxy(origin) {
  const proxy = { down: false }
  const server = http.createServer((request, response) => {
    if (proxy.down) return response.writeHead(503, { "Content-Length": 0 }).end()
    const onward = http.request(origin + request.url, { method: request.method, headers: request.headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers).flushHeaders()
      answer.pipe(response)
      answer.on("error", () => response.destroy())
    })
    onward.on("error", () => response.destroy())
    response.on("close", () => onward.destroy())
    request.pipe(onward)
  })
  await new Promise((up, down) => server.once("error", down).listen(0, "127.0.0.1", up))
  proxy.origin = `http://127.0.0.1:${server.address().port}`
  proxy.close = () => {
    server.close()
    server.closeAllConnections()
  }
  return proxy
}
