package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
)

// Option is what Serve takes: a Handler, Name, Version or Setup.
type Option interface {
	apply(*Server) error
}

type optionFunc func(*Server) error

func (f optionFunc) apply(s *Server) error { return f(s) }

// Name is what the handler binary calls itself; default the last part of the
// main package's path.
func Name(name string) Option {
	return optionFunc(func(s *Server) error { s.name = name; return nil })
}

// Version is the handler binary's version; default the one that the Go
// toolchain stamped into it.
func Version(version string) Option {
	return optionFunc(func(s *Server) error { s.version = version; return nil })
}

// Setup is called once before the first job, when pgqrsd has started the process
// and not when a person has: the place to read the environment and to connect to
// things. Its error ends the process and is shown by "pgqrsd handler list".
// pgqrsd starts it again after a while, unless the error is a Discard: then it
// waits for another binary or another configuration. Setup must be quick: a
// handler that takes longer than 10 s to start is not served.
func Setup(setup func() error) Option {
	return optionFunc(func(s *Server) error { s.setup = append(s.setup, setup); return nil })
}

// Handler does the jobs of one queue, or the runs of one workflow. Make it with
// Handle or Workflow.
type Handler struct {
	queue string
	run   runFunc
	// workflow says that the queue's messages are runs. versions are those of the
	// runs that it carries on; empty is every version.
	workflow bool
	versions []string
}

// runFunc does one job on raw JSON. A nil output is none.
type runFunc func(ctx context.Context, payload []byte) (output []byte, err error)

// Queue returns the name of the queue that h serves.
func (h Handler) Queue() string { return h.queue }

func (h Handler) apply(s *Server) error {
	if h.run == nil {
		return errors.New("serve a handler: it is the zero Handler; make it with handlers.Handle or handlers.Workflow")
	}
	if err := checkQueue(h.queue); err != nil {
		return fmt.Errorf("serve a handler: %w", err)
	}
	for _, other := range s.handlers {
		if other.queue == h.queue {
			return fmt.Errorf("serve queue %s: two handlers are given for it; a queue has one", h.queue)
		}
	}
	s.handlers = append(s.handlers, h)
	return nil
}

// Handle makes fn the handler of queue. fn is called concurrently, as many at
// once as the daemon's configuration allows the queue.
//
// The payload is decoded into In and Out is encoded by encoding/json. With In
// or Out json.RawMessage or []byte the JSON is passed as it stands. A job has no
// output when Out is struct{}, or a pointer, map, slice or interface that is nil.
func Handle[In, Out any](queue string, fn func(ctx context.Context, in In) (Out, error)) Handler {
	return Handler{queue: queue, run: func(ctx context.Context, payload []byte) ([]byte, error) {
		in, err := decodeJSON[In](payload)
		if err != nil {
			return nil, unusable{fmt.Errorf("decode the payload into %s: %w", reflect.TypeFor[In](), err)}
		}
		out, err := fn(ctx, in)
		if err != nil {
			return nil, err
		}
		return encodeOutput(out)
	}}
}

// decodeJSON decodes data into a T; raw JSON is passed as it stands.
func decodeJSON[T any](data []byte) (v T, err error) {
	switch raw := any(&v).(type) {
	case *json.RawMessage:
		*raw = data
	case *[]byte:
		*raw = data
	default:
		err = json.Unmarshal(data, &v)
	}
	return v, err
}

// encodeOutput encodes what a handler or a step returned; nil is no output.
func encodeOutput[T any](v T) ([]byte, error) {
	switch out := any(&v).(type) {
	case *struct{}:
		return nil, nil
	case *json.RawMessage:
		return rawOutput(*out)
	case *[]byte:
		return rawOutput(*out)
	}
	switch reflect.TypeFor[T]().Kind() {
	case reflect.Pointer, reflect.Map, reflect.Slice, reflect.Interface:
		if reflect.ValueOf(&v).Elem().IsNil() {
			return nil, nil
		}
	}
	output, err := json.Marshal(&v)
	if err != nil {
		return nil, unusable{fmt.Errorf("encode the output: %w", err)}
	}
	return output, nil
}

func rawOutput(output []byte) ([]byte, error) {
	if len(output) == 0 {
		return nil, nil
	}
	if !json.Valid(output) {
		return nil, unusable{errors.New("the output is not valid JSON")}
	}
	return output, nil
}

// checkQueue holds the store's rule for queue names, so that a bad one is found
// where it was written.
func checkQueue(name string) error {
	const limit = 128
	if name == "" || len(name) > limit {
		return fmt.Errorf("queue name %q is %d bytes long; 1 to %d are allowed", name, len(name), limit)
	}
	for i, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_':
		case i > 0 && (c == '-' || c == '.' || c == ':'):
		default:
			return fmt.Errorf("queue name %q: letters, digits and _-.: only, starting with a letter, a digit or _", name)
		}
	}
	return nil
}
