// Shows a chat's answer. A page that comes while there is one goes on with it.

import { createDurableChatTransport } from "@durable-streams/aisdk-transport"
import { readUIMessageStream } from "ai"

const chatId = "c1"
const transport = createDurableChatTransport({ api: "/api/chat" })

window.chunks = []
window.text = ""
async function show(stream) {
  const [chunks, parts] = stream.tee()
  const keep = async () => {
    for await (const chunk of chunks) window.chunks.push(chunk)
  }
  const draw = async () => {
    for await (const { parts: all } of readUIMessageStream({ stream: parts })) {
      window.text = all.filter((p) => p.type === "text").map((p) => p.text).join("")
    }
  }
  await Promise.all([keep(), draw()])
  window.over = true
}

window.ask = async (text) => {
  const messages = [{ id: "m1", role: "user", parts: [{ type: "text", text }] }]
  void show(await transport.sendMessages({ chatId, trigger: "submit-message", messages }))
}

const answer = await transport.reconnectToStream({ chatId })
window.resumed = answer !== null
if (answer) void show(answer)
