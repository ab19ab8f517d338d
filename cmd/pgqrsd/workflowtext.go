package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/pgqrs/pgqrsd/internal/view"
	"github.com/pgqrs/pgqrsd/store"
)

// runNow says in a few words what a person asks next about a run.
func runNow(r store.Run) string {
	switch r.Status {
	case store.RunWaiting:
		if r.Wait == nil {
			return ""
		}
		text := strings.TrimSpace(string(r.Wait.Kind) + " " + r.Wait.For)
		if limited(r.Wait.Until) {
			text += ", " + until(r.Wait.Until)
		}
		return text
	case store.RunRunning, store.RunCancelling:
		if r.Worker > 0 {
			text := fmt.Sprintf("worker %d", r.Worker)
			if r.Pausing {
				text += ", pausing"
			}
			if at := progressWords(r.Progress); at != "" {
				text += ", " + at
			}
			return text
		}
	case store.RunFailed:
		return view.LastError(r)
	case store.RunSucceeded, store.RunCancelled:
		return since(r.FinishedAt) + " ago"
	}
	return ""
}

// why says in one line why an unfinished run does not go on, or who has it.
func why(r store.Run, steps []store.StepRecord) string {
	switch r.Status {
	case store.RunQueued:
		return "is ready; a daemon that serves the workflow will take it"
	case store.RunRunning:
		text := fmt.Sprintf("runs on worker %d", r.Worker)
		if r.Pausing {
			text += ", and pauses at its next step"
		}
		if at := isAt(r); at != "" {
			text += ": " + at
		}
		return text
	case store.RunPaused:
		return fmt.Sprintf("is paused; `pgqrsd workflow resume %d` lets it carry on", r.ID)
	case store.RunCancelling:
		switch at := isAt(r); {
		case strings.HasPrefix(at, "step "):
			return "is being cancelled: stops after " + at
		case at != "":
			return "is being cancelled: stops at its next step; " + at
		}
		return "is being cancelled: stops at its next step"
	case store.RunWaiting:
		if r.Wait != nil {
			return "waits for " + waitsFor(*r.Wait, steps) + deadlineText(*r.Wait) + others(steps)
		}
	}
	return ""
}

// others says that more than one branch waits.
func others(steps []store.StepRecord) string {
	waiting := 0
	for _, s := range steps {
		if s.State == store.StepWaiting {
			waiting++
		}
	}
	if waiting < 2 {
		return ""
	}
	return fmt.Sprintf("; and %d more of its steps wait, see below", waiting-1)
}

// isAt is what a run that has a worker is at, since when, as far as it says so.
func isAt(r store.Run) string {
	at := progressWords(r.Progress)
	if at == "" {
		return ""
	}
	return at + " since " + timeOfDay(r.Progress.At, time.Now())
}

// waitsFor names what a run waits for; steps say more about it, if they are known.
func waitsFor(w store.RunWait, steps []store.StepRecord) string {
	waiting, known := waitingStep(w, steps)
	switch w.Kind {
	case store.WaitSleep:
		return "the end of sleep " + w.For
	case store.WaitSignal:
		return "signal " + w.For
	case store.WaitChild:
		if known && waiting.Child > 0 {
			return fmt.Sprintf("run %d, its child %s,", waiting.Child, w.For)
		}
		return "its child " + w.For
	case store.WaitRetry:
		if w.For == "" {
			return "its next attempt"
		}
		if known {
			return fmt.Sprintf("try %d of step %s", waiting.Tries+1, w.For)
		}
		return "the next try of step " + w.For
	case store.WaitVersion:
		return "a handler that carries on version " + cmp.Or(w.For, noVersion)
	case store.WaitStart:
		return "its start"
	}
	return strings.TrimSpace(string(w.Kind) + " " + w.For)
}

// noVersion stands for the version of a run that has none.
const noVersion = "(none)"

// waitingStep finds the step that a wait speaks of: the last one that waits, by
// its name or topic if one fits.
func waitingStep(w store.RunWait, steps []store.StepRecord) (found store.StepRecord, ok bool) {
	for _, s := range steps {
		if s.State == store.StepWaiting && (s.Name == w.For || s.Topic == w.For) {
			found, ok = s, true
		}
	}
	return found, ok
}

func deadlineText(w store.RunWait) string {
	switch {
	case !limited(w.Until):
		return " without limit"
	case w.Kind == store.WaitVersion:
		return "; looks again in " + until(w.Until)
	}
	return " until " + w.Until.UTC().Format("2006-01-02 15:04:05Z") + ", " + left(w.Until) + " left"
}

// limited says that a time is one, not never.
func limited(t time.Time) bool { return !t.IsZero() && t.Year() <= 9999 }

// left is the time until t in hours where days would round too much away.
func left(t time.Time) string {
	if d := time.Until(t); d >= 48*time.Hour && d < 100*time.Hour {
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return until(t)
}

// timeOfDay is short where the day is known.
func timeOfDay(t, today time.Time) string {
	t, today = t.UTC(), today.UTC()
	switch {
	case t.IsZero():
		return ""
	case t.YearDay() == today.YearDay() && t.Year() == today.Year():
		return t.Format("15:04:05")
	}
	return t.Format("01-02 15:04")
}

// sizeText is a length in bytes for people.
func sizeText(n int) string {
	switch {
	case n == 0:
		return ""
	case n < 10_000:
		return fmt.Sprintf("%d B", n)
	case n < 10_000_000:
		return fmt.Sprintf("%d kB", n/1000)
	}
	return fmt.Sprintf("%d MB", n/1_000_000)
}
