// Copying, also where the browser's clipboard is closed: pages from other computers over plain HTTP.

import { element, icon } from "./dom.js";
import { say } from "./notices.js";

const SHOWN_MS = 1600;

export async function copy(text) {
  if (navigator.clipboard && window.isSecureContext) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const before = document.activeElement;
  const area = element("textarea", { class: "only-read", "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  before?.focus();
  if (!isCopied) throw new Error("the browser did not allow it");
}

// A button that copies text() and says so for a moment. With `caption` it shows words beside its icon.
export function copyButton(text, label, caption = "") {
  const button = element("button",
    { type: "button", class: caption ? "quiet" : "icon-button", "aria-label": label, title: label },
    icon("copy"), caption ? element("span", {}, caption) : null);
  button.addEventListener("click", async () => {
    try {
      await copy(text());
    } catch (error) {
      say(`Not copied: ${error.message}`);
      return;
    }
    say("Copied");
    button.firstChild.replaceWith(icon("done"));
    setTimeout(() => button.firstChild.replaceWith(icon("copy")), SHOWN_MS);
  });
  return button;
}
