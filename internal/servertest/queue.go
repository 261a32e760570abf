package servertest

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
)

// queueName is the name of a Queue.
const queueName = "ml-events"

// Queue stands for a storage account with one queue, ml-events. The messages that it
// took outlive Down.
type Queue struct {
	*Fickle
	Taken atomic.Int64 // messages
	// Seen is given the event of each message; nil remembers them for Events. It must be
	// set before the first message.
	Seen func(event []byte)

	t      testing.TB
	mu     sync.Mutex
	events [][]byte
}

// NewQueue starts a Queue.
func NewQueue(t testing.TB) *Queue {
	q := &Queue{t: t}
	q.Fickle = NewFickle(t, q)
	return q
}

// Connection is the connection string of the account.
func (q *Queue) Connection() string {
	return "AccountName=acct;AccountKey=" + base64.StdEncoding.EncodeToString([]byte("a key of nobody")) + ";QueueEndpoint=" + q.URL() + ";"
}

// Connect makes the connection of the account on a server.
func (q *Queue) Connect(s *Server) {
	q.t.Helper()
	s.Connect("queue", q.account(), q.Connection())
}

func (q *Queue) account() string {
	return Group + "/providers/Microsoft.Storage/storageAccounts/acct"
}

// Destination is the queue as an event subscription names it.
func (q *Queue) Destination() map[string]any {
	return map[string]any{"endpointType": "StorageQueue", "properties": map[string]any{"resourceId": q.account(), "queueName": queueName}}
}

// ServeHTTP answers as the queue service does to what is well. Source: spec/handlers.md
// section 8.
func (q *Queue) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method + " " + r.URL.Path {
	case "GET /" + queueName:
		return
	case "POST /" + queueName + "/messages":
	default:
		w.Header().Set("x-ms-error-code", "QueueNotFound")
		w.WriteHeader(http.StatusNotFound)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	_, after, _ := bytes.Cut(body, []byte("<MessageText>"))
	text, _, whole := bytes.Cut(after, []byte("</MessageText>"))
	event := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(event, text)
	if !whole || err != nil {
		w.Header().Set("x-ms-error-code", "InvalidXmlDocument")
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if q.Seen != nil {
		q.Seen(event[:n])
	} else {
		q.mu.Lock()
		q.events = append(q.events, event[:n])
		q.mu.Unlock()
	}
	q.Taken.Add(1)
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(http.StatusCreated)
	fmt.Fprint(w, `<?xml version="1.0" encoding="utf-8"?><QueueMessagesList/>`)
}

// Events returns the event of each message so far.
func (q *Queue) Events() [][]byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	return append([][]byte(nil), q.events...)
}
