package access

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"unicode"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
	"sigs.k8s.io/yaml"

	"github.com/carillon-events/carillon/internal/fault"
)

// Provider is a foreign OpenID provider whose tokens are taken as they are, for
// management and publishing. Source: spec/access.md section 14.3.
type Provider struct {
	Name       string   `json:"name"`       // for the operator
	Issuer     string   `json:"issuer"`     // exactly as the tokens have it; https
	Audiences  []string `json:"audiences"`  // a token must be for one of them, exactly
	JWKSURI    string   `json:"jwksUri"`    // "" finds it by discovery
	Algorithms []string `json:"algorithms"` // default RS256, PS256, ES256

	// PrincipalType is what the tokens are of: User, the default, or ServicePrincipal.
	PrincipalType PrincipalType `json:"principalType"`
	// AllowedSubjects lets in only these subjects; one may end in *. Empty: all.
	AllowedSubjects []string `json:"allowedSubjects"`
	// GroupPrefix goes before each group of a token: the groups of the directory with
	// these names count for its bearer. "" ignores the groups of tokens.
	GroupPrefix string `json:"groupPrefix"`

	Claims ClaimNames `json:"claims"`
}

// ClaimNames say which claims of a token are read.
type ClaimNames struct {
	Subject string `json:"subject"` // whose value, with the issuer, is the principal; default sub
	Name    string `json:"name"`    // shown in logs and messages; default preferred_username, email, then the subject
	AppID   string `json:"appId"`   // default azp, appid, client_id
	Groups  string `json:"groups"`  // default groups
}

// Providers are the foreign issuers that are trusted: those of tokens that are taken as
// they are, and those that a federated credential names. It is safe for concurrent use.
type Providers struct {
	client *http.Client
	list   map[string]*provider // by issuer

	mu        sync.Mutex
	federated map[string]*issuerKeys // by issuer
}

// provider is a Provider that was checked.
type provider struct {
	Provider
	keys       *issuerKeys
	algorithms []jose.SignatureAlgorithm
}

const (
	maxFederatedIssuers = 1000
	maxForeignGroups    = 1000 // of one token
)

// NewProviders returns providers that are asked for their keys through client, which
// must decide where it connects to and follow no redirect.
func NewProviders(client *http.Client, list ...Provider) (*Providers, error) {
	p := &Providers{client: client, list: map[string]*provider{}, federated: map[string]*issuerKeys{}}
	var problems []error
	for i, c := range list {
		made, err := newProvider(client, c)
		if err == nil && p.list[c.Issuer] != nil {
			err = fmt.Errorf("the issuer %s is there twice", c.Issuer)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("provider %d: %w", i+1, err))
			continue
		}
		p.list[c.Issuer] = made
	}
	return p, errors.Join(problems...)
}

func newProvider(client *http.Client, c Provider) (*provider, error) {
	if err := checkIssuer(c.Issuer); err != nil {
		return nil, fmt.Errorf("issuer %.200q %w", c.Issuer, err)
	}
	if c.JWKSURI != "" && !strings.HasPrefix(c.JWKSURI, "https://") {
		return nil, fmt.Errorf("jwksUri %.200q is not an https URL", c.JWKSURI)
	}
	if len(c.Audiences) == 0 || slices.Contains(c.Audiences, "") {
		return nil, errors.New("audiences must name what the tokens are for: without them a token for any other application would do")
	}
	switch c.PrincipalType {
	case "":
		c.PrincipalType = User
	case User, ServicePrincipal:
	default:
		return nil, fmt.Errorf("principalType %.40q is neither User nor ServicePrincipal", c.PrincipalType)
	}
	if c.Claims.Subject == "" {
		c.Claims.Subject = "sub"
	}
	if c.Claims.Groups == "" {
		c.Claims.Groups = "groups"
	}
	for _, s := range c.AllowedSubjects {
		if at := strings.Index(s, "*"); s == "" || at >= 0 && at != len(s)-1 {
			return nil, fmt.Errorf("allowedSubjects: %.100q has a * that is not its last character, or nothing", s)
		}
	}
	p := &provider{Provider: c, algorithms: foreignAlgorithms, keys: &issuerKeys{issuer: c.Issuer, uri: c.JWKSURI, client: client}}
	if len(c.Algorithms) > 0 {
		p.algorithms = nil
	}
	for _, name := range c.Algorithms {
		if !slices.Contains(allAlgorithms, jose.SignatureAlgorithm(name)) {
			return nil, fmt.Errorf("algorithms: %.40q is not one of %v", name, allAlgorithms)
		}
		p.algorithms = append(p.algorithms, jose.SignatureAlgorithm(name))
	}
	return p, nil
}

// OpenProviders reads providers from a file, YAML or JSON, with the one member
// providers; "" is none.
func OpenProviders(path string, client *http.Client) (*Providers, error) {
	if path == "" {
		return NewProviders(client)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read --identity-providers: %w", err)
	}
	var file struct {
		Providers []Provider `json:"providers"`
	}
	if err := yaml.UnmarshalStrict(text, &file); err != nil {
		return nil, fmt.Errorf("read --identity-providers %s: %w", path, err)
	}
	p, err := NewProviders(client, file.Providers...)
	if err != nil {
		return nil, fmt.Errorf("read --identity-providers %s: %w", path, err)
	}
	return p, nil
}

