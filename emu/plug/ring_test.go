package plug

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRingTurns(t *testing.T) {
	r := ring{open: true}
	for want := uint64(1); want <= Epochs; want++ {
		e, mustLeave, err := r.next()
		require.NoError(t, err)
		require.Equal(t, want, e)
		require.Zero(t, mustLeave, "a band that is used for the first time")
		r.marked()
	}
	_, _, err := r.next()
	require.ErrorIs(t, err, ErrFull)
	_, err = r.parts(Epochs + 1)
	require.ErrorContains(t, err, "has not begun")
	parts, err := r.parts(3)
	require.NoError(t, err)
	require.Equal(t, []part{{from: 1, to: 3}}, parts)
	r.released = 3
	for range 3 {
		e, mustLeave, err := r.next()
		require.NoError(t, err)
		require.Equal(t, e-Epochs, mustLeave, "its band is used again")
		r.left = mustLeave
		r.marked()
	}
	parts, err = r.parts(17)
	require.NoError(t, err)
	require.Equal(t, []part{{from: 4, to: 15}, {from: 16, to: 17, mustLeave: 15}}, parts, "bands begin anew at 16")
}

func TestRingAfterOpen(t *testing.T) {
	r := ring{open: true}
	for range 40 {
		_, _, err := r.next()
		require.NoError(t, err, "nothing is held of an epoch that began while the gate was open")
		r.marked()
		r.released, r.left, r.open = r.current, r.current, true
	}
}

func TestRingIsFoundAgain(t *testing.T) {
	for range 2000 {
		r := ring{open: true}
		for range rand.IntN(60) {
			if e, mustLeave, err := r.next(); err == nil {
				r.left = max(r.left, mustLeave)
				_ = e
				r.marked()
			}
			if rand.IntN(3) == 0 && r.current > 0 {
				r.released += rand.Uint64N(r.current - r.released)
			}
		}
		if r.open {
			continue
		}
		var waiting [Bands]int
		for e := r.released + 1; e <= r.current; e++ {
			waiting[bandOf(e)] = 1
		}
		found := adopted(bandOf(r.current), waiting)
		require.Equal(t, r.current-r.released, found.current-found.released, "%+v", r)
		require.Equal(t, bandOf(r.current), bandOf(found.current))
	}
}
