// Who is signed in. The token is kept for this tab, or for this device if its owner wants that; nothing else knows it.

const TOKEN = "rayrlhf.token";
const OURS = "rayrlhf.";

/** Take a token out of the address (`#token=rf-…`), so that it is in no bookmark, history or shared link; whether there was one. */
export function takeTokenFromAddress() {
  const given = /^#token=([^&]+)$/.exec(location.hash);
  if (!given) return false;
  const keep = isKept();
  history.replaceState(null, "", `${location.pathname}${location.search}#/chat`);
  signIn(decodeURIComponent(given[1]), keep);
  return true;
}

export function token() {
  return sessionStorage.getItem(TOKEN) ?? localStorage.getItem(TOKEN);
}

/** Whether the device remembers. */
export function isKept() {
  return localStorage.getItem(TOKEN) !== null;
}

export function signIn(given, keep) {
  sessionStorage.setItem(TOKEN, given);
  keepOnDevice(keep);
}

export function keepOnDevice(keep) {
  if (keep) localStorage.setItem(TOKEN, token());
  else localStorage.removeItem(TOKEN);
}

export function forgetToken() {
  sessionStorage.removeItem(TOKEN);
  localStorage.removeItem(TOKEN);
}

/** Forget the token and everything that this tab holds of its owner. */
export function signOut() {
  forgetToken();
  forgetHeld();
}

/** From now on this tab is somebody's; what it held of somebody else is forgotten. */
export function belongTo(user) {
  if (held("owner") !== user) forgetHeld();
  hold("owner", user);
}

function forgetHeld() {
  const ours = Object.keys(sessionStorage).filter((key) => key.startsWith(OURS) && key !== TOKEN);
  for (const key of ours) sessionStorage.removeItem(key);
}

/** What a view holds over a reload of this tab. */
export function held(name) {
  const found = sessionStorage.getItem(OURS + name);
  return found === null ? null : JSON.parse(found);
}

export function hold(name, value) {
  if (value === null) sessionStorage.removeItem(OURS + name);
  else sessionStorage.setItem(OURS + name, JSON.stringify(value));
}

/** What a device prefers, whoever is signed in. */
export function preference(name, otherwise) {
  const found = localStorage.getItem(`${OURS}prefer.${name}`);
  return found === null ? otherwise : JSON.parse(found);
}

export function prefer(name, value) {
  localStorage.setItem(`${OURS}prefer.${name}`, JSON.stringify(value));
}
