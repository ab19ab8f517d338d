package daemon

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// decodeMessages reads the body of an enqueue. Its errors are *requestErrors,
// also in a *store.BatchError that says which message is at fault. What the
// store checks itself, such as the payloads, is left to it.
func decodeMessages(body io.Reader, queue string) ([]store.NewMessage, error) {
	if err := store.ValidateQueueName(queue); err != nil {
		return nil, &requestError{http.StatusBadRequest, "queue_name", err.Error()}
	}
	var in newMessages
	if err := decodeBody(body, &in); err != nil {
		return nil, err
	}
	switch n := len(in.Messages); {
	case n == 0:
		return nil, &requestError{http.StatusBadRequest, "messages", `"messages" is missing or empty`}
	case n > maxRequestMessages:
		return nil, &requestError{http.StatusRequestEntityTooLarge, "max_messages",
			fmt.Sprintf("%d messages in one request, the limit is %d", n, maxRequestMessages)}
	}
	msgs := make([]store.NewMessage, len(in.Messages))
	for i, m := range in.Messages {
		var err error
		if msgs[i], err = m.message(queue); err != nil {
			return nil, &store.BatchError{Index: i, Err: err}
		}
	}
	return msgs, nil
}

func (m newMessage) message(queue string) (store.NewMessage, error) {
	out := store.NewMessage{Queue: queue, Payload: m.Payload, Priority: m.Priority, Headers: m.Headers}
	if len(m.Payload) == 0 {
		return out, &requestError{http.StatusBadRequest, "payload", `"payload" is missing`}
	}
	if m.Priority < store.MinPriority || m.Priority > store.MaxPriority {
		return out, &requestError{http.StatusBadRequest, "priority",
			fmt.Sprintf("priority %d is not within %d and %d", m.Priority, store.MinPriority, store.MaxPriority)}
	}
	var err error
	out.Delay, err = duration("delay", m.Delay)
	return out, err
}

// decodeBody reads the one JSON object of a request into v.
func decodeBody(body io.Reader, v any) error {
	dec := json.NewDecoder(body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return decodeError(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return &requestError{http.StatusBadRequest, store.RuleJSON, "the body holds more than one JSON value"}
	}
	return nil
}

// duration reads a duration that a request names; empty is none.
func duration(name, text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, &requestError{http.StatusBadRequest, name,
			fmt.Sprintf(`%s %q is not a duration of zero or more, such as "30s" or "1h30m"`, name, text)}
	}
	return d, nil
}

// jsonType is what JSON calls the values that a Go type takes.
func jsonType(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Slice:
		return "an array"
	case reflect.Int:
		return "a whole number"
	default:
		return "a " + t.Kind().String()
	}
}

// decodeError says in the API's words what encoding/json found.
func decodeError(err error) error {
	var (
		tooLarge *http.MaxBytesError
		syntax   *json.SyntaxError
		wrong    *json.UnmarshalTypeError
	)
	text := strings.TrimPrefix(err.Error(), "json: ")
	switch {
	case errors.As(err, &tooLarge):
		return &requestError{http.StatusRequestEntityTooLarge, "max_request_bytes",
			fmt.Sprintf("the body is larger than %d bytes", tooLarge.Limit)}
	case strings.HasPrefix(text, "unknown field "):
		return &requestError{http.StatusBadRequest, "unknown_field", text}
	case errors.As(err, &wrong):
		return &requestError{http.StatusBadRequest, "type",
			fmt.Sprintf("%s is a JSON %s where %s belongs", cmp.Or(wrong.Field, "the body"), wrong.Value, jsonType(wrong.Type))}
	case errors.As(err, &syntax) && strings.Contains(text, "max depth"):
		return &requestError{http.StatusBadRequest, store.RuleMaxDepth, "the body is nested too deep"}
	case errors.Is(err, io.EOF):
		return &requestError{http.StatusBadRequest, store.RuleJSON, "the body is empty"}
	}
	return &requestError{http.StatusBadRequest, store.RuleJSON, "the body is not JSON: " + text}
}
