package ingest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/fault"
)

// vectors are tokens of each generator, made with key1 and valid until vectorsEnd.
// Source: spec/events.md section 8.5, "Test vectors".
var vectors = []struct{ name, token string }{
	{"A .NET documentation", "r=https%3a%2f%2fml-events.westus2-1.eventgrid.azure.net%2fapi%2fevents%3fapi-version%3d2018-01-01&e=6%2f15%2f2030+6%3a20%3a15+PM&s=WA%2b3To%2b39%2fz0xgoFBSkdEEXuSCiRti5MhyLd%2biXXFJk%3d"},
	{"B .NET builder", "r=https%3a%2f%2fml-events.westus2-1.eventgrid.azure.net%2fapi%2fevents%3fapi-version%3d2018-01-01&e=6%2f15%2f2030+6%3a20%3a15+PM+%2b00%3a00&s=B%2fess1yC5lTGh%2fVS%2b%2fqkIdvJ2byR54z4yMus%2fMJzSlc%3d"},
	{"C Python SDK", "r=https%3A%2F%2Fml-events.westus2-1.eventgrid.azure.net%2Fapi%2Fevents%3FapiVersion%3D2018-01-01&e=2030-06-15%2018%3A20%3A15%2B00%3A00&s=4%2BMmRNotaT9Vf0zuiVnO1vc1pfbXCMOg64o5benJIy4%3D"},
	{"D JavaScript SDK", "r=https%3A%2F%2Fml-events.westus2-1.eventgrid.azure.net%2Fapi%2Fevents%3FapiVersion%3D2018-01-01&e=6%2F15%2F2030%206%3A20%3A15%20PM&s=A%2B6RJvo%2BW2IoShCLMoviHLIE02weB9qpEihlkbTkQlc%3D"},
	{"E Python documentation", "r=https%3A%2F%2Fml-events.westus2-1.eventgrid.azure.net%2Fapi%2Fevents&e=2030-06-15T18%3A20%3A15.123456&s=ZDTTgjDUwJNqc4faigg9D%2Fg757U9PgwLnCxXbE2AUCk%3D"},
}

var vectorsEnd = time.Date(2030, 6, 15, 18, 20, 15, 0, time.UTC)

func testKeys(first, second string) *[2]AccessKey {
	return &[2]AccessKey{NewAccessKey(first), NewAccessKey(second)}
}

// at is the address of a request.
func at(rawURL string) []address {
	return []address{addressOf(httptest.NewRequest("POST", rawURL, nil))}
}

func TestSASVectors(t *testing.T) {
	const topic = "https://ml-events.westus2-1.eventgrid.azure.net/api/events?api-version=2018-01-01"
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			end := vectorsEnd
			if strings.Contains(v.token, ".123456") {
				end = end.Add(123456 * time.Microsecond)
			}
			var remembering signatures // over all of them: what is remembered must not let more in
			for _, c := range []struct {
				name  string
				keys  *[2]AccessKey
				at    string
				now   time.Time
				token string
				want  string // in the message; "" = it holds
			}{
				{"first key", testKeys(key1, key2), topic, end.Add(-time.Microsecond), v.token, ""},
				{"second key", testKeys(key2, key1), topic, end.Add(-time.Microsecond), v.token, ""},
				{"one key alone", testKeys(key1, ""), topic, time.Unix(0, 0), v.token, ""},
				{"at its end", testKeys(key1, key2), topic, end, v.token, "expired at 2030-06-15T18:20:15Z"},
				{"other keys", testKeys(key2, key2), topic, end.Add(-time.Second), v.token, "not signed with"},
				{"no keys", testKeys("", ""), topic, end.Add(-time.Second), v.token, "not signed with"},
				{"other topic", testKeys(key1, key2), "https://other.westus2-1.eventgrid.azure.net/api/events", end.Add(-time.Second), v.token, "another resource"},
				{"expiry moved", testKeys(key1, key2), topic, end.Add(time.Second), strings.Replace(v.token, "2030", "2031", 1), "not signed with"},
				{"another spelling of the same", testKeys(key1, key2), topic, end.Add(-time.Second), strings.Replace(v.token, "https", "Https", 1), "not signed with"},
				{"signature of another key", testKeys(key1, key2), topic, end.Add(-time.Second), v.token[:strings.Index(v.token, "&s=")+3] + url.QueryEscape(sign("x", key1)), "not signed with"},
			} {
				for _, s := range []*signatures{{}, &remembering, &remembering} {
					problem := s.check(c.token, c.keys, at(c.at), c.now)
					if problem == nil != (c.want == "") || problem != nil && (problem.Kind != fault.Unauthenticated || !strings.Contains(problem.Message, c.want)) {
						t.Errorf("%s: %v, want %q", c.name, problem, c.want)
					}
				}
			}
		})
	}
}

