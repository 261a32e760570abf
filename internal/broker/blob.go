package broker

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/resource"
)

// blobSpace makes the names of blobs: a blob that is written again after a crash
// gets the name it had.
var blobSpace = uuid.MustParse("0c1a2f5e-95f0-5b0e-8b5b-7d6a3f1f4a52")

// blobFolder is where a dead letter belongs in its store: the name of the event
// subscription in capitals, then year, month, day and hour in UTC without leading
// zeros, of the time it was given up.
// Source: spec/delivery.md section 7.3.
func (l *Letter) blobFolder() string {
	at := l.GivenUp().UTC()
	name := l.EventSubscription[strings.LastIndexByte(l.EventSubscription, '/')+1:]
	return fmt.Sprintf("%s/%d/%d/%d/%d", strings.ToUpper(name), at.Year(), int(at.Month()), at.Day(), at.Hour())
}

// blobName names the blob that begins with a letter.
func (l *Letter) blobName() string {
	var seed []byte
	seed = append(append(seed, l.ID...), ' ')
	seed = binary.BigEndian.AppendUint64(seed, l.Place)
	return l.blobFolder() + "/" + uuid.NewSHA1(blobSpace, seed).String() + ".json"
}

// appendBlob appends the letter as an element of a blob's array: the event in the
// schema it was to be delivered in, with the dead-letter members at its top level.
// An event of a custom input schema is written as the Event Grid event that the
// topic's mapping makes of it, its data the whole object that was published.
// Source: spec/delivery.md section 7.4.
func (l *Letter) appendBlob(dst []byte, rules Rules) ([]byte, error) {
	var e event.Event
	if err := e.Parse(l.Event, l.schema()); err != nil {
		return dst, fmt.Errorf("dead letter %s: %w", l.ID, err)
	}
	cloud := l.schema() == event.CloudEventSchemaV1_0 || event.Schema(l.DeliverySchema) == event.CloudEventSchemaV1_0
	begin := len(dst)
	if cloud {
		dst = rules.appendCloudEvent(dst, &e, l.sequence())
	} else {
		dst = e.AppendEventGrid(dst)
	}
	end := len(dst)
	for end > begin && dst[end-1] != '}' {
		end--
	}
	dst = dst[:max(end-1, begin)]
	text := func(name, value string) {
		dst = append(dst, ',', '"')
		if cloud { // names of extensions are in lower case
			name = strings.ToLower(name)
		}
		dst = append(dst, name...)
		dst = append(dst, '"', ':')
		dst = event.AppendQuoted(dst, []byte(value))
	}
	number := func(name string, value int) {
		text(name, "")
		dst = strconv.AppendInt(dst[:len(dst)-2], int64(value), 10)
	}
	text("deadLetterReason", string(l.DeadLetterReason))
	number("deliveryAttempts", l.DeliveryAttempts)
	text("lastDeliveryOutcome", l.LastDeliveryOutcome)
	if l.LastHTTPStatusCode != 0 {
		number("lastHttpStatusCode", l.LastHTTPStatusCode)
	}
	text("publishTime", event.FormatTime(l.PublishTime))
	if !l.LastDeliveryAttemptTime.IsZero() {
		text("lastDeliveryAttemptTime", event.FormatTime(l.LastDeliveryAttemptTime))
	}
	return append(dst, '}'), nil
}

// sequence is what deliveries carry as the extension sequence: events that publishers
// post carry none.
func (l *Letter) sequence() string {
	if id, err := resource.ParseID(l.Topic); err == nil && !sequenced(id) {
		return ""
	}
	return l.Sequencer
}
