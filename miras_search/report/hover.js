// What a mark of a figure says, at the mouse, after a tap, or by the arrow keys in a figure that has
// the focus; without this, browsers show its title.
const tip = document.createElement("div");
tip.id = "tip";
tip.role = "status";
tip.hidden = true;
document.body.append(tip);
let told = null;
const tell = (title) => {
  if (title === told) return;
  if (told) told.textContent = tip.textContent;
  told = title;
  tip.hidden = !title;
  if (!title) return;
  tip.textContent = title.textContent;
  title.textContent = "";  // or the browser would show it as well
  const mark = title.parentNode.getBoundingClientRect();
  const left = (mark.left + mark.right - tip.offsetWidth) / 2;
  const most = document.documentElement.clientWidth - tip.offsetWidth - 8;
  const above = mark.top - tip.offsetHeight - 8;
  tip.style.left = scrollX + Math.max(8, Math.min(left, most)) + "px";
  tip.style.top = scrollY + (above < 8 ? mark.bottom + 8 : above) + "px";
};
const nearest = ({ target, clientX, clientY }) => {
  const drawing = target.closest("figure svg");
  if (!drawing) return null;
  let found = null;
  let reach = 16;  // pixels: a finger is larger than a mark
  for (const title of drawing.querySelectorAll("title")) {
    if (title.parentNode.contains(target)) return title;
    const mark = title.parentNode.getBoundingClientRect();
    const across = (mark.left + mark.right) / 2 - clientX;
    const along = (mark.top + mark.bottom) / 2 - clientY;
    if (Math.hypot(across, along) < reach) {
      found = title;
      reach = Math.hypot(across, along);
    }
  }
  return found;
};
for (const kind of ["pointermove", "pointerdown"])
  document.addEventListener(kind, (event) => tell(nearest(event)));
document.addEventListener("pointercancel", () => tell(null));  // a finger that scrolls
document.addEventListener("keydown", (event) => event.key === "Escape" && tell(null));
for (const drawing of document.querySelectorAll("figure svg")) {
  const titles = [...drawing.querySelectorAll("title")];
  if (!titles.length) continue;
  drawing.tabIndex = 0;
  drawing.addEventListener("blur", () => drawing.contains(told) && tell(null));
  drawing.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();  // or the page would scroll
    const at = drawing.contains(told) ? titles.indexOf(told) : Math.min(-step, 0);
    const next = titles.at((at + step) % titles.length);
    next.parentNode.scrollIntoView({ block: "nearest" });
    tell(next);
  });
}
// A finger that is lifted leaves as well.
document.documentElement.addEventListener("pointerleave", (event) => {
  if (event.pointerType === "mouse") tell(null);
});
