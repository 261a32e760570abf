package event

// Mapping says where the objects that are published to a topic of custom input have
// what the envelope of an event needs. The zero value maps nothing. Its JSON form is
// that of the member properties of an inputSchemaMapping.
// Source: spec/events.md section 3.
type Mapping struct {
	ID          MappedAttribute `json:"id,omitzero"`
	Topic       MappedAttribute `json:"topic,omitzero"` // read for a domain alone: else an event's topic is the one that it was published to
	Time        MappedAttribute `json:"eventTime,omitzero"`
	Type        MappedAttribute `json:"eventType,omitzero"`
	Subject     MappedAttribute `json:"subject,omitzero"`
	DataVersion MappedAttribute `json:"dataVersion,omitzero"`
}

// MappedAttribute is where one attribute comes from.
type MappedAttribute struct {
	// SourceField is the exact name of a member of the published object, "" for none.
	// One with dots is also a path into objects, unless there is a member of that name.
	SourceField string `json:"sourceField,omitempty"`
	// DefaultValue stands in where the member is missing, null or blank. Only type,
	// subject and dataVersion may have one.
	DefaultValue string `json:"defaultValue,omitempty"`
}

// Attributes calls f with each attribute in the order in which the documentation
// shows them, and its name there.
func (m *Mapping) Attributes(f func(name string, a *MappedAttribute)) {
	f("id", &m.ID)
	f("topic", &m.Topic)
	f("eventTime", &m.Time)
	f("eventType", &m.Type)
	f("subject", &m.Subject)
	f("dataVersion", &m.DataVersion)
}
