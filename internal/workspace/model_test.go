package workspace

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/carillon-events/carillon/internal/fault"
)

func TestModelNumbers(t *testing.T) {
	b := newBench(t)
	post := func() string {
		t.Helper()
		m, err := b.RegisterModel(t.Context(), b.ws, "churn", ModelChange{}, kim)
		if err != nil {
			t.Fatal(err)
		}
		return m.Name
	}
	put := func(version string) bool {
		t.Helper()
		_, created, err := b.PutModelVersion(t.Context(), b.ws, "Churn", version, ModelChange{}, kim)
		if err != nil {
			t.Fatal(err)
		}
		return created
	}
	var got []string
	got = append(got, post(), post())
	if err := b.DeleteModelVersion(t.Context(), b.ws, "churn", "2", kim); err != nil {
		t.Fatal(err)
	}
	got = append(got, post()) // 2 is not given again
	put("7")
	got = append(got, post())
	put("5")
	put("candidate")
	got = append(got, post())
	if want := []string{"1", "2", "3", "8", "9"}; !slices.Equal(got, want) {
		t.Errorf("numbers are %q, want %q", got, want)
	}
	if put("7") {
		t.Error("version 7 was made again")
	}

	versions, _, err := b.ListModelVersions(t.Context(), b.ws, "churn", Page{})
	var names []string
	for _, v := range versions {
		names = append(names, v.Name)
	}
	if want := []string{"1", "3", "5", "7", "8", "9", "candidate"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("list is %q, error %v", names, err)
	}
	models, _, err := b.ListModels(t.Context(), b.ws, Page{})
	if err != nil || len(models) != 1 || models[0].Name != "churn" || models[0].Highest != 9 {
		t.Errorf("models are %+v, error %v", models, err)
	}
	if _, _, err := b.ListModelVersions(t.Context(), b.ws, "none", Page{}); !fault.Is(err, fault.NotFound) {
		t.Errorf("versions of an unknown model: %v", err)
	}
}

func TestListOfNumbersGoesOnInOrder(t *testing.T) {
	b := newBench(t)
	var want, got []string
	for i := range 12 {
		want = append(want, fmt.Sprint(i+1))
		if _, err := b.RegisterModel(t.Context(), b.ws, "m", ModelChange{}, kim); err != nil {
			t.Fatal(err)
		}
	}
	for after := ""; ; {
		versions, next, err := b.ListModelVersions(t.Context(), b.ws, "m", Page{After: after, Limit: 5})
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range versions {
			got = append(got, v.Name)
		}
		if after = next; next == "" {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestHighestNumber(t *testing.T) {
	b := newBench(t)
	if _, _, err := b.PutModelVersion(t.Context(), b.ws, "m", "9223372036854775807", ModelChange{}, kim); err != nil {
		t.Fatal(err)
	}
	_, err := b.RegisterModel(t.Context(), b.ws, "m", ModelChange{}, kim)
	wantFault(t, err, fault.Conflict, nil, "no next version number")
}

func TestNumberBeyondRangeIsAName(t *testing.T) {
	b := newBench(t)
	if _, _, err := b.PutModelVersion(t.Context(), b.ws, "m", "99999999999999999999999", ModelChange{}, kim); err != nil {
		t.Fatal(err)
	}
	m, err := b.RegisterModel(t.Context(), b.ws, "m", ModelChange{}, kim)
	if err != nil || m.Name != "1" {
		t.Errorf("next is %q, error %v", m.Name, err)
	}
}

func TestModelRegisteredOnCreationOnly(t *testing.T) {
	b := newBench(t)
	c := ModelChange{Tags: Labels{"stage": ptr("candidate")}, ModelURI: ptr("s3://models/churn/1"), RunID: ptr("r1")}
	m, _, err := b.PutModelVersion(t.Context(), b.ws, "churn", "1", c, kim)
	if err != nil {
		t.Fatal(err)
	}
	n := b.log.count()
	if again, created, err := b.PutModelVersion(t.Context(), b.ws, "churn", "1", c, kim); err != nil || created || again.ETag != m.ETag || b.log.count() != n {
		t.Errorf("the same request again: %+v, created %v, error %v", again, created, err)
	}
	patched, err := b.PatchModelVersion(t.Context(), b.ws, "churn", "1", ModelChange{Tags: Labels{"stage": ptr("production")}}, kim)
	if err != nil || patched.ETag == m.ETag || patched.ModelURI != m.ModelURI {
		t.Errorf("patched to %+v, error %v", patched, err)
	}
	replaced, created, err := b.PutModelVersion(t.Context(), b.ws, "churn", "1", ModelChange{}, kim)
	if err != nil || created || len(replaced.Tags) != 0 || replaced.ModelURI != "" {
		t.Errorf("replaced by %+v, created %v, error %v", replaced, created, err)
	}
	if _, events := b.log.since(0); len(events) != 1 {
		t.Errorf("%d events, want 1", len(events))
	}
	_, err = b.RegisterModel(t.Context(), b.ws, "a b", ModelChange{RunID: ptr("a/b"), ModelURI: ptr(strings.Repeat("x", maxText+1))}, kim)
	wantFault(t, err, fault.Invalid, []string{"modelName", "properties.modelUri", "properties.runId"}, "a/b")
}

// Two versions of one name have two ids, also within one millisecond.
func TestModelMadeAgainRaisesNewID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		ids := map[string]bool{}
		for range 3 {
			if _, _, err := b.PutModelVersion(t.Context(), b.ws, "m", "1", ModelChange{}, kim); err != nil {
				t.Fatal(err)
			}
			if err := b.DeleteModelVersion(t.Context(), b.ws, "m", "1", kim); err != nil {
				t.Fatal(err)
			}
		}
		_, events := b.log.since(0)
		for _, e := range events {
			var v struct{ ID string }
			_ = json.Unmarshal([]byte(e), &v)
			ids[v.ID] = true
		}
		if len(events) != 3 || len(ids) != 3 {
			t.Errorf("%d events with %d ids, want 3 with 3", len(events), len(ids))
		}
	})
}

func TestConcurrentRegistrationsTakeDifferentNumbers(t *testing.T) {
	b := newBench(t)
	const writers = 32
	var mu sync.Mutex
	names := map[string]bool{}
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			m, err := b.RegisterModel(t.Context(), b.ws, "m", ModelChange{}, kim)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			names[m.Name] = true
		})
	}
	group.Wait()
	if len(names) != writers || !names["1"] || !names[fmt.Sprint(writers)] {
		t.Errorf("%d numbers for %d registrations", len(names), writers)
	}
}
