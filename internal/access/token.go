package access

import (
	"cmp"
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/telemetry"
)

const (
	// TokenLifetime is how long a token of the issuer lives.
	// Source: spec/access.md section 2.1.
	TokenLifetime = time.Hour

	maxToken     = 16 << 10        // bytes of a credential
	clockSkew    = 5 * time.Minute // by which another clock may differ
	cacheTime    = 5 * time.Minute // for which a good token is not looked at again
	cacheEntries = 10_000
)

// Audiences that are known by name. Source: spec/access.md section 2.1.
const (
	AudienceManagement       = "https://management.azure.com"
	AudienceManagementLegacy = "https://management.core.windows.net"
	AudiencePublish          = "https://eventgrid.azure.net"
)

// Audiences is a set of resources that a token may be meant for.
type Audiences struct{ set []string }

// NewAudiences returns the set of the names given. Names compare without case and
// without one trailing slash. Source: spec/access.md section 2.2.
func NewAudiences(names ...string) Audiences {
	var a Audiences
	for _, name := range names {
		a.set = append(a.set, bareAudience(name))
	}
	return a
}

// Has reports whether a name is in the set.
func (a Audiences) Has(name string) bool { return slices.Contains(a.set, bareAudience(name)) }

func bareAudience(name string) string { return strings.ToLower(strings.TrimSuffix(name, "/")) }

// Face is one of the issuer's three sets of paths; each writes another issuer
// claim. Source: spec/access.md sections 2.1 and 3.1.
type Face int

// The faces of the issuer.
const (
	FaceV2   Face = iota // /{tenant}/v2.0
	FaceV1               // /{tenant}/
	FaceADFS             // /adfs
)

// claims is the body of an access token. Source: spec/access.md section 2.1.
type claims struct {
	Audience  string `json:"aud"`
	Issuer    string `json:"iss"`
	IssuedAt  int64  `json:"iat"`
	NotBefore int64  `json:"nbf"`
	Expires   int64  `json:"exp"`
	ObjectID  string `json:"oid"`
	Subject   string `json:"sub"`
	TenantID  string `json:"tid"`
	AppID     string `json:"appid,omitempty"`
	Party     string `json:"azp,omitempty"`
	Kind      string `json:"idtyp,omitempty"`
	Name      string `json:"name,omitempty"`
	Username  string `json:"preferred_username,omitempty"` // of a user, as upn
	UPN       string `json:"upn,omitempty"`
	Scope     string `json:"scp,omitempty"` // of a user
	Version   string `json:"ver"`
	UniqueID  string `json:"uti"`
	TokenID   string `json:"jti"`

	EventSubscription string `json:"event_subscription,omitempty"` // see IssueForWebhook
}

// Grant is what a token is made from.
type Grant struct {
	Principal Principal
	Audience  string // written as it is
	Issuer    string
	Lifetime  time.Duration
	ClientID  string // the application that a user signed in at; "" for the principal itself

	EventSubscription string // full id; of a token for a webhook
}

// Issued is a token and what its receiver is told about it.
type Issued struct {
	Token     secret.String
	ID        string // its unique id, for the audit log
	Audience  string
	NotBefore time.Time
	Expires   time.Time
}

// issue signs a token.
func (k *SigningKey) issue(g Grant) (Issued, error) {
	// A principal whose tokens were ended a moment ago counts from the next second.
	from := time.Now().Truncate(time.Second)
	if from.Before(g.Principal.ValidFrom) {
		from = g.Principal.ValidFrom
	}
	until := from.Add(g.Lifetime)
	c := claims{
		Audience: g.Audience, Issuer: g.Issuer, IssuedAt: from.Unix(), NotBefore: from.Unix(), Expires: until.Unix(),
		ObjectID: g.Principal.ObjectID, Subject: g.Principal.ObjectID, TenantID: g.Principal.TenantID,
		AppID: cmp.Or(g.ClientID, g.Principal.AppID), Name: g.Principal.Name, Version: "2.0", UniqueID: uuid.NewString(),
		EventSubscription: g.EventSubscription,
	}
	c.TokenID, c.Party = c.UniqueID, c.AppID
	switch g.Principal.Type {
	case ServicePrincipal:
		c.Kind = "app"
	case User:
		c.Kind, c.Scope, c.Username, c.UPN = "user", "user_impersonation", g.Principal.Name, g.Principal.Name
	}
	if !strings.HasSuffix(g.Issuer, "/v2.0") {
		c.Version = "1.0"
	}
	text, err := k.sign(c)
	if err != nil {
		return Issued{}, err
	}
	return Issued{Token: text, ID: c.TokenID, Audience: c.Audience, NotBefore: from.UTC(), Expires: until.UTC()}, nil
}

