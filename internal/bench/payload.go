package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"

	"github.com/pgqrs/pgqrsd/store"
)

// What a message asks of the handler stands at the beginning of its payload, so
// that a job that asks for nothing need not be decoded.
const (
	doNothing = `{"n":`
	doTell    = `{"do":"tell","n":`  // put the time of the start into the output
	doFail    = `{"do":"fail","n":`  // the same, but fail at the first attempt
	doSleep   = `{"do":"sleep","n":` // for so many milliseconds
	doSteps   = `{"do":"steps","n":` // so many; of runs only
)

// payloads makes payloads of one length.
type payloads struct {
	bytes int
	pad   []byte
}

// newPayloads fills payloads with letters that no database can compress away.
func newPayloads(length int) *payloads {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-"
	r := rand.New(rand.NewPCG(1, 2))
	pad := make([]byte, length)
	for i := range pad {
		pad[i] = letters[r.IntN(len(letters))]
	}
	return &payloads{length, pad}
}

// payload is the one with this beginning and number. Where the length is too
// short for the padding's name there is none.
func (p *payloads) payload(do string, n int) json.RawMessage {
	const pad, end = `,"pad":"`, `"}`
	b := make([]byte, 0, max(p.bytes, len(do)+20))
	b = strconv.AppendInt(append(b, do...), int64(n), 10)
	if room := p.bytes - len(b) - len(pad) - len(end); room >= 0 {
		b = append(append(append(b, pad...), p.pad[:room]...), end...)
		return b
	}
	return append(b, '}')
}

// message is the n-th of one kind, on one of the queues in turn.
func (r *run) message(do string, n int) store.NewMessage {
	return store.NewMessage{Queue: r.queues[n%len(r.queues)], Payload: r.payloads.payload(do, n)}
}

// asked is what a payload asks for, and how much of it: the milliseconds of a
// sleep, the number of steps.
func asked(payload []byte) (do string, n int64, err error) {
	for _, do := range []string{doNothing, doTell, doFail, doSleep, doSteps} {
		if !bytes.HasPrefix(payload, []byte(do)) {
			continue
		}
		if do != doSleep && do != doSteps {
			return do, 0, nil
		}
		var p struct {
			N int64 `json:"n"`
		}
		err := json.Unmarshal(payload, &p)
		return do, p.N, err
	}
	return "", 0, fmt.Errorf("the payload is none of bench's: %.100s", payload)
}
