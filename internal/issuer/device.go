package issuer

import (
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/telemetry"
)

const (
	deviceLifetime   = 15 * time.Minute
	deviceInterval   = 5 * time.Second
	devicePath       = "/devicelogin"
	maxDevices       = 10_000
	pollNumber       = 70016 // of answers to a poll, which are no failures
	devicesOfAddress = 100

	// userLetters hold no vowel and nothing that looks like something else.
	// Source: RFC 8628, section 6.1.
	userLetters = "BCDFGHJKLMNPQRSTVWXZ"
)

// device is a sign-in at a device that cannot show a page: the user signs in elsewhere
// with the user code. Source: RFC 8628.
type device struct {
	signIn
	userCode string
	from     netip.Addr
	expires  time.Time
	polled   time.Time
	wait     time.Duration // between two polls
	by       signedIn      // zero until somebody has signed in
	declined bool
}

// devices are those that wait. They are kept in memory, as codes are.
type devices struct {
	mu     sync.Mutex
	open   map[string]*device // by device code
	byUser map[string]*device
}

// add makes a device code and a user code; "" when there are too many.
func (d *devices) add(s signIn, from netip.Addr) (deviceCode, userCode string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now, ofAddress := time.Now(), 0
	for text, one := range d.open {
		switch {
		case now.After(one.expires):
			d.drop(text, one)
		case one.from == from:
			ofAddress++
		}
	}
	if len(d.open) >= maxDevices || ofAddress >= devicesOfAddress {
		return "", ""
	}
	if d.open == nil {
		d.open, d.byUser = map[string]*device{}, map[string]*device{}
	}
	for userCode = newUserCode(); d.byUser[userCode] != nil; userCode = newUserCode() {
	}
	one := &device{signIn: s, userCode: userCode, from: from, expires: now.Add(deviceLifetime), wait: deviceInterval}
	deviceCode = rand.Text() + rand.Text()
	d.open[deviceCode], d.byUser[userCode] = one, one
	return deviceCode, userCode
}

// drop needs mu.
func (d *devices) drop(text string, one *device) {
	delete(d.open, text)
	delete(d.byUser, one.userCode)
}

func newUserCode() string {
	letters := make([]byte, 0, 9)
	var raw [1]byte
	for len(letters) < 8 {
		_, _ = rand.Read(raw[:]) // crypto/rand.Read never fails
		if int(raw[0]) < 256-256%len(userLetters) {
			letters = append(letters, userLetters[int(raw[0])%len(userLetters)])
		}
	}
	return string(letters)
}

// find returns what waits for a user code, however it was typed.
func (d *devices) find(userCode string) (signIn, string, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	one := d.byUser[plainUserCode(userCode)]
	if one == nil || one.by.user != "" || one.declined || time.Now().After(one.expires) {
		return signIn{}, "", false
	}
	return one.signIn, one.userCode, true
}

func plainUserCode(typed string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(userLetters, r) {
			return r
		}
		return -1
	}, strings.ToUpper(clip(typed)))
}

// settle says who signed in with a user code, or that nobody will.
func (d *devices) settle(userCode string, by signedIn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	one := d.byUser[userCode]
	if one == nil || one.by.user != "" || one.declined || time.Now().After(one.expires) {
		return false
	}
	one.by, one.declined = by, by.user == ""
	return true
}

// poll tells a device how its sign-in stands: who signed in, or an OAuth error.
func (d *devices) poll(deviceCode, client string) (s signIn, by signedIn, problem string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	one := d.open[deviceCode]
	switch {
	case one == nil || one.client != client:
		return s, by, "invalid_grant"
	case now.After(one.expires):
		d.drop(deviceCode, one)
		return s, by, "expired_token"
	case one.declined:
		d.drop(deviceCode, one)
		return s, by, "authorization_declined"
	case one.by.user != "":
		d.drop(deviceCode, one)
		return one.signIn, one.by, ""
	}
	early := now.Sub(one.polled) < one.wait-time.Second // clocks and networks are not exact
	one.polled = now
	if early {
		one.wait += deviceInterval
		return s, by, "slow_down"
	}
	return s, by, "authorization_pending"
}

// deviceAnswer begins a sign-in at a device. Source: RFC 8628, section 3.2.
type deviceAnswer struct {
	DeviceCode      string `json:"device_code"`
	UserCode        string `json:"user_code"`
	VerificationURI string `json:"verification_uri"`
	VerificationURL string `json:"verification_url"` // as older clients of Azure call it
	Complete        string `json:"verification_uri_complete"`
	ExpiresIn       int    `json:"expires_in"`
	Interval        int    `json:"interval"`
	Message         string `json:"message"`
}

