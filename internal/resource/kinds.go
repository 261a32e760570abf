package resource

// kinds describes every destination other than webhooks, in the order of the
// documentation. Source of Azure's: spec/handlers.md sections 1 to 10.
var kinds = []*Kind{
	{
		Name: "AzureFunction", Azure: true, Form: FormRequest, Together: 1, Batching: true,
		Summary:    "a function with the event grid trigger",
		Needs:      "the connection of the app (Endpoint, SystemKey; carillon connection create)",
		Attributes: "headers, which the trigger does not see",
		Linked:     []Link{{Action: "Microsoft.Web/sites/functions/write"}, {"Microsoft.Web/sites/write", func(v Values) ID { return v.ID("resourceId").Parent() }}},
		Fields: []Field{
			{Name: "resourceId", Type: FieldResourceID, Required: true, Resource: "Microsoft.Web/sites/functions", Address: true, Help: "the id of the function",
				Example: "/subscriptions/S/resourceGroups/G/providers/Microsoft.Web/sites/APP/functions/FN"},
		},
	},
	{
		Name: "EventHub", Azure: true, Form: FormArray, Together: 100,
		Summary:    "an event hub, or a Kafka topic or AMQP address that stands for one",
		Needs:      "the connection of the hub or its namespace (carillon connection create)",
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
		Name: "HybridConnection", Azure: true, Form: FormRequest, Together: 1,
		Summary:    "a hybrid connection of a relay",
		Needs:      "the connection of the hybrid connection or its namespace (carillon connection create)",
		Attributes: "headers",
		Linked:     []Link{{Action: "Microsoft.Relay/namespaces/hybridConnections/write"}},
		Fields: []Field{
			{Name: "resourceId", Type: FieldResourceID, Required: true, Resource: "Microsoft.Relay/namespaces/hybridConnections", Address: true, Help: "the id of the hybrid connection",
				Example: "/subscriptions/S/resourceGroups/G/providers/Microsoft.Relay/namespaces/NS/hybridConnections/HC"},
		},
	},
	{
		Name: "StorageQueue", Azure: true, Form: FormMessages, Together: 16,
		Summary: "a queue of an Azure storage account",
		Needs:   "the connection of the account (carillon connection create)",
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
	pull,
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
	{
		Name: "Mqtt", Form: FormMessages, Together: 100,
		Summary:    "a topic of an MQTT 5 server, such as Mosquitto, EMQX or HiveMQ",
		Attributes: "user properties of the message",
		Fields: []Field{
			{Name: "serverUrl", Required: true, Address: true, Help: "the server, mqtts:// or mqtt://", Example: "mqtts://broker.example:8883"},
			{Name: "topic", Required: true, Max: 1024, Help: "the topic; {type}, {subject}, {source} and {id} stand for what the event has there, each as one level, slashes and wildcards replaced", Example: "ml/events/{type}"},
			{Name: "qos", Type: FieldInteger, Min: 1, Max: 2, Default: "1", Help: "the quality of service", Example: "2"},
			{Name: "retain", Type: FieldBoolean, Default: "false", Help: "whether the server keeps the last message of the topic for those who subscribe later", Example: "true"},
			{Name: "username", Max: 256, Address: true, Help: "the user, with a password", Example: "carillon"},
			{Name: "password", Type: FieldSecret, Help: "the password of the user", Example: "…"},
			{Name: "clientId", Max: 256, Help: "what the client is called, where the server goes by it; one that nobody else has, a new one each time unless given", Example: "carillon-ml"},
			{Name: "messageExpiry", Type: FieldInteger, Min: 1, Max: 1<<32 - 1, Help: "after how many seconds the server drops what nobody got; never unless given", Example: "86400"},
			{Name: "contentMode", Type: FieldChoice, Choices: []string{"structured", "binary"}, Default: "structured", Help: "the event as the payload, or CloudEvents by their data and a user property for each attribute", Example: "binary"},
		},
	},
	{
		Name: "DataFactoryPipeline", Form: FormMessages, Together: 1,
		Summary: "a run of an Azure Data Factory pipeline",
		Needs:   "the connection of the factory (TenantId, ClientId, ClientSecret; carillon connection create)",
		Linked:  []Link{{Action: "Microsoft.DataFactory/factories/pipelines/createRun/action"}},
		Fields: []Field{
			{Name: "resourceId", Type: FieldResourceID, Required: true, Resource: "Microsoft.DataFactory/factories/pipelines", Address: true, Help: "the id of the pipeline", Example: "/subscriptions/S/resourceGroups/G/providers/Microsoft.DataFactory/factories/F/pipelines/P"},
			{Name: "parameters", Type: FieldExpression, Default: `{}`, Help: "an expression of what is sent: an object, the parameters of the pipeline", Example: `{"model": data.modelName, "version": data.modelVersion}`},
			{Name: "idParameter", Max: 256, Default: "eventId", Help: "the parameter that gets the id of the event, by which a repeated attempt finds the run of an earlier one", Example: "eventId"},
		},
	},
	{
		Name: "Airflow", Form: FormMessages, Together: 1,
		Summary: "a DAG run of Apache Airflow 2 or 3",
		Fields: []Field{
			{Name: "url", Required: true, URL: true, Address: true, Help: "the address of the web server", Example: "https://airflow.example"},
			{Name: "dagId", Required: true, Max: 250, Help: "the DAG", Example: "retrain"},
			{Name: "version", Type: FieldChoice, Choices: []string{"2", "3"}, Default: "3", Help: "the major version", Example: "2"},
			{Name: "username", Max: 256, Address: true, Help: "the user, with a password", Example: "carillon"},
			{Name: "password", Type: FieldSecret, Help: "the password of the user", Example: "…"},
			{Name: "token", Type: FieldSecret, Help: "a bearer token, instead of a user", Example: "…"},
			{Name: "conf", Type: FieldExpression, Default: `{"event": event}`, Help: "an expression of what is sent: an object, the conf of the run", Example: `{"model": data.modelName, "version": data.modelVersion}`},
		},
	},
	{
		Name: "GitHubRepository", Form: FormMessages, Together: 1,
		Summary: "a repository_dispatch event at GitHub",
		Fields: []Field{
			{Name: "url", URL: true, Address: true, Default: "https://api.github.com", Help: "the address of the API", Example: "https://github.example/api/v3"},
			{Name: "repository", Required: true, Max: 256, Help: "the repository", Example: "acme/models"},
			{Name: "eventType", Max: 256, Default: "{type}", Help: "the event_type; {type}, {subject}, {source} and {id} stand for what the event has there", Example: "model-registered"},
			{Name: "token", Type: FieldSecret, Help: "a token that may write contents", Example: "…"},
			{Name: "payload", Type: FieldExpression, Default: `{"event": event}`, Help: "an expression of what is sent: an object of at most 10 members, the client_payload", Example: `{"model": data.modelName, "version": data.modelVersion}`},
		},
	},
	{
		Name: "GitHubWorkflow", Form: FormMessages, Together: 1,
		Summary: "a run of a workflow at GitHub",
		Fields: []Field{
			{Name: "url", URL: true, Address: true, Default: "https://api.github.com", Help: "the address of the API", Example: "https://github.example/api/v3"},
			{Name: "repository", Required: true, Max: 256, Help: "the repository", Example: "acme/models"},
			{Name: "workflow", Required: true, Max: 256, Help: "the file of the workflow, or its id", Example: "deploy.yml"},
			{Name: "ref", Max: 256, Default: "main", Help: "the branch or tag", Example: "main"},
			{Name: "token", Type: FieldSecret, Help: "a token that may write actions", Example: "…"},
			{Name: "inputs", Type: FieldExpression, Default: `{}`, Help: "an expression of what is sent: an object, the inputs that the workflow declares", Example: `{"model": data.modelName, "version": data.modelVersion}`},
		},
	},
	{
		Name: "GitLab", Form: FormMessages, Together: 1,
		Summary: "a pipeline at GitLab, by a trigger token",
		Fields: []Field{
			{Name: "url", URL: true, Address: true, Default: "https://gitlab.com", Help: "the address of GitLab", Example: "https://gitlab.example"},
			{Name: "project", Required: true, Max: 256, Help: "the id of the project, or its path", Example: "acme/models"},
			{Name: "ref", Max: 256, Default: "main", Help: "the branch or tag", Example: "main"},
			{Name: "token", Type: FieldSecret, Required: true, Help: "the trigger token", Example: "…"},
			{Name: "variables", Type: FieldExpression, Default: `{"EVENT": event}`, Help: "an expression of what is sent: an object, the variables of the pipeline", Example: `{"MODEL": data.modelName}`},
		},
	},
	{
		Name: "ArgoWorkflow", Form: FormMessages, Together: 1,
		Summary: "a workflow of Argo Workflows, of a template",
		Fields: []Field{
			{Name: "url", Required: true, URL: true, Address: true, Help: "the address of the server", Example: "https://argo.example:2746"},
			{Name: "namespace", Required: true, Max: 253, Help: "the namespace", Example: "ml"},
			{Name: "workflowTemplate", Required: true, Max: 253, Help: "the WorkflowTemplate", Example: "retrain"},
			{Name: "token", Type: FieldSecret, Help: "the token of a service account", Example: "…"},
			{Name: "parameters", Type: FieldExpression, Default: `{"event": event}`, Help: "an expression of what is sent: an object, the parameters of the workflow", Example: `{"model": data.modelName, "version": data.modelVersion}`},
		},
	},
	{
		Name: "ArgoWorkflowEvent", Form: FormMessages, Together: 1,
		Summary: "the event endpoint of Argo Workflows",
		Fields: []Field{
			{Name: "url", Required: true, URL: true, Address: true, Help: "the address of the server", Example: "https://argo.example:2746"},
			{Name: "namespace", Required: true, Max: 253, Help: "the namespace", Example: "ml"},
			{Name: "discriminator", Max: 253, Help: "the discriminator, which bindings see", Example: "models"},
			{Name: "token", Type: FieldSecret, Help: "the token of a service account", Example: "…"},
			{Name: "payload", Type: FieldExpression, Default: `event`, Help: "an expression of what is sent: anything, the payload that bindings see", Example: `{"model": data.modelName, "version": data.modelVersion}`},
		},
	},
	{
		Name: "ArgoEvents", Form: FormMessages, Together: 1,
		Summary: "a webhook event source of Argo Events",
		Fields: []Field{
			{Name: "url", Required: true, URL: true, Address: true, Help: "the address of the endpoint", Example: "https://webhook.example/models"},
			{Name: "token", Type: FieldSecret, Help: "the token of authSecret", Example: "…"},
			{Name: "payload", Type: FieldExpression, Default: `event`, Help: "an expression of what is sent: anything, the body that sensors see", Example: `{"model": data.modelName, "version": data.modelVersion}`},
		},
	},
	{
		Name: "Prefect", Form: FormMessages, Together: 1,
		Summary: "a flow run of a Prefect deployment",
		Fields: []Field{
			{Name: "url", Required: true, URL: true, Address: true, Help: "the address of the API", Example: "https://prefect.example/api"},
			{Name: "deploymentId", Required: true, Max: 64, Help: "the id of the deployment", Example: "7f3c1c5e-3f0a-4f7e-9b1a-2f8d5d0c6a11"},
			{Name: "token", Type: FieldSecret, Help: "an API key", Example: "…"},
			{Name: "username", Max: 256, Address: true, Help: "the user of basic authentication, instead of a key", Example: "carillon"},
			{Name: "password", Type: FieldSecret, Help: "the password of the user", Example: "…"},
			{Name: "parameters", Type: FieldExpression, Default: `{}`, Help: "an expression of what is sent: an object, the parameters of the flow", Example: `{"model": data.modelName, "version": data.modelVersion}`},
		},
	},
	{
		Name: "Dagster", Form: FormMessages, Together: 1,
		Summary: "a run of a Dagster job",
		Fields: []Field{
			{Name: "url", Required: true, URL: true, Address: true, Help: "the address of the web server", Example: "https://dagster.example"},
			{Name: "location", Required: true, Max: 256, Help: "the code location", Example: "ml"},
			{Name: "repository", Max: 256, Default: "__repository__", Help: "the repository in it", Example: "__repository__"},
			{Name: "job", Required: true, Max: 256, Help: "the job", Example: "retrain"},
			{Name: "token", Type: FieldSecret, Help: "a token of Dagster+", Example: "…"},
			{Name: "runConfig", Type: FieldExpression, Default: `{}`, Help: "an expression of what is sent: an object, the run config", Example: `{"ops": {"train": {"config": {"model": data.modelName}}}}`},
		},
	},
	{
		Name: "Jenkins", Form: FormMessages, Together: 1,
		Summary: "a build of a Jenkins job",
		Fields: []Field{
			{Name: "url", Required: true, URL: true, Address: true, Help: "the address of Jenkins", Example: "https://jenkins.example"},
			{Name: "job", Required: true, Max: 512, Help: "the job, with its folders", Example: "ml/retrain"},
			{Name: "username", Max: 256, Address: true, Help: "the user", Example: "carillon"},
			{Name: "password", Type: FieldSecret, Help: "an API token of the user", Example: "…"},
			{Name: "parameters", Type: FieldExpression, Default: `{}`, Help: "an expression of what is sent: an object, the parameters of the job; none for a job without", Example: `{"MODEL": data.modelName}`},
		},
	},
	{
		Name: "KubernetesJob", Form: FormMessages, Together: 1,
		Summary: "a Job of Kubernetes",
		Fields: []Field{
			{Name: "url", Required: true, URL: true, Address: true, Help: "the address of the API server", Example: "https://kubernetes.default.svc"},
			{Name: "namespace", Required: true, Max: 253, Help: "the namespace", Example: "ml"},
			{Name: "job", Required: true, Max: 65536, Help: "the Job as JSON; its containers get EVENT_JSON and EVENT_KEY", Example: `{"spec":{"template":{"spec":{"containers":[{"name":"run","image":"registry.example/retrain:1"}]}}}}`},
			{Name: "token", Type: FieldSecret, Required: true, Help: "the token of a service account that may create jobs", Example: "…"},
			{Name: "event", Type: FieldExpression, Default: `event`, Help: "an expression of what is sent: anything, the value of EVENT_JSON", Example: `{"model": data.modelName, "version": data.modelVersion}`},
		},
	},
	{
		Name: "Slack", Form: FormMessages, Together: 1,
		Summary: "a message to a Slack channel",
		Fields: []Field{
			{Name: "url", Type: FieldSecret, Required: true, URL: true, Help: "the address of the incoming webhook, which is a secret", Example: "https://hooks.slack.com/services/T/B/X"},
			{Name: "text", Type: FieldExpression, Default: `type + " " + subject`, Help: "an expression of what is sent: a text", Example: `"Run " + data.runId + " is " + data.runStatus`},
		},
	},
	{
		Name: "Teams", Form: FormMessages, Together: 1,
		Summary: "a message to a Microsoft Teams channel",
		Fields: []Field{
			{Name: "url", Type: FieldSecret, Required: true, URL: true, Help: "the address of the workflow, which is a secret", Example: "https://prod-1.example.logic.azure.com/workflows/X"},
			{Name: "text", Type: FieldExpression, Default: `type + " " + subject`, Help: "an expression of what is sent: a text", Example: `"Run " + data.runId + " is " + data.runStatus`},
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
		Needs:      "the connection of the " + noun + " or its namespace (carillon connection create)",
		Attributes: "application properties of the message",
		Named:      messageAttributes,
		Linked:     []Link{{Action: "Microsoft.ServiceBus/namespaces/" + collection + "/write"}},
		Fields: []Field{
			{Name: "resourceId", Type: FieldResourceID, Required: true, Resource: "Microsoft.ServiceBus/namespaces/" + collection, Address: true, Help: "the id of the " + noun,
				Example: "/subscriptions/S/resourceGroups/G/providers/Microsoft.ServiceBus/namespaces/NS/" + collection + "/NAME"},
		},
	}
}
