package host

import "bytes"

// maxLine is where a line of a handler's output is cut, in bytes.
const maxLine = 8 << 10

// lineSplitter is a writer that calls fn for each line. A line is cut at
// maxLine: fn gets the beginning at once and the rest is thrown away, so that
// neither an endless line nor a silent one can hold up or fill anything.
type lineSplitter struct {
	fn   func(line []byte, cut bool)
	buf  []byte
	skip bool // the rest of a line that was cut
}

func (s *lineSplitter) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		end := bytes.IndexByte(b, '\n')
		if s.skip {
			if end < 0 {
				return n, nil
			}
			s.skip, b = false, b[end+1:]
			continue
		}
		part := b
		if end >= 0 {
			part = b[:end]
		}
		if room := maxLine - len(s.buf); len(part) > room {
			s.buf = append(s.buf, part[:room]...)
			s.emit(true)
			s.skip, b = true, b[room:]
			continue
		}
		s.buf = append(s.buf, part...)
		if end < 0 {
			return n, nil
		}
		s.emit(false)
		b = b[end+1:]
	}
	return n, nil
}

// flush takes a last line that has no end.
func (s *lineSplitter) flush() {
	if len(s.buf) > 0 {
		s.emit(false)
	}
}

func (s *lineSplitter) emit(cut bool) {
	line := s.buf
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	s.fn(line, cut)
	s.buf = s.buf[:0]
}
