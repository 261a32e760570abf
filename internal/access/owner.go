package access

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// LocalTokenLifetime is how long a token lives that was signed from the data
// directory, unless something else was asked for.
const LocalTokenLifetime = 12 * time.Hour

// Owner is who a data directory belongs to, as DIR/owner.json tells commands that
// run on the same machine.
type Owner struct {
	TenantID string `json:"tenantId"`
	ObjectID string `json:"objectId"`
	AppID    string `json:"appId"`
	Name     string `json:"name"`
	URL      string `json:"url,omitempty"` // where the server was last reached

	MasterKey MasterKeyPlace `json:"masterKey,omitzero"` // where the server last had it
}

// MasterKeyPlace is where a server has its master key that does not keep it in the data
// directory. A command is not told: commands that are given the directory would run what
// is written in it.
type MasterKeyPlace struct {
	File    string `json:"file,omitempty"`
	Env     string `json:"env,omitempty"`
	Command bool   `json:"command,omitempty"`
}

func placeOf(s secret.Source) MasterKeyPlace {
	if file, err := filepath.Abs(s.File); s.File != "" && err == nil {
		s.File = file
	}
	return MasterKeyPlace{File: s.File, Env: s.Env, Command: s.Command != ""}
}

func (p MasterKeyPlace) source() secret.Source { return secret.Source{File: p.File, Env: p.Env} }

// OwnerPath is where the owner of a data directory is written.
func OwnerPath(dir string) string { return filepath.Join(dir, "owner.json") }

// origin is the one record that says how the directory began.
type origin struct {
	Owner      Owner     `json:"owner"` // without what changes
	Assignment string    `json:"assignment"`
	Created    time.Time `json:"created"`
	Complete   bool      `json:"complete"` // the owner and its role were stored
}

const originKey = "origin"

// Bootstrap makes the tenant and its owner at the first start and writes the
// owner to path at every start, with the address under which the server is
// reached and where its master key is. An owner that was removed later is not made again. A start that was
// cut short is completed by the next. Call it after the store is loaded.
// Source: spec/access.md section 14.1.
func (d *Directory) Bootstrap(ctx context.Context, path, url string, master secret.Source) (Owner, error) {
	item, ok := d.origin.Get(originKey)
	if !ok {
		first := origin{
			Owner:      Owner{TenantID: uuid.NewString(), ObjectID: uuid.NewString(), AppID: uuid.NewString(), Name: "owner"},
			Assignment: uuid.NewString(), Created: time.Now().UTC(),
		}
		var err error
		if item, err = d.origin.Create(ctx, originKey, first); err != nil {
			return Owner{}, fmt.Errorf("found the directory: %w", err)
		}
	}
	if !item.Value.Complete {
		if err := d.makeOwner(ctx, item.Value); err != nil {
			return Owner{}, fmt.Errorf("make the owner: %w", err)
		}
		done := item.Value
		done.Complete = true
		if _, err := d.origin.Update(ctx, originKey, done, item.Revision); err != nil {
			return Owner{}, fmt.Errorf("found the directory: %w", err)
		}
	}
	owner := item.Value.Owner
	owner.URL, owner.MasterKey = url, placeOf(master)
	if err := writeOwner(path, owner); err != nil {
		return Owner{}, err
	}
	return owner, nil
}

// makeOwner stores what of the owner is not there yet. The owner has no client
// secret: its tokens are signed from the data directory.
func (d *Directory) makeOwner(ctx context.Context, o origin) error {
	var self = Caller{ObjectID: o.Owner.ObjectID, AppID: o.Owner.AppID, Name: o.Owner.Name, Type: ServicePrincipal}
	_, err := d.principals.Create(ctx, o.Owner.ObjectID, Principal{
		ObjectID: o.Owner.ObjectID, TenantID: o.Owner.TenantID, AppID: o.Owner.AppID, Name: o.Owner.Name,
		Type: ServicePrincipal, Enabled: true, ValidFrom: o.Created.Truncate(time.Second), Created: self.Stamp(o.Created),
	})
	if err != nil && !fault.Is(err, fault.Conflict) {
		return err
	}
	_, _, err = d.Assign(ctx, Assignment{Name: o.Assignment, Scope: resource.Root, RoleID: RoleOwner, PrincipalID: o.Owner.ObjectID}, self)
	return err
}

