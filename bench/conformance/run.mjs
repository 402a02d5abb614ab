// Runs the published Durable Streams server suite against Fantail; README.md has
// the settings and the options.

import { execFileSync, spawn } from "node:child_process"
import { randomBytes } from "node:crypto"
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"
import { robin } from "./robin.mjs"

const core = 332 // tests of version 0.3.6 outside the subscriptions
const longPoll = 500 // ms; two tests wait for one to run out
const here = dirname(fileURLToPath(import.meta.url))
const fantail = process.env.FANTAIL ?? join(here, "../../bin/fantail")

// Each setting is a number of nodes, and what the suite talks to.
const settings = {
  lone: { nodes: 1, target: (urls) => ({ url: urls[0] }) },
  fleet: { nodes: 3, target: (urls) => ({ url: urls[1] }) },
  robin: { nodes: 3, target: robin },
  // With a file of rights, and a token on every request.
  locked: { nodes: 3, target: (urls) => ({ url: urls[1] }), rights: true },
}

const { which, s2, file } = options()
// Some tests make dozens of appends one after the other, and a store may be far away.
const timeout = s2 ? 30_000 : 5_000
if (s2) console.log(`The store is ${s2}: each test has ${timeout / 1000} s, not the suite's own 5 s.`)

for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1)) // which ends what it started
const rows = []
for (const name of which) rows.push(await run(name))
const table = [...(file && existsSync(file) ? JSON.parse(readFileSync(file)) : []), ...rows]
if (file) writeFileSync(file, JSON.stringify(table))
if (table.length > 1) console.table(Object.fromEntries(table.map(({ name, ...row }) => [name, row])))
if (rows.some((row) => row.passed !== core || row.failed > 0)) {
  console.log(`want ${core} passed in each setting`)
  process.exitCode = 1
}

async function run(name) {
  const began = performance.now()
  const rights = settings[name].rights && makeRights()
  const server = await start(settings[name].nodes, rights ? ["--auth", rights.file] : [])
  const target = await settings[name].target(server.urls)
  const results = await suite(target.url, rights?.token)
  rights?.remove()
  target.close?.()
  await server.stop()

  const passed = results.filter((r) => r.status === "passed").length
  const failed = results.filter((r) => r.status === "failed")
  for (const r of failed) console.log(`FAIL ${r.fullName}\n     ${(r.failureMessages[0] ?? "").split("\n")[0]}`)
  const seconds = Math.round((performance.now() - began) / 1000)
  const row = name + (s2 ? ` on ${s2}` : "")
  console.log(`conformance, ${row}: ${passed} passed, ${failed.length} failed, ${seconds} s`)
  return { name: row, passed, failed: failed.length, seconds }
}

// start is a Fantail with its nodes on free ports.
async function start(nodes, more) {
  const args = ["dev", `--nodes=${nodes}`, "--port=0", "--admin-port=0", "--s2-port=0", `--long-poll=${longPoll}ms`, ...more]
  if (s2) args.push(`--s2-endpoint=${s2}`)
  const child = spawned(fantail, ["--log-level=warn", ...args], { stdio: ["ignore", "pipe", "inherit"] })
  let stopping = false
  const exit = new Promise((done, lost) => {
    child.on("error", lost)
    child.on("exit", (code, signal) => {
      if (stopping && code === 0) done()
      else lost(new Error(`fantail ended with ${code ?? signal}`))
    })
  })
  // It says where its nodes are, a line each; later lines are read so that it can go on.
  const up = new Promise((done) => {
    const urls = []
    createInterface(child.stdout).on("line", (line) => {
      const url = line.match(/^ +node-\d+ +(http:\S+)/)?.[1]
      if (url && urls.push(url) === nodes) done(urls)
    })
  })
  return {
    urls: await Promise.race([up, exit]),
    stop() {
      stopping = true
      child.kill()
      return exit
    },
  }
}

// makeRights makes a file of rights with one issuer, whose tokens may do everything, and a token.
function makeRights() {
  const dir = mkdtempSync(join(tmpdir(), "conformance-rights-"))
  const secret = join(dir, "secret")
  const file = join(dir, "rights.yaml")
  writeFileSync(secret, randomBytes(32).toString("hex"))
  writeFileSync(file, `issuers:
  - iss: conformance
    keys: { secret: ${secret}, alg: HS256 }
    audience: [fantail]
    projects: [default]
    grants: [ { actions: ["*"], streams: ["**"] } ]
`)
  const mint = ["token", "mint", "--key", secret, "--alg", "HS256", "--issuer", "conformance", "--audience", "fantail", "--subject", "suite", "--ttl", "1h"]
  const token = execFileSync(fantail, mint, { encoding: "utf8" }).trim()
  return { file, token, remove: () => rmSync(dir, { recursive: true }) }
}

// suite is the result of every test, run against url.
async function suite(url, token = "") {
  const dir = mkdtempSync(join(tmpdir(), "conformance-"))
  try {
    const out = join(dir, "results.json")
    const vitest = join(here, "node_modules/vitest/vitest.mjs")
    const child = spawned(process.execPath, [vitest, "run", "--reporter=json", `--outputFile=${out}`], {
      cwd: here,
      stdio: ["ignore", "ignore", "inherit"],
      env: { ...process.env, CONFORMANCE_URL: url, CONFORMANCE_LONG_POLL: longPoll, CONFORMANCE_TIMEOUT: timeout, CONFORMANCE_TOKEN: token },
    })
    await new Promise((done, lost) => child.on("exit", done).on("error", lost))
    const files = JSON.parse(readFileSync(out)).testResults
    for (const f of files) if (f.message) console.log(f.message) // the file itself failed
    return files.flatMap((f) => f.assertionResults)
  } finally {
    rmSync(dir, { recursive: true })
  }
}

// spawned is a process that ends with this one at the latest.
function spawned(...args) {
  const child = spawn(...args)
  const kill = () => child.kill()
  process.on("exit", kill)
  child.on("exit", () => process.off("exit", kill))
  return child
}

function options() {
  try {
    const { values, positionals } = parseArgs({ allowPositionals: true, options: { s2: { type: "string" }, table: { type: "string" } } })
    const [name, more] = positionals
    const which = name === "all" ? Object.keys(settings) : [name]
    if (more === undefined && (name === "all" || Object.hasOwn(settings, name))) return { which, s2: values.s2, file: values.table }
  } catch {} // an unknown option
  console.error(`usage: node run.mjs ${Object.keys(settings).join("|")}|all [--s2 URL] [--table FILE]`)
  process.exit(2)
}
