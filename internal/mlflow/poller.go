package mlflow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
	"github.com/carillon-events/carillon/internal/workspace"
)

// Ledger decides what is news. *workspace.Service satisfies it.
type Ledger interface {
	Mark() workspace.Mark
	ObserveExperiment(ctx context.Context, ws resource.Workspace, id, name string, by resource.Stamp) error
	ObserveRun(ctx context.Context, ws resource.Workspace, o workspace.RunObservation, by resource.Stamp) (workspace.Observed, error)
	ObserveModelVersion(ctx context.Context, ws resource.Workspace, o workspace.VersionObservation, by resource.Stamp) (workspace.Observed, error)
	ObserveDeployment(ctx context.Context, ws resource.Workspace, o workspace.DeploymentObservation, by resource.Stamp) (workspace.Observed, error)
	OpenMirrored(ctx context.Context, ws resource.Workspace) ([]workspace.Run, error)
	KnowsVersion(ctx context.Context, ws resource.Workspace, o workspace.VersionObservation) (bool, error)
	NameOfVersion(ctx context.Context, ws resource.Workspace, o workspace.VersionObservation) (string, error)
	Note(ctx context.Context, ws resource.Workspace, watcher string, into any) (bool, error)
	SetNote(ctx context.Context, ws resource.Workspace, watcher string, value any) error
}

// The rhythm of a poller. Source: spec/workspace.md section 5.7.
const (
	widePart      = 4                // each so many rounds one looks at experiments and at all that runs
	sweepEvery    = time.Hour        // everything is read again
	runOverlap    = time.Hour        // clients' clocks
	modelOverlap  = 10 * time.Minute // the server's clock
	safety        = 5 * time.Second  // the newest moment that a place is moved to lies so far back
	hotFor        = 24 * time.Hour   // what has not changed for longer is asked for by sweeps alone
	chunk         = 100              // experiments or runs named in one request
	pageOfRuns    = 2000             // most runs asked for at once
	pageOfModels  = 1000             // most registered models that a server gives at once
	pageOfChanged = 100              // registered models asked for at once where the first few are wanted
	atOnce        = 16               // observations under way
	mostPages     = 100_000          // pages that a round asks for beyond the first of each list; more would hardly be read within roundLimit
	patience      = 2                // rounds in a row that a run must be absent from to be gone
)

// watcher is the name of our note in the ledger.
const watcher = "mlflow"

// place is how far a server was read, in Unix milliseconds. It is stored after each
// round that moved it.
type place struct {
	Server  resource.UID `json:"server"`  // of the attachment; another one begins anew
	Swept   bool         `json:"swept"`   // everything was read once
	Started int64        `json:"started"` // runs by start time
	Ended   int64        `json:"ended"`   // runs by end time
	Models  int64        `json:"models"`  // registered models by last update
	// Deployed is what counted as a deployment when all models were read.
	Deployed string `json:"deployed,omitempty"`
}

// see moves the place to the newest of a page of runs.
func (a *place) see(page []run) {
	for i := range page {
		a.Started = max(a.Started, int64(page[i].Info.StartTime))
		a.Ended = max(a.Ended, int64(page[i].Info.EndTime))
	}
}

// poller follows one server. One goroutine uses it.
type poller struct {
	*observer

	place    place
	open     map[string]*openRun   // runs that have not ended, by id
	models   map[string]modelState // registered models that changed lately, by name
	aliases  aliases
	rounds   int
	wideNext bool // the last round failed
	sweepAt  time.Time
	pageSize int
	// mostPages bounds what a round asks for beyond the first page of each list.
	mostPages int
	// wantsAliases reports whether events come of aliases.
	wantsAliases func() bool

	webhook  string // whether its registration stood when all was read last
	requests int    // of this round
	events   int    // of this round
	pages    int    // of this round, beyond the first of each list
}

// openRun is a run that has not ended.
type openRun struct {
	experiment string
	since      time.Time // when the ledger last learned something of it
	seen       int       // the round that last saw it
	missed     int       // rounds in a row that asked for it and did not get it
}

// modelState is how a registered model was last read.
type modelState struct {
	updated whole
	reads   int  // with this update time
	pending bool // a version of it is not ready
}

var stamp = resource.Stamp{By: "Carillon MLflow bridge", Kind: "Application"}

