/* Replaces the static picture of each ".chart" figure by a uPlot chart, from the JSON in the script "chart-data":
   values under the pointer or by arrow keys, zoom of all charts at once, legends that hide, smoothing. */
(() => {
  "use strict";
  const source = document.getElementById("chart-data");
  if (!source || typeof uPlot === "undefined") return;
  const charts = JSON.parse(source.textContent), plots = [];
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const first = Math.min(...charts.map(chart => Math.min(...ends(chart))));
  const last = Math.max(...charts.map(chart => Math.max(...ends(chart))));
  const whole = first < last ? [first, last] : [first - 1, last + 1];
  let view = whole, smoothing = 0.6;

  function ends(chart) {
    return chart.series.flatMap(line => [line.x[0], line.x[line.x.length - 1]]);
  }

  function element(name, properties, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  // An exponential mean whose first values count no more than the others, as TensorBoard has it.
  function smoothed(values) {
    let sum = 0, weight = 0;
    return values.map(value => {
      if (value == null) return null;
      sum = sum * smoothing + (1 - smoothing) * value;
      weight = weight * smoothing + (1 - smoothing);
      return sum / weight;
    });
  }

  function number(value, scale) {
    if (value == null) return "-";
    if (scale === "percent") return `${(100 * value).toFixed(2)}%`;
    const size = Math.abs(value);
    return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  }

  function tick(value, scale) {
    if (value == null) return "";
    return scale === "percent" ? `${Number((100 * value).toPrecision(4))}%` : scale === "log" ? value.toExponential(0)
      : value.toLocaleString("en");
  }

  // [x, then for each series its values, and for a smooth one its smoothed values]
  function columns(chart) {
    const positive = value => (chart.scale === "log" && !(value > 0) ? null : value);
    const joined = uPlot.join(chart.series.map(line => [line.x, line.y.map(positive)]));
    return [joined[0], ...chart.series.flatMap((line, i) =>
      line.smooth ? [joined[i + 1], smoothed(joined[i + 1])] : [joined[i + 1]])];
  }

  function seriesOf(chart) {
    const style = (line, more) => ({
      label: line.label, stroke: () => colour(line.colour), width: 2, spanGaps: true, ...more,
      dash: line.form === "dashed" ? [7, 4] : undefined,
      points: { show: line.form !== "line" || line.x.length < 2, size: 7, fill: () => colour(line.colour) },
      paths: line.form === "points" ? () => null : undefined,
    });
    return chart.series.flatMap(line => line.smooth
      ? [style(line, { alpha: 0.35, width: 1.2 }), style(line, { label: `${line.label}, smoothed` })] : [style(line)]);
  }

  function drawMarks(u, chart) {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colour("muted");
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([6, 3, 1, 3].map(length => length * devicePixelRatio));
    for (const mark of chart.marks) {
      if (mark.x < u.scales.x.min || mark.x > u.scales.x.max) continue;
      const x = Math.round(u.valToPos(mark.x, "x", true));
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      ctx.textAlign = x > bbox.left + bbox.width * 0.8 ? "right" : "left";
      ctx.fillText(` ${mark.label} `, x, bbox.top + 10 * devicePixelRatio);
    }
    ctx.restore();
  }

  function look(range) {
    const [low, high] = [Math.max(range[0], whole[0]), Math.min(range[1], whole[1])];
    if (!(high > low)) return;
    view = [low, high];
    plots.forEach(({ u }) => u.setScale("x", { min: low, max: high }));
  }

  function zoom(u, factor) {
    const middle = u.cursor.idx == null ? (view[0] + view[1]) / 2 : u.data[0][u.cursor.idx];
    look([middle - (middle - view[0]) * factor, middle + (view[1] - middle) * factor]);
  }

  // Says the values at the cursor; a series without one there says its last one before.
  function read(u, chart, output) {
    const index = u.cursor.idx;
    if (index == null || u.cursor.left < 0) return;
    const parts = [];
    for (let i = 1; i < u.series.length; i++) {
      let at = index;
      while (at >= 0 && u.data[i][at] == null) at--;
      if (u.series[i].show && at >= 0) parts.push(`${u.series[i].label} ${number(u.data[i][at], chart.scale)}`);
    }
    output.textContent = `${chart.x} ${number(u.data[0][index], "")}: ${parts.join(", ")}`;
  }

  function press(event, u) {
    const xs = u.data[0];
    const index = u.cursor.idx ?? 0, pace = event.shiftKey ? 10 : 1;
    const move = to => {
      const at = Math.min(Math.max(to, 0), xs.length - 1);
      if (xs[at] < view[0] || xs[at] > view[1]) look([xs[at] - (view[1] - view[0]) / 2, xs[at] + (view[1] - view[0]) / 2]);
      queueMicrotask(() => u.setCursor({ left: u.valToPos(xs[at], "x"), top: u.over.clientHeight / 2 }));
    };
    const actions = {
      ArrowLeft: () => move(index - pace), ArrowRight: () => move(index + pace), Home: () => move(0),
      End: () => move(xs.length - 1), "+": () => zoom(u, 0.5), "=": () => zoom(u, 0.5), "-": () => zoom(u, 2),
      0: () => look(whole), Escape: () => look(whole),
    };
    if (!actions[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    actions[event.key]();
  }

  function options(chart, width, output) {
    const axis = { stroke: () => colour("ink"), font: "12px system-ui, sans-serif",
      grid: { stroke: () => colour("line"), width: 1 }, ticks: { stroke: () => colour("line"), width: 1 } };
    return {
      width, height: 230, legend: { show: false }, series: [{ label: chart.x }, ...seriesOf(chart)],
      scales: { x: { time: false, min: whole[0], max: whole[1], range: (u, low, high) => [low ?? whole[0], high ?? whole[1]] },
        y: chart.scale === "log" ? { distr: 3 } : {} },
      axes: [{ ...axis, size: 34, values: (u, splits) => splits.map(split => tick(split, "")) },
        { ...axis, size: 62, values: (u, splits) => splits.map(split => tick(split, chart.scale)) }],
      cursor: { sync: { key: "steps" }, y: false, drag: { x: true, y: false, setScale: true, dist: 5 },
        bind: { dblclick: () => () => look(whole) } },
      hooks: {
        draw: [u => drawMarks(u, chart)],
        setCursor: [u => read(u, chart, output)],
        setScale: [(u, key) => {
          const { min, max } = u.scales[key];
          if (key === "x" && plots.length === charts.length && (min !== view[0] || max !== view[1])) look([min, max]);
        }],
      },
    };
  }

  function legend(chart, u) {
    let next = 1;
    const buttons = chart.series.map(line => {
      const own = line.smooth ? [next, next + 1] : [next];
      next += own.length;
      const sample = `<svg viewBox="0 0 26 10" aria-hidden="true"><g class="${line.colour} dots">` +
        `<polyline class="${line.form}" points="0,5 26,5"/>${line.form === "line" ? "" : '<rect x="10" y="2" width="6" height="6"/>'}</g></svg>`;
      const button = element("button", { type: "button", innerHTML: sample }, line.label);
      button.setAttribute("aria-pressed", "true");
      button.addEventListener("click", () => {
        const show = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", String(show));
        own.forEach(i => u.setSeries(i, { show }));
      });
      return button;
    });
    return element("div", { className: "legend" }, ...buttons);
  }

  function build(figure, chart) {
    const output = element("output", { textContent: "\u00a0" }), box = element("div", { className: "plot", tabIndex: 0 });
    box.setAttribute("role", "application");
    box.setAttribute("aria-roledescription", "chart");
    box.setAttribute("aria-label", `${chart.title} by ${chart.x}. Arrow keys read values, plus and minus zoom, 0 shows all.`);
    figure.querySelector("svg.static").replaceWith(box);
    const u = new uPlot(options(chart, box.clientWidth, output), columns(chart), box);
    box.before(legend(chart, u));
    box.after(output);
    box.addEventListener("keydown", event => press(event, u));
    new ResizeObserver(() => {
      if (box.clientWidth !== u.width) u.setSize({ width: box.clientWidth, height: 230 });
    }).observe(box);
    plots.push({ u, chart });
  }

  function smoothingControl() {
    const slider = element("input", { type: "range", min: 0, max: 0.98, step: 0.02, value: smoothing });
    const shown = element("span", { textContent: smoothing.toFixed(2) });
    slider.addEventListener("input", () => {
      smoothing = Number(slider.value);
      shown.textContent = smoothing.toFixed(2);
      plots.forEach(({ u, chart }) => u.setData(columns(chart), false));
      plots.forEach(({ u }) => u.redraw());
    });
    return element("label", {}, "Smoothing", slider, shown);
  }

  // A running job writes its page again; the reader decides whether to follow.
  function reloadControl() {
    const key = "deepdetect-reload";
    let kept = null;
    try { kept = sessionStorage.getItem(key); } catch { /* Not allowed for files in some browsers. */ }
    const box = element("input", { type: "checkbox", checked: kept === "on" });
    const remember = () => { try { sessionStorage.setItem(key, box.checked ? "on" : "off"); } catch { /* As above. */ } };
    box.addEventListener("change", remember);
    setInterval(() => box.checked && location.reload(), 30000);
    return element("label", {}, box, "Reload every 30 s");
  }

  const controls = document.getElementById("chart-controls");
  const figures = [...document.querySelectorAll("figure.chart")];
  figures.forEach((figure, i) => build(figure, charts[i]));
  if (charts.some(chart => chart.series.some(line => line.smooth))) controls.append(smoothingControl());
  const all = element("button", { type: "button", textContent: "Show all steps" });
  all.addEventListener("click", () => look(whole));
  controls.append(all);
  if (document.querySelector('[data-state="running"]')) controls.append(reloadControl());
  controls.append(element("span", { className: "note", textContent: "Drag over a chart to zoom; double-click shows all." }));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plots.forEach(({ u }) => u.redraw()));
})();
