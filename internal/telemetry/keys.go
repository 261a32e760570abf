package telemetry

// Attribute keys of log records. Keys that two packages use stand here.
const (
	Topic             = "topic"              // full resource id
	EventSubscription = "event_subscription" // full resource id
	Destination       = "destination"        // kind of destination, such as "WebHook"
	EventID           = "event_id"
	EventType         = "event_type"
	DeliveryID        = "delivery_id"
	DeadLetterID      = "dead_letter_id"
	DeadLetterReason  = "dead_letter_reason"
	Attempt           = "attempt" // number of the attempt, 1 for the first
	Outcome           = "outcome" // a broker.Outcome
	NextAttempt       = "next_attempt"
	Events            = "events" // how many events one request or frame holds
	Position          = "position"
	Partition         = "partition"

	Workspace      = "workspace"       // full resource id
	Experiment     = "experiment"      // name
	Run            = "run"             // run id
	Model          = "model"           // "name:version"
	OnlineEndpoint = "online_endpoint" // service name
	DriftMonitor   = "drift_monitor"   // name

	Resource  = "resource"  // full id of the resource that a request is about
	Action    = "action"    // such as "Microsoft.EventGrid/eventSubscriptions/write"
	Principal = "principal" // object id of who asked

	Method          = "method"
	Path            = "path" // never with a query
	Status          = "status"
	Bytes           = "bytes" // of the answer's body
	Duration        = "duration"
	Remote          = "remote" // address of the peer, without port
	UserAgent       = "user_agent"
	RequestID       = "request_id"
	CorrelationID   = "correlation_id"
	ClientRequestID = "client_request_id"

	Error = "error"
	Stack = "stack"
	Left  = "left_out" // records of the same kind that were left out since the last one
)
