package host

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// A host that has ended leaves no goroutine, whatever its handlers did.
func TestNothingIsLeftBehind(t *testing.T) {
	before := runtime.NumGoroutine()
	r := newRig(t, func(c *Config) {
		c.StartTimeout = time.Second
		c.PingInterval, c.PingTimeout = 50*time.Millisecond, 300*time.Millisecond
	})
	r.putScript("text", "no program\n")
	r.start(map[string]fakeConfig{
		"alpha": {Queues: []string{"a"}}, "beta": {Queues: []string{"a"}}, "gone": {Queues: []string{"g"}},
		"hang": {Start: "hang"}, "stops": {Queues: []string{"s"}}, "stuck": {Queues: []string{"k"}},
	})
	lane, sink := r.attach("a")
	send(t, lane, jobOf(1, "kill"))
	sink.result(1)
	sink.untilRoom(lane)
	send(t, lane, jobOf(2, "longline"), jobOf(3, "done"))
	sink.result(3)
	stops, stopped := r.attach("s")
	send(t, stops, jobOf(1, "stop"))
	stopped.result(1)
	stuck, ended := r.attach("k")
	send(t, stuck, jobOf(1, "stuck"))
	ended.untilStarted(1)
	stuck.Cancel("enough", false)
	ended.result(1)
	must(t, os.Remove(filepath.Join(r.dir, "gone")))
	untilTrue(t, "the removed one to be gone", func() bool { _, found := r.find("gone"); return !found })
	sink.untilRoom(lane)
	send(t, lane, jobOf(4, "sleep:1h"))
	sink.untilStarted(4)
	r.end()
	sink.result(4)
	untilTrue(t, "the goroutines to end", func() bool { return runtime.NumGoroutine() <= before })
}
