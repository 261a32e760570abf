package mlflow

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/resource"
)

// Lists that lead on for ever end a round with an error that says so, and the next round
// has what they hid.
func TestListsWithoutEnd(t *testing.T) {
	const most = 40
	// Objects of which nothing is learned, one more for each page.
	object := map[string]func(n int) (list string, one any){
		"experiments/search": func(int) (string, any) { return "experiments", experiment{"0", "Default"} },
		"runs/search": func(n int) (string, any) {
			r := run{Info: runInfo{Status: "FINISHED", StartTime: whole(n), EndTime: whole(n)}}
			return "runs", r
		},
		"registered-models/search": func(int) (string, any) { return "registered_models", registeredModel{Name: "churn", LastUpdated: 1} },
		"model-versions/search":    func(int) (string, any) { return "model_versions", modelVersion{} },
	}
	same := func(int) int { return 0 }
	type lie struct {
		path  string
		time  func(n int) int // of the nth object
		token func(n int) int // of the page after the nth
		want  string
	}
	var lies []lie
	for _, path := range slices.Sorted(maps.Keys(object)) {
		if path != "runs/search" { // whose pages go on by time
			lies = append(lies,
				lie{path, same, same, errAgain.Error()},
				lie{path, same, func(n int) int { return n % 3 }, errAgain.Error()},
				lie{path, same, func(n int) int { return n }, errManyPages.Error()})
		}
	}
	lies = append(lies,
		lie{"runs/search", func(n int) int { return n }, same, errManyPages.Error()},
		lie{"runs/search", same, same, errAgain.Error()},
		lie{"runs/search", same, func(n int) int { return n % 3 }, errAgain.Error()},
		lie{"runs/search", same, func(n int) int { return n }, errManyPages.Error()},
		lie{"runs/search", func(n int) int { return n % 2 }, same, "does not search and order runs by attributes.start_time"})
	for i, l := range lies {
		in(t, fmt.Sprint(i, " ", l.path), func(t *testing.T) {
			b := newBridge(t, deployOn(resource.DeployOn{Alias: []string{"champion"}}))
			b.fake.register("churn")
			b.rounds(1)
			b.taken = len(b.log.events)
			b.mostPages = most
			b.fake.ended("FAILED", time.Now(), time.Now())
			b.fake.register("churn")
			n := 0
			b.fake.change(func() {
				b.fake.lie = func(path string) any {
					if path != l.path {
						return nil
					}
					n++
					list, one := object[path](l.time(n))
					return map[string]any{list: []any{one}, "next_page_token": fmt.Sprint("t", l.token(n))}
				}
			})
			b.known.due.Store(true) // everything is read
			before := b.place
			if err := b.round(t.Context()); err == nil || !strings.Contains(err.Error(), l.want) {
				t.Errorf("error %v, want %s", err, l.want)
			}
			if b.place != before {
				t.Errorf("the place moved from %+v to %+v", before, b.place)
			}
			if n == 0 || n > most+1 {
				t.Errorf("%d requests", n)
			}
			b.fake.change(func() { b.fake.lie = nil })
			b.rounds(1)
			b.want(failed, registered)
		})
	}
	t.Run("models in a wide look", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBridge(t, deployOn(resource.DeployOn{Alias: []string{"champion"}}))
			b.rounds(1)
			n := 0
			b.fake.change(func() {
				b.fake.lie = func(path string) any {
					if path != "registered-models/search" {
						return nil
					}
					n++
					return map[string]any{"registered_models": slices.Repeat([]registeredModel{{}}, mostListed), "next_page_token": fmt.Sprint(n)}
				}
			})
			b.wideNext = true
			if err := b.round(t.Context()); !errors.Is(err, errTooMany) {
				t.Errorf("error %v", err)
			}
		})
	})
	t.Run("webhooks", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBridge(t)
			b.fake.lie = func(string) any {
				return map[string]any{"webhooks": []webhook{{}}, "next_page_token": "again"}
			}
			if _, err := b.client.register(t.Context(), "carillon", "https://carillon.example", "secret"); !errors.Is(err, errAgain) {
				t.Errorf("error %v", err)
			}
		})
	})
}

