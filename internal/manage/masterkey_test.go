package manage

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

var errKilled = errors.New("killed")

// killer stands for a process that is killed at its nth step: nothing that it does
// from then on has an effect. Each write is two steps, the moment before it and the
// moment after.
type killer struct{ steps, at int }

func (k *killer) step() error {
	k.steps++
	if k.at > 0 && k.steps >= k.at {
		return errKilled
	}
	return nil
}

func (k *killer) around(write func() error) error {
	if err := k.step(); err != nil {
		return err
	}
	if err := write(); err != nil {
		return err
	}
	return k.step()
}

type killedKV struct {
	resource.KV
	k *killer
}

func (kv killedKV) Create(ctx context.Context, key string, value []byte) (rev uint64, err error) {
	err = kv.k.around(func() (err error) { rev, err = kv.KV.Create(ctx, key, value); return err })
	return rev, err
}

func (kv killedKV) Update(ctx context.Context, key string, value []byte, revision uint64) (rev uint64, err error) {
	err = kv.k.around(func() (err error) { rev, err = kv.KV.Update(ctx, key, value, revision); return err })
	return rev, err
}

func (kv killedKV) Delete(ctx context.Context, key string, revision uint64) error {
	return kv.k.around(func() error { return kv.KV.Delete(ctx, key, revision) })
}

type killedKeys struct {
	secret.Source
	k *killer
}

func (s killedKeys) Keep(keys ...secret.Key) error {
	return s.k.around(func() error { return s.Source.Keep(keys...) })
}

// killedFile is a key file whose writes are steps.
type killedFile struct {
	secret.File
	sealer func() *secret.Sealer
	k      *killer
}

func (f killedFile) SealedWith() ([]string, error) {
	id, err := f.KeyID()
	return []string{id}, err
}

func (f killedFile) Reseal() error {
	return f.k.around(func() error { return f.File.Reseal(f.sealer()) })
}

// sealed is a fixture with secrets of every kind, and a file with its master key.
func sealed(t *testing.T) (f *fixture, source secret.Source, k *killer, secrets func() string) {
	t.Helper()
	f, k = newFixture(t), &killer{}
	source = secret.Source{Kept: filepath.Join(t.TempDir(), "master.key")}
	if _, err := secret.LoadOrCreateKey(source.Kept); err != nil {
		t.Fatal(err)
	}
	f.through = func(kv resource.KV) resource.KV { return killedKV{kv, k} }
	f.keys = killedKeys{source, k}
	file := killedFile{secret.File{Path: filepath.Join(t.TempDir(), "key.pem"), Owner: "a key"}, func() *secret.Sealer { return f.Sealer }, k}
	f.keyFiles = []KeyFiles{file}
	if err := os.WriteFile(file.Path, []byte("pr1vate"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.start(t)
	if err := file.Reseal(); err != nil {
		t.Fatal(err)
	}
	chain, key := certificate(t, "client", time.Now().Add(time.Hour))
	at := workspaceID + extension + "es1"
	c := withAttributes(hookURL, static("X-Key", "s3cret", true))
	c.Destination.Signing = &SigningChange{Version: "v1"}
	c.Destination.TokenIssuer, c.Destination.ClientCertificate = &someIssuer, &ClientCertificateChange{chain, &key}
	f.put(t, at, c)
	f.put(t, workspaceID+extension+"es2", hook(hookURL))
	f.topic(t, "orders", "EventGridSchema")
	f.connection(t, "bus", toResource(busNamespace, "s3cret"))
	f.connection(t, "data", toBucket("data"))
	f.endpoint.will(silent) // a change that waits for its handshake
	f.put(t, workspaceID+extension+"es2", hook("https://other.example/in?code=s3cret"))
	f.endpoint.will(nil)
	return f, source, k, func() string {
		t.Helper()
		var all []string
		ctx := t.Context()
		for _, name := range []string{"es1", "es2"} {
			url, err := f.FullURL(ctx, f.owner, id(workspaceID+extension+name))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, url)
		}
		keys, err := f.TopicKeys(ctx, f.owner, id(topicsPrefix+"orders"))
		if err != nil {
			t.Fatal(err)
		}
		attributes, err := f.DeliveryAttributes(ctx, f.owner, id(at))
		if err != nil {
			t.Fatal(err)
		}
		es := f.get(t, at).Value
		credentials, err := OpenCredentials(f.Sealer, &es, es.Destination)
		if err != nil {
			t.Fatal(err)
		}
		private, err := file.Read(f.Sealer)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f.secretsOf(t, "bus"), f.secretsOf(t, "data"), string(private), keys[0], keys[1], attributes[0].Value, credentials.Token.ClientSecret.Reveal(), credentials.Certificate.Leaf.Subject.CommonName)
		return strings.Join(append(all, f.keysOf(t, at)...), "|")
	}
}

// holding returns which stored records hold something that is sealed under a key.
func (f *fixture) holding(key string) (records []string) {
	for name, value := range f.kv.Dump() {
		if strings.Contains(value, secret.BeginningOf(key)) {
			records = append(records, name)
		}
	}
	slices.Sort(records)
	return records
}

func kept(t *testing.T, source secret.Source) (ids []string) {
	t.Helper()
	keys, err := source.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return idsOf(keys)
}

