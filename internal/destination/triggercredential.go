package destination

import (
	"context"
	"sync"
	"time"
)

// tokenKeeper keeps a token that is fetched, until it ends or is refused.
type tokenKeeper struct {
	mu    sync.Mutex
	text  string
	by    string
	until time.Time
}

// get returns the token. by is what it is fetched with, and with something else it is
// fetched anew. Only one fetch runs at a time.
func (k *tokenKeeper) get(ctx context.Context, by string, refresh bool, fetch func(context.Context) (string, time.Time, error)) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.text != "" && k.by == by && !refresh && time.Now().Before(k.until) {
		return k.text, nil
	}
	text, until, err := fetch(ctx)
	if err != nil {
		return "", err
	}
	k.text, k.by, k.until = text, by, until
	return text, nil
}

// renews reports whether there is a token that can be fetched anew.
func (k *tokenKeeper) renews() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.text != ""
}

// bearer is a sign by a token in a field.
func bearer(field string) func(context.Context, *trigger, *outgoing, bool) error {
	return func(_ context.Context, t *trigger, out *outgoing, _ bool) error {
		if token := t.secrets[field]; token != "" {
			out.add("Authorization", "Bearer "+token)
		}
		return nil
	}
}

// basicOrBearer is a sign by a user and password, or by a token.
func basicOrBearer(ctx context.Context, t *trigger, out *outgoing, refresh bool) error {
	if user := t.values.Text("username"); user != "" {
		out.basic(user, t.secrets["password"])
		return nil
	}
	return bearer("token")(ctx, t, out, refresh)
}
