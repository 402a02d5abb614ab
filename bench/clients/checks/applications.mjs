// What is built on the protocol, in pages of a real browser whose own back ends on Node
// stand between them and the nodes. A browser lists zstd in Accept-Encoding, such a back
// end sends the list on, and the fetch of Node 20 cannot decompress it.

import { MaterializedState, createStateSchema } from "@durable-streams/state"
import { YjsServer } from "@durable-streams/y-durable-streams/server"
import { browse, ensureCompressed, forward } from "../site.mjs"
import { all, createJSON, ensure, same, until } from "../tools.mjs"
import { application, words } from "./ai-sdk.mjs"

export default {
  "browser-yjs": { run: yjs, seconds: 120 },
  "browser-state": { run: state, seconds: 120 },
  "browser-ai-sdk": { run: chat, seconds: 120 },
}

// Two pages type into one document; one is reloaded, and a third opens it.
async function yjs(fleet, signal) {
  const server = new YjsServer({ dsServerUrl: fleet.origin })
  await server.start()
  try {
    await browse(signal, async (one, site, visit) => {
      const open = async (page) => {
        await page.goto(`${site}/yjs.html?${new URLSearchParams({ url: `${server.url}/v1/yjs/check` })}`)
        await synced(page)
      }
      const two = await visit()
      await open(one) // it makes the document
      await open(two)
      const have = (length, ...pages) => until(`${length} characters in each page`, async () => (await texts(...pages)).every((text) => text.length === length))
      // A page's first key goes alone: what follows it before the answer, the producer of
      // the provider drops where there is no process.nextTick.
      const typed = ["one", "two"].map((name) => Array.from({ length: 100 }, (_, i) => `${name} ${i}, `).join(""))
      await Promise.all([one.keyboard.type(typed[0][0]), two.keyboard.type(typed[1][0])])
      await have(2, one, two)
      await Promise.all([one.keyboard.type(typed[0].slice(1)), two.keyboard.type(typed[1].slice(1))])
      const length = typed.join("").length
      await have(length, one, two)
      const [want, other] = await texts(one, two)
      same("two", other, want)
      ensure(want === typed.join("") || want === typed.reverse().join(""), `not what was typed: ${want.slice(0, 200)}`)

      await one.reload()
      await synced(one)
      const three = await visit()
      await open(three)
      same("reloaded, stayed and new", await texts(one, two, three), [want, want, want])
      await Promise.all([one, two, three].map((page, i) => page.keyboard.type(`${i}`)))
      await have(length + 3, one, two, three)
      const [first, ...others] = await texts(one, two, three)
      same("after more", others, [first, first])
      same("errors", (await Promise.all([one, two, three].map(look))).flatMap((it) => it.errors), [])
      await ensureCompressed(fleet, 2)
    })
  } finally {
    await server.stop()
  }
}

const look = async (page) => {
  await page.waitForFunction(() => window.look)
  return page.evaluate(() => window.look())
}
const texts = (...pages) => Promise.all(pages.map(async (page) => (await look(page)).text))
const synced = (page) => until("synced", async () => {
  const { synced, errors } = await look(page)
  same("errors", errors, [])
  return synced
})

// Rows in two pages, one of each live mode; both are reloaded.
async function state(fleet, signal) {
  const schema = createStateSchema({ users: { schema: anything, type: "user", primaryKey: "id" } })
  const url = new URL(fleet.stream("rows"))
  const handle = await createJSON(url.href)
  const write = (...more) => Promise.all(more.map((event) => handle.append(JSON.stringify(event))))
  const users = Array.from({ length: 100 }, (_, i) => ({ id: `u${i}`, name: `user ${i} é🪭` }))
  await write(...users.map((value) => schema.users.insert({ value })))

  const backEnd = (...asked) => forward(fleet.origin, ...asked)
  await browse(signal, async (one, site, visit) => {
    const pages = [one, await visit()]
    const rows = (page) => page.evaluate(() => window.rows())
    const equal = async (who) => {
      await Promise.all(pages.map((page) => page.waitForFunction(() => window.loaded, { timeout: 20_000 })))
      const model = new MaterializedState()
      for (const event of await all(url.href, signal)) model.apply(event)
      const want = sorted(model.getType("user").values())
      for (const page of pages) await until(`${who}: as many rows`, async () => (await rows(page)).length === want.length)
      same(who, await Promise.all(pages.map(rows)), [want, want])
    }
    await Promise.all(pages.map((page, i) => page.goto(`${site}/state.html?${new URLSearchParams({ url: url.pathname, live: ["sse", "true"][i] })}`)))
    await equal("loaded")
    for (const [i, page] of pages.entries()) await page.evaluate((user) => window.add(user), { id: `page ${i}`, name: `of page ${i}` })
    await write(schema.users.delete({ key: "u8" }), schema.users.insert({ value: { id: "last", name: "last" } }))
    const saw = (page) => page.evaluate(() => window.rows().some((r) => r.id === "last") && !window.rows().some((r) => r.id === "u8"))
    for (const page of pages) await until("a page sees it", () => saw(page))
    await equal("live")
    await Promise.all(pages.map((page) => page.reload()))
    await equal("reloaded")
    await ensureCompressed(fleet, 4)
  }, backEnd)
}

const anything = { "~standard": { version: 1, vendor: "check", validate: (value) => ({ value }) } }
const sorted = (rows) => [...rows].map(({ id, name }) => ({ id, name })).sort((a, b) => (a.id < b.id ? -1 : 1))

// A page asks, is reloaded in the middle of the answer, and goes on with it.
async function chat(fleet, signal) {
  const stream = new URL(fleet.stream("chat/c1"))
  const { handle, go } = application(fleet, () => stream.pathname)
  const backEnd = (request, ...more) => (request.url.startsWith("/api/") ? handle(request, ...more) : forward(fleet.origin, request, ...more))
  await browse(signal, async (page, site) => {
    const ready = (resumed) => page.waitForFunction((it) => window.resumed === it, { timeout: 20_000 }, resumed)
    const half = words.slice(0, words.length / 2).join("")
    const shown = (text) => until("the page shows what was said", async () => (await page.evaluate(() => window.text)) === text)
    await page.goto(`${site}/ai-sdk.html`)
    await ready(false)
    await page.evaluate(() => window.ask("Say something long."))
    await shown(half)
    await page.reload()
    await ready(true)
    await shown(half)
    go()
    await page.waitForFunction(() => window.over, { timeout: 20_000 })
    await shown(words.join(""))
    same("the chunks", await page.evaluate(() => window.chunks), await all(stream.href, signal))
    await page.reload()
    await ready(false) // it is over
    await ensureCompressed(fleet, 2)
  }, backEnd)
}
