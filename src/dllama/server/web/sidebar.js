// The list of conversations: choose, rename, delete.

import { element, iconButton } from "./dom.js";
import { dayGroup } from "./format.js";

export class Sidebar {
  // `act` has choose(id), rename(id, title), remove(id); `isReplying(id)` tells which are being answered.
  constructor(place, act, isReplying) {
    this.place = place;
    this.act = act;
    this.isReplying = isReplying;
  }

  show(entries, current, now_ms) {
    if (this.place.querySelector("form")) return; // a title is being written
    const focused = document.activeElement?.closest?.("[data-id]")?.dataset.id;
    const groups = grouped(entries, now_ms);
    this.place.replaceChildren(...[...groups].map(([name, group]) => element("section", {},
      element("h2", {}, name), element("ul", {}, group.map((entry) => this.#item(entry, current))))));
    if (entries.length === 0) this.place.append(element("p", { class: "hint" }, "Conversations are kept in this browser."));
    if (focused) this.place.querySelector(`[data-id="${CSS.escape(focused)}"] .choose`)?.focus();
  }

  #item({ id, title }, current) {
    return element("li", { "data-id": id, class: this.isReplying(id) ? "replying" : null },
      element("button", { type: "button", class: "choose", "aria-current": id === current ? "true" : null, title,
        onclick: () => this.act.choose(id) }, title),
      iconButton("edit", `Rename ${title}`, () => this.#rename(id, title)),
      iconButton("trash", `Delete ${title}`, () => this.act.remove(id)));
  }

  #rename(id, title) {
    const item = this.place.querySelector(`[data-id="${CSS.escape(id)}"]`);
    const input = element("input", { type: "text", "aria-label": "Title", maxlength: "60" });
    input.value = title;
    let isOver = false;
    const end = (isKept) => {
      if (isOver) return;
      isOver = true;
      const had = item.contains(document.activeElement);
      item.replaceChildren();
      this.act.rename(id, isKept ? input.value : title);
      if (had) this.place.querySelector(`[data-id="${CSS.escape(id)}"] .choose`)?.focus();
    };
    item.replaceChildren(element("form", { onsubmit: (event) => {
      event.preventDefault();
      end(true);
    } }, input));
    input.addEventListener("blur", () => end(true));
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      end(false);
    });
    input.select();
  }
}

function grouped(entries, now_ms) {
  const groups = new Map();
  for (const entry of entries) {
    const name = dayGroup(entry.changed, now_ms);
    groups.set(name, [...groups.get(name) ?? [], entry]);
  }
  return groups;
}
