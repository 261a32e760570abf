package issuer

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"net/http"
	"strings"

	"github.com/carillon-events/carillon/internal/telemetry"
)

// page is what a page shows. Nobody needs a script for it.
type page struct {
	Title   string
	Message string // above the form
	Problem string // what was wrong with the last try
	Action  string // where the form goes; "" for no form
	Fields  []field
	Buttons []button

	to string // origin that the form, or the answer to it, leads to besides our own
}

// field is one input of a form.
type field struct {
	Name, Label, Type, Value, Autocomplete string
	MinLength                              int
	Focus                                  bool
}

type button struct{ Name, Value, Text string }

const style = `body{font:16px/1.5 system-ui,sans-serif;max-width:26rem;margin:10vh auto;padding:0 1rem;color:#1b1b1f;background:#fff}
label{display:block;margin:1rem 0 .25rem}
input{width:100%;box-sizing:border-box;font:inherit;padding:.5rem;border:1px solid #767680;border-radius:4px}
button{font:inherit;margin:1.5rem .5rem 0 0;padding:.5rem 1.25rem;border:1px solid #1a4fa3;border-radius:4px;background:#1a4fa3;color:#fff}
button+button{background:#fff;color:#1a4fa3}
.problem{border-left:4px solid #b3261e;padding:.25rem .75rem}
@media(prefers-color-scheme:dark){body{background:#1b1b1f;color:#e6e6ea}input{background:#2a2a30;color:inherit}button+button{background:#1b1b1f;color:#9cc0ff}}
`

var (
	pages = template.Must(template.New("page").Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Title}} – Carillon</title>
<style>` + style + `</style>
</head>
<body>
<main>
<h1>{{.Title}}</h1>
{{with .Message}}<p>{{.}}</p>
{{end}}{{with .Problem}}<p class="problem" role="alert">{{.}}</p>
{{end}}{{if .Action}}<form method="post" action="{{.Action}}">
{{range .Fields}}{{if eq .Type "hidden"}}<input type="hidden" name="{{.Name}}" value="{{.Value}}">
{{else}}<label for="{{.Name}}">{{.Label}}</label>
<input id="{{.Name}}" name="{{.Name}}" type="{{.Type}}" value="{{.Value}}" autocomplete="{{.Autocomplete}}" autocapitalize="none" spellcheck="false"{{with .MinLength}} minlength="{{.}}"{{end}} required{{if .Focus}} autofocus{{end}}>
{{end}}{{end}}{{range .Buttons}}<button type="submit"{{with .Name}} name="{{.}}"{{end}}{{with .Value}} value="{{.}}" formnovalidate{{end}}>{{.Text}}</button>
{{end}}</form>
{{end}}</main>
</body>
</html>
`))
	styleHash = hashOfStyle()
)

func hashOfStyle() string {
	sum := sha256.Sum256([]byte(style))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// show answers with a page. Its form comes back only from here: see sameForm.
func (h *Handler) show(w http.ResponseWriter, r *http.Request, status int, p page) {
	if p.Action != "" {
		p.Fields = append(p.Fields, field{Name: formField, Type: "hidden", Value: h.formToken(w, r)})
	}
	showBare(w, status, p)
}

// showBare is show for a page without a form of our own.
func showBare(w http.ResponseWriter, status int, p page) {
	head := w.Header()
	head.Set("Content-Type", "text/html; charset=utf-8")
	head.Set("Cache-Control", "no-store")
	head.Set("Content-Security-Policy", strings.TrimSpace("default-src 'none'; style-src 'sha256-"+styleHash+"'; base-uri 'none'; frame-ancestors 'none'; form-action 'self' "+p.to))
	head.Set("X-Frame-Options", "DENY")
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Referrer-Policy", "same-origin") // a link holds a secret
	w.WriteHeader(status)
	_ = pages.Execute(w, p) // the client has gone if this fails
}

const (
	formCookie = "__Host-carillon-form"
	formField  = "form"
)

// formToken returns what a form must bring back, made from the cookie that the browser
// is given with it.
func (h *Handler) formToken(w http.ResponseWriter, r *http.Request) string {
	nonce := ""
	if c, err := r.Cookie(formCookie); err == nil && len(c.Value) == len(rand.Text()) {
		nonce = c.Value
	} else {
		nonce = rand.Text()
		http.SetCookie(w, &http.Cookie{Name: formCookie, Value: nonce, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	}
	return h.formMAC(nonce)
}

func (h *Handler) formMAC(nonce string) string {
	mac := hmac.New(sha256.New, h.formKey)
	mac.Write([]byte(nonce))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// sameForm reports whether a form that was sent is one that this server showed in the
// same browser: no other page can have it sent.
func (h *Handler) sameForm(r *http.Request, token string) bool {
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		telemetry.RecordOf(r.Context()).SetError(err)
		return false
	}
	c, err := r.Cookie(formCookie)
	return err == nil && hmac.Equal([]byte(token), []byte(h.formMAC(c.Value)))
}

const staleForm = "The page was open for too long, or cookies are switched off. Try again."
