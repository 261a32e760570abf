package issuer

import (
	"errors"
	"log/slog"
	"net/http"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// passwordPath is where a sign-in link leads: a page on which a user sets a password.
const passwordPath = "/setpassword"

// passwordForm asks for a new password; user and link come back with it.
func passwordForm(user, link string) page {
	return page{
		Title: "Set your password", Message: "At least 12 characters. The link works once.", Action: passwordPath,
		Fields: []field{
			{Name: "password", Label: "New password", Type: "password", Autocomplete: "new-password", MinLength: 12, Focus: true},
			{Name: "again", Label: "The same once more", Type: "password", Autocomplete: "new-password", MinLength: 12},
			{Name: "user", Type: "hidden", Value: clip(user)},
			{Name: "link", Type: "hidden", Value: clip(link)},
		},
		Buttons: []button{{Text: "Set password"}},
	}
}

// passwordPage lets the holder of a sign-in link set the password, once.
func (h *Handler) passwordPage(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	form := passwordForm(q.Get("user"), q.Get("link"))
	if r.Method != http.MethodPost {
		h.show(w, r, http.StatusOK, form)
		return
	}
	sent, ok := h.readSent(w, r, form)
	if !ok {
		return
	}
	form = passwordForm(sent.Get("user"), sent.Get("link"))
	from := addressOf(r.RemoteAddr)
	if wait := h.failures.wait(from, "link"); wait > 0 {
		h.showTooMany(w, r, wait, form)
		return
	}
	if sent.Get("password") != sent.Get("again") {
		form.Problem = "The two passwords differ."
		h.show(w, r, http.StatusBadRequest, form)
		return
	}
	record := telemetry.RecordOf(r.Context())
	link := secret.String(sent.Get("link"))
	if p, ok := h.directory.LinkHolder(sent.Get("user"), link); ok {
		record.SetPrincipal(identity(p)) // of the change
	}
	user, err := h.directory.SetPassword(r.Context(), sent.Get("user"), link, secret.String(sent.Get("password")))
	f, _ := errors.AsType[*fault.Error](err)
	switch {
	case fault.Is(err, fault.Invalid):
		h.failures.add(from, "link")
		form.Problem = f.Message
		h.show(w, r, http.StatusBadRequest, form)
		return
	case err != nil:
		record.SetError(err)
		fault.Write(w, r, err)
		return
	}
	record.Add(slog.String("sign_in", "password set"))
	showBare(w, http.StatusOK, page{Title: "Your password is set", Message: "Sign in as " + user.Name + ", with az login for example. You can close this page."})
}
