package resource

// kinds describes every destination other than webhooks, in the order of the
// documentation. Source of Azure's: spec/handlers.md sections 1 to 10.
var kinds = []*Kind{
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
			{Name: "subject", Required: true, Max: 1024, Help: "the subject; {type}, {subject} and {source} stand for what the event has there, dots and blanks replaced", Example: "ml.events.{type}"},
			{Name: "username", Max: 256, Address: true, Help: "the user, with a password", Example: "carillon"},
			{Name: "password", Type: FieldSecret, Help: "the password of the user", Example: "…"},
			{Name: "token", Type: FieldSecret, Help: "an authentication token, instead of a user", Example: "…"},
			{Name: "credentials", Type: FieldSecret, Help: "a file of credentials of NATS (JWT and seed), instead of a user", Example: "@carillon.creds"},
		},
	},
}
