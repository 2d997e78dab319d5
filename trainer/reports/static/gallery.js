/* A gallery of the images in the script "gallery-data": filter, sort, heat maps on and off, enlarged by
   "lightbox.js", which comes before it.  It stands in for the pictures in "gallery-static", whose data it takes: no
   picture is in a page twice. */
(() => {
  "use strict";
  const source = document.getElementById("gallery-data");
  if (!source) return;
  const data = JSON.parse(source.textContent), items = data.items, positive = data.names[data.positive];
  const PART = 48;
  document.querySelectorAll("[data-item]").forEach(place => {
    const item = items[place.dataset.item], [picture, heat] = place.querySelectorAll("img");
    item.u ??= picture.src;
    if (heat && !item.m) Object.assign(item, { m: heat.src, ms: place.dataset.heat });
  });

  let order = [], drawn = 0, heat = false;
  const list = element("ul", { className: "gallery" }), count = element("output"), more = element("p", { className: "more" });
  const moreButton = element("button", { type: "button", textContent: "Show more" });
  more.append(moreButton);

  const share = value => `${(100 * value).toFixed(1)}%`;
  const verdict = item => (item.t === undefined ? `called ${data.names[item.a]}`
    : item.t === item.a ? `right: ${data.names[item.a]}` : `is ${data.names[item.t]}, called ${data.names[item.a]}`);
  const caption = item => `${verdict(item)}; ${positive} ${share(item.s)}${item.n ? `; ${item.n}` : ""}`;
  const isWrong = item => item.t !== undefined && item.t !== item.a;
  const linkOf = item => (item.h ? element("a", { href: item.h, textContent: item.p }) : item.p);

  function card(place) {
    const item = items[order[place]], thumb = element("button", { type: "button", className: "thumb" });
    const picture = heat && item.m ? item.m : item.u;
    thumb.append(picture ? element("img", { src: picture, alt: "", width: 144, height: 144, loading: "lazy" })
      : element("span", { textContent: "not in this page" }));
    thumb.setAttribute("aria-label", `Enlarge ${item.p}, ${caption(item)}`);
    thumb.addEventListener("click", () => open(place));
    const text = element("b", { textContent: caption(item) });
    return element("li", { className: isWrong(item) ? "wrong" : "" },
      element("figure", {}, thumb, element("figcaption", {}, text, element("br"), linkOf(item))));
  }

  function draw(until) {
    for (; drawn < Math.min(until, order.length); drawn++) list.append(card(drawn));
    more.hidden = drawn >= order.length;
    moreButton.textContent = `Show more (${(order.length - drawn).toLocaleString("en")})`;
  }

  const select = (title, options) => {
    const box = element("select", {}, ...options.map(([value, text]) => element("option", { value, textContent: text })));
    box.addEventListener("change", () => arrange());
    return [element("label", {}, title, box), box];
  };
  const wrongKinds = data.kinds.some(kind => kind.wrong) && !data.kinds.every(kind => kind.wrong);
  const [kindLabel, kinds] = select("Show", [
    ...(wrongKinds ? [["wrong", "all wrong answers"]] : []), ["", "all"], ...data.kinds.map((kind, k) => [k, kind.title])]);
  const groups = data.groups.map(group => select(group.name, [["", "all"], ...group.values.map((value, g) => [g, value || "(none)"])]));
  const [sortLabel, sorting] = select("Sort by", data.sorts.map((sort, s) => [s, sort.title]));
  const heatBox = element("input", { type: "checkbox" });
  heatBox.addEventListener("change", () => { heat = heatBox.checked; redraw(); });

  const isShown = item => (kinds.value === "" || (kinds.value === "wrong" ? data.kinds[item.k].wrong : item.k === Number(kinds.value)))
    && groups.every(([, box], g) => box.value === "" || item.g[g] === Number(box.value));

  function redraw() {
    const until = Math.max(drawn, PART);
    list.replaceChildren();
    drawn = 0;
    draw(until);
  }

  function arrange() {
    const { key, down } = data.sorts[sorting.value], sign = down ? -1 : 1;
    order = items.map((_, i) => i).filter(i => isShown(items[i]));
    // Equal ones stay in the order of the page.
    order.sort((i, j) => (items[i][key] < items[j][key] ? -sign : items[i][key] > items[j][key] ? sign : i - j));
    count.textContent = `${order.length.toLocaleString("en")} of the ${items.length.toLocaleString("en")} images in this page`;
    drawn = 0;
    redraw();
  }

  const open = lightbox({
    count: () => order.length,
    entry: place => {
      const item = items[order[place]], showsHeat = heat && item.m;
      return { src: showsHeat ? item.m : item.u, words: caption(item), path: item.p, file: item.h, hasHeat: Boolean(item.m),
        heatSays: showsHeat ? item.ms : "" };
    },
    opener: place => { draw(place + 1); return list.children[place]?.querySelector(".thumb"); },
    toggleHeat: () => { heat = !heat; heatBox.checked = heat; redraw(); },
  });

  // Where the true classes are not known, the answers follow the threshold that is tried.
  if (data.follows) document.addEventListener("threshold", event => {
    const { threshold, isOwn } = event.detail;
    items.forEach(item => {
      item.own ??= item.a;
      item.k = item.a = isOwn ? item.own : item.s >= threshold ? data.positive : 1 - data.positive;
    });
    if (order.length) arrange();
  });

  moreButton.addEventListener("click", () => {
    const first = drawn;
    draw(drawn + PART);
    list.children[first]?.querySelector(".thumb").focus();
  });
  const help = element("p", { className: "note", textContent: "A click enlarges a picture. There the arrow keys show the others"
    + (items.some(item => item.m) ? ", h turns the heat map on and off" : "") + ", and Escape closes." });
  const bar = element("div", { className: "controls" }, kindLabel, ...groups.map(([label]) => label), sortLabel);
  if (items.some(item => item.m)) bar.append(element("label", {}, heatBox, "Heat maps"));
  bar.append(count);
  document.getElementById("gallery-static").replaceWith(help, bar, list, more);
  arrange();
})();
