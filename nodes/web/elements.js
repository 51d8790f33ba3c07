// Parts of a page.

/** An element of a class. */
export function made(kind, name = "") {
  const element = document.createElement(kind);
  element.className = name;
  return element;
}

/** Rules of style, for the whole page. */
export function style(rules) {
  const element = made("style");
  element.textContent = rules;
  document.head.append(element);
}
