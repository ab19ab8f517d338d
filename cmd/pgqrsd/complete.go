package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgqrs/pgqrsd/store"
	"github.com/pgqrs/pgqrsd/store/anystore"
)

// completeFlag sets how a flag's value is completed. It fails only for a flag
// that does not exist, which every start of the program would show.
func completeFlag(c *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := c.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err)
	}
}

// completionTimeout keeps a shell from hanging on a database that is away.
const completionTimeout = time.Second

// queueNames completes the first argument with the names of the queues. A shell
// cannot show an error, so there are just no names then.
func (a *app) queueNames(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	const none = cobra.ShellCompDirectiveNoFileComp
	if len(args) > 0 {
		return nil, none
	}
	names, err := a.listQueueNames(cmd)
	if err != nil {
		return nil, none
	}
	return names, none
}

// completeQueue completes a flag's value with the names of the queues.
func (a *app) completeQueue(c *cobra.Command, flag string) {
	completeFlag(c, flag, func(c *cobra.Command, _ []string, text string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return a.queueNames(c, nil, text)
	})
}

func (a *app) listQueueNames(cmd *cobra.Command) ([]string, error) {
	cfg, err := a.load(cmd)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), completionTimeout)
	defer cancel()
	s, err := anystore.OpenConfig(ctx, storeConfig(cfg))
	if err != nil {
		return nil, err
	}
	defer s.Close()
	queues, err := s.Queues().List(ctx, store.Page{Limit: 1000})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, q := range queues {
		names = append(names, q.Name)
	}
	return names, nil
}

// completeNames completes with fixed words.
func completeNames[T ~string](words []T) cobra.CompletionFunc {
	return cobra.FixedCompletions(texts(words), cobra.ShellCompDirectiveNoFileComp)
}

func texts[T ~string](words []T) []string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = string(w)
	}
	return out
}

// oneOf refuses a flag's value that is neither empty nor one of words.
func oneOf[T ~string](flag string, value T, words []T) error {
	if value == "" || slices.Contains(words, value) {
		return nil
	}
	return usagef("%s must be one of %s, not %q", flag, strings.Join(texts(words), ", "), value)
}
