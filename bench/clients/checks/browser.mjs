// A real browser, with pages of another origin than the nodes'.

import { browse } from "../site.mjs"
import { all, createJSON, ensure, messages, produce, same, until } from "../tools.mjs"

export default {
  "browser-owner-killed": { run: (fleet, signal) => eventSource(fleet, signal, "SIGKILL"), seconds: 120 },
  "browser-node-stops": { run: (fleet, signal) => eventSource(fleet, signal, "SIGTERM"), seconds: 120 },
  "browser-client": { run: client, seconds: 120 },
}

// Native event sources at every node; the owner is killed, or stops, while a producer
// writes, and the browser itself goes on elsewhere, from the last id that it saw.
async function eventSource(fleet, signal, how) {
  const url = fleet.stream("page")
  await createJSON(url)
  await browse(signal, async (page, site) => {
    const n = 4
    await page.goto(`${site}/eventsource.html?${new URLSearchParams({ n, url: `${url}?live=sse&offset=-1` })}`)
    await until("an event source at each node", () => fleet.readersEverywhere("sse"))
    const ender = await fleet.ender(how)
    const list = await produce({ url, signal, half: ender.end, enough: () => ender.over })
    const readers = () => page.evaluate(() => window.readers)
    await until("every event source is at the end", async () => (await readers()).every((r) => r.closed || r.refused), 60)
    const got = await readers()
    for (const [i, r] of got.entries()) {
      ensure(!r.refused, `event source ${i} was refused for good after ${r.items.length} messages`)
      same(`event source ${i}`, r.items, list)
    }
    const cut = got.filter((r) => r.opens > 1).length
    ensure(cut > 0 && cut < n, `${cut} of ${n} event sources were cut`)
    const resumed = fleet.balancer.live("sse").filter((r) => r.headers.has("last-event-id"))
    ensure(resumed.length >= cut, `${resumed.length} requests with Last-Event-ID`)
  })
}

// The TypeScript client reads and writes.
async function client(fleet, signal) {
  const url = fleet.stream("page")
  const list = messages(200)
  await browse(signal, async (page, site) => {
    await page.goto(`${site}/client.html`)
    await page.waitForFunction(() => window.go)
    const got = await page.evaluate((input) => window.go(input), { url, list })
    same("errors", got.errors, [])
    same("what it saw of its own appends", got.seen, Array.from({ length: 20 }, (_, i) => i + 1))
    same("SSE", got.sse, list)
    same("long-poll", got.longPoll, list)
    same("once more from the start", got.again, list)
    same("what the stream holds", await all(url, signal), list)
    same("head", [got.streamClosed, got.offset], [true, got.finalOffset])
    const asked = fleet.balancer.requests.filter((r) => r.headers.get("origin") === site)
    ensure(asked.some((r) => r.method === "OPTIONS"), "the browser did not ask whether it may")
    ensure(asked.some((r) => r.method === "POST" && r.headers.has("producer-id")), "no append of the producer from the page")
  })
}
