package sqlite

import (
	"cmp"
	"database/sql"
	"slices"

	"github.com/pgqrs/pgqrsd/store"
)

// statusOf says in words of people how far a run is.
func statusOf(state store.State, cancelling, paused bool) store.RunStatus {
	switch {
	case state == store.Done:
		return store.RunSucceeded
	case state == store.Dead:
		return store.RunFailed
	case state == store.Cancelled:
		return store.RunCancelled
	case cancelling:
		return store.RunCancelling
	case state == store.Leased:
		return store.RunRunning
	case paused:
		return store.RunPaused
	case state == store.Delayed:
		return store.RunWaiting
	}
	return store.RunQueued
}

// choice is the states and the mark that a filter's runs have.
type choice struct {
	states []store.State
	mark   any // as the statements below compare it; nil is every one
}

// The marks of runs that are not finished.
const (
	unmarked       = ""
	markPaused     = "paused"
	markCancelling = "cancelling"
)

var choices = map[store.RunStatus]choice{
	store.RunQueued:     {[]store.State{store.Ready}, unmarked},
	store.RunRunning:    {[]store.State{store.Leased}, unmarked},
	store.RunWaiting:    {[]store.State{store.Delayed}, unmarked},
	store.RunPaused:     {[]store.State{store.Delayed, store.Ready}, markPaused},
	store.RunCancelling: {liveStates, markCancelling},
	store.RunSucceeded:  {[]store.State{store.Done}, nil},
	store.RunFailed:     {[]store.State{store.Dead}, nil},
	store.RunCancelled:  {[]store.State{store.Cancelled}, nil},
}

func choose(filter store.RunFilter) (choice, error) {
	states, err := statesOf(filter.State, allStates)
	if filter.Open {
		states = slices.DeleteFunc(slices.Clone(states), store.State.Archived)
	}
	if err != nil || filter.Status == "" {
		return choice{states: states}, err
	}
	c, found := choices[filter.Status]
	if !found {
		return c, store.Invalidf("status %q is unknown", filter.Status)
	}
	both := choice{mark: c.mark}
	for _, s := range c.states {
		if slices.Contains(states, s) {
			both.states = append(both.states, s)
		}
	}
	return both, nil
}

// Runs of a queue by their mark, which no index knows. A run that is leased may
// be marked to be paused, but is not yet.
const (
	whereMark       = ` AND CASE WHEN w.cancelling THEN 'cancelling' WHEN w.paused THEN 'paused' ELSE '' END = `
	whereLeasedMark = ` AND CASE WHEN w.cancelling THEN 'cancelling' ELSE '' END = `

	markedReady   = `FROM ready x LEFT JOIN runs w ON w.run_id = x.message_id WHERE x.queue_id = ?1` + whereMark
	markedLeased  = `FROM leases x LEFT JOIN runs w ON w.run_id = x.message_id WHERE x.queue_id = ?1` + whereLeasedMark
	markedDelayed = `FROM delayed x INDEXED BY delayed_due LEFT JOIN runs w ON w.run_id = x.message_id WHERE x.queue_id = ?1` + whereMark

	pageOfMarked = ` AND x.message_id > ?2 ORDER BY x.message_id LIMIT ?3 + 0) ORDER BY m.id`

	sqlListMarkedReady   = pageOfMessages + `SELECT x.message_id ` + markedReady + `?4` + pageOfMarked
	sqlListMarkedLeased  = pageOfMessages + `SELECT x.message_id ` + markedLeased + `?4` + pageOfMarked
	sqlListMarkedDelayed = pageOfMessages + `SELECT x.message_id ` + markedDelayed + `?4` + pageOfMarked

	sqlCountMarkedReady   = `SELECT count(*) ` + markedReady + `?2`
	sqlCountMarkedLeased  = `SELECT count(*) ` + markedLeased + `?2`
	sqlCountMarkedDelayed = `SELECT count(*) ` + markedDelayed + `?2`
)

func (c choice) list(v view, queues []store.Queue, page store.Page) ([]store.Message, error) {
	if c.mark == nil {
		return listMessages(v, queues, c.states, page)
	}
	statement := map[store.State]string{
		store.Ready: sqlListMarkedReady, store.Leased: sqlListMarkedLeased, store.Delayed: sqlListMarkedDelayed,
	}
	var list []store.Message
	for _, queue := range queues {
		for _, state := range c.states {
			err := v.rows(statement[state], []any{queue.ID, page.After, page.LimitOrDefault(), c.mark}, func(rows *sql.Rows) error {
				m, err := scanMessage(rows)
				list = append(list, m)
				return err
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return firstPage(list, page), nil
}

func (c choice) count(q querier, queues []store.Queue) (total int64, err error) {
	if c.mark == nil {
		return countAll(q, queues, c.states)
	}
	statement := map[store.State]string{
		store.Ready: sqlCountMarkedReady, store.Leased: sqlCountMarkedLeased, store.Delayed: sqlCountMarkedDelayed,
	}
	for _, queue := range queues {
		for _, state := range c.states {
			var n int64
			if err := q.row(statement[state], []any{queue.ID, c.mark}, &n); err != nil {
				return 0, err
			}
			total += n
		}
	}
	return total, nil
}

// firstPage is one page of what the pages of several states hold.
func firstPage(list []store.Message, page store.Page) []store.Message {
	slices.SortFunc(list, func(a, b store.Message) int { return cmp.Compare(a.ID, b.ID) })
	return list[:min(len(list), page.LimitOrDefault())]
}
