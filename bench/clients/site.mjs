// A site as people build them: pages, and a back end on Node that sends the browser's
// requests on to the nodes. And the browser that opens it.

import { accessSync } from "node:fs"
import { readFile } from "node:fs/promises"
import http from "node:http"
import https from "node:https"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { build } from "esbuild"
import puppeteer from "puppeteer-core"
import { ensure, scratch } from "./tools.mjs"

const folder = join(dirname(fileURLToPath(import.meta.url)), "pages")

// browse starts a browser and a site, and gives use a page, the site's origin, and a
// function that opens the page of another visitor: one with connections and a cache of
// its own. The site's back end answers what is not a page. An error of a page that nobody
// caught ends it. With tls (a key and a certificate, which the browser takes as they are) and
// hosts, the site is every host of .test, but those of hosts, which are at these addresses.
export function browse(signal, use, backEnd, { tls, hosts = {} } = {}) {
  return scratch(async (userDataDir) => {
    const site = await listen(serve(backEnd), tls)
    const rules = [...Object.entries(hosts), ["*.test", new URL(site.origin).host]]
    let browser
    const kill = () => browser?.process()?.kill("SIGKILL")
    process.prependListener("exit", kill)
    signal.addEventListener("abort", kill)
    try {
      browser = await puppeteer.launch({
        executablePath: chromium(), userDataDir, acceptInsecureCerts: tls !== undefined,
        args: ["--no-sandbox", "--disable-gpu", `--host-resolver-rules=${rules.map((r) => `MAP ${r.join(" ")}`)}`],
      })
      let broken
      const breaks = new Promise((_, lose) => (broken = lose))
      const visit = async () => {
        const page = await (await browser.createBrowserContext()).newPage()
        page.on("pageerror", (err) => broken(new Error(`a page: ${JSON.stringify(String(err)).slice(0, 300)}`)))
        return page
      }
      await Promise.race([use(await visit(), site.origin, visit), breaks])
    } finally {
      await browser?.close()
      process.off("exit", kill)
      site.close()
    }
  })
}

// listen starts an HTTP server that answers with the Response that handle gives.
export async function listen(handle, tls) {
  const start = tls ? (answer) => https.createServer(tls, answer) : http.createServer
  const server = start(async (request, response) => {
    const gone = new AbortController()
    response.on("close", () => gone.abort())
    try {
      const parts = []
      for await (const part of request) parts.push(part)
      const answer = await handle(request, Buffer.concat(parts), gone.signal)
      response.writeHead(answer.status, Object.fromEntries(answer.headers)).flushHeaders()
      for await (const part of answer.body ?? []) response.write(part)
      response.end()
    } catch (err) {
      if (response.headersSent) response.destroy()
      else response.writeHead(500).end(String(err))
    }
  })
  await new Promise((up, down) => server.once("error", down).listen(0, "127.0.0.1", up))
  return {
    origin: `${tls ? "https" : "http"}://127.0.0.1:${server.address().port}`,
    close() {
      server.close()
      server.closeAllConnections()
    },
  }
}

// serve answers with the files of pages/, and leaves other paths to the back end.
function serve(backEnd = () => new Response(null, { status: 404 })) {
  const bundles = new Map()
  return async (request, ...more) => {
    const [, name, ext] = new URL(request.url, "http://site").pathname.match(/^\/([a-z-]+)\.(html|js)$/) ?? []
    if (!name) return backEnd(request, ...more)
    const file = join(folder, `${name}.${ext}`)
    if (ext === "html") return new Response(await readFile(file), { headers: { "Content-Type": "text/html" } })
    if (!bundles.has(file)) bundles.set(file, await bundle(file))
    return new Response(bundles.get(file), { headers: { "Content-Type": "text/javascript" } })
  }
}

// forward sends a browser's request on to the nodes as many back ends do, YjsServer among
// them: with the browser's headers, Accept-Encoding too, and by a fetch that decompresses
// what it knows. It drops the Content-Encoding of the answer.
export async function forward(origin, request, body, signal) {
  const headers = new Headers(request.headers)
  for (const name of ["host", "connection", "content-length"]) headers.delete(name)
  const answer = await fetch(origin + request.url, { method: request.method, headers, body: body.length > 0 ? body : undefined, signal })
  const kept = new Headers(answer.headers)
  for (const name of ["content-encoding", "content-length", "connection", "transfer-encoding"]) kept.delete(name)
  return new Response(answer.body, { status: answer.status, headers: kept })
}

// ensureCompressed is for what went through a back end: at least n reads from the start
// came with the browser's own Accept-Encoding, zstd in it, and a node compresses the answer.
export async function ensureCompressed(fleet, n) {
  const reads = fleet.balancer.requests.filter(({ method, url, headers }) =>
    method === "GET" && url.searchParams.get("offset") === "-1" && !url.searchParams.has("live") && /\bzstd\b/.test(headers.get("accept-encoding")))
  ensure(reads.length >= n, `${reads.length} reads from the start with zstd in Accept-Encoding, want ${n}`)
  const { url, headers } = reads.at(-1)
  const coding = await new Promise((done, lost) => {
    const ask = { headers: { "Accept-Encoding": headers.get("accept-encoding") } }
    http.get(fleet.origin + url.pathname + url.search, ask, (answer) => {
      answer.resume()
      done(answer.headers["content-encoding"])
    }).on("error", lost)
  })
  ensure(coding, "a node does not compress what the pages read")
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
