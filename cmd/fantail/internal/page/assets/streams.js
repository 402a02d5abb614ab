// The streams that are used most, and where one is.

import { ask } from "./api.js"
import { $, bytes, count, el, keyed, plural, setText } from "./dom.js"
import { nodeName, rate, setRingStreams } from "./fleet.js"

export function showStreams(answer) {
  const { streams, more, silent } = answer
  setRingStreams(streams)
  const rows = $("stream-rows")
  if (streams.length === 0) {
    rows.replaceChildren(el("tr", {}, el("td", { colspan: "7", class: "none" }, "No stream is in use.")))
  } else {
    rows.querySelector("td.none")?.closest("tr").remove()
    keyed(rows, streams, (stream) => stream.stream, makeRow, fillRow)
  }
  const notes = []
  if (more) notes.push(`The first ${streams.length}; there are more.`)
  if (silent.length > 0) notes.push(`Without what ${silent.join(", ")} would say.`)
  setText($("streams-note"), notes.join(" "))
}

function makeRow(stream) {
  return el("tr", {}, el("th", { scope: "row", class: "name mono" }, stream.stream), el("td"), el("td", { class: "number" }), el("td", { class: "places" }), el("td", { class: "number" }), el("td", { class: "number" }), el("td", { class: "number" }))
}

function fillRow(row, stream) {
  const [, owner, readers, nodes, messages, size, speed] = row.children
  if (owner.textContent !== (stream.owner || "nobody")) owner.replaceChildren(nodeName(stream.owner))
  setText(readers, count(stream.readers))
  setText(nodes, stream.nodes.filter((on) => on.readers > 0).map((on) => `${on.name} ${count(on.readers)}`).join(", ") || "–")
  setText(messages, count(stream.messages_total))
  setText(size, bytes(stream.bytes_total))
  const grows = rate(`stream ${stream.stream}`, stream.bytes_total)
  setText(speed, stream.closed ? "closed" : grows == null ? "…" : bytes(grows))
}

export async function findOwner(text) {
  const name = text.trim().replace(/^.*\/v1\/stream\//, "")
  const stream = name.includes("/") ? name : `default/${name}`
  const found = $("found")
  found.hidden = false
  try {
    const at = await ask(`/admin/owner?stream=${encodeURIComponent(stream)}`)
    const read = at.nodes.filter((node) => node.readers > 0).map((node) => `${node.name} (${count(node.readers)})`)
    const parts = [`${at.stream}: ${at.owner || "nobody"} owns it`]
    if (at.successor) parts.push(`${at.successor} would follow`)
    for (const next of at.next) parts.push(`from ${new Date(next.from).toLocaleTimeString("en", { hour12: false })} on ${next.owner}`)
    const holds = at.nodes.some((node) => node.holds)
    parts.push(holds ? `${plural(at.readers, "reader")}${read.length > 0 ? ` at ${read.join(", ")}` : ""}` : "in no node’s memory")
    if (at.silent.length > 0) parts.push(`no answer from ${at.silent.join(", ")}`)
    found.textContent = parts.join("; ") + "."
  } catch (err) {
    found.textContent = err.message
  }
}