// sign signs claims.
func (k *SigningKey) sign(claims any) (secret.String, error) {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: k.private},
		(&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", k.id))
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	text, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	return secret.String(text), nil
}

// TokensConfig is what Tokens needs to know about the server.
type TokensConfig struct {
	TenantID string
	Origins  []string // "https://host:port" under which this server is reached, the public one first; at least one

	Providers *Providers // of foreign tokens; nil for none
}

// Tokens issues tokens and tells who they belong to. It is safe for concurrent use.
type Tokens struct {
	keys       *KeyRing
	providers  *Providers
	directory  *Directory
	tenant     string
	origins    []string
	issuers    map[string]bool
	management Audiences
	publish    Audiences

	mu         sync.RWMutex
	generation uint64 // grows when a principal changes, so that no older result enters the cache
	cache      map[[sha256.Size]byte]cached
}

// cached is a token that was found good.
type cached struct {
	caller   Caller
	audience string    // "" for one of a foreign issuer, which is good for every plane
	until    time.Time // the token expires, or is looked at again
}

// NewTokens returns the issuer and reader of a server's tokens.
func NewTokens(keys *KeyRing, d *Directory, cfg TokensConfig) (*Tokens, error) {
	if cfg.TenantID == "" || len(cfg.Origins) == 0 {
		return nil, errors.New("tokens need a tenant id and an origin")
	}
	t := &Tokens{
		keys: keys, providers: cfg.Providers, directory: d, tenant: strings.ToLower(cfg.TenantID),
		issuers: map[string]bool{localIssuer(strings.ToLower(cfg.TenantID)): true},
		cache:   map[[sha256.Size]byte]cached{},
	}
	for _, o := range cfg.Origins {
		o = strings.ToLower(strings.TrimRight(o, "/"))
		t.origins = append(t.origins, o)
		for _, face := range []Face{FaceV2, FaceV1, FaceADFS} {
			t.issuers[t.Issuer(o, face)] = true
		}
	}
	if t.providers != nil {
		for issuer := range t.providers.list {
			if t.issuers[issuer] {
				return nil, errForeignIssuer(issuer)
			}
		}
	}
	t.management = NewAudiences(append(slices.Clone(t.origins), AudienceManagement, AudienceManagementLegacy)...)
	t.publish = NewAudiences(AudiencePublish)
	d.onPrincipalChange(t.forget)
	keys.OnChange(t.forget)
	return t, nil
}

// TenantID returns the tenant that tokens are issued for.
func (t *Tokens) TenantID() string { return t.tenant }

// Origins returns the origins of this server, the public one first.
func (t *Tokens) Origins() []string { return slices.Clone(t.origins) }

// Keys returns the signing keys.
func (t *Tokens) Keys() *KeyRing { return t.keys }

// Management returns the audiences that the management plane accepts.
func (t *Tokens) Management() Audiences { return t.management }

// Publishing returns the audiences that the data plane accepts.
func (t *Tokens) Publishing() Audiences { return t.publish }

// Issuer returns the issuer claim of one of the issuer's faces at an origin.
func (t *Tokens) Issuer(origin string, face Face) string {
	switch face {
	case FaceV1:
		return origin + "/" + t.tenant + "/"
	case FaceADFS:
		return origin + "/adfs"
	default:
		return origin + "/" + t.tenant + "/v2.0"
	}
}

// Issue makes a token. Issuer must be one that Issuer returned for an origin of
// this server.
func (t *Tokens) Issue(g Grant) (Issued, error) {
	if !t.issuers[g.Issuer] {
		return Issued{}, fmt.Errorf("issue a token: %q is not an issuer of this server", g.Issuer)
	}
	return t.keys.current().issue(g)
}

// idClaims is the body of an id token: who signed in, for the client alone.
// Source: spec/access.md section 3.4.
type idClaims struct {
	Audience  string `json:"aud"`
	Issuer    string `json:"iss"`
	IssuedAt  int64  `json:"iat"`
	NotBefore int64  `json:"nbf"`
	Expires   int64  `json:"exp"`
	ObjectID  string `json:"oid"`
	Subject   string `json:"sub"`
	TenantID  string `json:"tid"`
	Name      string `json:"name"`
	Username  string `json:"preferred_username"`
	UPN       string `json:"upn"`
	Nonce     string `json:"nonce,omitempty"`
	Version   string `json:"ver"`
}

