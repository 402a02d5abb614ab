// Keeps rows in TanStack DB, made from a stream that the page's own site serves.

import { createStateSchema } from "@durable-streams/state"
import { createStreamDB } from "@durable-streams/state/db"

const query = new URLSearchParams(location.search)
const anything = { "~standard": { version: 1, vendor: "page", validate: (value) => ({ value }) } }
const state = createStateSchema({ users: { schema: anything, type: "user", primaryKey: "id" } })
const db = createStreamDB({
  streamOptions: { url: new URL(query.get("url"), location.href).href, contentType: "application/json", warnOnHttp: false },
  state,
  live: query.get("live") === "sse" ? "sse" : true,
  actions: ({ db, stream }) => ({
    add: {
      onMutate: (user) => void db.collections.users.insert(user),
      mutationFn: async (user) => {
        const event = state.users.insert({ value: user, headers: { txid: crypto.randomUUID() } })
        await stream.append(JSON.stringify(event))
        await db.utils.awaitTxId(event.headers.txid)
      },
    },
  }),
})

window.add = async (user) => {
  await db.actions.add(user).isPersisted.promise
}
window.rows = () => db.collections.users.toArray.map(({ id, name }) => ({ id, name })).sort((a, b) => (a.id < b.id ? -1 : 1))

await db.preload()
window.loaded = true
