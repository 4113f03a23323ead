// Makes one piece of a page like another, changing only what differs: what has the focus keeps it, what is open stays so.

const key = (node) => (node.nodeType === Node.ELEMENT_NODE ? node.id || node.dataset.key || null : null);
const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && key(a) === key(b);

/** Make the children and attributes of `old` those of `fresh`. */
export function morph(old, fresh) {
  attributes(old, fresh);
  const kept = new Map();
  for (const child of old.children) if (key(child)) kept.set(key(child), child);
  let at = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    const known = key(wanted) && kept.get(key(wanted));
    if (known && known !== at && alike(known, wanted)) {
      old.insertBefore(known, at);
      change(known, wanted);
    } else if (at && alike(at, wanted)) {
      change(at, wanted);
      at = at.nextSibling;
    } else {
      old.insertBefore(document.importNode(wanted, true), at);
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function change(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
  } else if (!old.isEqualNode(fresh)) {
    morph(old, fresh);
  }
}

// What people and other scripts change on a page is theirs.
const THEIRS = new Set(["open", "tabindex"]);

function attributes(old, fresh) {
  for (const { name, value } of [...fresh.attributes]) {
    if (old.getAttribute(name) !== value && !THEIRS.has(name)) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !THEIRS.has(name)) old.removeAttribute(name);
  }
}
