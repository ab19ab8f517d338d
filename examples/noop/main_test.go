package main

import (
	"encoding/json"
	"testing"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlertest"
)

func TestNoop(t *testing.T) {
	res := handlertest.Run(t, handlers.Handle("noop", noop), json.RawMessage(`{"any": "thing"}`))
	if res.Outcome != handlertest.Done || res.Output != nil {
		t.Errorf("%s with output %s", res.Outcome, res.Output)
	}
}
