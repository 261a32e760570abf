package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// Table is where records are kept. *engine.Table satisfies it.
type Table interface {
	Put(ctx context.Context, key string, value []byte) error
	Since(ctx context.Context, prefix string, after uint64) iter.Seq2[engine.TableEntry, error]
	Last(ctx context.Context) (uint64, error)
	Purge(ctx context.Context, below uint64) error
	Bytes() int64
}

const (
	// Quota is what the audit log takes of the disk before its oldest tenth goes:
	// some 200,000 changes.
	Quota = 256 << 20

	checkEvery  = 256 // records between two looks at the size
	maxRefusals = 60  // of one minute that have a record of their own
)

// Log is the audit log. Its methods may be called on nil, which keeps nothing. It is
// safe for concurrent use; its lock is a leaf but for those of the table.
type Log struct {
	table  Table
	tokens string // directory in which tokens that were made from the data directory are told of
	log    *slog.Logger
	quota  int64

	mu       sync.Mutex
	last     uint64 // number of the newest record
	hash     string // of it
	minute   time.Time
	refusals int // in that minute
	leftOut  int
}

// Open reads where the log stands. data is the data directory, in which [NoteToken]
// leaves word of tokens.
func Open(ctx context.Context, table Table, data string, log *slog.Logger) (*Log, error) {
	l := &Log{table: table, tokens: tokensPath(data), log: log, quota: Quota}
	newest, err := table.Last(ctx)
	if err != nil {
		return nil, fmt.Errorf("open the audit log: %w", err)
	}
	// The newest record has the last sequence, unless a disk took it: then all are read.
	for _, after := range []uint64{max(newest, 1) - 1, 0} {
		for r, err := range l.Records(ctx, after) {
			if err != nil {
				return nil, fmt.Errorf("open the audit log: %w", err)
			}
			l.last, l.hash = r.Number, hashOf(r.Raw)
		}
		if l.last > 0 {
			break
		}
	}
	return l, nil
}

// Stored is a record as it is stored. Its hash is that of Raw.
type Stored struct {
	Record
	Raw   json.RawMessage
	Hash  string
	Place uint64 // in the order of storing; [Log.Records] goes on behind it
}

// Records yields the records that were stored behind a place, oldest first.
func (l *Log) Records(ctx context.Context, after uint64) iter.Seq2[Stored, error] {
	return func(yield func(Stored, error) bool) {
		if l == nil {
			return
		}
		// A record whose storing was given up may be there twice: the later one counts.
		var held *Stored
		for e, err := range l.table.Since(ctx, "", after) {
			if err != nil {
				yield(Stored{}, fmt.Errorf("read the audit log: %w", err))
				return
			}
			s := Stored{Raw: e.Value, Hash: hashOf(e.Value), Place: e.Seq}
			if err := json.Unmarshal(e.Value, &s.Record); err != nil {
				yield(Stored{}, fmt.Errorf("read record %s of the audit log: %w", e.Key, err))
				return
			}
			if held != nil && held.Number != s.Number && !yield(*held, nil) {
				return
			}
			held = &s
		}
		if held != nil {
			yield(*held, nil)
		}
	}
}

// Witness stores the record of a change that is about to be made. The change must
// not be made when it returns an error; settle is told what came of the change.
func (l *Log) Witness(ctx context.Context, c resource.Change) (settle func(error), err error) {
	if l == nil {
		return func(error) {}, nil
	}
	r := l.begin(ctx, Change, idOf(c))
	r.Operation = c.Verb()
	if r.Changes, err = fieldsOf(c.Before, c.After); err != nil {
		return nil, err
	}
	number, err := l.append(ctx, r)
	if err != nil {
		return nil, refusal("The change was not made", err)
	}
	return func(failure error) {
		if failure == nil {
			return
		}
		failed := l.begin(ctx, ChangeFailed, r.Resource)
		failed.Operation, failed.Of, failed.Error = r.Operation, number, secret.Redact(failure.Error())
		if _, err := l.append(context.WithoutCancel(ctx), failed); err != nil {
			l.log.LogAttrs(ctx, slog.LevelError, "audit record not stored", slog.Uint64("of", number),
				slog.String(telemetry.Resource, r.Resource), slog.String(telemetry.Error, err.Error()))
		}
	}, nil
}

