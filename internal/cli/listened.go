package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/carillon-events/carillon/internal/egress"
	"github.com/carillon-events/carillon/internal/fault"
)

// listened is the event subscription that leads to a listener: made by it, or joined. One
// that a listener made has an end, which those who listen put off, so that nothing stays of
// a listener that was killed.
type listened struct {
	*app
	session
	path       string // of it
	name       string
	properties map[string]any
	chosen     bool // the user chose filter or schema, which cannot hold for one that is there
	keep       bool // it is to stay
	fits       func(es json.RawMessage) bool
	alone      bool // only one listener can have what fits

	es   json.RawMessage // nil where the answer did not come
	made bool            // by this listener

	renewing sync.Mutex // over what follows begin
	ends     time.Time  // zero = it has no end that this listener puts off
}

// The label of what a listener made, with a digest of what the user chose, and its lease.
const (
	listenLabel = "carillon-listen-"
	listenLease = 2 * time.Hour    // from one renewal to the end
	listenRenew = 30 * time.Minute // of the lease, after which it is renewed
	listenLook  = time.Minute
)

// session asks a server as long as a command runs: a token that has run out is got anew.
type session struct {
	mu     sync.Mutex
	server *remote
}

func (s *session) try(a *app, ask func(*remote) error) error {
	s.mu.Lock()
	server := s.server
	s.mu.Unlock()
	err := ask(server)
	if !fault.Is(err, fault.Unauthenticated) {
		return err
	}
	anew, connecting := a.connect()
	if connecting != nil || anew.Token == server.Token {
		return err
	}
	s.mu.Lock()
	s.server = anew
	s.mu.Unlock()
	return ask(anew)
}

func (l *listened) ask(ctx context.Context, method string, body any, header http.Header) (es json.RawMessage, err error) {
	err = l.try(l.app, func(s *remote) (err error) {
		es, err = s.ask(ctx, method, l.path, body, header)
		return err
	})
	return es, err
}

// begin makes the event subscription, takes over one that a killed listener left, or joins
// one that is there, as it is, if it fits. It replaces none of anybody else.
func (l *listened) begin(ctx context.Context) (err error) {
	if l.server, err = l.connect(); err != nil {
		return err
	}
	es, err := l.ask(ctx, http.MethodGet, nil, nil)
	switch {
	case fault.Is(err, fault.NotFound):
		err = l.put(ctx, create())
		if !metAnother(err) {
			return err
		}
		if es, err = l.ask(ctx, http.MethodGet, nil, nil); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	mark := l.mark()
	label := madeByListener(es)
	if label != "" && l.alone && (l.fits(es) || deserted(ctx, text(es, "properties.destination.properties.endpointBaseUrl"))) {
		if err := l.put(ctx, ifMatch(text(es, "etag"))); err != nil {
			return err
		}
		fmt.Fprintf(l.stderr, "event subscription %s was left by a listener that is gone: it is taken over\n", l.name)
		return nil
	}
	remedy := "Take another name with --subscribe, or remove it with carillon event-subscription delete."
	if label != "" {
		remedy = "A carillon listen made it, and it goes by itself when none has run for " + hours(listenLease) + ". " + remedy
	}
	switch {
	case !l.fits(es):
		return fault.New(fault.Conflict, "", "The event subscription %s is there already, and sends its events elsewhere. %s", l.name, remedy)
	case l.chosen && label != mark:
		return fault.New(fault.Conflict, "", "The event subscription %s is there already, with a filter of its own: it can be joined without the flags that choose one, or a schema. %s", l.name, remedy)
	}
	l.es = es
	if label == "" {
		fmt.Fprintf(l.stderr, "event subscription %s is there already: it is joined as it is, and stays\n", l.name)
		return nil
	}
	fmt.Fprintf(l.stderr, "event subscription %s of another carillon listen, perhaps one that was killed, is joined: it goes by itself when none has run for %s\n", l.name, hours(listenLease))
	return l.renew(ctx)
}

// put makes the event subscription, or replaces the one of an etag. It counts as made where
// ctx ends before the answer.
func (l *listened) put(ctx context.Context, header http.Header) error {
	var ends time.Time
	if !l.keep {
		ends = leaseEnd()
		l.properties["labels"], l.properties["expirationTimeUtc"] = []string{l.mark()}, ends.Format(time.RFC3339)
	}
	es, err := l.ask(ctx, http.MethodPut, enveloped(l.properties), header)
	if err == nil || ctx.Err() != nil {
		l.es, l.made, l.ends = es, true, ends
	}
	return err
}

// mark is the label of what this listener makes.
func (l *listened) mark() string {
	raw, _ := encodeJSON([]any{l.properties["filter"], l.properties["eventDeliverySchema"]})
	sum := sha256.Sum256(raw)
	return listenLabel + hex.EncodeToString(sum[:4])
}

// madeByListener is the label of an event subscription that a listener made, else "".
func madeByListener(es json.RawMessage) string {
	var body struct{ Properties struct{ Labels []string } }
	_ = json.Unmarshal(es, &body)
	i := slices.IndexFunc(body.Properties.Labels, func(label string) bool { return strings.HasPrefix(label, listenLabel) })
	if i < 0 {
		return ""
	}
	return body.Properties.Labels[i]
}

// deserted reports whether nobody listens at the address of a former listener of this
// machine.
func deserted(ctx context.Context, endpoint string) bool {
	u, err := url.Parse(endpoint)
	if err != nil {
		return false
	}
	if ip := net.ParseIP(u.Hostname()); ip == nil || !ip.IsLoopback() || u.Port() == "" {
		return false
	}
	c, err := egress.New(egress.Options{AllowLoopback: true}).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return errors.Is(err, syscall.ECONNREFUSED)
	}
	_ = c.Close()
	return false
}

