package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlertest"
)

// newOrder is an order of a shop whose till keeps a ledger.
func newOrder(t *testing.T, in Order) (run *handlertest.Workflow, ledger func() string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ledger")
	s := &shop{till: till{path}, coolOff: 24 * time.Hour}
	return handlertest.NewWorkflow(t, handlers.Workflow("order", s.order), in), func() string {
		raw, err := os.ReadFile(path)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return string(raw)
	}
}

func TestOrderIsShippedWhenApproved(t *testing.T) {
	run, ledger := newOrder(t, Order{Item: "book", Cents: 1299})
	run.KillAfter("charge")
	if res := run.Lease(); res.Outcome != handlertest.Killed {
		t.Fatalf("the process that is killed after the charge ends with %s", res.Outcome)
	}
	run.Signal("approved", true)
	if res := run.Finish(); res.Outcome != handlertest.Wait || res.Wait.Kind != "child" {
		t.Fatalf("the approved order is %s, waits for %+v: %s", res.Outcome, res.Wait, res.Error)
	}
	run.EndChild("ship", Tracking{Number: "T-1"}, "")
	var receipt Receipt
	run.Finish().Decode(t, &receipt)
	if receipt.Refunded || receipt.Tracking != "T-1" || !strings.HasSuffix(receipt.Charge, "/charge/0") {
		t.Errorf("the receipt is %+v", receipt)
	}
	if n := strings.Count(ledger(), "charge "); n != 1 {
		t.Errorf("the order was charged %d times", n)
	}
	if string(run.Events()["charged"]) != `"`+receipt.Charge+`"` {
		t.Errorf("the events are %s", run.Events())
	}
}

func TestOrderIsRefunded(t *testing.T) {
	tests := map[string]func(*handlertest.Workflow){
		"refused":   func(run *handlertest.Workflow) { run.Signal("approved", false) },
		"timed out": func(*handlertest.Workflow) {},
	}
	for name, answer := range tests {
		t.Run(name, func(t *testing.T) {
			run, ledger := newOrder(t, Order{Item: "book", Cents: 1299})
			answer(run)
			var receipt Receipt
			run.Finish().Decode(t, &receipt)
			if !receipt.Refunded || strings.Count(ledger(), "refund ") != 1 {
				t.Errorf("the receipt is %+v, the ledger\n%s", receipt, ledger())
			}
		})
	}
}

func TestOrderThatCannotBeCharged(t *testing.T) {
	run, ledger := newOrder(t, Order{Item: "book"})
	if res := run.Finish(); res.Outcome != handlertest.Discard || !strings.Contains(res.Error, "cannot be charged") || ledger() != "" {
		t.Errorf("%s with %q", res.Outcome, res.Error)
	}
}

func TestShipment(t *testing.T) {
	var out Tracking
	handlertest.NewWorkflow(t, handlers.Workflow("shipment", (&shop{}).shipment), Parcel{Item: "book"}).Finish().Decode(t, &out)
	if !strings.HasPrefix(out.Number, "T-") {
		t.Errorf("tracking is %+v", out)
	}
}

func TestConfigure(t *testing.T) {
	var s shop
	env := map[string]string{"ORDER_LEDGER": "/x", "ORDER_COOL_OFF": "3s"}
	if err := s.configure(func(name string) string { return env[name] }); err != nil || s.till.ledger != "/x" || s.coolOff != 3*time.Second {
		t.Errorf("configured %+v, %v", s, err)
	}
	env["ORDER_COOL_OFF"] = "soon"
	if err := s.configure(func(name string) string { return env[name] }); err == nil || !strings.Contains(err.Error(), "ORDER_COOL_OFF") {
		t.Errorf("a bad duration gives %v", err)
	}
}
