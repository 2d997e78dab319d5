/* Pictures open large, in a dialog: arrow keys, Home and End go to others, h turns a heat map on and off, Escape closes,
   and the focus returns to the picture that was seen last.  Pictures below [data-lightbox] get one by themselves: their
   words are data-words or their figure's caption, data-file is the address of their file.  Other scripts describe theirs
   to lightbox({ count, entry, opener, toggleHeat }): entry(place) returns
   { src, words, path, file, hasHeat, heatSays }, the last one empty unless the map is what it shows. */
const { element, lightbox } = (() => {
  "use strict";

  function element(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  function action(text, act) {
    const button = element("button", { type: "button", textContent: text });
    button.addEventListener("click", act);
    return button;
  }

  function lightbox({ count, entry, opener, toggleHeat }) {
    let current = 0;
    const view = element("div", { className: "view" }), title = element("p"), where = element("p", { className: "note" });
    const previous = action("Previous", () => show(current - 1)), next = action("Next", () => show(current + 1));
    const heat = action("Heat map", () => { toggleHeat(); show(current); }), close = action("Close", () => dialog.close());
    const dialog = element("dialog", { className: "lightbox" }, view, title, where,
      element("div", { className: "controls" }, previous, next, heat, close));
    dialog.setAttribute("aria-label", "Picture");
    title.setAttribute("aria-live", "polite");

    function show(place) {
      if (place < 0 || place >= count()) return;
      current = place;
      const { src, words, path, file, hasHeat, heatSays } = entry(place);
      const image = element("img", { src: src || "", alt: path, width: 144, height: 144 });
      view.replaceChildren(src ? image : "The picture is not in this page; the link below opens the file.");
      // The file itself is sharper.  Only for a page that is a file, too, so that no page uses a network.
      if (!heatSays && file && location.protocol === "file:" && !file.startsWith("https:")) {
        const whole = new Image();
        whole.addEventListener("load", () => {
          if (current !== place || entry(place).heatSays) return;
          image.src = whole.src;
          view.replaceChildren(image);
        });
        whole.src = file;
      }
      title.replaceChildren(element("b", { textContent: words }), heatSays ? `; map: ${heatSays}` : "", ` (${place + 1} of ${count()})`);
      where.replaceChildren(file ? element("a", { href: file, textContent: path }) : path);
      heat.hidden = !hasHeat;
      heat.setAttribute("aria-pressed", String(Boolean(heatSays)));
      previous.disabled = place === 0;
      next.disabled = place === count() - 1;
      if (dialog.open && document.activeElement?.disabled) close.focus();
    }

    const keys = {
      ArrowLeft: () => show(current - 1), ArrowRight: () => show(current + 1), Home: () => show(0), End: () => show(count() - 1),
      h: () => heat.hidden || heat.click(),
    };
    dialog.addEventListener("keydown", event => {
      if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      keys[event.key]();
    });
    dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });  // On what lies around it.
    dialog.addEventListener("close", () => opener(current)?.focus());

    return place => {
      if (!dialog.isConnected) document.body.append(dialog);
      show(place);
      dialog.showModal();
      close.focus();
    };
  }

  const pictures = [...document.querySelectorAll("[data-lightbox] img")];
  let shown = pictures;  // Without those that a filter hides.
  const wordsOf = picture => picture.dataset.words ?? picture.closest("figure")?.querySelector("figcaption b")?.textContent ?? "";
  const open = lightbox({
    count: () => shown.length,
    entry: place => ({ src: shown[place].src, words: wordsOf(shown[place]), path: shown[place].alt, file: shown[place].dataset.file }),
    opener: place => shown[place].parentNode,
  });
  for (const picture of pictures) {
    const button = element("button", { type: "button", className: "thumb" });
    button.setAttribute("aria-haspopup", "dialog");
    picture.replaceWith(button);
    button.append(picture);
    button.addEventListener("click", () => {
      shown = pictures.filter(each => each.getClientRects().length);
      open(shown.indexOf(picture));
    });
  }
  return { element, lightbox };
})();
