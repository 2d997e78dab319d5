/* Pictures below [data-lightbox] open large, in a dialog: arrow keys go to the next one that is shown, Escape closes.
   A picture's words are those of its figure's caption, or its alternative text; data-file is the address of its file. */
(() => {
  "use strict";
  const pictures = [...document.querySelectorAll("[data-lightbox] img")];
  if (!pictures.length) return;

  function element(name, properties, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  const large = element("img", { alt: "" }), words = element("p"), file = element("a", { textContent: "Open the file" });
  const action = (text, act) => {
    const button = element("button", { type: "button", textContent: text });
    button.addEventListener("click", act);
    return button;
  };
  const bar = element("div", { className: "controls" }, action("Previous", () => move(-1)), action("Next", () => move(1)),
    file, action("Close", () => dialog.close()));
  const dialog = element("dialog", { className: "lightbox" }, large, words, bar);
  dialog.setAttribute("aria-label", "Picture");
  let current = 0;

  function show(picture) {
    current = pictures.indexOf(picture);
    large.src = picture.src;
    large.alt = picture.alt;
    words.textContent = picture.dataset.words ? `${picture.dataset.words}\n${picture.alt}` : picture.alt;
    file.hidden = !picture.dataset.file;
    if (picture.dataset.file) file.href = picture.dataset.file;
    if (!dialog.isConnected) document.body.append(dialog);
    if (!dialog.open) dialog.showModal();
  }

  function move(by) {
    for (let step = 1; step < pictures.length; step++) {
      const next = pictures[(current + by * step + step * pictures.length) % pictures.length];
      if (next.getClientRects().length) return show(next);  // Not one that a filter hides.
    }
  }

  for (const picture of pictures) {
    const button = element("button", { type: "button", className: "zoom" });
    button.setAttribute("aria-haspopup", "dialog");
    picture.replaceWith(button);
    button.append(picture);
    button.addEventListener("click", () => show(picture));
  }
  dialog.addEventListener("keydown", event => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) { event.preventDefault(); move(by); }
  });
  dialog.addEventListener("click", event => event.target === dialog && dialog.close());
})();
