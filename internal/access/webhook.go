package access

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/fault"
)

// DeliveryAppID is the application that sends events to webhooks. It is Event Grid's
// own in Azure, so that a handler that looks at the caller of its tokens takes ours.
// Source: spec/delivery.md section 9.2.
const DeliveryAppID = "4962773b-9cdb-44cf-a8bf-237846a00ab7"

// CheckWebhook tells why this server makes no token for the application behind a
// webhook, fit to be shown. A token that this server itself, or Azure's own services
// behind the same names, would take is made for nobody's webhook.
func (t *Tokens) CheckWebhook(tenant, application string) error {
	if !strings.EqualFold(tenant, t.tenant) {
		return fault.Field("azureActiveDirectoryTenantId", "This server makes tokens of its own tenant '%s' only, not of '%.80s': use that one, or give a tokenIssuer that makes tokens of the other.", t.tenant, tenant)
	}
	bare := bareAudience(application)
	own := slices.ContainsFunc(t.origins, func(origin string) bool { return bare == origin || strings.HasPrefix(bare, origin+"/") })
	if own || t.management.Has(application) || t.publish.Has(application) {
		return fault.Field("azureActiveDirectoryApplicationIdOrUri", "A token for '%.200s' would be good for this server itself, and is sent to no webhook: name the application of the webhook.", application)
	}
	return nil
}

// IssueForWebhook makes the token that messages of an event subscription carry to
// the application behind its webhook. Its caller is in no directory, so that nothing
// of this server takes it. Whoever may write an event subscription can have one made
// for any application; the token names the event subscription, full id, so that a
// handler can tell which one it is from.
func (t *Tokens) IssueForWebhook(application, eventSubscription string) (Issued, error) {
	if err := t.CheckWebhook(t.tenant, application); err != nil {
		return Issued{}, fmt.Errorf("issue a token for the webhook of %s: %w", eventSubscription, err)
	}
	return t.Issue(Grant{
		Principal: Principal{
			ObjectID: uuid.NewSHA1(uuid.NameSpaceURL, []byte(t.tenant+"/"+DeliveryAppID)).String(), AppID: DeliveryAppID, TenantID: t.tenant, Type: ServicePrincipal,
		},
		Audience: application, Issuer: t.Issuer(t.origins[0], FaceV2), Lifetime: TokenLifetime, EventSubscription: eventSubscription,
	})
}
