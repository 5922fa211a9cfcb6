// Shows an element's title at once and beside the pointer, instead of after the browser's delay.
(() => {
  const tip = document.createElement("div");
  tip.className = "jf-tip";
  tip.hidden = true;
  document.body.append(tip);

  const words = (element) => {
    const inner = element.querySelector(":scope > title");
    if (inner) {
      element.dataset.tip = inner.textContent;
      inner.remove();
    } else if (element.title) {
      element.dataset.tip = element.title;
      element.removeAttribute("title");
    }
    return element.dataset.tip;
  };

  const find = (target) => {
    for (let at = target; at instanceof Element && at !== document.body; at = at.parentElement) {
      if (words(at)) return at;
    }
    return null;
  };

  document.addEventListener("pointerover", (event) => {
    const element = find(event.target);
    tip.hidden = !element;
    if (element) tip.textContent = element.dataset.tip;
  });
  document.addEventListener("pointermove", (event) => {
    if (tip.hidden) return;
    const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
    const below = event.clientY + 18;
    const fits = below + tip.offsetHeight < innerHeight;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${fits ? below : event.clientY - tip.offsetHeight - 10}px`;
  });
  document.addEventListener("scroll", () => (tip.hidden = true), { passive: true });
})();
