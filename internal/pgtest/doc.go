// Package pgtest gives tests a real PostgreSQL server.
//
// Most tests share one: [DSN] names it and [Schema] gives each test a schema
// of its own in it. The shared server is the one in PGQRS_TEST_DSN (see
// scripts/with-postgres.sh), or else a private cluster that this test process
// starts the first time that it is asked for one.
//
// A test that stops, crashes or breaks its server must own it: [Start] makes a
// cluster for that test alone, with the durability that production has.
//
// No test is skipped for want of a server: without one the test fails and says
// what to type. Nothing is left behind either, however the test process ends.
// Each cluster has a watcher, a small shell process that waits for the end of
// the pipe it shares with the test process; then it stops the server and
// removes its directory. A normal clean-up is only the closing of that pipe.
package pgtest
