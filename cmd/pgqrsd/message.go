package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgqrs/pgqrsd/internal/view"
	"github.com/pgqrs/pgqrsd/store"
)

func (a *app) messageCommand() *cobra.Command {
	return group("message", "Enqueue messages and look at them", "  pgqrsd message list emails",
		a.messageEnqueue(), a.messageGet(), a.messageList(), a.messageDelete())
}

func (a *app) messageGet() *cobra.Command {
	return a.onID("message", &cobra.Command{
		Use:   "get ID",
		Short: "Show one message, wherever it is",
		Example: `  pgqrsd message get 42
  pgqrsd message get 42 -o json`,
	}, func(ctx context.Context, s *session, id int64) error {
		m, err := s.Messages().Get(ctx, id)
		if err != nil {
			return err
		}
		if a.json() {
			return a.printJSON(view.OfMessage(m))
		}
		return a.printFields(messageFields(m))
	})
}

func messageFields(m store.Message) [][2]string {
	fields := [][2]string{
		{"id", strconv.FormatInt(m.ID, 10)},
		{"queue", m.Queue},
		{"state", string(m.State)},
		{"priority", strconv.Itoa(m.Priority)},
		{"failed attempts", strconv.Itoa(m.Attempts)},
		{"enqueued", moment(m.EnqueuedAt)},
		{"due", moment(m.AvailableAt)},
		{"worker", positive(m.Worker)},
		{"attempt", positive(int64(m.Attempt))},
		{"leased", moment(m.LeasedAt)},
		{"lease ends", moment(m.LeaseExpiresAt)},
		{"progress", progressText(m.Progress)},
		{"finished", moment(m.FinishedAt)},
	}
	for _, name := range slices.Sorted(maps.Keys(m.Headers)) {
		fields = append(fields, [2]string{"header " + name, m.Headers[name]})
	}
	fields = append(fields, [2]string{"payload", string(m.Payload)}, [2]string{"output", string(m.Output)})
	for _, e := range m.Errors {
		fields = append(fields, [2]string{fmt.Sprintf("error %d", e.Attempt), moment(e.At) + ": " + e.Error})
	}
	return fields
}

func positive(n int64) string {
	if n <= 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

func progressText(p *store.Progress) string {
	if p == nil {
		return ""
	}
	text := progressWords(p)
	if text == "" {
		return ""
	}
	return text + " (" + since(p.At) + " ago)"
}

// progressWords is what a job said last; empty if there is nothing to say.
func progressWords(p *store.Progress) string {
	switch {
	case p == nil:
		return ""
	case p.Percent >= 0:
		return strings.TrimSpace(fmt.Sprintf("%.0f%% %s", p.Percent, p.Message))
	}
	return p.Message
}

func (a *app) messageList() *cobra.Command {
	var filter store.MessageFilter
	cmd := &cobra.Command{
		Use:   "list QUEUE",
		Short: "List the messages of a queue that are not finished",
		Long: `List the messages of a queue that are not finished: delayed, ready and leased.
With --state done, dead or cancelled it lists the archive.`,
		Example: `  pgqrsd message list emails
  pgqrsd message list emails --state leased -o json`,
		Args:              args("the name of the QUEUE"),
		ValidArgsFunction: a.queueNames,
		PreRunE: func(*cobra.Command, []string) error {
			return oneOf("--state", filter.State, allStates)
		},
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			filter.Queue = args[0]
			list := s.Messages().List
			if filter.State.Archived() {
				list = s.Archive().List
			}
			messages, err := list(ctx, filter)
			if err != nil {
				return err
			}
			return a.printMessages("messages", messages, filter.Page)
		}),
	}
	cmd.Flags().StringVar((*string)(&filter.State), "state", "", "only those in this state")
	completeFlag(cmd, "state", completeNames(allStates))
	pageFlags(cmd, &filter.Page)
	return cmd
}

var (
	allStates      = []store.State{store.Delayed, store.Ready, store.Leased, store.Done, store.Dead, store.Cancelled}
	archivedStates = []store.State{store.Done, store.Dead, store.Cancelled}
)

// printMessages prints a page of messages of any state.
func (a *app) printMessages(what string, messages []store.Message, page store.Page) error {
	if a.json() {
		return a.printJSON(view.Each(messages, view.OfMessage))
	}
	rows := make([][]string, len(messages))
	for i, m := range messages {
		rows[i] = []string{
			strconv.FormatInt(m.ID, 10), m.Queue, string(m.State), strconv.Itoa(m.Attempts), since(m.EnqueuedAt), situation(m), string(m.Payload),
		}
	}
	if len(messages) > 0 {
		defer a.more(page, len(messages), messages[len(messages)-1].ID)
	}
	return a.printTable(what, []column{
		{head: "ID", right: true}, {head: "QUEUE", flex: true}, {head: "STATE"}, {head: "FAILED", right: true},
		{head: "AGE", right: true}, {head: "NOW", flex: true}, {head: "PAYLOAD", flex: true},
	}, rows)
}

// situation says in a few words what a person asks next about a message.
func situation(m store.Message) string {
	switch {
	case m.State == store.Delayed:
		return "due in " + until(m.AvailableAt)
	case m.State == store.Leased && m.Progress != nil && m.Progress.Percent >= 0:
		return fmt.Sprintf("worker %d, %.0f%%", m.Worker, m.Progress.Percent)
	case m.State == store.Leased:
		return fmt.Sprintf("worker %d", m.Worker)
	case m.State != store.Done && len(m.Errors) > 0:
		return m.Errors[len(m.Errors)-1].Error
	case m.State.Archived():
		return since(m.FinishedAt) + " ago"
	default:
		return ""
	}
}

func (a *app) messageDelete() *cobra.Command {
	return a.onID("message", &cobra.Command{
		Use:   "delete ID",
		Short: "Delete a ready or delayed message",
		Long: `Delete a ready or delayed message. It leaves no trace in the archive. A leased
message is its worker's and cannot be deleted.`,
		Example: "  pgqrsd message delete 42",
	}, func(ctx context.Context, s *session, id int64) error {
		if err := s.Messages().Delete(ctx, id); err != nil {
			return err
		}
		if a.json() {
			return a.printJSON(deletedID{id, true})
		}
		a.say("message %d deleted", id)
		return nil
	})
}

type deletedID struct {
	ID      int64 `json:"id"`
	Deleted bool  `json:"deleted"`
}
