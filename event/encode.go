package event

// AppendEventGrid appends the event as one object of the Event Grid schema; custom
// input as its mapping made it, with the published object as data. A CloudEvent has
// no such form: its extensions would be lost, so an event subscription cannot ask for
// it. Source: spec/events.md section 2.4.
func (e *Event) AppendEventGrid(dst []byte) []byte {
	return append(dst, e.Raw...)
}

// AppendCustom appends custom input as it was published. Events of other schemas have
// no such form, and an event subscription cannot ask for it.
// Source: spec/events.md section 3.
func (e *Event) AppendCustom(dst []byte) []byte {
	return append(dst, e.Data...)
}

// AppendCloudEvent appends the event as one CloudEvent in the JSON format: a
// CloudEvent as it is stored, an Event Grid event converted, custom input as the
// Event Grid event that its mapping made. dataschema is
// written only for a dataVersion that is not empty, and the extension sequence
// only if sequence is not empty; neither changes a stored CloudEvent.
// Source: spec/events.md section 2.4, spec/workspace.md section 3.2.
func (e *Event) AppendCloudEvent(dst []byte, sequence string) []byte {
	if e.Schema == CloudEventSchemaV1_0 {
		return append(dst, e.Raw...)
	}
	dst = append(dst, `{"specversion":"1.0"`...)
	dst = appendMember(dst, `,"type":`, e.Type)
	dst = appendMember(dst, `,"source":`, e.Source)
	dst = appendMember(dst, `,"subject":`, e.Subject)
	dst = appendMember(dst, `,"time":`, e.Time)
	dst = appendMember(dst, `,"id":`, e.ID)
	if len(e.DataVersion) > 0 {
		dst = append(dst, `,"dataschema":`...)
		quote := len(dst)
		dst = append(dst, ' ') // room for the quote that moves in front of the '#'
		dst = AppendQuoted(dst, e.DataVersion)
		dst[quote], dst[quote+1] = '"', '#'
	}
	if sequence != "" {
		dst = append(dst, `,"sequence":`...)
		dst = AppendQuoted(dst, sequence)
	}
	if e.Data != nil {
		dst = append(dst, `,"data":`...)
		dst = append(dst, e.Data...)
	}
	return append(dst, '}')
}

// appendMember appends a member whose value is text, and nothing for an absent one.
func appendMember(dst []byte, name string, value []byte) []byte {
	if value == nil {
		return dst
	}
	dst = append(dst, name...)
	return AppendQuoted(dst, value)
}
