// @durable-streams/state: rows in TanStack DB, made from a stream of change events.

import { randomUUID } from "node:crypto"
import { stream } from "@durable-streams/client"
import { MaterializedState, createStateSchema } from "@durable-streams/state"
import { createStreamDB } from "@durable-streams/state/db"
import { createJSON, same, until } from "../tools.mjs"

const anything = { "~standard": { version: 1, vendor: "check", validate: (value) => ({ value }) } }
const schema = createStateSchema({
  users: { schema: anything, type: "user", primaryKey: "id" },
  notes: { schema: anything, type: "note", primaryKey: "id" },
})

export default { state: { run: state } }

async function state(fleet, signal) {
  const url = fleet.stream("state")
  const handle = await createJSON(url)
  const events = []
  const write = (...more) => {
    events.push(...more.map((e) => JSON.parse(JSON.stringify(e)))) // as it is on the wire
    return Promise.all(more.map((e) => handle.append(JSON.stringify(e))))
  }
  const users = Array.from({ length: 100 }, (_, i) => ({ id: `u${i}`, name: `user ${i}` }))
  await write(...users.map((value) => schema.users.insert({ value })))

  const open = (live) => createStreamDB({
    streamOptions: { url, contentType: "application/json", signal }, state: schema, live,
    actions: ({ db, stream }) => ({
      addNote: {
        onMutate: (note) => void db.collections.notes.insert(note),
        mutationFn: async (note) => {
          const event = schema.notes.insert({ value: note, headers: { txid: randomUUID() } })
          events.push(JSON.parse(JSON.stringify(event)))
          await stream.append(JSON.stringify(event))
          await db.utils.awaitTxId(event.headers.txid)
        },
      },
    }),
  })
  const want = (n = events.length) => {
    const model = new MaterializedState()
    for (const event of events.slice(0, n)) model.apply(event)
    return { users: sorted(model.getType("user").values(), "name"), notes: sorted(model.getType("note").values(), "text") }
  }
  const rows = (db) => ({ users: sorted(db.collections.users.toArray, "name"), notes: sorted(db.collections.notes.toArray, "text") })

  const one = open("sse")
  const two = open(true)
  await Promise.all([one.preload(), two.preload()])
  same("loaded", [rows(one), rows(two)], [want(), want()])

  // An action of one is seen by the other.
  await one.actions.addNote({ id: "n1", text: "of one" }).isPersisted.promise
  await two.actions.addNote({ id: "n2", text: "of two" }).isPersisted.promise
  await until("both have both notes", () => [one, two].every((db) => db.collections.notes.size === 2))
  same("after actions", [rows(one), rows(two)], [want(), want()])

  // One goes away, the other stays; what happens meanwhile is there when it is back.
  const offset = one.offset
  const before = events.length
  one.close()
  await write(
    schema.users.update({ value: { id: "u7", name: "changed" } }),
    schema.users.delete({ key: "u8" }),
    ...users.slice(0, 50).map(({ id }) => schema.users.upsert({ value: { id, name: `again ${id}` } })),
    schema.users.insert({ value: { id: "last", name: "last" } }),
  )
  await until("the one that stayed has it", () => two.collections.users.get("last"))
  same("stayed", rows(two), want())
  const back = open("sse")
  await back.preload()
  same("came back", rows(back), want())
  await write(schema.users.delete({ key: "last" }))
  await until("both see the deletion", () => ![back, two].some((db) => db.collections.users.get("last")))
  same("live again", [rows(back), rows(two)], [want(), want()])
  two.close()
  back.close()

  // The same with nothing but the events: what comes after the offset is the rest.
  const rest = await (await stream({ url, offset, signal })).json()
  same("after the offset", rest, events.slice(before))
}

const sorted = (rows, field) => [...rows].map((r) => ({ id: r.id, [field]: r[field] })).sort((a, b) => (a.id < b.id ? -1 : 1))
