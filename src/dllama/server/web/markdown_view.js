// Shows Markdown as elements, and a growing text with little work: blocks whose source is the same stay as they are.

import { copyButton } from "./clipboard.js";
import { coloured } from "./code_colours.js";
import { element } from "./dom.js";
import { parseInline } from "./inline.js";
import { parseBlocks } from "./markdown.js";

const shown = new WeakMap(); // container -> the sources of its children

export function showMarkdown(container, text) {
  const blocks = parseBlocks(text);
  const before = shown.get(container) ?? [];
  const sources = blocks.map((block) => block.source);
  let same = 0;
  while (same < before.length && same < sources.length && before[same] === sources[same]) same += 1;
  while (container.childNodes.length > same) container.lastChild.remove();
  container.append(...blocks.slice(same).map(blockElement));
  shown.set(container, sources);
}

function blockElement(block) {
  switch (block.kind) {
    case "heading": return headingElement(block);
    case "rule": return element("hr");
    case "code": return codeElement(block);
    case "quote": return element("blockquote", {}, block.blocks.map(blockElement));
    case "list": return listElement(block);
    case "table": return tableElement(block);
    default: return element("p", {}, inlineNodes(block.text));
  }
}

// Below the page's own headings: h3 to h6; what it looks like is its own level's.
function headingElement({ level, text }) {
  return element(`h${Math.min(6, Math.max(3, level + 1))}`, { class: `level-${level}` }, inlineNodes(text));
}

function codeElement({ language, text }) {
  return element("figure", { class: "code" },
    element("figcaption", {}, element("span", {}, language || "code"), copyButton(() => text, "Copy code", "Copy")),
    element("pre", { tabindex: "0", "aria-label": `Code${language ? ` in ${language}` : ""}` },
      element("code", {}, coloured(text, language))));
}

function listElement({ start, items }) {
  const isTight = items.every((item) => item.blocks.filter((block) => block.kind === "paragraph").length <= 1);
  const children = items.map(({ isDone, blocks }) => element("li", { class: isDone === null ? null : "task" },
    isDone === null ? null
      : element("input", { type: "checkbox", disabled: true, checked: isDone, "aria-label": isDone ? "done" : "to do" }),
    blocks.map((block) => (isTight && block.kind === "paragraph"
      ? element("span", {}, inlineNodes(block.text)) : blockElement(block)))));
  return start === null ? element("ul", {}, children) : element("ol", { start: String(start) }, children);
}

function tableElement({ align, head, rows }) {
  const row = (name, cells) => element("tr", {}, cells.map((cell, column) => element(name,
    { scope: name === "th" ? "col" : null, class: align[column] ? `to-${align[column]}` : null }, inlineNodes(cell))));
  return element("div", { class: "table", tabindex: "0", role: "group", "aria-label": "Table" },
    element("table", {}, element("thead", {}, row("th", head)), element("tbody", {}, rows.map((cells) => row("td", cells)))));
}

function inlineNodes(text) {
  return parseInline(text).map(inlineNode);
}

function inlineNode(node) {
  if (typeof node === "string") return node;
  const children = () => node.children.map(inlineNode);
  switch (node.kind) {
    case "strong": return element("strong", {}, children());
    case "emphasis": return element("em", {}, children());
    case "strike": return element("del", {}, children());
    case "code": return element("code", {}, node.text);
    case "break": return element("br");
    default: return element("a", { href: node.url, target: "_blank", rel: "noopener noreferrer nofollow" }, children());
  }
}
