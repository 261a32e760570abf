package arm

import "github.com/carillon-events/carillon/internal/resource"

// targetOf shows a destination that is no webhook: its values, and null for each secret
// that is there.
func targetOf(endpointType string, t *resource.Target) map[string]any {
	b := map[string]any{}
	for name, value := range t.Values {
		b[name] = value
	}
	for name := range t.Sealed {
		b[name] = nil
	}
	kind := resource.KindOf(endpointType)
	if kind == nil {
		return b
	}
	if kind.Form == resource.FormPull { // shown as clients of queues expect it
		b[kind.Fields[0].Name] = t.Values.Int(kind.Fields[0].Name, resource.DefaultReceiveLock)
	}
	if kind.Attributes != "" {
		b["deliveryAttributeMappings"] = maskedAttributes(t.DeliveryAttributes)
	}
	if kind.Batching {
		b["maxEventsPerBatch"] = max(t.MaxEventsPerBatch, defaultBatchEvents)
		b["preferredBatchSizeInKilobytes"] = max(t.PreferredBatchSizeInKilobytes, defaultBatchKilobytes)
	}
	return b
}
