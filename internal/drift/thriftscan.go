package drift

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// scanThrift finds the end of a structure in Thrift's compact protocol. It counts down
// the structures in lists, which take more memory than they do bytes.
// Source: github.com/apache/thrift, doc/specs/thrift-compact-protocol.md.
type scanThrift struct {
	b       []byte
	at      int
	structs int
}

var errShort = fmt.Errorf("it ends too early: %w", io.ErrUnexpectedEOF)

func (s *scanThrift) byte() (byte, error) {
	if s.at >= len(s.b) {
		return 0, errShort
	}
	s.at++
	return s.b[s.at-1], nil
}

func (s *scanThrift) uvarint() (uint64, error) {
	x, n := binary.Uvarint(s.b[s.at:])
	if n == 0 {
		return 0, errShort
	}
	if n < 0 {
		return 0, errors.New("a number is too long")
	}
	s.at += n
	return x, nil
}

func (s *scanThrift) skip(n uint64) error {
	if n > uint64(len(s.b)-s.at) {
		return errShort
	}
	s.at += int(n)
	return nil
}

func (s *scanThrift) structure(depth int) error {
	if depth > mostThrift {
		return errors.New("its structures are too deep")
	}
	for {
		head, err := s.byte()
		if err != nil || head == 0 {
			return err
		}
		if head>>4 == 0 { // the field's number follows
			if _, err := s.uvarint(); err != nil {
				return err
			}
		}
		if kind := head & 15; kind > 2 { // true and false are in the head
			if err := s.value(kind, depth); err != nil {
				return err
			}
		}
	}
}

func (s *scanThrift) value(kind byte, depth int) error {
	switch kind {
	case 1, 2, 3: // in a list
		return s.skip(1)
	case 4, 5, 6:
		_, err := s.uvarint()
		return err
	case 7:
		return s.skip(8)
	case 8:
		n, err := s.uvarint()
		if err != nil {
			return err
		}
		return s.skip(n)
	case 9, 10:
		head, err := s.byte()
		if err != nil {
			return err
		}
		size := uint64(head >> 4)
		if size == 15 {
			if size, err = s.uvarint(); err != nil {
				return err
			}
		}
		return s.list(size, depth, head&15)
	case 11:
		size, err := s.uvarint()
		if err != nil || size == 0 {
			return err
		}
		kinds, err := s.byte()
		if err != nil {
			return err
		}
		return s.list(size, depth, kinds>>4, kinds&15)
	case 12:
		return s.structure(depth + 1)
	}
	return fmt.Errorf("it has values of an unknown kind %d", kind)
}

// list passes over the elements of a list, or the pairs of a map.
func (s *scanThrift) list(size uint64, depth int, kinds ...byte) error {
	if size > uint64(len(s.b)-s.at) { // each takes a byte at least
		return errShort
	}
	for range size {
		for _, kind := range kinds {
			if kind > 8 {
				if s.structs--; s.structs < 0 {
					return errors.New("it has too many structures")
				}
			}
			if kind > 8 && depth >= mostThrift {
				return errors.New("its structures are too deep")
			}
			if err := s.value(kind, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}
