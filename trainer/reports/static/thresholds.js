/* A slider that tries other thresholds: it moves the confusion matrix, and a ring on curves with a "data-frame". */
(() => {
  "use strict";
  const source = document.getElementById("threshold-data");
  if (!source) return;
  const data = JSON.parse(source.textContent), matrix = document.querySelector("table.matrix").tBodies[0];
  const positive = data.names[data.positive], rest = data.names[1 - data.positive];
  const share = (count, of) => (of ? `${(100 * count / of).toFixed(1)}%` : "undefined");
  const svg = (name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
    return made;
  };

  // What each kind of curve shows of a threshold; null where it is undefined.
  const points = {
    roc: at => [data.alarms[at] / data.negatives, data.found[at] / data.positives],
    pr: at => {
      const called = data.found[at] + data.alarms[at];
      return called ? [data.found[at] / data.positives, data.found[at] / called] : null;
    },
    scores: at => [data.thresholds[at], null],
  };

  const marks = [...document.querySelectorAll("svg[data-frame]")].map(drawing => {
    const [left, bottom, right, top, x0, y0, x1, y1] = drawing.dataset.frame.split(" ").map(Number);
    const isLine = drawing.dataset.mark === "scores";
    const style = "fill: none; stroke: var(--ink); stroke-width: 2.5";
    const mark = isLine ? svg("line", { y1: bottom, y2: top, style }) : svg("circle", { r: 8, style });
    mark.classList.add("threshold");
    drawing.append(mark);
    return at => {
      const point = points[drawing.dataset.mark](at);
      mark.style.display = point ? "" : "none";
      if (!point) return;
      const x = left + (point[0] - x0) / (x1 - x0) * (right - left);
      if (isLine) { mark.setAttribute("x1", x); mark.setAttribute("x2", x); return; }
      mark.setAttribute("cx", x);
      mark.setAttribute("cy", bottom + (point[1] - y0) / (y1 - y0) * (top - bottom));
    };
  });

  function fill(row, counts) {
    const total = counts[0] + counts[1];
    counts.forEach((count, column) => {
      const cell = matrix.rows[row].cells[column + 1];
      cell.style.setProperty("--share", total ? (count / total).toFixed(3) : 0);
      cell.querySelector("b").textContent = count.toLocaleString("en");
      cell.lastChild.textContent = total ? share(count, total) : "no images";
    });
  }

  const output = document.createElement("output"), slider = document.createElement("input");
  function show(at) {
    const hit = data.found[at], alarm = data.alarms[at], missed = data.positives - hit, quiet = data.negatives - alarm;
    const ordered = (yes, no) => (data.positive === 0 ? [yes, no] : [no, yes]);
    fill(data.positive, ordered(hit, missed));
    fill(1 - data.positive, ordered(alarm, quiet));
    marks.forEach(move => move(at));
    slider.setAttribute("aria-valuetext", data.thresholds[at].toPrecision(3));
    output.textContent = `threshold ${data.thresholds[at].toPrecision(3)}${at === data.own ? " (the one of this report)" : ""}: ` +
      `${share(hit, data.positives)} of ${positive} found, ${share(alarm, data.negatives)} of ${rest} called ${positive}, ` +
      `accuracy ${share(hit + quiet, data.positives + data.negatives)}`;
  }

  Object.assign(slider, { type: "range", min: 0, max: data.thresholds.length - 1, step: 1, value: data.own });
  slider.addEventListener("input", () => show(Number(slider.value)));
  const label = document.createElement("label"), back = document.createElement("button");
  label.append("Try another threshold", slider);
  Object.assign(back, { type: "button", textContent: "This report's threshold" });
  back.addEventListener("click", () => { slider.value = data.own; show(data.own); });
  document.getElementById("threshold-controls").append(label, back, output);
  show(data.own);
})();
