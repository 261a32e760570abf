package arm

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/carillon-events/carillon/internal/fault"
)

var updateSub = flag.Bool("update-workspace", false, "rewrite the golden files of workspace sub-resources")

// do sends one request as a caller. target is the path below the workspace.
func (l *lab) do(caller, method, target, body string, headers ...string) *http.Response {
	path, query, _ := strings.Cut(target, "?")
	r := httptest.NewRequest(method, "http://localhost:7443"+subWorkspace+"/"+path+"?api-version=2026-11-01&"+query, strings.NewReader(body))
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	segments, err := splitPath(r.URL.EscapedPath())
	if err == nil {
		err = l.api.ServeSubresource(w, r, l.ws, segments[8:], l.callers[caller])
	}
	if err != nil {
		fault.Write(w, r, err)
	}
	return w.Result()
}

// step is one request of a story: "caller METHOD path", a body, headers.
type step struct {
	line    string
	body    string
	headers []string
}

// In a step's headers, {etag} is the ETag of the last answer that had one, and in
// its path {next} what followed the path in the last nextLink, {name} the name of the
// object that was made last.
var stories = map[string][]step{
	"lifecycle": {
		{line: "reader GET lifecycleEvents"},
		{line: "scientist PUT experiments/churn/runs/done", body: `{"properties":{"status":"Completed","tags":{"owner":"kim"}}}`},
		{line: "scientist PUT experiments/churn/runs/stopped", body: `{"properties":{"status":"Canceled"}}`},
		{line: "scientist POST models/churn/versions"},
		{line: "reader GET lifecycleEvents?$top=2"},
		{line: "reader GET lifecycleEvents?{next}"},
		{line: "reader GET lifecycleEvents?since=2199-01-01T00:00:00Z&$top=1"},
		{line: "scientist PATCH experiments/churn/runs/done", body: `{"properties":{"tags":{"seen":"yes"}}}`},
		{line: "reader GET lifecycleEvents?since=00000000000000650000000000020000"},
		{line: "reader GET lifecycleEvents?since=00000000000000650000000000020000&after=00000000000000650000000000030001"},
		{line: "reader GET lifecycleEvents?since=yesterday&experiment=churn"},
		{line: "reader GET lifecycleEvents?after=0x5"},
		{line: "owner POST lifecycleEvents", body: `{}`},
		{line: "owner GET lifecycleEvents/one"},
		{line: "nobody GET lifecycleEvents"},
	},
	"runs": {
		{line: "scientist PUT experiments/Churn/runs/churn_1", body: `{"properties":{"status":"running","runType":"azureml.scriptrun","tags":{"owner":"kim"},"properties":{"iteration":"5"},"startTime":"2026-03-02T09:14:07Z","unknown":[1]}}`},
		{line: "scientist PUT experiments/churn/runs/CHURN_1", body: `{"properties":{"status":"Running","runType":"azureml.scriptrun","tags":{"owner":"kim"},"properties":{"iteration":"5"}}}`},
		{line: "scientist PATCH experiments/churn/runs/churn_1", body: `{"properties":{"tags":{"owner":null,"seen":"yes"}}}`, headers: []string{"If-Match", "{etag}", "Content-Type", "application/json"}},
		{line: "scientist PATCH experiments/churn/runs/churn_1", body: `{"properties":{"status":"Completed"}}`, headers: []string{"If-Match", `W/"0000", "1111"`}},
		{line: "scientist PATCH experiments/churn/runs/churn_1", body: `{"properties":{"status":"Completed"}}`, headers: []string{"If-Match", "*"}},
		{line: "scientist PATCH experiments/churn/runs/churn_1", body: `{"properties":{"status":"Running"}}`},
		{line: "reader GET experiments/churn/runs/churn_1"},
		{line: "reader HEAD experiments/churn/runs/churn_1"},
		{line: "reader HEAD experiments/churn/runs/none"},
		{line: "reader GET EXPERIMENTS/churn/RUNS"},
		{line: "reader GET experiments/churn"},
		{line: "scientist PUT experiments/churn/runs/churn_1", body: `{}`, headers: []string{"If-None-Match", "*"}},
		{line: "scientist DELETE experiments/churn/runs/churn_1"},
		{line: "scientist DELETE experiments/churn/runs/churn_1"},
		{line: "scientist GET experiments/churn/runs/churn_1"},
	},
	"experiments": {
		{line: "scientist PUT experiments/b"},
		{line: "scientist PUT experiments/a", body: `{"properties":{}}`},
		{line: "scientist PUT experiments/A", body: `{}`},
		{line: "scientist PATCH experiments/a", body: `{}`},
		{line: "scientist PUT experiments/c"},
		{line: "reader GET experiments?$top=2"},
		{line: "reader GET experiments?{next}"},
		{line: "scientist DELETE experiments/a"},
		{line: "scientist GET experiments/a"},
	},
	"models": {
		{line: "scientist POST models/churn/versions", body: `{"properties":{"tags":{"stage":"candidate"},"modelUri":"s3://m/1","runId":"churn_1"}}`},
		{line: "scientist POST models/churn/versions"},
		{line: "scientist PUT models/churn/versions/7", body: `{"properties":{}}`},
		{line: "scientist PUT models/churn/versions/7", body: `{"properties":{"modelUri":"s3://m/7"}}`},
		{line: "scientist PATCH models/churn/versions/7", body: `{"properties":{"tags":{"stage":"production"}}}`},
		{line: "reader GET models/churn/versions"},
		{line: "reader GET models/churn"},
		{line: "reader GET models"},
		{line: "scientist DELETE models/churn/versions/7"},
		{line: "scientist POST models/churn/versions"},
	},
	"endpoints": {
		{line: "scientist PUT onlineEndpoints/churn-svc", body: `{"properties":{"computeType":"AKS","modelIds":"churn:1,scaler:2","scoringUri":"https://svc.example/score","readiness":{"url":"https://svc.example/ready"}}}`},
		{line: "scientist PATCH onlineEndpoints/churn-svc", body: `{"properties":{"readiness":null}}`},
		{line: "scientist PATCH onlineEndpoints/churn-svc", body: `{"properties":{"state":"Healthy"}}`},
		{line: "reader GET onlineEndpoints"},
		{line: "scientist DELETE onlineEndpoints/churn-svc"},
	},
	"drift": {
		{line: "scientist PUT driftMonitors/weekly", body: `{"properties":{"baseline":{"datasetId":"base"},"target":{"uri":"file:///t.csv","format":"csv","timestampColumn":"at"},"features":["age"],"schedule":{"frequency":"Week"}}}`},
		{line: "scientist PATCH driftMonitors/weekly", body: `{"properties":{"threshold":0.5}}`},
		{line: "scientist POST driftMonitors/weekly/runs", body: `{"properties":{"startTime":"2026-02-23T00:00:00+00:00","endTime":"2026-03-02T00:00:00+00:00"}}`},
		{line: "scientist POST driftMonitors/weekly/runs", body: `{"properties":{"startTime":"2026-02-23T00:00:00+00:00","endTime":"2026-03-02T00:00:00+00:00","driftCoefficient":0.6125}}`},
		{line: "reader GET driftMonitors/weekly/runs"},
		{line: "reader GET experiments/weekly/runs"},
		{line: "scientist DELETE driftMonitors/weekly"},
	},
	"drift_jobs": {
		{line: "scientist PUT driftMonitors/weekly", body: `{"properties":{"baseline":{"datasetId":"base","uri":"/data/train.csv"},"target":{"datasetId":"live","uri":"/data/live/{yyyy}-{MM}-{dd}.csv","timestampColumn":"at"},"method":"auc","minRows":100,"seed":7,"schedule":{"frequency":"week","latencyHours":72},"consecutiveWindows":2,"cooldownHours":24}}`},
		{line: "scientist PATCH driftMonitors/weekly", body: `{"properties":{"schedule":{"enabled":false}}}`},
		{line: "scientist POST driftMonitors/weekly/runs", body: `{"properties":{"window":"1999-12-22"}}`},
		{line: "scientist POST driftMonitors/weekly/runs", body: `{"properties":{"startTime":"1999-12-20T00:00:00Z","endTime":"1999-12-27T00:00:00Z"}}`},
		{line: "reader GET driftMonitors/weekly/runs/{name}"},
		{line: "scientist PATCH driftMonitors/weekly/runs/{name}", body: `{"properties":{"status":"Failed"}}`},
		{line: "scientist PATCH driftMonitors/weekly/runs/{name}", body: `{"properties":{"status":"Canceled"}}`},
		{line: "scientist POST driftMonitors/weekly/backfill", body: `{"properties":{"startTime":"1999-12-06","endTime":"1999-12-18"}}`},
		{line: "scientist POST driftMonitors/weekly/runs", body: `{"properties":{"startTime":"2026-02-23T00:00:00Z","endTime":"2026-03-02T00:00:00Z","driftCoefficient":0.6,"result":{"schemaVersion":"1.0","status":"ok","method":"auc","driftCoefficient":0.6,"pValue":0,"rows":{"baseline":9,"target":9},"columns":[{"name":"amount","type":"numeric","drifted":true,"metrics":{"js2":0.5},"profile":{"baseline":{"mean":1},"target":{"mean":2}},"histogram":{"labels":["0"],"baseline":[1],"target":[1]}}]}}}`},
		{line: "reader GET driftMonitors/weekly/runs/{name}"},
		{line: "scientist PATCH driftMonitors/weekly/runs/{name}", body: `{"properties":{"status":"Canceled"}}`},
		{line: "reader GET driftMonitors/weekly/runs"},
		{line: "scientist PUT driftMonitors/weekly", body: `{"properties":{"schedule":"mondays","threshold":0}}`},
		{line: "scientist POST driftMonitors/weekly/runs", body: `{"properties":{"window":"2026-02-23"}}`},
		{line: "reader POST driftMonitors/weekly/backfill", body: `{}`},
		{line: "scientist GET driftMonitors/weekly/backfill"},
		{line: "scientist POST driftMonitors/weekly/backfill", body: `{"properties":{"startTime":7}}`},
	},
	"refusals": {
		{line: "reader PUT experiments/e/runs/r", body: `not even read`},
		{line: "nobody GET experiments/e/runs/r"},
		{line: "reader GET experiments/e/runs/r"},
		{line: "scientist PATCH experiments/e/runs/r", body: `{}`},
		{line: "scientist POST experiments/e/runs"},
		{line: "scientist PUT models/m"},
		{line: "scientist DELETE driftMonitors/m/runs/r"},
		{line: "scientist GET jobs/j"},
		{line: "scientist PUT experiments/e/runs/r", body: `[]`},
		{line: "scientist PUT experiments/e/runs/r", body: `{"properties":`},
		{line: "scientist PUT experiments/e/runs/r", body: `{"properties":[]}`},
		{line: "scientist PUT experiments/e/runs/r", body: `{}`, headers: []string{"Content-Type", "text/plain"}},
		{line: "scientist PUT experiments/e/runs/r", body: `{"properties":{"status":7,"tags":{"b":1,"a":true,"c":"x"},"properties":"x","startTime":"never"}}`},
		{line: "scientist PUT experiments/e/runs/r", body: `{"properties":{"status":"Done"}}`},
		{line: "scientist PUT onlineEndpoints/e", body: `{"properties":{"readiness":{"url":1,"timeoutSeconds":1.5,"intervalSeconds":0}}}`},
		{line: "scientist PUT driftMonitors/m", body: `{"properties":{"features":["a",1],"threshold":"0.2","target":"t"}}`},
		{line: "scientist POST driftMonitors/m/runs", body: `{"properties":{"startTime":"2026-02-23T00:00:00Z","endTime":"2026-03-02T00:00:00Z","driftCoefficient":"0.5"}}`},
		{line: "reader GET experiments?$top=0"},
		{line: "reader GET experiments?$skipToken=%21"},
		{line: "scientist PUT experiments/e%20x/runs/r"},
	},
}