// leaseEnd is when a lease ends that begins now.
func leaseEnd() time.Time { return time.Now().Add(listenLease).UTC().Truncate(time.Second) }

func hours(d time.Duration) string { return strconv.Itoa(int(d.Hours())) + " hours" }

// renew puts the end off. The caller holds l.renewing, or is the only one.
func (l *listened) renew(ctx context.Context) error {
	ends := leaseEnd()
	_, err := l.ask(ctx, http.MethodPatch, enveloped(map[string]any{"expirationTimeUtc": ends.Format(time.RFC3339)}), nil)
	if err == nil {
		l.ends = ends
	}
	return err
}

// look puts the end off where it is time to. An event subscription that has come to its end
// all the same, on a machine that slept, is made anew; one that somebody deleted is not.
func (l *listened) look(ctx context.Context) error {
	l.renewing.Lock()
	defer l.renewing.Unlock()
	left := l.ends.Sub(time.Now().Round(0)) // by the clock of the wall: a machine that sleeps stops the other
	if l.ends.IsZero() || left > listenLease-listenRenew {
		return nil
	}
	err := l.renew(ctx)
	if left <= 0 && fault.Is(err, fault.NotFound) {
		if err = l.put(ctx, create()); err == nil {
			fmt.Fprintf(l.stderr, "event subscription %s had come to its end: it is made anew\n", l.name)
		}
	}
	return err
}

// hold puts the end off until ctx ends, or the server does not allow it any more: whoever
// takes the events hears of that.
func (l *listened) hold(ctx context.Context) {
	again := time.NewTicker(listenLook)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
		if err := l.look(ctx); err != nil && !passing(err) {
			return
		}
	}
}

// there reports whether the event subscription is there, after what was to do for that.
func (l *listened) there(ctx context.Context) bool {
	if l.look(ctx) != nil {
		return false
	}
	_, err := l.ask(ctx, http.MethodGet, nil, nil)
	return err == nil
}

// leave removes an event subscription that was made, unless it leads elsewhere or is another
// one by now. That it is still there is said; whoever made it ends all the same.
func (l *listened) leave(ctx context.Context) {
	l.renewing.Lock() // what was under way has ended with its context
	defer l.renewing.Unlock()
	if !l.made || l.keep {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	there, err := l.ask(ctx, http.MethodGet, nil, nil)
	if err == nil && !l.fits(there) {
		fmt.Fprintf(l.stderr, "event subscription %s leads elsewhere by now: it stays\n", l.name)
		return
	}
	const created = "systemData.createdAt"
	if err == nil && l.es != nil && text(l.es, created) != text(there, created) {
		fmt.Fprintf(l.stderr, "event subscription %s was deleted, and made by another: it stays\n", l.name)
		return
	}
	if err == nil {
		_, err = l.ask(ctx, http.MethodDelete, nil, ifMatch(text(there, "etag")))
	}
	switch {
	case err == nil:
		fmt.Fprintf(l.stderr, "event subscription %s: deleted\n", l.name)
	case !fault.Is(err, fault.NotFound):
		fmt.Fprintf(l.stderr, "event subscription %s could not be deleted: %s\nRemove it with carillon event-subscription delete; else it goes by itself in %s.\n", l.name, oneLine(err.Error()), hours(listenLease))
	}
}
