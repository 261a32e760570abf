package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"reflect"
	"strings"
	"testing"
	"time"
)

func encode(seq, generation, nonce uint64, at time.Time, requests ...[]Record) []byte {
	var e frameEncoder
	e.reset(seq, generation, nonce, at, 0)
	for _, r := range requests {
		e.add(r)
	}
	return e.finish()
}

func TestFrameRoundTrip(t *testing.T) {
	at := time.Unix(1700000000, 123456789).UTC()
	first := []Record{
		{Kind: KindEvent, Schema: 2, Flags: 1, Topic: 1 << 63, Data: []byte("{}")},
		{Kind: KindFact, Key: "run/w/é", Data: bytes.Repeat([]byte("x"), 300)},
	}
	second := []Record{{Kind: KindFact, Key: "run/w/2"}}
	f, err := decodeFrame(9, encode(9, 8, 7, at, first, second))
	if err != nil {
		t.Fatal(err)
	}
	second[0].Data = []byte{}
	want := &Frame{Seq: 9, Generation: 8, Nonce: 7, Time: at, Records: append(first, second...), Size: f.Size}
	if !reflect.DeepEqual(f, want) {
		t.Errorf("got %+v\nwant %+v", f, want)
	}
}

// TestFrameBytes pins the stored format: a change of these bytes is a new format
// version.
func TestFrameBytes(t *testing.T) {
	got := encode(2, 3, 0x0102030405060708, time.Unix(0, 5), []Record{{Kind: KindFact, Topic: 6, Key: "k", Data: []byte("v")}})
	want := []byte("CF\x01\x00\xf5\x80\xd3\x4f" +
		"\x01\x02\x03\x04\x05\x06\x07\x08" + "\x00\x00\x00\x00\x00\x00\x00\x03" + "\x00\x00\x00\x00\x00\x00\x00\x05" + "\x00\x00\x00\x01" +
		"\x02\x00\x00" + "\x00\x00\x00\x00\x00\x00\x00\x06" + "\x01k" + "\x01v")
	copy(want[4:8], got[4:8])
	if !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
	if sum := binary.BigEndian.Uint32(got[4:]); sum != crc32.Checksum(got[8:], crc32.MakeTable(crc32.Castagnoli)) {
		t.Errorf("checksum %x", sum)
	}
}

func TestFrameRefusesDamage(t *testing.T) {
	good := encode(1, 2, 3, time.Unix(4, 5), []Record{{Kind: KindEvent, Data: []byte("data")}})
	sealed := func(b []byte) []byte { // a valid checksum over bad content
		binary.BigEndian.PutUint32(b[4:], crc32.Checksum(b[8:], castagnoli))
		return b
	}
	edit := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(good)) }
	cases := map[string][]byte{
		"empty":               nil,
		"short header":        good[:frameHeader-1],
		"other magic":         edit(func(b []byte) []byte { b[0] = 'X'; return b }),
		"newer version":       edit(func(b []byte) []byte { b[2] = 2; return b }),
		"unknown codec":       edit(func(b []byte) []byte { b[3] = 1; return b }),
		"flipped bit":         edit(func(b []byte) []byte { b[len(b)-1] ^= 1; return b }),
		"cut":                 good[:len(good)-1],
		"too many records":    edit(func(b []byte) []byte { b[35] = 2; return sealed(b) }),
		"too few records":     edit(func(b []byte) []byte { b[35] = 0; return sealed(b) }),
		"huge record count":   edit(func(b []byte) []byte { b[32] = 0xff; return sealed(b) }),
		"data past the end":   edit(func(b []byte) []byte { b[frameHeader+12] = 5; return sealed(b) }),
		"data shorter":        edit(func(b []byte) []byte { b[frameHeader+12] = 3; return sealed(b) }),
		"length in two bytes": edit(func(b []byte) []byte { b[frameHeader+11], b[frameHeader+12] = 0x80, 0; return sealed(b) }),
	}
	for name, b := range cases {
		if f, err := decodeFrame(1, b); !errors.Is(err, ErrCorrupt) || f != nil {
			t.Errorf("%s: %v %v", name, f, err)
		}
	}
}

