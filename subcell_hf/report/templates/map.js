// The map of the cells: points in two canvases, one of them for the cell under the pointer.

const OKABE_ITO = ["#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#F0E442"];
const CIVIDIS = ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"];
const MOST_LEVELS = 14;
const MOST_LABELS = 14;

const map = {
  points: document.getElementById("map-points"),
  mark: document.getElementById("map-mark"),
  frame: document.getElementById("map-frame"),
  tip: document.getElementById("tip"),
  legend: document.getElementById("legend"),
  colour: document.getElementById("colour"),
  view: { zoom: 1, x: 0, y: 0 },
  only: null,
  styles: [],
  styleNumbers: [],
  labels: [],
  hovered: -1,
};

function brightness(colour) {
  const [r, g, b] = [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16) / 255);
  return 0.299 * r + 0.587 * g + 0.114 * b;
}

/** Outline a shape around (0, 0). */
function trace(brush, shape, r) {
  const corners = (...points) => points.forEach(([x, y], i) => (i ? brush.lineTo(x * r, y * r) : brush.moveTo(x * r, y * r)));
  brush.beginPath();
  if (shape === 0) brush.arc(0, 0, r, 0, 2 * Math.PI);
  else if (shape === 1) corners([-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]);
  else if (shape === 2) corners([0, -1.15], [1.1, 0.85], [-1.1, 0.85]);
  else if (shape === 3) corners([0, -1.25], [1.25, 0], [0, 1.25], [-1.25, 0]);
  else if (shape === 4) corners([0, 1.15], [1.1, -0.85], [-1.1, -0.85]);
  else corners([-0.4, -1.2], [0.4, -1.2], [0.4, -0.4], [1.2, -0.4], [1.2, 0.4], [0.4, 0.4], [0.4, 1.2], [-0.4, 1.2], [-0.4, 0.4], [-1.2, 0.4], [-1.2, -0.4], [-0.4, -0.4]);
  brush.closePath();
}

/** A point drawn once, to be stamped many times. */
function stamp(style, radius, ratio) {
  const half = Math.ceil(radius * 1.3 + 1.5);
  const canvas = element("canvas", { width: half * 2 * ratio, height: half * 2 * ratio });
  const brush = canvas.getContext("2d");
  brush.scale(ratio, ratio);
  brush.translate(half, half);
  trace(brush, style.shape, radius);
  brush.fillStyle = style.colour;
  brush.fill();
  const panel = themeColour("--panel");
  const faint = Math.abs(brightness(style.colour) - brightness(panel)) < 0.3;
  // Small points are many: a full line would hide their colour.
  brush.lineWidth = radius < 3 ? 0.4 : 1;
  brush.strokeStyle = faint ? themeColour("--muted") : panel;
  brush.stroke();
  return { canvas, half };
}

function mix(colours, share) {
  const place = Math.min(Math.max(share, 0), 1) * (colours.length - 1);
  const low = Math.min(Math.floor(place), colours.length - 2);
  const channel = (start) => {
    const [a, b] = [low, low + 1].map((i) => parseInt(colours[i].slice(start, start + 2), 16));
    return Math.round(a + (b - a) * (place - low)).toString(16).padStart(2, "0");
  };
  return `#${channel(1)}${channel(3)}${channel(5)}`;
}

/** Colour and shape of every level, or of every step of a number. */
function chooseStyles(column) {
  const grey = { colour: "#8d949e", shape: 0, name: "unknown" };
  if (!column) return { styles: [{ ...grey, name: "all cells" }], styleOf: () => 0 };
  if (column.kind === "text") {
    const shown = column.colours ? column.levels.length : Math.min(column.levels.length, MOST_LEVELS);
    const styles = column.levels.slice(0, shown).map((name, i) => ({
      name, colour: column.colours ? column.colours[i] : OKABE_ITO[i % 7], shape: i % 6,
    }));
    styles.push({ ...grey, name: shown < column.levels.length ? `${column.levels.length - shown} others` : "unknown" });
    return { styles, styleOf: (cell) => (column.codes[cell] < 0 ? shown : Math.min(column.codes[cell], shown)) };
  }
  const known = column.values.filter((value) => value !== null).sort((a, b) => a - b);
  // One wild value must not turn all others into one colour.
  const [low, high] = [known[Math.floor(0.01 * (known.length - 1))], known[Math.ceil(0.99 * (known.length - 1))]];
  const steps = 24;
  const styles = Array.from({ length: steps }, (_, i) => ({ colour: mix(CIVIDIS, i / (steps - 1)), shape: 0, name: "" }));
  styles.push(grey);
  const styleOf = (cell) => {
    const value = column.values[cell];
    if (value === null) return steps;
    return high > low ? Math.min(steps - 1, Math.max(0, Math.floor(((value - low) / (high - low)) * steps))) : 0;
  };
  return { styles, styleOf, low, high };
}

