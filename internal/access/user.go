package access

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"runtime"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"golang.org/x/crypto/argon2"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/secret"
)

// Password is what is kept of a user's password: people choose it, so its hash is a
// slow one. Source: spec/access.md section 14.2.
type Password struct {
	Salt    []byte    `json:"salt"`
	Hash    []byte    `json:"hash"` // argon2id
	Passes  uint32    `json:"passes"`
	Memory  uint32    `json:"memory"` // KiB
	Created time.Time `json:"created"`
}

// SignInLink is what is kept of a link by which a user sets a password, once.
type SignInLink struct {
	Hash    []byte    `json:"hash"` // SHA-256 of a random text
	Expires time.Time `json:"expires"`
}

// Cost of a password's hash: what OWASP asks of argon2id at least.
// Source: OWASP Password Storage Cheat Sheet, "Argon2id".
const (
	passwordPasses = 2
	passwordMemory = 19 << 10 // KiB
	passwordHash   = 32

	minPassword = 12 // characters
	maxPassword = 256

	// SignInLinkLifetime is how long a user has to set a password.
	SignInLinkLifetime = 24 * time.Hour
)

// hashing has a place for each hash that is computed at a time: two, so that sign-ins take
// at most 38 MiB, or one where two would take all processors from everybody else.
var hashing = make(chan struct{}, max(1, min(2, runtime.GOMAXPROCS(0)/2)))

func newPassword(ctx context.Context, plain secret.String, now time.Time) (*Password, error) {
	p := &Password{Salt: make([]byte, 16), Passes: passwordPasses, Memory: passwordMemory, Created: now}
	_, _ = rand.Read(p.Salt) // crypto/rand.Read never fails
	var err error
	p.Hash, err = p.hash(ctx, plain)
	return p, err
}

func (p *Password) hash(ctx context.Context, plain secret.String) ([]byte, error) {
	select {
	case hashing <- struct{}{}:
		defer func() { <-hashing }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return argon2.IDKey([]byte(plain.Reveal()), p.Salt, p.Passes, p.Memory, 1, passwordHash), nil
}

// nobody is the password of those who have none: looking for them takes as long.
var nobody = &Password{Salt: make([]byte, 16), Passes: passwordPasses, Memory: passwordMemory}

// checkPassword returns what is wrong with a password that somebody chose.
func checkPassword(name string, plain secret.String) error {
	text := plain.Reveal()
	switch n := utf8.RuneCountInString(text); {
	case n < minPassword:
		return fault.Field("password", "The password has %d characters; it needs at least %d.", n, minPassword)
	case len(text) > maxPassword:
		return fault.Field("password", "The password is longer than %d bytes.", maxPassword)
	case !utf8.ValidString(text):
		return fault.Field("password", "The password is not UTF-8.")
	case strings.Contains(strings.ToLower(text), strings.ToLower(name)):
		return fault.Field("password", "The password holds the name of the user.")
	}
	return nil
}

// CreateUser makes a user. Without a password it returns the only copy of the text of a
// [SignInLink].
func (d *Directory) CreateUser(ctx context.Context, name string, password secret.String, by Caller) (Principal, secret.String, error) {
	now := time.Now().UTC()
	p := Principal{
		ObjectID: uuid.NewString(), TenantID: d.TenantID(), Name: name, Type: User,
		Enabled: true, ValidFrom: now.Truncate(time.Second), Created: by.Stamp(now),
	}
	var link secret.String
	if password == "" {
		link, p.Link = newSignInLink(now)
	} else if err := checkPassword(name, password); err != nil {
		return Principal{}, "", err
	} else if p.Password, err = newPassword(ctx, password, now); err != nil {
		return Principal{}, "", fmt.Errorf("make the user %s: %w", name, err)
	}
	d.changes.Lock()
	defer d.changes.Unlock()
	if err := d.checkNewName(name); err != nil {
		return Principal{}, "", err
	}
	if _, err := d.principals.Create(ctx, p.ObjectID, p); err != nil {
		return Principal{}, "", err
	}
	return p, link, nil
}

func newSignInLink(now time.Time) (secret.String, *SignInLink) {
	plain := rand.Text() + rand.Text()
	sum := sha256.Sum256([]byte(plain))
	return secret.String(plain), &SignInLink{Hash: sum[:], Expires: now.Add(SignInLinkLifetime)}
}

// ResetPassword takes a user's password away, ends every token and refresh token, and
// returns the only copy of the text of a new [SignInLink].
func (d *Directory) ResetPassword(ctx context.Context, objectID string) (Principal, secret.String, error) {
	now := time.Now().UTC()
	link, kept := newSignInLink(now)
	p, err := d.changePrincipal(ctx, objectID, func(p *Principal) error {
		if p.Type != User {
			return fault.New(fault.Invalid, "InvalidRequest", "Principal %q is a %s; only users have a password.", p.Name, p.Type)
		}
		p.Password, p.Link = nil, kept
		p.endTokens(now)
		return nil
	})
	if err != nil {
		return Principal{}, "", err
	}
	return p, link, nil
}

// errSignInLink says no more: whoever guesses learns nothing.
func errSignInLink() error {
	return fault.New(fault.Invalid, "InvalidSignInLink", "The link is not valid: it was used or has expired. Ask for a new one.")
}

// LinkHolder returns the user whom a sign-in link is for, if it holds.
func (d *Directory) LinkHolder(objectID string, link secret.String) (Principal, bool) {
	p, ok := d.Principal(objectID)
	return p, ok && p.opens(link)
}

// opens reports whether a sign-in link of the user holds.
func (p Principal) opens(link secret.String) bool {
	sum := sha256.Sum256([]byte(link.Reveal()))
	return p.Link != nil && p.Enabled && subtle.ConstantTimeCompare(p.Link.Hash, sum[:]) == 1 && time.Now().Before(p.Link.Expires)
}

// SetPassword sets the password of the user whom a sign-in link is for. The link is used
// up; every token of before ends.
func (d *Directory) SetPassword(ctx context.Context, objectID string, link, password secret.String) (Principal, error) {
	p, ok := d.LinkHolder(objectID, link)
	if !ok {
		return Principal{}, errSignInLink()
	}
	if err := checkPassword(p.Name, password); err != nil {
		return Principal{}, err
	}
	now := time.Now().UTC()
	kept, err := newPassword(ctx, password, now)
	if err != nil {
		return Principal{}, fmt.Errorf("set the password of %s: %w", p.Name, err)
	}
	return d.changePrincipal(ctx, objectID, func(p *Principal) error {
		if !p.opens(link) { // used by another request in the meantime
			return errSignInLink()
		}
		p.Password, p.Link = kept, nil
		p.endTokens(now)
		return nil
	})
}

// SignIn returns the user with a name and password, false when there is none. It takes
// as long for a name that nobody has.
func (d *Directory) SignIn(ctx context.Context, name string, password secret.String) (Principal, bool, error) {
	p, found := d.byNameOf(name)
	kept := p.Password
	if !found || kept == nil || len(password) > maxPassword {
		kept, found = nobody, false
	}
	hash, err := kept.hash(ctx, password)
	if err != nil {
		return Principal{}, false, fmt.Errorf("check a password: %w", err)
	}
	if subtle.ConstantTimeCompare(hash, kept.Hash) != 1 || !found || !p.Enabled || p.Type != User {
		return Principal{}, false, nil
	}
	return p, true, nil
}
