// A handler that follows the five rules of docs/events.md, with the official SDK's
// deserializers and the library of Standard Webhooks.
//
//   TOPIC=… SIGNING_KEY=whsec_… node handler.js PORT
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { EventGridDeserializer } from "@azure/eventgrid";
import { Webhook } from "standardwebhooks";

const topic = process.env.TOPIC!.toLowerCase(); // the workspace's resource id
const signature = new Webhook(process.env.SIGNING_KEY!);
const origins = new Set(["eventgrid.azure.net"]); // who may send CloudEvents
const deserializer = new EventGridDeserializer();

type Data = Record<string, any>;
const ml = "Microsoft.MachineLearningServices.";
// What takes long belongs behind the answer: a sender waits half a minute.
const handlers: Record<string, (data: Data) => void | Promise<void>> = {
  [ml + "ModelRegistered"]: (d) => console.log(`registered ${d.modelName}:${d.modelVersion}`),
  [ml + "RunCompleted"]: (d) => console.log(`completed ${d.runId} of ${d.experimentName}`),
};

/** Remembers the last 100,000; a database outlives the process and is shared. */
class Memory<V> extends Map<string, V> {
  note(key: string, value: V): void {
    this.delete(key);
    this.set(key, value);
    if (this.size > 100_000) this.delete(this.keys().next().value!);
  }
}
const handled = new Memory<true>();
const newest = new Memory<{ sequencer: string; etag?: string }>();

interface Event {
  id: string;
  source: string;
  type: string;
  subject?: string;
  data: Data;
}

/** Handles one event and returns the status that answers for it. */
async function take(e: Event): Promise<number> {
  if (e.source.toLowerCase() !== topic) return 400; // 1. check the topic: 400 is not tried again
  const handle = handlers[e.type]; // 1. and the type: what is not known is taken and left
  const id = e.source + "\n" + e.id;
  if (!handle || handled.has(id)) return 200; // 2. drop duplicates
  const state = { sequencer: String(e.data.sequencer ?? ""), etag: e.data.etag };
  const object = e.source + "\n" + e.subject;
  const before = newest.get(object);
  if (!before || state.sequencer > before.sequencer || state.etag === before.etag) { // 3. drop what is older; events of one change have one etag
    await handle(e.data); // 5. members that are not known do no harm; an exception is a 500, and the event comes again
    if (!before || state.sequencer > before.sequencer) newest.note(object, state);
  }
  handled.note(id, true); // once it is handled, not before
  return 200;
}

async function body(r: IncomingMessage): Promise<string | undefined> {
  const parts: Buffer[] = [];
  let size = 0;
  for await (const part of r) {
    parts.push(part);
    if ((size += part.length) > 2 << 20) return undefined;
  }
  return Buffer.concat(parts).toString();
}

async function answer(r: IncomingMessage, w: ServerResponse): Promise<ServerResponse> {
  if (r.method === "OPTIONS") { // the handshake of CloudEvents
    const origin = String(r.headers["webhook-request-origin"]);
    if (origins.has(origin)) w.setHeader("WebHook-Allowed-Origin", origin).setHeader("WebHook-Allowed-Rate", "*");
    return w.end();
  }
  const text = await body(r);
  if (text === undefined) return w.writeHead(413).end();
  try {
    signature.verify(text, r.headers as Record<string, string>);
  } catch {
    return w.writeHead(401).end();
  }
  const kind = r.headers["aeg-event-type"];
  if (kind !== "Notification" && kind !== "SubscriptionValidation") return w.end(); // the event subscription is gone
  const cloud = r.headers["content-type"]?.startsWith("application/cloudevents");
  const events: Event[] = cloud
    ? (await deserializer.deserializeCloudEvents(text)).map((e) => ({ ...e, id: e.id!, data: e.data as Data }))
    : (await deserializer.deserializeEventGridEvents(text)).map((e) => ({ ...e, source: e.topic!, type: e.eventType, data: e.data as Data }));
  if (kind === "SubscriptionValidation") { // the handshake of the Event Grid schema
    if (events[0].source.toLowerCase() !== topic) return w.writeHead(400).end();
    return w.setHeader("Content-Type", "application/json").end(JSON.stringify({ validationResponse: events[0].data.validationCode }));
  }
  let status = 200;
  for (const e of events) status = Math.max(status, await take(e));
  return w.writeHead(status).end();
}

let last: Promise<unknown> = Promise.resolve(); // one request at a time: no event is handled twice at once
const server = createServer((r, w) => {
  last = last.then(() => answer(r, w)).catch((failed) => {
    console.error("failed:", failed);
    w.writeHead(500).end(); // whatever it was, the event comes again
  });
});
server.listen(Number(process.argv[2]), "127.0.0.1", () => {
  const at = server.address();
  console.log(`listening on http://127.0.0.1:${typeof at === "object" && at ? at.port : ""}/`);
});
