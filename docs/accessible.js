// What Material adds to a page while it runs, for those who do not see it or have no mouse: a box of buttons beside each piece of
// code is no way around the page, and a table that is wider than its place scrolls by keys.
function mend() {
  document.querySelectorAll("nav.md-code__nav:not([role])").forEach((box) => box.setAttribute("role", "none"));
  document.querySelectorAll(".md-typeset__scrollwrap").forEach((box) => {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  });
}
new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
addEventListener("resize", mend);
mend();
