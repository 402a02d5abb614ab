// Runs real client programs against three nodes; README.md has the list. --jobs N runs so many checks at a time, each of
// the N in a process of its own: a check hears of every error in its process that nobody waited for.

import { spawn } from "node:child_process"
import { setMaxListeners } from "node:events"
import { createInterface } from "node:readline"
import { format } from "node:util"
import { startFleet } from "./fleet.mjs"
import ai from "./checks/ai-sdk.mjs"
import applications from "./checks/applications.mjs"
import browser from "./checks/browser.mjs"
import client from "./checks/client.mjs"
import curl from "./checks/curl.mjs"
import go from "./checks/go.mjs"
import oidc from "./checks/oidc.mjs"
import python from "./checks/python.mjs"
import rightsBrowser from "./checks/rights-browser.mjs"
import roots from "./checks/roots.mjs"
import rights from "./checks/rights.mjs"
import state from "./checks/state.mjs"
import yjs from "./checks/yjs.mjs"

const checks = { ...client, ...state, ...yjs, ...ai, ...roots, ...python, ...go, ...browser, ...applications, ...curl, ...rights, ...oidc, ...rightsBrowser }
const args = process.argv.slice(2)
const jobs = args[0] === "--jobs" ? Number(args.splice(0, 2)[1]) : 1
const names = args
const unknown = names.filter((name) => !Object.hasOwn(checks, name))
if (unknown.length > 0) {
  console.error(`no check ${unknown.join(", ")}; there are: ${Object.keys(checks).join(" ")}`)
  process.exit(2)
}

if (jobs > 1) process.exit(await share(names.length > 0 ? names : Object.keys(checks)))

for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1)) // which ends what it started
let lost // an error that nobody waited for fails the check during which it came
process.on("unhandledRejection", (err) => (lost ??= err))

let passed = 0
let failed = 0
for (const name of names.length > 0 ? names : Object.keys(checks)) {
  const began = performance.now()
  const error = await check(checks[name])
  const seconds = ((performance.now() - began) / 1000).toFixed(1)
  if (error) failed++
  else passed++
  console.log(`${name.padEnd(22)} ${error ? "FAILED" : "passed"} ${seconds.padStart(6)} s`)
  if (error) console.log(`    ${(error.stack ?? String(error)).replaceAll("\n", "\n    ")}`)
}
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed > 0 ? 1 : 0)

// share runs the checks in several processes, each with every so-manieth of them, and answers the exit code.
async function share(all) {
  const children = Array.from({ length: jobs }, (_, i) => all.filter((_, at) => at % jobs === i)).filter((mine) => mine.length > 0)
    .map((mine) => spawn(process.execPath, [process.argv[1], ...mine], { stdio: ["ignore", "pipe", "inherit"] }))
  for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => children.forEach((child) => child.kill(signal)))
  const sum = [0, 0]
  const codes = await Promise.all(children.map(async (child) => {
    const over = new Promise((done) => child.on("close", (code) => done(code)))
    for await (const line of createInterface(child.stdout)) {
      const counts = line.match(/^(\d+) passed, (\d+) failed$/)
      if (counts) counts.slice(1).forEach((n, i) => (sum[i] += Number(n)))
      else console.log(line)
    }
    return over
  }))
  console.log(`${sum[0]} passed, ${sum[1]} failed`)
  return codes.every((code) => code === 0) && sum[0] + sum[1] === all.length ? 0 : 1
}

// check runs one, with a fleet of its own; it answers what went wrong. What libraries
// print meanwhile is shown if it failed. The fleet's settings may be a function, which makes
// what the fleet needs, and removes that when its signal says that the check is over.
async function check({ seconds = 60, fleet: settings, run }) {
  lost = undefined
  const printed = []
  const { log, warn, error: err } = console
  console.log = console.warn = console.error = (...args) => void printed.push(format(...args))
  const over = new AbortController()
  setMaxListeners(0, over.signal)
  let fleet, timer, error
  try {
    fleet = await startFleet(typeof settings === "function" ? await settings(over.signal) : settings)
    const late = new Promise((_, lose) => {
      timer = setTimeout(() => {
        const err = new Error(`not done after ${seconds} s`)
        lose(err)
        over.abort(err)
      }, seconds * 1000)
    })
    await Promise.race([run(fleet, over.signal), late])
    for (const node of fleet.nodes.filter((n) => n.living)) {
      const m = await fleet.metrics(node)
      if (m.fantail_gaps_detected_total !== 0) throw new Error(`${node.name} saw a gap`)
    }
  } catch (err) {
    error = err
  }
  clearTimeout(timer)
  over.abort(new Error("the check is over"))
  error ??= lost
  await fleet?.stop()
  Object.assign(console, { log, warn, error: err })
  if (error) for (const line of [...printed, ...(fleet?.log() ?? [])].slice(-20)) console.log(`    ${line}`)
  return error
}
