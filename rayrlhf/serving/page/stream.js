// An answer as it is written: server-sent events of OpenAI's chat API, and the id under which the answer can be rated.

import { ApiError, request } from "./api.js";

const DONE = "[DONE]";

/**
 * Ask, and call `heard` with all the text so far whenever there is more.
 * The end is `{ text, responseId }`. A stream that breaks throws an ApiError with the partial text in `partial`.
 */
export async function ask(question, signal, heard) {
  const response = await request("POST", "v1/chat/completions", { ...question, stream: true }, signal);
  const so = { text: "", responseId: null, isDone: false };
  try {
    for await (const data of events(response)) take(so, data, heard);
    if (!so.isDone) throw new ApiError("the connection ended in the middle of the answer", 0, "stream_broken");
  } catch (error) {
    const known = error instanceof ApiError || error.name === "AbortError";
    const told = known ? error : new ApiError("the connection broke in the middle of the answer", 0, "stream_broken");
    throw Object.assign(told, { partial: so.text });
  }
  return { text: so.text, responseId: so.responseId };
}

function take(so, data, heard) {
  if (data === DONE) {
    so.isDone = true;
    return;
  }
  const chunk = JSON.parse(data);
  if (chunk.error) throw new ApiError(chunk.error.message, 0, chunk.error.code);
  so.responseId = chunk.rayrlhf?.response_ids?.[0] ?? so.responseId;
  const more = chunk.choices?.[0]?.delta?.content;
  if (more) {
    so.text += more;
    heard(so.text);
  }
}

/** The data of each event, however the network cut it. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split(/\r?\n\r?\n/);
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (data.length) yield data.map((line) => line.slice(5).trimStart()).join("\n");
    }
  }
}
