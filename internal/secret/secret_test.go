package secret

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

func testKey(b byte) Key {
	var k Key
	for i := range k {
		k[i] = b
	}
	return k
}

func TestSealOpen(t *testing.T) {
	s := NewSealer(testKey(1))
	for _, plain := range []string{"", "x", "https://hooks.example.org/in?code=s3cret", strings.Repeat("long ", 5000)} {
		sealed, err := s.Seal([]byte(plain), "uid-1/endpointUrl")
		if err != nil {
			t.Fatal(err)
		}
		if plain != "" && len(plain) > 3 && strings.Contains(sealed, plain) {
			t.Errorf("sealed text holds the plaintext")
		}
		got, err := s.Open(sealed, "uid-1/endpointUrl")
		if err != nil || string(got) != plain {
			t.Errorf("Open = %q, %v; want %q", got, err, plain)
		}
	}
}

func TestSealIsNeverTheSameTwice(t *testing.T) {
	s := NewSealer(testKey(1))
	a, _ := s.Seal([]byte("x"), "f")
	b, _ := s.Seal([]byte("x"), "f")
	if a == b {
		t.Errorf("two seals of one text are equal: %s", a)
	}
}

func TestOpenRefuses(t *testing.T) {
	s := NewSealer(testKey(1))
	sealed, err := s.Seal([]byte("secret"), "field")
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Split(sealed, ".")
	other, _ := s.Seal([]byte("other"), "field")
	g := strings.Split(other, ".")
	flip := func(text string) string {
		b := []byte(text)
		if b[5] == 'A' {
			b[5] = 'B'
		} else {
			b[5] = 'A'
		}
		return string(b)
	}
	tests := []struct {
		name, sealed, associated string
		want                     error
	}{
		{"another field", sealed, "field2", ErrSealed},
		{"empty", "", "field", ErrSealed},
		{"plain text", "https://x", "field", ErrSealed},
		{"another format", "s2" + sealed[2:], "field", ErrSealed},
		{"unknown key", strings.Join([]string{f[0], "000000000000", f[2], f[3]}, "."), "field", ErrUnknownKey},
		{"altered key", strings.Join([]string{f[0], f[1], flip(f[2]), f[3]}, "."), "field", ErrSealed},
		{"altered body", strings.Join([]string{f[0], f[1], f[2], flip(f[3])}, "."), "field", ErrSealed},
		{"body of another", strings.Join([]string{f[0], f[1], f[2], g[3]}, "."), "field", ErrSealed},
		{"key as body", strings.Join([]string{f[0], f[1], f[3], f[2]}, "."), "field", ErrSealed},
		{"cut", sealed[:len(sealed)-4], "field", ErrSealed},
		{"longer", sealed + ".x", "field", ErrSealed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := s.Open(tt.sealed, tt.associated); !errors.Is(err, tt.want) {
				t.Errorf("Open = %q, %v; want %v", got, err, tt.want)
			}
		})
	}
}

func TestMasterKeyRotation(t *testing.T) {
	old, fresh := testKey(1), testKey(2)
	sealed, _ := NewSealer(old).Seal([]byte("secret"), "f")
	both := NewSealer(fresh, old)
	if got, err := both.Open(sealed, "f"); err != nil || string(got) != "secret" {
		t.Fatalf("retired key: Open = %q, %v", got, err)
	}
	again, err := both.Rewrap(sealed, "f")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Split(again, ".")[3] != strings.Split(sealed, ".")[3] {
		t.Error("Rewrap changed the body")
	}
	if got, err := NewSealer(fresh).Open(again, "f"); err != nil || string(got) != "secret" {
		t.Errorf("after rotation: Open = %q, %v", got, err)
	}
	if _, err := NewSealer(old).Open(again, "f"); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("old key opens a rewrapped text: %v", err)
	}
	if _, err := both.Rewrap(sealed, "g"); !errors.Is(err, ErrSealed) {
		t.Errorf("Rewrap for another field: %v", err)
	}
}

