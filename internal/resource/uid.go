package resource

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strconv"
)

// UID names a topic or an event subscription for ever: a name can be used again,
// a UID never. The log, the journal and dead letters hold UIDs.
type UID uint64

// NewUID returns a fresh random UID, never 0.
func NewUID() UID {
	var b [8]byte
	for {
		_, _ = rand.Read(b[:]) // crypto/rand.Read never fails
		if u := binary.BigEndian.Uint64(b[:]); u != 0 {
			return UID(u)
		}
	}
}

// String returns 16 hex digits.
func (u UID) String() string { return fmt.Sprintf("%016x", uint64(u)) }

// MarshalText writes String.
func (u UID) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText reads String.
func (u *UID) UnmarshalText(b []byte) error {
	n, err := strconv.ParseUint(string(b), 16, 64)
	if err != nil {
		return fmt.Errorf("uid %q is not 16 hex digits", b)
	}
	*u = UID(n)
	return nil
}
