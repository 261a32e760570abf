package cli

import "testing"

func TestCut(t *testing.T) {
	tests := []struct{ text, want string }{
		{"", ""},
		{"12345", "12345"},
		{"123456", "1234…"},
		{"äöüßé", "äöüßé"},
		{"äöüßéè", "äöüß…"},
	}
	for _, c := range tests {
		if got := cut(c.text, 5); got != c.want {
			t.Errorf("cut(%q, 5) = %q, want %q", c.text, got, c.want)
		}
	}
}