/** Factor and shifts from a cell's place to CSS pixels of the frame. */
function toScreen() {
  const factor = map.scale * map.view.zoom;
  return [factor, map.width / 2 + map.view.x - factor * map.middle[0], map.height / 2 + map.view.y + factor * map.middle[1]];
}

/** Where a cell lies in the frame, in CSS pixels. */
function onScreen(cell) {
  const [factor, right, down] = toScreen();
  return [right + factor * data.x[cell], down - factor * data.y[cell]];
}

function fitFrame() {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [map.frame.clientWidth, map.frame.clientHeight];
  Object.assign(map, { width, height });
  for (const canvas of [map.points, map.mark]) [canvas.width, canvas.height] = [width * ratio, height * ratio];
  const range = (values) => values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]);
  const [[left, right], [bottom, top]] = [range(data.x), range(data.y)];
  map.middle = [(left + right) / 2, (bottom + top) / 2];
  map.scale = Math.min((width - 60) / Math.max(right - left, 1), (height - 60) / Math.max(top - bottom, 1));
}

/** Draw the map before the next picture of the screen, however often it was asked for. */
function drawSoon() {
  if (map.asked) return;
  map.asked = true;
  requestAnimationFrame(() => { map.asked = false; drawMap(); });
}

function drawMap() {
  const ratio = window.devicePixelRatio || 1;
  const brush = map.points.getContext("2d");
  brush.setTransform(ratio, 0, 0, ratio, 0, 0);
  const { width, height } = map;
  brush.clearRect(0, 0, width, height);
  const count = data.ids.length;
  const radius = Math.max(2, Math.min(6, 60 / Math.sqrt(count))) * Math.min(2, Math.sqrt(map.view.zoom));
  const stamps = map.styles.map((style) => stamp(style, radius, ratio));
  const [factor, right, down] = toScreen();
  const put = (cell) => {
    const [x, y] = [right + factor * data.x[cell], down - factor * data.y[cell]];
    if (x < -9 || y < -9 || x > width + 9 || y > height + 9) return;
    const { canvas, half } = stamps[map.styleNumbers[cell]];
    brush.drawImage(canvas, x - half, y - half, half * 2, half * 2);
  };
  if (map.only !== null) {
    brush.globalAlpha = 0.08;
    for (let cell = 0; cell < count; cell += 1) if (map.styleNumbers[cell] !== map.only) put(cell);
  }
  brush.globalAlpha = count > 5000 ? 0.75 : 0.92;
  for (let cell = 0; cell < count; cell += 1) if (map.only === null || map.styleNumbers[cell] === map.only) put(cell);
  brush.globalAlpha = 1;
  drawLabels(brush);
  drawMark();
}

/** The largest levels of a column, each with the cell in its midst. */
function chooseLabels(column) {
  if (!column || column.kind !== "text" || column.levels.length > 60) return [];
  const members = column.levels.slice(0, MOST_LABELS).map(() => []);
  column.codes.forEach((code, cell) => { if (code >= 0 && code < MOST_LABELS) members[code].push(cell); });
  return members.flatMap((cells, level) => (cells.length < 2 ? [] : [{ level, cell: midst(cells) }]));
}

/** Names of levels where they do not cover each other. */
function drawLabels(brush) {
  const taken = [];
  brush.font = "600 13px system-ui, sans-serif";
  brush.textAlign = "center";
  brush.textBaseline = "middle";
  brush.lineJoin = "round";
  for (const { level, cell } of map.labels) {
    if (map.only !== null && map.only !== level) continue;
    const name = map.styles[level].name;
    const short = name.length > 28 ? `${name.slice(0, 27)}…` : name;
    const half = brush.measureText(short).width / 2 + 4;
    const { width, height } = map;
    let [x, y] = onScreen(cell);
    if (x < 0 || y < 0 || x > width || y > height) continue;
    [x, y] = [Math.min(Math.max(x, half + 2), width - half - 2), Math.min(Math.max(y, 12), height - 12)];
    if (taken.some(([a, b, h]) => Math.abs(a - x) < h + half && Math.abs(b - y) < 18)) continue;
    taken.push([x, y, half]);
    brush.lineWidth = 4;
    brush.strokeStyle = themeColour("--panel");
    brush.strokeText(short, x, y);
    brush.fillStyle = themeColour("--ink");
    brush.fillText(short, x, y);
  }
}

