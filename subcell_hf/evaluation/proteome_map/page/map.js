// The map of the genes, what is known of a gene or a cluster, and the tree of clusters.

const data = JSON.parse(document.getElementById("data").textContent);
const { genes, clusters } = data;
const byId = (id) => document.getElementById(id);
let [chosenGene, chosenCluster] = [-1, 0];
const open = new Set([0]);

/** A column of names, the most frequent first, as the map takes it. */
function columnOf(label, names, colourOf) {
  const counts = new Map();
  for (const name of names) if (name !== "") counts.set(name, (counts.get(name) || 0) + 1);
  const levels = [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).map(([name]) => name);
  const number = new Map(levels.map((name, place) => [name, place]));
  const column = { name: label, label, kind: "text", levels, codes: names.map((name) => number.get(name) ?? -1) };
  if (colourOf) column.colours = levels.map(colourOf);
  return column;
}

const columns = data.levels.map(({ name, membership }) => columnOf(name, membership.map((number) => `cluster ${number + 1}`)));
if (genes.locations.some(Boolean)) {
  const first = genes.locations.map((names) => names.split(";")[0]);
  columns.unshift(columnOf("location", first, (name, place) => data.colours[name] || OKABE_ITO[place % 7]));
}
if (!columns.length) {
  const top = genes.name.map(() => "");
  for (const { depth, members, name } of clusters) if (depth === 1) for (const row of members) top[row] = name;
  columns.push(columnOf("cluster", top));
}

const map = new PointMap({
  x: genes.x, y: genes.y, columns, everything: "all genes", mostLevels: 42, tipOf: tipOfGene, choose: (row) => chooseGene(row),
  wheelZooms: true, reset: () => { [chosenGene, chosenCluster] = [-1, 0]; show(); },
});

// ----- hover, details, search
const cells = (row) => element("div", { className: "cells" }, ...(data.pictures[row] || []).map((picture) =>
  element("img", { src: `data:image/jpeg;base64,${picture}`, alt: `A cell stained for ${genes.name[row]}` })));
function tipOfGene(row) {
  const known = genes.locations[row].split(";").join(", ") || "no location known";
  const facts = [element("b", { textContent: genes.name[row] }), element("span", { textContent: known })];
  return data.pictures[row] ? [...facts, cells(row)] : facts;
}
const entries = (pairs) => element("dl", {}, ...pairs.filter(([, value]) => value !== "" && value !== null)
  .flatMap(([name, value]) => [element("dt", { textContent: name }), element("dd", {}, value)]));
