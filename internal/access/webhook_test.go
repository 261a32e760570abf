package access

import (
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/fault"
)

func TestIssueForWebhook(t *testing.T) {
	w := newWorld(t)
	const es = "/subscriptions/S/providers/Microsoft.EventGrid/eventSubscriptions/es1"
	issued, err := w.tokens.IssueForWebhook("api://hooks", es)
	if err != nil {
		t.Fatal(err)
	}
	got := body(t, issued.Token.Reveal())
	for claim, want := range map[string]any{
		"aud": "api://hooks", "iss": testOrigin + "/" + w.owner.TenantID + "/v2.0", "tid": w.owner.TenantID,
		"appid": DeliveryAppID, "azp": DeliveryAppID, "idtyp": "app", "event_subscription": es, "exp": float64(issued.Expires.Unix()),
	} {
		if got[claim] != want {
			t.Errorf("claim %s is %v, want %v", claim, got[claim], want)
		}
	}
	if life := time.Until(issued.Expires); life < TokenLifetime-time.Minute || life > TokenLifetime {
		t.Errorf("the token lives %s", life)
	}
	// Nothing of this server takes it, even where it takes the audience.
	if _, err := w.tokens.Validate(t.Context(), issued.Token.Reveal(), NewAudiences("api://hooks")); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("the server takes the token of a webhook: %v", err)
	}
}

func TestCheckWebhook(t *testing.T) {
	w := newWorld(t)
	own := w.owner.TenantID
	for _, tt := range []struct{ name, tenant, application, target string }{
		{"URI", own, "api://hooks", ""},
		{"id", strings.ToUpper(own), "11111111-2222-3333-4444-555555555555", ""},
		{"another host", own, testOrigin + ".example/hooks", ""},
		{"another tenant", "contoso.onmicrosoft.com", "api://hooks", "azureActiveDirectoryTenantId"},
		{"management", own, "https://MANAGEMENT.azure.com/", "azureActiveDirectoryApplicationIdOrUri"},
		{"former name of management", own, AudienceManagementLegacy, "azureActiveDirectoryApplicationIdOrUri"},
		{"publishing", own, AudiencePublish, "azureActiveDirectoryApplicationIdOrUri"},
		{"this server", own, strings.ToUpper(testOrigin), "azureActiveDirectoryApplicationIdOrUri"},
		{"below this server", own, testOrigin + "/graph", "azureActiveDirectoryApplicationIdOrUri"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := w.tokens.CheckWebhook(tt.tenant, tt.application)
			if (err == nil) != (tt.target == "") || err != nil && wantFault(t, err, fault.Invalid, "InvalidRequest").Target != tt.target {
				t.Errorf("error %v, want one of %q", err, tt.target)
			}
			if tt.target != "" && strings.EqualFold(tt.tenant, own) {
				if _, err := w.tokens.IssueForWebhook(tt.application, "es1"); err == nil {
					t.Error("a token was made all the same")
				}
			}
		})
	}
}
