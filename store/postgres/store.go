package postgres

import (
	"context"
	"fmt"
	"hash/fnv"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgqrs/pgqrsd/store"
)

// Defaults of a Config.
const (
	DefaultSchema           = "pgqrs"
	DefaultPoolSize         = 10
	DefaultConnectTimeout   = 5 * time.Second
	DefaultStatementTimeout = 30 * time.Second
)

// Config opens a store. Zero fields take their defaults.
type Config struct {
	// DSN is a PostgreSQL URL: postgres://user:password@host:port/database?...
	DSN string
	// Schema holds the tables; default DefaultSchema.
	Schema string
	// PoolSize is the most connections at once; default DefaultPoolSize, at
	// least 2. Listen uses one more.
	PoolSize int
	// ConnectTimeout limits one attempt to connect, StatementTimeout one statement.
	ConnectTimeout, StatementTimeout time.Duration
	// PgBouncer keeps no prepared statements, sets nothing on the session and
	// listens for nothing, so that the store works behind PgBouncer's
	// transaction pooling.
	PgBouncer bool
	// Clock replaces the database's clock in tests.
	Clock store.Clock
}

// Store implements store.Store. Safe for concurrent use.
type Store struct {
	pool       *pgxpool.Pool
	notifier   *notifier
	cfg        Config
	schemaName string
	schema     string // quoted
	target     string // names the database in errors, without the password
	limit      time.Duration
	// channel is what Listen listens to.
	channel string
	// claimLock and enqueueLock are the classes of the advisory locks.
	claimLock, enqueueLock int32

	statements *statements
	// life ends with Close, which waits for what runs in the background.
	life       context.Context
	end        context.CancelFunc
	background group
	probes     chan struct{} // holds one for each under way
	steering   chan struct{} // the same of calls on runs
	closed     atomic.Bool
	texts      sync.Map // SQL constant -> text with the schema's name
	holding    sync.Map // worker id -> *holdings of a Consumer of this store
}

var _ store.Store = (*Store)(nil)

// Open opens the store and checks that the database answers. It returns
// store.ErrDSN for a DSN that cannot be understood or names no database,
// store.ErrUnavailable when the server cannot be reached or refuses the
// credentials.
// Installing is up to the caller.
func Open(ctx context.Context, cfg Config) (store.Store, error) {
	s, err := newStore(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := s.Ping(ctx); err != nil {
		_ = s.Close() // the first error says more
		return nil, err
	}
	return s, nil
}

func newStore(ctx context.Context, cfg Config) (*Store, error) {
	cfg = withDefaults(cfg)
	if strings.ContainsRune(cfg.Schema, 0) || len(cfg.Schema) > 63 {
		return nil, store.Invalidf("open postgres: schema name %q: at most 63 bytes without NUL", cfg.Schema)
	}
	pc, err := poolConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("open postgres: %w", err)
	}
	count := new(statements)
	pc.ConnConfig.Tracer = count
	s := &Store{
		statements:  count,
		cfg:         cfg,
		schemaName:  cfg.Schema,
		schema:      pgx.Identifier{cfg.Schema}.Sanitize(),
		target:      describe(pc),
		limit:       cfg.ConnectTimeout + cfg.StatementTimeout + 5*time.Second,
		channel:     "pgqrs_" + strconv.FormatUint(uint64(hash32(cfg.Schema)), 36),
		claimLock:   int32(hash32("claim:" + cfg.Schema)),
		enqueueLock: int32(hash32("enqueue:" + cfg.Schema)),
	}
	if s.pool, err = pgxpool.NewWithConfig(ctx, pc); err != nil {
		return nil, s.fail(ctx, "open postgres", err)
	}
	s.probes = make(chan struct{}, maxProbes)
	s.steering = make(chan struct{}, cfg.PoolSize/2)
	s.life, s.end = context.WithCancel(context.WithoutCancel(ctx))
	s.notifier = newNotifier(s)
	return s, nil
}

func withDefaults(cfg Config) Config {
	if cfg.Schema == "" {
		cfg.Schema = DefaultSchema
	}
	if cfg.PoolSize <= 0 {
		cfg.PoolSize = DefaultPoolSize
	}
	cfg.PoolSize = max(cfg.PoolSize, 2)
	if cfg.ConnectTimeout <= 0 {
		cfg.ConnectTimeout = DefaultConnectTimeout
	}
	if cfg.StatementTimeout <= 0 {
		cfg.StatementTimeout = DefaultStatementTimeout
	}
	return cfg
}