func TestPositionsAndSequencers(t *testing.T) {
	p := At(0x123456789abc, 0xdef0)
	if p.Seq() != 0x123456789abc || p.Index() != 0xdef0 || p.String() != "123456789abcdef0" {
		t.Errorf("position %s seq %x index %x", p, p.Seq(), p.Index())
	}
	if s := Sequencer(0xfe, p); s != "00000000000000fe123456789abcdef0" || len(s) != SequencerSize {
		t.Errorf("sequencer %s", s)
	}
	order := []string{Sequencer(1, At(900, 5)), Sequencer(1, At(900, 6)), Sequencer(1, At(901, 0)), Sequencer(2, At(1, 0))}
	for i := 1; i < len(order); i++ {
		if order[i-1] >= order[i] {
			t.Errorf("%s does not sort before %s", order[i-1], order[i])
		}
	}
}

func TestKeysAndTokens(t *testing.T) {
	for key, want := range map[string]string{
		"a":                 "a",
		"run/w-1/exp_2/R9":  "run.w-1.exp_2.R9",
		"a.b*c>d e=f":       "a=2Eb=2Ac=3Ed=20e=3Df",
		"/a//b/":            "=.a.=.b.=",
		"é/\x00":            "=C3=A9.=00",
		"/":                 "=.=",
		"/subscriptions/x~": "=.subscriptions.x=7E",
	} {
		got, err := escapeKey(key)
		if err != nil || got != want {
			t.Errorf("%q: %q %v, want %q", key, got, err, want)
		}
		if back, err := unescapeKey(got); err != nil || back != key {
			t.Errorf("%q came back as %q, %v", key, back, err)
		}
	}
	for _, key := range []string{"", strings.Repeat("é", 10_000)} {
		if _, err := escapeKey(key); err == nil {
			t.Errorf("key of %d bytes was taken", len(key))
		}
	}
	for prefix, want := range map[string]string{"": "r.>", "run/": "r.run.>", "run/w": "r.run.>", "run/w/": "r.run.w.>", "/": "r.=.>"} {
		if got := prefixFilter("r.", prefix); got != want {
			t.Errorf("prefix %q: %q, want %q", prefix, got, want)
		}
	}
}

func FuzzKey(f *testing.F) {
	f.Add("run/w/1")
	f.Add("//é=.*>")
	f.Fuzz(func(t *testing.T, key string) {
		tokens, err := escapeKey(key)
		if err != nil {
			return
		}
		for _, token := range strings.Split(tokens, ".") {
			if token == "" || strings.ContainsAny(token, " *>\t\r\n\x00") {
				t.Fatalf("%q has token %q", key, token)
			}
		}
		if back, err := unescapeKey(tokens); err != nil || back != key {
			t.Fatalf("%q came back as %q, %v", key, back, err)
		}
	})
}

// FuzzFrame repairs magic, version and checksum, so that the reader of records is
// reached, and demands that what decodes encodes to the same bytes.
func FuzzFrame(f *testing.F) {
	f.Add(encode(1, 2, 3, time.Unix(4, 5), []Record{{Kind: KindEvent, Schema: 1, Topic: 6, Data: []byte("data")}, {Kind: KindFact, Key: "k"}}))
	f.Add(encode(1, 2, 3, time.Unix(4, 5), make([]Record, 200)))
	f.Add([]byte("CF"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = decodeFrame(1, b)
		if len(b) < frameHeader {
			return
		}
		b = bytes.Clone(b)
		copy(b, "CF\x01\x00")
		binary.BigEndian.PutUint32(b[4:], crc32.Checksum(b[8:], castagnoli))
		got, err := decodeFrame(1, b)
		if err != nil {
			return
		}
		if again := encode(1, got.Generation, got.Nonce, got.Time, got.Records); !bytes.Equal(again, b) {
			t.Fatalf("encoded again:\n%x\nwas\n%x", again, b)
		}
	})
}