/** The cell nearest to the median of some cells. */
function midst(members) {
  const middle = [data.x, data.y].map((axis) => members.map((cell) => axis[cell]).sort((a, b) => a - b)[members.length >> 1]);
  const distance = (cell) => (data.x[cell] - middle[0]) ** 2 + (data.y[cell] - middle[1]) ** 2;
  return members.reduce((best, cell) => (distance(cell) < distance(best) ? cell : best));
}

function drawMark() {
  const ratio = window.devicePixelRatio || 1;
  const brush = map.mark.getContext("2d");
  brush.setTransform(ratio, 0, 0, ratio, 0, 0);
  brush.clearRect(0, 0, map.width, map.height);
  if (map.hovered < 0) return;
  const [x, y] = onScreen(map.hovered);
  brush.beginPath();
  brush.arc(x, y, 9, 0, 2 * Math.PI);
  brush.lineWidth = 2.5;
  brush.strokeStyle = themeColour("--ink");
  brush.stroke();
}

function nearest(x, y, reach) {
  const [factor, right, down] = toScreen();
  let best = -1;
  let least = reach * reach;
  for (let cell = 0; cell < data.ids.length; cell += 1) {
    if (map.only !== null && map.styleNumbers[cell] !== map.only) continue;
    const across = right + factor * data.x[cell] - x;
    const along = down - factor * data.y[cell] - y;
    const distance = across * across + along * along;
    if (distance < least) {
      best = cell;
      least = distance;
    }
  }
  return best;
}

/** Show the facts of a cell beside its point, or hide them. */
function hover(cell, touch = false) {
  if (cell === map.hovered) return;
  map.hovered = cell;
  drawMark();
  map.tip.hidden = cell < 0;
  if (cell < 0) return;
  map.tip.className = touch ? "touch" : "";
  const facts = element("div", {}, element("b", { textContent: data.ids[cell] }));
  if (data.tiles[cell] < 0) facts.className = "bare";
  for (const line of shortFacts(cell)) facts.append(element("span", { textContent: line }));
  if (touch) facts.append(element("span", { textContent: "Tap for more" }));
  const canvas = element("canvas", { width: 128, height: 128 });
  map.tip.replaceChildren(...(data.tiles[cell] < 0 ? [facts] : [canvas, facts]));
  paint(canvas, cell);
  const [x, y] = onScreen(cell);
  const [width, height] = [map.tip.offsetWidth, map.tip.offsetHeight];
  const left = x + 16 + width < map.frame.clientWidth ? x + 16 : x - 16 - width;
  map.tip.style.left = `${Math.max(4, Math.min(left, map.frame.clientWidth - width - 4))}px`;
  map.tip.style.top = `${Math.max(4, Math.min(y - height / 2, map.frame.clientHeight - height - 4))}px`;
}

function shortFacts(cell) {
  const lines = [];
  const top = columns.get("top_location_1");
  if (top) lines.push(`${text(top, cell)} · ${Number(text(columns.get("top_probability_1"), cell)).toFixed(2)}`);
  const known = text(columns.get("locations"), cell);
  if (known) lines.push(`known: ${known.replaceAll(";", ", ")}`);
  const names = ["gene", "antibody", "cell_line"].map((name) => text(columns.get(name), cell)).filter(Boolean);
  if (names.length) lines.push(names.join(" · "));
  const column = columns.get(map.colour.value);
  if (column && !["top_location_1", "top_probability_1", "locations", "gene", "antibody", "cell_line"].includes(column.name)) {
    lines.push(`${column.label}: ${text(column, cell) || "unknown"}`);
  }
  return lines;
}

function colourMap() {
  map.only = null;
  const column = columns.get(map.colour.value);
  Object.assign(map, chooseStyles(column), { labels: chooseLabels(column) });
  map.styleNumbers = data.ids.map((_, cell) => map.styleOf(cell));
  drawLegend(column);
  drawMap();
}