// TenantID returns the tenant of the directory, "" before Bootstrap.
func (d *Directory) TenantID() string {
	item, _ := d.origin.Get(originKey)
	return item.Value.Owner.TenantID
}

// writeOwner replaces the owner file when it says something else.
func writeOwner(path string, owner Owner) error {
	text, err := json.MarshalIndent(owner, "", "  ")
	if err != nil {
		return fmt.Errorf("encode owner: %w", err)
	}
	text = append(text, '\n')
	if err := secret.CheckPrivate(path); err == nil {
		if old, err := os.ReadFile(path); err == nil && string(old) == string(text) {
			return nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := secret.WritePrivate(path, text); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// Local makes tokens of a data directory's owner from the directory alone, whether
// the server runs or not.
type Local struct {
	Owner Owner
	key   *SigningKey
}

// OpenLocal reads the owner and the signing key of a data directory. It refuses
// files that others may read. given says where the master key is that the signing key is
// sealed with; the zero value looks where the server last had it.
func OpenLocal(ctx context.Context, dir string, given secret.Source) (*Local, error) {
	path := OwnerPath(dir)
	if err := secret.CheckPrivate(path); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s has no owner yet: start the server on it once, with carillon serve --data %s", dir, dir)
	} else if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read owner: %w", err)
	}
	var l Local
	if err := json.Unmarshal(text, &l.Owner); err != nil || l.Owner.TenantID == "" || l.Owner.ObjectID == "" {
		return nil, fmt.Errorf("%s is damaged: start the server on the directory to write it again", path)
	}
	if given.Own() {
		given = l.Owner.MasterKey.source()
		if l.Owner.MasterKey.Command {
			return nil, fmt.Errorf("the key that signs tokens is sealed with a master key that the server has by --master-key-command: give that command here too, as in carillon env --data %s --master-key-command '…'", dir)
		}
	}
	l.key, err = openSigningKey(ctx, signingFile(SigningKeyPath(dir)), given.In(dir))
	return &l, err
}

// openSigningKey reads a signing key beside a server that may run, and the master key
// for it.
func openSigningKey(ctx context.Context, file secret.File, from secret.Source) (*SigningKey, error) {
	for attempt := 0; ; attempt++ {
		id, err := file.KeyID()
		if err != nil {
			return nil, fmt.Errorf("read signing key: %w", err)
		}
		var sealer *secret.Sealer
		if id != "" {
			master, err := from.Load(ctx)
			if err != nil {
				return nil, fmt.Errorf("the key that signs tokens is sealed with the master key %s, which cannot be had; give --master-key-file, --master-key-env or --master-key-command as the server was given: %w", id, err)
			}
			sealer = secret.NewSealer(master[0], master[1:]...)
		}
		k, err := loadSigningKey(file, sealer)
		// The server may have sealed the file with a new master key in between.
		if errors.Is(err, secret.ErrUnknownKey) && attempt < 2 {
			continue
		}
		if errors.Is(err, secret.ErrUnknownKey) {
			return nil, fmt.Errorf("%w; it is not in %s: give --master-key-file, --master-key-env or --master-key-command as the server was given", err, from.Name())
		}
		return k, err
	}
}

// Token signs a token of the owner for an audience, such as AudienceManagement.
func (l *Local) Token(audience string, lifetime time.Duration) (Issued, error) {
	if lifetime < time.Second || lifetime > MaxTokenLifetime {
		return Issued{}, errTokenLife(lifetime)
	}
	return l.key.issue(Grant{
		Principal: Principal{ObjectID: l.Owner.ObjectID, TenantID: l.Owner.TenantID, AppID: l.Owner.AppID, Name: l.Owner.Name, Type: ServicePrincipal},
		Audience:  audience, Issuer: localIssuer(l.Owner.TenantID), Lifetime: lifetime,
	})
}

// localIssuer is the issuer claim of tokens signed from the data directory. It
// holds no address, so these tokens outlive a move to another port.
func localIssuer(tenant string) string { return "urn:carillon:" + tenant + ":local/v2.0" }
