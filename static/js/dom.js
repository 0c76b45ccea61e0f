// Small hands for the DOM. Text is always set as text: nothing from outside becomes markup.

const SVG = "http://www.w3.org/2000/svg";

export const part = (root, name) => root.querySelector(`[data-part="${name}"]`);

export function say(root, name, text) {
  const node = part(root, name);
  // Unchanged text is left alone: a selection in it survives, and nothing is painted.
  if (node && node.textContent !== text) node.textContent = text;
}

export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// What is drawn of an instance that had nothing yet; its link opens the panel.
export function fresh(pattern, name) {
  const node = document.getElementById(pattern).content.firstElementChild.cloneNode(true);
  node.dataset.instance = name;
  part(node, "open").setAttribute("href", `?instance=${encodeURIComponent(name)}#panel`);
  return node;
}

export function draw(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

export function hue(node, name) {
  for (const one of [...node.classList]) if (one.startsWith("hue-")) node.classList.remove(one);
  node.classList.add(`hue-${name}`);
}

export const pageData = () => JSON.parse(document.getElementById("page")?.textContent ?? "{}");
