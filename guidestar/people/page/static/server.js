// Requests to our own server: always JSON, always with the header that other sites cannot send.

const PATIENCE = 15000; // milliseconds

/** The server cannot be reached, or cannot do it now: worth another try. */
export class Away extends Error {}

/** The server answered and will not do it. */
export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

export async function post(name, body, patience = PATIENCE) {
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), patience);
  let response;
  let data = null;
  try {
    response = await fetch(`/api/${name}`, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Guidestar": "1" },
      body: JSON.stringify(body),
      credentials: "same-origin",
      redirect: "error",
      signal: stop.signal,
    });
    const text = await response.text();
    data = (response.headers.get("content-type") || "").startsWith("application/json") ? JSON.parse(text) : { error: text };
  } catch {
    throw new Away("The server cannot be reached.");
  } finally {
    clearTimeout(timer);
  }
  if (response.ok) return data;
  if (response.status >= 500) throw new Away(data.error || "The server has a problem.");
  throw new Refused(response.status, data.error || `The server answered ${response.status}.`);
}