func newPoller(server resource.MLflowServer, ws resource.Workspace, client *Client, ledger Ledger, k *known, log *slog.Logger) *poller {
	p := &poller{
		observer: &observer{server: server, ws: ws, client: client, ledger: ledger, log: log, known: k},
		open:     map[string]*openRun{}, models: map[string]modelState{}, aliases: aliases{}, pageSize: pageOfRuns, mostPages: mostPages, wantsAliases: func() bool { return false },
	}
	client.asked = func() { p.requests++ }
	client.further = func() error {
		if p.pages == p.mostPages {
			return errManyPages
		}
		p.pages++
		return nil
	}
	return p
}

// errManyPages is of lists that go on with ever new objects, or in pages of a few.
var errManyPages = fmt.Errorf("the MLflow server's lists have more than %d pages, the most that are read at once: they have no end, or something before the server makes pages small", mostPages)

// resume reads what the ledger knows of the server.
func (p *poller) resume(ctx context.Context) error {
	var at place
	found, err := p.ledger.Note(ctx, p.ws, watcher, &at)
	if err != nil {
		return err
	}
	if p.place = at; !found || at.Server != p.server.UID {
		p.place = place{Server: p.server.UID}
	}
	p.known.swept.Store(p.place.Swept)
	p.known.setDeployed(p.place.Deployed)
	runs, err := p.ledger.OpenMirrored(ctx, p.ws)
	if err != nil {
		return err
	}
	for _, r := range runs {
		p.open[r.Name] = &openRun{experiment: r.ExperimentID, since: r.Modified.At}
	}
	return nil
}

// round asks the server once for what is new. The first one reads everything. What an
// error cuts short is repeated by the next.
func (p *poller) round(ctx context.Context) (err error) {
	p.requests, p.events, p.pages = 0, 0, 0
	wide := p.rounds%widePart == 0 || p.wideNext
	p.rounds++
	now := time.Now()
	next := p.place
	sweep := p.known.due.Swap(false) || !now.Before(p.sweepAt)
	defer func() {
		if p.wideNext = err != nil; err != nil && sweep {
			p.known.due.Store(true)
		}
	}()
	if wide || sweep {
		if err := p.readExperiments(ctx); err != nil {
			return err
		}
	}
	if sweep {
		p.known.tryLarge()
		err = p.sweep(ctx, &next)
	} else {
		err = p.look(ctx, &next, wide)
	}
	if err != nil {
		return err
	}
	// Never past our own clock: a client whose clock is ahead must not hide others.
	limit := now.Add(-safety).UnixMilli()
	next.Started = max(p.place.Started, min(next.Started, limit))
	next.Ended = max(p.place.Ended, min(next.Ended, limit))
	next.Models = max(p.place.Models, min(next.Models, limit))
	if sweep {
		next.Swept = true
	}
	if next != p.place {
		if err := p.ledger.SetNote(ctx, p.ws, watcher, next); err != nil {
			return err
		}
		p.place = next
		p.known.setDeployed(next.Deployed)
	}
	if sweep {
		p.sweepAt = now.Add(sweepEvery)
		p.known.forgetLarge()
		p.known.swept.Store(true)
	}
	return nil
}

// readExperiments learns ids and names, and forgets those that are not there any more:
// whoever makes ever new ones must not make our memory grow for ever.
func (p *poller) readExperiments(ctx context.Context) error {
	p.known.beginList()
	all, err := p.client.experiments(ctx)
	if err != nil {
		return err
	}
	for _, e := range all {
		if err := p.observeExperiment(ctx, e); err != nil {
			return err
		}
	}
	p.known.endList()
	return nil
}

// look asks for what is new since the place.
func (p *poller) look(ctx context.Context, next *place, wide bool) error {
	from := func(at int64) int64 { return max(0, at-runOverlap.Milliseconds()) }
	if err := p.scan(ctx, byStart, from(p.place.Started), "", "ALL", next); err != nil {
		return err
	}
	if err := p.scan(ctx, byEnd, from(p.place.Ended), "", "ALL", next); err != nil {
		return err
	}
	if wide { // runs that were resumed keep the times that they had
		for _, status := range []string{"RUNNING", "SCHEDULED"} {
			if err := p.scan(ctx, byStart, 0, "attributes.status = '"+status+"'", "ACTIVE_ONLY", next); err != nil {
				return err
			}
		}
	}
	if err := p.askOpen(ctx, false); err != nil {
		return err
	}
	return p.lookAtModels(ctx, next, wide)
}

