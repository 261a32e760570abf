// Receives messages by AMQP 1.0 with rhea, a client of nobody's side: prints each as
// a line of JSON, its body in base64, and ends after COUNT of them. An address that
// begins with topic:// is subscribed to as a topic.
//   node receive.mjs PORT USER PASSWORD ADDRESS COUNT
import rhea from "rhea";

const [port, username, password, given, count] = process.argv.slice(2);
const topic = given.startsWith("topic://");
const address = given.replace("topic://", "");
let left = Number(count);
const text = (value) => (value === undefined ? null : String(value));

rhea.on("receiver_open", ({ receiver }) => {
  receiver.add_credit(left); // what is beyond stays for others
  console.log("ready");
});
rhea.on("message", ({ message: m, connection }) => {
  console.log(JSON.stringify({
    body: m.body.content.toString("base64"), durable: m.durable, id: text(m.message_id), contentType: text(m.content_type), subject: text(m.subject), group: text(m.group_id),
    annotations: m.message_annotations ?? {}, properties: m.application_properties,
  }));
  if (--left === 0) connection.close();
});
rhea.on("disconnected", ({ error }) => error && process.exit(1));
rhea.connect({ host: "127.0.0.1", port: Number(port), username, password, reconnect: false })
  .open_receiver({ credit_window: 0, source: { address, capabilities: [topic ? "topic" : "queue"] } });
