package access

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

func TestLoadOrCreateSigningKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "signing.pem")
	keys := make([]*SigningKey, 3)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			k, err := LoadOrCreateSigningKey(path)
			if err != nil {
				t.Error(err)
				return
			}
			keys[i] = k
		})
	}
	wg.Wait()
	for _, k := range keys {
		if k == nil || k.ID() != keys[0].ID() {
			t.Fatal("processes that start at once hold different keys")
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %04o, want 0600", info.Mode().Perm())
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".new-*")); len(left) > 0 {
		t.Errorf("files left behind: %v", left)
	}
	raw, err := json.Marshal(ringOf(keys[0]).KeySet())
	if err != nil {
		t.Fatal(err)
	}
	for _, member := range []string{`"d"`, `"p"`, `"q"`} {
		if strings.Contains(string(raw), member) {
			t.Errorf("the public keys hold the private member %s", member)
		}
	}
	shown := fmt.Sprintf("%v %+v %#v %s %d", keys[0], keys[0], keys[0], keys[0], keys[0])
	if strings.Contains(shown, keys[0].private.D.String()) || strings.Contains(shown, keys[0].private.D.Text(16)) {
		t.Error("printing shows the key")
	}
}

func TestLoadSigningKeyRefuses(t *testing.T) {
	good := pkcs8(t, testKey().private)
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		text []byte
		mode os.FileMode
		want string
	}{
		{"group may read", good, 0o640, "chmod 600"},
		{"others may read", good, 0o604, "chmod 600"},
		{"empty", nil, 0o600, "PRIVATE KEY"},
		{"no PEM", []byte("hello"), 0o600, "PRIVATE KEY"},
		{"a certificate", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), 0o600, "PRIVATE KEY"},
		{"damaged", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}), 0o600, "PKCS #8"},
		{"small", pkcs8(t, small), 0o600, "2048 bits"},
		{"elliptic", pkcs8(t, curve), 0o600, "2048 bits"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if runtime.GOOS == "windows" && tt.mode != 0o600 {
				t.Skip("permission bits tell nothing on Windows")
			}
			path := filepath.Join(t.TempDir(), "signing.pem")
			if err := os.WriteFile(path, tt.text, tt.mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, tt.mode); err != nil {
				t.Fatal(err)
			}
			_, err := LoadOrCreateSigningKey(path)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
			if after, _ := os.ReadFile(path); string(after) != string(tt.text) {
				t.Error("the file was changed")
			}
		})
	}
}

func pkcs8(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}