func TestSASForm(t *testing.T) {
	for _, token := range []string{
		"", "r=", "hunter2", "r=a&e=b", "r=a&e=b&s=", "r=&e=b&s=c", "r=a&e=&s=c", "e=b&r=a&s=c", "r=a&s=c&e=b", "r=a&e=b&s=c&t=d",
		"r=a&x=y&e=b&s=c", "r=%zz&e=b&s=c", "r=a&e=%&s=c", "r=a&e=b&s=%4", "a&e=b&s=c", "sr=a&se=b&sig=c", "r=a&e=b&s=c&s=d",
	} {
		problem := new(signatures).check(token, testKeys(key1, key2), at("http://x/"), time.Now())
		if problem == nil || problem.Kind != fault.Invalid || problem.Code != "InvalidSas" || !strings.Contains(problem.Message, "r={resource}&e={expiry}&s={signature}") {
			t.Errorf("%q: %v", token, problem)
		}
	}
}

func TestSASExpiry(t *testing.T) {
	for text, want := range map[string]string{
		"6/15/2030 6:20:15 PM":             "2030-06-15T18:20:15Z",
		"06/15/2030 06:20:15 PM":           "2030-06-15T18:20:15Z",
		"6/5/2030 6:2:5 PM":                "2030-06-05T18:02:05Z", // the Java SDK
		"6/5/2030 6:2:5 pm":                "2030-06-05T18:02:05Z",
		"6/15/2030 12:20:15 AM":            "2030-06-15T00:20:15Z",
		"6/15/2030 12:20:15 PM":            "2030-06-15T12:20:15Z",
		"6/15/2030 0:20:15 AM":             "2030-06-15T00:20:15Z", // noon or midnight as an early JavaScript SDK wrote it
		"6/15/2030 6:20:15\u202fPM":        "2030-06-15T18:20:15Z",
		"6/15/2030 6:20:15\u00a0PM +00:00": "2030-06-15T18:20:15Z",
		"6/15/2030 6:20:15 PM +02:00":      "2030-06-15T16:20:15Z",
		"6/15/2030, 6:20:15 PM":            "2030-06-15T18:20:15Z",
		"06/15/2030 18:20:15":              "2030-06-15T18:20:15Z",
		"06/15/2030 18:20:15 +00:00":       "2030-06-15T18:20:15Z",
		"2030-06-15 18:20:15":              "2030-06-15T18:20:15Z",
		"2030-06-15 18:20:15.5+00:00":      "2030-06-15T18:20:15.5Z",
		"2030-06-15 20:20:15+02:00":        "2030-06-15T18:20:15Z",
		"2030-06-15T18:20:15":              "2030-06-15T18:20:15Z",
		"2030-06-15T18:20:15Z":             "2030-06-15T18:20:15Z", // the tests of the Go SDK
		"2030-06-15T18:20:15.123456Z":      "2030-06-15T18:20:15.123456Z",
		" 2030-06-15T18:20:15-08:00 ":      "2030-06-16T02:20:15Z",

		"": "", "tomorrow": "", "1907850015": "", "15/6/2030 6:20:15 PM": "", "6/31/2030 6:20:15 PM": "", "2030-06-15": "", "2030-02-30T00:00:00Z": "",
		"6/15/2030 25:20:15": "", "2030-06-15T18:20:15Z Z": "", "6/15/30 6:20:15 PM": "",
	} {
		got, ok := parseExpiry(text)
		if ok != (want != "") || ok && got.UTC().Format(time.RFC3339Nano) != want {
			t.Errorf("%q is %v %v, want %q", text, got, ok, want)
		}
	}
}

func TestSASResource(t *testing.T) {
	const endpoint = "https://grid.example:8443/topics/Orders/api/events"
	for _, c := range []struct {
		resource, request string
		want              bool
	}{
		{endpoint, endpoint, true},
		{endpoint, endpoint + "/", true},
		{endpoint + "/", endpoint, true},
		{endpoint + "?apiVersion=2018-01-01", endpoint + "?api-version=2018-01-01", true},
		{endpoint + "#part", endpoint, true},
		{strings.ToUpper(endpoint), endpoint, true},
		{endpoint, "https://GRID.example:8443/Topics/orders/API/Events", true},
		{"https://grid.example:8443/topics/orders", endpoint, true},
		{"https://grid.example:8443/topics/", endpoint, true},
		{"https://grid.example:8443", endpoint, true},
		{"https://grid.example/topics/orders/api/events", "https://grid.example:443/topics/orders/api/events", true},
		{"http://grid.example:80/topics/orders/api/events", "http://grid.example/topics/orders/api/events", true},
		{"http://[::1]:8080/topics/orders/api/events", "http://[::1]:8080/topics/orders/api/events", true},

		{"https://grid.example:8443/topics/Ord", endpoint, false},
		{"https://grid.example:8443/topics/Orders/api/events/more", endpoint, false},
		{"https://grid.example:8443/topics/other/api/events", endpoint, false},
		{"https://grid.example:8443/api/events", endpoint, false},
		{"https://grid.example/topics/Orders/api/events", endpoint, false},
		{"https://grid.example:8444/topics/Orders/api/events", endpoint, false},
		{"http://grid.example:8443/topics/Orders/api/events", endpoint, false},
		{"https://other.example:8443/topics/Orders/api/events", endpoint, false},
		{"https://grid.example:8443@other.example/topics/Orders/api/events", endpoint, false},
		{"https://user@grid.example:8443/topics/Orders/api/events", endpoint, false},
		{"grid.example:8443/topics/Orders/api/events", endpoint, false},
		{"/topics/Orders/api/events", endpoint, false},
		{"orders", endpoint, false},
		{"https://%zz", endpoint, false},
	} {
		if got := parseResource(c.resource).leadsTo(at(c.request)[0]); got != c.want {
			t.Errorf("%s leads to %s is %v", c.resource, c.request, got)
		}
	}
}

