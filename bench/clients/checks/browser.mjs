// A real browser, with pages of another origin than the nodes'.

import { accessSync } from "node:fs"
import { readFile } from "node:fs/promises"
import http from "node:http"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { build } from "esbuild"
import puppeteer from "puppeteer-core"
import { all, createJSON, ensure, messages, produce, same, scratch, until } from "../tools.mjs"

const pages = join(dirname(fileURLToPath(import.meta.url)), "../pages")

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

// browse opens a page of a site of its own.
function browse(signal, use) {
  return scratch(async (userDataDir) => {
    const site = await serve()
    let browser
    const kill = () => browser?.process()?.kill("SIGKILL")
    process.prependListener("exit", kill)
    signal.addEventListener("abort", kill)
    try {
      browser = await puppeteer.launch({ executablePath: chromium(), userDataDir, args: ["--no-sandbox", "--disable-gpu"] })
      const page = await browser.newPage()
      const errors = []
      page.on("pageerror", (err) => errors.push(String(err)))
      await use(page, site.origin)
      same("errors of the page", errors, [])
    } finally {
      await browser?.close()
      process.off("exit", kill)
      site.close()
    }
  })
}

// serve is the site: the files of pages/, scripts bundled.
async function serve() {
  const types = { "/eventsource.html": "text/html", "/client.html": "text/html", "/client.js": "text/javascript" }
  const server = http.createServer(async (request, response) => {
    const { pathname } = new URL(request.url, "http://site")
    if (!types[pathname]) return response.writeHead(404).end()
    const file = join(pages, pathname)
    const body = pathname.endsWith(".js") ? await bundle(file) : await readFile(file)
    response.writeHead(200, { "Content-Type": types[pathname] }).end(body)
  })
  await new Promise((up, down) => server.once("error", down).listen(0, "127.0.0.1", up))
  return {
    origin: `http://127.0.0.1:${server.address().port}`,
    close() {
      server.close()
      server.closeAllConnections()
    },
  }
}

async function bundle(file) {
  const { outputFiles } = await build({ entryPoints: [file], bundle: true, format: "esm", platform: "browser", write: false })
  return outputFiles[0].text
}

function chromium() {
  const places = process.env.CHROMIUM ? [process.env.CHROMIUM] : ["/usr/bin/chromium", "/usr/bin/chromium-browser"]
  for (const path of places) {
    try {
      accessSync(path)
      return path
    } catch {} // the next
  }
  throw new Error(`not run: no ${places.join(" or ")}`)
}
