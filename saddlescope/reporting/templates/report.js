"use strict";
(function () {
  // Sorting and filtering of the class table. Without this script the table is complete.
  var table = document.getElementById("class-table");
  if (!table) return;
  var body = table.tBodies[0];
  var rows = Array.prototype.slice.call(body.rows);
  var heads = Array.prototype.slice.call(table.tHead.rows[0].cells);

  function key(row, column) {
    return row.cells[column].getAttribute("data-sort") || "";
  }

  function sortBy(column) {
    var head = heads[column];
    var numeric = head.classList.contains("num");
    var down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    rows.map(function (row, place) { return { row: row, key: key(row, column), place: place }; })
      .sort(function (a, b) {
        if (!a.key || !b.key) return (a.key ? 0 : 1) - (b.key ? 0 : 1) || a.place - b.place;
        var order = numeric ? a.key - b.key : a.key < b.key ? -1 : a.key > b.key ? 1 : 0;
        return (down ? -order : order) || a.place - b.place;
      })
      .forEach(function (item) { body.appendChild(item.row); });
  }

  heads.forEach(function (head, column) {
    var button = document.createElement("button");
    button.type = "button";
    while (head.firstChild) button.appendChild(head.firstChild);
    button.addEventListener("click", function () { sortBy(column); });
    head.appendChild(button);
  });

  var text = document.getElementById("filter-text");
  var method = document.getElementById("filter-method");
  var count = document.getElementById("filter-count");

  // Method, class, name and verdict; digits of a number are no use as a search.
  function searchable(row) {
    return wordsOf([0, 1, 2, 8].map(function (column) { return row.cells[column].textContent; })
      .join(" "));
  }

  function wordsOf(string) {
    return string.toLowerCase().split(/[\s()[\],.;:\/_-]+/).filter(Boolean);
  }

  // The beginning of a word will do, of a number all of it: class 9 is not class 90.
  function among(words, wanted) {
    return words.some(function (word) {
      return /^\d+$/.test(wanted) ? word === wanted : word.indexOf(wanted) === 0;
    });
  }

  function filter() {
    var wanted = wordsOf(text.value);
    var shown = 0;
    rows.forEach(function (row) {
      var content = searchable(row);
      var match = (!method.value || row.getAttribute("data-method") === method.value) &&
        wanted.every(function (word) { return among(content, word); });
      row.hidden = !match;
      shown += match ? 1 : 0;
    });
    count.textContent = shown + " of " + rows.length + " rows";
  }

  text.addEventListener("input", filter);
  method.addEventListener("change", filter);
  document.getElementById("tools").hidden = false;
  filter();
})();
