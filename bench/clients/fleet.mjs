// A fleet: `fantail s2`, three `fantail serve` that joined each other, and a TCP
// balancer in front of them. All on free ports of loopback; it ends only what it
// started.

import { spawn } from "node:child_process"
import net from "node:net"
import { dirname, join } from "node:path"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { until } from "./tools.mjs"

const fantail = process.env.FANTAIL ?? join(dirname(fileURLToPath(import.meta.url)), "../../bin/fantail")
const size = 3

// startFleet starts one. auth is a file of rights, tls the files of a certificate and its key, roots are further paths
// with streams (--root).
export async function startFleet(settings = {}) {
  const { longPoll = "2s", grace = "10s", auth, tls, roots = [] } = settings
  const more = [...roots.map((root) => `--root=${root}`), ...(auth ? [`--auth=${auth}`] : []), ...(tls ? [`--tls-cert=${tls.cert}`, `--tls-key=${tls.key}`] : [])]
  const processes = []
  const spawned = async (...args) => {
    const p = spawnNode(...args)
    processes.push(p)
    await p.ready
    return p
  }
  const stop = async () => {
    await Promise.all(processes.map((p) => p.kill("SIGKILL")))
  }
  try {
    const s2 = await spawned("embedded S2", "s2", "--listen=127.0.0.1:0")
    const nodes = []
    for (let i = 0; i < size; i++) {
      const join = i > 0 ? [`--join=${nodes[0].at.gossip}`] : []
      nodes.push(await spawned("serving", "serve", `--name=node-${i}`, "--http=127.0.0.1:0", "--admin=127.0.0.1:0",
        `--s2-endpoint=${s2.at.url}`, "--s2-basin=fantail-clients", "--s2-create-basins", "--cluster=clients",
        "--secret=00112233445566778899aabbccddeeff", "--gossip=127.0.0.1:0", "--relay=127.0.0.1:0",
        `--long-poll=${longPoll}`, `--grace=${grace}`, "--linger=0s", "--drain=2s", ...more, ...join))
    }
    await until("the nodes know each other", async () => {
      for (const node of nodes) {
        const ready = await fetch(`http://${node.at.admin}/readyz`)
        await ready.body.cancel()
        const m = await metrics(node)
        if (!ready.ok || m.fantail_links_up !== size - 1 || m.fantail_owners !== size) return false
      }
      return true
    })
    const balancer = await startBalancer(nodes)
    // owner is the node with the read session of the one stream that is followed.
    const owner = () => until("one living node has the only read session", async () => {
      const living = nodes.filter((n) => n.living)
      const sessions = await Promise.all(living.map(async (n) => (await metrics(n)).fantail_s2_read_sessions))
      return sessions.reduce((a, b) => a + b) === 1 && living[sessions.indexOf(1)]
    })
    return {
      settings,
      nodes,
      balancer,
      origin: balancer.origin,
      stream: (name) => `${balancer.origin}/v1/stream/clients/${name}`,
      metrics,
      owner,
      // ender ends the owner when told to, and knows whether that is over: it is gone,
      // and another node owns the stream.
      async ender(how) {
        const node = await owner()
        const ender = { over: false, code: undefined }
        ender.end = async () => {
          ender.code = await node.kill(how)
          await owner()
          ender.over = true
        }
        return ender
      },
      // drain moves readers and streams away from a node, which goes on. The balancer, as one that asks /readyz,
      // sends it no further connections.
      async drain(node) {
        balancer.leave(node)
        const ask = async (method) => (await fetch(`http://${node.at.admin}/admin/drain`, { method })).json()
        await ask("POST")
        await until(`${node.name} is drained`, async () => (await ask("GET")).state === "drained")
      },
      // readersEverywhere: each node has at least one.
      readersEverywhere: async (mode) => {
        const all = await Promise.all(nodes.map(metrics))
        return all.every((m) => m[`fantail_readers{mode="${mode}"}`] > 0)
      },
      log: () => processes.flatMap((p) => p.log),
      async stop() {
        balancer.close()
        await stop()
      },
    }
  } catch (err) {
    await stop()
    throw err
  }
}

