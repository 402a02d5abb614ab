// @durable-streams/aisdk-transport: a chat of the AI SDK whose answer is a stream, so
// that a client that comes back in the middle of it has all of it.

import { createDurableChatTransport, toDurableStreamResponse } from "@durable-streams/aisdk-transport"
import { convertToModelMessages, readUIMessageStream, streamText } from "ai"
import { MockLanguageModelV3 } from "ai/test"
import { listen } from "../site.mjs"
import { all, ensure, same, until } from "../tools.mjs"

export const words = Array.from({ length: 200 }, (_, i) => `word${i} é🪭\n`)
const usage = { inputTokens: { total: 1, noCache: 1 }, outputTokens: { total: words.length, text: words.length } }

export default { "ai-sdk": { run: chat } }

// application is the back end of a chat. Its model says half of its answer, and the rest
// when go is called. It tells clients to read the answer at readUrl(id).
export function application(fleet, readUrl = (id) => fleet.stream(`chat/${id}`)) {
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

  const active = new Set() // the application's own record of answers in progress
  const handle = async (request, body) => {
    const { pathname } = new URL(request.url, "http://api")
    if (request.method === "POST") {
      const { id, messages } = JSON.parse(body)
      active.add(id)
      const result = streamText({ model, messages: await convertToModelMessages(messages) })
      return toDurableStreamResponse({
        source: result.toUIMessageStream({ onFinish: () => void active.delete(id) }),
        stream: { writeUrl: fleet.stream(`chat/${id}`), readUrl: readUrl(id) },
      })
    }
    const id = pathname.split("/")[3]
    if (!active.has(id)) return new Response(null, { status: 204 })
    return Response.json({ streamUrl: readUrl(id) }, { headers: { Location: readUrl(id) } })
  }
  return { handle, go }
}

async function chat(fleet, signal) {
  const { handle, go } = application(fleet)
  const server = await listen(handle)
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