func (h *Handler) deviceCode(w http.ResponseWriter, r *http.Request, face access.Face) {
	form, refused := readForm(w, r)
	if refused != nil {
		refuse(w, r, refused)
		return
	}
	client, _, known := publicClient(form.Get("client_id"))
	if !known {
		refuse(w, r, notPublic(form.Get("client_id")))
		return
	}
	s := signIn{client: client}
	if refused := h.readSignIn(&s, form, face); refused != nil {
		refuse(w, r, refused)
		return
	}
	deviceCode, userCode := h.devices.add(s, addressOf(r.RemoteAddr))
	if deviceCode == "" {
		refuse(w, r, &refusal{status: http.StatusTooManyRequests, code: "temporarily_unavailable", retryAfter: time.Minute,
			text: "Too many device codes are open. Use those, or wait until they expire."})
		return
	}
	at := h.origin(r) + devicePath
	shown := userCode[:4] + "-" + userCode[4:]
	w.Header().Set("Cache-Control", "no-store")
	answer(w, http.StatusOK, deviceAnswer{
		DeviceCode: deviceCode, UserCode: shown, VerificationURI: at, VerificationURL: at, Complete: at + "?user_code=" + shown,
		ExpiresIn: int(deviceLifetime.Seconds()), Interval: int(deviceInterval.Seconds()),
		Message: fmt.Sprintf("To sign in, use a web browser to open the page %s and enter the code %s to authenticate.", at, shown),
	})
}

// devicePage lets a user sign in for a device: first the code, then the name of what
// wants to act for the user, with user name and password.
func (h *Handler) devicePage(w http.ResponseWriter, r *http.Request) {
	first := page{
		Title: "Sign in to a device", Message: "Enter the code that the device shows.", Action: devicePath,
		Fields:  []field{{Name: "user_code", Label: "Code", Type: "text", Value: clip(r.URL.Query().Get("user_code")), Autocomplete: "one-time-code", Focus: true}},
		Buttons: []button{{Text: "Next"}},
	}
	if r.Method != http.MethodPost {
		h.show(w, r, http.StatusOK, first)
		return
	}
	sent, ok := h.readSent(w, r, first)
	if !ok {
		return
	}
	from := addressOf(r.RemoteAddr)
	if wait := h.failures.wait(from, "device"); wait > 0 {
		h.showTooMany(w, r, wait, first)
		return
	}
	s, userCode, ok := h.devices.find(sent.Get("user_code"))
	if !ok {
		h.failures.add(from, "device")
		first.Problem = "No device waits with this code: it is mistyped, was used, or has expired."
		h.show(w, r, http.StatusBadRequest, first)
		return
	}
	h.signInToDevice(w, r, sent, s, userCode, first)
}

// signInToDevice is the second step of devicePage, with the device that waits for s.
func (h *Handler) signInToDevice(w http.ResponseWriter, r *http.Request, sent url.Values, s signIn, userCode string, first page) {
	_, name, _ := publicClient(s.client)
	second := page{
		Title: "Sign in to a device", Action: devicePath,
		Message: name + " on the device that shows the code " + userCode[:4] + "-" + userCode[4:] + " wants to act for you. Go on only if you have just started it yourself: whoever sent you the code would act as you.",
		Fields:  append(userFields(""), field{Name: "user_code", Type: "hidden", Value: userCode}),
		Buttons: []button{{Text: "Sign in"}, {Name: "cancel", Value: "1", Text: "Cancel"}},
	}
	switch {
	case sent.Get("cancel") != "":
		h.devices.settle(userCode, signedIn{})
		telemetry.RecordOf(r.Context()).Add(slog.String("sign_in", "declined"))
		showBare(w, http.StatusOK, page{Title: "Nobody was signed in", Message: "You can close this page."})
		return
	case !sent.Has("password"):
		h.show(w, r, http.StatusOK, second)
		return
	}
	user, ok := h.checkSignIn(w, r, sent, second)
	if !ok {
		return
	}
	if !h.devices.settle(userCode, signedInNow(user)) {
		first.Problem = "The code has expired. Start anew on the device."
		h.show(w, r, http.StatusBadRequest, first)
		return
	}
	showBare(w, http.StatusOK, page{Title: "You are signed in", Message: name + " on the device goes on by itself. You can close this page."})
}

// pollDevice answers a device that asks for its token.
func (h *Handler) pollDevice(req request) (access.Principal, signIn, *refusal) {
	s, by, problem := h.devices.poll(req.deviceCode, req.clientID)
	texts := map[string]refusal{
		"authorization_pending":  {number: pollNumber, text: "The user has not signed in yet. Continue polling."},
		"slow_down":              {number: pollNumber, text: "The device asks too often. Wait five seconds more between two polls."},
		"authorization_declined": {number: 70000, text: "The user cancelled."},
		"expired_token":          {number: 70020, text: "The device code has expired. Start anew."},
		"invalid_grant":          {number: 70008, text: "The device code is not known, was used, or is of another client."},
	}
	user, ok := h.stillSignedIn(by)
	if problem == "" && !ok {
		problem = "invalid_grant"
	}
	if problem != "" {
		refused := texts[problem]
		refused.status, refused.code = http.StatusBadRequest, problem
		return user, s, &refused
	}
	return user, s, nil
}

// notPublic refuses a client id; one that is no GUID is not repeated, for it may be a
// secret in the wrong place.
func notPublic(id string) *refusal {
	return &refusal{status: http.StatusBadRequest, code: "unauthorized_client", number: 700016,
		text: "No application that users sign in at has the client id" + guid(id) + ". Use that of the az command line, '04b07795-8ddb-461a-bbee-02f9e1bf7b46'."}
}

func guid(text string) string {
	id, err := uuid.Parse(text)
	if err != nil {
		return " that was sent"
	}
	return " '" + id.String() + "'"
}
