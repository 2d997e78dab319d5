/* Filters and sorts the clusters of an audit's page: by the kind of their part of it, [data-kind], by split and size. */
(() => {
  "use strict";
  const controls = document.getElementById("cluster-controls"), parts = [...document.querySelectorAll("[data-kind]")];
  const clusters = parts.flatMap(part => [...part.querySelectorAll("[data-clusters] > li")].map((item, place) => (
    { item, part, place, size: Number(item.dataset.size), splits: JSON.parse(item.dataset.splits) })));
  if (!clusters.length) return;

  function choice(title, options) {
    const label = document.createElement("label"), select = document.createElement("select");
    options.forEach(text => select.add(new Option(text)));
    select.addEventListener("change", update);
    label.append(title, select);
    controls.append(label);
    return select;
  }

  const kind = choice("Kind", ["All", ...parts.map(part => part.dataset.kind)]);
  const split = choice("Split", ["All", ...new Set(clusters.flatMap(cluster => cluster.splits))]);
  const order = choice("Order", ["As found", "Largest first", "Smallest first"]);
  const details = [...document.querySelectorAll("[data-clusters] details")], output = document.createElement("output");
  if (details.length) {
    const expand = document.createElement("button");
    expand.type = "button";
    expand.textContent = "Expand all";
    expand.addEventListener("click", () => {
      const open = details.some(each => !each.open);
      details.forEach(each => { each.open = open; });
      expand.textContent = open ? "Fold all" : "Expand all";
    });
    controls.append(expand);
  }
  controls.append(output);

  function update() {
    const sign = [0, -1, 1][order.selectedIndex];
    parts.forEach(part => { part.hidden = kind.selectedIndex > 0 && part.dataset.kind !== kind.value; });
    clusters.sort((a, b) => sign * (a.size - b.size) || a.place - b.place);
    for (const { item, splits } of clusters) {
      item.hidden = split.selectedIndex > 0 && !splits.includes(split.value);
      item.parentNode.append(item);
    }
    const shown = clusters.filter(({ item, part }) => !item.hidden && !part.hidden).length;
    output.textContent = `${shown} of ${clusters.length} clusters shown`;
  }

  update();
})();