// stored is a text as it may stand in a data directory, sealed with testKey(7).
const stored = "s1.28ece890311c.T5TSGLG4db3girmFp0XdhX-Egf4FTbQMyv9FdPLch1D-qwTn-T1LNWlIF7wpcYjXpF68MdEOAalvymI0.2gPE2iLusqckYaOg7n9m_B8Qjp6oZJEk2O4qUn7nTZcunfSYYmB6LADq19Q4opNGlo63WwrOyVA"

// A stored secret must open in every later version.
func TestStoredFormatStays(t *testing.T) {
	got, err := NewSealer(testKey(7)).Open(stored, "uid/field")
	if err != nil || string(got) != "kept since the first version" {
		t.Errorf("Open = %q, %v", got, err)
	}
}

func FuzzOpen(f *testing.F) {
	s := NewSealer(testKey(7))
	f.Add(stored)
	f.Add("s1..." + s.Current())
	f.Add("s1." + s.Current() + ".AAAA.AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := s.Open(text, "uid/field"); err == nil && text != stored {
			t.Errorf("a text that was never sealed opens: %q", text)
		}
	})
}

func TestLoadOrCreateKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "master.key")
	keys := make([]Key, 8)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			k, err := LoadOrCreateKey(path)
			if err != nil {
				t.Error(err)
			}
			keys[i] = k
		})
	}
	wg.Wait()
	for _, k := range keys {
		if k != keys[0] || k == (Key{}) {
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
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".key-*"))
	if len(left) > 0 {
		t.Errorf("files left behind: %v", left)
	}
}

func TestLoadKeyRefuses(t *testing.T) {
	dir := t.TempDir()
	good := strings.Repeat("ab", KeySize)
	tests := []struct {
		name, text string
		mode       os.FileMode
		want       string
	}{
		{"group may read", good, 0o640, "chmod 600"},
		{"others may read", good, 0o604, "chmod 600"},
		{"short", good[2:], 0o600, "64 hexadecimal digits"},
		{"empty", "", 0o600, "64 hexadecimal digits"},
		{"not hexadecimal", "zz" + good[2:], 0o600, "64 hexadecimal digits"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if runtime.GOOS == "windows" && tt.mode != 0o600 {
				t.Skip("permission bits tell nothing on Windows")
			}
			path := filepath.Join(dir, strings.ReplaceAll(tt.name, " ", "-"))
			if err := os.WriteFile(path, []byte(tt.text), tt.mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, tt.mode); err != nil {
				t.Fatal(err)
			}
			_, err := LoadOrCreateKey(path)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v, want one with %q", err, tt.want)
			}
			if strings.Contains(err.Error(), good[2:20]) {
				t.Errorf("error shows the key: %v", err)
			}
		})
	}
	if _, err := LoadOrCreateKey(dir); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a folder: %v", err)
	}
	if _, err := LoadOrCreateKey(filepath.Join(dir, "missing", "key")); err == nil {
		t.Error("a missing folder is no error")
	}
}

func TestSecretsHide(t *testing.T) {
	const word = "s3cret"
	var key Key
	copy(key[:], word)
	type holder struct {
		A String
		B Key
		C map[string]String
	}
	h := holder{String(word), key, map[string]String{"k": word}}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%c", "%10s"} {
		fmt.Fprintf(&out, verb+"\n", h)
		fmt.Fprintf(&out, verb+"\n", h.A)
		fmt.Fprintf(&out, verb+"\n", &h.A)
		fmt.Fprintf(&out, verb+"\n", h.B)
	}
	raw, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(raw)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "a", h.A, "b", h.B, "h", h)
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "a", h.A, "b", h.B, "h", h)
	for _, form := range []string{word, fmt.Sprintf("%x", word), fmt.Sprintf("%X", word), "115 51", "115,51"} {
		if strings.Contains(out.String(), form) {
			t.Errorf("secret shows as %q in:\n%s", form, out.String())
		}
	}
	if !strings.Contains(out.String(), Hidden) {
		t.Error("nothing says that something is hidden")
	}
	var back struct{ A String }
	if err := json.Unmarshal([]byte(`{"A":"s3cret"}`), &back); err != nil || back.A.Reveal() != word {
		t.Errorf("decoded %q, %v", back.A.Reveal(), err)
	}
	if got := fmt.Sprint(String("")); got != "" {
		t.Errorf("an empty secret prints %q", got)
	}
}

