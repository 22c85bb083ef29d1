// Markdown to a tree of blocks: what chat models write (CommonMark's usual forms and GitHub's tables and task lists).
//
// parseBlocks(text) never fails: what is not understood is a paragraph. HTML is text like any other. The blocks:
//   {kind: "heading", level, text}            {kind: "paragraph", text}          {kind: "rule"}
//   {kind: "code", language, text}            {kind: "quote", blocks}
//   {kind: "list", start, items: [{isDone, blocks}]}   start: null for bullets; isDone: null where there is no box
//   {kind: "table", align, head, rows}        cells are text; align: "", "left", "center" or "right"
// `text` of headings, paragraphs and cells is for parseInline (inline.js). Each block has its `source`, so that
// whoever shows a growing text can leave alone what has not changed.

const FENCE = /^( {0,3})(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*))?$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^([ \t]*)([-*+]|\d{1,9}[.)])(?:[ \t]+(.*))?$/;
const BOX = /^\[([ xX])\][ \t]+/;
const TABLE_RULE = /^[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
const MAX_DEPTH = 10; // of quotes and lists inside each other; what lies deeper is a paragraph

export function parseBlocks(text) {
  return parseLines(text.replace(/\r\n?/g, "\n").split("\n"), 0);
}

function parseLines(lines, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (isBlank(lines[at])) {
      at += 1;
      continue;
    }
    const { block, end } = readBlock(lines, at, depth);
    blocks.push({ ...block, source: lines.slice(at, end).join("\n") });
    at = end;
  }
  return blocks;
}

function readBlock(lines, at, depth) {
  const line = lines[at];
  if (FENCE.test(line)) return readCode(lines, at);
  const heading = HEADING.exec(line);
  if (heading) {
    const text = (heading[2] ?? "").trim().replace(/(^|[ \t])#+$/, "");
    return { block: { kind: "heading", level: heading[1].length, text: text.trim() }, end: at + 1 };
  }
  if (RULE.test(line)) return { block: { kind: "rule" }, end: at + 1 };
  if (depth < MAX_DEPTH && QUOTE.test(line)) return readQuote(lines, at, depth);
  if (depth < MAX_DEPTH && ITEM.test(line)) return readList(lines, at, depth);
  if (isTable(lines, at)) return readTable(lines, at);
  return readParagraph(lines, at);
}

function readCode(lines, at) {
  const [, indent, fence, info] = FENCE.exec(lines[at]);
  const margin = new RegExp(`^ {0,${indent.length}}`);
  const isEnd = (line) => {
    const trimmed = line.trim();
    return trimmed.length >= fence.length && trimmed === fence[0].repeat(trimmed.length);
  };
  let end = at + 1;
  while (end < lines.length && !isEnd(lines[end])) end += 1;
  const text = lines.slice(at + 1, end).map((line) => line.replace(margin, "")).join("\n");
  const language = info.trim().split(/[\s{,]/)[0];
  return { block: { kind: "code", language, text }, end: Math.min(end + 1, lines.length) };
}

function readQuote(lines, at, depth) {
  const inner = [];
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) inner.push(lines[end++].replace(QUOTE, ""));
  return { block: { kind: "quote", blocks: parseLines(inner, depth + 1) }, end };
}

function readList(lines, at, depth) {
  const first = ITEM.exec(lines[at]);
  const indent = columns(first[1]);
  const isOrdered = /\d/.test(first[2]);
  const items = [];
  let end = at;
  while (end < lines.length) {
    const marker = ITEM.exec(lines[end]);
    if (!marker || columns(marker[1]) > indent + 1 || /\d/.test(marker[2]) !== isOrdered || RULE.test(lines[end])) break;
    const item = readItem(lines, end, marker);
    const box = BOX.exec(item.lines[0]);
    if (box) item.lines[0] = item.lines[0].slice(box[0].length);
    items.push({ isDone: box ? box[1] !== " " : null, blocks: parseLines(item.lines, depth + 1) });
    end = item.end;
  }
  const start = isOrdered ? parseInt(first[2], 10) : null;
  return { block: { kind: "list", start, items }, end: trimBlank(lines, at, end) };
}

// An item's own lines without their margin, and where the next one may begin. Models indent by two, three or four
// spaces or a tab, whatever the marker's width is: two more than the marker's own indentation are enough, and the first
// line that is indented says what the margin of the others is.
function readItem(lines, at, marker) {
  const least = columns(marker[1]) + 2;
  const width = columns(marker[1]) + marker[2].length + 1;
  let margin = null;
  const own = [marker[3] ?? ""];
  let end = at + 1;
  let isAfterBlank = false;
  while (end < lines.length) {
    const line = lines[end];
    if (isBlank(line)) {
      own.push("");
      isAfterBlank = true;
    } else if (indentOf(line) >= least) {
      margin ??= Math.min(indentOf(line), width);
      own.push(outdented(line, margin));
      isAfterBlank = false;
    } else if (isAfterBlank || ITEM.test(line) || startsBlock(lines, end)) {
      break;
    } else {
      own.push(line.trimStart());
    }
    end += 1;
  }
  return { lines: own, end };
}

function isTable(lines, at) {
  const next = lines[at + 1];
  if (next === undefined || !lines[at].includes("|") || !next.includes("-") || !TABLE_RULE.test(next)) return false;
  return cellsOf(lines[at]).length === cellsOf(next).length;
}

function readTable(lines, at) {
  const head = cellsOf(lines[at]);
  const align = cellsOf(lines[at + 1]).map((rule) => {
    if (rule.startsWith(":") && rule.endsWith(":")) return "center";
    if (rule.endsWith(":")) return "right";
    return rule.startsWith(":") ? "left" : "";
  });
  const rows = [];
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) {
    const cells = cellsOf(lines[end++]);
    rows.push(head.map((_, column) => cells[column] ?? ""));
  }
  return { block: { kind: "table", align, head, rows }, end };
}

