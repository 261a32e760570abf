package resource

// kinds describes every destination other than webhooks, in the order of the
// documentation. Source of Azure's: spec/handlers.md sections 1 to 10.
var kinds = []*Kind{
	{
		Name: "EventHub", Azure: true, Form: FormArray, Together: 100,
		Summary:    "an event hub, or a Kafka topic or AMQP address that stands for one",
		Needs:      "the connection of the hub or its namespace, in the file of carillon serve --connections",
		Attributes: "properties of the message",
		Named:      []NamedAttribute{{Name: "PartitionKey", Becomes: "partition key"}},
		Linked:     []Link{{Action: "Microsoft.EventHub/namespaces/eventhubs/write"}},
		Fields: []Field{
			{Name: "resourceId", Type: FieldResourceID, Required: true, Resource: "Microsoft.EventHub/namespaces/eventhubs", Address: true, Help: "the id of the event hub",
				Example: "/subscriptions/S/resourceGroups/G/providers/Microsoft.EventHub/namespaces/NS/eventhubs/HUB"},
		},
	},
	serviceBus("Queue", "queue", "queues", "a queue of Azure Service Bus, or one of another AMQP 1.0 broker"),
	serviceBus("Topic", "topic", "topics", "a topic of Azure Service Bus, or one of another AMQP 1.0 broker"),
	{
		Name: "StorageQueue", Azure: true, Form: FormMessages, Together: 16,
		Summary: "a queue of an Azure storage account",
		Needs:   "the connection of the account, in the file of carillon serve --connections",
		Linked: []Link{
			{"Microsoft.Storage/storageAccounts/queueServices/queues/write", func(v Values) ID {
				return v.ID("resourceId").Child("queueServices", "default").Child("queues", v.Text("queueName"))
			}},
			{Action: "Microsoft.Storage/storageAccounts/write"},
		},
		Fields: []Field{
			{Name: "resourceId", Type: FieldResourceID, Required: true, Resource: "Microsoft.Storage/storageAccounts", Address: true, Help: "the id of the storage account",
				Example: "/subscriptions/S/resourceGroups/G/providers/Microsoft.Storage/storageAccounts/NAME"},
			{Name: "queueName", Required: true, Max: 63, Help: "the name of the queue, which has to be there", Example: "ml-events"},
			{Name: "queueMessageTimeToLiveInSeconds", Type: FieldInteger, Min: -1, Max: 1<<31 - 1, Default: "604800", Help: "for how long a message stays in the queue; -1 for ever", Example: "3600"},
		},
	},
	{
		Name: "Nats", Form: FormMessages, Together: 256,
		Summary:    "a subject of a NATS server with JetStream",
		Needs:      "a stream that has the subject",
		Attributes: "headers of the message",
		Fields: []Field{
			{Name: "url", Required: true, Address: true, Help: "the server, nats:// or tls://; more of them separated by commas", Example: "nats://127.0.0.1:4222"},
			{Name: "subject", Required: true, Max: 1024, Help: "the subject; {type}, {subject}, {source} and {id} stand for what the event has there, dots and blanks replaced", Example: "ml.events.{type}"},
			{Name: "username", Max: 256, Address: true, Help: "the user, with a password", Example: "carillon"},
			{Name: "password", Type: FieldSecret, Help: "the password of the user", Example: "…"},
			{Name: "token", Type: FieldSecret, Help: "an authentication token, instead of a user", Example: "…"},
			{Name: "credentials", Type: FieldSecret, Help: "a file of credentials of NATS (JWT and seed), instead of a user", Example: "@carillon.creds"},
		},
	},
	{
		Name: "Kafka", Form: FormMessages, Together: 500,
		Summary:    "a topic of a Kafka cluster",
		Needs:      "the topic",
		Attributes: "headers of the record",
		Fields: []Field{
			{Name: "bootstrapServers", Required: true, Address: true, Help: "some brokers as host:port, separated by commas", Example: "127.0.0.1:9092"},
			{Name: "topic", Required: true, Max: 249, Help: "the topic, which has to be there", Example: "ml-events"},
			{Name: "security", Type: FieldChoice, Choices: []string{"Plaintext", "Tls", "SaslPlaintext", "SaslTls"}, Default: "Plaintext", Address: true, Help: "how brokers are spoken to", Example: "SaslTls"},
			{Name: "mechanism", Type: FieldChoice, Choices: []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"}, Default: "PLAIN", Help: "how the user is shown, with SaslPlaintext or SaslTls", Example: "SCRAM-SHA-512"},
			{Name: "username", Max: 256, Address: true, Help: "the user", Example: "carillon"},
			{Name: "password", Type: FieldSecret, Help: "the password of the user", Example: "…"},
			{Name: "key", Max: 1024, Default: "{subject}", Help: "the key of records, which keeps those of one key in order; {type}, {subject}, {source} and {id} stand for what the event has there", Example: "{subject}"},
			{Name: "contentMode", Type: FieldChoice, Choices: []string{"structured", "binary"}, Default: "structured", Help: "the event as the value of the record, or CloudEvents by their data and ce_ headers", Example: "binary"},
		},
	},
	{
		Name: "Amqp", Form: FormMessages, Together: 256,
		Summary:    "an address of an AMQP 1.0 broker, such as RabbitMQ or ActiveMQ Artemis",
		Needs:      "the address",
		Attributes: "application properties of the message",
		Named:      messageAttributes,
		Fields: []Field{
			{Name: "url", Required: true, Address: true, Help: "the broker, amqps:// or amqp://", Example: "amqps://broker.example:5671"},
			{Name: "address", Required: true, Max: 1024, Help: "the address as the broker spells it: /queues/NAME for a queue of RabbitMQ 4, NAME for one of Artemis", Example: "/queues/ml-events"},
			{Name: "hostname", Max: 256, Help: "the host that the connection is opened for, where it is not that of the url: vhost:NAME for a virtual host of RabbitMQ", Example: "vhost:ml"},
			{Name: "username", Max: 256, Address: true, Help: "the user, with a password; none for anonymous", Example: "carillon"},
			{Name: "password", Type: FieldSecret, Help: "the password of the user", Example: "…"},
		},
	},
}

// messageAttributes are the delivery attributes that are parts of an AMQP message.
// Source: spec/handlers.md section 7.
var messageAttributes = []NamedAttribute{
	{Name: "MessageId", Becomes: "message-id", Dynamic: true, Without: "SessionId"},
	{Name: "SessionId", Becomes: "group-id", Without: "MessageId"},
	{Name: "CorrelationId", Becomes: "correlation-id"},
	{Name: "Label", Becomes: "subject"},
	{Name: "ReplyTo", Becomes: "reply-to"},
	{Name: "ReplyToSessionId", Becomes: "reply-to-group-id"},
	{Name: "To", Becomes: "to"},
	{Name: "PartitionKey", Becomes: "x-opt-partition-key"},
	{Name: "ViaPartitionKey", Becomes: "x-opt-via-partition-key"},
}

// serviceBus describes one of the kinds of entities that Service Bus has.
func serviceBus(name, noun, collection, summary string) *Kind {
	return &Kind{
		Name: "ServiceBus" + name, Azure: true, Form: FormMessages, Together: 100,
		Summary:    summary,
		Needs:      "the connection of the " + noun + " or its namespace, in the file of carillon serve --connections",
		Attributes: "application properties of the message",
		Named:      messageAttributes,
		Linked:     []Link{{Action: "Microsoft.ServiceBus/namespaces/" + collection + "/write"}},
		Fields: []Field{
			{Name: "resourceId", Type: FieldResourceID, Required: true, Resource: "Microsoft.ServiceBus/namespaces/" + collection, Address: true, Help: "the id of the " + noun,
				Example: "/subscriptions/S/resourceGroups/G/providers/Microsoft.ServiceBus/namespaces/NS/" + collection + "/NAME"},
		},
	}
}
