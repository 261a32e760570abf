package access

import (
	"context"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// Senders decides who may publish with a bearer token. A token is verified once and
// then known by its hash, until it expires or a principal changes; what its principal
// may do is asked for each time, so that a change of a role assignment holds at once.
// It is safe for concurrent use.
type Senders struct {
	tokens     *Tokens
	authorizer *Authorizer
}

// NewSenders returns the senders of a server.
func NewSenders(t *Tokens, z *Authorizer) *Senders { return &Senders{t, z} }

// AuthorizeSender returns the object id of the principal that a token belongs to, if
// it holds. An Unauthenticated fault says that it does not, a Forbidden one that the
// principal may not send events to the topic. Source: spec/access.md section 13.
func (s *Senders) AuthorizeSender(ctx context.Context, token string, topic resource.ID) (principal string, err error) {
	c, err := s.tokens.Validate(ctx, token, s.tokens.publish)
	if err != nil {
		return "", err
	}
	if !s.authorizer.AllowedData(c, ActionSend, topic) {
		return c.ObjectID, fault.New(fault.Forbidden, "AuthorizationFailed",
			"The client '%s' with object id '%s' may not send events to '%s': it needs a role with the data action '%s', such as EventGrid Data Sender, at that scope or above.",
			c.Label(), c.ObjectID, topic, ActionSend)
	}
	return c.ObjectID, nil
}

// AuthorizeReceiver returns the object id of the principal that a token belongs to, if it
// holds. An Unauthenticated fault says that it does not, a Forbidden one that the
// principal may not receive the events of the event subscription, which source raises.
// Source: spec/access.md sections 8 and 10.
func (s *Senders) AuthorizeReceiver(ctx context.Context, token string, eventSubscription, source resource.ID) (principal string, err error) {
	c, err := s.tokens.Validate(ctx, token, s.tokens.publish)
	if err == nil {
		return c.ObjectID, s.authorizer.CheckReceive(c, eventSubscription, source)
	}
	// Of the management API: who may change the event subscription could send its events
	// elsewhere, and so may receive them, unless receiving itself is denied.
	if c, other := s.tokens.Validate(ctx, token, s.tokens.management); other == nil {
		if err := s.authorizer.notDenied(c, dataPlane, ActionReceive, eventSubscription); err != nil {
			return c.ObjectID, err
		}
		const write = "Microsoft.EventGrid/eventSubscriptions/write"
		return c.ObjectID, s.authorizer.CheckEventSubscriptionWrite(c, write, eventSubscription, source)
	}
	return "", err
}

// Challenge returns the WWW-Authenticate value of a 401 that no token was shown for.
// Source: spec/access.md section 5.
func (s *Senders) Challenge() string { return s.tokens.challenge() }