// Acted stores that something is about to be changed that is not in the store, such as a
// key in the data directory. It must not be changed when that fails.
func (l *Log) Acted(ctx context.Context, id resource.ID, operation string, changes ...Field) error {
	if l == nil {
		return nil
	}
	r := l.begin(ctx, Change, id.String())
	r.Operation, r.Changes = operation, changes
	if _, err := l.append(ctx, r); err != nil {
		return refusal("The change was not made", err)
	}
	return nil
}

// SecretRead stores that a secret is about to be shown. It must not be shown when that
// fails.
func (l *Log) SecretRead(ctx context.Context, id resource.ID, what string) error {
	if l == nil {
		return nil
	}
	r := l.begin(ctx, SecretRead, id.String())
	r.Operation = what
	if _, err := l.append(ctx, r); err != nil {
		return refusal("The secret is not shown", err)
	}
	return nil
}

// TokenIssued stores that a token is about to be given out. It must not be given out
// when that fails.
func (l *Log) TokenIssued(ctx context.Context, t Token) error {
	if l == nil {
		return nil
	}
	r := l.begin(ctx, TokenIssued, principalID(t.ObjectID))
	r.Operation, r.Token = "sign in", &t
	if _, err := l.append(ctx, r); err != nil {
		return refusal("No token is given out", err)
	}
	return nil
}

// Refused stores that a request was refused with a fault of kind Forbidden. Refusals
// of one minute beyond the first 60 are counted only: whoever may nothing must not
// push the records of changes out of the log.
func (l *Log) Refused(ctx context.Context, refused error) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	if now := time.Now(); now.Sub(l.minute) >= time.Minute {
		l.minute, l.refusals = now, 0
	}
	l.refusals++
	if l.refusals > maxRefusals {
		l.leftOut++
		l.mu.Unlock()
		return nil
	}
	left := l.leftOut
	l.leftOut = 0
	l.mu.Unlock()
	r := l.begin(ctx, Denied, telemetry.RecordOf(ctx).Value(telemetry.Resource))
	r.LeftOut, r.Error = left, secret.Redact(refused.Error())
	_, err := l.append(context.WithoutCancel(ctx), r)
	return err
}

// begin makes a record of what the request of ctx is known to be.
func (l *Log) begin(ctx context.Context, e Event, id string) Record {
	rec := telemetry.RecordOf(ctx)
	return Record{
		Event: e, Resource: id, Action: rec.Value(telemetry.Action),
		Principal: Principal(rec.Principal()), Request: Request(rec.Request()),
	}
}

// append stores a record behind the newest one and returns its number.
func (l *Log) append(ctx context.Context, r Record) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.store(ctx, &r); err != nil {
		return 0, err
	}
	if l.last%checkEvery == 0 {
		if err := l.shrink(ctx); err != nil { // the record is stored all the same
			l.log.LogAttrs(ctx, slog.LevelWarn, "audit log not shrunk", slog.String(telemetry.Error, err.Error()))
		}
	}
	return r.Number, nil
}

// store needs mu. A record that was not acknowledged is replaced by the next one, which
// has its number.
func (l *Log) store(ctx context.Context, r *Record) error {
	r.Number, r.Time, r.Previous = l.last+1, time.Now().UTC().Truncate(time.Millisecond), l.hash
	raw, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode an audit record: %w", err)
	}
	if err := l.table.Put(ctx, fmt.Sprintf("%020d", r.Number), raw); err != nil {
		return fmt.Errorf("store an audit record: %w", err)
	}
	l.last, l.hash = r.Number, hashOf(raw)
	return nil
}

