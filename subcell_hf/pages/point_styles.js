// Colours and shapes of points.

const OKABE_ITO = ["#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#F0E442"];
const CIVIDIS = ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"];
const GREY = "#8d949e";

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

/** Colour at a share from 0 to 1 of a ramp. */
function mix(colours, share) {
  const place = Math.min(Math.max(share, 0), 1) * (colours.length - 1);
  const low = Math.min(Math.floor(place), colours.length - 2);
  const channel = (start) => {
    const [a, b] = [low, low + 1].map((i) => parseInt(colours[i].slice(start, start + 2), 16));
    return Math.round(a + (b - a) * (place - low)).toString(16).padStart(2, "0");
  };
  return `#${channel(1)}${channel(3)}${channel(5)}`;
}

/**
 * Colour and shape of every level of a column, or of every step of a number.
 *
 * @param column `{kind: "text", levels, codes, colours?, unknown?}`, largest levels first, or `{kind: "number", values}`; none: all alike.
 * @param mostLevels Levels without colours of their own that get one; the others are grey.
 * @param everything Name of the points where there is no column.
 */
function chooseStyles(column, mostLevels, everything) {
  const grey = { colour: GREY, shape: 0, name: "unknown" };
  if (!column) return { styles: [{ ...grey, name: everything }], styleOf: () => 0 };
  if (column.kind === "text") {
    const shown = column.colours ? column.levels.length : Math.min(column.levels.length, mostLevels);
    const styles = column.levels.slice(0, shown).map((name, i) => ({
      name, colour: column.colours ? column.colours[i] : OKABE_ITO[i % 7], shape: i % 6,
    }));
    styles.push({ ...grey, name: shown < column.levels.length ? `${column.levels.length - shown} others` : column.unknown ?? "unknown" });
    return { styles, styleOf: (point) => (column.codes[point] < 0 ? shown : Math.min(column.codes[point], shown)) };
  }
  const known = column.values.filter((value) => value !== null).sort((a, b) => a - b);
  // One wild value must not turn all others into one colour.
  const [low, high] = [known[Math.floor(0.01 * (known.length - 1))], known[Math.ceil(0.99 * (known.length - 1))]];
  const steps = 24;
  const styles = Array.from({ length: steps }, (_, i) => ({ colour: mix(CIVIDIS, i / (steps - 1)), shape: 0, name: "" }));
  styles.push(grey);
  const styleOf = (point) => {
    const value = column.values[point];
    if (value === null) return steps;
    return high > low ? Math.min(steps - 1, Math.max(0, Math.floor(((value - low) / (high - low)) * steps))) : 0;
  };
  return { styles, styleOf, low, high };
}
