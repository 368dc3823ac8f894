// Choosing points of a map by drawing around them.

class Lasso {
  /**
   * @param map A `PointMap`; while the lasso is on, its pointer draws instead of moving the map.
   * @param button Turns the lasso on and off.
   * @param select Called with the points inside of what was drawn.
   */
  constructor(map, button, select) {
    Object.assign(this, { map, button, select, on: false, outline: null });
    button.addEventListener("click", () => this.turn(!this.on));
    for (const [name, method] of Object.entries({ pointerdown: "begin", pointermove: "extend", pointerup: "end", pointercancel: "end" })) {
      map.mark.addEventListener(name, (event) => {
        if (!this.on) return;
        event.stopImmediatePropagation();
        event.preventDefault();
        this[method](event);
      }, { capture: true });
    }
  }

  turn(on) {
    this.on = on;
    this.button.setAttribute("aria-pressed", String(on));
    this.map.mark.style.touchAction = on ? "none" : "";
    this.map.hover(-1);
  }

  at(event) {
    const { frame } = this.map;
    const box = frame.getBoundingClientRect();
    return [event.clientX - box.left - frame.clientLeft, event.clientY - box.top - frame.clientTop];
  }

  begin(event) {
    if (event.isTrusted) this.map.mark.setPointerCapture(event.pointerId);
    this.outline = [this.at(event)];
  }

  extend(event) {
    if (!this.outline) return;
    this.outline.push(this.at(event));
    this.map.drawMark();
    const brush = this.map.mark.getContext("2d");
    brush.beginPath();
    this.outline.forEach(([x, y], number) => (number ? brush.lineTo(x, y) : brush.moveTo(x, y)));
    brush.closePath();
    brush.lineWidth = 2;
    brush.strokeStyle = themeColour("--accent");
    brush.stroke();
    brush.globalAlpha = 0.12;
    brush.fillStyle = themeColour("--accent");
    brush.fill();
    brush.globalAlpha = 1;
  }

  end(event) {
    if (!this.outline) return;
    this.outline.push(this.at(event));
    const { outline, map } = this;
    this.outline = null;
    map.drawMark();
    if (event.type === "pointercancel" || outline.length < 4) return;
    this.select(Array.from(map.x.keys()).filter((point) => isInside(map.onScreen(point), outline)));
  }
}

/** Whether a place lies in a polygon, by how often a ray from it crosses the outline. */
function isInside([x, y], outline) {
  let inside = false;
  outline.forEach(([x1, y1], number) => {
    const [x2, y2] = outline[(number + 1) % outline.length];
    if ((y1 > y) !== (y2 > y) && x < x1 + ((x2 - x1) * (y - y1)) / (y2 - y1)) inside = !inside;
  });
  return inside;
}
