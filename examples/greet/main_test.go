package main

import (
	"testing"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlertest"
)

func TestGreet(t *testing.T) {
	res := handlertest.Run(t, handlers.Handle("greet", greet), Input{Name: "Ada"})
	if want := `{"greeting":"Hello, Ada"}`; string(res.Output) != want {
		t.Errorf("output %s, want %s", res.Output, want)
	}
}
