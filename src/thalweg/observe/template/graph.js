// The network, its agents coloured by a value that changes from record to record.

// matplotlib's viridis at 0, 1/16, …, 1.
const VIRIDIS = [
  [68, 1, 84], [72, 24, 106], [71, 45, 123], [66, 64, 134], [59, 82, 139], [51, 99, 141],
  [44, 114, 142], [38, 130, 142], [33, 145, 140], [31, 160, 136], [40, 174, 128], [63, 188, 115],
  [94, 201, 98], [132, 212, 75], [173, 220, 48], [216, 226, 25], [253, 231, 37],
];
const MISSING = "#d5d9dd";
const SVG_AGENTS = 400, SVG_EDGES = 6000, LABELLED = 24, ARROWS = 400;

function viridis(t) {
  const at = Math.min(1, Math.max(0, t)) * (VIRIDIS.length - 1), k = Math.min(VIRIDIS.length - 2, Math.floor(at));
  return `rgb(${VIRIDIS[k].map((c, i) => Math.round(c + (at - k) * (VIRIDIS[k + 1][i] - c))).join(",")})`;
}

function unpack(base64) {
  const raw = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)), view = new DataView(raw.buffer);
  return Float32Array.from({length: raw.length / 4}, (_, k) => view.getFloat32(4 * k, true));
}

// One scale for all records, so that a colour means the same in every round. Disagreement falls by orders of magnitude and is
// logarithmic; a loss is where it is positive and spans more than a factor of fifty. The middle 96 % of the losses set the scale:
// the first rounds would leave the others one colour.
function colourScale(name, values) {
  let lo = Infinity, hi = -Infinity, least = Infinity;
  for (const v of values) {
    if (!Number.isFinite(v)) continue;
    if (v < lo) lo = v;
    if (v > hi) hi = v;
    if (v > 0 && v < least) least = v;
  }
  if (lo > hi) return {colour: () => MISSING, ticks: [], log: false};
  const [bottom, top] = [lo, hi];
  if (name !== "disagreement") {
    const sorted = values.filter(Number.isFinite).sort(), at = (q) => sorted[Math.round(q * (sorted.length - 1))];
    [lo, hi] = [at(0.02), at(0.98)];
  }
  const log = hi > 0 && (name === "disagreement" || (lo > 0 && hi / lo > 50));
  if (log && name === "disagreement") lo = Math.max(least, hi * 1e-16);
  const to = log ? Math.log10 : (v) => v, from = log ? (v) => 10 ** v : (v) => v;
  const [a, b] = [to(lo), to(hi)];
  const unit = (v) => (b > a ? (to(Math.max(v, log ? lo : v)) - a) / (b - a) : 0.5);
  return {
    log,
    colour: (v) => (Number.isFinite(v) ? viridis(unit(v)) : MISSING),
    ticks: b > a ? [0, 0.5, 1].map((t) => (t === 0 && lo > bottom ? "≤ " : t === 1 && hi < top ? "≥ " : "") + number(from(a + t * (b - a)), 2)) : [number(lo, 2)],
  };
}

