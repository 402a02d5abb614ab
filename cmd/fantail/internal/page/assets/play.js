// The playground of `fantail dev`: a writer, a reader at each node, and what kills nodes. Writing and
// reading is the public protocol alone, as in any page.

import { ask } from "./api.js"
import { $, announce, count, el, keyed, note, plural, setText } from "./dom.js"
import { colourOf } from "./fleet.js"

const author = crypto.randomUUID().slice(0, 8) // tells this page's messages from others'
let nodes = [] // {name, http, state}, as /dev/nodes has them
let again = {}
let stream = ""
let lifetime = 0 // grows with each stream that is opened: what belongs to an earlier one stops
const readers = new Map() // node → its reader

const running = () => nodes.filter((node) => node.state === "running")
const pause = (ms) => new Promise((done) => setTimeout(done, ms))
const path = (name) => "/v1/stream/" + name.split("/").map(encodeURIComponent).join("/")

export function start(_, polls) {
  again = polls
  $("open").addEventListener("click", () => open($("stream-name").value.trim()))
  $("writer").addEventListener("submit", async (event) => {
    event.preventDefault()
    const name = $("stream-name").value.trim()
    if (name !== stream && !(await open(name))) return
    write($("message").value)
  })
  $("steady").addEventListener("click", () => setSteady($("steady").getAttribute("aria-pressed") !== "true"))
  $("crowd-more").addEventListener("click", () => setCrowd(crowd + 100))
  $("crowd-none").addEventListener("click", () => setCrowd(0))
  $("crowd").hidden = false
}

// showNodes takes over what the nodes do.
export function showNodes(toys) {
  const first = nodes.length === 0
  nodes = toys.nodes
  for (const node of nodes) colourOf(node.name)
  const options = [{ name: "", text: "any node" }, ...nodes.map((node) => ({ name: node.name, text: node.name }))]
  keyed($("through"), options, (option) => option.name, (option) => el("option", { value: option.name }, option.text), () => {})
  keyed($("readers"), nodes.slice(0, 4), (node) => node.name, makeReader, (card, node) => {
    readers.get(node.name).goHome(node)
    fillButtons(card, { toy: node })
  })
  showCrowd(toys.readers)
  if (!first) return
  $("through").value = nodes[0].name
  showCommands()
}

function showCommands() {
  const [writer, reader] = [nodes[0], nodes.at(-1)]
  const at = path(stream || $("stream-name").value)
  setText($("commands"), [
    `curl -N '${reader.http}${at}?live=sse&offset=-1'`,
    `curl -H 'Content-Type: application/json' -d '"hello from a terminal"' ${writer.http}${at}`,
  ].join("\n"))
}

// Make a stream. PUT finds the one that is there.
async function open(name) {
  if (!$("stream-name").reportValidity()) return false
  const node = target()
  if (!node) return say("No node runs: start one below."), false
  try {
    const answer = await fetch(node.http + path(name), { method: "PUT", headers: { "Content-Type": "application/json" } })
    if (!answer.ok) return say(await explain(answer)), false
    say(answer.status === 201 ? `${name} is made.` : `${name} is there already.`)
  } catch (err) {
    return say(`${node.name} does not answer (${err.message}).`), false
  }
  stream = name
  lifetime++
  written = 0
  for (const reader of readers.values()) reader.open()
  showCommands()
  again.askStreams()
  return true
}

async function explain(answer) {
  const problem = await answer.json().catch(() => ({}))
  return `${problem.title ?? `Status ${answer.status}`}${problem.detail ? `: ${problem.detail}` : ""}`
}

// say shows the result of an action.
function say(text) {
  setText($("written"), text)
  announce(text)
}

let turn = 0
function target() {
  const wanted = $("through").value
  const able = running()
  return able.find((node) => node.name === wanted) ?? able[turn++ % Math.max(able.length, 1)]
}

// Write one message. The Producer- fields number it, so that a request which is sent again, because a
// node died before it answered, is stored once.
let written = 0
let queue = Promise.resolve()
function write(text) {
  const n = ++written
  const mine = lifetime
  const body = JSON.stringify({ by: author, n, text, at: Date.now() })
  queue = queue.then(() => deliver(n, body, mine)).catch((err) => say(err.message))
  return queue
}

