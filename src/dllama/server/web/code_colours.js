// Colours for code, by the few rules that most languages share: comments, strings, numbers, keywords; and those of
// markup, style sheets and differences, which have rules of their own.

import { element } from "./dom.js";

const C_COMMENT = String.raw`\/\/[^\n]*|\/\*[^]*?(?:\*\/|$)`;
const HASH_COMMENT = String.raw`#[^\n]*`;
const STRING = String.raw`"(?:[^"\\\n]|\\.)*"?|'(?:[^'\\\n]|\\.)*'?`;
const MANY_LINES = String.raw`"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)`;
const TEMPLATE = "`(?:[^`\\\\]|\\\\.)*`?";
const NUMBER = String.raw`\b(?:0[xX][\da-fA-F_]+|0[bB][01_]+|\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)\b`;
const WORD = String.raw`[A-Za-z_$][\w$]*`;

const SCRIPT = "async await break case catch class const continue default delete do else enum export extends false finally "
  + "for from function if implements import in instanceof interface let new null of private protected public readonly "
  + "return static super switch this throw true try type typeof undefined var void while yield";
const PYTHON = "and as assert async await break class continue def del elif else except False finally for from global if "
  + "import in is lambda match None nonlocal not or pass raise return self True try while with yield";
const C = "auto bool boolean break byte case catch char class const constexpr continue default delete do double else enum "
  + "explicit extern extends false final finally float for friend if implements import include inline int interface long "
  + "namespace new null nullptr operator override package private protected public return short signed sizeof static "
  + "std string struct super switch template this throw true try typedef typename union unsigned using var virtual void "
  + "volatile while";
const RUST = "as async await break const continue crate dyn else enum extern false fn for if impl in let loop match mod move "
  + "mut pub ref return self Self static struct super trait true type unsafe use where while";
const GO = "break case chan const continue default defer else fallthrough false for func go goto if import interface map nil "
  + "package range return select struct switch true type var";
const SHELL = "case cd do done echo elif else esac exit export fi for function if in local return set sudo then until while";
const SQL = "and as asc between by case create delete desc distinct drop else end exists from full group having in index "
  + "inner insert into is join left like limit not null on or order outer primary key references right select set table "
  + "then union unique update values view when where with";

// Comments and whole tags; and of a tag its name, its values and its end. Text between tags has no colour.
const MARKUP = /(?<comment><!--[^]*?(?:-->|$))|(?<tag><[/?!]?[A-Za-z](?:"[^"]*"|'[^']*'|[^"'<>])*>?)|(?<number>&#?\w{1,31};)/g;
const TAG = /(?<keyword>^<[/?!]?[\w:.-]+|[/?]?>$)|(?<string>"[^"]*"|'[^']*'|(?<==)[^\s"'<>]+)/g;
const STYLE = new RegExp(String.raw`(?<comment>/\*[^]*?(?:\*/|$))|(?<string>"[^"\n]*"?|'[^'\n]*'?)`
  + String.raw`|(?<keyword>@[\w-]+|(?<=[{;]\s{0,40})[\w-]+(?=\s{0,9}:))`
  + String.raw`|(?<number>#[\da-fA-F]{3,8}\b|(?<![\w-])-?\d*\.?\d+(?:%|[a-z]{1,4})?)`, "g");
const DIFFERENCE = /(?<comment>^(?:diff |index |--- |\+\+\+ |Only in ).*)|(?<keyword>^@@.*)|(?<inserted>^[+>].*)|(?<deleted>^[-<].*)/gm;

const DIALECTS = {
  python: dialect([MANY_LINES, HASH_COMMENT], STRING, PYTHON),
  script: dialect([C_COMMENT], `${TEMPLATE}|${STRING}`, SCRIPT),
  c: dialect([C_COMMENT], STRING, C),
  rust: dialect([C_COMMENT], String.raw`"(?:[^"\\]|\\.)*"?|'(?:[^'\\\n]|\\.)'`, RUST),
  go: dialect([C_COMMENT], `${TEMPLATE}|${STRING}`, GO),
  shell: dialect([HASH_COMMENT], STRING, SHELL),
  data: dialect([HASH_COMMENT], STRING, "true false null yes no on off"),
  json: dialect([], STRING, "true false null"),
  markup: { pattern: MARKUP, inner: { tag: { pattern: TAG } } },
  style: { pattern: STYLE },
  difference: { pattern: DIFFERENCE },
  sql: dialect([String.raw`--[^\n]*`, C_COMMENT], STRING, SQL, "i"),
};
const NAMES = {
  py: "python", python: "python", python3: "python",
  js: "script", javascript: "script", ts: "script", typescript: "script", jsx: "script", tsx: "script", mjs: "script",
  c: "c", "c++": "c", cpp: "c", cc: "c", h: "c", hpp: "c", cs: "c", csharp: "c", java: "c", kotlin: "c", swift: "c", php: "c",
  rust: "rust", rs: "rust", go: "go", golang: "go",
  sh: "shell", bash: "shell", zsh: "shell", shell: "shell", console: "shell", ruby: "shell", rb: "shell",
  html: "markup", xml: "markup", svg: "markup", vue: "markup", htm: "markup", xhtml: "markup", css: "style", scss: "style",
  less: "style", diff: "difference", patch: "difference", dockerfile: "shell", makefile: "shell", make: "shell",
  yaml: "data", yml: "data", toml: "data", ini: "data", json: "json", sql: "sql",
};
const MAX_LENGTH = 50_000; // longer code is shown in one colour

// The code as strings and <span class="of-...">: comment, string, number, keyword, inserted or deleted.
export function coloured(code, language) {
  const known = DIALECTS[NAMES[language.toLowerCase()]];
  return known && code.length <= MAX_LENGTH ? painted(code, known) : [code];
}

function painted(code, known) {
  const parts = [];
  let end = 0;
  for (const found of code.matchAll(known.pattern)) {
    const kind = kindOf(found, known);
    if (!kind) continue;
    const inner = known.inner?.[kind];
    parts.push(code.slice(end, found.index), ...inner ? painted(found[0], inner) : [element("span", { class: `of-${kind}` }, found[0])]);
    end = found.index + found[0].length;
  }
  return [...parts, code.slice(end)];
}

function dialect(comments, strings, keywords, flags = "") {
  const comment = comments.length ? comments.join("|") : "(?!)";
  const pattern = new RegExp(`(?<comment>${comment})|(?<string>${strings})|(?<number>${NUMBER})|(?<word>${WORD})`, `g${flags}`);
  return { pattern, keywords: new Set(keywords.split(" ")), ignoresCase: flags.includes("i") };
}

function kindOf({ 0: text, groups }, { keywords, ignoresCase }) {
  if (!keywords) return Object.keys(groups).find((kind) => groups[kind] !== undefined);
  if (groups.comment !== undefined) return /^["']/.test(text) ? "string" : "comment";
  if (groups.string !== undefined) return "string";
  if (groups.number !== undefined) return "number";
  return keywords.has(ignoresCase ? text.toLowerCase() : text) ? "keyword" : null;
}
