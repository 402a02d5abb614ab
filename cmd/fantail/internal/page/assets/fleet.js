// The nodes, the ring, the meter and S2.

import { $, count, dollars, el, keyed, note, plural, setText } from "./dom.js"

const colours = 9
const seen = [] // the nodes' names in the order of their colours

// colourOf returns the class with a node's colour, which stays the node's.
export function colourOf(name) {
  if (!seen.includes(name)) seen.push(name)
  return `n${seen.indexOf(name) % colours}`
}

export const nodeName = (name) => el("span", { class: `node-name ${name ? colourOf(name) : ""}` }, el("span", { class: "dot", "aria-hidden": "true" }), name || "nobody")

const rates = new Map() // what is counted → the last count and its rate

// rate returns how fast a counter grows, in one second; null: it is not known yet.
export function rate(name, value, now = performance.now()) {
  const last = rates.get(name)
  if (!last || value < last.value) {
    rates.set(name, { value, at: now, rate: null })
    return null
  }
  if (now - last.at > 900) rates.set(name, { value, at: now, rate: ((value - last.value) * 1000) / (now - last.at) })
  return rates.get(name).rate
}

// entries returns one entry for each node: the members, and the nodes of `fantail dev` that do not run.
function entries(fleet, toys) {
  const members = fleet?.members ?? []
  const list = members.map((member) => ({ name: member.name, key: member.member, member, toy: null }))
  for (const toy of toys?.nodes ?? []) {
    const mine = list.filter((entry) => entry.name === toy.name)
    if (mine.length > 0) mine.at(-1).toy = toy
    else list.push({ name: toy.name, key: toy.name, member: null, toy })
  }
  list.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }))
  for (const entry of list) colourOf(entry.name)
  return list
}

// state returns what a node is doing, in a word, and how good that is.
function state({ member, toy }) {
  if (toy && toy.state !== "running") return [{ stopped: "stopped", killed: "killed", starting: "starting…", stopping: "stopping…" }[toy.state] ?? toy.state, "bad"]
  if (!member) return ["starting…", "warn"]
  const node = member.node
  if (!node) return toy && !member.owner ? ["joining…", "warn"] : ["no answer", "bad"]
  if (node.drain.state !== "serving") return [node.drain.state, "warn"]
  return node.ready ? ["ready", "good"] : ["not ready", "warn"]
}

let partitions = 4093

export function showFleet(fleet, toys, play) {
  partitions = fleet?.partitions ?? partitions
  const list = entries(fleet, toys)
  const ready = list.filter((entry) => state(entry)[1] === "good").length
  setText($("health"), `${ready} of ${plural(list.length, "node")} ready`)
  $("health").className = `badge ${ready === list.length ? "good" : ready > 0 ? "warn" : "bad"}`
  keyed($("nodes"), list, (entry) => entry.key, (entry) => makeCard(entry, play), (card, entry) => fillCard(card, entry, play))
  showRing(fleet)
}

function makeCard(entry, play) {
  const card = el("li", { class: `card ${colourOf(entry.name)}` })
  card.append(el("div", { class: "card-head" }, el("h3", {}, entry.name), el("span", { class: "badge" })), el("dl"), el("p", { class: "why", hidden: true }), el("progress", { hidden: true, max: 1, "aria-label": `Drain of ${entry.name}` }))
  if (play) card.append(play.makeButtons(entry.name))
  return card
}