// Returns {onRecord(listener)}; the listener gets the round that is shown.
function networkPicture(host, data) {
  const n = data.names.length, columns = data.columns.map((c) => ({...c, values: unpack(c.values)}));
  columns.forEach((c) => { c.scale = colourScale(c.name, c.values); });
  let column = columns[0] ?? null, record = Math.max(0, data.round.length - 1), painter = null, listener = () => {};

  if (columns.length > 1) colourToggle();
  const picture = element("div", {className: "picture"}, host);
  const ramp = colourRamp();
  if (columns.length && data.round.length > 1) roundSlider();
  const omitted = data.edgeCount - data.edges.length / 2;
  if (omitted > 0) {
    const drawn = (data.edges.length / 2).toLocaleString("en");
    element("p", {className: "note", textContent: `${drawn} of ${data.edgeCount.toLocaleString("en")} edges are drawn.`}, host);
  }

  const value = (i) => (column ? column.values[record * n + i] : NaN);
  function paint() {
    painter?.paint((i) => (column ? column.scale.colour(value(i)) : "#2a788e"));
    listener(data.round[record]);
  }
  onWidth(picture, 400, (width) => {
    const place = placement(data, width);
    const large = n > SVG_AGENTS || data.edges.length / 2 > SVG_EDGES;
    painter = (large ? canvasPainter : svgPainter)(picture, data, place);
    painter.root.setAttribute("role", "img");
    painter.root.setAttribute("aria-label", data.member ? `${n} ${data.member}s. The table of ${data.member}s has the values.` : `Network of ${n} agents and ${data.edgeCount} edges. The table of agents has the values.`);
    painter.root.addEventListener("pointermove", (event) => {
      const i = under(event, painter.root, place);
      if (i < 0) return hideTip();
      const values = columns.map((c) => `${c.label}: ${number(c.values[record * n + i])}`);
      showTip(event, [data.names[i], ...values].join("\n"));
    });
    painter.root.addEventListener("pointerleave", hideTip);
    paint();
  });

  function colourToggle() {
    const bar = element("div", {className: "colour"}, host), group = element("fieldset", {className: "toggle", id: "colour"}, bar);
    element("legend", {textContent: `${data.member ?? "agent"}s coloured by`}, group);
    element("span", {textContent: data.member ? "Clients coloured by" : "Agents coloured by", ariaHidden: "true"}, bar).after(group);
    for (const c of columns) {
      const label = element("label", {}, group);
      const input = element("input", {type: "radio", name: "colour", value: c.name, checked: c === column}, label);
      element("span", {textContent: c.name}, label);
      input.addEventListener("change", () => { column = c; ramp(); paint(); });
    }
  }
  function colourRamp() {
    if (!column) return () => {};
    const box = element("div", {className: "ramp"}, host), title = element("span", {}, box);
    const stripe = element("div", {className: "stripe"}, box), ticks = element("div", {className: "ticks"}, box);
    stripe.style.background = `linear-gradient(to right, ${VIRIDIS.map((_, k) => viridis(k / (VIRIDIS.length - 1))).join(", ")})`;
    const show = () => {
      title.textContent = column.label + (column.scale.log ? ", log scale" : "");
      ticks.replaceChildren(...column.scale.ticks.map((v) => element("span", {}, null, rich(v))));
    };
    show();
    return show;
  }
  function roundSlider() {
    const bar = element("div", {className: "controls"}), last = data.round.length - 1;
    picture.after(bar);
    const play = element("button", {type: "button", className: "play"}, bar);
    const slider = element("input", {type: "range", id: "record", min: 0, max: last, step: 1, value: record}, bar);
    slider.setAttribute("aria-label", "round shown");
    const output = element("output", {}, bar);
    output.setAttribute("for", "record");
    let timer = 0;
    function show(k) {
      record = k;
      slider.value = k;
      const label = `round ${data.round[k].toLocaleString("en")}`;
      output.textContent = label;
      slider.setAttribute("aria-valuetext", label);
      paint();
    }
    function stop() {
      cancelAnimationFrame(timer);
      timer = 0;
      play.textContent = "▶ Play";
    }
    play.addEventListener("click", () => {
      if (timer) return stop();
      const from = record === last ? 0 : record, length = Math.min(8000, Math.max(1500, last * 60));
      const began = performance.now();
      play.textContent = "❚❚ Pause";
      timer = requestAnimationFrame(function step(now) {
        const k = Math.min(last, from + Math.max(0, Math.round(((now - began) / length) * last)));
        if (k !== record) show(k);
        if (k === last) stop();
        else timer = requestAnimationFrame(step);
      });
    });
    slider.addEventListener("input", () => { stop(); show(+slider.value); });
    stop();
    show(record);
  }

  return {onRecord(f) { listener = f; if (data.round.length) f(data.round[record]); }};
}

// Pixels of every agent, with room for the names; the picture keeps the proportions of the positions.
function placement(data, width) {
  const points = data.positions.map(([x, y]) => [x ?? 0, y ?? 0]), n = points.length;
  const span = (axis) => { const v = points.map((p) => p[axis]); return [v.reduce((a, b) => Math.min(a, b)), v.reduce((a, b) => Math.max(a, b))]; };
  const [x0, x1] = span(0), [y0, y1] = span(1);
  const labelled = n <= LABELLED, longest = labelled ? Math.max(...data.names.map((name) => Math.min(name.length, 24))) : 0;
  const radius = Math.max(2, Math.min(15, 80 / Math.sqrt(n), width / 30));
  const side = labelled ? Math.min(width * 0.24, radius + 10 + 7 * longest) : radius + 4, top = radius + (labelled ? 24 : 4);
  const w = width - 2 * side, h = Math.min(w, 470 - 2 * top);
  const scale = Math.min(x1 > x0 ? w / (x1 - x0) : Infinity, y1 > y0 ? h / (y1 - y0) : Infinity);
  const use = Number.isFinite(scale) ? scale : 0, height = Math.max(120, Math.round(use * (y1 - y0) + 2 * top));
  const at = points.map(([x, y]) => [width / 2 + use * (x - (x0 + x1) / 2), height / 2 - use * (y - (y0 + y1) / 2)]);
  return {at, width, height, radius, labelled};
}

