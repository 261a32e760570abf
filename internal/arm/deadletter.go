package arm

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
)

// maxLettersRead bounds how many dead letters one page looks at: a page may hold
// fewer than it could, and a nextLink all the same.
const maxLettersRead = 20_000

// letterFilter says which dead letters are wanted. What is not set asks for nothing.
type letterFilter struct {
	uids      map[string]bool // of the event subscriptions of the scope
	scope     resource.ID
	one       resource.UID // the only one wanted, 0 = any
	named     string       // event subscription wanted, by name or id, also one that is gone; "" = any
	reason    string
	outcome   string
	eventType string
	subject   string // what it begins with
	from, to  time.Time
}

var letterSource = regexp.MustCompile(`(?i)^\s*eventSubscription\s+eq\s+'([^']*)'\s*$`)

// letterFilterOf reads which dead letters a request is about: those at or below its
// scope, and of them what $filter (eventSubscription eq '{name or id}') and the
// parameters reason, outcome, eventType, subjectBeginsWith, from and to leave. from
// and to bound the time of giving up, from included and to not.
func letterFilterOf(r *request, d manage.Deliveries) (letterFilter, error) {
	f := letterFilter{
		uids: map[string]bool{}, scope: d.Scope, reason: r.query.Get("reason"), outcome: r.query.Get("outcome"),
		eventType: r.query.Get("eventtype"), subject: r.query.Get("subjectbeginswith"),
	}
	if es, single := d.Single(); single {
		f.one = es.Value.UID
	}
	var problems []*fault.Error
	if text := r.query.Get("$filter"); text != "" {
		m := letterSource.FindStringSubmatch(text)
		if m == nil {
			problems = append(problems, &fault.Error{
				Kind: fault.Invalid, Code: "InvalidFilterInQueryString", Target: "$filter",
				Message: "The $filter cannot be used. It may hold eventSubscription eq '{name or id}'.",
			})
		} else {
			f.named = m[1]
		}
	}
	for _, v := range d.EventSubscriptions {
		if f.named == "" || strings.EqualFold(v.Value.Name, f.named) || strings.EqualFold(v.ID.String(), f.named) || strings.EqualFold(v.Value.ID().String(), f.named) {
			f.uids[v.Value.UID.String()] = true
		}
	}
	if !knownWord(f.reason, broker.ReasonNames()) {
		problems = append(problems, fault.Field("reason", "The reason '%.60s' is not known: use one of %s.", f.reason, strings.Join(broker.ReasonNames(), ", ")))
	}
	if !knownWord(f.outcome, broker.OutcomeNames()) {
		problems = append(problems, fault.Field("outcome", "The outcome '%.60s' is not known: use one of %s.", f.outcome, strings.Join(broker.OutcomeNames(), ", ")))
	}
	var from, to *fault.Error
	f.from, from = r.time("from")
	f.to, to = r.time("to")
	return f, fault.Join(append(problems, from, to, r.only("$filter", "reason", "outcome", "eventType", "subjectBeginsWith", "from", "to"))...)
}

// knownWord reports whether a parameter is one of words in any case, or not given.
func knownWord(word string, words []string) bool {
	return word == "" || slices.ContainsFunc(words, func(known string) bool { return strings.EqualFold(known, word) })
}

// wants reports whether a letter is one that was asked for.
func (f *letterFilter) wants(l *broker.Letter) bool {
	uid, _, _ := strings.Cut(l.ID, "-")
	switch at := l.GivenUp(); {
	case !f.uids[uid] && !(inScope(f.scope, l) && f.names(l)):
		return false
	case f.reason != "" && !strings.EqualFold(f.reason, string(l.DeadLetterReason)):
		return false
	case f.outcome != "" && !strings.EqualFold(f.outcome, l.LastDeliveryOutcome):
		return false
	case !f.from.IsZero() && at.Before(f.from), !f.to.IsZero() && !at.Before(f.to):
		return false
	}
	if f.eventType == "" && f.subject == "" {
		return true
	}
	var e event.Event
	if e.Parse(l.Event, event.Schema(l.InputSchema)) != nil {
		return false
	}
	return (f.eventType == "" || strings.EqualFold(f.eventType, string(e.Type))) &&
		len(e.Subject) >= len(f.subject) && strings.EqualFold(string(e.Subject[:len(f.subject)]), f.subject)
}

// names reports whether a letter's event subscription is the one asked for, as the
// letter tells: it may be gone.
func (f *letterFilter) names(l *broker.Letter) bool {
	if f.named == "" || strings.EqualFold(l.EventSubscription, f.named) {
		return true
	}
	id, err := resource.ParseID(l.EventSubscription)
	return err == nil && strings.EqualFold(id.Name(), f.named)
}

func inScope(scope resource.ID, letter *broker.Letter) bool {
	for _, text := range []string{letter.EventSubscription, letter.Topic} {
		if id, err := resource.ParseID(text); err == nil && scope.Contains(id) {
			return true
		}
	}
	return false
}