function drawLegend(column) {
  map.legend.replaceChildren();
  if (column && column.kind === "number") {
    const ramp = element("canvas", { width: 256, height: 1, className: "ramp" });
    const brush = ramp.getContext("2d");
    for (let i = 0; i < 256; i += 1) {
      brush.fillStyle = mix(CIVIDIS, i / 255);
      brush.fillRect(i, 0, 1, 1);
    }
    const ends = element("div", { className: "scale" }, element("span", { textContent: `≤ ${map.low}` }), element("span", { textContent: `≥ ${map.high}` }));
    map.legend.append(element("p", { textContent: column.label }), ramp, ends);
    return;
  }
  const counts = map.styles.map(() => 0);
  for (const number of map.styleNumbers) counts[number] += 1;
  map.styles.forEach((style, number) => {
    if (!counts[number]) return;
    const { canvas } = stamp(style, 6, 2);
    const button = element("button", { type: "button" }, canvas, element("span", { textContent: style.name }), element("span", { textContent: counts[number].toLocaleString("en") }));
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => showOnly(map.only === number ? null : number));
    button.dataset.style = number;
    map.legend.append(button);
  });
}

function showOnly(number) {
  map.only = number;
  for (const button of map.legend.querySelectorAll("button")) button.setAttribute("aria-pressed", String(Number(button.dataset.style) === number));
  drawMap();
}

function zoomBy(factor, x = map.width / 2, y = map.height / 2) {
  const zoom = Math.min(40, Math.max(1, map.view.zoom * factor));
  const real = zoom / map.view.zoom;
  const [dx, dy] = [x - map.width / 2, y - map.height / 2];
  map.view = zoom === 1 ? { zoom, x: 0, y: 0 } : { zoom, x: dx - (dx - map.view.x) * real, y: dy - (dy - map.view.y) * real };
  map.mark.classList.toggle("zoomed", zoom > 1);
  hover(-1);
  drawMap();
}

function startMap() {
  for (const column of data.columns) {
    if (column.kind === "text" && column.levels.length < 2 && column.name !== "top_location_1") continue;
    if (/^top_(location|probability)_[23]$/.test(column.name)) continue;
    map.colour.append(element("option", { value: column.name, textContent: column.label }));
  }
  if (!map.colour.options.length) map.colour.append(element("option", { value: "", textContent: "nothing" }));
  map.colour.addEventListener("change", colourMap);
  document.getElementById("zoom-in").addEventListener("click", () => zoomBy(1.6));
  document.getElementById("zoom-out").addEventListener("click", () => zoomBy(1 / 1.6));
  document.getElementById("zoom-all").addEventListener("click", () => zoomBy(0));
  let [dragged, start] = [false, null];
  const at = (event) => {
    const box = map.frame.getBoundingClientRect();
    return [event.clientX - box.left - 1, event.clientY - box.top - 1];
  };
  map.mark.addEventListener("pointerdown", (event) => {
    [dragged, start] = [false, { x: event.clientX - map.view.x, y: event.clientY - map.view.y, from: at(event) }];
    if (map.view.zoom > 1) map.mark.setPointerCapture(event.pointerId);
  });
  map.mark.addEventListener("pointermove", (event) => {
    const [x, y] = at(event);
    if (start && map.view.zoom > 1 && Math.hypot(x - start.from[0], y - start.from[1]) > 4) {
      dragged = true;
      hover(-1);
      map.view = { ...map.view, x: event.clientX - start.x, y: event.clientY - start.y };
      drawSoon();
    } else if (!start && event.pointerType !== "touch") hover(nearest(x, y, 14));
  });
  map.mark.addEventListener("pointerup", (event) => {
    start = null;
    if (dragged) return;
    const touch = event.pointerType === "touch";
    const cell = nearest(...at(event), touch ? 26 : 14);
    if (touch) hover(cell, true);
    else if (cell >= 0) openDetail(cell);
  });
  map.mark.addEventListener("pointercancel", () => { start = null; });
  map.mark.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") hover(-1); });
  map.mark.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoomBy(Math.exp(-event.deltaY / 200), ...at(event));
  }, { passive: false });
  map.tip.addEventListener("click", () => openDetail(map.hovered));
  new ResizeObserver(() => { fitFrame(); drawMap(); }).observe(map.frame);
  fitFrame();
  colourMap();
}
