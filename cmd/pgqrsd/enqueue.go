package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgqrs/pgqrsd/store"
)

// enqueueFlags are what `message enqueue` was told.
type enqueueFlags struct {
	payload, ndjson string
	delay           durationFlag
	priority        int
	headers         []string
}

func (a *app) messageEnqueue() *cobra.Command {
	var f enqueueFlags
	cmd := &cobra.Command{
		Use:   "enqueue QUEUE",
		Short: "Put messages on a queue",
		Long: `Put one message on a queue (--payload), or one for each line of a file
(--ndjson), and print the ids.

A payload is JSON: given itself, as @FILE, or - for standard input. The lines of
an NDJSON file are stored in batches while they are read. When one is refused,
those before its batch stay enqueued and the error says how many; the batch
itself is stored whole or not at all.`,
		Example: `  pgqrsd message enqueue emails --payload '{"to": "ada@example.com"}'
  pgqrsd message enqueue emails --payload @mail.json --delay 10m --header to=7
  generate | pgqrsd message enqueue emails --ndjson - -o json`,
		Args:              args("the name of the QUEUE"),
		ValidArgsFunction: a.queueNames,
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			given := cmd.Flags().Changed
			if given("payload") == given("ndjson") {
				return usagef("give one of --payload and --ndjson")
			}
			if f.priority < store.MinPriority || f.priority > store.MaxPriority {
				return usagef("--priority must be %d to %d", store.MinPriority, store.MaxPriority)
			}
			return nil
		},
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			template, err := f.template(args[0])
			if err != nil {
				return err
			}
			return a.enqueue(ctx, s, f, template)
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&f.payload, "payload", "", "the payload: JSON, @FILE, or - for stdin")
	flags.StringVar(&f.ndjson, "ndjson", "", "a file with a payload on each line, or - for stdin")
	flags.Var(&f.delay, "delay", "how long to wait until it is ready")
	flags.IntVar(&f.priority, "priority", 0, "lower runs first")
	flags.StringArrayVar(&f.headers, "header", nil, "a header, as name=value; may be repeated")
	for _, name := range []string{"payload", "delay", "priority", "header"} {
		completeFlag(cmd, name, cobra.NoFileCompletions)
	}
	return cmd
}

// template is the message without its payload.
func (f *enqueueFlags) template(queue string) (store.NewMessage, error) {
	m := store.NewMessage{Queue: queue, Delay: f.delay.duration(), Priority: f.priority}
	for _, h := range f.headers {
		name, value, found := strings.Cut(h, "=")
		if !found || name == "" {
			return m, usagef("--header must be name=value, not %q", h)
		}
		if m.Headers == nil {
			m.Headers = map[string]string{}
		}
		m.Headers[name] = value
	}
	return m, nil
}

func (a *app) enqueue(ctx context.Context, s *session, f enqueueFlags, template store.NewMessage) error {
	producer, err := s.Producer(ctx, store.ProducerOptions{Validator: s.cfg.Validator()})
	if err != nil {
		return err
	}
	ids := a.newIDs()
	if f.ndjson != "" {
		err = a.enqueueLines(ctx, producer, f.ndjson, template, s.cfg.Payload.MaxBytes, ids)
	} else {
		err = a.enqueueOne(ctx, producer, f.payload, template, ids)
	}
	// What was enqueued is printed also when more was to come.
	if printing := ids.end(err == nil); err == nil {
		err = printing
	}
	return closeWorker(ctx, producer, err)
}

func (a *app) enqueueOne(ctx context.Context, p store.Producer, arg string, m store.NewMessage, ids *idPrinter) error {
	var err error
	if m.Payload, err = a.read("payload", arg); err != nil {
		return err
	}
	id, err := p.Enqueue(ctx, m)
	if err != nil {
		return err
	}
	return ids.add(id)
}

// read reads what a flag says: the text itself, @FILE, or - for standard input.
// what names it.
func (a *app) read(what, arg string) ([]byte, error) {
	file, isFile := strings.CutPrefix(arg, "@")
	switch {
	case arg == "-":
		text, err := io.ReadAll(a.in)
		if err != nil {
			return nil, fmt.Errorf("read the %s from standard input: %w", what, err)
		}
		return text, nil
	case isFile:
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read the %s: %w", what, err)
		}
		return text, nil
	default:
		return []byte(arg), nil
	}
}

// readJSON is read of what must pass the configured rules for payloads.
func (a *app) readJSON(s *session, what, arg string) ([]byte, error) {
	text, err := a.read(what, arg)
	if err != nil {
		return nil, err
	}
	err = s.cfg.Validator().Validate(text)
	if bad := (*store.PayloadError)(nil); errors.As(err, &bad) {
		bad.What = what
	}
	return text, err
}

// The bounds of a batch keep memory flat, whatever the file's length.
const (
	batchMessages = 2000
	batchBytes    = 4 << 20
)