// sweep reads everything: runs that were imported with times long gone, versions of
// models that were renamed or made again, and at the first time all there is.
func (p *poller) sweep(ctx context.Context, next *place) error {
	if err := p.scan(ctx, byStart, 0, "", "ALL", next); err != nil {
		return err
	}
	if err := p.askOpen(ctx, true); err != nil {
		return err
	}
	p.checkWebhook(ctx)
	return p.sweepModels(ctx, next)
}

// checkWebhook looks whether the server still calls us. The rounds do without, so that
// it cannot be known fails none of them.
func (p *poller) checkWebhook(ctx context.Context) {
	if !p.server.Webhook.Registered() {
		return
	}
	state, err := p.client.registration(ctx, p.server.Webhook)
	if err != nil {
		p.log.LogAttrs(ctx, slog.LevelWarn, "MLflow webhook not checked", slog.String(telemetry.Error, shown(err).Error()))
		return
	}
	if p.webhook = state; state != manage.WebhookActive {
		p.log.LogAttrs(ctx, slog.LevelWarn, "MLflow webhook is not registered any more", slog.String("state", state))
	}
}

// order is an attribute that searches for runs go by.
type order struct {
	attribute string
	of        func(*run) int64
}

var (
	byStart = order{"attributes.start_time", func(r *run) int64 { return int64(r.Info.StartTime) }}
	byEnd   = order{"attributes.end_time", func(r *run) int64 { return int64(r.Info.EndTime) }}
)

// scan observes every run whose attribute is at least from, page by page. A page goes
// on from the last value of the one before: offsets would skip rows when others are
// deleted meanwhile.
func (p *poller) scan(ctx context.Context, by order, from int64, also, view string, next *place) error {
	for part := range slices.Chunk(p.known.experimentIDs(), chunk) {
		if err := p.scanPart(ctx, part, by, from, also, view, next); err != nil {
			return err
		}
	}
	return nil
}

func (p *poller) scanPart(ctx context.Context, experiments []string, by order, from int64, also, view string, next *place) error {
	q := runQuery{ExperimentIDs: experiments, View: view, OrderBy: []string{by.attribute + " ASC"}}
	filter := func(condition string) string {
		if also != "" {
			condition += " AND " + also
		}
		return condition
	}
	for {
		q.Filter = filter(by.attribute + " >= " + strconv.FormatInt(from, 10))
		page, more, err := p.searchRuns(ctx, q)
		if err != nil {
			return err
		}
		next.see(page)
		if more == "" || len(page) == 0 {
			return nil
		}
		if by.of(&page[0]) < from || !slices.IsSortedFunc(page, func(a, b run) int { return cmp.Compare(by.of(&a), by.of(&b)) }) {
			return fmt.Errorf("the MLflow server does not search and order runs by %s: pages of its searches cannot be trusted", by.attribute)
		}
		if last := by.of(&page[len(page)-1]); last > from {
			from = last
		} else { // a whole page of one millisecond: nothing can come before what was read
			q.Filter = filter(fmt.Sprintf("%s >= %d AND %s < %d", by.attribute, from, by.attribute, from+1))
			for page, err := range pages(p.client, more, func(token string) ([]run, string, error) {
				q.Token = token
				return p.searchRuns(ctx, q)
			}) {
				if err != nil {
					return err
				}
				next.see(page)
			}
			q.Token = ""
			from++
		}
		if err := p.client.further(); err != nil {
			return err
		}
	}
}

