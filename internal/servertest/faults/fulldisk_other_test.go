//go:build !linux

package faults

import (
	"math/rand/v2"
	"testing"
	"time"
)

// testFullDisk needs a mount namespace.
func testFullDisk(t *testing.T, _ *rand.Rand, _ time.Duration) { t.Skip("a small disk needs Linux") }