async function deliver(n, body, mine) {
  const headers = { "Content-Type": "application/json", "Producer-Id": `page-${author}-${mine}`, "Producer-Epoch": "0", "Producer-Seq": String(n - 1) }
  for (let tries = 1; mine === lifetime; tries++) {
    const node = target()
    if (!node) {
      say("No node runs: start one below.")
      await pause(500)
      continue
    }
    const began = performance.now()
    try {
      const answer = await fetch(node.http + path(stream), { method: "POST", headers, body, signal: AbortSignal.timeout(8000) })
      if (answer.ok) return setText($("written"), `Message ${count(n)} is in S2, by way of ${node.name}, after ${Math.round(performance.now() - began)} ms${tries > 1 ? `, at try ${tries}` : ""}.`)
      if (answer.status < 500 && answer.status !== 429) throw new Refused(await explain(answer))
      setText($("written"), `${node.name} says: ${await explain(answer)}. Message ${count(n)} is sent again.`)
    } catch (err) {
      if (err instanceof Refused) {
        setSteady(false)
        throw err
      }
      setText($("written"), `${node.name} did not answer. Message ${count(n)} is sent again.`)
    }
    turn++
    await pause(200)
  }
}

class Refused extends Error {}

let steady = 0
async function setSteady(on) {
  $("steady").setAttribute("aria-pressed", String(on))
  setText($("steady"), on ? "Stop writing" : "Write 10 a second")
  const mine = ++steady
  if (!on) return
  const name = $("stream-name").value.trim()
  if (name !== stream && !(await open(name))) return setSteady(false)
  while (mine === steady) {
    const due = pause(100)
    await write($("message").value)
    await due
  }
}

// reader reads the stream with EventSource at its node, or elsewhere while that does not run.
class Reader {
  constructor(home, card) {
    this.home = home
    this.card = card
    this.list = card.querySelector(".messages")
    this.status = card.querySelector(".badge")
    this.where = card.querySelector(".where")
    this.counts = card.querySelectorAll(".counts b")
    this.received = this.missing = this.doubled = 0
  }

  // open reads the stream from its start.
  open() {
    this.received = this.missing = this.doubled = 0
    this.next = 1 // the number of this page's next message
    this.offset = "-1"
    this.list.replaceChildren()
    this.showCounts()
    this.connect(this.home.state === "running" ? this.home : running()[0])
  }

  connect(node) {
    this.events?.close()
    clearTimeout(this.retry)
    this.at = node
    if (!node) {
      this.show("waits", "warn", "no node runs")
      this.retry = setTimeout(() => this.connect(running()[0]), 500)
      return
    }
    const mine = lifetime
    const events = new EventSource(`${node.http}${path(stream)}?live=sse&offset=${this.offset}`)
    this.events = events
    events.onopen = () => {
      this.show("live", "good", node.name === this.home.name ? "" : `reads at ${node.name}`)
      if (this.lostAt) {
        const text = `The reader of ${this.home.name} continues at ${node.name} after ${((performance.now() - this.lostAt) / 1000).toFixed(1)} s.`
        this.line(el("li", { class: "note" }, `continues at ${node.name}`))
        note(text)
      }
      this.lostAt = null
    }
    events.addEventListener("data", (event) => {
      if (mine !== lifetime) return
      this.offset = event.lastEventId || this.offset
      for (const message of JSON.parse(event.data)) this.receive(message)
    })
    events.onerror = () => {
      if (this.events !== events) return
      this.lostAt ??= performance.now()
      this.show("reconnects", "warn", "")
      // EventSource would try the same node again. A balancer in front would pick another; here the page does.
      events.close()
      this.retry = setTimeout(() => {
        const others = running().filter((other) => other.name !== node.name)
        this.connect(others[Math.floor(Math.random() * others.length)] ?? running()[0])
      }, 250)
    }
  }

  // goHome returns to the reader's own node once it runs again.
  goHome(node) {
    const back = this.home.state !== "running" && node.state === "running"
    this.home = node
    if (back && stream && this.at && this.at.name !== node.name) {
      this.line(el("li", { class: "note" }, `back at ${node.name}`))
      this.connect(node)
    }
  }

