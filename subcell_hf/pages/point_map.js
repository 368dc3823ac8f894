// A map of points in two canvases, one of them for the points that are pointed at and chosen.

const MOST_LABELS = 14;
const MOST_ZOOM = 80;
const LABEL_FONT = "600 13px system-ui, sans-serif";

/** A name on the map, legible on any colour. */
function writeLabel(brush, text, x, y) {
  Object.assign(brush, { font: LABEL_FONT, textAlign: "center", textBaseline: "middle", lineJoin: "round" });
  brush.lineWidth = 4;
  brush.strokeStyle = themeColour("--panel");
  brush.strokeText(text, x, y);
  brush.fillStyle = themeColour("--ink");
  brush.fillText(text, x, y);
}

class PointMap {
  /**
   * @param x Where the points lie, in any unit, the same along both axes.
   * @param y Likewise, upwards.
   * @param columns What points can be coloured by: `{name, label}` and what `chooseStyles` takes.
   * @param everything Name of all points, for a map without columns.
   * @param mostLevels Levels without colours of their own that get one.
   * @param tipOf Point and whether it was touched → what is shown beside it.
   * @param choose Called with a point that is clicked.
   * @param touchShowsTip Whether a touched point shows its tip first, and a touched tip chooses.
   * @param wheelZooms Whether the wheel zooms without Ctrl, for pages that do not scroll.
   * @param reset Called when the whole map is asked for.
   */
  constructor({ x, y, columns, everything, mostLevels, tipOf, choose, touchShowsTip = false, wheelZooms = false, reset = () => {} }) {
    Object.assign(this, { x, y, columns, everything, mostLevels, tipOf, choose, touchShowsTip, wheelZooms, reset });
    for (const [name, id] of Object.entries({ points: "map-points", mark: "map-mark", frame: "map-frame", tip: "tip", legend: "legend", colour: "colour" })) {
      this[name] = document.getElementById(id);
    }
    Object.assign(this, { view: { zoom: 1, x: 0, y: 0 }, only: null, members: null, hovered: -1, chosen: -1, chosenName: "" });
    for (const column of columns) this.colour.append(element("option", { value: column.name, textContent: column.label }));
    if (!columns.length) this.colour.append(element("option", { value: "", textContent: "nothing" }));
    this.colour.addEventListener("change", () => this.recolour());
    this.listen();
    this.fit();
    this.recolour();
    new ResizeObserver(() => { this.fit(); this.draw(); }).observe(this.frame);
  }

  // ----- the plane

