package secret

import (
	"fmt"
	"io"
	"log/slog"
)

// Hidden is what a secret shows of itself.
const Hidden = "[hidden]"

// String is a secret text that hides itself from logs, from every fmt verb and
// from encoders. It can be decoded from JSON like a plain string.
type String string

// Reveal returns the secret. A call of it is the place to look at in a review.
func (s String) Reveal() string { return string(s) }

// String returns Hidden, or nothing for an empty secret.
func (s String) String() string {
	if s == "" {
		return ""
	}
	return Hidden
}

// GoString hides the secret from %#v.
func (s String) GoString() string { return s.String() }

// Format hides the secret from every verb, also from those that do not fit a text.
func (s String) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue hides the secret from slog.
func (s String) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText hides the secret from text encoders.
func (s String) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON hides the secret from JSON.
func (s String) MarshalJSON() ([]byte, error) { return []byte(`"` + s.String() + `"`), nil }

// String hides the key.
func (k Key) String() string { return Hidden }

// GoString hides the key from %#v.
func (k Key) GoString() string { return Hidden }

// Format hides the key from every verb.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Hidden) }

// LogValue hides the key from slog.
func (k Key) LogValue() slog.Value { return slog.StringValue(Hidden) }

// MarshalText hides the key from encoders.
func (k Key) MarshalText() ([]byte, error) { return []byte(Hidden), nil }
