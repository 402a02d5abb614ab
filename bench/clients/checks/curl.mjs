// curl -N: what a person sees of a live stream.

import { createJSON, ensure, events, produce, same, start, until } from "../tools.mjs"

export default {
  curl: { run: (fleet, signal) => transcript(fleet, signal, "1.1", []) },
  "curl-h2c": { run: (fleet, signal) => transcript(fleet, signal, "2", ["--http2-prior-knowledge"]) },
}

// At each node one that is there from the start; later one from Last-Event-ID.
async function transcript(fleet, signal, version, options) {
  const url = fleet.stream("curl")
  const at = (node) => url.replace(fleet.origin, `http://${node.at.http}`)
  const curl = (target, ...more) => start(signal, "curl",
    ["-sSN", ...options, "--write-out", "%{stderr}%{http_version} %{http_code}", ...more, target])
  const handle = await createJSON(url)
  const all = fleet.nodes.map((node) => curl(`${at(node)}?live=sse&offset=-1`))
  all.push(curl(`${url}?live=sse&offset=-1`)) // and one through the balancer
  await until("a reader at each node", () => fleet.readersEverywhere("sse"))
  await handle.append(JSON.stringify("first"))
  await until("everybody shows the first", () => all.every((c) => c.stdout.includes("first")))
  // The data event has the id of the place after it, which its control event only says.
  const shown = events(all[0].stdout)
  const mark = shown.findLast((e) => e.id)
  same("id of an event", mark.id, JSON.parse(shown.findLast((e) => e.type === "control").data).streamNextOffset)

  const list = await produce({ url, signal })
  for (const [i, c] of all.entries()) {
    await c.done // which the end of the stream brings
    check(`curl ${i}`, c, ["first", ...list])
  }
  for (const node of fleet.nodes) {
    const resumed = curl(`${at(node)}?live=sse&offset=-1`, "--header", `Last-Event-ID: ${mark.id}`)
    await resumed.done
    check("resumed", resumed, list)
  }
  const over = curl(`${url}?live=sse&offset=-1`, "--header", `Last-Event-ID: ${(await handle.head()).offset}`)
  await over.done
  same("at the end", [over.stdout, over.stderr], ["", `${version} 204`]) // which stops an EventSource

  function check(who, { stdout, stderr }, want) {
    const got = events(stdout)
    same(who, got.filter((e) => e.type === "data").flatMap((e) => JSON.parse(e.data)), want)
    ensure(JSON.parse(got.at(-1).data).streamClosed === true, `${who}: it does not say closed`)
    same(`${who}, version`, stderr, `${version} 200`)
  }
}
