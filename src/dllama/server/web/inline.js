// What stands inside a paragraph, as a tree. parseInline(text) gives a list of strings and of
//   {kind: "strong" | "emphasis" | "strike", children}      {kind: "code", text}
//   {kind: "link", url, children}      {kind: "break"}
// A link's url is one that safeUrl lets through. The time grows with the text's length, whatever stands in it.

const ESCAPE = /\\([!-/:-@[-`{-~])/y;
const CODE = /(`+)([^`]|[^`][^]*?[^`])\1(?!`)/y;
const ADDRESS = /https?:\/\/[^\s<>"`]+/y;
const BREAK = /<br ?\/?>|( {2,}|\\)\n/iy;
const ENTITY = /&(amp|lt|gt|quot|nbsp|#39|apos);/y;
const RUN = /\*+|_+|~~/y;
const LINK_END = /\]\(\s*(<[^<>\n]{0,2000}>|[^\s()]{0,2000}(?:\([^\s()]{0,500}\)[^\s()]{0,500})?)(?:\s+"[^"\n]{0,300}")?\s*\)/y;
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', nbsp: "\u00a0", "#39": "'", apos: "'" };
const PUNCTUATION_AT_END = /[.,;:!?'*_~)\]]+$/;
const MAX_OPEN = 30; // emphasis begun and not yet ended; more of it is text
const MAX_LABEL = 400; // characters of a link's text
const MAX_CODE = 4000; // characters after a backtick in which the closing one is looked for

export function parseInline(text, isInLink = false) {
  return paired(tokens(text, isInLink));
}

// The address as it may stand in a link: http, https and mailto, absolute. null for everything else.
export function safeUrl(address) {
  try {
    const url = new URL(address);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

function tokens(text, isInLink) {
  const found = [];
  let plain = "";
  let at = 0;
  const add = (token) => {
    if (plain) found.push(plain);
    plain = "";
    found.push(token);
  };
  while (at < text.length) {
    const token = tokenAt(text, at, isInLink);
    if (token === null) {
      plain += text[at++];
    } else {
      if (token.kind === "text") plain += token.text;
      else add(token);
      at = token.end;
    }
  }
  if (plain) found.push(plain);
  return found;
}

function tokenAt(text, at, isInLink) {
  switch (text[at]) {
    case "\\": return match(ESCAPE, text, at, ([, letter]) => ({ kind: "text", text: letter })) ?? lineBreak(text, at);
    case "`": return codeAt(text, at);
    case "<": return lineBreak(text, at) ?? bracketedAddress(text, at, isInLink);
    case " ": return lineBreak(text, at);
    case "&": return match(ENTITY, text, at, ([, name]) => ({ kind: "text", text: ENTITIES[name] }));
    case "!": return text[at + 1] === "[" && !isInLink ? linkAt(text, at + 1) : null;
    case "[": return isInLink ? null : linkAt(text, at);
    case "h": return isInLink || /\w/.test(text[at - 1] ?? "") ? null : addressAt(text, at);
    case "*": case "_": case "~": return delimiterAt(text, at);
    default: return null;
  }
}

function match(pattern, text, at, make) {
  pattern.lastIndex = at;
  const found = pattern.exec(text);
  return found && { ...make(found), end: at + found[0].length };
}

function lineBreak(text, at) {
  return match(BREAK, text, at, () => ({ kind: "break" }));
}

function codeAt(text, at) {
  const code = match(CODE, text.slice(at, at + MAX_CODE), 0, ([, , inner]) => {
    const flat = inner.replaceAll("\n", " ");
    const isPadded = flat.startsWith(" ") && flat.endsWith(" ") && flat.trim() !== "";
    return { kind: "code", text: isPadded ? flat.slice(1, -1) : flat };
  });
  if (code) return { ...code, end: at + code.end };
  let end = at; // a run of backticks without an end is text as a whole
  while (text[end] === "`") end += 1;
  return { kind: "text", text: text.slice(at, end), end };
}

function addressAt(text, at) {
  ADDRESS.lastIndex = at;
  let address = ADDRESS.exec(text)?.[0];
  if (!address) return null;
  const end = PUNCTUATION_AT_END.exec(address.slice(-50));
  if (end && !(end[0].startsWith(")") && address.includes("("))) address = address.slice(0, -end[0].length);
  const url = safeUrl(address);
  return url && { kind: "link", url, children: [address], end: at + address.length };
}

function bracketedAddress(text, at, isInLink) {
  const close = text.indexOf(">", at);
  if (isInLink || close < 0 || close - at > 2000 || !/^<(https?:\/\/|mailto:)\S+$/.test(text.slice(at, close))) return null;
  const address = text.slice(at + 1, close);
  const url = safeUrl(address);
  return url && { kind: "link", url, children: [address], end: close + 1 };
}

// [label](address), and a picture's ![label](address), which becomes a link: pages of others are not asked for pictures.
// Where the address is not safe, label and address are shown as text.
function linkAt(text, at) {
  const close = labelEnd(text, at);
  if (close < 0) return null;
  const label = text.slice(at + 1, close);
  LINK_END.lastIndex = close;
  const found = LINK_END.exec(text);
  if (!found) return null;
  const [whole, address] = found;
  const url = safeUrl(address.replace(/^<|>$/g, ""));
  const end = close + whole.length;
  if (url === null) return { kind: "text", text: `${label} (${address})`, end };
  return { kind: "link", url, children: label ? parseInline(label, true) : [url], end };
}

function labelEnd(text, at) {
  let depth = 0;
  const last = Math.min(text.length, at + MAX_LABEL);
  for (let index = at; index < last; index += 1) {
    if (text[index] === "\\") index += 1;
    else if (text[index] === "[") depth += 1;
    else if (text[index] === "]" && --depth === 0) return text[index + 1] === "(" ? index : -1;
  }
  return -1;
}

function delimiterAt(text, at) {
  return match(RUN, text, at, ([run]) => {
    const before = text[at - 1] ?? " ";
    const after = text[at + run.length] ?? " ";
    const isInWord = run[0] === "_" && /\w/.test(before) && /\w/.test(after);
    const isLeft = !/\s/.test(after) && (!isPunctuation(after) || /\s/.test(before) || isPunctuation(before));
    const isRight = !/\s/.test(before) && (!isPunctuation(before) || /\s/.test(after) || isPunctuation(after));
    return { kind: "delimiter", mark: run[0], length: run.length, opens: isLeft && !isInWord, closes: isRight && !isInWord };
  });
}

function isPunctuation(letter) {
  return /[!-/:-@[-`{-~]/.test(letter);
}

// Delimiters become nodes: each closing run takes the nearest opening one of its kind; what finds no partner is text.
function paired(list) {
  const out = [];
  const open = []; // places in `out` of delimiters that may still be closed
  for (const token of list) {
    if (token.kind !== "delimiter") {
      out.push(token);
      continue;
    }
    let { length } = token;
    while (token.closes && length > 0) {
      const used = close(out, open, token.mark, length);
      if (used === 0) break;
      length -= used;
    }
    if (length > 0) {
      if (token.opens && open.length < MAX_OPEN) open.push(out.length);
      out.push({ ...token, length });
    }
  }
  return merged(out);
}

function close(out, open, mark, length) {
  const level = open.findLastIndex((place) => out[place].mark === mark);
  if (level < 0) return 0;
  const opener = out[open[level]];
  const used = Math.min(2, opener.length, length);
  const children = merged(out.splice(open[level] + 1));
  const kind = mark === "~" ? "strike" : used === 2 ? "strong" : "emphasis";
  opener.length -= used;
  open.length = opener.length > 0 ? level + 1 : level;
  if (opener.length === 0) out.pop();
  out.push({ kind, children });
  return used;
}

function merged(list) {
  const out = [];
  for (const token of list) {
    const text = token.kind === "delimiter" ? token.mark.repeat(token.length) : token;
    if (typeof text === "string" && typeof out.at(-1) === "string") out[out.length - 1] += text;
    else if (typeof text === "string") out.push(text);
    else {
      const { end: _, ...node } = token;
      out.push(node);
    }
  }
  return out;
}