func TestMaskURL(t *testing.T) {
	for in, want := range map[string]string{
		"https://hooks.example.org/ml/events?code=s3cret":    "https://hooks.example.org/ml/events",
		"https://user:s3cret@hooks.example.org:8443/a%2Fb#s": "https://hooks.example.org:8443/a%2Fb",
		"https://hooks.example.org":                          "https://hooks.example.org",
		"https://[::1]:80/x?s3cret":                          "https://[::1]:80/x",
		"mailto:s3cret":                                      "(unreadable URL)",
		"https://h\x00/?s3cret":                              "(unreadable URL)",
		"":                                                   "(unreadable URL)",
	} {
		if got := MaskURL(in); got != want {
			t.Errorf("MaskURL(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestRedact(t *testing.T) {
	tests := []struct{ in, want string }{
		{"nothing here", "nothing here"},
		{`Post "https://h.example/a?code=s3cret": dial tcp 10.0.0.1:443: refused`, `Post "https://h.example/a": dial tcp 10.0.0.1:443: refused`},
		{"nats://me:s3cret@n1:4222 gone", "nats://n1:4222 gone"},
		{"Authorization: Bearer s3cret\nnext", "Authorization: [hidden]\nnext"},
		{`{"Authorization":"Basic s3cret"}`, `{"Authorization":"[hidden]"}`},
		{"aeg-sas-key: s3cret", "aeg-sas-key: [hidden]"},
		{"aeg-sas-token=r=x&s=s3cret", "aeg-sas-token=[hidden]"},
		{"got bearer s3cret, no", "got bearer [hidden], no"},
		{"grant_type=x&client_secret=s3cret&scope=y", "grant_type=x&client_secret=[hidden]&scope=y"},
		{`{"password": "s3cret", "a": 1}`, `{"password": "[hidden]", "a": 1}`},
		{"/in?sig=s3cret&code=s3cret", "/in?sig=[hidden]&code=[hidden]"},
		{"exit code 3", "exit code 3"},
	}
	for _, tt := range tests {
		got := Redact(tt.in)
		if got != tt.want {
			t.Errorf("Redact(%q)\n got %q\nwant %q", tt.in, got, tt.want)
		}
		if strings.Contains(got, "s3cret") {
			t.Errorf("Redact(%q) leaves the secret", tt.in)
		}
	}
}

func TestWithoutUserinfo(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"no address, ann@example.org", "no address, ann@example.org"},
		{"https://git.example/a.git", "https://git.example/a.git"},
		{"https://s3cret@git.example/a.git#sub?x=1", "https://git.example/a.git#sub?x=1"},
		{"https://ann:s3cret@git.example:8443/a@v1", "https://git.example:8443/a@v1"},
		{"https://ann:s3cret@s3cret@git.example", "https://git.example"},
		{"git+https://oauth2:s3cret@git.example/a", "git+https://git.example/a"},
		{"ssh://git@git.example/a", "ssh://git@git.example/a"},
		{"ssh://git:s3cret@git.example/a", "ssh://git.example/a"},
		{"git@git.example:a/b.git", "git@git.example:a/b.git"},
		{"fatal: unable to access 'https://ann:s3cret@git.example/a/': 403, see https://x.example/?who=ann@example.org", "fatal: unable to access 'https://git.example/a/': 403, see https://x.example/?who=ann@example.org"},
		{"s3://in/a,postgres://ann:s3cret@db:5432/x,s3://bucket,mysql://ann:s3cret@db/y", "s3://in/a,postgres://db:5432/x,s3://bucket,mysql://db/y"},
		{"models:/churn@champion", "models:/churn@champion"},
		{"://@ a://@h b://@", "://@ a://h b://"},
	} {
		if got := WithoutUserinfo(tt.in); got != tt.want || strings.Contains(got, "s3cret") {
			t.Errorf("WithoutUserinfo(%q)\n got %q\nwant %q", tt.in, got, tt.want)
		}
	}
}
