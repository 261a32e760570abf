package engine

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// wantFacts compares the facts below a prefix, read one by one and as a list.
func wantFacts(t *testing.T, p *Partition, prefix string, want map[string]string) {
	t.Helper()
	keys, err := p.FactKeys(t.Context(), prefix)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for k, v := range want {
		all = append(all, k)
		f, ok, err := p.Fact(t.Context(), k)
		if err != nil || !ok || string(f.Data) != v || f.Key != k || f.Generation == 0 || f.Time.IsZero() {
			t.Errorf("fact %s: %+v %v %v, want %s", k, f, ok, err, v)
		}
	}
	slices.Sort(all)
	if fmt.Sprint(keys) != fmt.Sprint(all) {
		t.Errorf("keys below %q: %v, want %v", prefix, keys, all)
	}
}

func TestFacts(t *testing.T) {
	dir := t.TempDir()
	e, err := Open(t.Context(), Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	p := e.Partition()
	for i := range 3 {
		mustAppend(t, p, fact("run/w/a", fmt.Sprint("a", i)), fact("run/w/b.x", fmt.Sprint("b", i)), fact("run/w2/c", "c"), fact("run/w", "w"))
		wantFacts(t, p, "run/w/", map[string]string{"run/w/a": fmt.Sprint("a", i), "run/w/b.x": fmt.Sprint("b", i)})
	}
	mustAppend(t, p, fact("run/w/a", ""))
	mustAppend(t, p, fact("run/w/d", "1"), fact("run/w/d", "2"))
	want := map[string]string{"run/w/b.x": "b2", "run/w/d": "2"}
	check := func(p *Partition) {
		t.Helper()
		wantFacts(t, p, "run/w/", want)
		wantFacts(t, p, "run/w2/", map[string]string{"run/w2/c": "c"})
		wantFacts(t, p, "", map[string]string{"run/w/b.x": "b2", "run/w/d": "2", "run/w2/c": "c", "run/w": "w"})
		if _, ok, err := p.Fact(t.Context(), "run/w/a"); ok || err != nil {
			t.Errorf("deleted fact: %v %v", ok, err)
		}
		if _, ok, err := p.Fact(t.Context(), "run/none"); ok || err != nil {
			t.Errorf("absent fact: %v %v", ok, err)
		}
	}
	check(p)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	check(open(t, Options{Dir: dir}).Partition())
}

// TestFactsAfterUncleanStop opens directories as crashes leave them: what was not
// projected yet, or after a crash of the system not safely, comes from the log.
func TestFactsAfterUncleanStop(t *testing.T) {
	dir := t.TempDir()
	e, err := Open(t.Context(), Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	p := e.Partition()
	want := map[string]string{}
	for i := range 600 {
		key := fmt.Sprintf("run/w/%d", i%200)
		want[key] = fmt.Sprint(i)
		mustAppend(t, p, fact(key, want[key]), eventRecord("e"))
	}
	mustAppend(t, p, fact("run/w/7", "")) // its older values must not come back
	mustAppend(t, p, fact("run/w/8", ""))
	mustAppend(t, p, fact("run/w/8", "again"))
	delete(want, "run/w/7")
	want["run/w/8"] = "again"
	reopen := func(name, dir, replayed string) {
		t.Helper()
		var log bytes.Buffer
		crashed := open(t, Options{Dir: dir, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		wantFacts(t, crashed.Partition(), "run/w/", want)
		if line := log.String(); !strings.Contains(line, "last_stop=unclean") || !strings.Contains(line, replayed) {
			t.Errorf("%s: log without %s: %s", name, replayed, line)
		}
	}
	reopen("in use", copyDir(t, dir), "facts_replayed=")
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "CLEAN")); err != nil {
		t.Fatal(err)
	}
	if bootID() != "" {
		reopen("process crashed", copyDir(t, dir), "facts_replayed=0 ")
	}
	defer func(path string) { bootFile = path }(bootFile)
	bootFile = filepath.Join(dir, "FORMAT") // another boot
	reopen("system crashed", copyDir(t, dir), "facts_replayed=603 ")
}

// TestPurgeWaitsForFacts: a fact's frame stays until its projection is safely on
// disk, five sync intervals later.
func TestPurgeWaitsForFacts(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		e, err := Open(t.Context(), Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		p := e.Partition()
		r := mustAppend(t, p, fact("k", "v"))
		last := mustAppend(t, p, eventRecord("e")).Seq
		bounds := func(want uint64) {
			t.Helper()
			if err := p.Purge(t.Context(), last); err != nil {
				t.Fatal(err)
			}
			if first, _ := p.Bounds(); first != want {
				t.Errorf("first kept frame %d, want %d", first, want)
			}
		}
		bounds(r.Seq)
		time.Sleep(9 * time.Second)
		bounds(r.Seq)
		time.Sleep(3 * time.Second)
		bounds(last)
		time.Sleep(time.Minute)
		synctest.Wait()
		if p.projection.written != (projected{last, last}) {
			t.Errorf("mark %+v, want %d", p.projection.written, last)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestAppendWaitsForProjection(t *testing.T) {
	p := open(t, Options{}).Partition()
	p.projection.mu.Lock()
	full := make(chan struct{})
	p.projection.full = full
	p.projection.mu.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Append(ctx, []Record{fact("k", "v")}); err == nil {
		t.Error("a fact was appended though the projection is far behind")
	}
	mustAppend(t, p, eventRecord("events do not wait"))
	done := make(chan error)
	go func() {
		_, err := p.Append(context.Background(), []Record{fact("k", "v")})
		done <- err
	}()
	p.projection.mu.Lock()
	close(full)
	p.projection.full = nil
	p.projection.mu.Unlock()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestFactsAfter reads what changed since a time or a place in pages, in the order of the
// changes, of one kind or of all, whether it is written already or still waits.
func TestFactsAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		e, err := Open(t.Context(), Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		p := e.Partition()
		var order []string // keys of the workspace w, each at its last change
		change := func(key, data string) {
			mustAppend(t, p, fact(key, data), fact("run/other/"+data, data), fact("note/w", data))
			order = slices.DeleteFunc(order, func(k string) bool { return k == key })
			if data != "" && strings.Contains(key, "/w/") {
				order = append(order, key)
			}
		}
		for i := range 40 {
			change(fmt.Sprintf("run/w/e/%d.*", i%17), fmt.Sprint("r", i))
			change(fmt.Sprintf("model/w/%d", i%5), fmt.Sprint("m", i))
			time.Sleep(time.Second)
		}
		mustAppend(t, p, fact("run/w/e/3.*", "")) // gone
		order = slices.DeleteFunc(order, func(k string) bool { return k == "run/w/e/3.*" })
		before := len(order)
		half := time.Now()
		time.Sleep(time.Second)
		change("run/w/e/new", "n")
		change("run/w/e/1.*", "again")
		changed := len(order) - before + 1 // one of them had been changed before

		all := func(p *Partition, prefix string, since time.Time, page int) (keys []string) {
			t.Helper()
			for after := ""; ; {
				facts, more, err := p.FactsAfter(t.Context(), prefix, since, after, page)
				if err != nil || len(facts) > page || more && len(facts) < page {
					t.Fatalf("%d facts, %v, %v", len(facts), more, err)
				}
				for _, f := range facts {
					now, ok, err := p.Fact(t.Context(), f.Key)
					if err != nil || !ok || string(now.Data) != string(f.Data) || now.ETag() != f.ETag() || f.ETag() <= after {
						t.Errorf("listed behind %s: %+v, read one by one: %+v, %v, %v", after, f, now, ok, err)
					}
					keys, after = append(keys, f.Key), f.ETag()
				}
				if !more {
					return keys
				}
			}
		}
		check := func(p *Partition) {
			t.Helper()
			for _, page := range []int{1, 3, 1000} {
				if got := all(p, "*/w/", time.Time{}, page); !slices.Equal(got, order) {
					t.Errorf("in pages of %d: %v, want %v", page, got, order)
				}
			}
			if got := all(p, "*/w/", half.Add(time.Millisecond), 2); !slices.Equal(got, order[len(order)-changed:]) {
				t.Errorf("since a time: %v, want the last %d of %v", got, changed, order)
			}
			runs := slices.DeleteFunc(slices.Clone(order), func(k string) bool { return !strings.HasPrefix(k, "run/") })
			if got := all(p, "run/w/", time.Time{}, 7); !slices.Equal(got, runs) {
				t.Errorf("of one kind: %v, want %v", got, runs)
			}
			if got := all(p, "run/w/", time.Now().Add(time.Hour), 7); got != nil {
				t.Errorf("since a time to come: %v", got)
			}
		}
		check(p) // some still wait
		synctest.Wait()
		check(p)
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		check(open(t, Options{Dir: dir}).Partition())
	})
}