// What a round may ask for is what lists have, to the page.
func TestMostPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBridge(t, func(m *resource.MLflowServer) { m.EmitBacklog = true })
		b.fake.most = 3
		var want []string
		for i := range 100 {
			b.fake.experiments = append(b.fake.experiments, experiment{fmt.Sprint(i + 1), "e"})
			b.fake.ended("FAILED", time.Now().Add(-time.Duration(i/9)*time.Second), time.Now())
			b.fake.register(fmt.Sprint("m", i%20))
			want = append(want, failed, registered)
		}
		b.rounds(1)
		b.want(want...)
		pages := b.pages
		if least := 100/3 + 100/3 + 100/3 + 20/3; pages < least {
			t.Errorf("%d pages, of at least %d", pages, least)
		}
		for _, short := range []int{0, 1} {
			b.restart()
			b.mostPages = pages - short
			if err := b.round(t.Context()); (err != nil) != (short == 1) || err != nil && !errors.Is(err, errManyPages) {
				t.Errorf("%d pages too few: error %v", short, err)
			}
		}
	})
}

// One large run makes small pages of those around it, not of all.
func TestPagesGrowAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBridge(t, func(m *resource.MLflowServer) { m.EmitBacklog = true })
		const runs = 1000
		at := time.Now().Add(-time.Hour)
		for i := range runs {
			b.fake.ended("FAILED", at.Add(time.Duration(i)*time.Second), time.Now())
		}
		large := fmt.Sprintf("%032x", runs/2) // it fills an answer alone
		b.client.http.Transport = &padded{next: b.fake, id: large}
		b.rounds(1)
		b.want(slices.Repeat([]string{failed}, runs)...)
		if b.requests > 100 {
			t.Errorf("%d requests", b.requests)
		}
		t.Logf("%d requests", b.requests)
	})
}

// padded makes answers too large that have a run of an id and others, or also those that
// have it alone.
type padded struct {
	next  http.RoundTripper
	id    string
	alone bool
	times int // that it did
}

// RoundTrip satisfies http.RoundTripper.
func (p *padded) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := p.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(res.Body)
	body := io.Reader(strings.NewReader(string(raw)))
	if text := string(raw); strings.Contains(text, p.id) && (p.alone || strings.Count(text, `"run_id"`) > 1) {
		p.times++
		body = io.MultiReader(body, strings.NewReader(strings.Repeat(" ", answerLimit)))
	}
	res.Body = io.NopCloser(body)
	return res, err
}