// searchRuns asks for a page, smaller ones while answers are too large. With answers that
// are not, pages grow again: one large run must not make many pages of all that follow. A
// run that is too large by itself is left out.
func (p *poller) searchRuns(ctx context.Context, q runQuery) ([]run, string, error) {
	filter := q.Filter
	for {
		q.Filter = filter
		for _, id := range p.known.leftOut(q.ExperimentIDs) {
			q.Filter += " AND attributes.run_id != '" + id + "'"
		}
		page, more, err := p.searchPage(ctx, q)
		switch large, is := errors.AsType[*tooLarge](err); {
		case err == nil:
			p.pageSize = min(pageOfRuns, p.pageSize+p.pageSize/8+1)
			return page, more, nil
		case !is:
			return nil, "", err
		case p.pageSize > 1:
			p.pageSize = max(1, p.pageSize/4)
		default:
			first := large.firstRun()
			if first.RunID == "" || !plain(first.RunID) || p.known.isLeftOut(first.RunID) {
				return nil, "", fmt.Errorf("%w: a run of one of the experiments %s", err, cut(strings.Join(q.ExperimentIDs, ", "), 200))
			}
			if err := p.leaveOut(ctx, first.RunID, first.ExperimentID); err != nil {
				return nil, "", err
			}
		}
	}
}

// plain reports whether a run's id can stand in a search.
func plain(id string) bool { return !strings.ContainsAny(id, `'"\`) && strings.ToLower(id) == id }

func (p *poller) searchPage(ctx context.Context, q runQuery) ([]run, string, error) {
	q.Max = p.pageSize
	mark := p.ledger.Mark()
	page, more, err := p.client.searchRuns(ctx, q)
	if err != nil {
		return nil, "", err
	}
	return page, more, p.observe(ctx, page, mark)
}

// observe submits runs that were asked for after mark.
func (p *poller) observe(ctx context.Context, page []run, mark workspace.Mark) error {
	results := make([]workspace.Observed, len(page))
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i := range page {
		r := &page[i]
		group.Go(func() (err error) {
			results[i], err = p.observeRun(inner, r, mark, p.asRead(r))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i := range page {
		p.events += results[i].Events
		p.remember(&page[i], results[i])
	}
	return nil
}

// remember keeps the set of runs that have not ended.
func (p *poller) remember(r *run, o workspace.Observed) {
	status, known := statuses[r.Info.Status]
	if known && status.Terminal() || r.deleted() {
		if !o.Stale {
			delete(p.open, r.id())
		}
		return
	}
	p.open[r.id()] = &openRun{experiment: r.Info.ExperimentID, since: o.Since, seen: p.rounds}
}

// askOpen asks by id for the runs that have not ended and that no search of this round
// showed: they may have ended without an end time, or with one long gone. all asks also
// for those that have not changed for a day: MLflow has no heartbeat, so a client that
// was killed leaves its run RUNNING for ever.
func (p *poller) askOpen(ctx context.Context, all bool) error {
	var ids []string
	for id, o := range p.open {
		switch {
		case p.known.isLeftOut(id):
			delete(p.open, id)
		case o.seen != p.rounds && (all || time.Since(o.since) < hotFor):
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	for part := range slices.Chunk(ids, min(chunk, p.pageSize)) {
		if err := p.askFor(ctx, part); err != nil {
			return err
		}
		for _, id := range part {
			if o := p.open[id]; o != nil && o.seen != p.rounds {
				if o.missed++; o.missed >= patience {
					delete(p.open, id)
				}
			}
		}
	}
	return nil
}

// askFor observes runs by their ids.
func (p *poller) askFor(ctx context.Context, ids []string) error {
	experiments := map[string]bool{}
	var quoted, single []string
	for _, id := range ids {
		if !plain(id) { // such ids are dropped from a list
			single = append(single, id)
			continue
		}
		quoted = append(quoted, "'"+id+"'")
		experiments[p.open[id].experiment] = true
	}
	if len(quoted) > 0 {
		q := runQuery{ExperimentIDs: slices.Sorted(maps.Keys(experiments)), View: "ALL", Filter: "attributes.run_id IN (" + strings.Join(quoted, ",") + ")"}
		switch _, _, err := p.searchPage(ctx, q); {
		case invalid(err), errors.Is(err, errTooLarge): // not every backend knows IN
			single = ids
		case err != nil:
			return err
		}
	}
	for _, id := range single {
		mark := p.ledger.Mark()
		r, err := p.client.run(ctx, id)
		if absent(err) {
			continue
		}
		if errors.Is(err, errTooLarge) {
			if err := p.leaveOut(ctx, id, p.open[id].experiment); err != nil {
				return err
			}
			delete(p.open, id)
			continue
		}
		if err != nil {
			return err
		}
		if err := p.observe(ctx, []run{r}, mark); err != nil {
			return err
		}
	}
	return nil
}