func poolConfig(cfg Config) (*pgxpool.Config, error) {
	// A password's special character that ends the user's part of the URL
	// would put the rest of the password where errors show it.
	if u, err := url.Parse(cfg.DSN); err == nil && u.User == nil && strings.Contains(cfg.DSN, "@") {
		return nil, fmt.Errorf("%w: %s", store.ErrDSN, dsnForm)
	}
	pc, err := pgxpool.ParseConfig(cfg.DSN)
	if err != nil {
		return nil, dsnError(cfg.DSN, err)
	}
	pc.MaxConns = int32(min(cfg.PoolSize, 10_000))
	pc.ConnConfig.ConnectTimeout = cfg.ConnectTimeout
	params := pc.ConnConfig.RuntimeParams
	if params["application_name"] == "" {
		params["application_name"] = "pgqrsd"
	}
	if cfg.PgBouncer {
		// Descriptions are kept on our side, statements are unnamed.
		pc.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
		return pc, nil
	}
	ms := milliseconds(cfg.StatementTimeout)
	params["statement_timeout"] = ms
	// A transaction whose client vanished must not keep its locks.
	params["idle_in_transaction_session_timeout"] = ms
	// Compiling costs more than any of our statements.
	params["jit"] = "off"
	return pc, nil
}

const dsnForm = "want postgres://user:password@host:port/database; special characters in user and password must be percent-encoded"

// dsnError says what is wrong with a DSN without repeating any of it: the
// place of the mistake may be the password.
func dsnError(dsn string, err error) error {
	hint := dsnForm
	if u, perr := url.Parse(dsn); perr == nil {
		// It is a URL, so a parameter is wrong. Its text is pgx's, safe if it
		// holds no part of the credentials.
		text := err.Error()
		if i := strings.LastIndex(text, "`: "); i >= 0 {
			text = text[i+len("`: "):]
		}
		if pw, _ := u.User.Password(); pw == "" || !strings.Contains(text, pw) {
			hint = strings.ReplaceAll(text, dsn, "the DSN")
		}
	}
	return fmt.Errorf("%w: %s", store.ErrDSN, hint)
}

// describe names the database for errors.
func describe(pc *pgxpool.Config) string {
	c := pc.ConnConfig
	host := c.Host
	if !strings.HasPrefix(host, "/") {
		host = net.JoinHostPort(host, strconv.Itoa(int(c.Port)))
	}
	return fmt.Sprintf("postgres database %q at %s as user %q", c.Database, host, c.User)
}

func hash32(s string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(s)) // never fails
	return h.Sum32()
}

// BackendName is store.BackendPostgres.
func (*Store) BackendName() string { return store.BackendPostgres }

// ConcurrencyModel is store.MultiProcess.
func (*Store) ConcurrencyModel() store.ConcurrencyModel { return store.MultiProcess }

// Ping reports whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	_, err := s.exec(ctx, "ping", sqlPing)
	return err
}

const sqlPing = `select 1`

// Close sends what is left to notify and closes every connection. Calls after
// it fail with store.ErrUnavailable.
func (s *Store) Close() error {
	s.end()
	s.background.close()
	s.notifier.close()
	s.closed.Store(true)
	s.pool.Close()
	return nil
}

// sql is an SQL constant with its placeholders filled in.
func (s *Store) sql(text string) string {
	if t, ok := s.texts.Load(text); ok {
		return t.(string)
	}
	t := expand(text, s.schema)
	s.texts.Store(text, t)
	return t
}

// expand fills in the placeholders of SQL constants: {{schema}}; {{now}}, which
// is the clock's time in $1 or else the database's; and {{settle_wait}}.
func expand(text, quotedSchema string) string {
	return strings.NewReplacer(
		"{{schema}}", quotedSchema,
		"{{now}}", "coalesce($1::timestamptz, statement_timestamp())",
		"{{settle_wait}}", milliseconds(settleWait),
	).Replace(text)
}

// now is the value of {{now}}'s parameter.
func (s *Store) now() *time.Time {
	if s.cfg.Clock == nil {
		return nil
	}
	t := s.cfg.Clock()
	return &t
}

// clockTime is the time for what needs no database: the rate limit.
func (s *Store) clockTime() time.Time {
	if s.cfg.Clock == nil {
		return time.Now()
	}
	return s.cfg.Clock()
}

// inBackground runs fn beside the calls until the store is closed; fn ends with
// its context. It reports false after Close.
func (s *Store) inBackground(fn func(ctx context.Context)) bool {
	return s.background.run(func() { fn(s.life) })
}

// group is goroutines that Close waits for. The zero value is ready.
type group struct {
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

func (g *group) run(fn func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.wg.Go(fn)
	}
	return !g.closed
}

func (g *group) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.wg.Wait()
}
