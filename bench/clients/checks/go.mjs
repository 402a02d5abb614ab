// A small reader in Go (reader/), the standard library only.

import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { createJSON, ensure, produce, run, same, scratch, start, until } from "../tools.mjs"

const here = join(dirname(fileURLToPath(import.meta.url)), "..")

export default { "go-reader": { run: reader, seconds: 120 } }

// Readers at every node; the owner is killed while a producer writes.
function reader(fleet, signal) {
  return scratch(async (dir) => {
    const binary = join(dir, "reader")
    await run(signal, "go", ["build", "-buildvcs=false", "-o", binary, "./reader"], { cwd: here })
    const url = fleet.stream("go")
    await createJSON(url)
    const readers = Array.from({ length: 6 }, () => start(signal, binary, [url]))
    await until("a reader at each node", () => fleet.readersEverywhere("sse"))
    const ender = await fleet.ender("SIGKILL")
    const list = await produce({ url, signal, half: ender.end, enough: () => ender.over })
    for (const [i, r] of readers.entries()) {
      await r.done
      same(`reader ${i}`, r.stdout.trimEnd().split("\n").map((line) => JSON.parse(line)), list)
    }
    const cut = readers.filter((r) => r.stderr.includes("resuming")).length
    ensure(cut > 0 && cut < readers.length, `${cut} of ${readers.length} readers were cut`)
  })
}
