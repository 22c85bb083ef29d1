// A conversation as a file.

import { element } from "./dom.js";

export function asMarkdown({ title, settings, messages }) {
  const system = settings.system?.trim() ? [`> ${settings.system.trim().replaceAll("\n", "\n> ")}`] : [];
  const said = messages.filter(({ content }) => content)
    .map(({ role, content }) => `## ${role === "user" ? "You" : "dllama"}\n\n${content.trim()}`);
  return `${[`# ${title}`, ...system, ...said].join("\n\n")}\n`;
}

// The messages as the API takes them, with the settings.
export function asJson({ title, changed, settings, messages }) {
  const { system, ...sampling } = settings;
  const said = messages.filter(({ content }) => content).map(({ role, content }) => ({ role, content }));
  const all = system ? [{ role: "system", content: system }, ...said] : said;
  return `${JSON.stringify({ title, changed: new Date(changed).toISOString(), settings: sampling, messages: all }, null, 2)}\n`;
}

export function download(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

export function fileName(title, ending) {
  const plain = title.normalize("NFKD").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "").toLowerCase();
  return `${plain || "conversation"}.${ending}`;
}
