// What the page holds, and the pictures of its cells.

const data = JSON.parse(document.getElementById("data").textContent);
const columns = new Map(data.columns.map((column) => [column.name, column]));
const look = { outline: false, attention: -1 };

/** Text of a column for a cell, empty where unknown. */
function text(column, cell) {
  if (!column) return "";
  if (column.kind === "text") return column.codes[cell] < 0 ? "" : column.levels[column.codes[cell]];
  const value = column.values[cell];
  return value === null ? "" : String(value);
}

const decoded = new Map();

/** One sheet of tiles, decoded once; null where the run kept none of its kind. */
function sheet(kind, number) {
  const address = data.pictures[kind][number];
  if (!address) return Promise.resolve(null);
  const key = kind + number;
  if (!decoded.has(key)) {
    const image = new Image();
    image.src = address;
    decoded.set(key, image.decode().then(() => image));
  }
  return decoded.get(key);
}

/** Draw a cell as it should look now, or as given; a canvas keeps the last cell it was asked for. */
async function paint(canvas, cell, asked = look) {
  canvas.dataset.cell = cell;
  const order = JSON.stringify([cell, asked]);
  canvas.dataset.order = order;
  const brush = canvas.getContext("2d");
  const size = canvas.width;
  const tile = data.tiles[cell];
  if (tile < 0) return blank(brush, size);
  const { px, per_row: perRow, per_sheet: perSheet, heads } = data.pictures;
  const number = Math.floor(tile / perSheet);
  const [left, top] = [(tile % perSheet) % perRow, Math.floor((tile % perSheet) / perRow)];
  const [composite, outline, attention] = await Promise.all([
    sheet("composites", number),
    asked.outline ? sheet("outlines", number) : null,
    asked.attention >= 0 ? sheet("attention", number) : null,
  ]);
  if (canvas.dataset.order !== order) return undefined;
  brush.imageSmoothingQuality = "high";
  brush.globalAlpha = 1;
  brush.fillStyle = "#000";
  brush.fillRect(0, 0, size, size);
  if (attention) brush.globalAlpha = 0.5;
  brush.drawImage(composite, left * px, top * px, px, px, 0, 0, size, size);
  brush.globalAlpha = 1;
  if (attention) {
    const edge = attention.height / Math.ceil(Math.min(perSheet, attentionTiles(number)) / perRow);
    const x = (left * heads + asked.attention) * edge;
    // Half a pixel inside, so that smoothing takes nothing from the neighbour.
    brush.drawImage(attention, x + 0.5, top * edge + 0.5, edge - 1, edge - 1, 0, 0, size, size);
  }
  if (outline) brush.drawImage(outline, left * px, top * px, px, px, 0, 0, size, size);
  return undefined;
}

/** Tiles of a sheet; the last one has fewer. */
function attentionTiles(number) {
  return Math.min(data.pictures.per_sheet, data.pictures.tiles_in_all - number * data.pictures.per_sheet);
}

function blank(brush, size) {
  brush.fillStyle = "#14171c";
  brush.fillRect(0, 0, size, size);
  brush.fillStyle = "#8b939e";
  brush.font = `${size / 8}px system-ui, sans-serif`;
  brush.textAlign = "center";
  brush.textBaseline = "middle";
  brush.fillText("no picture", size / 2, size / 2);
}

/** Draw every picture of the page anew, but for those that always look the same. */
function repaint() {
  for (const canvas of document.querySelectorAll("canvas[data-cell]:not([data-plain])")) paint(canvas, Number(canvas.dataset.cell));
}