func (a *app) enqueueLines(ctx context.Context, p store.Producer, path string, template store.NewMessage, maxBytes int, ids *idPrinter) error {
	name, in := "standard input", a.in
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("read messages: %w", err)
		}
		defer f.Close()
		name, in = path, f
	}
	b := batch{producer: p, template: template, name: name, ids: ids}
	lines := newLineReader(in, maxBytes)
	for {
		line, err := lines.next()
		if errors.Is(err, io.EOF) {
			return b.flush(ctx)
		}
		if err != nil {
			return b.fail(fmt.Errorf("%s, line %d: %w", name, lines.number, err))
		}
		if err := b.add(ctx, lines.number, line); err != nil {
			return err
		}
	}
}

// batch collects lines and enqueues them together.
type batch struct {
	producer store.Producer
	template store.NewMessage
	name     string
	ids      *idPrinter

	msgs  []store.NewMessage
	lines []int // the line of each message
	bytes int
	total int
}

func (b *batch) add(ctx context.Context, line int, payload []byte) error {
	m := b.template
	m.Payload = bytes.Clone(payload)
	b.msgs, b.lines, b.bytes = append(b.msgs, m), append(b.lines, line), b.bytes+len(payload)
	if len(b.msgs) >= batchMessages || b.bytes >= batchBytes {
		return b.flush(ctx)
	}
	return nil
}

func (b *batch) flush(ctx context.Context) error {
	if len(b.msgs) == 0 {
		return nil
	}
	ids, err := b.producer.EnqueueBatch(ctx, b.msgs)
	if err != nil {
		if bad := (*store.BatchError)(nil); errors.As(err, &bad) && bad.Index < len(b.lines) {
			err = fmt.Errorf("%s, line %d: %w", b.name, b.lines[bad.Index], bad.Err)
		}
		return b.fail(err)
	}
	b.total += len(ids)
	b.msgs, b.lines, b.bytes = b.msgs[:0], b.lines[:0], 0
	return b.ids.add(ids...)
}

// fail adds to an error what was done before it.
func (b *batch) fail(err error) error {
	return fmt.Errorf("%w (%d messages were enqueued before)", err, b.total)
}

// lineReader reads lines of limited length, whatever the input's length.
type lineReader struct {
	in     *bufio.Reader
	limit  int
	number int
	line   []byte
}

func newLineReader(in io.Reader, limit int) *lineReader {
	return &lineReader{in: bufio.NewReaderSize(in, 64<<10), limit: limit}
}

// next returns the next line that is not blank, without its end, or io.EOF. It
// is valid until the next call.
func (r *lineReader) next() ([]byte, error) {
	for {
		if err := r.read(); err != nil {
			return nil, err
		}
		if line := bytes.TrimSpace(r.line); len(line) > 0 {
			return line, nil
		}
	}
}

func (r *lineReader) read() error {
	r.line = r.line[:0]
	for {
		part, err := r.in.ReadSlice('\n')
		if len(r.line) == 0 && (len(part) > 0 || err == nil) {
			r.number++
		}
		r.line = append(r.line, part...)
		switch {
		case len(bytes.TrimSpace(r.line)) > r.limit:
			detail := fmt.Sprintf("more than %d bytes", r.limit)
			return &store.PayloadError{Rule: store.RuleMaxBytes, Detail: detail}
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && len(r.line) > 0:
			return nil
		default:
			return err
		}
	}
}

// idPrinter prints ids as they come: one on a line, or a JSON array.
type idPrinter struct {
	out   *bufio.Writer
	json  bool
	count int
}

func (a *app) newIDs() *idPrinter {
	return &idPrinter{out: bufio.NewWriter(a.out), json: a.json()}
}

func (p *idPrinter) add(ids ...int64) error {
	var err error
	for _, id := range ids {
		switch {
		case !p.json:
		case p.count == 0:
			_, err = p.out.WriteString("[\n  ")
		default:
			_, err = p.out.WriteString(",\n  ")
		}
		if err == nil {
			_, err = p.out.WriteString(strconv.FormatInt(id, 10))
		}
		if err == nil && !p.json {
			err = p.out.WriteByte('\n')
		}
		if err != nil {
			return fmt.Errorf("print the ids: %w", err)
		}
		p.count++
	}
	return nil
}

// end closes the array, so that what was printed is JSON also when the command
// failed half-way. A command that failed before it printed anything prints
// nothing.
func (p *idPrinter) end(success bool) error {
	var err error
	switch {
	case !p.json:
	case p.count > 0:
		_, err = p.out.WriteString("\n]\n")
	case success:
		_, err = p.out.WriteString("[]\n")
	}
	if err == nil {
		err = p.out.Flush()
	}
	if err != nil {
		return fmt.Errorf("print the ids: %w", err)
	}
	return nil
}