// spawnNode is a process that is ready when it logs the message says.
function spawnNode(says, ...args) {
  const child = spawn(fantail, ["--log-format=json", ...args], { stdio: ["ignore", "ignore", "pipe"] })
  const p = {
    name: args.find((a) => a.startsWith("--name="))?.slice(7) ?? args[0],
    at: {}, living: true, log: [],
  }
  const atExit = () => child.kill("SIGKILL")
  process.on("exit", atExit)
  p.ended = new Promise((done) => {
    child.on("error", done)
    child.on("exit", (code, signal) => done(code ?? signal))
  }).then((how) => {
    process.off("exit", atExit)
    p.living = false
    return how
  })
  const ready = new Promise((done, late) => {
    const timer = setTimeout(() => late(new Error(`${p.name} does not say "${says}" within 20 s`)), 20_000)
    p.ended.then(() => clearTimeout(timer))
    createInterface(child.stderr).on("line", (line) => {
      let entry
      try {
        entry = JSON.parse(line)
      } catch {
        entry = { level: "ERROR", msg: line } // a panic
      }
      if (entry.msg === says) {
        clearTimeout(timer)
        done((p.at = entry))
      }
      if (entry.level !== "INFO") p.log.push(`${p.name} ${line}`)
    })
  })
  p.ready = Promise.race([ready, p.ended.then((how) => Promise.reject(new Error(`${fantail} ${args[0]} ended: ${how} ${p.log.at(-1) ?? ""}`)))])
  p.ready.catch(() => {})
  p.kill = (signal) => {
    p.living = false
    child.kill(signal)
    return p.ended
  }
  return p
}

// metrics of a node, by name with labels.
async function metrics(node) {
  const text = await (await fetch(`http://${node.at.admin}/metrics`)).text()
  const lines = text.split("\n").filter((line) => line && !line.startsWith("#"))
  return Object.fromEntries(lines.map((line) => [line.slice(0, line.lastIndexOf(" ")), Number(line.slice(line.lastIndexOf(" ") + 1))]))
}

const head = /(GET|HEAD|PUT|POST|DELETE|OPTIONS) (\S+) HTTP\/1\.1\r\n((?:[^\r\n]+\r\n)*)\r\n/g

// startBalancer gives each new connection to the next node that takes it. It passes
// bytes on as they are, and notes the head of each HTTP/1.1 request.
async function startBalancer(nodes) {
  const requests = []
  const open = new Set()
  const left = new Set() // nodes that get no further connections
  let turn = 0
  const server = net.createServer({ allowHalfOpen: true, noDelay: true }, (client) => {
    open.add(client)
    client.on("close", () => open.delete(client))
    client.on("error", () => {})
    connect(client, nodes.length)
  })

  function connect(client, tries) {
    if (tries === 0) return client.resetAndDestroy()
    const node = nodes[turn++ % nodes.length]
    if (left.has(node)) return connect(client, tries - 1)
    const [host, port] = node.at.http.split(":")
    const upstream = net.connect({ host, port, allowHalfOpen: true, noDelay: true })
    const refused = () => connect(client, tries - 1)
    upstream.once("error", refused)
    upstream.once("connect", () => {
      upstream.off("error", refused)
      upstream.on("error", () => client.resetAndDestroy())
      client.on("error", () => upstream.resetAndDestroy())
      client.on("close", () => upstream.destroy())
      let seen = ""
      client.on("data", (bytes) => {
        seen += bytes.toString("latin1")
        let end = 0
        for (const [all, method, path, lines] of seen.matchAll(head)) {
          end = seen.indexOf(all, end) + all.length
          const headers = new Headers(lines.split("\r\n").slice(0, -1).map((l) => [l.slice(0, l.indexOf(":")), l.slice(l.indexOf(":") + 1).trim()]))
          requests.push({ method, url: new URL(path, "http://balancer"), headers, node })
        }
        seen = seen.slice(Math.max(end, seen.length - 16_384))
      })
      client.pipe(upstream).pipe(client)
    })
  }

  await new Promise((up, down) => server.once("error", down).listen(0, "127.0.0.1", up))
  return {
    origin: `http://127.0.0.1:${server.address().port}`,
    requests,
    leave: (node) => void left.add(node),
    live: (mode) => requests.filter((r) => r.url.searchParams.get("live") === mode),
    close() {
      server.close()
      for (const socket of open) socket.destroy()
    },
  }
}