function cellsOf(line) {
  const cells = [];
  let cell = "";
  let isInCode = false;
  const row = line.trim().replace(/^\|/, "");
  for (let index = 0; index < row.length; index += 1) {
    const letter = row[index];
    if (letter === "`") isInCode = !isInCode;
    if (letter === "\\" && row[index + 1] === "|") {
      cell += "|";
      index += 1;
    } else if (letter === "|" && !isInCode) {
      cells.push(cell.trim());
      cell = "";
    } else {
      cell += letter;
    }
  }
  if (cell.trim()) cells.push(cell.trim());
  return cells;
}

function readParagraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && !isBlank(lines[end]) && !startsBlock(lines, end)) end += 1;
  const text = lines.slice(at, end).map((line) => line.trimStart()).join("\n").trimEnd();
  return { block: { kind: "paragraph", text }, end };
}

// Whether a line ends the paragraph before it. A number does so only as a list's beginning: "1986." is a sentence's end.
function startsBlock(lines, at) {
  const line = lines[at];
  if (FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || isTable(lines, at)) return true;
  const item = ITEM.exec(line);
  return item !== null && Boolean(item[3]) && (!/\d/.test(item[2]) || parseInt(item[2], 10) <= 1);
}

function trimBlank(lines, at, end) {
  while (end > at + 1 && isBlank(lines[end - 1])) end -= 1;
  return end;
}

function isBlank(line) {
  return line.trim() === "";
}

function indentOf(line) {
  return columns(line.slice(0, line.length - line.trimStart().length));
}

// Of blanks; a tab leads to the next multiple of four.
function columns(blanks) {
  let column = 0;
  for (const blank of blanks) column += blank === "\t" ? 4 - column % 4 : 1;
  return column;
}

// The line without the first `n_columns` of its indentation; what is left of a tab is spaces.
function outdented(line, n_columns) {
  let [column, at] = [0, 0];
  while (column < n_columns && (line[at] === " " || line[at] === "\t")) column += line[at++] === "\t" ? 4 - column % 4 : 1;
  return " ".repeat(Math.max(0, column - n_columns)) + line.slice(at);
}
