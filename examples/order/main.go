// Command order is a workflow: an order is charged, cools off, waits for a
// person's approval, and is shipped by a workflow of its own. Kill whatever you
// like in between: it carries on, and charges once.
package main

import (
	"os"
	"time"

	"github.com/pgqrs/pgqrsd/handlers"
)

func main() {
	s := &shop{coolOff: 24 * time.Hour}
	handlers.Serve(
		handlers.Workflow("order", s.order),
		handlers.Workflow("shipment", s.shipment),
		handlers.Setup(func() error { return s.configure(os.Getenv) }),
	)
}
