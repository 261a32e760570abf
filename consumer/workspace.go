package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Workspace asks a server of Carillon what an event does not say: whether it still holds
// ([Workspace.Fresh]), and what else came to pass ([Workspace.CatchUp]). Its methods may be
// called by many goroutines; its fields are not changed after the first call.
type Workspace struct {
	Server string // its URL, https://carillon.example:7443
	ID     string // resource id of the workspace, the topic of its events
	Token  TokenSource
	// Client makes the requests; it has to trust the server's certificate. Nil is
	// a client of its own. A request without a deadline gets half a minute.
	Client *http.Client

	experiments sync.Map // ids of experiments by what events call them, where that differs
}

// TokenSource returns a bearer token that is valid for a while: of the owner, as "carillon
// token" prints it, or of a principal, as [ClientCredentials] gets it.
type TokenSource func(ctx context.Context) (token string, err error)

// ServerError is an answer of the server that is no success.
type ServerError struct {
	Status     int
	Code       string        // of the error, AuthorizationFailed for one
	Message    string        // for people
	RetryAfter time.Duration // what the server asks to wait, 0 if it does not say
}

// Error returns what the server said.
func (e *ServerError) Error() string {
	if e.Code == "" {
		return "the server answered " + strconv.Itoa(e.Status)
	}
	return fmt.Sprintf("the server answered %d %s: %s", e.Status, e.Code, e.Message)
}

// Bounds of requests and answers.
const (
	apiVersion    = "2026-11-01"
	requestTime   = 30 * time.Second
	largestAnswer = 64 << 20
)

// do makes a request for a path below the workspace and decodes the answer into it, if into
// is not nil. It returns the ETag without quotes.
func (w *Workspace) do(ctx context.Context, method, path string, query url.Values, into any) (etag string, err error) {
	if w.Token == nil {
		return "", errors.New("the Workspace has no Token")
	}
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, requestTime)
		defer cancel()
	}
	token, err := w.Token(ctx)
	if err != nil {
		return "", fmt.Errorf("get a token: %w", err)
	}
	if query == nil {
		query = url.Values{}
	}
	query.Set("api-version", apiVersion)
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(w.Server, "/")+w.ID+"/"+path+"?"+query.Encode(), nil)
	if err != nil {
		return "", err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	answer, err := client(w.Client).Do(r)
	if err != nil {
		return "", err
	}
	defer func() { _ = answer.Body.Close() }()
	if err := failure(answer); err != nil {
		return "", err
	}
	if into != nil {
		if err := json.NewDecoder(io.LimitReader(answer.Body, largestAnswer)).Decode(into); err != nil {
			return "", fmt.Errorf("read the answer: %w", err)
		}
	}
	return strings.Trim(strings.TrimPrefix(answer.Header.Get("ETag"), "W/"), `"`), nil
}

func client(c *http.Client) *http.Client {
	if c == nil {
		return &http.Client{}
	}
	return c
}

// failure returns the error that an answer is, nil for a success.
func failure(answer *http.Response) error {
	if answer.StatusCode < 300 {
		return nil
	}
	f := &ServerError{Status: answer.StatusCode}
	var body struct {
		Error struct{ Code, Message string }
	}
	if json.NewDecoder(io.LimitReader(answer.Body, 1<<20)).Decode(&body) == nil {
		f.Code, f.Message = body.Error.Code, body.Error.Message
	}
	if seconds, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil && seconds > 0 {
		f.RetryAfter = time.Duration(seconds) * time.Second
	}
	return f
}

// ClientCredentials gets the tokens of a principal, as "carillon principal create" makes one.
type ClientCredentials struct {
	TokenURL string // https://carillon.example:7443/TENANT/oauth2/v2.0/token
	ClientID string // the principal's appId
	Secret   string // its password
	Scope    string // "" is that of the management API
	Client   *http.Client
}

// renewal is how long before its end a token is not used any more.
const renewal = time.Minute

// Source returns a TokenSource that keeps a token as long as it is valid.
func (c ClientCredentials) Source() TokenSource {
	turn := make(chan struct{}, 1) // of who asks, or looks
	var token string
	var ends time.Time
	return func(ctx context.Context) (string, error) {
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
		case <-ctx.Done():
			return "", fmt.Errorf("get a token for %s: %w", c.ClientID, context.Cause(ctx))
		}
		now := time.Now()
		if token != "" && now.Before(ends) {
			return token, nil
		}
		fresh, lasts, err := c.token(ctx)
		if err != nil {
			return "", fmt.Errorf("get a token for %s: %w", c.ClientID, err)
		}
		token, ends = fresh, now.Add(lasts-min(renewal, lasts/2))
		return token, nil
	}
}

func (c *ClientCredentials) token(ctx context.Context) (token string, lasts time.Duration, err error) {
	scope := c.Scope
	if scope == "" {
		scope = "https://management.azure.com/.default"
	}
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {c.ClientID}, "client_secret": {c.Secret}, "scope": {scope}}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.TokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		return "", 0, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	answer, err := client(c.Client).Do(r)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = answer.Body.Close() }()
	var body struct {
		Token       string      `json:"access_token"`
		ExpiresIn   json.Number `json:"expires_in"`
		Error       string      `json:"error"`
		Description string      `json:"error_description"`
	}
	if err := json.NewDecoder(io.LimitReader(answer.Body, 1<<20)).Decode(&body); err != nil {
		return "", 0, fmt.Errorf("the issuer answered %s", answer.Status)
	}
	if answer.StatusCode != http.StatusOK || body.Token == "" {
		return "", 0, &ServerError{Status: answer.StatusCode, Code: body.Error, Message: body.Description}
	}
	seconds, _ := body.ExpiresIn.Int64()
	return body.Token, time.Duration(seconds) * time.Second, nil
}
