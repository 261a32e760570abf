package secret

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

func TestSourceLoads(t *testing.T) {
	a, b, c := strings.Repeat("aa", 32), strings.Repeat("bb", 32), strings.Repeat("cc", 32)
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	one, none := file("one", a+"\n", 0o600), filepath.Join(dir, "none")
	t.Setenv("MASTER", b+" "+a)
	t.Setenv("BROKEN", "s3cret")
	for _, test := range []struct {
		name    string
		from    Source
		want    string // first bytes of the keys
		problem string
	}{
		{"the server's own", Source{Kept: one}, "aa", ""},
		{"several lines", Source{Kept: file("two", b+"\n"+a+"\n", 0o600)}, "bb aa", ""},
		{"the same twice", Source{Kept: file("same", a+"\n"+a, 0o600)}, "aa", ""},
		{"a file, and one from before", Source{Kept: one, File: file("new", c, 0o600)}, "cc aa", ""},
		{"a file that holds the one from before", Source{Kept: one, File: file("moved", a, 0o600)}, "aa", ""},
		{"the environment", Source{Kept: none, Env: "MASTER"}, "bb aa", ""},
		{"a command", Source{Kept: none, Command: "echo " + c}, "cc", ""},
		{"no own file", Source{Kept: none}, "", "no such file"},
		{"no file", Source{Kept: one, File: none}, "", "no such file"},
		{"nothing in the environment", Source{Kept: one, Env: "MASTER_NOT_SET"}, "", "--master-key-env: there is no master key in it, which is 64 hexadecimal digits"},
		{"no key", Source{Kept: one, Env: "BROKEN"}, "", "a master key is 64 hexadecimal digits"},
		{"a command that fails", Source{Kept: one, Command: "echo s3cret; exit 3"}, "", "run --master-key-command: exit status 3"},
		{"a file that others read", Source{Kept: one, File: file("open", a, 0o644)}, "", "may be read by others"},
		{"an own file that others read", Source{Kept: file("open2", a, 0o644), Env: "MASTER"}, "", "may be read by others"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if runtime.GOOS == "windows" && (test.from.Command != "" || strings.Contains(test.problem, "others")) {
				t.Skip("no shell and no permission bits")
			}
			keys, err := test.from.Load(t.Context())
			if test.problem != "" {
				if err == nil || !strings.Contains(err.Error(), test.problem) || strings.Contains(err.Error(), "s3cret") {
					t.Errorf("%v, want %q", err, test.problem)
				}
				return
			}
			var got []string
			for _, k := range keys {
				got = append(got, hexByte(k[0]))
			}
			if err != nil || strings.Join(got, " ") != test.want {
				t.Errorf("%q, %v; want %q", got, err, test.want)
			}
		})
	}
}

func hexByte(b byte) string {
	return string("0123456789abcdef"[b>>4]) + string("0123456789abcdef"[b&15])
}

func TestSourceKeeps(t *testing.T) {
	path := filepath.Join(t.TempDir(), "master.key")
	first, err := LoadOrCreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	own := Source{Kept: path}
	if err := own.Keep(testKey(1), first); err != nil {
		t.Fatal(err)
	}
	if keys, err := own.Load(t.Context()); err != nil || !slices.Equal(keys, []Key{testKey(1), first}) {
		t.Errorf("kept two, have %d: %v", len(keys), err)
	}
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", info.Mode(), err)
	}
	t.Setenv("MASTER", strings.Repeat("ee", 32))
	for range 2 { // also when it is gone already
		if err := (Source{Kept: path, Env: "MASTER"}).Keep(testKey(1)); err != nil {
			t.Errorf("a key elsewhere: %v", err)
		}
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the server's own file is still there: %v", err)
	}
}
