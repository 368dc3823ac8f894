// The map of the cells: what it can be coloured by, and what it says of a cell.

/** Columns that tell cells apart; of the predicted locations only the first. */
const mapColumns = data.columns.filter((column) =>
  (column.kind !== "text" || column.levels.length > 1 || column.name === "top_location_1") && !/^top_(location|probability)_[23]$/.test(column.name));

const map = new PointMap({
  x: data.x, y: data.y, columns: mapColumns, everything: "all cells", mostLevels: 14, tipOf: tipOfCell, choose: openDetail, touchShowsTip: true,
});

function tipOfCell(cell, touch) {
  const facts = element("div", {}, element("b", { textContent: data.ids[cell] }));
  for (const line of shortFacts(cell)) facts.append(element("span", { textContent: line }));
  if (touch) facts.append(element("span", { textContent: "Tap for more" }));
  if (data.tiles[cell] < 0) {
    facts.className = "bare";
    return [facts];
  }
  const canvas = element("canvas", { width: 128, height: 128 });
  paint(canvas, cell);
  return [canvas, facts];
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
