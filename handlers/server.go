package handlers

import (
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// SDK is what this package calls itself in the protocol.
const SDK = "go/1"

// Server is the handler's side of the protocol. Serve is all that a handler
// binary needs; a Server of its own is for those who embed or test one.
type Server struct {
	handlerpb.UnimplementedHandlerServer
	name, version string
	handlers      []Handler
	setup         []func() error
	working       atomic.Bool
	// described and ended, if set, are called at each Describe and when Work is over.
	described func()
	ended     func()
}

var _ handlerpb.HandlerServer = (*Server)(nil)

// NewServer makes a Server of handlers and options. The error says which
// handler is invalid and why.
func NewServer(options ...Option) (*Server, error) {
	s := &Server{}
	s.name, s.version = buildInfo()
	for _, o := range options {
		if err := o.apply(s); err != nil {
			return nil, err
		}
	}
	if len(s.handlers) == 0 {
		return nil, errors.New("serve no handlers: give at least one handlers.Handle or handlers.Workflow")
	}
	s.name, s.version = clean(s.name), cleanVersion(s.version)
	return s, nil
}

// Describe implements handlerpb.HandlerServer.
func (s *Server) Describe(context.Context, *handlerpb.DescribeRequest) (*handlerpb.Description, error) {
	if s.described != nil {
		s.described()
	}
	d := &handlerpb.Description{Name: s.name, Version: s.version, Sdk: SDK}
	for _, h := range s.handlers {
		q := &handlerpb.Description_Queue{Name: h.queue, Kind: handlerpb.Description_KIND_JOB}
		if h.workflow {
			q.Kind, q.Versions = handlerpb.Description_KIND_WORKFLOW, h.versions
		}
		d.Queues = append(d.Queues, q)
	}
	return d, nil
}

// Work implements handlerpb.HandlerServer. One stream at a time is served.
func (s *Server) Work(stream grpc.BidiStreamingServer[handlerpb.HostFrame, handlerpb.HandlerFrame]) error {
	if !s.working.CompareAndSwap(false, true) {
		return status.Error(codes.FailedPrecondition, "Work is open already; a handler process has one host")
	}
	defer s.working.Store(false)
	if s.ended != nil {
		defer s.ended()
	}
	session := newSession(s.handlers, stream)
	session.version = s.version
	return session.run()
}

// cleanVersion makes a version text of at most 128 bytes. The host keeps no more,
// and what a step of StepOutside notes must be what the host knows.
func cleanVersion(v string) string {
	const most = 128
	v = clean(v)
	return strings.ToValidUTF8(v[:min(len(v), most)], "")
}

// buildInfo returns what the Go toolchain knows of the running binary.
func buildInfo() (name, version string) {
	name = filepath.Base(os.Args[0])
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return name, ""
	}
	if info.Path != "" && info.Path != "command-line-arguments" {
		name = path.Base(info.Path)
	}
	if info.Main.Version != "(devel)" {
		version = info.Main.Version
	}
	return name, version
}
