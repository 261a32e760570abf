package broker

import (
	"fmt"
	"testing"
	"time"
)

const day = 24 * time.Hour

func at(d time.Duration) time.Time { return time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC).Add(d) }

// TestPolicyOutcomes holds each outcome's decision after a first attempt.
// Source: spec/delivery.md sections 3.3 and 3.4.
func TestPolicyOutcomes(t *testing.T) {
	retry := func(d time.Duration) Decision { return Decision{Action: Retry, Due: at(time.Second + d)} }
	dead := func(r Reason) Decision { return Decision{Action: DeadLetter, Reason: r} }
	for _, tt := range []struct {
		outcome    Outcome
		status     int
		retryAfter time.Duration
		want       Decision
	}{
		{Delivered, 200, 0, Decision{Action: Done}},
		{Delivered, 204, time.Hour, Decision{Action: Done}},
		{BadRequest, 400, 0, dead(ReasonBadRequest)},
		{Unauthorized, 401, 0, dead(ReasonUnauthorized)},
		{Forbidden, 403, 0, dead(ReasonForbidden)},
		{PayloadTooLarge, 413, 0, dead(ReasonTooLarge)},
		{NotFound, 404, 0, retry(5 * time.Minute)},
		{NotFound, 410, 0, retry(10 * time.Second)},
		{TimedOut, 0, 0, retry(10 * time.Second)},
		{TimedOut, 408, 0, retry(2 * time.Minute)},
		{Busy, 429, 0, retry(10 * time.Second)},
		{Busy, 503, 0, retry(30 * time.Second)},
		{GenericError, 500, 0, retry(10 * time.Second)},
		{GenericError, 205, 0, retry(10 * time.Second)},
		{GenericError, 302, 0, retry(10 * time.Second)},
		{SocketError, 0, 0, retry(10 * time.Second)},
		{ResolutionError, 0, 0, retry(10 * time.Second)},
		{Aborted, 0, 0, retry(10 * time.Second)},
		{Disabled, 0, 0, retry(10 * time.Second)},
		{Full, 0, 0, retry(10 * time.Second)},
		{Busy, 429, 3 * time.Second, retry(10 * time.Second)},
		{Busy, 429, 20 * time.Minute, retry(20 * time.Minute)},
		{Busy, 503, 20 * time.Hour, retry(time.Hour)},
		{Busy, 503, -time.Hour, retry(30 * time.Second)},
	} {
		t.Run(fmt.Sprintf("%s/%d/%s", tt.outcome, tt.status, tt.retryAfter), func(t *testing.T) {
			r := Response{Outcome: tt.outcome, Status: tt.status, RetryAfter: tt.retryAfter}
			got := Policy{MaxAttempts: 30, TimeToLive: day}.Next(1, at(0), r, at(time.Second), 0)
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			want := tt.want
			if tt.status == 404 {
				want = dead(ReasonNotFound)
			}
			if got := (Policy{MaxAttempts: 30, TimeToLive: day, DeadLetter404: true}).Next(1, at(0), r, at(time.Second), 0); got != want {
				t.Errorf("with DeadLetter404 got %+v, want %+v", got, want)
			}
		})
	}
}

// TestPolicyWaits holds the wait after each attempt, without and with the largest
// jitter. Source: spec/delivery.md section 4.1.
func TestPolicyWaits(t *testing.T) {
	failed := Response{Outcome: GenericError, Status: 500}
	waits := []time.Duration{
		10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute,
		time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 12 * time.Hour, 12 * time.Hour,
	}
	var longest time.Duration
	for i, want := range waits {
		attempts := i + 1
		p := Policy{MaxAttempts: 30, TimeToLive: 30 * day}
		if got := p.Next(attempts, at(0), failed, at(0), 0); got.Due != at(want) {
			t.Errorf("after attempt %d: due %s, want %s", attempts, got.Due.Sub(at(0)), want)
		}
		got := p.Next(attempts, at(0), failed, at(0), 0.999999).Due.Sub(at(want))
		if got <= 0 || got > want/20 {
			t.Errorf("after attempt %d: the largest jitter adds %s", attempts, got)
		}
		if i < 10 {
			longest += want + got
		}
	}
	if longest >= day {
		t.Errorf("with the largest jitter the eleventh attempt comes after %s", longest)
	}
}

