// Lists that are drawn again and again without taking the focus or the selection away from whoever reads them.

import { make } from "../dom.js";

/**
 * Makes the children of `list` those of `items`, in order: an element whose `keyOf(item)` is known stays and is updated.
 * `create(item)` returns an element, `update(element, item)` fills it.
 */
export function drawRows(list, items, { keyOf, create, update }) {
  const known = new Map([...list.children].map((element) => [element.dataset.key, element]));
  let before = null;
  for (const item of items) {
    const key = keyOf(item);
    let element = known.get(key);
    known.delete(key);
    if (!element) {
      element = create(item);
      element.dataset.key = key;
    }
    update(element, item);
    const place = before ? before.nextElementSibling : list.firstElementChild;
    if (place !== element) list.insertBefore(element, place);
    before = element;
  }
  for (const gone of known.values()) gone.remove();
}

/** Writes a text only where it differs. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A row of a list: a dot, a title (a link if `href`), a line below, a note at the right, and a button if `action`. */
export function makeRow({ href, action, onAction }) {
  const title = make(href ? "a" : "span", "row-title");
  if (href) title.href = href;
  const dot = make("span", "dot");
  dot.setAttribute("aria-hidden", "true");
  const row = make("li", "row", dot, make("div", "row-main", make("p", "row-head", title, make("span", "row-state")), make("p", "row-sub muted")), make("p", "row-note muted"));
  if (action) {
    const button = make("button", "button small", action);
    button.type = "button";
    button.addEventListener("click", () => onAction(row.item));
    row.append(button);
  }
  return row;
}

/** Fills a row of `makeRow`. */
export function fillRow(row, item, { tone, title, state, sub, note, canAct }) {
  row.item = item;
  row.dataset.tone = tone;
  say(row.querySelector(".row-title"), title);
  say(row.querySelector(".row-state"), state);
  say(row.querySelector(".row-sub"), sub);
  say(row.querySelector(".row-note"), note);
  const button = row.querySelector(":scope > .button");
  if (!button) return;
  button.hidden = !canAct;
  button.setAttribute("aria-label", `${button.textContent}: ${title}`);
}