// Issuers returns the issuers whose tokens are taken as they are.
func (p *Providers) Issuers() []string {
	var list []string
	for issuer := range p.list {
		list = append(list, issuer)
	}
	slices.Sort(list)
	return list
}

// of returns the provider that a token says it is of, nil for none.
func (p *Providers) of(raw string) *provider {
	if p == nil || len(p.list) == 0 {
		return nil
	}
	c, ok := said(raw)
	if !ok {
		return nil
	}
	return p.list[c.Issuer]
}

// ofFederated returns the keys of an issuer that a federated credential names.
func (p *Providers) ofFederated(issuer string) (*issuerKeys, error) {
	if p == nil {
		return nil, errors.New("no foreign issuer is trusted")
	}
	if own := p.list[issuer]; own != nil {
		return own.keys, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.federated[issuer]
	if k == nil {
		if len(p.federated) >= maxFederatedIssuers { // of credentials that are gone, mostly
			clear(p.federated)
		}
		k = &issuerKeys{issuer: issuer, client: p.client}
		p.federated[issuer] = k
	}
	return k, nil
}

// ForeignObjectID is the object id of a foreign principal: the same for ever, and another
// one for each issuer. Source: spec/access.md section 14.3.
func ForeignObjectID(issuer, subject string) string {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte(issuer+"#"+subject)).String()
}

// validateForeign is Validate for a token of a provider, which is good for every plane.
func (t *Tokens) validateForeign(ctx context.Context, p *provider, raw string) (cached, error) {
	invalid := func(cause error) (cached, error) {
		return cached{}, t.refuse("InvalidAuthenticationToken", "The access token is invalid.", cause)
	}
	all := map[string]any{}
	c, err := p.keys.verify(ctx, raw, p.algorithms, &all)
	switch {
	case errors.Is(err, errExpired):
		return cached{}, t.refuse("ExpiredAuthenticationToken", "The access token has expired.", nil)
	case err != nil:
		return invalid(err)
	case !slices.ContainsFunc(c.Audience, func(a string) bool { return slices.Contains(p.Audiences, a) }):
		return cached{}, t.refuse("InvalidAuthenticationTokenAudience", "The access token has been obtained for the wrong audience or resource.",
			fmt.Errorf("audience %.200q of issuer %s", c.Audience, p.Issuer))
	}
	subject := text(all, p.Claims.Subject)
	switch {
	case subject == "":
		return invalid(fmt.Errorf("the token of issuer %s has no claim %s", p.Issuer, p.Claims.Subject))
	case !p.allows(subject):
		return invalid(fmt.Errorf("the subject %.200q of issuer %s is not allowed", subject, p.Issuer))
	}
	caller := Caller{
		ObjectID: ForeignObjectID(p.Issuer, subject), TenantID: t.tenant, Type: p.PrincipalType, Issuer: p.Issuer,
		Name: printable(text(all, p.Claims.Name, "preferred_username", "email", p.Claims.Subject)), TokenID: printable(text(all, "jti", "uti")),
	}
	if p.PrincipalType == ServicePrincipal {
		caller.AppID = printable(text(all, p.Claims.AppID, "azp", "appid", "client_id"))
	}
	caller.Groups = t.directory.foreignGroups(caller.ObjectID, p.groups(all))
	return cached{caller: caller, until: c.Expiry.Time()}, nil
}

func (p *provider) allows(subject string) bool {
	return len(p.AllowedSubjects) == 0 || slices.ContainsFunc(p.AllowedSubjects, func(s string) bool {
		if prefix, ok := strings.CutSuffix(s, "*"); ok {
			return strings.HasPrefix(subject, prefix)
		}
		return subject == s
	})
}

// groups returns the names that the groups of a token have in the directory.
func (p *provider) groups(all map[string]any) []string {
	if p.GroupPrefix == "" {
		return nil
	}
	var names []string
	switch v := all[p.Claims.Groups].(type) {
	case string:
		names = append(names, p.GroupPrefix+v)
	case []any:
		for _, g := range v[:min(len(v), maxForeignGroups)] {
			if name, ok := g.(string); ok {
				names = append(names, p.GroupPrefix+name)
			}
		}
	}
	return names
}

// foreignGroups returns the groups that a foreign principal is in: those that name it,
// those that its token names, and the ones around them.
func (d *Directory) foreignGroups(objectID string, names []string) []string {
	groups := d.groupsOf(objectID)
	for _, name := range names {
		if g, ok := d.byNameOf(name); ok && g.Type == Group {
			groups = append(append(groups, g.ObjectID), d.groupsOf(g.ObjectID)...)
		}
	}
	slices.Sort(groups)
	return slices.Compact(groups)
}

// text returns the first claim of some that is a text.
func text(all map[string]any, names ...string) string {
	for _, name := range names {
		if s, ok := all[name].(string); ok && name != "" && s != "" {
			return s
		}
	}
	return ""
}

// printable is a text of a foreign token as it may stand in logs and messages.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s)
	if r := []rune(s); len(r) > maxPrincipalName {
		s = string(r[:maxPrincipalName])
	}
	return s
}

// errForeignIssuer says that a provider has an issuer of this server.
func errForeignIssuer(issuer string) error {
	return fault.Field("issuer", "The issuer %s is this server's own.", issuer)
}
