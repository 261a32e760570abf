package servertest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/arm"
	"github.com/carillon-events/carillon/internal/server"
)

// masterKey is the state of the master key as the API shows it.
type masterKey struct {
	Properties struct {
		Rotating                     bool
		KeyID, Source                string
		RetiredKeyIDs                []string
		SecretCount, SecretsToFollow int
	}
}

// TestKillDuringRotation rotates the master key again and again and kills the server at
// some moment of it: the keys of every topic stay what they were, and in the end one
// master key is left.
func TestKillDuringRotation(t *testing.T) {
	const topics, kills = 40, 8
	s := New(t)
	keys := map[string]string{}
	read := func(id string) string {
		t.Helper()
		var k struct{ Key1, Key2 string }
		s.Must("POST", id+"/listKeys", nil, &k)
		return k.Key1 + " " + k.Key2
	}
	for n := range topics {
		id, _ := s.Topic(fmt.Sprintf("topic-%d", n))
		keys[id] = read(id)
	}
	random := rand.New(rand.NewPCG(1, 2))
	settled := func() (k masterKey) {
		t.Helper()
		for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			if s.Must("GET", arm.MasterKeyPath, nil, &k); !k.Properties.Rotating {
				return k
			}
			if time.Now().After(deadline) {
				t.Fatalf("the rotation does not end: %+v", k)
			}
		}
	}
	met := 0 // kills in the middle of sealing anew
	for round := range kills {
		before := settled().Properties.KeyID
		// Killed while it answers, or some time after it did.
		if after := random.IntN(4); after == 0 {
			client := s.Client // another one comes with the restart
			go func() { _, _ = client.Do(t.Context(), "POST", arm.MasterKeyPath+"/rotate", nil, nil, nil, nil) }()
			time.Sleep(time.Duration(random.IntN(3000)) * time.Microsecond)
		} else {
			s.Must("POST", arm.MasterKeyPath+"/rotate", nil, nil)
			time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
		}
		s.Kill()
		lines, err := os.ReadFile(filepath.Join(s.Dir, "keys", "master.key"))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(string(lines), "\n") == 2 {
			met++
		}
		s.Restart()
		for id, want := range keys {
			if got := read(id); got != want {
				t.Fatalf("round %d: the keys of %s have changed", round, id)
			}
		}
		if k := settled().Properties; k.SecretCount != 2*topics+2 || k.SecretsToFollow != 0 || len(k.RetiredKeyIDs) != 0 {
			t.Errorf("round %d: key %s, before %s: %+v", round, k.KeyID, before, k)
		}
	}
	t.Logf("%d of %d kills came in the middle", met, kills)
	lines, err := os.ReadFile(filepath.Join(s.Dir, "keys", "master.key"))
	if err != nil || strings.Count(string(lines), "\n") != 1 {
		t.Errorf("in the end the file has %d keys: %v", strings.Count(string(lines), "\n"), err)
	}
}

// TestMasterKeyElsewhere keeps the key out of the data directory: without it, what is in
// there opens nothing.
func TestMasterKeyElsewhere(t *testing.T) {
	file := filepath.Join(t.TempDir(), "master")
	key := strings.Repeat("0c", 32)
	if err := os.WriteFile(file, []byte(key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := New(t, func(c *server.Config) { c.MasterKey.Command = "cat '" + file + "'" })
	id, _ := s.Topic("orders")
	var before, after struct{ Key1 string }
	s.Must("POST", id+"/listKeys", nil, &before)
	s.Stop()
	err := filepath.WalkDir(s.Dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if strings.Contains(string(raw), key) || strings.Contains(string(raw), before.Key1) || filepath.Base(path) == "master.key" {
			t.Errorf("%s holds the master key or a topic's", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s.cfg.MasterKey.Command = ""
	if said, err := s.run(); err == nil || !strings.Contains(said, "name it with --master-key-file") {
		t.Errorf("without the key the server says %q, %v", said, err)
	}
	s.cfg.MasterKey.File = file
	s.Restart()
	if s.Must("POST", id+"/listKeys", nil, &after); after != before {
		t.Error("the topic's key has changed")
	}
	if err := os.WriteFile(file, []byte(strings.Repeat("0d", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	if said, err := s.run(); err == nil || !strings.Contains(said, "behind the first") {
		t.Errorf("with another key the server says %q, %v", said, err)
	}
	if err := os.WriteFile(file, []byte(strings.Repeat("0d", 32)+"\n"+key), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Restart()
	if s.Must("POST", id+"/listKeys", nil, &after); after != before {
		t.Error("the topic's key has changed")
	}
}
