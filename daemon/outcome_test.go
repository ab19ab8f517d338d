package daemon

import (
	"slices"
	"strings"
	"testing"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
	"github.com/pgqrs/pgqrsd/store"
)

// A place that no step can have must not keep a run from failing.
func TestPlacesThatNoStepCanHaveAreLeftOut(t *testing.T) {
	got := places([]*handlerpb.Place{
		{Position: 1}, {Branch: "a/b", Position: 2},
		{Position: 1 << 31}, {Branch: strings.Repeat("a", store.MaxStepName+1)},
	})
	if want := []store.Place{{Position: 1}, {Branch: "a/b", Position: 2}}; !slices.Equal(got, want) {
		t.Errorf("the places are %v, want %v", got, want)
	}
}
