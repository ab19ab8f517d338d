package daemon

import (
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
