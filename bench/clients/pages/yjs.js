// Types into a document that pages share through YjsServer: each key where the page
// typed last.

import { YjsProvider } from "@durable-streams/y-durable-streams"
import { Awareness } from "y-protocols/awareness"
import * as Y from "yjs"

const doc = new Y.Doc()
const text = doc.getText("text")
const baseUrl = new URLSearchParams(location.search).get("url")
const provider = new YjsProvider({ doc, awareness: new Awareness(doc), baseUrl, docId: "folder/doc" })
const errors = []
provider.on("error", (err) => errors.push(String(err)))

let caret = Y.createRelativePositionFromTypeIndex(text, 0, -1)
addEventListener("keydown", ({ key }) => {
  const at = Y.createAbsolutePositionFromRelativePosition(caret, doc).index
  text.insert(at, key)
  caret = Y.createRelativePositionFromTypeIndex(text, at + 1, -1)
})

window.look = () => ({ synced: provider.synced, text: text.toString(), errors })
