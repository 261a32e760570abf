package resource

// Stream names events of the log: all those of a topic or a domain, or those that were
// published to a domain for one of its topics. Records of events for a domain carry
// both, so whoever hangs on the domain and whoever hangs on its topic read one log, and
// what is published for a topic that nobody made costs nothing more than its event.
type Stream struct {
	Topic       UID    // of the topic or the domain
	DomainTopic string // the name in lower case; "" = all events
}

// Stream returns the events that the event subscription picks from.
func (es *EventSubscription) Stream() Stream {
	return Stream{Topic: es.TopicUID, DomainTopic: es.DomainTopic}
}