func TestRotateMasterKey(t *testing.T) {
	f, source, _, secrets := sealed(t)
	want, old := secrets(), f.Sealer.Current()
	if strings.Count(want, "s3cret") != 7 || len(f.holding(old)) != 5 {
		t.Fatalf("the fixture has %s in %s", want, f.holding(old))
	}
	for _, role := range []string{access.RoleContributor, access.RoleReader, ""} {
		if _, err := f.RotateMasterKey(t.Context(), f.user(t, role, "/")); !fault.Is(err, fault.Forbidden) {
			t.Errorf("role %q rotates: %v", role, err)
		}
	}
	k, err := f.RotateMasterKey(t.Context(), f.owner)
	if err != nil || !k.Rotating || k.KeyID == old || !slices.Equal(k.Retired, []string{old}) || k.Behind != k.Secrets || k.Secrets != 13 || k.Rotated.IsZero() {
		t.Fatalf("after the rotation: %+v, %v", k, err)
	}
	if _, err := f.RotateMasterKey(t.Context(), f.owner); !fault.Is(err, fault.Conflict) {
		t.Errorf("a rotation during a rotation: %v", err)
	}
	if got := secrets(); got != want {
		t.Errorf("before anything is sealed anew the secrets are %s, want %s", got, want)
	}
	// A request that sealed with the old key comes last.
	slow := f.Store.Topics.List("")[0]
	stale := slow.Value
	if err := f.reseal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if k, err = f.MasterKey(t.Context(), f.owner); err != nil || k.Rotating || k.Behind != 0 || len(k.Retired) != 0 {
		t.Errorf("at the end: %+v, %v", k, err)
	}
	if got := kept(t, source); !slices.Equal(got, []string{k.KeyID}) || len(f.holding(old)) != 0 {
		t.Errorf("the file has the keys %s, and %s are sealed with the old one", got, f.holding(old))
	}
	stale.ID = id(topicsPrefix + "late")
	if _, err := f.Store.Topics.Create(t.Context(), stale.ID.Key(), stale); !fault.Is(err, fault.Conflict) || len(f.holding(old)) != 0 {
		t.Errorf("something sealed with a key that is gone is stored: %v", err)
	}
	f.start(t)
	if got := secrets(); got != want {
		t.Errorf("after a restart the secrets are %s, want %s", got, want)
	}
	f.put(t, workspaceID+extension+"es1", hook(hookURL)) // changes go on
}

// TestRotateKilledAnywhere kills the process at each of its steps, starts it again, and
// finds every secret; the rotation is done again or goes on to its end.
func TestRotateKilledAnywhere(t *testing.T) {
	steps := 0
	for at := 1; ; at++ {
		f, source, k, secrets := sealed(t)
		want, old := secrets(), f.Sealer.Current()
		k.steps, k.at = 0, at
		_, err := f.RotateMasterKey(t.Context(), f.owner)
		rotated := err == nil
		if err == nil {
			err = f.reseal(t.Context())
		}
		if err == nil {
			steps = at - 1
			break
		}
		if !errors.Is(err, errKilled) {
			t.Fatalf("step %d: %v", at, err)
		}
		k.at = 0
		f.start(t)
		if got := secrets(); got != want {
			t.Fatalf("killed at step %d the secrets are %s, want %s", at, got, want)
		}
		if err := f.reseal(t.Context()); err != nil {
			t.Fatalf("killed at step %d, the next start cannot go on: %v", at, err)
		}
		ids := kept(t, source)
		if len(ids) != 1 || rotated && ids[0] == old || len(f.holding(ids[0])) != 5 {
			t.Errorf("killed at step %d, in the end the keys are %s (before %s) and seal %s", at, ids, old, f.holding(ids[0]))
		}
		f.start(t)
		if got := secrets(); got != want {
			t.Errorf("killed at step %d, in the end the secrets are %s, want %s", at, got, want)
		}
	}
	if steps < 12 {
		t.Errorf("the rotation had %d steps, too few to be one", steps)
	}
}

func TestMasterKeyOfTheOperator(t *testing.T) {
	f, source, _, secrets := sealed(t)
	want, old := secrets(), f.Sealer.Current()
	ids := kept(t, source)
	file := filepath.Join(t.TempDir(), "key")
	write := func(lines ...string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first, second := strings.Repeat("a1", 32), strings.Repeat("b2", 32)
	// Moved out of the data directory by one start.
	write(first)
	outside := secret.Source{Kept: source.Kept, File: file}
	f.keys = outside
	f.start(t)
	if got := secrets(); got != want {
		t.Fatalf("with a key from outside the secrets are %s, want %s", got, want)
	}
	if err := f.reseal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(source.Kept); !os.IsNotExist(err) || len(f.holding(old)) != 0 {
		t.Errorf("the key of %s is still there (%v) or needed by %s", ids, err, f.holding(old))
	}
	// Rotated by the file.
	if _, err := f.RotateMasterKey(t.Context(), f.owner); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "--master-key-file") {
		t.Errorf("without a new key: %v", err)
	}
	write(second, first)
	if _, err := f.RotateMasterKey(t.Context(), f.owner); err != nil {
		t.Fatal(err)
	}
	if err := f.reseal(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(second)
	f.start(t)
	if got := secrets(); got != want {
		t.Errorf("with the second key the secrets are %s, want %s", got, want)
	}
	write(first, second)
	f.start(t)
	if err := f.reseal(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Without a key that is needed nothing starts.
	keys, err := secret.ParseKeys(second)
	if err != nil {
		t.Fatal(err)
	}
	f.Sealer = secret.NewSealer(keys[0])
	if err := f.CheckSecrets(keys); err == nil || !strings.Contains(err.Error(), "12 secrets are sealed with the master key") || strings.Contains(err.Error(), first) {
		t.Errorf("without the key: %v", err)
	}
}
