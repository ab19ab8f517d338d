package host

import (
	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
	"github.com/pgqrs/pgqrsd/internal/failpoint"
)

// passHost is a place where a frame of the host's passes; see failpoint.
func passHost(place string, f *handlerpb.HostFrame) {
	if !failpoint.Enabled {
		return
	}
	for what, is := range map[string]bool{
		"hello": f.Hello != nil, "jobs": len(f.Jobs) > 0, "cancels": len(f.Cancels) > 0,
		"replies": len(f.StepReplies) > 0, "drain": f.Drain,
	} {
		if is {
			failpoint.At(place, what)
		}
	}
}

// passHandler is a place where a frame of the handler's passes.
func passHandler(place string, f *handlerpb.HandlerFrame) {
	if !failpoint.Enabled {
		return
	}
	for what, is := range map[string]bool{
		"credits": len(f.Credits) > 0, "started": len(f.Started) > 0, "results": len(f.Results) > 0,
		"calls": len(f.StepCalls) > 0, "drained": f.Drained,
	} {
		if is {
			failpoint.At(place, what)
		}
	}
}
