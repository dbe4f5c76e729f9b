// Puts the page together: the network, the charts, the tables that can be sorted.

const data = JSON.parse(document.getElementById("data").textContent);

const grid = document.getElementById("charts"), mixing = grid.querySelector(".mixing");
const charts = data.charts.charts.map((spec) => lineChart(grid, spec, data.charts));
if (mixing) grid.append(mixing);
if (!charts.length) element("p", {className: "note", textContent: "No round was recorded that could be drawn."}, grid);

const axis = document.getElementById("axis");
axis.hidden = !charts.length || !data.charts.bytes;
axis.addEventListener("change", (event) => charts.forEach((chart) => chart.setAxis(event.target.value)));

const graph = document.getElementById("graph");
if (graph && data.graph.skipped) element("p", {className: "note", textContent: data.graph.skipped}, graph);
else if (graph && data.graph.names.length) networkPicture(graph, data.graph).onRecord((round) => charts.forEach((chart) => chart.mark(round)));

// Numbers by size, texts by alphabet, missing values last in both directions.
function sortBy(table, column, sign) {
  const key = (row) => row.children[column].dataset.value, body = table.tBodies[0];
  const compare = (a, b) => (isFinite(a) && isFinite(b) ? a - b : a.localeCompare(b, "en", {numeric: true}));
  const rows = [...body.rows].map((row) => [key(row), row]);
  rows.sort(([a], [b]) => (a === "") - (b === "") || sign * compare(a, b));
  body.append(...rows.map(([, row]) => row));
}
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    sortBy(table, column, ascending ? 1 : -1);
  }));
}
