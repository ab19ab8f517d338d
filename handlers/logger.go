package handlers

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// Logger returns a logger whose lines come out of the daemon's log, with the
// message's id and queue. The daemon's log level decides which. When ctx is no
// job's it is slog.Default.
func Logger(ctx context.Context) *slog.Logger {
	j := jobOf(ctx)
	if j == nil {
		return slog.Default()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.logger == nil {
		j.logger = slog.New(newLogHandler(j))
	}
	return j.logger
}

// logHandler turns records into Log frames. The attributes are encoded by
// slog's own JSON handler, inside a group of which only the contents are sent.
type logHandler struct {
	job   *job
	enc   *logEncoder
	attrs slog.Handler
}

// logEncoder catches what the JSON handlers of one logger write.
type logEncoder struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (e *logEncoder) Write(p []byte) (int, error) { return e.buf.Write(p) }

const (
	logGroup  = "a"
	logPrefix = `{"level":"INFO","msg":"","` + logGroup + `":`
	logSuffix = "}\n"
)

func newLogHandler(j *job) *logHandler {
	enc := &logEncoder{}
	json := slog.NewJSONHandler(enc, &slog.HandlerOptions{Level: slog.Level(-1 << 30)})
	return &logHandler{job: j, enc: enc, attrs: json.WithGroup(logGroup)}
}

func (h *logHandler) Enabled(_ context.Context, level slog.Level) bool {
	return int64(level) >= h.job.lane.session.logLevel.Load()
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logHandler{h.job, h.enc, h.attrs.WithAttrs(attrs)}
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	return &logHandler{h.job, h.enc, h.attrs.WithGroup(name)}
}

func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	attrs, err := h.encode(ctx, r)
	if err != nil {
		return err
	}
	at := r.Time
	if at.IsZero() {
		at = time.Now()
	}
	msg := h.job.msg
	h.job.lane.session.out.log(&handlerpb.Log{
		Id: msg.Id, Claim: msg.Claim, Queue: msg.Queue,
		Level:   int32(r.Level),
		Message: clean(r.Message),
		Attrs:   attrs,
		TimeUs:  at.UnixMicro(),
	})
	return nil
}

// encode returns the record's attributes as a JSON object, nil for none.
func (h *logHandler) encode(ctx context.Context, r slog.Record) ([]byte, error) {
	only := slog.NewRecord(time.Time{}, slog.LevelInfo, "", 0)
	r.Attrs(func(a slog.Attr) bool {
		only.AddAttrs(a)
		return true
	})
	h.enc.mu.Lock()
	defer h.enc.mu.Unlock()
	h.enc.buf.Reset()
	if err := h.attrs.Handle(ctx, only); err != nil {
		return nil, err
	}
	line, ok := bytes.CutPrefix(h.enc.buf.Bytes(), []byte(logPrefix))
	if !ok {
		return nil, nil // the group is empty, and left out
	}
	line = bytes.TrimSuffix(line, []byte(logSuffix))
	if len(line) > maxTextBytes {
		return []byte(`{"attrs_dropped":"over 64 KiB"}`), nil
	}
	return bytes.Clone(line), nil
}
