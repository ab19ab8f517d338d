// The tools that generate handlers/handlerpb, in a module of its own so that
// their dependencies stay out of the daemon's go.mod. Makefile builds them into
// .bin/.
module github.com/pgqrs/pgqrsd/tools/proto

go 1.26.0
