// @durable-streams/aisdk-transport: a chat of the AI SDK whose answer is a stream, so
// that a client that comes back in the middle of it has all of it.

import http from "node:http"
import { createDurableChatTransport, toDurableStreamResponse } from "@durable-streams/aisdk-transport"
import { convertToModelMessages, readUIMessageStream, streamText } from "ai"
import { MockLanguageModelV3 } from "ai/test"
import { all, ensure, same, until } from "../tools.mjs"

const words = Array.from({ length: 200 }, (_, i) => `word${i} é🪭\n`)
const usage = { inputTokens: { total: 1, noCache: 1 }, outputTokens: { total: words.length, text: words.length } }

export default { "ai-sdk": { run: chat } }

async function chat(fleet, signal) {
  // The model says half of its answer, and the rest when it is let go.
  let go
  const rest = new Promise((done) => (go = done))
  const model = new MockLanguageModelV3({
    doStream: async () => ({
      stream: new ReadableStream({
        async start(out) {
          out.enqueue({ type: "stream-start", warnings: [] })
          out.enqueue({ type: "text-start", id: "t" })
          for (const [i, delta] of words.entries()) {
            if (i === words.length / 2) await rest
            out.enqueue({ type: "text-delta", id: "t", delta })
          }
          out.enqueue({ type: "text-end", id: "t" })
          out.enqueue({ type: "finish", finishReason: { unified: "stop" }, usage })
          out.close()
        },
      }),
    }),
  })

  const active = new Map() // the application's own record of answers in progress
  const server = await serve(async (request, body) => {
    const { pathname } = new URL(request.url, "http://api")
    if (request.method === "POST") {
      const { id, messages } = JSON.parse(body)
      active.set(id, fleet.stream(`chat/${id}`))
      const result = streamText({ model, messages: await convertToModelMessages(messages) })
      return toDurableStreamResponse({
        source: result.toUIMessageStream({ onFinish: () => void active.delete(id) }),
        stream: { writeUrl: fleet.stream(`chat/${id}`) },
      })
    }
    const url = active.get(pathname.split("/")[3])
    return url ? Response.json({ streamUrl: url }, { headers: { Location: url } }) : new Response(null, { status: 204 })
  })
  try {
    const transport = () => createDurableChatTransport({ api: `${server.origin}/api/chat` })
    const leaves = new AbortController()
    const first = await transport().sendMessages({
      chatId: "c1", trigger: "submit-message", abortSignal: AbortSignal.any([leaves.signal, signal]),
      messages: [{ id: "m1", role: "user", parts: [{ type: "text", text: "Say something long." }] }],
    })
    const early = []
    const reader = first.getReader()
    while (early.filter((c) => c.type === "text-delta").length < words.length / 2) early.push((await reader.read()).value)
    leaves.abort()
    await reader.cancel().catch(() => {}) // it was aborted

    const second = await transport().reconnectToStream({ chatId: "c1" })
    ensure(second, "nothing to come back to")
    const [chunks, parts] = second.tee()
    let message
    const reading = [collect(chunks), (async () => {
      for await (const m of readUIMessageStream({ stream: parts })) message = m
    })()]
    await until("the reader is there", () => fleet.balancer.live("sse").length >= 2)
    go()
    const [late] = await Promise.all(reading)

    const stored = await all(fleet.stream("chat/c1"), signal)
    same("the one that came back", late, stored)
    same("the one that left", early, stored.slice(0, early.length))
    same("deltas", stored.filter((c) => c.type === "text-delta").map((c) => c.delta), words)
    same("message", message.parts.filter((p) => p.type === "text").map((p) => [p.text, p.state]), [[words.join(""), "done"]])
    same("when it is over", await transport().reconnectToStream({ chatId: "c1" }), null)
    same("requests for long-poll", fleet.balancer.live("long-poll").length, 0)
  } finally {
    server.close()
  }
}

async function collect(stream) {
  const list = []
  for await (const chunk of stream) list.push(chunk)
  return list
}

// serve is an HTTP server that answers with what handle gives.
async function serve(handle) {
  const server = http.createServer(async (request, response) => {
    try {
      let body = ""
      for await (const part of request.setEncoding("utf8")) body += part
      const answer = await handle(request, body)
      response.writeHead(answer.status, Object.fromEntries(answer.headers))
      response.end(await answer.text())
    } catch (err) {
      response.writeHead(500)
      response.end(String(err))
    }
  })
  await new Promise((up, down) => server.once("error", down).listen(0, "127.0.0.1", up))
  return {
    origin: `http://127.0.0.1:${server.address().port}`,
    close() {
      server.close()
      server.closeAllConnections()
    },
  }
}
