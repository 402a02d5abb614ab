// Uses the page in Chromium, as people do, and checks it: node page.mjs
//
// PAGE has the address of the playground of a fleet of three nodes, ADMIN that of a node, of another fleet of
// three, whose admin address asks for TOKEN. With SCREENSHOTS it writes pictures into that folder. It prints what is wrong, and
// ends with 1 then.

import { readFile, rm, mkdtemp } from "node:fs/promises"
import { createRequire } from "node:module"
import { tmpdir } from "node:os"
import { join } from "node:path"
import puppeteer from "puppeteer-core"

const { PAGE, ADMIN, TOKEN, SCREENSHOTS, TEST_CHROMIUM } = process.env
const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8")
const profile = await mkdtemp(join(tmpdir(), "fantail-page-"))
const browser = await puppeteer.launch({ executablePath: TEST_CHROMIUM, userDataDir: profile, args: ["--no-sandbox", "--disable-gpu"] })
const wrong = []
const expect = (ok, what) => ok || (wrong.push(what), console.log(`wrong: ${what}`))

// openPage opens a tab that reports what no page of ours may do.
async function openPage(url) {
  const page = await browser.newPage()
  page.sent = []
  page.on("pageerror", (err) => expect(false, `error in the page: ${err}`))
  page.on("dialog", (dialog) => (expect(false, `a dialog: ${dialog.message()}`), dialog.dismiss()))
  page.on("console", (message) => expect(!/Content Security Policy|TrustedHTML|Uncaught/.test(message.text()), `console: ${message.text()}`))
  page.on("request", (request) => page.sent.push(request))
  await page.setViewport({ width: 1180, height: 900 })
  await page.goto(url)
  return page
}

// until waits for a condition in the page.
async function until(page, what, condition, ...args) {
  try {
    return await page.waitForFunction(condition, { timeout: 30_000, polling: 50 }, ...args)
  } catch {
    throw new Error(`not within 30 s: ${what}\n${await page.evaluate(() => document.body.innerText)}`)
  }
}

// look checks what the page looks like, in each scheme and width: nothing that axe finds, and nothing wider
// than the window.
async function look(page, name) {
  for (const scheme of ["light", "dark"]) {
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }, { name: "prefers-reduced-motion", value: "reduce" }])
    for (const width of [1180, 360]) {
      await page.setViewport({ width, height: 900 })
      const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)
      expect(over <= 0, `${name}, ${scheme}, ${width} px: ${over} px too wide`)
      const session = await page.createCDPSession() // the policy of the page would not let it in as a script
      await session.send("Runtime.evaluate", { expression: axe })
      const { result } = await session.send("Runtime.evaluate", { awaitPromise: true, returnByValue: true, expression: "axe.run(document).then((found) => ({ passes: found.passes.length, violations: found.violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.target).join(', ')}`) }))" })
      await session.detach()
      expect(result.value.passes > 20, `${name}: axe has looked at nothing`)
      for (const found of result.value.violations) expect(false, `${name}, ${scheme}, ${width} px: ${found}`)
    }
  }
}

async function picture(page, name, { width = 1100, height, scheme = "light" }) {
  if (!SCREENSHOTS) return
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }])
  await page.setViewport({ width, height })
  await page.evaluate(() => (document.activeElement.blur(), scrollTo(0, 0)))
  await new Promise((done) => setTimeout(done, 1200))
  await page.screenshot({ path: join(SCREENSHOTS, `page-${name}.png`), optimizeForSpeed: false })
}

const press = async (page, label) => {
  await page.focus(`[aria-label="${label}"]`)
  await page.keyboard.press("Enter")
}
const received = (page) => page.$$eval("#readers .counts", (all) => all.map((counts) => [...counts.querySelectorAll("b")].map((b) => Number(b.textContent.replaceAll(",", "")))))

