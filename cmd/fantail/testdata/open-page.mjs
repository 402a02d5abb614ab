// Opens a page in Chromium and prints what it logs, until it is ended: node open-page.mjs page.html
//
// Modules of the page are bundled, so that they may import what is in node_modules.

import { accessSync } from "node:fs"
import { mkdtemp, readFile, rm } from "node:fs/promises"
import http from "node:http"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { build } from "esbuild"
import puppeteer from "puppeteer-core"

const [file] = process.argv.slice(2)
let html = await readFile(file, "utf8")
const modules = /<script type="module">([\s\S]*?)<\/script>/g
for (const [whole, contents] of html.matchAll(modules)) {
  const { outputFiles } = await build({
    stdin: { contents, resolveDir: dirname(file) }, bundle: true, format: "esm", platform: "browser", write: false, define: { "process.env.NODE_ENV": '"production"' },
  })
  html = html.replace(whole, () => `<script type="module">${outputFiles[0].text.replaceAll("</script", "<\\/script")}</script>`)
}
const site = http.createServer((_, answer) => answer.writeHead(200, { "Content-Type": "text/html; charset=utf-8" }).end(html))
await new Promise((up) => site.listen(0, "127.0.0.1", up))

const profile = await mkdtemp(join(tmpdir(), "fantail-page-"))
const executablePath = [process.env.CHROMIUM, process.env.TEST_CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser"].find((path) => {
  try {
    accessSync(path)
    return true
  } catch {
    return false
  }
})
const browser = await puppeteer.launch({ executablePath, userDataDir: profile, args: ["--no-sandbox", "--disable-gpu"] })
for (const signal of ["SIGTERM", "SIGINT"]) {
  process.on(signal, async () => {
    await browser.close()
    await rm(profile, { recursive: true, force: true, maxRetries: 10 })
    process.exit(0)
  })
}
const page = await browser.newPage()
page.on("console", async (message) => {
  const values = await Promise.all(message.args().map((value) => value.jsonValue().catch(() => value.toString())))
  console.log(...values.map((value) => (typeof value === "string" ? value : JSON.stringify(value))))
})
page.on("pageerror", (err) => console.log(`error: ${err}`))
await page.goto(`http://127.0.0.1:${site.address().port}/`)
