// A real authorisation server, npm's oidc-provider: nodes fetch its keys and take its tokens
// (RFC 9068, of a client for a resource), also while it changes its keys under readers.

import http from "node:http"
import { join } from "node:path"
import { DurableStream } from "@durable-streams/client"
import { decodeJwt, decodeProtectedHeader, exportJWK, generateKeyPair, SignJWT } from "jose"
import { audience, bearer, folder, save, withToken } from "../issuer.mjs"
import { ensure, follow, messages, same, until } from "../tools.mjs"

export default { "rights-oidc": { run: rotation, fleet: trusting } }

const secrets = { writer: "the-secret-of-the-writer", reader: "the-secret-of-the-reader" }

// trusting is a fleet that takes the tokens of a server, which is there first.
async function trusting(signal) {
  const server = await startServer(signal)
  const auth = save(join(folder(signal), "rights.yaml"), {
    issuers: [{
      iss: server.issuer, keys: { jwks: `${server.issuer}/jwks`, insecure_http: true }, audience: [audience], projects: ["clients"],
      grants: [
        { when: { client_id: ["writer"] }, actions: ["write"], streams: ["rooms/*"] },
        { when: { client_id: ["reader"], scope: ["listen"] }, actions: ["read"], streams: ["rooms/*"] },
      ],
    }],
  })
  return { auth, server }
}

async function startServer(signal) {
  const { Provider } = await import("oidc-provider") // it prints when it is loaded
  const keys = {}
  for (const kid of ["k1", "k2", "k3"]) {
    const { privateKey } = await generateKeyPair("ES256", { extractable: true })
    keys[kid] = { ...(await exportJWK(privateKey)), kid, alg: "ES256", use: "sig" }
  }
  const server = { asked: 0 }
  let provider
  const web = http.createServer((request, response) => {
    if (request.url === "/jwks") server.asked++
    provider.callback()(request, response)
  })
  await new Promise((up, down) => web.once("error", down).listen(0, "127.0.0.1", up))
  signal.addEventListener("abort", () => {
    web.close()
    web.closeAllConnections()
  })
  server.issuer = `http://127.0.0.1:${web.address().port}`
  // sign makes it sign by the first of these keys, and publish all of them.
  server.sign = (...kids) => (provider = new Provider(server.issuer, {
    jwks: { keys: kids.map((kid) => keys[kid]) },
    clients: Object.entries(secrets).map(([client_id, client_secret]) => (
      { client_id, client_secret, grant_types: ["client_credentials"], response_types: [], redirect_uris: [], scope: "listen",
        id_token_signed_response_alg: "ES256" })),
    scopes: ["listen"],
    ttl: { ClientCredentials: 300 },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_, resource) => (
          { scope: "listen", audience: resource, accessTokenFormat: "jwt", accessTokenTTL: 300, jwt: { sign: { alg: "ES256" } } }),
      },
    },
  }))
  server.token = async (client, resource = audience) => {
    const form = new URLSearchParams({ grant_type: "client_credentials", scope: "listen", ...(resource && { resource }) })
    const login = Buffer.from(`${client}:${secrets[client]}`).toString("base64")
    const answer = await fetch(`${server.issuer}/token`, { method: "POST", body: form, headers: { Authorization: `Basic ${login}` } })
    const { access_token, ...rest } = await answer.json()
    ensure(access_token, `the server gives no token: ${JSON.stringify(rest)}`)
    return access_token
  }
  server.sign("k1")
  return server
}

// cached asks for another token when the last is half a second old.
function cached(ask) {
  let token, until = 0
  return () => {
    if (performance.now() > until) [token, until] = [ask(), performance.now() + 500]
    return token
  }
}

// The first change comes unannounced; the key of the second was published with the first.
async function rotation(fleet, signal) {
  const { server } = fleet.settings
  const url = fleet.stream("rooms/one")
  const answers = {} // how many, by the key of the token and the status
  const count = (status, token) => {
    const what = `${decodeProtectedHeader(token).kid} ${status}`
    answers[what] = (answers[what] ?? 0) + 1
  }
  const fetchAs = (client) => withToken(cached(() => server.token(client)), count)
  const handle = await new DurableStream({ url, contentType: "application/json", fetch: fetchAs("writer") }).create()
  const readers = Array.from({ length: 18 }, (_, i) => follow({ url, live: i % 2 ? "sse" : "long-poll", signal, fetch: fetchAs("reader") }))
  const list = messages(90)
  const old = await server.token("reader")
  same("its type", decodeProtectedHeader(old).typ, "at+jwt")
  same("its client", decodeJwt(old).client_id, "reader")
  const newcomers = []
  for (const [i, message] of list.entries()) {
    if (i === 30) server.sign("k2", "k1", "k3")
    if (i === 60) server.sign("k3", "k2")
    if (i % 10 === 0) newcomers.push(follow({ url, live: "sse", signal, fetch: fetchAs("reader") }))
    await handle.append(JSON.stringify(message))
    await until(`message ${i}`, () => readers.every((r) => r.items.length > i))
  }
  const withOld = await fetch(url, { headers: bearer(old) })
  same("a token of the key that was dropped a moment ago", [withOld.status, await withOld.json()], [200, list])
  await handle.close()
  for (const [i, reader] of [...readers, ...newcomers].entries()) {
    await reader.done
    same(`reader ${i}`, reader.items, list)
  }
  const statuses = new Set(Object.keys(answers).map((a) => a.split(" ")[1]))
  for (const status of statuses) ensure(["200", "201", "204"].includes(status), `answers ${JSON.stringify(answers)}`)
  for (const kid of ["k1", "k2", "k3"]) ensure(answers[`${kid} 200`] > 9, `answers ${JSON.stringify(answers)}`)
  ensure(server.asked <= 3 * fleet.nodes.length, `the nodes fetched the keys ${server.asked} times`)

  const { privateKey } = await generateKeyPair("ES256")
  const { protectedHeader, claims } = { protectedHeader: decodeProtectedHeader(old), claims: decodeJwt(old) }
  const forged = await new SignJWT(claims).setProtectedHeader(protectedHeader).sign(privateKey)
  const refused = {
    bad_signature: [401, "GET", forged],
    wrong_audience: [401, "GET", await server.token("reader", "https://another.clients.test")],
    malformed: [401, "GET", await server.token("reader", "")], // without a resource it is opaque
    not_granted: [403, "DELETE", await server.token("reader")],
  }
  for (const [reason, [status, method, token]] of Object.entries(refused)) {
    const answer = await fetch(url, { method, headers: bearer(token) })
    same(reason, [answer.status, (await answer.json()).reason], [status, reason])
  }
}
