// Narrows the list of features to those whose row holds what is typed.
(() => {
  const rows = [...document.querySelectorAll("#jf-list tr")];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const found = document.getElementById("jf-found");
  const field = document.getElementById("jf-search");
  const narrow = () => {
    const wanted = field.value.trim().toLowerCase();
    let count = 0;
    rows.forEach((row, i) => {
      row.hidden = !texts[i].includes(wanted);
      count += row.hidden ? 0 : 1;
    });
    found.textContent = `${count} of ${rows.length}`;
  };
  field.addEventListener("input", narrow);
  narrow();
})();
