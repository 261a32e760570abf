package resource

import (
	"strconv"
	"strings"
	"time"
)

// DestinationPull is the endpointType of event subscriptions whose events are received.
// Source: spec/delivery.md section 10, of the queues of namespaces.
const DestinationPull = "Pull"

const receiveLock = "receiveLockDurationInSeconds"

// DefaultReceiveLock is for how many seconds a received event is locked where nothing is
// said.
const DefaultReceiveLock = 60

// pull describes what is received. There is no schema but one for it.
var pull = &Kind{
	Name: DestinationPull, Form: FormPull, Together: 1,
	Summary: "nothing: events wait, as CloudEvents, for receivers that ask for them",
	Fields: []Field{
		{Name: receiveLock, Type: FieldInteger, Min: 60, Max: 300, Default: strconv.Itoa(DefaultReceiveLock), Help: "for how many seconds an event is its receiver's, unless it is answered or renewed", Example: "120"},
	},
}

// ReceiveLock is for how long an event is its receiver's, of a destination of type Pull.
func (d *Destination) ReceiveLock() time.Duration {
	return time.Duration(d.Target.Values.Int(receiveLock, DefaultReceiveLock)) * time.Second
}

// ReceiveRoot begins the paths of sources that are named by their whole id.
const ReceiveRoot = "/receive"

// ReceiveAddress is where the events of a source are received: as those of a topic, below
// a path of the server. No two custom topics or domains have one name, so those need no
// path.
func ReceiveAddress(source ID) (path, topic string) {
	switch {
	case source.IsType(TypeTopic), source.IsType(TypeDomain):
		return "", source.Name()
	case source.IsType(TypeDomainTopic):
		return "/domains/" + source.Parent().Name(), source.Name()
	default:
		return ReceiveRoot + source.String(), source.Name()
	}
}

// ReceivedAt is the way back for a source that is named by its whole id, false where path
// and topic name none.
func ReceivedAt(path, topic string) (source ID, ok bool) {
	rest, ok := cutPrefixFold(path, ReceiveRoot)
	if !ok || !strings.HasPrefix(rest, "/") {
		return ID{}, false
	}
	id, err := ParseID(rest)
	if err != nil || !id.IsType(TypeWorkspace) && !id.IsType(TypeSystemTopic) || !strings.EqualFold(id.Name(), topic) {
		return ID{}, false
	}
	return id, true
}

func cutPrefixFold(s, prefix string) (rest string, found bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}