// shrink removes the oldest tenth of a log that is over its size, after a record of
// that. It needs mu.
func (l *Log) shrink(ctx context.Context) error {
	if l.table.Bytes() <= l.quota {
		return nil
	}
	newest, err := l.table.Last(ctx)
	if err != nil {
		return err
	}
	var below, oldest, through uint64
	for r, err := range l.Records(ctx, 0) {
		if err != nil {
			return err
		}
		if oldest == 0 {
			oldest = r.Place
			below = oldest + (newest-oldest)/10
		}
		if r.Place >= below {
			break
		}
		through = r.Number
	}
	if through == 0 {
		return nil
	}
	told := Record{Event: Removed, Resource: "/", Of: through}
	if err := l.store(ctx, &told); err != nil {
		return err
	}
	return l.table.Purge(ctx, below)
}

// refusal is the fault of what is not done because it could not be recorded.
func refusal(what string, err error) error {
	return fault.New(fault.Unavailable, "AuditUnavailable", "%s: its record in the audit log could not be stored. Try again.", what).
		After(5 * time.Second).Because(err)
}

// idOf returns the resource id of what is changed.
func idOf(c resource.Change) string {
	raw := c.After
	if raw == nil {
		raw = c.Before
	}
	var named struct {
		ID any `json:"id"`
	}
	_ = json.Unmarshal(raw, &named) // without an id, the key tells
	id, _ := named.ID.(string)
	switch {
	case strings.HasPrefix(id, "/"):
		return id
	case c.Kind == "principal":
		return principalID(c.Key)
	case c.Kind == "session":
		objectID, _, _ := strings.Cut(c.Key, "/")
		return principalID(objectID)
	case c.Kind == "roleDefinition":
		return "/providers/Microsoft.Authorization/roleDefinitions/" + c.Key
	case strings.Contains(c.Key, "/"):
		return "/" + c.Key
	}
	return "/"
}

func principalID(objectID string) string {
	return resource.Root.Extension("Carillon.Identity", "principals", objectID).String()
}

// tokensPath is the directory in which a token that is made from the data directory
// is told of, one file each, until the server has a record of it.
func tokensPath(data string) string { return filepath.Join(data, "tokens") }

// NoteToken leaves word of a token in a data directory. The server stores it as a
// record when it looks, at its start if it does not run now. The token must not be
// given out when it fails.
func NoteToken(data string, t Token) error {
	dir := tokensPath(data)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("note the token for the audit log: %w", err)
	}
	text, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("note the token for the audit log: %w", err)
	}
	tmp, err := os.CreateTemp(dir, ".new-*") // CreateTemp makes it 0600
	if err != nil {
		return fmt.Errorf("note the token for the audit log: %w", err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // gone already when it was renamed
	_, err = tmp.Write(text)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), filepath.Join(dir, t.ID+".json"))
	}
	if err != nil {
		return fmt.Errorf("note the token for the audit log: %w", err)
	}
	return nil
}

// lookEvery is how often word of tokens is looked for.
const lookEvery = 2 * time.Second

// Run stores records of tokens that were made from the data directory, until ctx ends.
func (l *Log) Run(ctx context.Context) error {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	warned := false
	for {
		err := l.takeTokens(ctx)
		if err != nil && ctx.Err() == nil && !warned {
			l.log.LogAttrs(ctx, slog.LevelError, "tokens made from the data directory not recorded", slog.String(telemetry.Error, err.Error()))
		}
		warned = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// takeTokens turns what NoteToken left into records. A stop in between makes a second
// record of the same token.
func (l *Log) takeTokens(ctx context.Context) error {
	entries, err := os.ReadDir(l.tokens)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var problems []error
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".json") {
			continue
		}
		path := filepath.Join(l.tokens, entry.Name())
		text, err := os.ReadFile(path)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		var t Token
		if err := json.Unmarshal(text, &t); err != nil || t.ID == "" {
			problems = append(problems, fmt.Errorf("%s is not word of a token: remove it", path))
			continue
		}
		r := Record{Event: TokenIssued, Operation: "sign from the data directory", Resource: principalID(t.ObjectID), Token: &t, Principal: Principal{ObjectID: t.ObjectID}}
		if _, err := l.append(ctx, r); err != nil {
			return err
		}
		if err := os.Remove(path); err != nil {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}
