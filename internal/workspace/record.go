package workspace

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// Head is what every object has.
type Head struct {
	Name     string         `json:"name"` // as spelled at creation
	Created  resource.Stamp `json:"created"`
	Modified resource.Stamp `json:"modified"`
	ETag     string         `json:"-"` // of the newest fact, without quotes
	Told     *Told          `json:"-"` // the last thing that came to pass with it; beside the state in the store
}

func (h *Head) head() *Head { return h }

// stamp sets who changed the object, and made it if it is new.
func (h *Head) stamp(by resource.Stamp, now time.Time, isNew bool) {
	by.At = now.UTC()
	if h.Modified = by; isNew {
		h.Created = by
	}
}

// object is one of the stored types.
type object interface{ head() *Head }

// stored is the form of a fact, version 1.
type stored struct {
	Version int    `json:"v"`
	Told    *Told  `json:"told,omitempty"`
	State   object `json:"state"`
}

const storedVersion = 1

// read reads the newest state of an object into it, false for none.
func (s *Service) read(ctx context.Context, key string, into object) (bool, error) {
	fact, found, err := s.facts.Fact(ctx, key)
	if err != nil {
		return false, fmt.Errorf("read fact %s: %w", key, err)
	}
	if !found || len(fact.Data) == 0 {
		return false, nil
	}
	return true, decode(fact, into)
}

// decode reads the state of an object from its fact.
func decode(fact engine.Fact, into object) error {
	envelope := stored{State: into}
	if err := json.Unmarshal(fact.Data, &envelope); err != nil {
		return fmt.Errorf("decode fact %s: %w", fact.Key, err)
	}
	if envelope.Version != storedVersion {
		return fmt.Errorf("fact %s has version %d, and this version of Carillon knows %d", fact.Key, envelope.Version, storedVersion)
	}
	into.head().ETag, into.head().Told = fact.ETag(), envelope.Told
	return nil
}

// mustRead is read for an object that the caller named: none is NotFound.
func (s *Service) mustRead(ctx context.Context, key, what string, into object) error {
	found, err := s.read(ctx, key, into)
	if err == nil && !found {
		err = missing(what)
	}
	return err
}

func missing(what string) error {
	return fault.New(fault.NotFound, "ResourceNotFound", "%s was not found.", what)
}

// same reports whether two states differ in nothing but who changed them last.
func same(a, b object) bool {
	x, errX := json.Marshal(a)
	kept := *b.head()
	b.head().Modified = a.head().Modified
	y, errY := json.Marshal(b)
	*b.head() = kept
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// write is one frame in the making. Its methods are called before record, which
// reports the first thing that went wrong.
type write struct {
	records []engine.Record
	objects []object // by record; nil for events and for what is gone
	raised  int      // events
	err     error
}

// fact adds the full new state of an object and returns its place in the frame.
func (w *write) fact(key string, state object) int {
	return w.add(engine.Record{Kind: engine.KindFact, Key: key, Data: w.encode(key, state)}, state)
}

func (w *write) encode(key string, state object) []byte {
	raw, err := json.Marshal(stored{Version: storedVersion, Told: state.head().Told, State: state})
	if err != nil && w.err == nil {
		w.err = fmt.Errorf("encode fact %s: %w", key, err)
	}
	return raw
}

// gone adds that an object does not exist any more and returns its place in the frame.
func (w *write) gone(key string) int {
	return w.add(engine.Record{Kind: engine.KindFact, Key: key}, nil)
}

func (w *write) add(r engine.Record, o object) int {
	w.records = append(w.records, r)
	w.objects = append(w.objects, o)
	return len(w.records) - 1
}

// record stores the frame and gives its objects their etags. It does not end with
// ctx: a write that its caller no longer waits for may still happen, and until
// that is known nobody else may change the object.
func (s *Service) record(ctx context.Context, w *write) (engine.Receipt, error) {
	if w.err != nil {
		return engine.Receipt{}, w.err
	}
	receipt, err := s.recorder.Record(context.WithoutCancel(ctx), w.records)
	if err != nil {
		return engine.Receipt{}, fmt.Errorf("record %s: %w", w.records[0].Key, err)
	}
	for i, o := range w.objects {
		if o != nil {
			o.head().ETag = receipt.Sequencer(i)
			if told := o.head().Told; told != nil {
				told.fill(w.records[i].Holes, receipt)
			}
			advance(&s.newest, Mark(o.head().ETag))
		}
	}
	return receipt, nil
}

// trace is what a deleted object leaves behind, so that one made again under its
// name does not repeat its event ids.
type trace struct {
	own  Head  // not stored: nobody asks for a trace's etag
	Next int64 `json:"next"` // the least number that was not used

	Rollout *Rollout `json:"rollout,omitempty"` // of a service of a cluster
}

func (t *trace) head() *Head { return &t.own }

// traceKey is the key of the trace of the object with a key.
func traceKey(ws resource.UID, objectKey string) string {
	kind, rest, _ := strings.Cut(objectKey, "/")
	_, names, _ := strings.Cut(rest, "/")
	return key(kindTrace, ws, kind, names)
}

// firstNumber returns the least number that no earlier object under the key used.
func (s *Service) firstNumber(ctx context.Context, ws resource.UID, objectKey string) (int64, error) {
	var t trace
	_, err := s.read(ctx, traceKey(ws, objectKey), &t)
	return t.Next, err
}

// Page asks for a part of a list.
type Page struct {
	After string // name after which to go on, "" for the beginning
	Limit int    // most objects to return, 0 for 100
}

const defaultPage = 100

// list reads one page of the objects below prefixes, in the order of their names,
// and the name to go on after, "" at the end. No name is below two of the prefixes.
func list[T any, P interface {
	*T
	object
}](ctx context.Context, s *Service, page Page, compare func(a, b string) int, prefixes ...string) (objects []T, next string, err error) {
	var names []string
	at := map[string]string{} // keys by name
	for _, prefix := range prefixes {
		prefix += "/"
		keys, err := s.facts.FactKeys(ctx, prefix)
		if err != nil {
			return nil, "", fmt.Errorf("list facts of %s: %w", prefix, err)
		}
		for _, k := range keys {
			if name := strings.TrimPrefix(k, prefix); !strings.Contains(name, "/") {
				names = append(names, name)
				at[name] = k
			}
		}
	}
	slices.SortFunc(names, compare)
	limit := page.Limit
	if limit <= 0 {
		limit = defaultPage
	}
	last := ""
	for _, name := range names {
		if page.After != "" && compare(name, strings.ToLower(page.After)) <= 0 {
			continue
		}
		if len(objects) == limit {
			return objects, last, nil
		}
		var o T
		found, err := s.read(ctx, at[name], P(&o))
		if err != nil {
			return nil, "", err
		}
		if found { // deleted since the keys were read otherwise
			objects = append(objects, o)
			last = name
		}
	}
	return objects, "", nil
}
