package secret

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// Source: spec/delivery.md section 9.6, test vector.
const (
	vectorID     = "evt_0001"
	vectorTime   = 1760000000
	vectorBody   = `{"type":"ml.model.registered","data":{"name":"m","version":"3"}}`
	vectorSecret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	vectorV1     = "v1,tgidHLSUzSC7Db3GEGfW1B+HjSUo6E5rf0F9OUgw+4g="
	vectorPublic = "whpk_6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw="
	vectorV1a    = "v1a,ECHgfmaKDcVDTrh2okhC6jKuiQSjQRGFHQjFdwasUC1LdaClLa+82AdSOr0y4Pk1G+qIQVhQHTjtwkyqLNqtAQ=="
)

func TestSignatures(t *testing.T) {
	seed := privatePrefix + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	for _, tt := range []struct{ name, key, version, public, want string }{
		{"v1", vectorSecret, "v1", "", vectorV1},
		{"v1a", seed, "v1a", vectorPublic, vectorV1a},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k, err := ParseSigningKey(tt.key)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(k.AppendSignature([]byte("> "), vectorID, vectorTime, []byte(vectorBody))); got != "> "+tt.want {
				t.Errorf("signature %s, want %s", got, tt.want)
			}
			if k.Version() != tt.version || k.Public() != tt.public {
				t.Errorf("version %s, public key %s", k.Version(), k.Public())
			}
			again, err := ParseSigningKey(k.Reveal())
			if err != nil || again.Reveal() != k.Reveal() {
				t.Errorf("read again: %v", err)
			}
			for _, other := range []string{
				string(k.AppendSignature(nil, vectorID+"x", vectorTime, []byte(vectorBody))),
				string(k.AppendSignature(nil, vectorID, vectorTime+1, []byte(vectorBody))),
				string(k.AppendSignature(nil, vectorID, vectorTime, []byte(vectorBody+" "))),
			} {
				if other == tt.want {
					t.Error("another message has the same signature")
				}
			}
		})
	}
}

func TestNewSigningKey(t *testing.T) {
	for _, version := range []string{SignatureV1, SignatureV1a} {
		a, errA := NewSigningKey(version)
		b, errB := NewSigningKey(version)
		if errA != nil || errB != nil || a.Version() != version || a.Reveal() == b.Reveal() {
			t.Errorf("%s: %v, %v; version %s", version, errA, errB, a.Version())
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
			if got := fmt.Sprintf(verb, struct{ K SigningKey }{a}); !strings.Contains(got, Hidden) || strings.Contains(got, a.Reveal()[8:20]) {
				t.Errorf("%s shows %s", verb, got)
			}
		}
		if raw, err := json.Marshal(a); err != nil || string(raw) != `"`+Hidden+`"` {
			t.Errorf("JSON %s, %v", raw, err)
		}
	}
	if _, err := NewSigningKey("v2"); err == nil {
		t.Error("v2 is no version")
	}
}

func FuzzParseSigningKey(f *testing.F) {
	f.Add(vectorSecret)
	f.Add("whsk_" + base64.StdEncoding.EncodeToString(make([]byte, 32)))
	f.Add("whsk_" + base64.StdEncoding.EncodeToString(make([]byte, 64)))
	f.Add("whsec_AAAA")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := ParseSigningKey(text)
		if err != nil {
			if len(text) > 12 && strings.Contains(err.Error(), text[6:]) {
				t.Errorf("the error shows the key: %v", err)
			}
			return
		}
		again, err := ParseSigningKey(k.Reveal())
		if err != nil || again.Reveal() != k.Reveal() {
			t.Errorf("%q is not read again: %v", text, err)
		}
	})
}
