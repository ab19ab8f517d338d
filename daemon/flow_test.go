package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/store"
)

// plan tells the test workflow what to do.
type plan struct {
	Do   string `json:"do,omitempty"`
	N    int    `json:"n,omitempty"`
	File string `json:"file,omitempty"` // that a step waits for, or makes
	// Diary is the file in which every body notes that it ran.
	Diary string `json:"diary,omitempty"`
	// Sleep is in milliseconds.
	Sleep int   `json:"sleep,omitempty"`
	Child *plan `json:"child,omitempty"`
}

// note is a step whose body says in the diary that it ran.
func (p plan) note(ctx context.Context, name string, body func(context.Context) error) error {
	_, err := handlers.Step(ctx, name, func(ctx context.Context) (string, error) {
		if err := p.write(name); err != nil {
			return "", err
		}
		return name, body(ctx)
	})
	return err
}

func (p plan) write(line string) (err error) {
	if p.Diary == "" {
		return nil
	}
	f, err := os.OpenFile(p.Diary, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = fmt.Fprintln(f, line)
	return err
}

func nothing(context.Context) error { return nil }

// follow does what the plan says between two steps, "before" and "after".
func follow(ctx context.Context, p plan) (json.RawMessage, error) {
	if err := p.note(ctx, "before", nothing); err != nil {
		return nil, err
	}
	out, err := p.follow(ctx)
	if err != nil {
		return nil, err
	}
	return out, p.note(ctx, "after", nothing)
}

func (p plan) follow(ctx context.Context) (json.RawMessage, error) {
	switch p.Do {
	case "steps":
		for range p.N {
			if err := p.note(ctx, "step", nothing); err != nil {
				return nil, err
			}
		}
	case "sleep":
		return nil, handlers.Sleep(ctx, "nap", time.Duration(p.Sleep)*time.Millisecond)
	case "receive":
		return handlers.Receive[json.RawMessage](ctx, "go", time.Duration(p.Sleep)*time.Millisecond)
	case "child":
		return handlers.Child[json.RawMessage](ctx, "kid", "flow", p.Child)
	case "wait": // until the file exists
		return nil, p.note(ctx, "waits", func(ctx context.Context) error { return wait(ctx, p.File) })
	case "exit once": // and make the file
		if _, err := os.Stat(p.File); err == nil {
			return nil, nil
		}
		if err := os.WriteFile(p.File, nil, 0o600); err != nil {
			return nil, err
		}
		os.Exit(3)
	case "fail":
		return nil, p.note(ctx, "fails", func(context.Context) error { return errors.New("failed as told") })
	case "too much":
		return p.tooMuch(ctx)
	case "swell":
		return p.swell(ctx)
	case "output":
		return json.RawMessage(`"from the child"`), nil
	}
	return nil, nil
}

// begin starts a run of the plan.
func (f *fixture) begin(p plan) int64 {
	f.Helper()
	return begin(f, f.store, p)
}

func begin(t interface {
	Helper()
	Fatal(...any)
	Context() context.Context
}, s store.Store, p plan) int64 {
	t.Helper()
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	id, _, err := s.CreateWorkflow(t.Context(), store.NewRun{Workflow: "flow", Input: raw})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (f *fixture) run(id int64) store.Run {
	f.Helper()
	r, err := f.store.Workflows().Get(f.Context(), id)
	if err != nil {
		f.Fatal(err)
	}
	return r
}

// reaches waits until a run has a status and returns it.
func (f *fixture) reaches(id int64, status store.RunStatus) store.Run {
	f.Helper()
	var r store.Run
	f.eventually(fmt.Sprintf("run %d is %s", id, status), func() bool {
		r = f.run(id)
		if r.Status.Terminal() && r.Status != status {
			f.Fatalf("run %d is %s, want %s; errors %+v", id, r.Status, status, r.Errors)
		}
		return r.Status == status
	})
	return r
}

// steps are a run's recorded steps, "name state" each.
func (f *fixture) steps(id int64) []string {
	f.Helper()
	recs, err := f.store.Workflows().Steps(f.Context(), id)
	if err != nil {
		f.Fatal(err)
	}
	said := []string{}
	for _, r := range recs {
		said = append(said, fmt.Sprintf("%s %s", r.Name, r.State))
	}
	return said
}

// noted are the bodies that ran, in order.
func (f *fixture) noted(diary string) []string {
	f.Helper()
	raw, err := os.ReadFile(diary)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		f.Fatal(err)
	}
	return strings.Fields(string(raw))
}
