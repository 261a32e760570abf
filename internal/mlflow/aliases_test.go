package mlflow

import (
	"slices"
	"testing"
	"time"
)

const (
	aliasSet     = "ModelAliasSet"
	aliasRemoved = "ModelAliasRemoved"
	stageChanged = "ModelStageChanged"
)

// wants has the workspace raise events beyond Azure's.
func (b *bridge) wants(names ...string) {
	b.t.Helper()
	ws, _ := b.store.Workspaces.Get(workspaceID.Key())
	ws.Value.ExtraEvents = names
	if _, err := b.store.Workspaces.Update(b.t.Context(), ws.Key, ws.Value, ws.Revision); err != nil {
		b.t.Fatal(err)
	}
}

// An alias that is set changes neither its model's time nor what a search says of its
// version; whoever wants to hear of it does so within four rounds, also of one on a
// version that is older than a page.
func TestAliasesRaiseEvents(t *testing.T) {
	in(t, "set, moved, taken away and set again", func(t *testing.T) {
		b := newBridge(t)
		for range 3 {
			b.fake.register("churn")
		}
		b.fake.setAlias("churn", "champion", "3")
		b.wants(aliasSet, aliasRemoved)
		s, _ := b.following(t, nil)
		b.attach(t, 0)
		s.signal()
		minute := func(words ...string) {
			t.Helper()
			time.Sleep(2 * widePart * 15 * time.Second)
			b.want(words...)
		}
		minute(registered, registered, registered, aliasSet)
		time.Sleep(sweepEvery / 2)
		b.fake.setAlias("churn", "champion", "1")
		minute(aliasSet, aliasRemoved)
		b.fake.setAlias("churn", "champion", "")
		minute(aliasRemoved)
		b.fake.setAlias("churn", "champion", "1")
		minute(aliasSet)
		time.Sleep(2 * sweepEvery) // what is read again is no news
		b.want()
		b.wants()
		b.fake.setAlias("churn", "champion", "2")
		minute()
	})
	in(t, "stages, and what a new version has", func(t *testing.T) {
		b := newBridge(t)
		b.wants(aliasSet, stageChanged)
		b.rounds(1)
		b.fake.register("churn")
		b.fake.setAlias("churn", "champion", "1")
		b.fake.setStage("churn", "1", "Staging")
		b.rounds(1)
		b.want(registered, aliasSet, stageChanged)
		b.fake.setStage("churn", "1", "None")
		b.rounds(1)
		b.want(stageChanged)
		b.restart()
		b.rounds(widePart)
		b.want()
	})
	in(t, "a look at one model", func(t *testing.T) {
		b := newBridge(t)
		b.wants(aliasSet)
		b.rounds(1)
		b.fake.register("churn")
		b.rounds(1)
		b.want(registered)
		b.fake.setAlias("churn", "champion", "1")
		for range 2 {
			if _, err := b.lookAtModel(t.Context(), "churn"); err != nil {
				t.Fatal(err)
			}
		}
		b.want(aliasSet)
	})
}

func TestAliasesThatMoved(t *testing.T) {
	a := aliases{}
	model := func(pairs ...string) registeredModel {
		m := registeredModel{Name: "m"}
		for i := 0; i < len(pairs); i += 2 {
			m.Aliases = append(m.Aliases, struct {
				Alias   string `json:"alias"`
				Version string `json:"version"`
			}{pairs[i], pairs[i+1]})
		}
		return m
	}
	for i, look := range []struct{ has, moved []string }{
		{nil, nil},
		{[]string{"x", "1", "y", "1"}, []string{"1"}},
		{[]string{"y", "1", "x", "1"}, nil},
		{[]string{"x", "2", "y", "1"}, []string{"1", "2"}},
		{[]string{"y", "1"}, []string{"2"}},
		{nil, []string{"1"}},
	} {
		if moved := a.learn(model(look.has...)); !slices.Equal(moved, look.moved) {
			t.Errorf("look %d: %q, want %q", i, moved, look.moved)
		}
	}
	if len(a) != 0 {
		t.Errorf("left over: %v", a)
	}
}
