package arm

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/internal/resource"
)

func TestLineageReceiver(t *testing.T) {
	s := newStack(t)
	const receivers = wsID + "/providers/Carillon.OpenLineage/receivers"
	ask := func(caller, method, path, body string, status int) string {
		t.Helper()
		w := s.do(caller, method, path+"?api-version=2026-11-01", body)
		if w.Code != status {
			t.Errorf("%s %s as %s: %d %s, want %d", method, path, caller, w.Code, w.Body, status)
		}
		return w.Body.String()
	}
	keys := func(body string) (k struct{ Key1, Key2 string }) {
		t.Helper()
		if err := json.Unmarshal([]byte(body), &k); err != nil || k.Key1 == "" || k.Key2 == "" || k.Key1 == k.Key2 {
			t.Errorf("keys %s, error %v", body, err)
		}
		return k
	}
	at := receivers + "/default"
	var shown lineageBody
	if err := json.Unmarshal([]byte(ask("reader", "GET", at, "", 200)), &shown); err != nil || shown.ID != at || shown.Properties.KeysTime != nil {
		t.Errorf("%+v, error %v", shown, err)
	}
	if p := shown.Properties; p.Address != p.URL+"/openlineage/default/api/v1/lineage" || p.Address != p.URL+"/"+p.Endpoint || p.ByID != p.URL+wsID+"/providers/Carillon.OpenLineage/api/v1/lineage" {
		t.Errorf("%+v", p)
	}
	ask("reader", "GET", receivers+"/other", "", 404)
	ask("owner", "POST", receivers+"/other/listKeys", "", 404)
	ask("reader", "POST", at+"/listKeys", "", 403)
	ask("reader", "POST", at+"/regenerateKey", `{"keyName":"key1"}`, 403)
	if _, made := s.plane.Store.LineageKeys.Get(resource.MustID(wsID).Key()); made {
		t.Error("keys were made for nobody")
	}
	first := keys(ask("owner", "POST", at+"/listKeys", "", 200))
	if again := keys(ask("owner", "POST", at+"/listKeys", "", 200)); again != first {
		t.Error("keys change when they are listed")
	}
	ask("owner", "POST", at+"/regenerateKey", `{"keyName":"key3"}`, 400)
	ask("owner", "POST", at+"/regenerateKey", `{}`, 400)
	now := keys(ask("owner", "POST", at+"/regenerateKey", `{"keyName":"Key2"}`, 200))
	if now.Key1 != first.Key1 || now.Key2 == first.Key2 {
		t.Errorf("of the keys %v one was to change: %v", first, now)
	}
	if list := ask("reader", "GET", receivers, "", 200); !strings.Contains(list, at) || strings.Contains(list, now.Key1) || !strings.Contains(list, `"keysTime":"2`) {
		t.Errorf("list %s", list)
	}
	for key, value := range s.kv.Dump() {
		if strings.Contains(value, now.Key1) || strings.Contains(value, now.Key2) {
			t.Errorf("%s holds a key: %s", key, value)
		}
	}
	ask("owner", "DELETE", wsID, "", 204)
	if _, there := s.plane.Store.LineageKeys.Get(resource.MustID(wsID).Key()); there {
		t.Error("the keys outlived their workspace")
	}
}
