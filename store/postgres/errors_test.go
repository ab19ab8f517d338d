package postgres

import (
	"errors"
	"fmt"
	"testing"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
)

// Only errors that speak of the data are ErrInvalid or ErrExists; those that
// pass by themselves are ErrUnavailable, and the others nobody's fault.
func TestErrorClasses(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{Schema: pgtest.Schema(t)})
	classes := []error{store.ErrInvalid, store.ErrExists, store.ErrUnavailable, store.ErrNotInstalled}
	for want, codes := range map[error][]string{
		store.ErrInvalid:      {"22003", "22007", "22012", "22023", "22021", "22P02", "23502", "23514", "23P01", "54000"},
		store.ErrExists:       {"23505"},
		store.ErrUnavailable:  {"25006", "25P03", "25P04", "28000", "28P01", "40001", "40P01", "53100", "55P03", "57014", "57P01", "58030"},
		store.ErrNotInstalled: {"3F000", "42P01", "42883"},
		nil:                   {"42501", "P0001", "XX000", "XX001", "0A000", "26000", "55006"},
	} {
		for _, code := range codes {
			_, err := s.exec(t.Context(), "raise", fmt.Sprintf(`do $$ begin raise exception 'it failed' using errcode = '%s'; end $$`, code))
			if err == nil {
				t.Fatalf("%s: no error", code)
			}
			if errors.Is(err, store.ErrLocked) != (code == "55P03") {
				t.Errorf("%s: %v, and only 55P03 is %v", code, err, store.ErrLocked)
			}
			for _, class := range classes {
				if got := errors.Is(err, class); got != errors.Is(want, class) {
					t.Errorf("%s: %v, want it to be %v", code, err, want)
				}
			}
		}
	}
}