const link = (text, action) => element("button", { type: "button", className: "link", textContent: text, onclick: action });
const title = (cluster) => cluster.label || (cluster.depth ? `cluster ${cluster.name}` : "all genes");
const details = () => {
  const box = byId("details");
  if (chosenGene >= 0) {
    const row = chosenGene, cluster = genes.cluster[row];
    box.replaceChildren(element("h2", { textContent: genes.name[row] }), entries([
      ["locations", genes.locations[row].split(";").join(", ")],
      ["antibody", genes.antibody[row]], ["reliability", genes.reliability[row]],
      ["cells", `${genes.cells[row]}`],
      ["cluster", link(`${clusters[cluster].name} ${clusters[cluster].label}`, () => chooseCluster(cluster))],
    ]));
    if (data.pictures[row]) box.append(cells(row));
    return;
  }
  const cluster = clusters[chosenCluster];
  box.replaceChildren(element("h2", { textContent: cluster.depth ? `Cluster ${cluster.name}` : "All genes" }));
  if (!cluster.depth) {
    box.append(element("p", { className: "muted", textContent:
      "Every point is a gene; genes close together have similar embeddings. Choose a gene or a cluster for details." }));
    return;
  }
  const names = cluster.members.map((row) => [genes.name[row], row]).sort((a, b) => (a[0] < b[0] ? -1 : 1));
  box.append(entries([["genes", `${names.length}`], ["resolution", cluster.resolution ? `${cluster.resolution}` : ""],
    ["seen at", `${cluster.persistence} resolution${cluster.persistence === 1 ? "" : "s"}`]]));
  if (cluster.terms.length) {
    const head = element("tr", {}, element("th", { textContent: "over-represented" }),
      element("th", { className: "number", textContent: "genes" }), element("th", { className: "number", textContent: "q" }));
    box.append(element("table", {}, head, ...cluster.terms.map(([collection, term, overlap, size, q]) => element("tr", {},
      element("td", { textContent: term, title: collection }),
      element("td", { className: "number", textContent: `${overlap} of ${size}` }),
      element("td", { className: "number", textContent: q }),
    ))));
  } else if (data.tested) {
    box.append(element("p", { className: "muted", textContent: "No gene set is over-represented (q < 0.05)." }));
  }
  const list = element("p", { className: "genes" });
  names.slice(0, 120).forEach(([name, row], index) => {
    list.append(index ? ", " : "", link(name, () => chooseGene(row)));
  });
  if (names.length > 120) list.append(` and ${names.length - 120} more`);
  box.append(list);
};
const openPath = (index) => {
  for (let at = index; clusters[at].parents.length; at = clusters[at].parents[0]) open.add(clusters[at].parents[0]);
};
const chooseGene = (row) => { chosenGene = row; chosenCluster = 0; openPath(genes.cluster[row]); show(); };
const chooseCluster = (index) => { chosenCluster = index; chosenGene = -1; open.add(index); openPath(index); show(); };
const query = byId("query"), found = byId("found");
let matches = [], marked = 0;
const search = () => {
  const text = query.value.trim().toLowerCase();
  const score = (row) => {
    const name = genes.name[row].toLowerCase();
    if (name === text) return 0;
    if (name.startsWith(text)) return 1;
    return name.includes(text) || genes.antibody[row].toLowerCase().includes(text) ? 2 : 9;
  };
  matches = text ? genes.name.map((_, row) => row).filter((row) => score(row) < 9)
    .sort((a, b) => score(a) - score(b) || (genes.name[a] < genes.name[b] ? -1 : 1)).slice(0, 12) : [];
  marked = 0;
  found.hidden = !text;
  query.setAttribute("aria-expanded", String(!found.hidden));
  found.replaceChildren(...matches.map((row, index) => {
    const item = element("li", { textContent: genes.name[row], onpointerdown: () => take(row) });
    item.setAttribute("role", "option");
    item.setAttribute("aria-selected", String(index === marked));
    return item;
  }));
  if (text && !matches.length) found.append(element("li", { className: "none", textContent: "no such gene on this map" }));
};
const take = (row) => { query.value = genes.name[row]; found.hidden = true; chooseGene(row); };
query.addEventListener("input", search);
query.addEventListener("blur", () => { found.hidden = true; });
query.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && matches.length) take(matches[marked]);
  if (event.key === "Escape") found.hidden = true;
  if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
  event.preventDefault();
  marked = (marked + (event.key === "ArrowDown" ? 1 : matches.length - 1)) % Math.max(1, matches.length);
  [...found.children].forEach((item, index) => item.setAttribute("aria-selected", String(index === marked)));
});

// ----- hierarchy
const children = clusters.map(() => []);
clusters.forEach((cluster, index) => cluster.parents.forEach((parent) => children[parent].push(index)));
children.forEach((list) => list.sort((a, b) => clusters[b].members.length - clusters[a].members.length || a - b));
const branch = (index, depth) => {
  const cluster = clusters[index], isOpen = open.has(index), kids = children[index];
  const toggle = element("button", { type: "button", className: "open", textContent: kids.length ? (isOpen ? "▾" : "▸") : "",
    disabled: !kids.length, onclick: () => { if (isOpen) open.delete(index); else open.add(index); tree(); } });
  toggle.setAttribute("aria-label", isOpen ? "Close" : "Open");
  const choose = element("button", { type: "button", className: "choose", title: title(cluster),
    onclick: () => chooseCluster(index) },
    element("span", { className: "name", textContent: cluster.depth ? cluster.name : "" }),
    element("span", { className: "label", textContent: title(cluster) === `cluster ${cluster.name}` ? "" : title(cluster) }),
    element("span", { className: "size", textContent: `${cluster.members.length}` }));
  const row = element("div", { className: `row${index === (chosenGene < 0 ? chosenCluster : genes.cluster[chosenGene]) ? " chosen" : ""}`,
    style: `padding-left:${depth * 0.9}rem` }, toggle, choose);
  return isOpen ? [row, ...kids.flatMap((child) => branch(child, depth + 1))] : [row];
};
const tree = () => byId("tree").replaceChildren(...branch(0, 0));
function show() {
  details();
  tree();
  map.show({
    chosen: chosenGene, name: chosenGene < 0 ? "" : genes.name[chosenGene],
    members: chosenCluster > 0 ? clusters[chosenCluster].members : null,
  });
}
show();
