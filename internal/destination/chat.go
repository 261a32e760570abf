package destination

import (
	"errors"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/carillon-events/carillon/internal/broker"
)

// message is the payload as a text for people.
func (o *occurrence) message() (string, error) {
	made, err := o.value()
	if err != nil {
		return "", err
	}
	text, is := made.(string)
	if !is {
		return "", errors.New(`the expression has to make a text, as in "Run " + data.runId + " failed"`)
	}
	if text == "" {
		return "", errors.New("the expression makes an empty text")
	}
	return text, nil
}

// The longest texts that are taken: Teams takes 28 KB with what is around them.
// Source: spec/handlers.md section 14.9; api.slack.com, "Truncating really long messages".
const (
	slackText = 40_000
	teamsText = 24_000
)

func cutText(text string, most int) string {
	if len(text) <= most {
		return text
	}
	text = text[:most]
	for !utf8.ValidString(text) {
		text = text[:len(text)-1]
	}
	return text + "…"
}

// slack posts a message by an incoming webhook. What an event says is text there, not
// markup. Source: spec/handlers.md section 14.9.
var slack = adapter{
	request: func(t *trigger, o *occurrence) (outgoing, error) {
		text, err := o.message()
		if err != nil {
			return outgoing{}, err
		}
		return post(t.secrets["url"], map[string]string{"text": strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(cutText(text, slackText))})
	},
	judge: func(r answered) broker.Response {
		if r.status == http.StatusNotFound || r.status == http.StatusGone {
			return broker.Response{Outcome: broker.NotFound, Verdict: broker.GiveUp}
		}
		return byTable([]int{200}, []int{400, 403})(r)
	},
}

// teams posts an adaptive card by a workflow's address. Source: spec/handlers.md section 14.9.
var teams = adapter{
	request: func(t *trigger, o *occurrence) (outgoing, error) {
		text, err := o.message()
		if err != nil {
			return outgoing{}, err
		}
		card := map[string]any{
			"$schema": "http://adaptivecards.io/schemas/adaptive-card.json", "type": "AdaptiveCard", "version": "1.4",
			"body": []any{map[string]any{"type": "TextBlock", "text": cutText(text, teamsText), "wrap": true}},
		}
		return post(t.secrets["url"], map[string]any{"type": "message", "attachments": []any{map[string]any{
			"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": nil, "content": card,
		}}})
	},
	judge: byTable([]int{200, 202}, []int{400, 401, 403, 404, 410, 413}),
}
