// Makes one piece of a page like another and touches only what differs: focus, selection, what was
// typed and open details stay. The children of [data-list] are known by their data-key.

export function morph(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeName !== fresh.nodeName || old.dataset?.key !== fresh.dataset?.key) {
    old.replaceWith(fresh);
  } else if (!(old instanceof Element)) {
    old.nodeValue = fresh.nodeValue;
  } else if (!old.classList.contains("run")) {
    // Cards are patched by events, which may be ahead of what the server had drawn.
    attributes(old, fresh);
    if (old.hasAttribute("data-list")) listed(old, fresh);
    else paired(old, fresh);
  }
}

function attributes(old, fresh) {
  const own = (name) => name === "open"; // a person opened or closed it
  for (const { name, value } of fresh.attributes)
    if (!own(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const { name } of [...old.attributes])
    if (!own(name) && !fresh.hasAttribute(name)) old.removeAttribute(name);
}

function paired(old, fresh) {
  const [before, after] = [[...old.childNodes], [...fresh.childNodes]];
  after.forEach((node, place) => (before[place] ? morph(before[place], node) : old.append(node)));
  for (const node of before.slice(after.length)) node.remove();
}

function listed(old, fresh) {
  const after = new Map([...fresh.children].map((node) => [node.dataset.key, node]));
  for (const node of [...old.childNodes]) if (!after.has(node.dataset?.key)) node.remove();
  const known = new Map([...old.children].map((node) => [node.dataset.key, node]));
  let at = old.firstChild;
  for (const [key, node] of after) {
    const same = known.get(key);
    if (same && same === at) at = at.nextSibling;
    else old.insertBefore(same ?? node, at);
    if (same) morph(same, node);
  }
}
