package bench

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/pgqrs/pgqrsd/handlers"
)

// ServeHandler is a handler process's main: it serves these queues to the
// daemon that started it. See handlers.Serve.
func ServeHandler(queues []string) {
	options := []handlers.Option{handlers.Name("bench")}
	for _, queue := range queues {
		options = append(options, handlers.Handle(queue, work))
	}
	handlers.Serve(options...)
}

// work does what the payload asks for: mostly nothing.
func work(ctx context.Context, payload json.RawMessage) (json.RawMessage, error) {
	began := time.Now()
	do, nap, err := asked(payload)
	switch {
	case err != nil:
		return nil, handlers.Discard(err)
	case do == doSleep:
		return nil, sleep(ctx, nap)
	case do == doFail && handlers.Info(ctx).Attempt == 1:
		return nil, errors.New("bench asked the first attempt to fail")
	case do == doNothing:
		return nil, nil
	}
	return strconv.AppendInt(nil, began.UnixNano(), 10), nil
}

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