var guids = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`)

func TestSubresourceStories(t *testing.T) {
	for story, steps := range stories {
		t.Run(story, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t)
				var out bytes.Buffer
				out.WriteString("# Source: design.md, \"Workspace sub-resources\"; spec/management.md sections 5.1, 7 and 8.\n")
				etag, next, name := "", "", ""
				for _, s := range steps {
					parts := strings.SplitN(s.line, " ", 3)
					headers := append([]string(nil), s.headers...)
					for i := range headers {
						headers[i] = strings.ReplaceAll(headers[i], "{etag}", etag)
					}
					resp := l.do(parts[0], parts[1], strings.NewReplacer("{next}", next, "{name}", name).Replace(parts[2]), s.body, headers...)
					var body bytes.Buffer
					if _, err := body.ReadFrom(resp.Body); err != nil {
						t.Fatal(err)
					}
					var list struct{ NextLink string }
					_ = json.Unmarshal(body.Bytes(), &list)
					if list.NextLink != "" {
						_, next, _ = strings.Cut(list.NextLink, "?")
					}
					if e := resp.Header.Get("ETag"); e != "" {
						etag = e
					}
					if at, err := url.Parse(resp.Header.Get("Location")); err == nil && at.Path != "" {
						name = at.Path[strings.LastIndexByte(at.Path, '/')+1:]
					}
					transcribe(t, &out, s, resp, body.Bytes())
				}
				for _, e := range l.log.events {
					fmt.Fprintf(&out, "\nevent %s\n", e)
				}
				seen := map[string]string{}
				text := guids.ReplaceAllStringFunc(out.String(), func(g string) string {
					if seen[g] == "" {
						seen[g] = fmt.Sprintf("{guid %d}", len(seen)+1)
					}
					return seen[g]
				})
				text = regexp.MustCompile(`"id":"[0-9a-f-]{36}"`).ReplaceAllString(text, `"id":"{made of the ids above}"`)
				goldenSub(t, "workspace_"+story+".golden", text)
			})
		})
	}
}

func transcribe(t *testing.T, out *bytes.Buffer, s step, resp *http.Response, body []byte) {
	t.Helper()
	fmt.Fprintf(out, "\n> %s\n", s.line)
	for i := 0; i+1 < len(s.headers); i += 2 {
		fmt.Fprintf(out, "> %s: %s\n", s.headers[i], s.headers[i+1])
	}
	if s.body != "" {
		fmt.Fprintf(out, "> %s\n", s.body)
	}
	fmt.Fprintf(out, "< %s\n", resp.Status)
	for _, h := range []string{"Allow", "Content-Type", "ETag", "Location", "x-ms-error-code"} {
		if v := resp.Header.Get(h); v != "" {
			fmt.Fprintf(out, "< %s: %s\n", h, v)
		}
	}
	if len(body) > 0 {
		var indented bytes.Buffer
		if err := json.Indent(&indented, bytes.TrimSpace(body), "< ", "  "); err != nil {
			t.Fatalf("%s answered %q: %v", s.line, body, err)
		}
		fmt.Fprintf(out, "< %s\n", indented.Bytes())
	}
}

func goldenSub(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *updateSub {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; got\n%s", path, got)
	}
}

func TestSubresourceBodyLimit(t *testing.T) {
	l := newLab(t)
	body := `{"properties":{"unknown":"` + strings.Repeat("x", maxBody) + `"}}`
	resp := l.do("owner", "PUT", "experiments/e", body)
	if resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("status %d", resp.StatusCode)
	}
	if resp := l.do("owner", "GET", "experiments/e", ""); resp.StatusCode != http.StatusNotFound {
		t.Errorf("afterwards the experiment answers %d", resp.StatusCode)
	}
}

func TestSubresourceLongList(t *testing.T) {
	l := newLab(t)
	const all = 230
	for range all {
		if resp := l.do("owner", "POST", "models/m/versions", ""); resp.StatusCode != http.StatusCreated {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
	var sizes []int
	seen := map[string]bool{}
	for target := "models/m/versions"; target != ""; {
		var list struct {
			Value    []struct{ Name string }
			NextLink string
		}
		if err := json.NewDecoder(l.do("reader", "GET", target, "").Body).Decode(&list); err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, len(list.Value))
		for _, v := range list.Value {
			seen[v.Name] = true
		}
		target = ""
		if list.NextLink != "" {
			at, query, _ := strings.Cut(list.NextLink, "?")
			if at != "http://localhost:7443"+subWorkspace+"/models/m/versions" {
				t.Fatalf("nextLink is %s", list.NextLink)
			}
			target = "models/m/versions?" + strings.Replace(query, "api-version=2026-11-01", "", 1)
		}
	}
	if fmt.Sprint(sizes) != "[100 100 30]" || len(seen) != all {
		t.Errorf("pages of %v with %d names", sizes, len(seen))
	}
}

// Whatever the body, the answer is one of the documented ones, and a refusal
// leaves nothing behind.
func FuzzSubresourceBodies(f *testing.F) {
	for _, steps := range stories {
		for _, s := range steps {
			f.Add(strings.SplitN(s.line, " ", 3)[2], s.body)
		}
	}
	f.Add("experiments/e/runs/r", `{"properties":{"tags":{"\ud800":"x"},"TAGS":null}}`)
	f.Fuzz(func(t *testing.T, target, body string) {
		if _, err := url.Parse("/" + target); err != nil || strings.ContainsAny(target, " #") {
			t.Skip() // no request line can hold it
		}
		l := newLab(t)
		for _, method := range []string{"PUT", "POST"} {
			before := l.log.seq
			resp := l.do("owner", method, target, body)
			switch resp.StatusCode {
			case 200, 201:
				if resp.Header.Get("ETag") == "" {
					t.Errorf("%s %q with %q: %s without an etag", method, target, body, resp.Status)
				}
			case 400, 404, 405:
				if l.log.seq != before {
					t.Errorf("%s %q with %q: %s, and something was stored", method, target, body, resp.Status)
				}
			default:
				t.Errorf("%s %q with %q: %s", method, target, body, resp.Status)
			}
		}
	})
}