function fillCard(card, entry, play) {
  const [word, how] = state(entry)
  const badge = card.querySelector(".badge")
  setText(badge, word)
  badge.className = `badge ${how}`
  card.classList.toggle("off", how === "bad")
  const { member } = entry
  const node = member?.node
  const lines = []
  if (member && !(entry.toy && entry.toy.state !== "running")) {
    lines.push(["Owns", member.owner ? `${((100 * member.partitions) / partitions).toFixed(1)} % of the ring` : "nothing"])
    if (node) {
      const delivered = rate(`delivered ${member.member}`, node.delivered_messages_total)
      lines.push(
        ["Streams", count(node.owned_streams)],
        ["Readers", count(Object.values(node.readers).reduce((sum, n) => sum + n, 0))],
        ["Sessions", count(node.s2_read_sessions)],
        ["Delivers", delivered == null ? "…" : `${count(delivered)} a second`],
      )
    }
    if (!member.self && member.link === "up") lines.push(["Clock off", `${count(Math.abs(member.clock_ahead_ms))} ms`])
    lines.push(["Address", node?.http ?? member.http])
    if (node) lines.push(["Version", node.version])
  } else if (entry.toy) lines.push(["Address", entry.toy.http.replace("http://", "")])
  keyed(card.querySelector("dl"), lines.flatMap(([term, value]) => [{ key: `t ${term}`, tag: "dt", text: term }, { key: `d ${term}`, tag: "dd", text: value }]), (line) => line.key, (line) => el(line.tag), (child, line) => setText(child, line.text))
  const reason = node?.not_ready_reason || (member?.store_down ? "S2 answers other nodes and not this one" : "")
  const why = card.querySelector(".why")
  why.hidden = !reason || reason === word
  setText(why, reason)
  const progress = card.querySelector("progress")
  const drain = node?.drain
  progress.hidden = drain?.readers_at_start == null
  if (!progress.hidden) {
    const all = drain.readers_at_start + drain.streams_at_start
    progress.value = all > 0 ? Math.max(0, 1 - (drain.readers + drain.streams) / all) : drain.state === "drained" ? 1 : 0
  }
  play?.fillButtons(card, entry)
}

// The ring: the circumference is the number of partitions, and each owner has an arc of its share.
let streamsOnRing = []
export function setRingStreams(streams) {
  streamsOnRing = streams
}

const radius = 104
function showRing(fleet) {
  const ring = $("ring")
  const owners = (fleet?.members ?? []).filter((member) => member.partitions > 0)
  const whole = partitions
  let arcs = ring.querySelector("g")
  if (!arcs) {
    arcs = el("svg:g", { transform: "rotate(-90)" })
    ring.append(el("svg:circle", { class: "track", r: radius }), arcs, el("svg:g", { id: "ring-streams" }), el("svg:text", { y: 4 }), el("svg:text", { class: "unit", y: 26 }))
  }
  let start = 0
  const middles = new Map()
  keyed(arcs, owners, (owner) => owner.name, (owner) => el("svg:circle", { class: `arc ${colourOf(owner.name)}`, r: radius, pathLength: whole }), (arc, owner) => {
    const gap = owners.length > 1 ? 14 : 0
    arc.style.strokeDasharray = `${Math.max(owner.partitions - gap, 1)} ${whole}`
    arc.style.strokeDashoffset = String(-start)
    middles.set(owner.name, [start, owner.partitions - gap])
    start += owner.partitions
  })
  const perOwner = new Map()
  const dots = streamsOnRing.filter((stream) => middles.has(stream.owner)).slice(0, 40)
  for (const stream of dots) perOwner.set(stream.owner, (perOwner.get(stream.owner) ?? 0) + 1)
  const placed = new Map()
  keyed(ring.querySelector("#ring-streams"), dots, (stream) => stream.stream, () => el("svg:circle", {}, el("svg:title")), (dot, stream) => {
    const [from, length] = middles.get(stream.owner)
    const i = (placed.get(stream.owner) ?? 0) + 1
    placed.set(stream.owner, i)
    const angle = ((from + (length * i) / (perOwner.get(stream.owner) + 1)) / whole) * 2 * Math.PI - Math.PI / 2
    dot.setAttribute("class", `stream ${colourOf(stream.owner)}`)
    dot.setAttribute("cx", (radius * Math.cos(angle)).toFixed(1))
    dot.setAttribute("cy", (radius * Math.sin(angle)).toFixed(1))
    dot.setAttribute("r", String(Math.min(9, 5 + Math.log10(1 + stream.readers))))
    setText(dot.firstChild, `${stream.stream}, ${plural(stream.readers, "reader")}`)
  })
  const [number, unit] = ring.querySelectorAll("text")
  setText(number, count(owners.length))
  setText(unit, owners.length === 1 ? "owner" : "owners")
  setText($("ring-text"), `Shares of the ring: ${owners.map((owner) => `${owner.name} ${Math.round((100 * owner.partitions) / whole)} percent`).join(", ") || "none"}`)
  const coming = (fleet?.changes ?? []).map((at) => Math.max(0, (new Date(at) - new Date(fleet.at)) / 1000))
  const silent = owners.filter((owner) => !owner.answered).map((owner) => owner.name)
  setText($("ring-caption"), silent.length > 0 ? `${silent.join(", ")}: no answer. The others take over as soon as they are sure.` : coming.length > 0 ? `Owners change in ${Math.min(...coming).toFixed(1)} s.` : "Each stream’s name has a place on the ring, and with it an owner.")
}