// A run whose answer is too large by itself is passed over and named once. The others are
// followed, and it is again when it has become smaller.
func TestLargeRuns(t *testing.T) {
	// A server with one large run, and one beside it of the same millisecond.
	begin := func(t *testing.T) (b *bridge, said *bytes.Buffer, large string, server *padded) {
		b = newBridge(t)
		b.rounds(1)
		said = &bytes.Buffer{}
		b.poller.log = slog.New(slog.NewTextHandler(said, nil))
		at := time.Now()
		large = b.fake.start(at)
		b.fake.start(at)
		server = &padded{next: b.fake, id: large, alone: true}
		b.client.http.Transport = server
		return b, said, large, server
	}
	named := func(t *testing.T, b *bridge, said *bytes.Buffer, want ...string) {
		t.Helper()
		if got := b.known.largeRuns(); !slices.Equal(got, want) {
			t.Errorf("not followed are %q, want %q", got, want)
		}
		if n := strings.Count(said.String(), "MLflow run is not followed"); n != 1 {
			t.Errorf("named %d times: %s", n, said)
		}
	}
	in(t, "found by a search", func(t *testing.T) {
		b, said, large, server := begin(t)
		b.rounds(widePart)
		b.want(running)
		named(t, b, said, large)
		tries := server.times
		b.fake.start(time.Now())
		b.rounds(2 * widePart)
		b.want(running)
		if server.times != tries {
			t.Errorf("it was asked for %d times more", server.times-tries)
		}
		time.Sleep(sweepEvery) // is it small enough by now?
		b.rounds(widePart)
		b.want()
		named(t, b, said, large)
		if server.times == tries {
			t.Error("it was not tried again")
		}
		b.fake.set(large, "FAILED", time.Now())
		b.client.http.Transport = b.fake
		time.Sleep(sweepEvery)
		b.rounds(1)
		b.want(failed)
		named(t, b, said)
	})
	in(t, "found by its id", func(t *testing.T) {
		for _, old := range []time.Duration{0, 2 * runOverlap} {
			b, said, large, server := begin(t)
			server.alone = false
			b.rounds(widePart)
			b.want(running, running)
			server.alone = true
			time.Sleep(old) // searches do not show it
			if old > 0 {
				b.sweepAt = time.Now().Add(sweepEvery)
			}
			b.restart()
			b.poller.log = slog.New(slog.NewTextHandler(said, nil))
			b.client.http.Transport = server
			b.place.Swept = true
			b.sweepAt = time.Now().Add(sweepEvery)
			b.rounds(widePart)
			named(t, b, said, large)
			b.want()
		}
	})
	in(t, "looked at beside the rounds", func(t *testing.T) {
		b, said, large, _ := begin(t)
		if _, err := b.lookAt(t.Context(), Object{Run: large}); err != nil || b.known.due.Load() {
			t.Errorf("error %v, the next round reads everything: %v", err, b.known.due.Load())
		}
		b.rounds(1)
		b.want(running)
		named(t, b, said, large)
	})
	in(t, "and the server does not leave it out", func(t *testing.T) {
		b, _, _, _ := begin(t)
		b.fake.noUnequal = true
		if err := b.round(t.Context()); !errors.Is(err, errTooLarge) || !strings.Contains(err.Error(), "experiments 0") {
			t.Errorf("error %v", err)
		}
	})
	in(t, "so many", func(t *testing.T) {
		k := newKnown()
		for i := range mostLarge {
			if first, err := k.leaveOut(fmt.Sprint(i), "0"); !first || err != nil {
				t.Fatal(first, err)
			}
		}
		if _, err := k.leaveOut("1", "0"); err != nil {
			t.Error(err)
		}
		if _, err := k.leaveOut("one more", "0"); !errors.Is(err, errManyLarge) {
			t.Errorf("error %v", err)
		}
	})
}

// What an answer that is not whole says of its first run.
func TestFirstRun(t *testing.T) {
	for read, want := range map[string]string{
		`{"runs": [{"info": {"run_id": "r", "experiment_id": "7"}, "data": {"tags": [{"key": "k", "value": "vvv`: "r 7",
		`{"next_page_token": "t", "runs": [{"inputs": {}, "info": {"run_uuid": "old"}, "data`:                    "old ",
		`{"runs": [{"data": {"tags": [{"key": "k", "value": "vvv`:                                                " ",
		`{"runs": [{"info": {"run_id": "r"`:                                                                      " ",
		`{"runs": []}`:                                                                                           " ",
		`{"runs": 7`:                                                                                             " ",
		`[`:                                                                                                      " ",
		``:                                                                                                       " ",
	} {
		first := (&tooLarge{[]byte(read)}).firstRun()
		if got := first.RunID + " " + first.ExperimentID; got != want {
			t.Errorf("%s: %q, want %q", read, got, want)
		}
	}
}

// What the server lists no more is forgotten: experiments, and aliases of models.
func TestForgottenExperiments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBridge(t)
		for i := range 20 {
			b.fake.change(func() {
				b.fake.experiments = []experiment{{"0", "Default"}, {fmt.Sprint("e", i), "sweep"}}
				b.fake.models = map[string]*registeredModel{}
			})
			b.fake.register(fmt.Sprint("m", i))
			b.fake.setAlias(fmt.Sprint("m", i), "champion", "1")
			time.Sleep(sweepEvery)
			b.rounds(1)
		}
		if ids := b.known.experimentIDs(); !slices.Equal(ids, []string{"0", "e19"}) {
			t.Errorf("experiments %q are known", ids)
		}
		if len(b.aliases) != 1 {
			t.Errorf("aliases %v are known", b.aliases)
		}
		// One that somebody meets while they are listed stays.
		b.fake.done = func(path string) {
			if path == "experiments/search" {
				b.known.setExperiment("new", "beside")
			}
		}
		b.rounds(widePart)
		if ids := b.known.experimentIDs(); !slices.Equal(ids, []string{"0", "e19", "new"}) {
			t.Errorf("experiments %q are known", ids)
		}
	})
}
