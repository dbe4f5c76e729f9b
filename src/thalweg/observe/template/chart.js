// Line charts over rounds or bytes.

const MARGIN = {left: 52, right: 24, top: 8, bottom: 40};

// `data`: {round, bytes}; `spec`: {title, log, lines: [{name, values, colour, dash, guide}]}.
// Returns {setAxis(name), mark(round)}.
function lineChart(host, spec, data) {
  const figure = element("figure", {className: "chart"}, host);
  element("h3", {textContent: spec.title + (spec.log ? "" : " (linear scale)")}, figure);
  legend(element("div", {className: "legend"}, figure), spec.lines);
  const holder = element("div", {}, figure);
  let axis = "round", width = 0, marked = null, marker = null, toX = () => 0;

  const usable = (value) => value !== null && (!spec.log || value > 0);
  const scale = verticalScale(spec, usable);

  function draw() {
    const height = Math.round(Math.min(330, Math.max(230, width * 0.62)));
    const x = data[axis], inner = {w: width - MARGIN.left - MARGIN.right, h: height - MARGIN.top - MARGIN.bottom};
    const last = axis === "clock" ? x[x.length - 1] || 1 : Math.max(x[x.length - 1] ?? 1, 1);
    toX = (value) => MARGIN.left + (value / last) * inner.w;
    const toY = (value) => MARGIN.top + (1 - scale.unit(value)) * inner.h;

    const root = svg("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": describe()});
    for (const [value, label] of scale.ticks) {
      const y = toY(value);
      svg("line", {x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y, stroke: "#e8ebee"}, root);
      text(root, MARGIN.left - 8, y + 4, label, {"text-anchor": "end"});
    }
    const unit = axis.startsWith("bytes") ? unitOf(last) : 0, per = 1024 ** unit;
    const bottom = height - MARGIN.bottom;
    for (const tick of linearTicks(0, last / per, Math.max(3, Math.floor(inner.w / 90)))) {
      const at = toX(tick * per);
      svg("line", {x1: at, x2: at, y1: bottom, y2: bottom + 5, stroke: "#8a939c"}, root);
      text(root, at, bottom + 19, tick.toLocaleString("en"), {"text-anchor": "middle"});
    }
    svg("line", {x1: MARGIN.left, x2: width - MARGIN.right, y1: bottom, y2: bottom, stroke: "#8a939c"}, root);
    const title = {
      bytes: `payload sent by all ${data.bytes_down ? "clients" : "agents"} (${UNITS[unit]})`,
      bytes_down: `payload received by all clients (${UNITS[unit]})`,
      clock: "simulated seconds",
    }[axis] ?? "round";
    text(root, MARGIN.left + inner.w / 2, height - 4, title, {"text-anchor": "middle"});

    const clip = `clip-${spec.title.replace(/\W/g, "")}`;
    const clipPath = svg("clipPath", {id: clip}, svg("defs", {}, root));
    svg("rect", {x: MARGIN.left - 1, y: MARGIN.top - 2, width: inner.w + 2, height: inner.h + 4}, clipPath);
    const plot = svg("g", {"clip-path": `url(#${clip})`, fill: "none"}, root);
    marker = svg("line", {class: "marker", y1: MARGIN.top, y2: bottom, stroke: "#8a939c", "stroke-width": 1}, plot);
    for (const line of spec.lines) {
      svg("path", {d: path(line.values, x, toY), ...pen(line), class: "curve"}, plot);
    }
    const cross = svg("line", {y1: MARGIN.top, y2: bottom, stroke: "#1c2228", "stroke-width": 0.7, visibility: "hidden"}, plot);
    root.addEventListener("pointermove", (event) => {
      const box = root.getBoundingClientRect(), at = ((event.clientX - box.left) / box.width) * width;
      const record = nearest(x, at);
      cross.setAttribute("x1", toX(x[record]));
      cross.setAttribute("x2", toX(x[record]));
      cross.setAttribute("visibility", "visible");
      showTip(event, summary(record));
    });
    root.addEventListener("pointerleave", () => { cross.setAttribute("visibility", "hidden"); hideTip(); });
    holder.replaceChildren(root);
    mark(marked);
  }

  function path(values, x, toY) {
    let d = "", down = false;
    values.forEach((value, k) => {
      if (usable(value)) d += `${down ? "L" : "M"}${toX(x[k]).toFixed(1)} ${toY(value).toFixed(1)}`;
      down = usable(value);
    });
    return d;
  }
  function nearest(x, at) {
    let best = 0;
    x.forEach((value, k) => { if (Math.abs(toX(value) - at) < Math.abs(toX(x[best]) - at)) best = k; });
    return best;
  }
  function summary(record) {
    const lines = spec.lines.filter((line) => line.values[record] !== null).map((line) => `${line.name}: ${number(line.values[record])}`);
    const sent = data.bytes ? `, ${bytes(data.bytes[record])} sent` : "";
    return [`round ${data.round[record].toLocaleString("en")}${sent}`, ...lines].join("\n");
  }
  function describe() {
    const ends = spec.lines.map((line) => {
      const seen = line.values.map((value, k) => [value, k]).filter(([value]) => usable(value));
      if (!seen.length) return `${line.name}: nothing to draw`;
      const [from, to] = [seen[0], seen[seen.length - 1]];
      return `${line.name} from ${number(from[0])} at round ${data.round[from[1]]} to ${number(to[0])} at round ${data.round[to[1]]}`;
    });
    return `${spec.title}. ${ends.join("; ")}.`;
  }
  function mark(round) {
    marked = round;
    if (!marker) return;
    const record = data.round.findIndex((value) => value >= round);
    const shown = round !== null && record >= 0 && record < data.round.length - 1;
    marker.setAttribute("visibility", shown ? "visible" : "hidden");
    if (shown) for (const end of ["x1", "x2"]) marker.setAttribute(end, toX(data[axis][record]));
  }

  onWidth(holder, 330, (now) => { width = now; draw(); });
  return {setAxis(name) { axis = name; if (width) draw(); }, mark};
}

