// Command greet is the smallest handler: JSON in, JSON out, typed by its author.
package main

import (
	"context"

	"github.com/pgqrs/pgqrsd/handlers"
)

// Input is the payload of a message on queue greet.
type Input struct {
	Name string `json:"name"`
}

// Output is what the archive keeps of a finished job.
type Output struct {
	Greeting string `json:"greeting"`
}

func main() { handlers.Serve(handlers.Handle("greet", greet)) }

func greet(ctx context.Context, in Input) (Output, error) {
	handlers.Logger(ctx).Info("greeting", "name", in.Name)
	return Output{Greeting: "Hello, " + in.Name}, nil
}
