package daemon

import "time"

// seldom keeps what could be said all the time to once in a while. It has no
// lock of its own.
type seldom struct{ said time.Time }

// may reports whether it is to be said again.
func (s *seldom) may(now time.Time, every time.Duration) bool {
	if now.Sub(s.said) < every {
		return false
	}
	s.said = now
	return true
}
