package host

import (
	"context"
	"log/slog"

	"google.golang.org/protobuf/proto"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// defaultConcurrency is what handlers are told where the settings say nothing.
const defaultConcurrency = 100

// hello tells the handler its settings, unless it knows them.
func (p *process) hello(version string, s Settings) {
	hello := &handlerpb.Hello{HostVersion: cleanText(version), LogLevel: int32(lowestLevel(p.log))}
	for _, pt := range p.ports {
		n := 0
		if s.Concurrency != nil {
			n = s.Concurrency(pt.queue.name)
		}
		if n <= 0 {
			n = defaultConcurrency
		}
		hello.Queues = append(hello.Queues, &handlerpb.Hello_QueueSettings{Name: pt.queue.name, Concurrency: uint32(n)})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if proto.Equal(hello, p.told) {
		return
	}
	for i, q := range hello.Queues {
		p.ports[i].concurrency = int(q.Concurrency)
	}
	p.told, p.outbox.hello = hello, hello
	poke(p.wake)
}

// lowestLevel is the lowest level of lines that the logger keeps.
func lowestLevel(log *slog.Logger) slog.Level {
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn} {
		if log.Enabled(context.Background(), level) {
			return level
		}
	}
	return slog.LevelError
}
