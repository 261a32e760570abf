package access

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
)

// AssertionProblem says why a client assertion proves nothing. Its text is for the log.
type AssertionProblem struct {
	Federated bool // the assertion is of a foreign issuer
	Err       error
}

func (p *AssertionProblem) Error() string { return "client assertion: " + p.Err.Error() }
func (p *AssertionProblem) Unwrap() error { return p.Err }

// maxAssertionLife is the longest that an assertion signed by an application may live.
const maxAssertionLife = 24 * time.Hour

// VerifyAssertion returns nil when a client assertion proves to be of a service
// principal: it is signed with the key of one of its certificates, or a token of a
// foreign issuer that one of its federated credentials names. Otherwise it returns an
// *AssertionProblem. Source: spec/access.md section 3.3; RFC 7523, section 3.
func (t *Tokens) VerifyAssertion(ctx context.Context, p Principal, raw string) error {
	c, ok := said(raw)
	if !ok {
		return &AssertionProblem{Err: errors.New("not a token in three parts")}
	}
	if strings.EqualFold(c.Issuer, p.AppID) {
		if err := t.verifyOwnAssertion(p, raw); err != nil {
			return &AssertionProblem{Err: err}
		}
		return nil
	}
	// Nobody is asked for keys on the word of a token that would not do anyway.
	if err := t.verifyFederated(ctx, p, raw, c); err != nil {
		return &AssertionProblem{Federated: true, Err: err}
	}
	return nil
}

func (t *Tokens) verifyFederated(ctx context.Context, p Principal, raw string, c jwt.Claims) error {
	matches := func(c jwt.Claims) bool {
		return slices.ContainsFunc(p.Federated, func(f FederatedCredential) bool {
			return f.Issuer == c.Issuer && f.Subject == c.Subject && slices.ContainsFunc(c.Audience, func(a string) bool { return slices.Contains(f.Audiences, a) })
		})
	}
	if !matches(c) {
		return fmt.Errorf("no federated credential matches issuer %.200q, subject %.200q and audience %.200q", c.Issuer, c.Subject, c.Audience)
	}
	keys, err := t.providers.ofFederated(c.Issuer)
	if err != nil {
		return err
	}
	proven, err := keys.verify(ctx, raw, foreignAlgorithms)
	if err != nil {
		return err
	}
	if !matches(proven) { // the same bytes, read by another parser
		return errors.New("the claims that were verified are not the ones that were read")
	}
	return nil
}

func (t *Tokens) verifyOwnAssertion(p Principal, raw string) error {
	token, err := parseForeign(raw, foreignAlgorithms)
	if err != nil {
		return err
	}
	err = errors.New("the application has no certificate that is in force")
	for _, kept := range p.Certificates {
		certificate, parseErr := kept.parse()
		if parseErr != nil {
			continue
		}
		var c jwt.Claims
		if err = token.Claims(certificate.PublicKey, &c); err != nil {
			continue
		}
		switch {
		case !strings.EqualFold(c.Issuer, p.AppID) || !strings.EqualFold(c.Subject, p.AppID):
			return errors.New("issuer and subject are not both the client id")
		case !slices.ContainsFunc(c.Audience, t.isTokenEndpoint):
			return fmt.Errorf("the audience %.200q is not the token endpoint", c.Audience)
		}
		if err := checkTimes(c); err != nil {
			return err
		}
		if c.Expiry.Time().After(time.Now().Add(maxAssertionLife + clockSkew)) {
			return fmt.Errorf("it lives for longer than %s", maxAssertionLife)
		}
		return nil
	}
	return fmt.Errorf("no certificate of the application verifies it: %w", err)
}

// isTokenEndpoint reports whether an audience is a token endpoint of this server, or the
// issuer that it belongs to.
func (t *Tokens) isTokenEndpoint(audience string) bool {
	audience = strings.ToLower(audience)
	if t.issuers[audience] || t.issuers[audience+"/"] {
		return true
	}
	for _, o := range t.origins {
		for _, tenant := range []string{t.tenant, "common", "organizations", "adfs"} {
			if audience == o+"/"+tenant+"/oauth2/v2.0/token" || audience == o+"/"+tenant+"/oauth2/token" {
				return true
			}
		}
	}
	return false
}
