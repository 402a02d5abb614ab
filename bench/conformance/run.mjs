// Runs the published Durable Streams server suite against Fantail:
//
//   node run.mjs lone            one node
//   node run.mjs fleet           the second of three nodes
//   node run.mjs fleet --s2 URL  with another S2, such as s2-lite, as the store
//
// Every test keeps the suite's own timeout of 5 s (raised with --s2, whose appends
// take 100 ms) but the one that reads many pages, which gets 30 s. Two tests wait
// for a long-poll to run out, so the node is told to end them after half a second.
// Forks are not served yet: their group is left out, and counted nowhere.

import { spawn, spawnSync } from "node:child_process"
import { readFileSync, mkdtempSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const core = 250 // tests of version 0.3.6 outside the group Fork and the subscriptions
const here = dirname(fileURLToPath(import.meta.url))
const fantail = join(here, "../../bin/fantail")
const [mode, flag, s2] = process.argv.slice(2)
if (!["lone", "fleet"].includes(mode) || (flag && flag !== "--s2")) {
  console.error("usage: node run.mjs lone|fleet [--s2 URL]")
  process.exit(2)
}
const nodes = mode === "fleet" ? 3 : 1
const ports = { http: 4537, admin: 4547, s2: 4530 }
const url = `http://127.0.0.1:${ports.http + nodes - (nodes > 1 ? 2 : 1)}`

const args = ["dev", `--nodes=${nodes}`, `--port=${ports.http}`, `--admin-port=${ports.admin}`,
  `--s2-port=${ports.s2}`, "--long-poll=500ms", ...(s2 ? [`--s2-endpoint=${s2}`] : [])]
const server = spawn(fantail, ["--log-level=warn", ...args], { stdio: ["ignore", "pipe", "inherit"] })
await new Promise((up, down) => {
  server.stdout.on("data", (b) => String(b).includes("Fantail is up") && up())
  server.on("exit", (code) => down(new Error(`fantail ended with ${code}`)))
})

const dir = mkdtempSync(join(tmpdir(), "conformance-"))
const results = []
const paging = "pagination|pages|paginat"
const forks = "[Ff]ork"
for (const [name, pattern, timeout] of [
  ["most", `^(?!.*(${forks}|${paging}))`, s2 ? 30000 : 5000],
  ["paging", `^(?!.*${forks}).*(${paging})`, 30000],
]) {
  const out = join(dir, name + ".json")
  spawnSync("npx", ["vitest", "run", "--reporter=json", `--outputFile=${out}`, "-t", pattern], {
    cwd: here,
    stdio: ["ignore", "ignore", "inherit"],
    env: { ...process.env, CONFORMANCE_TEST_URL: url, CONFORMANCE_LP_MS: "500", CONFORMANCE_TIMEOUT: String(timeout) },
  })
  for (const file of JSON.parse(readFileSync(out)).testResults) results.push(...file.assertionResults)
}
server.removeAllListeners("exit")
server.kill("SIGTERM")

const ran = results.filter((r) => r.status === "passed" || r.status === "failed")
const failed = ran.filter((r) => r.status === "failed")
for (const r of failed) console.log(`FAIL ${r.fullName}\n     ${(r.failureMessages?.[0] ?? "").split("\n")[0]}`)
console.log(`conformance, ${mode}${s2 ? ", " + s2 : ""}: ${ran.length - failed.length} passed, ${failed.length} failed`)
if (failed.length > 0 || ran.length !== core) {
  console.log(`want ${core} passed`)
  process.exitCode = 1
}
