package access

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

const (
	// SessionLifetime is how long a session lives that nobody uses.
	// Source: spec/access.md section 14.2.
	SessionLifetime = 14 * 24 * time.Hour

	// reuseGrace is how long a refresh token is taken again after its first use: processes
	// share a client's cache, or the answer to the first was lost. maxRefreshes bounds how
	// often.
	reuseGrace = time.Minute

	maxSessions  = 50 // of one user; the oldest goes
	maxRefreshes = 8  // refresh tokens that a session remembers
)

// Session is a sign-in of a user at a client that goes on by refresh tokens. Each is
// used once and replaced; one that is used again later was stolen, by whoever came
// first, and ends the session.
type Session struct {
	ID       string         `json:"id"`
	ObjectID string         `json:"objectId"`
	ClientID string         `json:"clientId"`
	Created  time.Time      `json:"created"` // not before the principal's ValidFrom
	Expires  time.Time      `json:"expires"`
	Tokens   []RefreshToken `json:"tokens"` // oldest first
}

// RefreshToken is what is kept of a refresh token.
type RefreshToken struct {
	Hash []byte    `json:"hash"` // SHA-256; the token is random and long
	Used time.Time `json:"used,omitzero"`
}

func (s *Session) key() string { return s.ObjectID + "/" + s.ID }

// add makes a refresh token of the session. Its text names the session, so that one that
// the session has forgotten still ends it.
func (s *Session) add() secret.String {
	text := s.ObjectID + "." + s.ID + "." + rand.Text() + rand.Text()
	sum := sha256.Sum256([]byte(text))
	s.Tokens = append(slices.Clone(s.Tokens), RefreshToken{Hash: sum[:]})
	if over := len(s.Tokens) - maxRefreshes; over > 0 {
		s.Tokens = s.Tokens[over:]
	}
	return secret.String(text)
}

// StartSession begins a session of a user at a client and returns its first refresh
// token.
func (d *Directory) StartSession(ctx context.Context, p Principal, client string) (secret.String, error) {
	d.sessionChanges.Lock()
	defer d.sessionChanges.Unlock()
	old := d.sessions.List(p.ObjectID + "/")
	slices.SortFunc(old, func(a, b resource.Item[Session]) int { return a.Value.Expires.Compare(b.Value.Expires) })
	for i, item := range old {
		if len(old)-i >= maxSessions || !d.sessionHolds(item.Value, p) {
			if err := d.sessions.Delete(ctx, item.Key, 0); err != nil {
				return "", fmt.Errorf("end a session: %w", err)
			}
		}
	}
	now := time.Now().UTC()
	s := Session{ID: strings.ReplaceAll(uuid.NewString(), "-", ""), ObjectID: p.ObjectID, ClientID: client, Created: now, Expires: now.Add(SessionLifetime)}
	if s.Created.Before(p.ValidFrom) {
		s.Created = p.ValidFrom
	}
	token := s.add()
	if _, err := d.sessions.Create(ctx, s.key(), s); err != nil {
		return "", fmt.Errorf("start a session: %w", err)
	}
	return token, nil
}

func (d *Directory) sessionHolds(s Session, p Principal) bool {
	return p.Enabled && !s.Created.Before(p.ValidFrom) && time.Now().Before(s.Expires)
}

// RefreshOwner returns whose refresh token it is, if it is one that a session knows.
func (d *Directory) RefreshOwner(token secret.String) (Principal, bool) {
	objectID, rest, _ := strings.Cut(token.Reveal(), ".")
	id, _, _ := strings.Cut(rest, ".")
	item, ok := d.sessions.Get(objectID + "/" + id)
	if !ok || item.Value.find(token) < 0 {
		return Principal{}, false
	}
	return d.Principal(item.Value.ObjectID)
}

// find returns the place of a refresh token in the session, -1 for none.
func (s *Session) find(token secret.String) int {
	sum := sha256.Sum256([]byte(token.Reveal()))
	return slices.IndexFunc(s.Tokens, func(t RefreshToken) bool { return subtle.ConstantTimeCompare(t.Hash, sum[:]) == 1 })
}

// Refresh uses a refresh token at the client that it was given to, and returns whose it
// is and the one that takes its place. A fault of kind Unauthenticated says that it
// holds no longer.
func (d *Directory) Refresh(ctx context.Context, token secret.String, client string) (Principal, secret.String, error) {
	refused := func(why string) (Principal, secret.String, error) {
		return Principal{}, "", fault.New(fault.Unauthenticated, "InvalidRefreshToken", "The refresh token has expired, was used or was revoked.").Because(fmt.Errorf("refresh token: %s", why))
	}
	parts := strings.Split(token.Reveal(), ".")
	if len(parts) != 3 {
		return refused("not one of this server")
	}
	d.sessionChanges.Lock()
	defer d.sessionChanges.Unlock()
	item, ok := d.sessions.Get(parts[0] + "/" + parts[1])
	if !ok {
		return refused("no such session")
	}
	s := item.Value
	p, ok := d.Principal(s.ObjectID)
	switch {
	case !strings.EqualFold(s.ClientID, client): // a client that guesses must not end it
		return refused("of another client")
	case !ok || !d.sessionHolds(s, p):
		_ = d.sessions.Delete(ctx, item.Key, 0) // it holds no longer in any case
		return refused("the session has ended")
	}
	at := s.find(token)
	now := time.Now().UTC()
	if at < 0 || !s.Tokens[at].Used.IsZero() && now.Sub(s.Tokens[at].Used) > reuseGrace {
		if err := d.sessions.Delete(context.WithoutCancel(ctx), item.Key, 0); err != nil {
			return Principal{}, "", fmt.Errorf("end a session whose refresh token was used twice: %w", err)
		}
		return refused("used a second time; the session was ended")
	}
	s.Tokens = slices.Clone(s.Tokens)
	if s.Tokens[at].Used.IsZero() {
		s.Tokens[at].Used = now
	}
	s.Expires = now.Add(SessionLifetime)
	next := s.add()
	if _, err := d.sessions.Update(ctx, item.Key, s, item.Revision); err != nil {
		return Principal{}, "", fmt.Errorf("use a refresh token: %w", err)
	}
	return p, next, nil
}

// Sessions returns the sessions of a user that hold.
func (d *Directory) Sessions(objectID string) []Session {
	p, ok := d.Principal(objectID)
	var list []Session
	for _, item := range d.sessions.List(strings.ToLower(objectID) + "/") {
		if ok && d.sessionHolds(item.Value, p) {
			list = append(list, item.Value)
		}
	}
	return list
}

// EndSessions removes the sessions that hold no longer: those of a principal that was
// disabled, reset or deleted, and those that nobody used.
func (d *Directory) EndSessions(ctx context.Context) error {
	d.sessionChanges.Lock()
	defer d.sessionChanges.Unlock()
	for _, item := range d.sessions.List("") {
		if p, ok := d.Principal(item.Value.ObjectID); ok && d.sessionHolds(item.Value, p) {
			continue
		}
		if err := d.sessions.Delete(ctx, item.Key, 0); err != nil {
			return fmt.Errorf("end a session: %w", err)
		}
	}
	return nil
}
