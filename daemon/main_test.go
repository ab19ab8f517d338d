package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/handlers"
)

// TestMain lets the test binary be its own handler: a real process on the
// other side of a real stream.
func TestMain(m *testing.M) {
	shake := handlers.Handshake()
	if os.Getenv(shake.MagicCookieKey) == shake.MagicCookieValue {
		handlers.Serve(
			handlers.Name("testhandler"), handlers.Version("v1"),
			handlers.Handle("work", perform),
			handlers.Handle("more", perform),
			handlers.Workflow("flow", follow, handlers.CarriesOn("v0")),
		)
		return
	}
	os.Exit(m.Run())
}

// order tells the test handler what to do.
type order struct {
	Do    string          `json:"do,omitempty"`
	File  string          `json:"file,omitempty"`
	Queue string          `json:"queue,omitempty"`
	Out   json.RawMessage `json:"out,omitempty"`
	// Raw is Out for what cannot stand in a payload.
	Raw string `json:"raw,omitempty"`
}

func perform(ctx context.Context, o order) (json.RawMessage, error) {
	if o.Raw != "" {
		o.Out = json.RawMessage(o.Raw)
	}
	switch o.Do {
	case "":
		return o.Out, nil
	case "fail":
		return nil, errors.New("failed as told")
	case "fail once":
		if handlers.Info(ctx).Attempt == 1 {
			return nil, errors.New("failed as told")
		}
		return nil, nil
	case "discard":
		return nil, handlers.Discard(errors.New("discarded as told"))
	case "snooze once":
		if _, err := os.Stat(o.File); err == nil {
			return nil, nil
		}
		if err := os.WriteFile(o.File, nil, 0o600); err != nil {
			return nil, err
		}
		return nil, handlers.Snooze(time.Millisecond)
	case "panic":
		panic("as told")
	case "exit":
		os.Exit(3)
	case "follow":
		return nil, handlers.Enqueue(ctx, o.Queue, o.Out)
	case "wait": // until the file exists
		return nil, wait(ctx, o.File)
	case "hang": // until the file exists, whatever anyone says
		return nil, wait(context.WithoutCancel(ctx), o.File)
	case "progress":
		handlers.Progress(ctx, 40, "nearly half")
		return nil, wait(ctx, o.File)
	}
	return nil, handlers.Discard(fmt.Errorf("unknown order %q", o.Do))
}

func wait(ctx context.Context, file string) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(file); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
