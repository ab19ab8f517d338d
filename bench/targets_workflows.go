package main

import "strconv"

// The contenders of the workflows.
const (
	nameOursEmpty      = "pgqrsd-empty"
	nameOursSteps      = "pgqrsd-steps"
	nameDBOSEmpty      = "dbos-empty"
	nameDBOSSteps      = "dbos-steps"
	nameDBOSAlone      = "dbos-alone"
	nameDBOSQueueEmpty = "dbos-queue-empty"
	nameDBOSQueueSteps = "dbos-queue-steps"
)

const (
	emptyWorkflows   = 20_000 // of DBOS; ours take as long with more
	steppedWorkflows = 4_000  // of DBOS
	oursPerTheirs    = 5
	stepsEach        = 5
	aloneSteps       = 100
	aloneWorkflows   = 20
	bareCommitCount  = 2_000
)

// workflowsExperiment lets workflows run beside DBOS's, a hundred in flight on
// both sides. Each side has as many as take some seconds.
func (l *lab) workflowsExperiment() experiment {
	dbos := func(name, kind, settings string, workflows, steps int) contender {
		return l.childContender(name, settings, task{Kind: kind, DSN: l.dsn, Messages: l.messages(workflows), Steps: steps})
	}
	ours := func(name string, workflows, steps int) contender {
		return l.pgqrsdOn(name, l.dsn, "drain", "--steps", strconv.Itoa(steps),
			"--queue-size", strconv.Itoa(l.messages(oursPerTheirs*workflows)), "--concurrency", strconv.Itoa(dbosInFlight))
	}
	return experiment{
		name: "workflows", suite: suiteTargets,
		contenders: []contender{
			ours(nameOursEmpty, emptyWorkflows, 0),
			dbos(nameDBOSEmpty, kindDBOS, dbosStartSettings, emptyWorkflows, 0),
			dbos(nameDBOSQueueEmpty, kindDBOSQueue, dbosQueueSettings, emptyWorkflows, 0),
			ours(nameOursSteps, steppedWorkflows, stepsEach),
			dbos(nameDBOSSteps, kindDBOS, dbosStartSettings, steppedWorkflows, stepsEach),
			dbos(nameDBOSQueueSteps, kindDBOSQueue, dbosQueueSettings, steppedWorkflows, stepsEach),
		},
		rows: []row{
			{
				name: "workflows-steps", what: "steps/s of workflows of 5 no-op steps through a handler process / DBOS in process, 100 in flight, the better of its ways",
				goal: goal{atLeast, 4, 6}, needs: []string{nameOursSteps, nameDBOSSteps, nameDBOSQueueSteps},
				value: overBetter(figSteps, nameOursSteps, nameDBOSSteps, nameDBOSQueueSteps),
			},
			{
				name: "workflows-empty", what: "empty workflows/s through a handler process / DBOS in process, 100 in flight, the better of its ways",
				goal: goal{atLeast, 8, 15}, needs: []string{nameOursEmpty, nameDBOSEmpty, nameDBOSQueueEmpty},
				value: overBetter(figWorkflows, nameOursEmpty, nameDBOSEmpty, nameDBOSQueueEmpty),
			},
		},
	}
}

// stepExperiment is what a step costs a workflow that is alone, beside what it
// cannot do without, one commit, and beside DBOS's.
func (l *lab) stepExperiment() experiment {
	return experiment{
		name: "step", suite: suiteTargets,
		contenders: []contender{
			l.pgqrsdOn(nameOurs, l.dsn, "drain", "--steps", strconv.Itoa(aloneSteps), "--concurrency", "1", "--queue-size", strconv.Itoa(aloneWorkflows)),
			l.childContender(nameCommit, "one insert of a small row after the other, each committed by itself, on one connection",
				task{Kind: kindCommit, DSN: l.dsn, Messages: l.messages(bareCommitCount)}),
			l.childContender(nameDBOSAlone, dbosAloneSettings, task{Kind: kindDBOSAlone, DSN: l.dsn, Messages: aloneWorkflows, Steps: aloneSteps}),
		},
		rows: []row{{
			name: "step-commit", what: "one workflow alone: a step, in its function / a bare commit, medians",
			goal: goal{bound: atMost, limit: 1.5}, needs: []string{nameOurs, nameCommit},
			value: func(m medians) float64 { return m.of(nameOurs, figStepP50) / m.of(nameCommit, figCommitP50) },
		}, {
			name: "step-dbos", what: "one workflow alone: a step through a handler process / DBOS in process, medians",
			needs: []string{nameOurs, nameDBOSAlone}, value: ratio(figStepP50, nameOurs, nameDBOSAlone),
		}},
	}
}

// overBetter is one contender's figure as a multiple of the better of two others'.
func overBetter(figure, of, to, or string) func(medians) float64 {
	return func(m medians) float64 { return m.of(of, figure) / max(m.of(to, figure), m.of(or, figure)) }
}
