// A reverse proxy that gives each request to the next of several nodes, as a load
// balancer without stickiness does. It is as transparent as HTTP allows: bodies are
// streamed, and only what belongs to one connection is not passed on.

import http from "node:http"

const ownToConnection = new Set(["connection", "keep-alive"])

export async function robin(urls) {
  const nodes = urls.map((u) => new URL(u))
  const agent = new http.Agent({ keepAlive: true })
  let turn = 0
  const server = http.createServer()
  server.keepAliveTimeout = 0 // an idle client's connection stays, and nothing is said about it
  server.requestTimeout = 0
  const serve = (request, response) => pass(request, response, nodes[turn++ % nodes.length], agent)
  server.on("request", serve)
  server.on("checkContinue", serve) // whether to go on is the node's answer

  await new Promise((up, down) => server.once("error", down).listen(0, "127.0.0.1", up))
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    close() {
      server.close()
      server.closeAllConnections()
      agent.destroy()
    },
  }
}

function pass(request, response, node, agent) {
  const onward = http.request({
    agent, host: node.hostname, port: node.port, method: request.method, path: request.url, setHost: false,
  })
  for (const header of pairs(request.rawHeaders)) onward.appendHeader(...header)
  onward.removeHeader("Connection") // or Node adds one; so with Date below
  onward.useChunkedEncodingByDefault = false // a POST without length or encoding stays so
  onward.on("continue", () => response.writeContinue())
  onward.on("response", (answer) => {
    response.sendDate = false
    response.removeHeader("Connection")
    response.writeHead(answer.statusCode, answer.statusMessage, pairs(answer.rawHeaders).flat())
    response.flushHeaders() // an event stream may have nothing to say yet
    stream(answer, response)
    answer.on("error", () => response.destroy()) // cut here as it was cut there
  })
  onward.on("error", (err) => {
    if (response.headersSent || response.destroyed) return
    console.error(`robin: ${request.method} ${request.url} at ${node.host}: ${err.message}`)
    response.destroy()
  })
  // A node may answer and hang up before it has the whole body; the client still sends it.
  onward.on("close", () => request.resume())
  response.on("close", () => response.writableFinished || onward.destroy())
  onward.flushHeaders()
  stream(request, onward)
}

// stream is a pipe that also passes trailers.
function stream(from, to) {
  from.pipe(to, { end: false })
  from.on("end", () => {
    if (from.rawTrailers.length > 0) to.addTrailers(pairs(from.rawTrailers))
    to.end()
  })
}

// pairs is name and value of each header that is passed on.
function pairs(raw) {
  const all = []
  for (let i = 0; i < raw.length; i += 2) {
    if (!ownToConnection.has(raw[i].toLowerCase())) all.push([raw[i], raw[i + 1]])
  }
  return all
}