// IssueID makes the id token of a user who signed in at a client. It opens nothing: its
// audience is the client.
func (t *Tokens) IssueID(g Grant, nonce string) (secret.String, error) {
	now := time.Now()
	return t.keys.current().sign(idClaims{
		Audience: g.ClientID, Issuer: g.Issuer, IssuedAt: now.Unix(), NotBefore: now.Unix(), Expires: now.Add(g.Lifetime).Unix(),
		ObjectID: g.Principal.ObjectID, Subject: g.Principal.ObjectID, TenantID: g.Principal.TenantID,
		Name: g.Principal.Name, Username: g.Principal.Name, UPN: g.Principal.Name, Nonce: nonce, Version: "2.0",
	})
}

// forget empties the cache.
func (t *Tokens) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.generation++
	clear(t.cache)
}

// Validate tells who a token belongs to, when the token is good and meant for one
// of the audiences. Otherwise it returns an Unauthenticated fault.
// Source: spec/access.md sections 2.2 and 5.
func (t *Tokens) Validate(ctx context.Context, raw string, audiences Audiences) (Caller, error) {
	if len(raw) > maxToken {
		return Caller{}, t.refuse("InvalidAuthenticationToken", "The access token is too long.", nil)
	}
	hash := sha256.Sum256([]byte(raw))
	t.mu.RLock()
	hit, ok := t.cache[hash]
	generation := t.generation
	t.mu.RUnlock()
	if ok && time.Now().Before(hit.until) {
		if hit.audience != "" && !audiences.Has(hit.audience) {
			return Caller{}, t.wrongAudience(hit.audience, audiences)
		}
		return hit.caller, nil
	}
	var found cached
	var err error
	if p := t.providers.of(raw); p != nil {
		found, err = t.validateForeign(ctx, p, raw)
	} else {
		found, err = t.validateOwn(raw, audiences)
	}
	if err != nil {
		return Caller{}, err
	}
	t.remember(hash, generation, found)
	return found.caller, nil
}

// validateOwn is Validate for a token of this server.
func (t *Tokens) validateOwn(raw string, audiences Audiences) (cached, error) {
	c, err := t.verify(raw)
	if err != nil {
		return cached{}, err
	}
	if !audiences.Has(c.Audience) {
		return cached{}, t.wrongAudience(c.Audience, audiences)
	}
	caller, err := t.identify(c)
	return cached{caller, c.Audience, time.Unix(c.Expires, 0)}, err
}

// verify reads a token and checks everything that it says about itself but the
// audience.
func (t *Tokens) verify(raw string) (claims, error) {
	invalid := func(cause error) error {
		return t.refuse("InvalidAuthenticationToken", "The access token is invalid.", cause)
	}
	// A token has one spelling: base64 with bits set that no byte comes from decodes
	// to the same text, and is not what was signed.
	for part := range strings.SplitSeq(raw, ".") {
		if _, err := base64.RawURLEncoding.Strict().DecodeString(part); err != nil {
			return claims{}, invalid(fmt.Errorf("decode token: %w", err))
		}
	}
	// The built-in issuer signs with RS256 and nothing else. A token that says
	// "none", or HS256 in the hope that the public key is taken for a shared
	// secret, is not even parsed.
	token, err := jwt.ParseSigned(raw, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return claims{}, invalid(fmt.Errorf("parse token: %w", err))
	}
	var said claims
	if err := token.UnsafeClaimsWithoutVerification(&said); err != nil {
		return claims{}, invalid(fmt.Errorf("read claims: %w", err))
	}
	if !t.issuers[said.Issuer] {
		return claims{}, invalid(fmt.Errorf("issuer %q is not trusted", said.Issuer))
	}
	var key *rsa.PublicKey
	if len(token.Headers) == 1 {
		key = t.keys.verifier(token.Headers[0].KeyID)
	}
	if key == nil { // it may be of a key that was revoked: whoever can, fetches another token
		return claims{}, t.askAgain("The access token is invalid.", time.Now(), errors.New("no key of the issuer has the token's key id"))
	}
	var c claims
	if err := token.Claims(key, &c); err != nil {
		return claims{}, invalid(fmt.Errorf("verify signature: %w", err))
	}
	now := time.Now()
	switch {
	case now.Add(-clockSkew).Unix() >= c.Expires:
		return claims{}, t.refuse("ExpiredAuthenticationToken", "The access token expiry UTC time '"+
			time.Unix(c.Expires, 0).UTC().Format(time.RFC3339)+"' is earlier than current UTC time '"+now.UTC().Format(time.RFC3339)+"'.", nil)
	case now.Add(clockSkew).Unix() < c.NotBefore || now.Add(clockSkew).Unix() < c.IssuedAt:
		return claims{}, invalid(errors.New("the token is of the future"))
	case !strings.EqualFold(c.TenantID, t.tenant):
		return claims{}, t.refuse("InvalidAuthenticationTokenTenant", "The access token is from another tenant than this server's.",
			fmt.Errorf("tenant %q", c.TenantID))
	}
	return c, nil
}

