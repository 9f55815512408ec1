/* Elements made by hand: text is only ever text. */

function byId(id) {
  return document.getElementById(id);
}

/* An element with properties and children; a child that is a string becomes a text node. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/* Text of the model or the user: its direction doesn't reach the text around it. */
function isolated(value) {
  return make("bdi", {}, value);
}

/* A button that does something. */
function button(label, action) {
  const element = make("button", { type: "button" }, isolated(label));
  element.addEventListener("click", action);
  return element;
}

/* A sentence in which what stands between backticks is to be typed. */
function withCommands(sentence) {
  return sentence.split("`").map((part, i) => (i % 2 ? make("code", {}, part) : part));
}

/* Tell a screen reader. */
function say(message) {
  byId("live").textContent = message;
}
