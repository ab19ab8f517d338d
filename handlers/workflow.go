package handlers

import (
	"context"
	"fmt"
	"reflect"
)

// WorkflowOption says more about a workflow.
type WorkflowOption func(*Handler)

// CarriesOn declares the versions of runs that this handler carries on, besides
// its own (see Version). Runs that another version began wait until a handler
// that carries them on is there; they do not fail. Without CarriesOn the
// handler takes every run.
func CarriesOn(versions ...string) WorkflowOption {
	return func(h *Handler) {
		for _, v := range versions {
			h.versions = append(h.versions, cleanVersion(v))
		}
	}
}

// Workflow makes fn the workflow called name, which is its queue's name: every
// message on that queue is a run of it, with the payload as its input.
//
// fn is called from its start each time the run is leased: at first, after a
// wait, after a crash. The steps that it makes by [Step], [Sleep], [Receive],
// [Child], [Send] and [SetEvent] are recorded; those that have been recorded
// return at once what they returned the first time. Apart from its steps fn
// must therefore do the same each time; the package's documentation says what
// that means.
//
// In and Out are encoded as Handle's are. What fn returns ends the run, or its
// attempt, as it does a job; besides, an error that is or wraps a [*StepError]
// is final: the run has failed.
func Workflow[In, Out any](name string, fn func(ctx context.Context, in In) (Out, error), opts ...WorkflowOption) Handler {
	h := Handler{queue: name, workflow: true}
	for _, opt := range opts {
		opt(&h)
	}
	h.run = func(ctx context.Context, payload []byte) ([]byte, error) {
		return walk(ctx, payload, fn)
	}
	return h
}

// walk runs a workflow's function in a flow of its own.
func walk[In, Out any](ctx context.Context, payload []byte, fn func(context.Context, In) (Out, error)) (output []byte, err error) {
	f := newFlow(jobOf(ctx))
	returned := false
	defer func() { f.end(returned) }()
	in, err := decodeJSON[In](payload)
	if err != nil {
		err = unusable{fmt.Errorf("decode the input into %s: %w", reflect.TypeFor[In](), err)}
	} else {
		var out Out
		if out, err = fn(ctx, in); err == nil {
			output, err = encodeOutput(out)
		}
	}
	returned = true
	return output, err
}
