//go:build unix && !linux

package engine

import "os"

// allocate gives a file blocks of the disk for its whole size.
func allocate(f *os.File, size int64) error { return writeZeros(f, size) }
