// Elements and icons. Text only ever becomes text: nothing in this page is parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

// Strokes on a 20 x 20 grid.
const ICONS = {
  plus: "M10 4v12M4 10h12",
  send: "M10 16V4M5 9l5-5 5 5",
  stop: "M6 6h8v8H6z",
  copy: "M7 7V4.5h8.5V13H13M4.5 7H13v8.5H4.5z",
  done: "M4.5 10.5l3.5 3.5 7.5-8",
  edit: "M4 16l.8-3.4L13 4.4l2.6 2.6-8.2 8.2zM11.3 6.1l2.6 2.6",
  again: "M15.5 10a5.5 5.5 0 1 1-1.7-4M15.7 3.2v3.3h-3.3",
  trash: "M4.5 6h11M8 6V4h4v2M6 6l.7 10h6.6L14 6M8.7 9v4M11.3 9v4",
  menu: "M3.5 5.5h13M3.5 10h13M3.5 14.5h13",
  close: "M5 5l10 10M15 5L5 15",
  sliders: "M3.5 6h6M13 6h3.5M3.5 14H7M10.5 14h6M11.2 4.2v3.6M8.8 12.2v3.6",
  download: "M10 3.5v9M6 9l4 4 4-4M4 16.5h12",
  cluster: "M10 4.2v0M10 7v2.5M8.4 11.2L6 13.4M11.6 11.2l2.4 2.2M8.5 5a1.5 1.5 0 1 0 3 0a1.5 1.5 0 1 0-3 0M3.5 14.8a1.5 1.5 0 1 0 3 0a1.5 1.5 0 1 0-3 0M13.5 14.8a1.5 1.5 0 1 0 3 0a1.5 1.5 0 1 0-3 0",
  down: "M10 4v12M5 11l5 5 5-5",
};

// element("a", {class: "x", href: "..."}, "text", child): attributes that are null or false are left out, functions
// listen ({onclick}), children that are null or false are skipped.
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

// A line through points [x, y] of a viewBox, as an SVG element.
export function polyline(points, width, height) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "polyline");
  line.setAttribute("points", points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" "));
  svg.append(line);
  return svg;
}

// A button that shows an icon alone, and its name to screen readers and on hovering.
export function iconButton(name, label, onclick, attributes = {}) {
  return element("button", { type: "button", class: "icon-button", "aria-label": label, title: label, onclick, ...attributes },
    icon(name));
}

// Puts [data-icon] into the page's own markup.
export function fillIcons(root) {
  for (const place of root.querySelectorAll("[data-icon]")) place.prepend(icon(place.dataset.icon));
}