// listDeadLetters lists dead letters in the order they were given up, the events
// in them included.
func listDeadLetters(a *api, r *request) (answer, error) {
	d, err := a.Plane.Deliveries(r.ctx, r.caller, r.scope, true)
	if err != nil {
		return answer{}, err
	}
	f, err := letterFilterOf(r, d)
	if err != nil {
		return answer{}, err
	}
	size, token, err := r.paging()
	if err != nil {
		return answer{}, err
	}
	var after uint64
	if token != "" {
		if after, err = strconv.ParseUint(token, 10, 64); err != nil {
			return answer{}, fault.Field("$skipToken", "The $skipToken is not one that this server made: follow nextLink unchanged.")
		}
	}
	out := page{Value: []any{}}
	read := 0
	for l, err := range a.Deliveries.DeadLetters(r.ctx, f.one, after) {
		if err != nil {
			return answer{}, err
		}
		if len(out.Value) == size || read == maxLettersRead {
			out.NextLink = a.nextLink(r, strconv.FormatUint(after, 10))
			break
		}
		read++
		after = l.Place
		if f.wants(l) {
			out.Value = append(out.Value, l)
		}
	}
	return ok(out), nil
}

func getDeadLetter(a *api, r *request) (answer, error) {
	if _, err := a.Plane.Deliveries(r.ctx, r.caller, r.scope, true); err != nil {
		return answer{}, err
	}
	letter, err := a.letter(r, r.names[0])
	if err != nil {
		return answer{}, err
	}
	return ok(letter), nil
}

// deleteDeadLetter removes a dead letter for good.
func deleteDeadLetter(a *api, r *request) (answer, error) {
	if err := a.Plane.DeadLetterRemoval(r.ctx, r.caller, r.scope); err != nil {
		return answer{}, err
	}
	_, err := a.letter(r, r.names[0])
	if err == nil {
		err = a.Deliveries.RemoveDeadLetter(r.ctx, r.names[0])
	}
	if fault.Is(err, fault.NotFound) {
		err = nil
	}
	return deleted(true, err)
}

// letter reads a dead letter that belongs to the request's scope.
func (a *api) letter(r *request, id string) (*broker.Letter, error) {
	letter, err := a.Deliveries.DeadLetter(r.ctx, id)
	if err != nil {
		return nil, err
	}
	if !inScope(r.scope, letter) {
		return nil, fault.New(fault.NotFound, "DeadLetterNotFound", "Dead letter '%.80s' is not one of '%s'.", id, r.scope)
	}
	return letter, nil
}

// replayBody tells what became of a replay.
type replayBody struct {
	Replayed int            `json:"replayed"`
	Failed   []replayFailed `json:"failed,omitempty"`
}

type replayFailed struct {
	ID      string `json:"id"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

// maxReplay bounds the ids of one request.
const maxReplay = 10_000

// replayDeadLetters delivers dead letters once more: those of ids, or all of the
// event subscription that the path names.
func replayDeadLetters(a *api, r *request) (answer, error) {
	if !strings.EqualFold(r.names[0], "replay") {
		return answer{}, fault.New(fault.NotFound, "InvalidResourceType", "Dead letters have the action replay, not '%.80s'.", r.names[0])
	}
	d, err := a.Plane.Deliveries(r.ctx, r.caller, r.scope, true)
	if err != nil {
		return answer{}, err
	}
	f, err := r.readBody()
	ids := f.texts("ids")
	if err := f.verdict(err); err != nil {
		return answer{}, err
	}
	es, single := d.Single()
	switch {
	case len(ids) > maxReplay:
		return answer{}, fault.Field("ids", "At most %d dead letters can be replayed by one request, not %d.", maxReplay, len(ids))
	case len(ids) == 0 && !single:
		return answer{}, fault.Field("ids", "Name the dead letters to replay in ids, or call replay below one event subscription for all of its own.")
	case len(ids) == 0:
		for l, err := range a.Deliveries.DeadLetters(r.ctx, es.Value.UID, 0) {
			if err != nil {
				return answer{}, err
			}
			if ids = append(ids, l.ID); len(ids) == maxReplay {
				break
			}
		}
	}
	return a.replay(r, ids)
}

func (a *api) replay(r *request, ids []string) (answer, error) {
	problems := make([]error, len(ids))
	var known []string
	var places []int
	for i, id := range ids {
		if _, problems[i] = a.letter(r, id); problems[i] == nil {
			known, places = append(known, id), append(places, i)
		}
	}
	answers, err := a.Deliveries.Replay(r.ctx, known...)
	if err != nil {
		return answer{}, fmt.Errorf("replay dead letters: %w", err)
	}
	for i, problem := range answers {
		problems[places[i]] = problem
	}
	var out replayBody
	var first error
	for i, problem := range problems {
		if problem == nil {
			out.Replayed++
			continue
		}
		f, is := errors.AsType[*fault.Error](problem)
		if !is || f.Kind == fault.Internal {
			return answer{}, fmt.Errorf("replay dead letter %s: %w", ids[i], problem)
		}
		if first == nil {
			first = problem
		}
		out.Failed = append(out.Failed, replayFailed{ids[i], f.Code, f.Message})
	}
	if out.Replayed == 0 && first != nil {
		return answer{}, first
	}
	return answer{status: http.StatusOK, body: out}, nil
}
