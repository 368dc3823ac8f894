// Encoders side by side: one chosen cell, its neighbours for each encoder, and where all lie on each map.

const MOST_LEVELS = 14;
const mapColumns = data.columns.filter((column) =>
  (column.kind !== "text" || column.levels.length > 1) && !/^top_(location|probability)_[23]$/.test(column.name));
const colour = document.getElementById("colour");
for (const column of mapColumns) colour.append(element("option", { value: column.name, textContent: column.label }));
if (!mapColumns.length) colour.append(element("option", { value: "", textContent: "nothing" }));

let chosen = 0;
let hovered = -1;
let pointStyles = null;

/** What is said of a cell beside its picture. */
function factsOf(cell) {
  const names = ["locations", "top_location_1", "gene", "antibody", "plate", "well", "field_of_view"];
  return names.filter((name) => text(columns.get(name), cell)).map((name) => `${columns.get(name).label}: ${text(columns.get(name), cell)}`);
}

function tileOf(cell) {
  const canvas = element("canvas", { width: 128, height: 128 });
  const button = element("button", { type: "button", className: "tile", title: [data.ids[cell], ...factsOf(cell)].join("\n") }, canvas);
  button.setAttribute("aria-label", data.ids[cell]);
  button.addEventListener("click", () => choose(cell));
  paint(canvas, cell);
  return button;
}

/** Make a cell the one whose neighbours are shown. */
function choose(cell) {
  chosen = cell;
  const [canvas, caption] = document.getElementById("query").children;
  paint(canvas, cell);
  caption.replaceChildren(element("b", { textContent: data.ids[cell] }), ...factsOf(cell).map((line) => element("span", { textContent: line })));
  document.getElementById("rows").replaceChildren(...data.encoders.map((encoder) =>
    element("div", { className: "neighbours" }, element("b", { textContent: encoder.name }), ...encoder.neighbours[cell].map(tileOf))));
  for (const button of document.querySelectorAll("[data-query]")) button.setAttribute("aria-pressed", String(Number(button.dataset.query) === cell));
  drawAll();
}

class SmallMap {
  constructor(encoder) {
    this.encoder = encoder;
    this.canvas = element("canvas");
    this.card = element("figure", {}, element("figcaption", { textContent: encoder.name }), this.canvas);
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", `Map of the cells by ${encoder.name}`);
    this.canvas.addEventListener("pointermove", (event) => { if (event.pointerType !== "touch") hover(this.nearest(event, 14)); });
    this.canvas.addEventListener("pointerleave", () => hover(-1));
    this.canvas.addEventListener("click", (event) => {
      const cell = this.nearest(event, 26);
      if (cell >= 0) choose(cell);
    });
  }

  /** Where a cell lies, in CSS pixels; the map fills the square but for a margin. */
  place(cell) {
    const room = this.edge - 32;
    return [16 + (this.encoder.x[cell] / 10000) * room, 16 + (1 - this.encoder.y[cell] / 10000) * room];
  }

  nearest(event, reach) {
    const box = this.canvas.getBoundingClientRect();
    let [best, least] = [-1, reach * reach];
    for (let cell = 0; cell < data.ids.length; cell += 1) {
      const [x, y] = this.place(cell);
      const distance = (x - event.clientX + box.left) ** 2 + (y - event.clientY + box.top) ** 2;
      if (distance < least) [best, least] = [cell, distance];
    }
    return best;
  }

  draw() {
    const ratio = window.devicePixelRatio || 1;
    this.edge = this.canvas.clientWidth;
    this.canvas.width = this.edge * ratio;
    this.canvas.height = this.edge * ratio;
    const brush = this.canvas.getContext("2d");
    brush.scale(ratio, ratio);
    const radius = Math.max(2.5, Math.min(6, 50 / Math.sqrt(data.ids.length)));
    const stamps = pointStyles.styles.map((style) => stamp(style, radius, ratio));
    for (let cell = 0; cell < data.ids.length; cell += 1) {
      const [x, y] = this.place(cell);
      const { canvas, half } = stamps[pointStyles.styleOf(cell)];
      brush.drawImage(canvas, x - half, y - half, half * 2, half * 2);
    }
    for (const neighbour of this.encoder.neighbours[chosen]) this.ring(brush, neighbour, radius + 3, 1.5);
    this.ring(brush, chosen, radius + 5, 3);
    if (hovered >= 0) this.ring(brush, hovered, radius + 4, 2.5);
  }

  ring(brush, cell, radius, width) {
    brush.beginPath();
    brush.arc(...this.place(cell), radius, 0, 2 * Math.PI);
    brush.lineWidth = width;
    brush.strokeStyle = themeColour("--ink");
    brush.stroke();
  }
}

const maps = data.encoders.map((encoder) => new SmallMap(encoder));
document.getElementById("map-cards").append(...maps.map((map) => map.card));

function drawAll() {
  for (const map of maps) map.draw();
}

/** Mark the cell under the pointer on all maps. */
function hover(cell) {
  if (cell === hovered) return;
  hovered = cell;
  drawAll();
}

function recolour() {
  const column = mapColumns.find(({ name }) => name === colour.value);
  pointStyles = chooseStyles(column, MOST_LEVELS, "all cells");
  const legend = document.getElementById("legend");
  legend.replaceChildren();
  if (column && column.kind === "number") {
    legend.append(element("span", { textContent: `${column.label}: dark ${pointStyles.low}, bright ${pointStyles.high}` }));
  } else {
    const counts = pointStyles.styles.map(() => 0);
    data.ids.forEach((_, cell) => { counts[pointStyles.styleOf(cell)] += 1; });
    pointStyles.styles.forEach((style, number) => {
      if (counts[number]) legend.append(element("span", {}, stamp(style, 6, 2).canvas, `${style.name} (${counts[number]})`));
    });
  }
  drawAll();
}

for (const button of document.querySelectorAll("[data-query]")) {
  const cell = Number(button.dataset.query);
  button.title = data.ids[cell];
  button.setAttribute("aria-label", data.ids[cell]);
  button.addEventListener("click", () => choose(cell));
}
colour.addEventListener("change", recolour);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
repaint();
recolour();
choose(0);
new ResizeObserver(drawAll).observe(document.getElementById("map-cards"));
document.documentElement.dataset.ready = "1";
