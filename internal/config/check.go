package config

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// check looks for values that are impossible, alone or beside others.
func (l *loader) check() {
	cfg := &l.loaded.Config
	l.must(cfg.DSN != "", "must not be empty", "dsn")
	l.must(cfg.Schema != "" && len(cfg.Schema) <= 63, "must have 1 to 63 bytes", "schema")
	l.must(cfg.Plugins != "", "must not be empty", "plugins")
	l.checkDaemon(&cfg.Daemon)
	l.checkStore(&cfg.Store)
	l.checkHTTP(&cfg.HTTP)
	l.checkPayload(&cfg.Payload)
	l.must(slices.Contains([]string{"debug", "info", "warn", "error"}, cfg.Log.Level),
		"must be debug, info, warn or error", join("log", "level"))
	l.must(slices.Contains([]string{"text", "json"}, cfg.Log.Format), "must be text or json", join("log", "format"))
	l.checkQueue(&cfg.QueueDefaults, "queue_defaults")
	for _, name := range slices.Sorted(maps.Keys(cfg.Queues)) {
		q := cfg.Queues[name]
		l.checkQueue(&q, join("queues", name))
	}
}

// must reports a broken rule at the first of keys that is not at its default,
// so that the error leads to what the user wrote. A queue's key that was not
// written stands in queue_defaults, where the same rule reports it.
func (l *loader) must(ok bool, rule string, keys ...string) {
	if ok {
		return
	}
	for _, key := range keys {
		if from, set := l.loaded.origins[key]; set {
			l.bad(from.Text, key, "%s", rule)
			return
		}
	}
}

func (l *loader) checkDaemon(d *Daemon) {
	key := func(name string) string { return join("daemon", name) }
	const positive = "must be longer than 0s"
	l.must(d.DrainTimeout >= 0, "must not be negative", key("drain_timeout"))
	l.must(d.CancelGrace >= 0, "must not be negative", key("cancel_grace"))
	l.must(d.HeartbeatInterval > 0, positive, key("heartbeat_interval"))
	l.must(d.PollInterval > 0, positive, key("poll_interval"))
	l.must(d.WatchInterval > 0, positive, key("watch_interval"))
	l.must(d.MaintenanceInterval > 0, positive, key("maintenance_interval"))
	l.must(d.StateDir != "", "must not be empty", key("state_dir"))
	l.must(d.WorkerTimeout >= 2*d.HeartbeatInterval,
		fmt.Sprintf("worker_timeout (%s) must be at least twice heartbeat_interval (%s), or a live worker is taken for dead",
			FormatDuration(d.WorkerTimeout), FormatDuration(d.HeartbeatInterval)),
		key("worker_timeout"), key("heartbeat_interval"))
}

func (l *loader) checkStore(s *Store) {
	l.must(s.PoolSize >= 2 && s.PoolSize <= 1000, "must be 2 to 1000", join("store", "pool_size"))
	l.must(s.ConnectTimeout >= time.Millisecond, "must be at least 1ms", join("store", "connect_timeout"))
	l.must(s.StatementTimeout >= time.Millisecond, "must be at least 1ms", join("store", "statement_timeout"))
}

func (l *loader) checkHTTP(h *HTTP) {
	l.must(h.Addr == "" || validAddr(h.Addr),
		`must be host:port such as "127.0.0.1:7433", or empty to listen nowhere`, join("http", "addr"))
	l.must(h.RateLimit >= 0, "must not be negative", join("http", "rate_limit"))
	l.must(h.Burst >= 0, "must not be negative", join("http", "burst"))
}

func validAddr(addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || strings.ContainsAny(host, " /") {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

func (l *loader) checkPayload(p *Payload) {
	key := func(name string) string { return join("payload", name) }
	// Handlers are sent frames; a payload of more than this belongs elsewhere.
	const most = 64 << 20
	l.must(p.MaxBytes >= 1 && p.MaxBytes <= most, fmt.Sprintf("must be 1 to %d", most), key("max_bytes"))
	l.must(p.MaxDepth >= 1 && p.MaxDepth <= 10_000, "must be 1 to 10000", key("max_depth"))
	l.must(p.MaxString >= 0, "must not be negative", key("max_string"))
	for _, name := range p.RequiredKeys {
		l.must(!slices.Contains(p.ForbiddenKeys, name),
			fmt.Sprintf("%q cannot be both required and forbidden", name), key("required_keys"), key("forbidden_keys"))
	}
}

func (l *loader) checkQueue(q *Queue, table string) {
	key := func(name string) string { return join(table, name) }
	backoff := func(name string) string { return join(table, "backoff", name) }
	l.must(q.Concurrency >= 1 && q.Concurrency <= 100_000, "must be 1 to 100000", key("concurrency"))
	l.must(q.Lease >= time.Second, "must be at least 1s", key("lease"))
	l.must(q.Timeout >= 0, "must not be negative; 0s is no limit", key("timeout"))
	l.must(q.MaxAttempts >= 1 && q.MaxAttempts <= 10_000, "must be 1 to 10000", key("max_attempts"))
	l.must(q.Retention >= 0, "must not be negative; 0s is for ever", key("retention"))
	l.must(q.Retain == "archive" || q.Retain == "delete", "must be archive or delete", key("retain"))
	l.must(q.Backoff.Kind == "exponential" || q.Backoff.Kind == "fixed", "must be exponential or fixed", backoff("kind"))
	l.must(q.Backoff.Delay > 0, "must be longer than 0s", backoff("delay"))
	l.must(q.Backoff.Cap >= q.Backoff.Delay,
		fmt.Sprintf("cap (%s) must not be shorter than delay (%s)", FormatDuration(q.Backoff.Cap), FormatDuration(q.Backoff.Delay)),
		backoff("cap"), backoff("delay"))
	l.must(q.Backoff.Jitter >= 0 && q.Backoff.Jitter <= 1, "must be 0 to 1", backoff("jitter"))
}
