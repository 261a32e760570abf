package filter

import (
	"fmt"
	"slices"
	"testing"

	"github.com/carillon-events/carillon/event"
)

func TestIndex(t *testing.T) {
	matcher := func(raw string) *Matcher { return Compile(mustParse(t, raw)) }
	runs := parseEvent(t, `{"eventType":"Contoso.Run","subject":"runs/1"}`)
	models := parseEvent(t, `{"eventType":"CONTOSO.MODEL","subject":"models/1"}`)
	untyped := parseEvent(t, `{"subject":"runs/2"}`)
	var s Scratch
	check := func(x *Index, name string, wantRuns, wantModels, wantUntyped []uint64) {
		t.Helper()
		for i, want := range [][]uint64{wantRuns, wantModels, wantUntyped} {
			got := x.Match([]*event.Event{runs, models, untyped}[i], &s)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("%s: event %d matches %v, want %v", name, i, got, want)
			}
		}
	}

	empty := NewIndex(nil)
	check(empty, "empty", nil, nil, nil)
	x := NewIndex([]Entry{
		{ID: 3, Matcher: matcher(`{}`)},
		{ID: 1, Matcher: matcher(`{"includedEventTypes":["contoso.run","Contoso.Model","CONTOSO.RUN"]}`)},
		{ID: 2, Matcher: matcher(`{"subjectBeginsWith":"runs/"}`)},
		{ID: 4, Matcher: matcher(`{"includedEventTypes":["Contoso.Model"],"subjectEndsWith":"/2"}`)},
	})
	check(x, "four", []uint64{1, 2, 3}, []uint64{1, 3}, []uint64{2, 3})

	next := x.With(Entry{ID: 5, Matcher: matcher(`{"includedEventTypes":["Contoso.Model"]}`)})
	check(next, "with 5", []uint64{1, 2, 3}, []uint64{1, 3, 5}, []uint64{2, 3})
	replaced := next.With(Entry{ID: 1, Matcher: matcher(`{"includedEventTypes":["Contoso.Run"]}`)})
	check(replaced, "1 replaced", []uint64{1, 2, 3}, []uint64{3, 5}, []uint64{2, 3})
	check(replaced.Without(3).Without(1), "without 3 and 1", []uint64{2}, []uint64{5}, []uint64{2})
	check(x, "the first snapshot afterwards", []uint64{1, 2, 3}, []uint64{1, 3}, []uint64{2, 3})
	if x.Without(77) != x || x.Len() != 4 || replaced.Len() != 5 || empty.With(Entry{ID: 1, Matcher: matcher(`{}`)}).Without(1).Len() != 0 {
		t.Error("lengths are wrong")
	}
	var none *Index
	all := x.Without(1).Without(2).Without(4)
	if none.Looks() || empty.Looks() || all.Looks() || !x.Looks() || !all.With(Entry{ID: 3, Matcher: matcher(`{"subjectEndsWith":"/2"}`)}).Looks() {
		t.Error("it is wrong about whether it looks at events")
	}
	check(all, "all", []uint64{3}, []uint64{3}, []uint64{3})

	twice := NewIndex([]Entry{{ID: 1, Matcher: matcher(`{"subjectBeginsWith":"runs"}`)}, {ID: 1, Matcher: matcher(`{"subjectBeginsWith":"models"}`)}})
	check(twice, "the last of two with one id", nil, []uint64{1}, nil)
}

// TestManyEventTypesArePlaced: a filter may list more event types than an entry has
// places otherwise, and is not asked one by one for that.
func TestManyEventTypesArePlaced(t *testing.T) {
	var f Filter
	for i := range 2 * maxPlaces {
		f.IncludedEventTypes = append(f.IncludedEventTypes, fmt.Sprintf("Contoso.Type%d", i))
	}
	x := NewIndex(nil)
	for id := range uint64(2 * maxOpen) {
		x = x.With(Entry{ID: id, Matcher: Compile(&f)})
	}
	if n := x.root.direct.n; n > 0 {
		t.Errorf("%d entries are asked one by one", n)
	}
	var s Scratch
	if got := len(x.Match(parseEvent(t, `{"eventType":"contoso.type200"}`), &s)); got != x.Len() {
		t.Errorf("%d of %d entries want the event", got, x.Len())
	}
	if got := x.Match(parseEvent(t, `{"eventType":"contoso.type2000"}`), &s); len(got) > 0 {
		t.Errorf("%v want an event that they refuse", got)
	}
}
