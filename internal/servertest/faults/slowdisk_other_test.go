//go:build !linux

package faults

import (
	"errors"
	"testing"
)

// throttle needs control groups.
type throttle struct{}

func throttled(*testing.T, string, int) (*throttle, error) {
	return nil, errors.New("no control groups")
}

func (*throttle) limit(int64) error { return nil }
func (*throttle) enter() error      { return nil }
