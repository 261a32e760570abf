package filter

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// FuzzIndex makes a population of filters, some events, and a history of an index
// out of the fuzzer's bytes, and compares the index, after every step and on
// snapshots kept from earlier ones, with a plain loop and with the reference
// evaluator. The first eight bytes seed what chooses after the last byte, so that
// few bytes make large populations.
func FuzzIndex(f *testing.F) {
	for i := range byte(48) {
		f.Add([]byte{i, i * 37})
		f.Add(append(bytes.Repeat([]byte{i}, 8), bytes.Repeat([]byte{i, i * 37, i * 101, 255 - i, i * i}, 30)...))
	}
	var scratch Scratch // one for the whole run: it must not matter what it was used for before
	f.Fuzz(func(t *testing.T, choices []byte) {
		var seed [8]byte
		n := copy(seed[:], choices)
		random := rand.New(rand.NewPCG(binary.LittleEndian.Uint64(seed[:]), 0))
		// The shape is the seed's, so that the bytes are left for what is in it.
		filters := [...]int{2, 4, 8, 8, 12, 20, 20, 40, 40, 80, 300}[random.IntN(11)]
		templates := max(1, filters/[...]int{1, 4, 10, 100}[random.IntN(4)])
		events := 1 + random.IntN(4)
		steps := random.IntN(16)

		g := &generator{choices: choices[n:], random: random}
		w := newWorld(t, g, events, min(templates, 40), filters, 5)
		var members []member
		for i, c := range w.population {
			if id := w.id(i); g.choose(4) > 0 {
				at, _ := find(members, id)
				members = append(members[:at:at], append([]member{{id, c}}, members[at:]...)...)
			}
		}
		present := w.build(members)
		for i := range events {
			w.check(t, present, i, &scratch)
		}
		old := []state{present}
		for range steps {
			if g.choose(8) == 0 {
				old = append(old, present)
			}
			switch g.choose(16) {
			case 0:
				present = w.build(present.members)
			case 1:
				present = old[g.choose(len(old))]
			default:
				present = w.step(present, filters+2)
			}
			w.check(t, present, g.choose(events), &scratch)
			w.check(t, present, g.choose(events), &scratch)
			w.check(t, old[g.choose(len(old))], g.choose(events), &scratch)
		}
	})
}