function under(event, root, place) {
  const box = root.getBoundingClientRect(), factor = place.width / box.width;
  const x = (event.clientX - box.left) * factor, y = (event.clientY - box.top) * factor;
  let best = -1, least = Math.max(place.radius + 4, 10) ** 2;
  place.at.forEach(([a, b], i) => { const d = (a - x) ** 2 + (b - y) ** 2; if (d < least) [best, least] = [i, d]; });
  return best;
}

const edgeOpacity = (data) => Math.max(0.12, Math.min(0.75, 25 / Math.sqrt(data.edges.length / 2 + 1)));

function svgPainter(host, data, place) {
  const {at, width, height, radius, labelled} = place;
  const root = svg("svg", {viewBox: `0 0 ${width} ${height}`}), arrows = data.directed && data.edges.length / 2 <= ARROWS;
  if (arrows) {
    const marker = svg("marker", {id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto"}, svg("defs", {}, root));
    svg("path", {d: "M0 1L8 4L0 7z", fill: "#78828c"}, marker);
  }
  const lines = svg("g", {stroke: "#78828c", "stroke-width": 1.1, "stroke-opacity": edgeOpacity(data), fill: "none"}, root);
  let d = "";
  for (let k = 0; k < data.edges.length; k += 2) {
    const [[a, b], [x, y]] = [at[data.edges[k]], at[data.edges[k + 1]]], length = Math.hypot(x - a, y - b) || 1;
    const short = arrows ? (radius + 2) / length : 0;  // the tip ends at the rim of the agent
    const piece = `M${a.toFixed(1)} ${b.toFixed(1)}L${(x - short * (x - a)).toFixed(1)} ${(y - short * (y - b)).toFixed(1)}`;
    if (arrows) svg("path", {d: piece, "marker-end": "url(#arrow)"}, lines);
    else d += piece;
  }
  if (d) svg("path", {d}, lines);
  const dots = at.map(([x, y]) => svg("circle", {class: "agent", cx: x.toFixed(1), cy: y.toFixed(1), r: radius, stroke: "#2b3138", "stroke-width": radius > 5 ? 1 : 0.5}, root));
  if (labelled) names(root, data, place);
  host.replaceChildren(root);
  return {root, paint: (colour) => dots.forEach((dot, i) => dot.setAttribute("fill", colour(i)))};
}

// Names stand outwards of the middle, where edges are few.
function names(root, data, {at, width, height, radius}) {
  at.forEach(([x, y], i) => {
    const [dx, dy] = [x - width / 2, y - height / 2], beside = Math.abs(dx) > 1.2 * Math.abs(dy) && Math.abs(dx) > 0.1 * width;
    const name = data.names[i].length > 24 ? data.names[i].slice(0, 23) + "…" : data.names[i];
    const gap = radius + 6;
    if (data.member) {  // in rows: names stand below
      const room = Math.max(3, Math.floor(width / (Math.ceil(Math.sqrt(1.6 * at.length)) * 8)));
      text(root, x, y + gap + 8, name.length > room ? name.slice(0, room - 1) + "…" : name, {class: "name", "text-anchor": "middle"});
      return;
    }
    if (beside) text(root, x + Math.sign(dx) * gap, y + 4, name, {class: "name", "text-anchor": dx > 0 ? "start" : "end"});
    else text(root, x, dy > 0 ? y + gap + 10 : y - gap, name, {class: "name", "text-anchor": "middle"});
  });
}

function canvasPainter(host, data, place) {
  const {at, width, height, radius} = place, dense = Math.max(2, devicePixelRatio || 1);
  const root = element("canvas", {width: width * dense, height: height * dense}), context = root.getContext("2d");
  const edges = element("canvas", {width: root.width, height: root.height}), below = edges.getContext("2d");
  below.scale(dense, dense);
  below.globalAlpha = edgeOpacity(data);
  below.strokeStyle = "#78828c";
  below.lineWidth = 0.8;
  below.beginPath();
  for (let k = 0; k < data.edges.length; k += 2) {
    below.moveTo(...at[data.edges[k]]);
    below.lineTo(...at[data.edges[k + 1]]);
  }
  below.stroke();
  host.replaceChildren(root);
  return {
    root,
    paint(colour) {
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.clearRect(0, 0, root.width, root.height);
      context.drawImage(edges, 0, 0);
      context.scale(dense, dense);
      context.strokeStyle = "#2b3138";
      context.lineWidth = 0.4;
      at.forEach(([x, y], i) => {
        context.beginPath();
        context.arc(x, y, radius, 0, 2 * Math.PI);
        context.fillStyle = colour(i);
        context.fill();
        context.stroke();
      });
    },
  };
}
