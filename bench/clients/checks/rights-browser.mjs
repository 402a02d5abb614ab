// The browser's own EventSource, which sends no header, in front of a locked door: with the
// session's cookie, from the nodes' own origin and from a listed one, and with a signed URL.

import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { bearer, lock, sign } from "../issuer.mjs"
import { browse, forward } from "../site.mjs"
import { ensure, messages, run, same } from "../tools.mjs"

export default {
  "rights-browser": { run: sameOrigin, fleet: lock({ more: project }), seconds: 90 },
  "rights-browser-tls": { run: crossOrigin, fleet: withTLS, seconds: 90 },
}

const secret = "correct-horse-battery-staple-0123456789"

function project(_, dir) {
  writeFileSync(join(dir, "sign.secret"), secret)
  return { project: { origins: ["https://*.app.clients.test", "https://listed.test"], sign: [{ kid: "s1", secret: join(dir, "sign.secret") }] } }
}

async function withTLS(signal) {
  const settings = await lock({ more: project })(signal)
  const tls = { cert: join(settings.dir, "tls.pem"), key: join(settings.dir, "tls.key") }
  await run(signal, "openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
    "-subj", "/CN=clients.test", "-addext", "subjectAltName=DNS:*.clients.test", "-keyout", tls.key, "-out", tls.cert])
  return { ...settings, tls }
}

const name = "room é/1"
const list = messages(50)
const base = (origin) => `${origin}/v1/stream/clients`
const path = (origin) => `${base(origin)}/${name.split("/").map(encodeURIComponent).join("/")}`
const live = (origin) => `${path(origin)}?live=sse&offset=-1`

// fill makes the stream, closed and with all messages, from a page.
async function fill(page, origin, issuer) {
  const headers = { ...bearer(await issuer.token({ role: "writer" })), "Content-Type": "application/json", "Stream-Closed": "true" }
  const init = { method: "PUT", headers, body: JSON.stringify(list) }
  same("the stream is made", await page.evaluate(async (url, init) => (await fetch(url, init)).status, path(origin), init), 201)
}

const login = (page, origin, token) => page.evaluate((...args) => window.login(...args), base(origin), token)
const logout = (page, origin) => page.evaluate((...args) => window.logout(...args), base(origin))
const read = (page, url, withCredentials = false) => page.evaluate((...args) => window.read(...args), url, withCredentials)
const all = { items: list, refused: false }
const nothing = { items: [], refused: true }

// A page and the nodes behind one origin, without TLS: to a browser localhost is as good.
async function sameOrigin(fleet, signal) {
  const { issuer } = fleet.settings
  const backEnd = (request, body, gone) => forward(fleet.origin, request, body, gone)
  await browse(signal, async (page, site) => {
    const origin = site.replace("127.0.0.1", "localhost")
    await page.goto(`${origin}/rights.html`)
    await fill(page, origin, issuer)
    await session(page, origin, issuer)
  }, backEnd)
}

// session logs a page in, reads by the cookie alone, and logs it out.
async function session(page, origin, issuer) {
  same("without a cookie", await read(page, live(origin), true), nothing)
  same("login with a bad token", await login(page, origin, await issuer.token({ role: "reader", key: issuer.strangersKey })), 401)
  same("after that", await read(page, live(origin), true), nothing)
  same("login", await login(page, origin, await issuer.token({ role: "writer" })), 204)
  same("what scripts see of the cookie", await page.evaluate(() => document.cookie), "")
  same("by the cookie", await read(page, live(origin), true), all)
  const post = (url) => fetch(url, { method: "DELETE", credentials: "include" }).then((answer) => answer.status)
  same("the cookie of a writer, for DELETE", await page.evaluate(post, path(origin)), 401)
  same("logout", await logout(page, origin), 204)
  same("after the logout", await read(page, live(origin), true), nothing)
}

// refusals counts those of all nodes, by reason.
async function refusals(fleet) {
  const sum = {}
  for (const m of await Promise.all(fleet.nodes.map(fleet.metrics))) {
    for (const [name, n] of Object.entries(m)) {
      const [, reason] = name.match(/^fantail_auth_denied_total\{.*reason="(\w+)"/) ?? []
      if (reason) sum[reason] = (sum[reason] ?? 0) + n
    }
  }
  return sum
}

// Pages of other origins than the nodes', all with TLS: of the same site and of another, listed
// and not.
async function crossOrigin(fleet, signal) {
  const { issuer, tls } = fleet.settings
  const origin = "https://streams.clients.test"
  const world = {
    tls: { cert: readFileSync(tls.cert), key: readFileSync(tls.key) },
    hosts: { "streams.clients.test": new URL(fleet.origin).host },
  }
  await browse(signal, async (page, _, visit) => {
    await page.goto("https://one.app.clients.test/rights.html")
    await fill(page, origin, issuer)
    await session(page, origin, issuer)
    same("login again", await login(page, origin, await issuer.token({ role: "reader" })), 204)
    same("by the cookie again", await read(page, live(origin), true), all)
    same("EventSource without withCredentials", await read(page, live(origin)), nothing)

    // Tabs of the same browser: what they ask for carries the cookie as far as the browser sends it.
    for (const [host, reason] of [["evil.clients.test", "cross_site"], ["evil.test", "no_credential"], ["listed.test", "no_credential"]]) {
      const tab = await page.browserContext().newPage()
      const before = await refusals(fleet)
      await tab.goto(`https://${host}/rights.html`)
      same(`${host}, EventSource`, await read(tab, live(origin), true), nothing)
      const { fetched, ...ways } = await tab.evaluate((url) => window.ways(url), path(origin))
      same(`${host}, other ways`, ways, { script: "failed", image: "failed", opaque: "not for this page" })
      if (host !== "listed.test") same(`${host}, fetch`, fetched, "not for this page")
      const after = await refusals(fleet)
      const why = Object.fromEntries(Object.keys(after).filter((r) => after[r] !== before[r]).map((r) => [r, after[r] - (before[r] ?? 0)]))
      ensure(Object.keys(why).length === 1 && why[reason] >= 5, `${host}: refused for ${JSON.stringify(why)}, want ${reason}`)
      if (host !== "listed.test") same(`${host}, login`, await login(tab, origin, await issuer.token({ role: "reader" })), "not for this page")
      const signed = `${live(origin)}&${sign(`clients/${name}`, { kid: "s1", secret })}`
      same(`${host}, signed URL`, await read(tab, signed), host === "listed.test" ? all : nothing)
      const another = `${live(origin)}&${sign("clients/another", { kid: "s1", secret })}`
      same(`${host}, URL signed for another stream`, await read(tab, another), nothing)
      await tab.close()
    }
    const tab = await page.browserContext().newPage()
    same("navigation with the cookie", (await tab.goto(path(origin))).status(), 403)
    same("the page still reads", await read(page, live(origin), true), all)

    const other = await visit()
    await other.goto("https://two.app.clients.test/rights.html")
    same("another visitor", await read(other, live(origin), true), nothing)
  }, undefined, world)
}