  fit() {
    const ratio = window.devicePixelRatio || 1;
    [this.width, this.height] = [this.frame.clientWidth, this.frame.clientHeight];
    for (const canvas of [this.points, this.mark]) [canvas.width, canvas.height] = [this.width * ratio, this.height * ratio];
    const range = (values) => values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]);
    const [[left, right], [bottom, top]] = [range(this.x), range(this.y)];
    this.middle = [(left + right) / 2, (bottom + top) / 2];
    this.scale = Math.min((this.width - 60) / (right - left || 1), (this.height - 60) / (top - bottom || 1));
  }

  /** Factor and shifts from a point's place to CSS pixels of the frame. */
  toScreen() {
    const factor = this.scale * this.view.zoom;
    return [factor, this.width / 2 + this.view.x - factor * this.middle[0], this.height / 2 + this.view.y + factor * this.middle[1]];
  }

  /** Where a point lies in the frame, in CSS pixels. */
  onScreen(point) {
    const [factor, right, down] = this.toScreen();
    return [right + factor * this.x[point], down - factor * this.y[point]];
  }

  nearest(x, y, reach) {
    const [factor, right, down] = this.toScreen();
    let best = -1;
    let least = reach * reach;
    for (let point = 0; point < this.x.length; point += 1) {
      if (this.only !== null && this.styleNumbers[point] !== this.only) continue;
      const across = right + factor * this.x[point] - x;
      const along = down - factor * this.y[point] - y;
      const distance = across * across + along * along;
      if (distance < least) [best, least] = [point, distance];
    }
    return best;
  }

  zoomBy(factor, x = this.width / 2, y = this.height / 2) {
    const { view } = this;
    const zoom = Math.min(MOST_ZOOM, Math.max(1, view.zoom * factor));
    const real = zoom / view.zoom;
    const [dx, dy] = [x - this.width / 2, y - this.height / 2];
    this.view = zoom === 1 ? { zoom, x: 0, y: 0 } : { zoom, x: dx - (dx - view.x) * real, y: dy - (dy - view.y) * real };
    this.mark.classList.toggle("zoomed", zoom > 1);
    this.hover(-1);
    this.drawSoon();
  }

  panBy(x, y) {
    if (this.view.zoom === 1) return;
    this.view = { ...this.view, x: this.view.x + x, y: this.view.y + y };
    this.hover(-1);
    this.drawSoon();
  }

  showAll() {
    this.zoomBy(0);
    this.reset();
  }

  // ----- drawing

  /** Draw the map before the next picture of the screen, however often it was asked for. */
  drawSoon() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.asked = false;
    const ratio = window.devicePixelRatio || 1;
    const brush = this.points.getContext("2d");
    brush.setTransform(ratio, 0, 0, ratio, 0, 0);
    brush.clearRect(0, 0, this.width, this.height);
    const count = this.x.length;
    const radius = Math.max(2, Math.min(6, 60 / Math.sqrt(count))) * Math.min(2, Math.sqrt(this.view.zoom));
    const stamps = this.styles.map((style) => stamp(style, radius, ratio));
    const [factor, right, down] = this.toScreen();
    const isFront = (point) => (this.only === null || this.styleNumbers[point] === this.only) && (this.members === null || this.members.has(point));
    for (const front of this.only === null && this.members === null ? [true] : [false, true]) {
      brush.globalAlpha = !front ? 0.08 : count > 5000 ? 0.75 : 0.92;
      for (let point = 0; point < count; point += 1) {
        const [x, y] = [right + factor * this.x[point], down - factor * this.y[point]];
        if (x < -9 || y < -9 || x > this.width + 9 || y > this.height + 9 || isFront(point) !== front) continue;
        const { canvas, half } = stamps[this.styleNumbers[point]];
        brush.drawImage(canvas, x - half, y - half, half * 2, half * 2);
      }
    }
    brush.globalAlpha = 1;
    this.drawLabels(brush);
    this.drawMark();
  }

  /** Names of levels where they do not cover each other. */
  drawLabels(brush) {
    const taken = [];
    for (const { level, point } of this.labels) {
      if (this.only !== null && this.only !== level) continue;
      const { name } = this.styles[level];
      const short = name.length > 28 ? `${name.slice(0, 27)}…` : name;
      brush.font = LABEL_FONT;
      const half = brush.measureText(short).width / 2 + 4;
      let [x, y] = this.onScreen(point);
      if (x < 0 || y < 0 || x > this.width || y > this.height) continue;
      [x, y] = [Math.min(Math.max(x, half + 2), this.width - half - 2), Math.min(Math.max(y, 12), this.height - 12)];
      if (taken.some(([a, b, h]) => Math.abs(a - x) < h + half && Math.abs(b - y) < 18)) continue;
      taken.push([x, y, half]);
      writeLabel(brush, short, x, y);
    }
  }

  /** The largest levels of a column, each with the point in its midst. */
  chooseLabels(column) {
    if (!column || column.kind !== "text" || column.levels.length > 60) return [];
    const members = column.levels.slice(0, MOST_LABELS).map(() => []);
    column.codes.forEach((code, point) => { if (code >= 0 && code < MOST_LABELS) members[code].push(point); });
    return members.flatMap((points, level) => (points.length < 2 ? [] : [{ level, point: this.midst(points) }]));
  }

  /** The point nearest to the median of some. */
  midst(members) {
    const middle = [this.x, this.y].map((axis) => members.map((point) => axis[point]).sort((a, b) => a - b)[members.length >> 1]);
    const distance = (point) => (this.x[point] - middle[0]) ** 2 + (this.y[point] - middle[1]) ** 2;
    return members.reduce((best, point) => (distance(point) < distance(best) ? point : best));
  }

  drawMark() {
    const ratio = window.devicePixelRatio || 1;
    const brush = this.mark.getContext("2d");
    brush.setTransform(ratio, 0, 0, ratio, 0, 0);
    brush.clearRect(0, 0, this.width, this.height);
    for (const point of [this.chosen, this.hovered]) {
      if (point < 0) continue;
      const [x, y] = this.onScreen(point);
      brush.beginPath();
      brush.arc(x, y, 9, 0, 2 * Math.PI);
      brush.lineWidth = 2.5;
      brush.strokeStyle = themeColour("--ink");
      brush.stroke();
      if (point === this.chosen) writeLabel(brush, this.chosenName, x, y - 20);
    }
  }

  // ----- what is pointed at, chosen and shown

  /** Show what is known of a point beside it, or hide it. */
  hover(point, touch = false) {
    if (point === this.hovered) return;
    this.hovered = point;
    this.drawMark();
    this.tip.hidden = point < 0;
    if (point < 0) return;
    this.tip.className = touch ? "touch" : "";
    this.tip.replaceChildren(...this.tipOf(point, touch));
    const [x, y] = this.onScreen(point);
    const [width, height] = [this.tip.offsetWidth, this.tip.offsetHeight];
    const left = x + 16 + width < this.width ? x + 16 : x - 16 - width;
    this.tip.style.left = `${Math.max(4, Math.min(left, this.width - width - 4))}px`;
    this.tip.style.top = `${Math.max(4, Math.min(y - height / 2, this.height - height - 4))}px`;
  }

  /** Ring and name a point, or none; let only some points stand out, or all (null). */
  show({ chosen = -1, name = "", members = null }) {
    Object.assign(this, { chosen, chosenName: name, members: members && new Set(members) });
    this.drawSoon();
  }

  recolour() {
    this.only = null;
    const column = this.columns.find(({ name }) => name === this.colour.value);
    Object.assign(this, chooseStyles(column, this.mostLevels, this.everything), { labels: this.chooseLabels(column) });
    this.styleNumbers = this.x.map((_, point) => this.styleOf(point));
    this.drawLegend(column);
    this.draw();
  }

  drawLegend(column) {
    this.legend.replaceChildren();
    if (column && column.kind === "number") {
      const ramp = element("canvas", { width: 256, height: 1, className: "ramp" });
      const brush = ramp.getContext("2d");
      for (let i = 0; i < 256; i += 1) {
        brush.fillStyle = mix(CIVIDIS, i / 255);
        brush.fillRect(i, 0, 1, 1);
      }
      const ends = element("div", { className: "scale" }, element("span", { textContent: `≤ ${this.low}` }), element("span", { textContent: `≥ ${this.high}` }));
      this.legend.append(element("p", { textContent: column.label }), ramp, ends);
      return;
    }
    const counts = this.styles.map(() => 0);
    for (const number of this.styleNumbers) counts[number] += 1;
    this.styles.forEach((style, number) => {
      if (!counts[number]) return;
      const { canvas } = stamp(style, 6, 2);
      const button = element("button", { type: "button" }, canvas, element("span", { textContent: style.name }), element("span", { textContent: counts[number].toLocaleString("en") }));
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", () => this.showOnly(this.only === number ? null : number));
      button.dataset.style = number;
      this.legend.append(button);
    });
  }

  /** Let only the points of one style stand out, or all (null). */
  showOnly(number) {
    this.only = number;
    for (const button of this.legend.querySelectorAll("button")) button.setAttribute("aria-pressed", String(Number(button.dataset.style) === number));
    this.draw();
  }

  // ----- pointer, wheel, keys

  listen() {
    const { mark } = this;
    document.getElementById("zoom-in").addEventListener("click", () => this.zoomBy(1.6));
    document.getElementById("zoom-out").addEventListener("click", () => this.zoomBy(1 / 1.6));
    document.getElementById("zoom-all").addEventListener("click", () => this.showAll());
    const at = (event) => {
      const box = this.frame.getBoundingClientRect();
      return [event.clientX - box.left - this.frame.clientLeft, event.clientY - box.top - this.frame.clientTop];
    };
    const down = new Map(); // pointer → where it was last
    let [start, dragged] = [null, false];
    mark.addEventListener("pointerdown", (event) => {
      if (!down.size) [start, dragged] = [at(event), false];
      down.set(event.pointerId, at(event));
      if (this.view.zoom > 1 || down.size > 1) mark.setPointerCapture(event.pointerId);
    });
    mark.addEventListener("pointermove", (event) => {
      const [now, before] = [at(event), down.get(event.pointerId)];
      if (!before) {
        if (event.pointerType !== "touch") this.hover(this.nearest(...now, 14));
        return;
      }
      down.set(event.pointerId, now);
      const other = [...down].find(([id]) => id !== event.pointerId);
      if (other) {
        const apart = ([x, y]) => Math.max(1, Math.hypot(x - other[1][0], y - other[1][1]));
        dragged = true;
        this.zoomBy(apart(now) / apart(before), (now[0] + other[1][0]) / 2, (now[1] + other[1][1]) / 2);
      } else if (this.view.zoom > 1 && (dragged || Math.hypot(now[0] - start[0], now[1] - start[1]) > 4)) {
        const from = dragged ? before : start;
        dragged = true;
        this.panBy(now[0] - from[0], now[1] - from[1]);
      }
    });
    mark.addEventListener("pointerup", (event) => {
      if (!down.delete(event.pointerId) || dragged) return;
      const touch = event.pointerType === "touch";
      const point = this.nearest(...at(event), touch ? 26 : 14);
      if (touch && this.touchShowsTip) this.hover(point, true);
      else if (point >= 0) this.choose(point);
    });
    mark.addEventListener("pointercancel", (event) => down.delete(event.pointerId));
    mark.addEventListener("pointerleave", (event) => {
      down.delete(event.pointerId);
      if (event.pointerType !== "touch") this.hover(-1);
    });
    mark.addEventListener("wheel", (event) => {
      if (!this.wheelZooms && !event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY / 300), ...at(event));
    }, { passive: false });
    const keys = {
      ArrowLeft: () => this.panBy(40, 0), ArrowRight: () => this.panBy(-40, 0), ArrowUp: () => this.panBy(0, 40), ArrowDown: () => this.panBy(0, -40),
      "+": () => this.zoomBy(1.4), "=": () => this.zoomBy(1.4), "-": () => this.zoomBy(1 / 1.4), 0: () => this.showAll(),
    };
    mark.addEventListener("keydown", (event) => {
      // Where all is shown, arrows scroll the page.
      if (!keys[event.key] || event.ctrlKey || event.metaKey || (event.key.startsWith("Arrow") && this.view.zoom === 1)) return;
      event.preventDefault();
      keys[event.key]();
    });
    this.tip.addEventListener("click", () => this.choose(this.hovered));
  }
}
