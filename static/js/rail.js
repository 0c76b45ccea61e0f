// The rail: the steps of a canary or of blue/green, patched in place.
import { hue, make, part, say } from "./dom.js";
import { rail } from "./stages.js";
import { isActive, stopLook } from "./states.js";

export function paint(root, held) {
  const list = part(root, "rail");
  if (!list) return;
  const drawn = rail(held);
  say(root, "rail-title", held.way_back === null ? "Steps" : "The way back");
  if (list.children.length !== drawn.length) list.replaceChildren(...drawn.map(item));
  drawn.forEach((stop, number) => paintStop(list.children[number], stop));
  const preview = part(root, "preview");
  if (preview) preview.hidden = !isActive(held.status) || held.way_back !== null;
}

function item() {
  return make(
    "li",
    {},
    make("span", { class: "glyph", "aria-hidden": "true", "data-part": "glyph" }),
    " ",
    make("strong", { "data-part": "label" }),
    " ",
    make("span", { class: "rail-word", "data-part": "word" }),
    " ",
    make("span", { class: "rail-detail", "data-part": "detail" }),
  );
}

function paintStop(node, { label, detail, state, current }) {
  const look = stopLook(state);
  if (node.dataset.state !== state) {
    node.dataset.state = state;
    hue(node, look.hue);
    if (current) node.setAttribute("aria-current", "step");
    else node.removeAttribute("aria-current");
  }
  say(node, "glyph", look.glyph);
  say(node, "label", label);
  say(node, "word", look.word);
  say(node, "detail", detail);
}
