// Publishing with @azure/eventgrid, and reading what is delivered with the same
// SDK. Source: spec/events.md section 8.
import assert from "node:assert/strict";
import { once } from "node:events";
import http from "node:http";
import { after, before, test } from "node:test";
import { AzureKeyCredential, AzureSASCredential, EventGridDeserializer, EventGridPublisherClient, generateSharedAccessSignature } from "@azure/eventgrid";

const group = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/local";
const topics = {};
let receiver;

// manage sends one request of the management API and returns the answer's body.
async function manage(method, path, body) {
  const answer = await fetch(`${process.env.CARILLON_URL}${group}/providers/Microsoft.EventGrid/${path}?api-version=2025-02-15`, {
    method,
    headers: { authorization: `Bearer ${process.env.CARILLON_TOKEN}`, "content-type": "application/json" },
    body: body && JSON.stringify(body),
  });
  assert.ok(answer.ok, `${method} ${path}: ${answer.status}`);
  return answer.status === 204 ? undefined : answer.json();
}

// A handler that consents to the handshakes and keeps the bodies it is sent.
async function listen() {
  const bodies = [];
  const waiting = [];
  const server = http.createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    if (request.method === "OPTIONS") {
      response.setHeader("WebHook-Allowed-Origin", request.headers["webhook-request-origin"]);
    } else if (request.headers["aeg-event-type"] === "SubscriptionValidation") {
      response.write(JSON.stringify({ validationResponse: JSON.parse(body)[0].data.validationCode }));
    } else {
      bodies.push({ schema: request.url.slice(1), body });
      waiting.splice(0).forEach((resolve) => resolve());
    }
    response.end();
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    async of(schema, count) {
      for (;;) {
        const got = bodies.filter((b) => b.schema === schema).map((b) => b.body);
        if (got.length >= count) return got;
        await new Promise((resolve) => waiting.push(resolve));
      }
    },
    close: () => server.close(),
  };
}

before(async () => {
  receiver = await listen();
  for (const schema of ["EventGridSchema", "CloudEventSchemaV1_0"]) {
    const name = `js-${schema.slice(0, 5).toLowerCase()}`;
    const topic = await manage("PUT", `topics/${name}`, { location: "local", properties: { inputSchema: schema } });
    const keys = await manage("POST", `topics/${name}/listKeys`);
    await manage("PUT", `topics/${name}/eventSubscriptions/to-js`, {
      properties: {
        destination: { endpointType: "WebHook", properties: { endpointUrl: `${receiver.url}/${schema}` } },
        eventDeliverySchema: schema,
      },
    });
    topics[schema] = { name, endpoint: topic.properties.endpoint, key: keys.key1 };
  }
});

after(async () => {
  for (const topic of Object.values(topics)) await manage("DELETE", `topics/${topic.name}`);
  receiver.close();
});

test("EventGridEvent", { timeout: 20000 }, async () => {
  const { endpoint, key } = topics.EventGridSchema;
  const client = new EventGridPublisherClient(endpoint, "EventGrid", new AzureKeyCredential(key));
  const eventTime = new Date("2026-03-01T10:00:00.123Z");
  await client.send([{ id: "j1", eventType: "Shop.OrderPlaced", subject: "orders/1", dataVersion: "1.0", data: { n: 1, text: "Zoë ☂" }, eventTime }]);
  const [body] = await receiver.of("EventGridSchema", 1);
  const [event] = await new EventGridDeserializer().deserializeEventGridEvents(body);
  assert.equal(event.id, "j1");
  assert.equal(event.subject, "orders/1");
  assert.deepEqual(event.data, { n: 1, text: "Zoë ☂" });
  assert.deepEqual(event.eventTime, eventTime);
});

test("CloudEvent", { timeout: 20000 }, async () => {
  const { endpoint, key } = topics.CloudEventSchemaV1_0;
  const client = new EventGridPublisherClient(endpoint, "CloudEvent", new AzureKeyCredential(key));
  await client.send([
    { id: "j1", type: "Shop.OrderPlaced", source: "/shop", data: { n: 1 }, extensionAttributes: { tenant: "a" } },
    { id: "j2", type: "Shop.OrderPlaced", source: "/shop", data: new Uint8Array([0, 255, 7]), datacontenttype: "application/octet-stream" },
  ]);
  const events = [];
  for (const body of await receiver.of("CloudEventSchemaV1_0", 2)) {
    events.push(...(await new EventGridDeserializer().deserializeCloudEvents(body)));
  }
  const [first, second] = events.sort((a, b) => a.id.localeCompare(b.id));
  assert.deepEqual(first.data, { n: 1 });
  assert.equal(first.extensionAttributes.tenant, "a");
  assert.deepEqual([...second.data], [0, 255, 7]);
});

test("wrong key", async () => {
  const client = new EventGridPublisherClient(topics.EventGridSchema.endpoint, "EventGrid", new AzureKeyCredential("d3Jvbmc="));
  await assert.rejects(client.send([{ eventType: "t", subject: "s", dataVersion: "1", data: {} }]), { name: "RestError", statusCode: 401, code: "Unauthorized" });
});

test("shared access signature", { timeout: 20000 }, async () => {
  const { endpoint, key } = topics.EventGridSchema;
  const event = { id: "j-sas", eventType: "Shop.OrderPlaced", subject: "orders/1", dataVersion: "1.0", data: {} };
  const until = async (milliseconds, signedKey = key) => {
    const token = await generateSharedAccessSignature(endpoint, new AzureKeyCredential(signedKey), new Date(Date.now() + milliseconds));
    return new EventGridPublisherClient(endpoint, "EventGrid", new AzureSASCredential(token));
  };
  await (await until(300_000)).send([event]);
  const bodies = await receiver.of("EventGridSchema", 2);
  assert.equal(JSON.parse(bodies.at(-1))[0].id, "j-sas");
  for (const client of [await until(-2000), await until(300_000, "d3Jvbmc=")]) {
    await assert.rejects(client.send([event]), { name: "RestError", statusCode: 401, code: "Unauthorized" });
  }
});
