// Numbers, ticks and elements.

const SUPERSCRIPT = {"-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹"};
const power = (exponent) => "10" + [...String(exponent)].map((c) => SUPERSCRIPT[c]).join("");

function number(value, digits = 4) {
  if (value === null || Number.isNaN(value)) return "not a number";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  if (value === 0 || (size >= 1e-3 && size < 1e5)) {
    return (size >= 10 ** (digits - 1) ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(digits))).replace("-", "−");
  }
  const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
  return String(+mantissa).replace("-", "−") + " × " + power(+exponent);
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];
const unitOf = (bytes) => Math.min(UNITS.length - 1, Math.max(0, Math.floor(Math.log2(Math.max(bytes, 1)) / 10)));
function bytes(value) {
  const unit = unitOf(value);
  return (unit ? (value / 1024 ** unit).toFixed(1) : String(value)) + " " + UNITS[unit];
}

// Round values from lo to hi, about `count` of them.
function linearTicks(lo, hi, count) {
  const raw = (hi - lo || 1) / count, size = 10 ** Math.floor(Math.log10(raw));
  const step = size * [1, 2, 5, 10].find((m) => size * m >= raw * 0.999);
  const ticks = [];
  for (let k = Math.ceil(lo / step - 1e-9); k * step <= hi + step * 1e-9; k++) ticks.push(+(k * step).toPrecision(12));
  return ticks;
}

const SVG = "http://www.w3.org/2000/svg";
function svg(name, attributes = {}, parent = null) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent?.append(element);
  return element;
}
function element(name, properties = {}, parent = null, children = []) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  parent?.append(made);
  return made;
}
// Exponents are set by markup: few fonts have all superscript digits, and those they borrow do not match.
const EXPONENT = /([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)/;
const PLAIN = Object.fromEntries(Object.entries(SUPERSCRIPT).map(([plain, raised]) => [raised, plain === "-" ? "−" : plain]));
const lowered = (raised) => [...raised].map((c) => PLAIN[c]).join("");
const rich = (content) => content.split(EXPONENT).map((part, k) => (k % 2 ? element("sup", {textContent: lowered(part)}) : part));
function text(parent, x, y, content, attributes = {}) {
  const host = svg("text", {x, y, ...attributes}, parent);
  content.split(EXPONENT).forEach((part, k) => {
    svg("tspan", k % 2 ? {dy: -5, "font-size": 9} : {}, host).textContent = k % 2 ? lowered(part) : part;
  });
}

// One tooltip for the page. The text is never parsed as HTML: names of agents may hold anything.
const tip = document.getElementById("tip");
function showTip(event, content) {
  tip.replaceChildren(...rich(content));
  tip.hidden = false;
  const room = document.documentElement.clientWidth, width = tip.offsetWidth;
  const right = event.clientX + 14 + width < room;
  tip.style.left = `${Math.max(4, right ? event.clientX + 14 : event.clientX - 14 - width) + scrollX}px`;
  tip.style.top = `${event.clientY + 14 + scrollY}px`;
}
const hideTip = () => { tip.hidden = true; };

// Draws again when the width has changed; `draw` gets the width in pixels, on paper `printed`.
function onWidth(host, printed, draw) {
  let drawn = 0;
  function fit() {
    const width = Math.round(host.clientWidth);
    if (width && width !== drawn) draw((drawn = width));
  }
  fit();
  new ResizeObserver(() => requestAnimationFrame(fit)).observe(host);
  addEventListener("beforeprint", () => draw((drawn = printed)));
  addEventListener("afterprint", fit);
}
