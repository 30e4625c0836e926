// The list of pages is longer than a screen: show the one that is open.
document.addEventListener("DOMContentLoaded", () => {
  const list = document.querySelector(".sidebar-scroll");
  const here = document.querySelector(".sidebar-tree .current-page");
  if (list && here) {
    list.scrollTop += here.getBoundingClientRect().top - list.clientHeight / 2;
  }
});
