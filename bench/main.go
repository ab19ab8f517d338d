// Command bench measures pgqrsd beside its peers on one machine, one database
// and in one run: the contenders take turns, each in a process of its own, and
// what is reported is the median of several rounds. `make bench` runs it.
//
// Where there is a choice, it is made in the peers' favour. pgqrsd crosses a
// process boundary and carries 200 bytes a message; River and Graphile Worker
// work in process on the few bytes of their own benchmarks, at the settings of
// those. The count of jobs that River's takes each second is left out. Graphile
// Worker's clock does not run while Node starts. Messages come to River at even
// intervals, to pgqrsd at random. DBOS runs its workflows in process too, started
// directly and from a queue, of which the better counts. Each starts on tables of its own that were
// filled, vacuumed and analyzed, after a checkpoint, with the others' gone.
//
// The database is the one that DSN or PGQRS_TEST_DSN names; the schemas in it
// that are named sidebyside_* are dropped.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	var err error
	if len(os.Args) == 2 && os.Args[1] == childArgument {
		err = runChild(ctx, os.Stdin, os.Stdout)
	} else {
		err = runBench(ctx, os.Args[1:])
	}
	stop()
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	default:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func runBench(ctx context.Context, args []string) error {
	opts, err := parseOptions(args)
	if err != nil {
		return err
	}
	if opts.list {
		fmt.Println(listing(experiments(&lab{})))
		return nil
	}
	l, err := newLab(ctx, opts)
	if err != nil {
		return err
	}
	chosen, err := choose(experiments(l), opts.only, opts.suite)
	if err != nil {
		return err
	}
	r := report{Settings: l.settings(ctx)}
	for _, e := range chosen {
		r.add(e, e.run(ctx, l))
		if ctx.Err() != nil {
			break
		}
	}
	// What was measured is printed even if the rest was cut short.
	if err := r.write(os.Stdout, opts.output); err != nil {
		return fmt.Errorf("print the report: %w", err)
	}
	if ctx.Err() != nil {
		return errors.New("interrupted; the report above is of the rounds that were complete")
	}
	if failed := r.failed(); len(failed) > 0 {
		return fmt.Errorf("could not be measured: %s", strings.Join(failed, ", "))
	}
	return nil
}

// options are the command line's.
type options struct {
	pgqrsd, graphile string
	list             bool
	only             []string
	suite            string
	rounds           int
	scale            float64
	output           string
}

func parseOptions(args []string) (options, error) {
	var o options
	var only string
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.pgqrsd, "pgqrsd", "bin/pgqrsd", "the `binary` to measure")
	flags.StringVar(&o.graphile, "graphile", "bench/graphile", "the `directory` of the Graphile Worker contender")
	flags.BoolVar(&o.list, "list", false, "list the experiments and their rows, and measure nothing")
	flags.StringVar(&only, "only", "", "experiments or rows to measure, by `name`, separated by commas")
	flags.StringVar(&o.suite, "suite", suiteTargets, "which experiments without -only: `"+suiteTargets+"` or "+suiteLatency)
	flags.IntVar(&o.rounds, "rounds", 5, "rounds of each experiment")
	flags.Float64Var(&o.scale, "scale", 1, "multiplies numbers of messages and durations, for a quick try")
	flags.StringVar(&o.output, "o", outputTable, "`table` or json")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	for name := range strings.SplitSeq(only, ",") {
		if name = strings.TrimSpace(name); name != "" {
			o.only = append(o.only, name)
		}
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case o.rounds < 1:
		return o, fmt.Errorf("-rounds %d: at least 1", o.rounds)
	case !(o.scale > 0): // NaN too
		return o, fmt.Errorf("-scale %v: must be positive", o.scale)
	case o.output != outputTable && o.output != outputJSON:
		return o, fmt.Errorf("-o %q: table or json", o.output)
	}
	return o, nil
}
