import { runConformanceTests } from "@durable-streams/server-conformance-tests"

const token = process.env.CONFORMANCE_TOKEN
if (token) {
  const bare = globalThis.fetch
  globalThis.fetch = (input, init) => {
    const headers = new Headers(init?.headers ?? (input instanceof Request ? input.headers : undefined))
    headers.set("Authorization", `Bearer ${token}`)
    return bare(input, { ...init, headers })
  }
}

runConformanceTests({
  baseUrl: process.env.CONFORMANCE_URL,
  longPollTimeoutMs: Number(process.env.CONFORMANCE_LONG_POLL),
  subscriptions: false,
})