const pen = (line) => ({
  stroke: line.colour, "stroke-width": line.guide ? 1.6 : 2, "stroke-linejoin": "round", "stroke-dasharray": line.dash.join(" "),
});

function legend(host, lines) {
  for (const line of lines) {
    const entry = element("span", {}, host);
    svg("line", {x1: 0, x2: 30, y1: 4, y2: 4, ...pen(line)}, svg("svg", {viewBox: "0 0 30 8", "aria-hidden": "true"}, entry));
    entry.append(line.name);
  }
}

// {unit: value → [0, 1], ticks: [[value, label]]}; guides do not stretch the range.
function verticalScale(spec, usable) {
  const seen = spec.lines.filter((line) => !line.guide).flatMap((line) => line.values.filter(usable));
  let lo = seen.reduce((a, b) => Math.min(a, b), Infinity), hi = seen.reduce((a, b) => Math.max(a, b), -Infinity);
  if (!spec.log) {
    const room = (hi - lo || Math.abs(hi) || 1) * 0.05;
    [lo, hi] = [lo - room, hi + room];
    return {unit: (v) => (v - lo) / (hi - lo), ticks: linearTicks(lo, hi, 5).map((v) => [v, number(v, 5)])};
  }
  lo = Math.floor(Math.log10(lo) + 1e-9);
  hi = Math.max(Math.ceil(Math.log10(hi) - 1e-9), lo + 1);
  const step = [1, 2, 3, 4, 5, 10, 20, 50, 100].find((s) => (hi - lo) / s <= 7) ?? 200, ticks = [];
  for (let e = Math.ceil(lo / step) * step; e <= hi; e += step) ticks.push([10 ** e, power(e)]);
  return {unit: (v) => (Math.log10(v) - lo) / (hi - lo), ticks};
}