export function showMeter(fleet) {
  const { readers, read_streams: readStreams, s2_read_sessions: sessions, dollars_a_month: price } = fleet.meter
  const lead = $("meter-lead")
  const saved = price.saved
  setText(lead, readers === 0
    ? "Nobody reads now, so no read of S2 needs to be open."
    : `${plural(readers, "reader")} ${readers === 1 ? "uses" : "share"} ${plural(sessions, "open read")} of S2.` + (saved > 0.005 ? ` With a read for each, it would be ${dollars(saved)} a month more.` : ""))
  lead.className = "lead big"
  const rows = [
    ["reader (thin adapter)", readers, price.thin_adapter],
    ["node and stream (fan-out)", readStreams, price.fan_out],
    ["stream (Fantail)", sessions, price.fantail],
  ]
  const most = Math.max(...rows.map((row) => row[2]), 1e-9)
  keyed($("bars"), rows, (row) => row[0], (row) => el("tr", {}, el("th", { scope: "row" }, row[0]), el("td", { class: "number" }), el("td", { class: "number" }), el("td", {}, el("div", { class: "bar", "aria-hidden": "true" }))), (tr, [, n, cost]) => {
    setText(tr.children[1], count(n))
    setText(tr.children[2], dollars(cost))
    tr.querySelector(".bar").style.width = cost > 0 ? `max(3px, ${(100 * cost) / most}%)` : "0"
  })
  const usage = fleet.meter.s2_usage
  $("meter-usage").hidden = !usage
  if (usage) {
    setText($("meter-usage"), `S2’s own metrics of the last hour: ${count(usage.session_minutes)} minutes of open reads, ${count(usage.reads)} reads, ${count(usage.appends)} minutes of appends. At that rate: ${dollars(usage.dollars_a_month)} a month.`)
  }
}

export function showS2(fleet) {
  const nodes = fleet.members.filter((member) => member.node)
  const down = nodes.filter((member) => !member.node.s2.up)
  setText($("s2-lead"), down.length === 0
    ? "S2 answers every node. It has all messages; nodes hold caches."
    : `S2 does not answer ${down.map((member) => member.name).join(", ")}. Appends there are refused; readers stay and get what is in memory.`)
  keyed($("s2-rows"), nodes, (member) => member.member, (member) => el("tr", {}, el("th", { scope: "row" }, nodeName(member.name)), el("td", {}, el("span")), ...[1, 2, 3, 4, 5].map(() => el("td", { class: "number" }))), (tr, member) => {
    const { s2, s2_read_sessions: sessions } = member.node
    const calls = s2.requests_total
    const badge = tr.children[1].firstChild
    setText(badge, s2.up ? "yes" : "no")
    badge.className = `badge ${s2.up ? "good" : "bad"}`
    const all = Object.values(calls).reduce((sum, n) => sum + n, 0)
    const speed = rate(`s2 ${member.member}`, all)
    for (const [i, text] of [count(sessions), count(calls.append ?? 0), count(calls.read ?? 0), count(calls["check-tail"] ?? 0), speed == null ? "…" : speed.toFixed(1)].entries()) setText(tr.children[2 + i], text)
  })
}

// noteChanges writes what changed since the last look into what happened.
let before = null
export function noteChanges(fleet, toys) {
  const now = new Map()
  for (const entry of entries(fleet, toys)) now.set(entry.name, { word: state(entry)[0], owner: entry.member?.owner ?? false, s2: entry.member?.node?.s2.up })
  for (const [name, is] of now) {
    const was = before?.get(name)
    if (before && !was) note(`${name} joined.`)
    if (!was) continue
    if (was.word !== is.word) note(`${name} is ${is.word.replace("…", "")}.`)
    if (was.owner && !is.owner) note(`${name} owns no streams any more; others have taken them over.`)
    if (!was.owner && is.owner) note(`${name} owns its share of the streams.`)
    if (was.s2 && is.s2 === false) note(`S2 does not answer ${name}.`)
    if (was.s2 === false && is.s2) note(`S2 answers ${name} again.`)
  }
  for (const name of before?.keys() ?? []) if (!now.has(name)) note(`${name} has left.`)
  if (!before) note(`${plural(now.size, "node")}, ${[...now.values()].filter((is) => is.word === "ready").length} ready.`)
  before = now
}
