package mlflow

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/internal/resource"
)

func intentsAt(t testing.TB, path string) *intents {
	t.Helper()
	i, err := openIntents(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.close)
	return i
}

// reopened returns the objects that a process after this one finds.
func reopened(t *testing.T, path string) (objects []string) {
	t.Helper()
	list, _ := intentsAt(t, path).left()
	for _, it := range list {
		objects = append(objects, fmt.Sprintf("%d %s", it.server, it.object))
	}
	return objects
}

func TestIntents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "intents")
	i := intentsAt(t, path)
	first := i.begin(7, Object{Run: "a"})
	i.begin(7, Object{Run: "a"})
	i.begin(8, Object{Model: "of many\nlines \xff\""})
	first()
	first()
	i.begin(7, Object{Run: strings.Repeat("x", mostIntentName+1)})() // goes without
	want := []string{"7 run a", "8 " + Object{Model: "of many\nlines \xff\""}.String()}
	if got := reopened(t, path); !slices.Equal(got, want) {
		t.Errorf("left %q, want %q", got, want)
	}
	i = intentsAt(t, path)
	_, ends := i.left()
	i.begin(9, Object{Run: "b"})
	for _, end := range ends {
		end()
	}
	if got := reopened(t, path); !slices.Equal(got, []string{"9 run b"}) {
		t.Errorf("left %q", got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, error %v", info.Mode(), err)
	}
}

func TestIntentsAreFew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "intents")
	i := intentsAt(t, path)
	for range 10_000 {
		i.begin(7, Object{Run: strings.Repeat("a", 32)})()
	}
	if i.size > intentsSmall {
		t.Errorf("the file has %d bytes and no intent", i.size)
	}
	stays := i.begin(7, Object{Run: "stays"})
	most := 0
	for range 30_000 {
		i.begin(7, Object{Run: strings.Repeat("a", 32)})()
		most = max(most, i.size)
	}
	if most > intentsLarge+intentsSmall || most < intentsLarge/2 {
		t.Errorf("the file had up to %d bytes for one intent", most)
	}
	if got := reopened(t, path); !slices.Equal(got, []string{"7 run stays"}) {
		t.Errorf("left %q", got)
	}
	stays()
	for n := range mostIntents + 10 {
		i.begin(7, Object{Run: fmt.Sprint(n)})
	}
	if n := i.open(); n != mostIntents {
		t.Errorf("%d intents, want %d at most", n, mostIntents)
	}
}

// What a crash or a disk did to the file costs what stands there alone; a newer file is
// left to its program.
func TestIntentsDamaged(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"cut off":       {"carillon mlflow intents 1\n+ 1 0000000000000007 run \"a\"\n+ 2 0000000000000007 run \"b", []string{"7 run a"}},
		"half a line":   {"carillon mlflow intents 1\n+ 1 00000000+ 2 0000000000000007 run \"b\"\n+ 3 0000000000000007 run \"c\"\n", []string{"7 run c"}},
		"empty":         {"", nil},
		"another file":  {"hello\n+ 1 0000000000000007 run \"a\"\n", nil},
		"unknown kind":  {"carillon mlflow intents 1\n+ 1 0000000000000007 trace \"a\"\n", nil},
		"ended unknown": {"carillon mlflow intents 1\n- 5\n- x\n+ 1 0000000000000007 model \"a\"\n", []string{"7 model a"}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "intents")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := reopened(t, path); !slices.Equal(got, c.want) {
				t.Errorf("left %q, want %q", got, c.want)
			}
		})
	}
	path := filepath.Join(t.TempDir(), "intents")
	const newer = "carillon mlflow intents 2\nwhat it is then\n"
	if err := os.WriteFile(path, []byte(newer), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openIntents(path, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("error %v", err)
	}
	if raw, _ := os.ReadFile(path); string(raw) != newer {
		t.Errorf("the file is %q now", raw)
	}
}

// A file that cannot be written stops nobody, and is written once it can be.
func TestIntentsUnwritable(t *testing.T) {
	directory := filepath.Join(t.TempDir(), "gone")
	path := filepath.Join(directory, "intents")
	i := intentsAt(t, path)
	end := i.begin(7, Object{Run: "a"})
	if n := i.open(); n != 1 {
		t.Errorf("%d intents", n)
	}
	if err := os.Mkdir(directory, 0o700); err != nil {
		t.Fatal(err)
	}
	i.begin(7, Object{Run: "b"})
	if got := reopened(t, path); !slices.Equal(got, []string{"7 run a", "7 run b"}) {
		t.Errorf("left %q", got)
	}
	end()
}

// FuzzIntents holds that no file breaks a start, and that what is read of one is written
// and read again as it is.
func FuzzIntents(f *testing.F) {
	f.Add("carillon mlflow intents 1\n+ 1 0000000000000007 run \"a\"\n- 1\n")
	f.Add("carillon mlflow intents 1\n+ 1 0000000000000007 run \"a\"\n+ 2 0000000000000009 model \"b\\nc\"\n- 1")
	f.Fuzz(func(t *testing.T, text string) {
		under, err := readIntents([]byte(text))
		if err != nil {
			return
		}
		var b strings.Builder
		fmt.Fprintf(&b, "%s%d\n", intentsHead, intentsVersion)
		for n, it := range under {
			b.WriteString(it.line(n))
		}
		again, err := readIntents([]byte(b.String()))
		if err != nil || len(again) != len(under) {
			t.Fatalf("%d of %d intents are read again, error %v", len(again), len(under), err)
		}
		for n, it := range under {
			if again[n] != it {
				t.Errorf("%+v became %+v", it, again[n])
			}
		}
	})
}

// BenchmarkIntent is what an intent costs a request.
func BenchmarkIntent(b *testing.B) {
	for name, sync := range map[string]bool{"written": false, "synced": true} {
		b.Run(name, func(b *testing.B) {
			i := intentsAt(b, filepath.Join(b.TempDir(), "intents"))
			o := Object{Run: strings.Repeat("a", 32)}
			for b.Loop() {
				end := i.begin(resource.UID(7), o)
				if sync { // what it would cost if it were
					if err := i.file.Sync(); err != nil {
						b.Fatal(err)
					}
				}
				end()
			}
		})
	}
}
