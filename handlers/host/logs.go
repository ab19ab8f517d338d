package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// maxLogAttrs is how large a log line's attributes may be, in bytes.
const maxLogAttrs = 64 << 10

// logLine writes a line of a job's logger to the daemon's log.
func logLine(log *slog.Logger, l *handlerpb.Log) {
	ctx := context.Background()
	level := slog.Level(l.Level)
	if !log.Enabled(ctx, level) {
		return
	}
	at := time.Now()
	if l.TimeUs > 0 {
		at = time.UnixMicro(l.TimeUs)
	}
	r := slog.NewRecord(at, level, cutText(l.Message, maxLine), 0)
	if l.Queue != "" {
		r.AddAttrs(slog.String("queue", cutText(l.Queue, maxLine)))
	}
	if l.Id != 0 {
		r.AddAttrs(slog.Int64("message", l.Id))
	}
	if len(l.Attrs) > 0 {
		r.AddAttrs(logAttrs(l.Attrs)...)
	}
	_ = log.Handler().Handle(ctx, r) // a log that cannot be written has nowhere to be reported
}

// logAttrs reads a JSON object as attributes, in its order. What is no JSON
// object becomes one attribute as it is.
func logAttrs(raw []byte) []slog.Attr {
	if len(raw) > maxLogAttrs {
		return []slog.Attr{slog.String("attrs", cutText(string(raw[:maxLine]), maxLine))}
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	attrs, err := objectAttrs(dec)
	if err != nil {
		return []slog.Attr{slog.String("attrs", cutText(string(raw), maxLine))}
	}
	return attrs
}

var errNoObject = errors.New("not a JSON object")

func objectAttrs(dec *json.Decoder) ([]slog.Attr, error) {
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errNoObject
	}
	var attrs []slog.Attr
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, err
		}
		var value any
		if err := dec.Decode(&value); err != nil {
			return nil, err
		}
		name, ok := key.(string)
		if !ok {
			return nil, errNoObject
		}
		attrs = append(attrs, slog.Attr{Key: cleanText(name), Value: attrValue(value)})
	}
	_, err := dec.Token()
	return attrs, err
}

func attrValue(v any) slog.Value {
	switch v := v.(type) {
	case string:
		return slog.StringValue(cleanText(v))
	case bool:
		return slog.BoolValue(v)
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return slog.Int64Value(n)
		}
		if f, err := v.Float64(); err == nil {
			return slog.Float64Value(f)
		}
		return slog.StringValue(v.String())
	}
	return slog.AnyValue(v)
}
