// Command noop is a handler that does nothing, as fast as it can. It measures
// what pgqrsd itself costs.
//
//	pgqrsd message enqueue noop --payload '{"any": "thing"}'
package main

import (
	"context"
	"encoding/json"

	"github.com/pgqrs/pgqrsd/handlers"
)

func main() {
	handlers.Serve(handlers.Handle("noop", noop))
}

// noop takes the payload as it stands, so that not even decoding is measured.
func noop(context.Context, json.RawMessage) (struct{}, error) {
	return struct{}{}, nil
}