  receive(message) {
    this.received++
    const ours = message?.by === author && typeof message.n === "number"
    if (ours) {
      if (message.n < this.next) this.doubled++
      else this.missing += message.n - this.next
      this.next = Math.max(this.next, message.n + 1)
    }
    const text = ours || typeof message?.text === "string" ? message.text : JSON.stringify(message)
    const late = ours ? `${Math.max(0, Date.now() - message.at)} ms` : ""
    this.line(el("li", {}, el("span", {}, ours ? `${message.n} ${text}` : text), el("span", { class: "late" }, late)))
    this.showCounts()
    announce(`${this.home.name} received: ${text}`)
  }

  line(item) {
    this.list.append(item)
    while (this.list.children.length > 60) this.list.firstChild.remove()
    if (!this.list.matches(":hover, :focus")) this.list.scrollTop = this.list.scrollHeight
  }

  showCounts() {
    for (const [i, n] of [this.received, this.missing, this.doubled].entries()) {
      setText(this.counts[i], count(n))
      if (i > 0) this.counts[i].parentElement.className = n > 0 ? "wrong-count" : ""
    }
  }

  show(word, how, where) {
    setText(this.status, word)
    this.status.className = `badge ${how}`
    setText(this.where, where)
  }
}

function makeReader(node) {
  const card = el("section", { class: `card ${colourOf(node.name)}`, "aria-label": `Reader at ${node.name}` },
    el("div", { class: "card-head" }, el("h3", {}, `Reader at ${node.name}`), el("span", { class: "badge" }, "idle")),
    el("ol", { class: "messages", tabindex: "0", "aria-label": `What the reader at ${node.name} received` }),
    el("p", { class: "counts" }, el("span", {}, "received ", el("b", {}, "0")), el("span", {}, "missing ", el("b", {}, "0")), el("span", {}, "doubled ", el("b", {}, "0")), el("span", { class: "where" })),
    makeButtons(node.name, ["kill", "start"], node.name))
  readers.set(node.name, new Reader(node, card))
  return card
}

// The buttons of a node's card, and those of a reader's: some of them.
const verbs = [
  ["kill", "Kill", "ends it as if its process had died"],
  ["stop", "Stop", "hands its streams over first, and sends its readers away"],
  ["start", "Start", "starts it again"],
]

export function makeButtons(name, some = ["kill", "stop", "start"], shown = "") {
  return el("div", { class: "row" }, verbs.filter(([verb]) => some.includes(verb)).map(([verb, text, help]) =>
    el("button", { type: "button", class: verb === "kill" ? "small danger" : "small", "data-verb": verb, title: help, "aria-label": `${text} ${name}`, click: (event) => act(event.currentTarget, verb, name) }, shown ? `${text} ${shown}` : text)))
}

export function fillButtons(card, { toy }) {
  const runs = toy?.state === "running"
  const rests = toy?.state === "stopped" || toy?.state === "killed"
  for (const button of card.querySelectorAll("[data-verb]")) {
    const start = button.dataset.verb === "start"
    button.hidden = start ? runs || !toy : !runs
    button.disabled = start ? !rests : false
  }
}

async function act(button, verb, name) {
  button.disabled = true
  note(`${name}: ${verb}.`)
  try {
    await ask(`/dev/nodes/${encodeURIComponent(name)}/${verb}`, { method: "POST", timeout: 30_000 })
  } catch (err) {
    note(`${name}: ${err.message}`)
  }
  again.askFleet()
}

// The crowd: readers in the process of `fantail dev`, since a browser opens six streams for each address.
let crowd = 0
async function setCrowd(wanted) {
  if (!stream && !(await open($("stream-name").value.trim()))) return
  try {
    const answer = await ask("/dev/readers", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ stream: path(stream), readers: wanted }) })
    showCrowd(answer)
    again.askFleet()
  } catch (err) {
    say(err.message)
  }
}

function showCrowd({ wanted, connected, limit }) {
  crowd = wanted
  setText($("crowd-text"), wanted === 0 ? "A hundred readers more, spread over the nodes?" : `${plural(connected, "reader")} more, spread over the nodes.`)
  $("crowd-more").disabled = wanted >= limit
  $("crowd-none").hidden = wanted === 0
}