func TestPolicyLimits(t *testing.T) {
	failed := Response{Outcome: GenericError, Status: 500}
	for _, tt := range []struct {
		name     string
		policy   Policy
		attempts int
		now      time.Duration
		want     Reason // "" = retry
	}{
		{"first of one", Policy{MaxAttempts: 1, TimeToLive: day}, 1, 0, ReasonMaxAttempts},
		{"first of two", Policy{MaxAttempts: 2, TimeToLive: day}, 1, 0, ""},
		{"thirtieth of thirty", Policy{MaxAttempts: 30, TimeToLive: 365 * day}, 30, 0, ReasonMaxAttempts},
		{"twenty-ninth of thirty", Policy{MaxAttempts: 30, TimeToLive: 365 * day}, 29, 0, ""},
		{"more than allowed by now", Policy{MaxAttempts: 3, TimeToLive: day}, 7, 0, ReasonMaxAttempts},
		{"just before the end of its life", Policy{MaxAttempts: 30, TimeToLive: time.Minute}, 1, time.Minute - 1, ""},
		{"at the end of its life", Policy{MaxAttempts: 30, TimeToLive: time.Minute}, 1, time.Minute, ReasonTimeToLive},
		{"both limits: the attempts are named", Policy{MaxAttempts: 1, TimeToLive: time.Minute}, 1, time.Hour, ReasonMaxAttempts},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.policy.Next(tt.attempts, at(0), failed, at(tt.now), 0.5)
			if (got.Action == Retry) != (tt.want == "") || got.Reason != tt.want {
				t.Errorf("got %+v, want %q", got, tt.want)
			}
		})
	}
}

// TestBreaker feeds sequences of outcomes. Source: spec/delivery.md section 4.4.
func TestBreaker(t *testing.T) {
	times := func(n int, o Outcome) []Outcome {
		all := make([]Outcome, n)
		for i := range all {
			all[i] = o
		}
		return all
	}
	for _, tt := range []struct {
		name     string
		outcomes []Outcome // each admitted as soon as the breaker admits
		rest     time.Duration
	}{
		{"untouched", nil, 0},
		{"nine failures", times(9, GenericError), 0},
		{"ten failures", times(10, GenericError), 10 * time.Second},
		{"ten time-outs", times(10, TimedOut), 10 * time.Second},
		{"ten busy answers", times(10, Busy), 10 * time.Second},
		{"ten socket errors", times(10, SocketError), 30 * time.Second},
		{"ten times full", times(10, Full), 5 * time.Minute},
		{"a success between", append(append(times(9, Busy), Delivered), times(9, Busy)...), 0},
		{"a bad request is a sign of life", append(append(times(9, Busy), BadRequest), times(9, Busy)...), 0},
		{"too large is a sign of life", append(append(times(9, Busy), PayloadTooLarge), times(9, Busy)...), 0},
		{"a stop says nothing", append(append(times(9, Busy), Canceled), Busy), 10 * time.Second},
		{"a panic says nothing", append(append(times(9, Busy), Aborted), Busy), 10 * time.Second},
		{"not found", []Outcome{NotFound}, 5 * time.Minute},
		{"name not found", []Outcome{ResolutionError}, 5 * time.Minute},
		{"disabled", []Outcome{Disabled}, 5 * time.Minute},
		{"unauthorized", []Outcome{Unauthorized}, 5 * time.Minute},
		{"forbidden", []Outcome{Forbidden}, 5 * time.Minute},
		{"probe fails", []Outcome{NotFound, SocketError}, 10 * time.Minute},
		{"probe is cut short", []Outcome{NotFound, Canceled}, 5 * time.Minute},
		{"probe succeeds", []Outcome{NotFound, Delivered}, 0},
		{"doubling ends at an hour", times(9, NotFound), time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b breaker
			now := at(0)
			for i, o := range tt.outcomes {
				if b.open() && !b.until.Before(now) {
					if b.admits(b.until.Add(-1)) {
						t.Fatalf("step %d: admits before the rest is over", i)
					}
					now = b.until
				}
				if !b.admits(now) {
					t.Fatalf("step %d: does not admit", i)
				}
				wasOpen := b.open()
				b.start()
				if wasOpen && b.admits(now) {
					t.Errorf("step %d: admits a second probe", i)
				}
				before := b.rest
				if moved := b.done(o, now); moved != (b.rest != before) && !(moved && b.rest == maxProbation) {
					t.Errorf("step %d: moved %v from %s to %s", i, moved, before, b.rest)
				}
			}
			if b.rest != tt.rest {
				t.Errorf("rests %s, want %s", b.rest, tt.rest)
			}
		})
	}
}

// TestBreakerIgnoresOldFailures: attempts from before it opened do not lengthen
// the rest.
func TestBreakerIgnoresOldFailures(t *testing.T) {
	var b breaker
	for range 5 {
		b.start()
	}
	b.done(NotFound, at(0))
	for range 4 {
		if b.done(NotFound, at(time.Second)) {
			t.Error("it moved")
		}
	}
	if b.rest != 5*time.Minute || b.until != at(5*time.Minute) {
		t.Errorf("rests %s until %s", b.rest, b.until)
	}
}

func TestOutcomeNames(t *testing.T) {
	for o := NotAttempted; o <= Full; o++ {
		if o.String() == "" || o.String() == "Unknown" {
			t.Errorf("outcome %d has no name", o)
		}
	}
	if got := Outcome(200).String(); got != "Unknown" {
		t.Errorf("got %q", got)
	}
	if got := fmt.Sprint(Done, Retry, DeadLetter); got != "Done Retry DeadLetter" {
		t.Errorf("actions are %s", got)
	}
}