// sign signs a text with a base64 key.
func sign(text, key string) string {
	raw, _ := base64.StdEncoding.DecodeString(key)
	mac := hmac.New(sha256.New, raw)
	mac.Write([]byte(text))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// signed makes a token as url.QueryEscape encodes it.
func signed(resource, expiry, key string) string {
	text := "r=" + url.QueryEscape(resource) + "&e=" + url.QueryEscape(expiry)
	return text + "&s=" + url.QueryEscape(sign(text, key))
}

// FuzzSAS holds any text against the rules: one that nobody signed never holds, and
// what is signed holds if and only if the text before &s= is as it was signed.
func FuzzSAS(f *testing.F) {
	for _, v := range vectors {
		f.Add(v.token, uint(17))
	}
	f.Add("r=https%3a%2f%2fx&e=6%2f15%2f2030&s=abc", uint(0))
	f.Add("&e=&s=%", uint(3))
	now, place := vectorsEnd.Add(-time.Hour), at("https://ml-events.westus2-1.eventgrid.azure.net/api/events")
	var remembering signatures
	checkSAS := func(token string, keys *[2]AccessKey, at []address, now time.Time) *fault.Error {
		problem, again := new(signatures).check(token, keys, at, now), remembering.check(token, keys, at, now)
		if (problem == nil) != (again == nil) || problem != nil && problem.Message != again.Message {
			panic(fmt.Sprintf("%q: %v, and %v where tokens are remembered", token, problem, again))
		}
		return problem
	}
	f.Fuzz(func(t *testing.T, text string, flip uint) {
		if checkSAS(text, testKeys(key2, key2), place, now) == nil {
			t.Fatalf("%q holds with a key that nobody signed with", text)
		}
		plain, _, _ := strings.Cut(text, "&s=")
		token := plain + "&s=" + url.QueryEscape(sign(plain, key1))
		first, second := checkSAS(token, testKeys(key1, key2), place, now), checkSAS(token, testKeys(key2, key1), place, now)
		if (first == nil) != (second == nil) || first != nil && first.Message != second.Message {
			t.Fatalf("%q: %v with the first key, %v with the second", token, first, second)
		}
		if first != nil && strings.Contains(first.Message, "not signed") {
			t.Fatalf("%q is signed: %v", token, first)
		}
		if plain == "" {
			return
		}
		changed := []byte(token)
		changed[flip%uint(len(plain))] ^= 1
		if checkSAS(string(changed), testKeys(key1, key2), place, now) == nil {
			t.Fatalf("%q holds, and was signed as %q", changed, plain)
		}
	})
}

// TestSASMemory sends more tokens than are remembered; each of them holds.
func TestSASMemory(t *testing.T) {
	var s signatures
	keys, place := testKeys(key1, key2), at("http://x/api/events")
	for i := range maxClaims + 10 {
		token := signed("http://x/api/events", vectorsEnd.Add(time.Duration(i)*time.Second).Format(time.RFC3339), key1)
		if problem := s.check(token, keys, place, vectorsEnd.Add(-time.Hour)); problem != nil {
			t.Fatal(problem)
		}
		if len(s.claims) > maxClaims {
			t.Fatalf("%d claims are remembered", len(s.claims))
		}
	}
	if problem := s.check("r=a&e=b&s=c", keys, place, vectorsEnd); problem == nil || len(s.claims) != 10 {
		t.Errorf("%d claims are remembered; %v", len(s.claims), problem)
	}
}

func BenchmarkSAS(b *testing.B) {
	keys, place, now := testKeys(key2, key1), at("https://ml-events.westus2-1.eventgrid.azure.net/api/events"), vectorsEnd.Add(-time.Hour)
	for _, c := range []struct {
		name   string
		forget bool
	}{{"seen=no", true}, {"seen=yes", false}} {
		b.Run(c.name, func(b *testing.B) {
			s := new(signatures)
			b.ReportAllocs()
			for b.Loop() {
				if c.forget {
					s.claims = nil
				}
				if problem := s.check(vectors[1].token, keys, place, now); problem != nil {
					b.Fatal(problem)
				}
			}
		})
	}
}