// identify finds the principal of a token that was verified.
func (t *Tokens) identify(c claims) (Caller, error) {
	p, ok := t.directory.Principal(c.ObjectID)
	if !ok || !p.Enabled {
		return Caller{}, t.refuse("InvalidAuthenticationToken", "The principal of the access token does not exist or is disabled.", nil)
	}
	if c.IssuedAt < p.ValidFrom.Unix() {
		return Caller{}, t.askAgain("The access token was revoked.", p.ValidFrom, nil)
	}
	return Caller{
		ObjectID: p.ObjectID, TenantID: p.TenantID, AppID: p.AppID, Name: p.Name, Type: p.Type,
		Groups: t.directory.groupsOf(p.ObjectID), TokenID: c.TokenID,
	}, nil
}

// remember caches a result for a while, unless a principal changed while it was found.
func (t *Tokens) remember(hash [sha256.Size]byte, generation uint64, c cached) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if generation != t.generation {
		return
	}
	if len(t.cache) >= cacheEntries {
		clear(t.cache)
	}
	if again := time.Now().Add(cacheTime); again.Before(c.until) {
		c.until = again
	}
	t.cache[hash] = c
}

// Authenticate tells who sent a request to the management plane. Cookies and other
// schemes do not count.
func (t *Tokens) Authenticate(r *http.Request) (Caller, error) {
	values := r.Header.Values("Authorization")
	switch {
	case len(values) == 0:
		return Caller{}, t.refuse("AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing.", nil)
	case len(values) > 1:
		return Caller{}, t.refuse("AuthenticationFailed", "Authentication failed. The 'Authorization' header is given more than once.", nil)
	}
	raw, ok := bearer(values[0])
	if !ok {
		return Caller{}, t.refuse("AuthenticationFailed", "Authentication failed. The 'Authorization' header is not of the scheme 'Bearer'.", nil)
	}
	caller, err := t.Validate(r.Context(), raw, t.management)
	if err == nil {
		telemetry.RecordOf(r.Context()).SetPrincipal(caller.Identity())
	}
	return caller, err
}

// bearer returns the token of a header value of the scheme Bearer.
func bearer(value string) (string, bool) {
	scheme, raw, ok := strings.Cut(value, " ")
	return strings.TrimSpace(raw), ok && strings.EqualFold(scheme, "Bearer")
}

func (t *Tokens) wrongAudience(audience string, wanted Audiences) error {
	accepted := "this server accepts '" + AudienceManagement + "' and its own address."
	if wanted.Has(AudiencePublish) {
		accepted = "publishing takes tokens for '" + AudiencePublish + "'."
	}
	return t.refuse("InvalidAuthenticationTokenAudience",
		"The access token has been obtained for the wrong audience or resource; "+accepted,
		fmt.Errorf("audience %q", audience))
}

// refuse makes the fault of a request that could not be authenticated, with its
// challenge. Source: spec/access.md section 5.
func (t *Tokens) refuse(code, message string, cause error) error {
	f := fault.New(fault.Unauthenticated, code, "%s", message).Because(cause)
	f.Challenge = fmt.Sprintf(`%s, error="invalid_token", error_description="%s"`, t.challenge(), message)
	return f
}

// askAgain refuses a token that may have been good once. The challenge has clients that
// hold it fetch another one, where they would send this one until it expires; they do so
// once. Source: spec/access.md section 5.
func (t *Tokens) askAgain(message string, since time.Time, cause error) error {
	f := fault.New(fault.Unauthenticated, "InvalidAuthenticationToken", "%s", message).Because(cause)
	claims := fmt.Sprintf(`{"access_token":{"nbf":{"essential":true,"value":"%d"}}}`, since.Unix())
	f.Challenge = fmt.Sprintf(`%s, error="insufficient_claims", error_description="%s", claims="%s"`, t.challenge(), message, base64.StdEncoding.EncodeToString([]byte(claims)))
	return f
}

// challenge says where tokens come from.
func (t *Tokens) challenge() string {
	return fmt.Sprintf(`Bearer authorization_uri="%s/%s"`, t.origins[0], t.tenant)
}
