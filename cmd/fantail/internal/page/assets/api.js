// Requests to the address of this page. The admin token, where the node asks for one, is kept in this tab
// and goes into a header, never into an address. A login at /admin/login works, too.

const key = "fantail-admin-token"
let token = sessionStorage.getItem(key) ?? ""

export const hasToken = () => token !== ""

export function setToken(value) {
  token = value
  if (value) sessionStorage.setItem(key, value)
  else sessionStorage.removeItem(key)
}

export class Unauthorized extends Error {}

export async function ask(path, init = {}) {
  const headers = { ...init.headers }
  if (token) headers.Authorization = `Bearer ${token}`
  const answer = await fetch(path, { ...init, headers, signal: AbortSignal.timeout(init.timeout ?? 5000), credentials: "same-origin", referrerPolicy: "no-referrer" })
  if (answer.status === 401) throw new Unauthorized(await answer.text())
  if (!answer.ok) throw new Error((await answer.text()).trim() || `status ${answer.status}`)
  return answer.status === 204 ? null : answer.json()
}

// poll asks again and again while the page is visible, and at most once at a time. It returns a function that asks now.
export function poll(work, every) {
  let timer
  let running = false
  async function run() {
    clearTimeout(timer)
    if (running) return
    running = true
    try {
      await work()
    } finally {
      running = false
      timer = setTimeout(run, document.hidden ? every * 30 : every)
    }
  }
  document.addEventListener("visibilitychange", () => document.hidden || run())
  run()
  return run
}
