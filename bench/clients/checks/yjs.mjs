// @durable-streams/y-durable-streams: its server keeps documents in Fantail, and its
// provider keeps Yjs documents of several clients the same.

import { YjsProvider } from "@durable-streams/y-durable-streams"
import { YjsServer } from "@durable-streams/y-durable-streams/server"
import { Awareness } from "y-protocols/awareness"
import * as Y from "yjs"
import { ensure, same, until } from "../tools.mjs"

export default {
  yjs: { run: (fleet) => documents(fleet, 1 << 20) },
  "yjs-compaction": { run: (fleet) => documents(fleet, 2000) },
}

async function documents(fleet, compactionThreshold) {
  const server = new YjsServer({ dsServerUrl: fleet.origin, compactionThreshold })
  await server.start()
  const clients = []
  const open = () => {
    const doc = new Y.Doc()
    const awareness = new Awareness(doc)
    const client = { doc, awareness, errors: [], list: doc.getArray("list"), text: doc.getText("text"), map: doc.getMap("map") }
    client.provider = new YjsProvider({ doc, awareness, baseUrl: `${server.url}/v1/yjs/check`, docId: "folder/doc" })
    client.provider.on("error", (err) => client.errors.push(err))
    clients.push(client)
    return client
  }
  const all = ({ list, text, map }) => ({ list: list.toArray(), text: text.toString(), map: map.toJSON() })
  const synced = (...some) => until("synced", () => some.every((c) => c.provider.synced))
  const edit = async (client, name, n) => {
    for (let i = 0; i < n; i++) {
      client.list.push([`${name} ${i}`])
      client.text.insert(client.text.length >> 1, `${name}${i} `)
      client.map.set(`key ${i % 7}`, `${name} ${i}`)
      if (i % 10 === 9) await client.provider.flush()
    }
    await client.provider.flush()
  }
  try {
    const one = open()
    await synced(one) // it makes the document
    const two = open()
    await synced(two)
    one.awareness.setLocalState({ name: "one" })
    await until("presence", () => two.awareness.getStates().get(one.doc.clientID)?.name === "one")

    await Promise.all([edit(one, "one", 50), edit(two, "two", 50)])
    await until("both have all", () => one.list.length === 100 && two.list.length === 100)
    same("two", all(two), all(one))

    // Two goes away and edits; one edits, too; then two comes back.
    await two.provider.disconnect()
    two.list.push(["while away"])
    await edit(one, "meanwhile", 50)
    ensure(two.list.length === 101, "it was not away")
    await two.provider.connect()
    await synced(two)
    await until("two has what it missed", () => two.list.length === 151)
    // The provider sends no edits that were made while it was away: a client does.
    Y.applyUpdate(one.doc, Y.encodeStateAsUpdate(two.doc))
    await one.provider.flush()
    await until("the same again", () => one.list.length === 151 && two.list.length === 151)
    same("two, back", all(two), all(one))

    const puts = () => fleet.balancer.requests.filter((r) => r.method === "PUT" && r.url.pathname.includes("/.snapshots/"))
    if (compactionThreshold < 10_000) await until("a snapshot", () => puts().length > 0)
    else same("snapshots", puts().length, 0)
    const three = open() // from nothing, or from the snapshot
    await synced(three)
    await until("three has all", () => three.list.length === 151)
    same("three", all(three), all(one))
    await edit(three, "three", 20)
    await until("live at the end", () => [one, two].every((c) => c.list.length === 171))
    same("one and two", [all(one), all(two)], [all(three), all(three)])
    same("errors", clients.flatMap((c) => c.errors.map(String)), [])
  } finally {
    for (const { provider, awareness, doc } of clients) {
      await provider.disconnect()
      provider.destroy()
      awareness.destroy()
      doc.destroy()
    }
    await server.stop()
  }
}
