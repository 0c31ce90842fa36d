// Elements, made without markup: whatever text comes in stays text.

// element makes an element. Attributes that are functions listen to the event of their name; those
// that are false, null or undefined are left out, as are such children.
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child != null && child !== false));
  return made;
}

// write sets a node's text if it is another, so that polling disturbs neither selection nor reader.
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// arrange makes the children of parent those that make returns for the items, in their order. A child
// whose item is as before is left alone, so that focus, selection and open details stay. Focus in a
// child that changes goes to what has the same data-name in its successor, or in its neighbour.
export function arrange(parent, items, make) {
  const old = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  const place = [...parent.children].findIndex((node) => node.contains(focused));
  const { key } = parent.children[place]?.dataset ?? {};
  let next = parent.firstElementChild;
  for (const item of items) {
    const text = JSON.stringify(item);
    let node = old.get(item.id);
    old.delete(item.id);
    if (node?.madeOf !== text) {
      const fresh = make(item);
      fresh.dataset.key = item.id;
      fresh.madeOf = text;
      if (node === next && node) next = fresh;
      if (node) node.replaceWith(fresh);
      node = fresh;
    }
    if (node === next) next = next.nextElementSibling;
    else parent.insertBefore(node, next);
  }
  for (const node of old.values()) node.remove();
  if (!focused || focused.isConnected) return;
  const children = [...parent.children];
  const successor = children.find((node) => node.dataset.key === key) ?? children[Math.min(place, children.length - 1)];
  const same = successor && focused.dataset.name && successor.querySelector(`[data-name="${focused.dataset.name}"]`);
  (same || parent.closest("section, main").querySelector("[tabindex='-1']"))?.focus();
}

// icon draws one of a few small pictures that only repeat what the text beside them says.
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", pictures[name]);
  svg.append(path);
  return svg;
}

const pictures = {
  retry: "M13 8a5 5 0 1 1-1.5-3.6M13 2v3h-3",
  trash: "M3 4.5h10M6.5 4.5V3h3v1.5M4.5 4.5l.6 8.5h5.8l.6-8.5",
  pause: "M5.5 3.5v9M10.5 3.5v9",
  resume: "M5 3.2v9.6L12.5 8z",
  back: "M9.5 3.5 5 8l4.5 4.5",
  calm: "M2.5 9.5c1.5-2.5 3-2.5 4.5-.5s3.500 2 6.500-2",
};
