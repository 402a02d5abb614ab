// An issuer of tokens, and the file of rights that lets a fleet accept them. The tokens are
// made by jose, another library than the one that verifies them.

import { createHmac } from "node:crypto"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { exportJWK, generateKeyPair, SignJWT } from "jose"
import { until } from "./tools.mjs"

export const audience = "https://streams.clients.test"
export const leeway = 30 // seconds for which a token is still good after its exp
export const spread = 5 // seconds over which readers are ended after that

// lock answers the settings of a fleet with a file of rights: one issuer, whose tokens have the
// claim role. more may add to the file.
export function lock({ fleet = {}, more = () => ({}) } = {}) {
  return async (signal) => {
    const dir = folder(signal)
    const issuer = await startIssuer(dir)
    const grants = [
      { when: { role: ["writer"] }, actions: ["read", "write"], streams: ["**"] },
      { when: { role: ["speaker"] }, actions: ["append"], streams: ["**"] },
      { when: { role: ["reader"] }, actions: ["read"], streams: ["**"] },
      { when: { role: ["elsewhere"] }, actions: ["read", "write"], streams: ["elsewhere/**"] },
    ]
    const entry = { iss: issuer.name, keys: { jwks: `file://${issuer.jwks}` }, audience: [audience], projects: ["clients"], grants }
    const { issuers = [], project } = more(issuer, dir)
    const auth = save(join(dir, "rights.yaml"), {
      issuers: [entry, ...issuers], ...(project && { projects: { clients: project } }), revocations: { project: "clients" },
    })
    return { ...fleet, auth, issuer, dir }
  }
}

// folder is there until the check is over.
export function folder(signal) {
  const dir = mkdtempSync(join(tmpdir(), "clients-rights-"))
  const remove = () => rmSync(dir, { recursive: true, force: true })
  process.on("exit", remove)
  signal.addEventListener("abort", () => {
    process.off("exit", remove)
    remove()
  })
  return dir
}

// save writes JSON, which is YAML, too.
export function save(file, value) {
  writeFileSync(file, JSON.stringify(value, null, 1))
  return file
}

async function startIssuer(dir) {
  const name = "https://issuer.clients.test"
  const { publicKey, privateKey } = await generateKeyPair("ES256")
  const stranger = await generateKeyPair("ES256")
  const jwks = save(join(dir, "jwks.json"), { keys: [{ ...(await exportJWK(publicKey)), kid: "k1", alg: "ES256", use: "sig" }] })
  // token makes one that expires in so many seconds; less than 0: it has expired.
  const token = ({ issued = -120, expires = 600, kid = "k1", key = privateKey, aud = audience, ...claims }) => {
    const now = Math.floor(Date.now() / 1000)
    return new SignJWT(claims).setProtectedHeader({ alg: "ES256", typ: "at+jwt", kid })
      .setIssuer(name).setAudience(aud).setIssuedAt(now + issued).setExpirationTime(now + expires).sign(key)
  }
  return { name, jwks, token, strangersKey: stranger.privateKey }
}

export const bearer = (token) => (token ? { Authorization: `Bearer ${token}` } : {})

// withToken is a fetch that asks for a token on each try, as an application writes it.
export function withToken(token, answered = () => {}) {
  return async (url, init) => {
    const now = await token()
    const answer = await fetch(url, { ...init, headers: { ...init?.headers, ...bearer(now) } })
    answered(answer.status, now)
    return answer
  }
}

// sign answers the parameters of a signed URL, as docs/auth.md of the edge has it.
export function sign(stream, { kid, secret, exp = Math.floor(Date.now() / 1000) + 600 }) {
  const sig = createHmac("sha256", secret).update(`fantail-url-v1\nread\n${stream}\n${exp}`).digest("base64url")
  return `x-exp=${exp}&x-kid=${kid}&x-sig=${sig}`
}

// revoke revokes at one node, and answers after how many seconds every node refuses the token.
export async function revoke(fleet, what, url, token) {
  const answer = await fetch(`http://${fleet.nodes[0].at.admin}/admin/revoke`, { method: "POST", body: JSON.stringify(what) })
  if (!answer.ok) throw new Error(`revoke: ${answer.status} ${await answer.text()}`)
  const began = performance.now()
  await until("every node refuses what was revoked", async () => {
    const all = await Promise.all(fleet.nodes.map((n) =>
      fetch(`http://${n.at.http}${new URL(url).pathname}`, { method: "HEAD", headers: bearer(token) })))
    return all.every((a) => a.status === 401)
  })
  return (performance.now() - began) / 1000
}
