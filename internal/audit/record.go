package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// Event is what a record tells of.
type Event string

// The events of the audit log.
const (
	Change       Event = "change"       // of one stored record; about to be made
	ChangeFailed Event = "changeFailed" // the change of record Of was not made, or perhaps not
	SecretRead   Event = "secretRead"   // a secret is about to be shown
	Denied       Event = "denied"       // somebody known was refused
	TokenIssued  Event = "tokenIssued"  // a token was made, by the token endpoint or from the data directory
	Removed      Event = "removed"      // the records up to Of are removed, for the log is full
)

// Events are all of them.
var Events = []Event{Change, ChangeFailed, SecretRead, Denied, TokenIssued, Removed}

// Record is one entry of the audit log.
type Record struct {
	Number    uint64    `json:"number"` // 1 for the first; without gaps
	Time      time.Time `json:"time"`   // UTC, milliseconds
	Event     Event     `json:"event"`
	Operation string    `json:"operation,omitempty"` // create, update, delete; of other events what was shown or given
	Resource  string    `json:"resource"`            // full id
	Action    string    `json:"action,omitempty"`    // the action that the request was authorized for, or refused
	Principal Principal `json:"principal"`
	Request   Request   `json:"request,omitzero"`
	Changes   []Field   `json:"changes,omitempty"`
	Of        uint64    `json:"of,omitempty"`
	LeftOut   int       `json:"leftOut,omitempty"` // refusals since the last record that have none
	Error     string    `json:"error,omitempty"`
	Token     *Token    `json:"token,omitempty"`
	Previous  string    `json:"previous"` // hash of the record before, "" in the first
}

// Principal is who did it. One without an object id is the server itself.
type Principal struct {
	ObjectID string `json:"objectId,omitempty"`
	Type     string `json:"type,omitempty"`
	Name     string `json:"name,omitempty"`
	AppID    string `json:"appId,omitempty"`
	TokenID  string `json:"tokenId,omitempty"` // of the token that the request came with
}

// Request is the request that a record is of.
type Request struct {
	ID              string `json:"id,omitempty"`
	CorrelationID   string `json:"correlationId,omitempty"`
	ClientRequestID string `json:"clientRequestId,omitempty"`
	Remote          string `json:"remote,omitempty"`
	UserAgent       string `json:"userAgent,omitempty"`
}

// Token is a token that was given out. The token itself is nowhere.
type Token struct {
	ID       string    `json:"id"`
	ObjectID string    `json:"objectId"` // of its owner
	Audience string    `json:"audience"`
	Issued   time.Time `json:"issued"`
	Expires  time.Time `json:"expires"`
	User     string    `json:"user,omitempty"` // of the machine, who made it from the data directory
}

// Field is a member that a change touches. Before is absent in a new record, After
// in one that goes.
type Field struct {
	Path   string          `json:"field"`
	Before json.RawMessage `json:"before,omitempty"`
	After  json.RawMessage `json:"after,omitempty"`
}

// hashOf is what the next record holds of one that is stored as raw.
func hashOf(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// Report is what the verification of a chain found.
type Report struct {
	Records   uint64 `json:"records"`
	First     uint64 `json:"first"` // number of the oldest record
	Last      uint64 `json:"last"`
	Head      string `json:"head"`                // number and hash of the newest record, "12:ab…"
	RemovedTo uint64 `json:"removedTo,omitempty"` // the records up to it were removed for the size of the log
	Problem   string `json:"problem,omitempty"`   // the first one; "" for none

	previous string
	known    uint64 // number of a record whose hash is known
	want     string // that hash
	found    string // what it has here
}

// NewReport begins the verification of a chain. known is the number of a record whose
// hash is known from earlier, 0 for none.
func NewReport(known uint64, hash string) *Report { return &Report{known: known, want: hash} }

// Add takes the next record, as it is stored, oldest first.
func (r *Report) Add(raw []byte) {
	var rec Record
	if err := json.Unmarshal(raw, &rec); err != nil {
		r.problem("the record behind number %d cannot be read: %v", r.Last, err)
		return
	}
	switch {
	case r.Records == 0:
		r.First = rec.Number
		if rec.Number == 1 && rec.Previous != "" {
			r.problem("record 1 follows another one, which is missing")
		}
	case rec.Number != r.Last+1:
		r.problem("records %d to %d are missing", r.Last+1, rec.Number-1)
	case rec.Previous != r.previous:
		r.problem("record %d was altered, or the record behind it was: its hash is %s and record %d holds %s", r.Last, r.previous, rec.Number, rec.Previous)
	}
	if rec.Event == Removed {
		r.RemovedTo = max(r.RemovedTo, rec.Of)
	}
	r.Records++
	r.Last, r.previous = rec.Number, hashOf(raw)
	r.Head = fmt.Sprintf("%d:%s", r.Last, r.previous)
	if rec.Number == r.known {
		r.found = r.previous
	}
}

// End says that there are no more records.
func (r *Report) End() {
	if r.Records > 0 && r.First > 1 && r.RemovedTo+1 < r.First {
		r.problem("records %d to %d are missing: no record tells of their removal", r.RemovedTo+1, r.First-1)
	}
	switch {
	case r.known <= r.RemovedTo:
	case r.found == "":
		r.problem("record %d is missing, though its hash is known", r.known)
	case r.found != r.want:
		r.problem("record %d has the hash %s and had %s: the chain was built anew", r.known, r.found, r.want)
	}
}

func (r *Report) problem(format string, args ...any) {
	if r.Problem == "" {
		r.Problem = fmt.Sprintf(format, args...)
	}
}
