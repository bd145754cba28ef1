// Requests to the service this page came from. A failure is an ApiError with one sentence for people.

import { token } from "./session.js";

export class ApiError extends Error {
  /** `status` 0: no answer came. */
  constructor(message, status, code, retryAfterS = null) {
    super(message);
    Object.assign(this, { status, code, retryAfterS });
  }

  /** Whether the same request can do better later. A limit that gives no time (one answer's) stays. */
  get isPassing() {
    return [0, 408, 500, 502, 503, 504].includes(this.status) || (this.status === 429 && this.retryAfterS !== null);
  }
}

/** JSON in, JSON out; null where there is nothing (204). */
export async function call(method, path, body, signal) {
  const response = await request(method, path, body, signal);
  if (response.status === 204) return null;
  try {
    return await response.json();
  } catch (error) {
    throw failure(error);
  }
}

/** A response whose status is a good one. */
export async function request(method, path, body, signal) {
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), {
      method,
      signal,
      cache: "no-store",
      credentials: "omit",
      headers: { Authorization: `Bearer ${token()}`, ...(body ? { "Content-Type": "application/json" } : {}) },
      body: body ? JSON.stringify(body) : undefined,
    });
  } catch (error) {
    throw failure(error);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** A request that somebody stopped stays an AbortError. */
function failure(error) {
  if (error.name === "AbortError") return error;
  const late = error.name === "TimeoutError";
  return new ApiError(late ? "the service did not answer in time" : "the service cannot be reached", 0, "network");
}

async function refusal(response) {
  const said = (await response.json().catch(() => null))?.error;
  const after = Number.parseInt(response.headers.get("Retry-After"), 10);
  const error = new ApiError(
    said?.message ?? `the service answered ${response.status}`,
    response.status,
    said?.code ?? "unknown",
    Number.isFinite(after) ? after : null,
  );
  if (error.status === 401) window.dispatchEvent(new CustomEvent("rayrlhf:refused", { detail: error }));
  return error;
}