async function playground() {
  const page = await openPage(PAGE)
  await until(page, "three nodes are ready", () => document.querySelector("#health").textContent === "3 of 3 nodes ready")

  // With the keyboard alone: past the header, and a message written.
  await page.keyboard.press("Tab")
  expect(await page.evaluate(() => document.activeElement.textContent) === "Skip to the content", "the first stop is no way past the header")
  await page.keyboard.press("Enter")
  for (let i = 0; i < 4; i++) await page.keyboard.press("Tab")
  expect(await page.evaluate(() => document.activeElement.id) === "message", "the message is not the fourth stop of the content")
  await page.keyboard.type("from the keyboard")
  await page.keyboard.press("Enter")
  await until(page, "each reader has the message", () => [...document.querySelectorAll(".messages")].filter((list) => list.textContent.includes("from the keyboard")).length === 3)
  expect((await page.$eval("#announcer", (said) => said.textContent)) !== "", "nothing is said to screen readers")

  // Names and messages are text, whatever is in them.
  await page.evaluate(async (base) => {
    const { nodes } = await (await fetch("/dev/nodes")).json()
    const url = `${nodes[0].http}/v1/stream/${encodeURIComponent("<img src=x onerror=alert(1)>")}`
    await fetch(url, { method: "PUT", headers: { "Content-Type": "text/plain" }, body: "x" })
    await fetch(`${nodes[0].http}/v1/stream/hello`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ text: "<img src=x onerror=alert(2)>" }) })
  })
  await until(page, "markup in a name is shown as text", () => document.querySelector("#stream-rows").textContent.includes("<img src=x onerror=alert(1)>"))
  await until(page, "markup in a message is shown as text", () => document.querySelector(".messages").textContent.includes("<img src=x onerror=alert(2)>"))

  await page.click("#crowd-more")
  await until(page, "the readers that were added are counted", () => document.querySelector("#meter-lead").textContent.startsWith("103 readers share 1 open read of S2."))
  await page.type("#find-name", "hello")
  await page.keyboard.press("Enter")
  await until(page, "the owner is found", () => /default\/hello: node-\d owns it/.test(document.querySelector("#found").textContent))

  await page.click("#steady")
  await until(page, "it writes", () => Number(document.querySelectorAll(".counts b")[0].textContent) > 15)
  await look(page, "playground")
  await picture(page, "playground", { height: 1010 })

  await press(page, "Kill node-2")
  await until(page, "the reader of node-2 continues elsewhere", () => document.querySelectorAll(".counts")[1].textContent.includes("reads at node-"))
  const atKill = (await received(page))[1][0]
  await until(page, "and receives there", (n) => Number(document.querySelectorAll(".counts b")[3].textContent) > n + 10, atKill)
  await until(page, "the others own everything", () => document.querySelector("#ring text").textContent === "2")
  await look(page, "with a dead node")
  await picture(page, "killed", { height: 1010, scheme: "dark" })
  await press(page, "Start node-2")
  await until(page, "it is back", () => document.querySelector("#health").textContent === "3 of 3 nodes ready")
  await until(page, "its reader is, too", () => !document.querySelectorAll(".counts")[1].textContent.includes("reads at node-"))
  await press(page, "Stop node-1")
  await until(page, "node-1 has stopped", () => document.querySelector("#health").textContent === "2 of 3 nodes ready")
  await page.click("#steady")
  await until(page, "every reader has every message", () => new Set([...document.querySelectorAll(".counts")].map((counts) => counts.querySelector("b").textContent)).size === 1)
  for (const [i, [, missing, doubled]] of (await received(page)).entries()) expect(missing === 0 && doubled === 0, `reader ${i}: ${missing} missing, ${doubled} doubled`)

  // Everything may be killed; the page says so, and starts it again.
  await press(page, "Kill node-2")
  await press(page, "Kill node-3")
  await until(page, "no node is ready", () => document.querySelector("#health").textContent === "0 of 3 nodes ready")
  for (const name of ["node-1", "node-2", "node-3"]) await press(page, `Start ${name}`)
  await until(page, "all are back", () => document.querySelector("#health").textContent === "3 of 3 nodes ready")
  await page.close()
}

async function admin() {
  const page = await openPage(ADMIN)
  await until(page, "it asks for the token", () => !document.querySelector("#sign-in").hidden && document.activeElement.id === "token")
  await look(page, "sign-in")
  await page.keyboard.type("0123456789abcdef-wrong")
  await page.keyboard.press("Enter")
  await until(page, "it refuses a wrong one", () => document.querySelector("#token-wrong").textContent.startsWith("Refused"))
  await page.keyboard.type(TOKEN)
  await page.keyboard.press("Enter")
  await until(page, "it shows the fleet", () => document.querySelector("#health").textContent === "3 of 3 nodes ready")
  expect(await page.$eval("#play", (play) => play.hidden), "a node has the toys of the playground")
  expect(await page.$$eval("[data-verb]", (buttons) => buttons.length) === 0, "a node has buttons that kill")
  await until(page, "it shows the readers", () => document.querySelector("#meter-lead").textContent.startsWith("240 readers share 1 open read of S2."))
  await until(page, "it shows the streams", () => document.querySelectorAll("#stream-rows tr").length === 5)
  await look(page, "admin")
  await picture(page, "admin", { height: 1010 })
  await page.reload()
  await until(page, "it still shows the fleet", () => document.querySelector("#health").textContent === "3 of 3 nodes ready")
  expect(!page.sent.some((request) => request.url().includes(TOKEN)), "the token is in an address")
  expect(page.sent.some((request) => request.headers().authorization === `Bearer ${TOKEN}`), "the token is in no header")
  expect(page.sent.every((request) => request.url().startsWith(ADMIN)), "the page asks another address")
  await page.click("#sign-out")
  await until(page, "it has forgotten the token", () => !document.querySelector("#sign-in").hidden && sessionStorage.length === 0)
  await page.close()
}

try {
  await playground()
  await admin()
} catch (err) {
  expect(false, err.stack)
} finally {
  await browser.close()
  await rm(profile, { recursive: true, force: true, maxRetries: 10 })
}
process.exit(wrong.length > 0 ? 1 : 0)
