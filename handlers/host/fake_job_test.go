package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// job does what the payload says, a JSON string or any other JSON for "done".
func (f *fake) job(ctx context.Context, j *handlerpb.Job) {
	var do string
	if json.Unmarshal(j.Payload, &do) != nil {
		do = "done"
	}
	r := &handlerpb.Result{Id: j.Id, Claim: j.Claim, Outcome: handlerpb.Outcome_OUTCOME_DONE, Output: j.Payload}
	do, arg, _ := strings.Cut(do, ":")
	started := &handlerpb.HandlerFrame{Started: []*handlerpb.Started{{Id: j.Id, Claim: j.Claim}}}
	switch do {
	case "quiet": // done without a Started
	default:
		f.write(started)
	}
	switch do {
	case "sleep":
		d, _ := time.ParseDuration(arg)
		select {
		case <-ctx.Done():
			r.Outcome, r.Error = handlerpb.Outcome_OUTCOME_RELEASE, context.Cause(ctx).Error()
		case <-time.After(d):
		}
	case "deaf": // runs on whatever it is told
		d, _ := time.ParseDuration(arg)
		<-time.After(d)
	case "stuck":
		select {}
	case "exit":
		os.Exit(7)
	case "panic":
		panic("the job went wrong")
	case "kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case "stop":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		select {} // the other threads stop a little later
	case "print":
		fmt.Println(arg)
		fmt.Fprintln(os.Stderr, arg)
	case "longline":
		_, _ = os.NewFile(1, "stdout").WriteString(strings.Repeat("y", 10<<20) + "\nafter the long line\n")
	case "log":
		f.write(&handlerpb.HandlerFrame{Logs: []*handlerpb.Log{{
			Id: j.Id, Claim: j.Claim, Queue: j.Queue, Level: 4, Message: "half \x00 way", Attrs: []byte(`{"rows": 12, "who": "me"}`),
		}}})
	case "beat":
		f.write(&handlerpb.HandlerFrame{Beats: []*handlerpb.Beat{{Id: j.Id, Claim: j.Claim, Percent: 40, Message: "on the way"}}})
	case "badtext":
		r.Outcome, r.Error = handlerpb.Outcome_OUTCOME_DISCARD, "NUL \x00 here"
	case "rawtext":
		// A library that does not check its text.
		result := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(j.Id))
		result = protowire.AppendVarint(protowire.AppendTag(result, 2, protowire.VarintType), uint64(j.Claim))
		result = protowire.AppendVarint(protowire.AppendTag(result, 3, protowire.VarintType), uint64(handlerpb.Outcome_OUTCOME_DISCARD))
		result = protowire.AppendString(protowire.AppendTag(result, 5, protowire.BytesType), "caf\xe9")
		f.send.Lock()
		_ = f.stream.SendMsg(rawFrame(protowire.AppendBytes(protowire.AppendTag(nil, 3, protowire.BytesType), result)))
		f.send.Unlock()
		f.jobs.Done()
		return
	case "nothing":
		r.Outcome = handlerpb.Outcome_OUTCOME_UNSPECIFIED
	case "snooze":
		r.Outcome = handlerpb.Outcome_OUTCOME_SNOOZE
	case "stranger":
		f.write(&handlerpb.HandlerFrame{
			Results: []*handlerpb.Result{{Id: 987654, Claim: 1, Outcome: handlerpb.Outcome_OUTCOME_DONE}},
			Started: []*handlerpb.Started{{Id: 987655, Claim: 1}},
			Credits: []*handlerpb.Credit{{Queue: "nobodys", Jobs: 1}},
		})
	case "twice":
		f.write(&handlerpb.HandlerFrame{Results: []*handlerpb.Result{{Id: j.Id, Claim: j.Claim, Outcome: handlerpb.Outcome_OUTCOME_DONE}}})
	case "step":
		f.write(&handlerpb.HandlerFrame{StepCalls: []*handlerpb.StepCall{{Number: 5, Id: j.Id, Claim: j.Claim}}})
	case "call", "big call", "empty call", "calls", "call for another":
		f.callSteps(j, r, do, arg)
	case "wait":
		r.Outcome, r.Wait = handlerpb.Outcome_OUTCOME_WAIT, &handlerpb.Wait{Kind: arg, DelayMs: 5}
	case "wait for nothing":
		r.Outcome = handlerpb.Outcome_OUTCOME_WAIT
	case "cancelled":
		r.Outcome = handlerpb.Outcome_OUTCOME_CANCEL
	case "result with step":
		r.Steps = []*handlerpb.Step{{Name: "last\x00"}}
	case "result with a big step":
		r.Steps = []*handlerpb.Step{{Name: "last", Output: make([]byte, maxStepOutput+1)}}
	case "hangup": // the stream ends with an error, the process lives on
		f.quit <- errors.New("out of ideas")
		select {}
	case "nonsense":
		_ = f.stream.SendMsg(rawFrame("\xff\xff\xff\xff no protobuf"))
	}
	f.finish(r, j)
}

// callSteps makes a step call, or as many as arg says, waits for the replies and
// leaves the last one in the result.
func (f *fake) callSteps(j *handlerpb.Job, r *handlerpb.Result, do, arg string) {
	n, _ := strconv.Atoi(arg)
	replies := make(chan *handlerpb.StepReply, max(n, 1))
	for range max(n, 1) {
		f.mu.Lock()
		f.number++
		c := &handlerpb.StepCall{Number: f.number, Id: j.Id, Claim: j.Claim, Steps: []*handlerpb.Step{{Name: "pay\x00", Output: []byte(`1`)}}}
		f.calls[f.number] = replies
		f.mu.Unlock()
		switch do {
		case "big call":
			c.Steps[0].Output = make([]byte, maxStepOutput+1)
		case "empty call":
			c.Steps = nil
		case "call for another":
			c.Claim++
		}
		f.write(&handlerpb.HandlerFrame{StepCalls: []*handlerpb.StepCall{c}})
	}
	f.log(fmt.Sprintf("%d calls of job %d are out", n, j.Id))
	for range max(n, 1) {
		reply := <-replies
		r.Output = []byte(reply.Halt)
		if reply.Error != "" {
			r.Outcome, r.Output, r.Error = handlerpb.Outcome_OUTCOME_RETRY, nil, reply.Error
		}
	}
}

// finish sends a result and gives its credit back.
func (f *fake) finish(r *handlerpb.Result, j *handlerpb.Job) {
	frame := &handlerpb.HandlerFrame{Results: []*handlerpb.Result{r}}
	if j != nil {
		frame.Credits = []*handlerpb.Credit{{Queue: j.Queue, Jobs: 1, Bytes: uint64(len(j.Payload))}}
	}
	f.mu.Lock()
	f.inFlight--
	delete(f.running, Ref{r.Id, r.Claim})
	f.mu.Unlock()
	f.write(frame)
	f.jobs.Done()
}

// rawFrame is sent as it is.
type rawFrame []byte

type rawCodec struct{ encoding.CodecV2 }

func (c rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	if raw, ok := v.(rawFrame); ok {
		return mem.BufferSlice{mem.SliceBuffer(raw)}, nil
	}
	return c.CodecV2.Marshal(v)
}
