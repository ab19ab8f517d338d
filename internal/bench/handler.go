package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/store"
)

// ServeHandler is a handler process's main: it serves these queues, which are of
// one kind ("job" or "workflow"), to the daemon that started it. See
// handlers.Serve.
func ServeHandler(kind string, queues []string) {
	options := []handlers.Option{handlers.Name("bench")}
	for _, queue := range queues {
		if kind == string(store.WorkflowQueue) {
			options = append(options, handlers.Workflow(queue, flow))
		} else {
			options = append(options, handlers.Handle(queue, work))
		}
	}
	handlers.Serve(options...)
}

// work does what the payload asks for: mostly nothing.
func work(ctx context.Context, payload json.RawMessage) (json.RawMessage, error) {
	began := time.Now()
	do, n, err := asked(payload)
	switch {
	case err != nil:
		return nil, handlers.Discard(err)
	case do == doSleep:
		return nil, sleep(ctx, time.Duration(n)*time.Millisecond)
	case do == doFail && handlers.Info(ctx).Attempt == 1:
		return nil, errors.New("bench asked the first attempt to fail")
	case do == doNothing:
		return nil, nil
	}
	return strconv.AppendInt(nil, began.UnixNano(), 10), nil
}

// flow does the steps that the payload asks for, and returns how long each took,
// in microseconds.
func flow(ctx context.Context, payload json.RawMessage) (json.RawMessage, error) {
	do, n, err := asked(payload)
	if err == nil && do != doSteps {
		err = fmt.Errorf("the payload asks for no steps: %.100s", payload)
	}
	if err != nil {
		return nil, handlers.Discard(err)
	}
	if n == 0 {
		return nil, nil
	}
	took := []byte{'['}
	for i := range n {
		began := time.Now()
		if _, err := handlers.Step(ctx, "nothing", nothing); err != nil {
			return nil, err
		}
		if i > 0 {
			took = append(took, ',')
		}
		took = strconv.AppendInt(took, time.Since(began).Microseconds(), 10)
	}
	return append(took, ']'), nil
}

func nothing(context.Context) (struct{}, error) { return struct{}{}, nil }

// sleep sleeps unless the job is cancelled.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
