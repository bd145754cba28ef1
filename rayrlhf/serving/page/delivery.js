// A decision reaches the store or its maker learns that it did not. One idempotency key a decision, the same in every
// try, so a decision whose answer got lost is not counted twice. What is not stored yet outlives a reload of the tab.

import { ApiError, call } from "./api.js";
import { complain, notice, toast } from "./notices.js";
import { held, hold } from "./session.js";

const OUTBOX = "outbox";
const TIMEOUT_S = 30;
const LONGEST_WAIT_S = 30;

/** Send what an earlier page of this tab could not. */
export function openOutbox() {
  for (const entry of outbox()) insist(entry).then((end) => end.isStored && toast(`${entry.what}: stored now.`));
}

/** How many decisions are not stored yet. */
export function undelivered() {
  return outbox().length;
}

/** Post a decision until it is stored, refused or given up; `what` names it in messages. */
export function deliver(path, content, what) {
  const entry = { path, what, body: { ...content, idempotency_key: newKey() } };
  hold(OUTBOX, [...outbox(), entry]);
  return insist(entry);
}

async function insist(entry) {
  const trouble = notice("trouble");
  for (let tries = 1; ; tries += 1) {
    try {
      const receipt = await call("POST", entry.path, entry.body, AbortSignal.timeout(TIMEOUT_S * 1000));
      return end(entry, trouble, { isStored: true, receipt });
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      // The page asks for a token now, and sends the outbox again when it has one.
      if (error.status === 401) return new Promise(() => {});
      if (!error.isPassing) {
        complain(`${entry.what}: not stored. ${sentence(error.message)}`);
        return end(entry, trouble, { isStored: false });
      }
      if (!(await wait(entry, trouble, error, tries))) return end(entry, trouble, { isStored: false });
    }
  }
}

function end(entry, trouble, outcome) {
  trouble.close();
  hold(OUTBOX, outbox().filter((other) => other.body.idempotency_key !== entry.body.idempotency_key));
  return outcome;
}

/** Wait as long as the service asks, else longer each time; false if the decision is given up. */
function wait(entry, trouble, error, tries) {
  const seconds = error.retryAfterS ?? Math.min(LONGEST_WAIT_S, 2 ** tries);
  const until = Date.now() + seconds * 1000;
  return new Promise((resolve) => {
    const finish = (goOn) => {
      clearInterval(clock);
      removeEventListener("online", retry);
      resolve(goOn);
    };
    const retry = () => finish(true);
    const tick = () => {
      const left = Math.ceil((until - Date.now()) / 1000);
      trouble.count(`Next try in ${duration(left)}.`);
      if (left <= 0) retry();
    };
    const clock = setInterval(tick, 500);
    addEventListener("online", retry);
    trouble.say(`${entry.what}: not stored yet. ${sentence(error.message)}`, {
      "Try now": retry,
      "Give up": () => finish(false),
    });
    tick();
  });
}

/** 90 → "2 min": as exact as somebody who waits wants it. */
export function duration(seconds) {
  if (seconds < 60) return `${Math.max(0, seconds)} s`;
  return seconds < 3600 ? `${Math.ceil(seconds / 60)} min` : `${Math.ceil(seconds / 3600)} h`;
}

/** Messages of the service begin small and end without a full stop. */
export function sentence(message) {
  return `${message.charAt(0).toUpperCase()}${message.slice(1)}${/[.!?]$/.test(message) ? "" : "."}`;
}

function outbox() {
  return held(OUTBOX) ?? [];
}

/** `randomUUID` is there on encrypted pages and on localhost only. */
function newKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
