package daemon

import (
	"slices"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
	"github.com/pgqrs/pgqrsd/store"
)

// What a handler says of a wait counts as it stands: only a pause is without
// limit whatever the delay.
func TestWaits(t *testing.T) {
	tests := map[string]struct {
		wait *handlerpb.Wait
		kind store.WaitKind // "" is that it is refused
		most time.Duration  // negative is without limit
	}{
		"a sleep":                 {&handlerpb.Wait{Kind: "sleep", DelayMs: 1000}, store.WaitSleep, time.Second},
		"no kind":                 {&handlerpb.Wait{DelayMs: 1000}, store.WaitSleep, time.Second},
		"no kind and no limit":    {&handlerpb.Wait{DelayMs: -1}, store.WaitSleep, -1},
		"no time":                 {&handlerpb.Wait{Kind: "retry"}, store.WaitRetry, minWait},
		"a signal, without limit": {&handlerpb.Wait{Kind: "signal", DelayMs: -1}, store.WaitSignal, -1},
		"a pause":                 {&handlerpb.Wait{Kind: "pause", DelayMs: 1000}, store.WaitSignal, -1},
		"an unknown kind":         {&handlerpb.Wait{Kind: "moon", DelayMs: 1000}, "", 0},
		"nothing":                 {nil, "", 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w, err := (&queue{}).wait(&job{news: 3}, tt.wait)
			switch {
			case tt.kind == "":
				if err == nil {
					t.Errorf("the run waits as %+v", w)
				}
			case err != nil:
				t.Error(err)
			case w.Kind != tt.kind || w.Delay != tt.most || w.News != 3:
				t.Errorf("the run waits as %+v, want kind %s for %s", w, tt.kind, tt.most)
			}
		})
	}
}

// A step that finds no room to be recorded costs its run no attempt: the run
// carries on once there is room.
func TestCallsThatFindNoRoomCostNoAttempt(t *testing.T) {
	cfg := testConfig(t, openSQLite(t))
	cfg.Defaults.MaxAttempts = 1
	f := run(t, cfg)
	id := f.begin(plan{Do: "wait", File: f.path("go"), Diary: f.path("diary")})
	f.eventually("the step waits", func() bool { return len(f.noted(f.path("diary"))) == 2 })
	f.d.mu.Lock()
	q := f.d.queues["flow"]
	f.d.mu.Unlock()
	full := func(bytes int) {
		q.mu.Lock()
		q.bytes += bytes
		q.mu.Unlock()
		q.room.raise()
	}
	full(maxCallBytes)
	f.touch("go")
	f.reaches(id, store.RunQueued)
	full(-maxCallBytes)
	f.reaches(id, store.RunSucceeded)
	if r := f.run(id); len(r.Errors) > 0 {
		t.Errorf("the run has errors %+v", r.Errors)
	}
	if got := f.noted(f.path("diary")); !slices.Equal(got, []string{"before", "waits", "waits", "after"}) {
		t.Errorf("the bodies that ran are %q", got)
	}
}

// Many small steps take memory too.
func TestStepsCountWithoutTheirTexts(t *testing.T) {
	o := store.Outcome{Kind: store.OutcomeStep, Steps: make([]store.StepResult, 1000)}
	if n := outcomeBytes(&o); n < 1000*stepCost {
		t.Errorf("1,000 steps count for %d bytes", n)
	}
}
