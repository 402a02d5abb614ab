// Small helpers. Text from nodes and streams becomes text nodes, never markup.

export const $ = (id) => document.getElementById(id)

// el makes an element: el("p", {class: "hint"}, "text", child). A property that is a function listens.
export function el(name, properties = {}, ...children) {
  const made = name.startsWith("svg:") ? document.createElementNS("http://www.w3.org/2000/svg", name.slice(4)) : document.createElement(name)
  for (const [key, value] of Object.entries(properties)) {
    if (typeof value === "function") made.addEventListener(key, value)
    else if (value === true) made.setAttribute(key, "")
    else if (value !== false && value != null) made.setAttribute(key, value)
  }
  made.append(...children.flat().filter((child) => child != null))
  return made
}

// setText changes the text only if it differs, so that screen readers hear of changes alone.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text
}

// keyed fills a parent with one child for each item, and keeps the children that are there: focus and
// transitions survive. make(item) makes a child, update(child, item) fills it.
export function keyed(parent, items, key, make, update) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]))
  let place = parent.firstElementChild
  for (const item of items) {
    const name = String(key(item))
    let child = old.get(name)
    old.delete(name)
    if (!child) {
      child = make(item)
      child.dataset.key = name
    }
    if (child === place) place = place.nextElementSibling
    else parent.insertBefore(child, place)
    update(child, item)
  }
  for (const child of old.values()) child.remove()
}

const whole = new Intl.NumberFormat("en")
export const count = (n) => whole.format(Math.round(n))
export const plural = (n, one, many = one + "s") => `${count(n)} ${n === 1 ? one : many}`
export const dollars = (n) => (n < 0 ? "−" : "") + "$" + new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 }).format(Math.abs(n))

export function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"]
  let i = 0
  while (n >= 1024 && i < units.length - 1) {
    n /= 1024
    i++
  }
  return `${i === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)} ${units[i]}`
}

// announce says something to screen readers, politely, and not faster than they can speak.
let lastSaid = 0
export function announce(text) {
  const now = Date.now()
  if (now - lastSaid < 2500) return
  lastSaid = now
  $("announcer").textContent = text
}

// note adds a line to what happened.
export function note(text) {
  announce(text)
  const events = $("events")
  const at = new Date()
  events.prepend(el("li", {}, el("time", { datetime: at.toISOString() }, at.toLocaleTimeString("en", { hour12: false })), text))
  while (events.children.length > 100) events.lastChild.remove()
}
