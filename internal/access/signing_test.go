package access

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/internal/secret"
)

func TestMakeSigningKey(t *testing.T) {
	file := signingFile(filepath.Join(t.TempDir(), "signing.pem"))
	made, err := makeSigningKey(file, testSealer())
	if err != nil {
		t.Fatal(err)
	}
	if k, err := loadSigningKey(file, testSealer()); err != nil || k.id != made.id || !k.created.Equal(made.created) {
		t.Errorf("read %v, made %v: %v", k, made, err)
	}
	raw, err := os.ReadFile(file.Path)
	if err != nil || !secret.IsSealed(strings.TrimSpace(string(raw))) {
		t.Errorf("the file holds %.20q: %v", raw, err)
	}
	if _, err := loadSigningKey(file, secret.NewSealer(secret.Key{8})); !errors.Is(err, secret.ErrUnknownKey) {
		t.Errorf("with another master key: %v", err)
	}
	raw, err = json.Marshal(ringOf(made).KeySet())
	if err != nil {
		t.Fatal(err)
	}
	for _, member := range []string{`"d"`, `"p"`, `"q"`} {
		if strings.Contains(string(raw), member) {
			t.Errorf("the public keys hold the private member %s", member)
		}
	}
	shown := fmt.Sprintf("%v %+v %#v %s %d", made, made, made, made, made)
	if strings.Contains(shown, made.private.D.String()) || strings.Contains(shown, made.private.D.Text(16)) {
		t.Error("printing shows the key")
	}
}

func TestOpenKeyRingRefuses(t *testing.T) {
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
			dir := t.TempDir()
			path := SigningKeyPath(dir)
			if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, tt.text, tt.mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, tt.mode); err != nil {
				t.Fatal(err)
			}
			_, err := OpenKeyRing(dir, testSealer())
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
