"use strict";
const table = document.getElementById("studies");
const body = table.tBodies[0];
const search = document.getElementById("search");
const state = document.getElementById("state");
const onlyLesions = document.getElementById("with-lesions");
const onlyReview = document.getElementById("with-review");
const shown = document.getElementById("shown");

// "t1" is the level and not the beginning of "t10", nor a piece of a hashed name.
const level = /^[ctls]\d{1,2}$/;

function holds(row, word) {
  if (!level.test(word)) return row.dataset.text.includes(word);
  return row.dataset.levels.split(" ").includes(word) || row.dataset.text.split(/[^a-z0-9]+/).includes(word);
}

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const row of body.rows) {
    const fits = words.every((word) => holds(row, word))
      && (!state.value || row.dataset.state === state.value)
      && (!onlyLesions.checked || Number(row.dataset.lesions) > 0)
      && (!onlyReview.checked || Number(row.dataset.review) > 0);
    row.hidden = !fits;
    count += fits;
  }
  shown.textContent = `${count} of ${body.rows.length} studies shown`;
}

function sort(header) {
  const upwards = header.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", upwards ? "ascending" : "descending");
  const value = (row) => row.cells[header.cellIndex].dataset.value ?? row.cells[header.cellIndex].textContent.trim();
  const compare = (one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === "" || b === "") return (a === "") - (b === "") || 0;
    const numbers = header.dataset.kind === "number";
    return (upwards ? 1 : -1) * (numbers ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true }));
  };
  body.append(...[...body.rows].sort(compare));
}

for (const control of [search, state, onlyLesions, onlyReview]) control.addEventListener("input", filter);
for (const header of table.tHead.rows[0].cells) {
  header.querySelector("button")?.addEventListener("click", () => sort(header));
}
document.getElementById("filters").hidden = false;
filter();
