// Package storetest is the conformance suite that every backend of package
// store passes. A backend's test calls [Run]:
//
//	func TestConformance(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) storetest.Open {
//			dsn := freshSchema(t) // of this test alone, without tables; dropped by t.Cleanup
//			return func(t *testing.T, clock store.Clock) store.Store {
//				s, err := Open(t.Context(), Config{DSN: dsn, Clock: clock})
//				if err != nil {
//					t.Fatal(err)
//				}
//				t.Cleanup(func() { _ = s.Close() })
//				return s
//			}
//		})
//	}
//
// The rules of a store are named cases (Rule1_LeaseRunsOut/..., and so on), so
// that a failure says which promise is broken; the other groups are named
// after the interfaces of package store. Cases are deterministic: time is an
// injected [Clock], nothing sleeps, and what is random prints its seed.
//
// What only a backend can see is its own to test: that each batch is a constant
// number of statements (rule 8), that every SQL constant prepares (rule 10),
// and what its own crash does to it.
package storetest
