// The Python client, durable-streams, in an environment of its own.

import { existsSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { all, ensure, run, same } from "../tools.mjs"

const here = join(dirname(fileURLToPath(import.meta.url)), "..")
const python = join(here, ".venv/bin/python")

export default { python: { run: client, seconds: 180 } }

async function client(fleet, signal) {
  if (!existsSync(python)) await run(signal, "python3", ["-m", "venv", join(here, ".venv")])
  await run(signal, python, ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", join(here, "python/requirements.txt")])
  await run(signal, python, ["-B", join(here, "python/client.py"), fleet.stream("python")])
  const want = Array.from({ length: 200 }, (_, i) => ({ i, text: `message ${i} é🪭\n` }))
  for (const mode of ["long-poll", "auto", "sse"]) same(`what it wrote, ${mode}`, await all(fleet.stream(`python-${mode}`), signal), want)
  for (const mode of ["long-poll", "sse"]) ensure(fleet.balancer.live(mode).length > 0, `no request with live=${mode}`)
}
