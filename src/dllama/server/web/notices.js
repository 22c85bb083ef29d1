// Short notices at the bottom of the page, and words for screen readers only.

import { element } from "./dom.js";

const SHOWN_MS = 7000;

// Shows a line for some seconds; with `undo` it has a button that calls it. It takes room of its own, so that it covers
// nothing: above the message box, or in the drawer that is over it.
export function notify(text, undo = null) {
  const place = document.querySelector("#sidebar.open .notices") ?? document.getElementById("notices");
  const notice = element("div", { class: "notice" }, element("span", {}, text));
  if (undo) {
    notice.append(element("button", { type: "button", class: "quiet", onclick: () => {
      notice.remove();
      undo();
    } }, "Undo"));
  }
  for (const other of document.querySelectorAll(".notice")) other.remove();
  place.append(notice);
  setTimeout(() => notice.remove(), SHOWN_MS);
}

// Says a line to screen readers, politely.
export function say(text) {
  const line = element("p", {}, text);
  const place = document.getElementById("spoken");
  while (place.childElementCount > 5) place.firstChild.remove();
  place.append(line);
}

// Reads out a text while it grows, one sentence or line after the other.
export class Speaker {
  #n_said = 0;

  // Says what has been completed since the last call; at the end what is left.
  follow(text, isAtEnd = false) {
    const rest = text.slice(this.#n_said);
    const ends = [...rest.matchAll(/[.!?:;](?=\s)|\n/g)];
    const end = isAtEnd ? rest.length : (ends.at(-1)?.index ?? -1) + 1;
    const words = rest.slice(0, end).replace(/[*_`#>|]+/g, " ").trim();
    this.#n_said += end;
    if (words) say(words);
  }
}
