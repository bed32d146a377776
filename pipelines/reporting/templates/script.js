"use strict";
// Filters of the galleries; without this script all images are shown.
for (const gallery of document.querySelectorAll("[data-gallery]")) {
  const filters = gallery.querySelector("[data-filters]");
  if (!filters) continue;
  const buttons = [...filters.querySelectorAll("button")];
  const classes = filters.querySelector("[data-class]");
  const branches = filters.querySelector("[data-branch]");
  const search = filters.querySelector("[data-search]");
  const status = filters.querySelector("[data-status]");
  const cards = [...gallery.querySelectorAll(".card")];

  const apply = () => {
    const type = buttons.find((one) => one.getAttribute("aria-pressed") === "true").dataset.type;
    const text = search.value.trim().toLowerCase();
    let shown = 0;
    for (const card of cards) {
      const fits =
        (!type || card.dataset.type === type) &&
        (!classes.value || card.dataset.class === classes.value) &&
        (!branches.value || card.dataset.branch === branches.value) &&
        card.dataset.name.includes(text);
      card.hidden = !fits;
      if (fits) shown += 1;
    }
    status.textContent = `${shown} of ${cards.length} shown`;
  };

  for (const button of buttons) {
    button.addEventListener("click", () => {
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      apply();
    });
  }
  for (const field of [classes, branches, search]) field.addEventListener("input", apply);
  filters.hidden = false;
  apply();
}
