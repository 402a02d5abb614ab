// The page of a node, and of `fantail dev`: what the admin address tells, once a second.

import { ask, hasToken, poll, setToken, Unauthorized } from "./api.js"
import { $, note, setText } from "./dom.js"
import { noteChanges, showFleet, showMeter, showS2 } from "./fleet.js"
import { findOwner, showStreams } from "./streams.js"

const config = await (await fetch("/page/config")).json()
const play = config.playground ? await import("./play.js") : null
document.title = config.playground ? "Fantail playground" : `Fantail, ${location.host}`
setText($("subtitle"), config.playground ? "playground" : location.host)

const panels = ["fleet", "meter", "streams", "s2", "log"]

function show(signedIn) {
  for (const id of panels) $(id).hidden = !signedIn
  if (play) $("play").hidden = !signedIn
  $("sign-in").hidden = signedIn
  $("sign-out").hidden = !hasToken() || !signedIn
}

function trouble(text) {
  $("trouble").hidden = !text
  setText($("trouble"), text)
}

function askForToken(why) {
  if (!$("sign-in").hidden) return
  show(false)
  setText($("health"), "locked")
  $("health").className = "badge"
  setText($("token-wrong"), hasToken() ? `Refused: ${why.trim()}` : "")
  setToken("")
  $("token").value = ""
  $("token").focus()
}

let lost = false
async function update(work) {
  if (!$("sign-in").hidden) return
  try {
    await work()
    trouble("")
    if (lost) note("The node answers again.")
    lost = false
  } catch (err) {
    if (err instanceof Unauthorized) return askForToken(err.message)
    if (!lost) note("No answer from this address.")
    lost = true
    setText($("health"), "no answer")
    $("health").className = "badge bad"
    trouble(`No answer from ${location.host} (${err.message}). What is below is the last that it said; the page keeps asking.`)
  }
}

const askFleet = poll(
  () =>
    update(async () => {
      const toys = play ? await ask("/dev/nodes") : null
      const fleet = await ask("/admin/fleet").catch((err) => {
        if (toys && !toys.nodes.some((node) => node.state === "running")) return null // every node was killed
        throw err
      })
      if ($("main").dataset.shown !== "yes") {
        show(true)
        $("main").dataset.shown = "yes"
      }
      play?.showNodes(toys, fleet)
      noteChanges(fleet, toys)
      showFleet(fleet, toys, play)
      if (!fleet) return
      showMeter(fleet)
      showS2(fleet)
      const self = fleet.members.find((member) => member.self)?.node
      if (self) setText($("version"), `Fantail ${self.version}, ${self.revision.slice(0, 12)}, ${self.go}`)
    }),
  1000,
)

const askStreams = poll(
  () =>
    update(async () => {
      if ($("main").dataset.shown === "yes") showStreams(await ask(`/admin/streams?limit=50&sort=${document.querySelector("[name=sort]:checked").value}`))
    }),
  2000,
)

for (const radio of document.querySelectorAll("[name=sort]")) radio.addEventListener("change", askStreams)
$("find").addEventListener("submit", (event) => {
  event.preventDefault()
  findOwner($("find-name").value)
})
$("sign-in").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault()
  setToken($("token").value.trim())
  $("token").value = ""
  $("sign-in").hidden = true
  $("main").dataset.shown = "no"
  askFleet()
})
$("sign-out").addEventListener("click", () => {
  setToken("")
  location.reload()
})
play?.start(config, { askFleet, askStreams })
